"""Learned inversions against classical ones on heads that no network was trained on, as Markdown tables.

    python benchmarks/networks.py --cache DIR            10 heads under 5 scans
    python benchmarks/networks.py --ablations            what the papers claim, on the same heads
    python benchmarks/networks.py --timing               time and memory on 256 x 256 x 128 voxels
    python benchmarks/networks.py --update-docs          and put the main tables into the page

The heads are described in ``network_heads.py``. Classical methods are tuned for each scan on one more
head; networks are run as they are shipped. With ``--cache`` only what is new is measured.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import network_ablations
import network_timing
import numpy as np
import torch
from accuracy import commit, put_into_page
from network_heads import BLOCK_MM, SCANS, SHIFTED, Block, Head, Scan, label_head, phantom_head
from network_methods import GRIDS, LEARNED, METRICS, TITLES, Results, Row, Trial, learned, tuned
from network_scans import Case, cases

ROOT = Path(__file__).resolve().parents[1]
LABELS = ROOT.parent / "shared" / "data" / "head-labels"
HELD_OUT = (12, 13, 14, 15)
"""Label maps that every recipe holds out."""

PHANTOMS = 6
TUNING_SEED = 100
"""Seed of the phantom head that classical methods are tuned on; it is not among those measured."""

GOAL = 0.75
"""The best network's NRMSE over that of the best classical method should not exceed this."""

COLUMNS = ("NRMSE %", "dNRMSE %", "XSIM", "HFEN %", "pSNR dB", "slope", "lesion %", "seconds")

Maker = Callable[[], Head]


class Bench:
    """Heads under scans, made when they are first needed and kept beside the results.

    Parameters
    ----------
    heads : dict
        Makers by name; the first is the tuning head.
    results : Results
    scans : sequence of Scan
    block_mm : tuple
    """

    def __init__(
        self, heads: dict[str, Maker], results: Results, scans: Sequence[Scan] = SCANS, block_mm: Block = BLOCK_MM
    ) -> None:
        self.tuning, *self.names = heads
        self.heads = heads
        self.results = results
        self.scans = tuple(scans)
        self.block_mm = block_mm

    def case(self, name: str, scan: Scan) -> Case:
        """A head under a scan; when it is not there yet, all scans of that head are made."""
        if not self.path(name, scan).exists():
            lacking = tuple(one for one in self.scans if not self.path(name, one).exists())
            for one, case in zip(lacking, cases(self.heads[name](), lacking, self.block_mm), strict=True):
                case.save(self.path(name, one))
        return Case.load(self.path(name, scan))

    def path(self, name: str, scan: Scan) -> Path:
        """Where a head under a scan is kept."""
        return self.results.folder / f"case_{self.results.key(name, repr(scan), Trial('case', ''))}.npz"

    def row(self, name: str, scan: Scan, trial: Trial) -> Row:
        """What a method made of a head under a scan."""
        return self.results.get(name, scan.name, trial, partial(self.case, name, scan))

    def classical(self, scan: Scan, names: Sequence[str]) -> list[Trial]:
        """Classical methods with the settings that suit a scan."""
        return [tuned(n, scan.name, self.results, partial(self.case, self.tuning, scan), self.tuning) for n in names]


def make_heads(labels: Path, label_maps: Sequence[int], phantoms: int, block_mm: Block) -> dict[str, Maker]:
    """The tuning head, then those that are measured; says which are not there."""
    heads: dict[str, Maker] = {f"phantom {TUNING_SEED}": partial(phantom_head, TUNING_SEED, block_mm)}
    for number in label_maps:
        path = labels / f"training_seg_{number:02d}.nii.gz"
        if path.exists():
            heads[f"label map {number}"] = partial(label_head, path, 0, block_mm)
        else:
            print(f"left out: there is no {path.name} in {labels}", file=sys.stderr)
    heads.update({f"phantom {seed}": partial(phantom_head, seed, block_mm) for seed in range(phantoms)})
    return heads


def spread(rows: Sequence[Row], column: str) -> str:
    """Mean ± standard deviation over heads."""
    values = np.array([row[column] for row in rows if column in row])
    if not values.size:
        return ""
    digits = 2 if column in ("XSIM", "slope") else 1
    text = f"{values.mean():.{digits}f}"
    return text if column == "seconds" or len(values) < 2 else f"{text} ± {values.std(ddof=1):.{digits}f}"


