"""Accuracy of every registered method on heads whose truth is known, as Markdown tables.

    python benchmarks/accuracy.py                      the example data sets
    python benchmarks/accuracy.py --update-docs        and put the tables into the page
    python benchmarks/accuracy.py --fresh 3 --seed 7   newly drawn heads instead

Three tables a data set: background removal from the true total field, inversion from the true
local field, both with noise added, and the command ``qsmprep`` itself on the images.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from qsmprep.bids.write import write_text
from qsmprep.cli.single import read
from qsmprep.core.grid import Grid
from qsmprep.core.methods import METHODS
from qsmprep.core.metrics import evaluate, nrmse
from qsmprep.core.units import hz_per_ppm
from qsmprep.networks.card import card_path

ROOT = Path(__file__).resolve().parents[1]
PAGES = ROOT / "docs" / "pages" / "measured"
EXAMPLES = ("cohort", "oblique")
FIELD_NOISE_PPM = 0.003
MAP_METRICS = {"nrmse": "NRMSE %", "dnrmse": "dNRMSE %", "xsim": "XSIM", "hfen": "HFEN %"}
"""Metrics of a susceptibility map: name in ``core.metrics.evaluate``, and head of the column."""

Row = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """The truth of one simulated subject, on the grid of its images."""

    subject: str
    grid: Grid
    chi_ppm: NDArray[np.float32]
    total_ppm: NDArray[np.float32]
    local_ppm: NDArray[np.float32]
    magnitude: NDArray[np.float32]
    brain: NDArray[np.bool_]

    def noisy(self, field_ppm: NDArray[np.float32], seed: int) -> NDArray[np.float32]:
        """A field with white noise of ``FIELD_NOISE_PPM``; the same seed gives the same noise."""
        noise = np.random.default_rng(seed).normal(0, FIELD_NOISE_PPM, self.grid.shape)
        return field_ppm + noise.astype(np.float32)


def load_case(folder: Path) -> Case:
    """Read the truth of one subject from ``derivatives/truth/sub-XX``."""

    def volume(stem: str) -> NDArray[np.float32]:
        kind, _, name = stem.partition("/")
        return read(folder / kind / f"{folder.name}_{name}.nii.gz").data

    sidecar = folder / "fmap" / f"{folder.name}_desc-total_fieldmap.json"
    to_hz = np.float32(hz_per_ppm(json.loads(sidecar.read_text())["MagneticFieldStrength"]))
    mask = read(folder / "anat" / f"{folder.name}_desc-brain_mask.nii.gz")
    return Case(
        folder.name,
        Grid.from_affine(mask.data.shape, mask.image.affine),
        chi_ppm=volume("anat/desc-truth_Chimap"),
        total_ppm=volume("fmap/desc-total_fieldmap") / to_hz,
        local_ppm=volume("fmap/desc-local_fieldmap") / to_hz,
        magnitude=volume("fmap/magnitude"),
        brain=mask.data != 0,
    )


def mean_rows(rows: Iterable[Row], by: Sequence[str]) -> list[Row]:
    """Average the numbers of rows that agree in the columns ``by``, in the order of first sight."""
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row[name] for name in by), []).append(row)
    return [
        {name: value if name in by else float(np.mean([r[name] for r in group])) for name, value in group[0].items()}
        for group in groups.values()
    ]


def background_rows(case: Case, seed: int) -> Iterator[Row]:
    """Local field of every background method against the truth, in its own mask and in that of all."""
    field = case.noisy(case.total_ppm, seed)
    found = {}
    for name in METHODS.names("background"):
        method = METHODS.get("background", name)
        start = time.perf_counter()
        found[name] = (method.load()(field, case.brain, case.grid, method.configure()), time.perf_counter() - start)
    common = np.logical_and.reduce([local.mask for local, _ in found.values()])
    for name, (local, seconds) in found.items():
        yield {
            "background": name,
            "NRMSE %": nrmse(local.field_ppm, case.local_ppm, local.mask),
            "NRMSE % where all are valid": nrmse(local.field_ppm, case.local_ppm, common),
            "mask kept %": 100 * np.count_nonzero(local.mask) / np.count_nonzero(case.brain),
            "seconds": seconds,
        }


def inversion_names() -> tuple[str, ...]:
    """The inversions there are; learned ones only where their weights are."""
    methods = (METHODS.get("inversion", name) for name in METHODS.names("inversion"))
    return tuple(method.name for method in methods if not method.learned or card_path(method.name).exists())


def inversion_rows(case: Case, seed: int) -> Iterator[Row]:
    """Susceptibility of every inversion from the true local field (single-step ones: from the total field)."""
    fields = {"local": case.noisy(case.local_ppm, seed), "total": case.noisy(case.total_ppm, seed)}
    for name in inversion_names():
        method = METHODS.get("inversion", name)
        field = fields["total" if method.takes == "total" else "local"]
        start = time.perf_counter()
        result = method.load()(field, case.brain, case.grid, method.configure(), magnitude=case.magnitude)
        seconds = time.perf_counter() - start
        yield {"inversion": name, **scores(result.chi_ppm, case, case.brain), "seconds": seconds}


def scores(chi_ppm: NDArray[np.float32], case: Case, mask: NDArray[np.bool_]) -> Row:
    """The metrics of a map inside a mask."""
    values = evaluate(chi_ppm, case.chi_ppm, mask)
    return {title: float(values[name]) for name, title in MAP_METRICS.items()}


def run_qsmprep(dataset: Path, folder: Path, background: str, inversions: Sequence[str]) -> Path:
    """Run the command on a data set; the steps before background removal are done once for all."""
    out = folder / f"out_{background}"
    command = [sys.executable, "-m", "qsmprep.cli.main", str(dataset), str(out), "participant"]
    command += ["-w", str(folder / "nodes"), "--background", background, "--inversion", *inversions]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}\n{done.stdout}\n{done.stderr}")
    return out


def image_rows(dataset: Path, cases: Sequence[Case], folder: Path) -> Iterator[Row]:
    """What ``qsmprep`` makes of the images: every inversion after the default background, and the other way round."""
    backgrounds, inversions = METHODS.names("background"), inversion_names()
    for background in backgrounds:
        wanted = inversions if background == backgrounds[0] else inversions[:1]
        out = run_qsmprep(dataset, folder, background, wanted)
        for case in cases:
            anat = out / case.subject / "anat"
            mask = (read(next(anat.glob("*_desc-qsm_mask.nii.gz"))).data != 0) & case.brain
            for inversion in wanted:
                chi = read(next(anat.glob(f"*_desc-{inversion}_Chimap.nii.gz"))).data
                kept = 100 * np.count_nonzero(mask) / np.count_nonzero(case.brain)
                yield {
                    "background": background,
                    "inversion": inversion,
                    **scores(chi, case, mask),
                    "of the true brain %": kept,
                }


def markdown(rows: Sequence[Row]) -> str:
    """Rows as a Markdown table; numbers with three significant digits."""
    heads = list(rows[0])
    lines = ["| " + " | ".join(heads) + " |", "|" + " --- |" * len(heads)]
    for row in rows:
        cells = [value if isinstance(value, str) else f"{value:#.3g}".rstrip(".") for value in row.values()]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def section(dataset: Path, seed: int, with_images: bool) -> str:
    """The tables of one data set."""
    cases = [load_case(folder) for folder in sorted((dataset / "derivatives" / "truth").glob("sub-*"))]
    if not cases:
        raise SystemExit(f"{dataset} has no derivatives/truth")
    size = " × ".join(f"{mm:.3g}" for mm in cases[0].grid.voxel_mm)
    tilt, n = cases[0].grid.tilt_deg, len(cases)
    title = f"## {dataset.name}: {n} subject{'s' * (n > 1)}, {size} mm, B0 tilted by {tilt:.0f}°"
    local = [row for i, case in enumerate(cases) for row in background_rows(case, seed + i)]
    maps = [row for i, case in enumerate(cases) for row in inversion_rows(case, seed + i)]
    parts = [
        title,
        f"Local field from the true total field with {FIELD_NOISE_PPM} ppm of noise:",
        markdown(mean_rows(local, ["background"])),
        f"Susceptibility from the true local field with {FIELD_NOISE_PPM} ppm of noise:",
        markdown(mean_rows(maps, ["inversion"])),
    ]
    if with_images:
        parts.append("Susceptibility from the images, by `qsmprep` with its own masks:")
        with tempfile.TemporaryDirectory() as folder:
            rows = mean_rows(image_rows(dataset, cases, Path(folder)), ["background", "inversion"])
        parts.append(markdown(rows))
    return "\n\n".join(parts)


@contextmanager
def datasets(args: argparse.Namespace) -> Iterator[list[Path]]:
    """The data sets to measure on: the examples, those named, or new ones that go away afterwards."""
    if not args.fresh:
        yield args.datasets or [ROOT / "bids_examples" / name for name in EXAMPLES]
        return
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / f"fresh (seed {args.seed})"
        command = [sys.executable, "-m", "qsmprep.cli.simulate", str(out), "--subjects", str(args.fresh)]
        command += ["--seed", str(args.seed), "--voxel-mm", *map(str, args.voxel_mm)]
        command += ["--tilt-deg", str(args.tilt_deg), "--t1w-mm", "0"]
        subprocess.run(command, check=True)
        yield [out]


def commit() -> str:
    """The commit that was measured, marked where the package differs from it."""
    try:
        git = ["git", "-C", str(ROOT)]
        name = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True)
        changed = subprocess.run([*git, "status", "--porcelain", "qsmprep"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "an unknown commit"
    return name.stdout.strip() + (" with changes" if changed.stdout.strip() else "")


def read_rows(path: Path | None) -> list[Row]:
    """Rows that an earlier run kept in a file, one JSON object a line; none where there is no file."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path and path.exists() else []