def table(rows: Sequence[Row]) -> str:
    """Rows of one scan as a Markdown table, a line for each method."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row["title"], []).append(row)
    columns = [column for column in COLUMNS if any(column in row for row in rows)]
    lines = ["| method | n | " + " | ".join(columns) + " |", "|" + " --- |" * (len(columns) + 2)]
    for title, group in groups.items():
        cells = [spread(group, column) for column in columns]
        lines.append(f"| {title} | {len(group)} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def means(rows: Sequence[Row]) -> dict[str, float]:
    """Mean NRMSE by method."""
    found: dict[str, list[float]] = {}
    for row in rows:
        found.setdefault(row["title"], []).append(row["NRMSE %"])
    return {title: float(np.mean(values)) for title, values in found.items()}


def verdict(rows: Sequence[Row], classical: Sequence[Trial]) -> str:
    """How the best network stands to the best classical method, with the spread over heads, and who is behind TKD."""
    error = means(rows)
    old = {t.title: error[t.title] for t in classical if t.title in error}
    new = {title: value for title, value in error.items() if title not in old}
    if not old or not new:
        return "No verdict: there is no network, or no classical method, to compare."
    lines = []
    blind = {title: value for title, value in old.items() if title != TITLES["medi"]}
    for rivals, word in ((old, "classical"), (blind, "classical without the magnitude")):
        if not rivals:
            continue
        best, rival = min(new, key=new.__getitem__), min(rivals, key=rivals.__getitem__)
        by_head = {t: {row["head"]: row["NRMSE %"] for row in rows if row["title"] == t} for t in (best, rival)}
        ratios = np.array([by_head[best][h] / by_head[rival][h] for h in by_head[best] if h in by_head[rival]])
        told = "goal met" if new[best] / rivals[rival] <= GOAL else f"goal of {GOAL} missed"
        lines.append(
            f"- {best} over the best {word} ({rival}): {new[best] / rivals[rival]:.2f} "
            f"(by head {ratios.min():.2f} to {ratios.max():.2f}); {told}."
        )
    behind = [t for t, value in new.items() if value > old.get(TITLES["tkd"], np.inf)]
    lines.append("- Worse than TKD: " + (", ".join(behind) if behind else "no network") + ".")
    return "\n".join(lines)


def section(bench: Bench, scan: Scan, names: Sequence[str], networks: Sequence[Trial]) -> str:
    """The table and the verdict of one scan."""
    old = bench.classical(scan, names)
    rows = []
    for name in bench.names:
        rows += [bench.row(name, scan, trial) for trial in (*old, *networks)]
        print(f"{scan.name}: {name} done", file=sys.stderr, flush=True)
    order = {trial.title: place for place, trial in enumerate((*old, *networks))}
    rows.sort(key=lambda row: order[row["title"]])
    chosen = "; ".join(
        f"{t.title.split(' (')[0]} {', '.join(f'{k} {v:g}' for k, v in t.settings.items())}" for t in old
    )
    parts = [f"## {scan.name}", table(rows), verdict(rows, old)]
    return "\n\n".join([*parts, f"Tuned: {chosen}."] if old else parts)


def found_networks(names: Sequence[str], folder: Path | None) -> list[Trial]:
    """The networks whose weights are there; says which are not."""
    trials = []
    for name in names:
        trial = learned(name, folder)
        if isinstance(trial, Trial):
            trials.append(trial)
        else:
            print(f"left out: {trial}", file=sys.stderr)
    return trials


def note(bench: Bench, words: Sequence[str], threads: int) -> str:
    """Where the numbers come from."""
    commits = list(dict.fromkeys(row["commit"] for row in bench.results.rows.values())) or [commit()]
    measured = commits[0] if len(commits) == 1 else f"{commits[0]} to {commits[-1]}"
    cached = words.index("--cache") if "--cache" in words else len(words)
    told = (word for word in (*words[:cached], *words[cached + 2 :]) if word != "--update-docs")
    shown = " ".join(["python benchmarks/networks.py", *told])
    return (
        f"Measured with `{shown}` at commit {measured}; mean ± standard deviation over "
        f"heads, {threads} thread(s). Error columns: {', '.join(METRICS.values())}; slope of deep grey means; error of "
        "lesion moments. Map and truth have mean zero in the mask. MEDI and the shipped networks use the "
        "magnitude, which shares the head's anatomy; no other method does."
    )


def parse(words: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--labels", type=Path, default=LABELS, help="folder of label maps (default: ../shared)")
    parser.add_argument("--label-maps", type=int, nargs="*", default=HELD_OUT, help="numbers (default: those held out)")
    parser.add_argument("--phantoms", type=int, default=PHANTOMS, help="number of phantom heads")
    parser.add_argument("--block-mm", type=float, nargs=3, default=BLOCK_MM, help="field of view around the nuclei")
    parser.add_argument("--scans", type=int, nargs="*", default=range(len(SCANS)), help="which scans, from 0")
    parser.add_argument("--methods", nargs="*", default=tuple(GRIDS), choices=tuple(GRIDS), help="classical methods")
    parser.add_argument("--networks", nargs="*", default=LEARNED, help="names of weight files")
    parser.add_argument("--weights", type=Path, help="folder of weight files (default: those shipped)")
    parser.add_argument("--cache", type=Path, help="folder to keep heads and results in")
    parser.add_argument("--threads", type=int, default=1, help="of each method (default: 1)")
    parser.add_argument("--ablations", action="store_true", help="measure the papers' claims instead")
    parser.add_argument("--timing", action="store_true", help="measure time and memory instead")
    parser.add_argument("--update-docs", action="store_true", help="put the main tables into docs/pages/measured")
    return parser.parse_args(words)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, and on demand write into the docs."""
    words = list(sys.argv[1:] if argv is None else argv)
    args = parse(words)
    torch.set_num_threads(args.threads)
    networks = found_networks(args.networks, args.weights)
    if args.timing:
        print(network_timing.section([trial.method for trial in networks], args.weights, args.methods))
        return 0
    scans = [SCANS[i] for i in args.scans]
    block = tuple(args.block_mm)
    with tempfile.TemporaryDirectory() as folder:
        heads = make_heads(args.labels, args.label_maps, args.phantoms, block)
        bench = Bench(heads, Results(args.cache or Path(folder), block), [*scans, SHIFTED], block)
        if args.ablations:
            print(network_ablations.section(bench, [*scans, SHIFTED], args.weights))
            return 0
        sections = [section(bench, scan, args.methods, networks) for scan in scans]
    text = "\n\n".join([note(bench, words, args.threads), *sections])
    print(text)
    if args.update_docs:
        put_into_page(text, "networks")
    return 0


if __name__ == "__main__":
    sys.exit(main())