def keep_rows(rows: Sequence[Row], path: Path | None) -> None:
    """Add rows to such a file, if there is to be one."""
    if path:
        with path.open("a") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)


def put_into_page(text: str, block: str) -> None:
    """Replace what stands between the markers of a benchmark in the page that has them."""
    first, last = f"<!-- {block}:begin -->", f"<!-- {block}:end -->"
    for page in sorted(PAGES.glob("*.md")):
        head, begin, rest = page.read_text(encoding="utf-8").partition(first)
        _, end, tail = rest.partition(last)
        if begin and end:
            write_text(f"{head}{first}\n\n{text}\n\n{last}{tail}", page)
            return
    raise SystemExit(f"no page in {PAGES} has the markers {first} and {last}")


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, and on demand write into the docs."""
    words = list(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("datasets", nargs="*", type=Path, help="with derivatives/truth (default: bids_examples)")
    parser.add_argument("--fresh", type=int, default=0, metavar="N", help="draw N new subjects instead")
    parser.add_argument("--voxel-mm", type=float, nargs=3, default=(2.0, 2.0, 2.0), help="of new subjects")
    parser.add_argument("--tilt-deg", type=float, default=0.0, help="of new subjects")
    parser.add_argument("--seed", type=int, default=0, help="of the noise and of new subjects")
    parser.add_argument("--threads", type=int, default=1, help="of each method (default: 1)")
    parser.add_argument("--no-images", action="store_true", help="leave out the runs of qsmprep itself")
    parser.add_argument("--update-docs", action="store_true", help="put the tables into docs/pages/measured")
    args = parser.parse_args(words)
    torch.set_num_threads(args.threads)
    measured = commit()
    with datasets(args) as found:
        sections = [section(dataset, args.seed, not args.no_images) for dataset in found]
    shown = " ".join(["python benchmarks/accuracy.py", *(word for word in words if word != "--update-docs")])
    moved = "" if commit() == measured else f" (the code changed to {commit()} meanwhile)"
    note = f"Measured at commit {measured}{moved} with `{shown}`; means over subjects, {args.threads} thread(s)."
    text = "\n\n".join([note, *sections])
    print(text)
    if args.update_docs and moved:
        raise SystemExit("the page is left as it was: the code changed while it was measured")
    if args.update_docs:
        put_into_page(text, "accuracy")
    return 0


if __name__ == "__main__":
    sys.exit(main())
