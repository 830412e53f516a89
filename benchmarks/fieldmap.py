"""From phase to local field and to susceptibility on simulated heads, as Markdown tables.

    python benchmarks/fieldmap.py                     all heads
    python benchmarks/fieldmap.py --update-docs       and put the tables into the page
    python benchmarks/fieldmap.py --full              all methods, and the same from the true total field (hours)
    python benchmarks/fieldmap.py --rows rows.jsonl   keep what was measured; heads that are there are not done again

Twelve heads with air, skull and vessels: 3 T and 7 T, isotropic and anisotropic, straight and tilted,
three levels of noise. They were not used to choose any parameter. Everything starts from the wrapped
phase and the true brain, from which the voxels of unreliable phase are taken. All methods get the
same field and mask, and are compared where all methods in question are valid.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accuracy import commit, keep_rows, markdown, put_into_page, read_rows
from numpy.typing import NDArray
from scipy import ndimage

from qsmprep.core.grid import Grid
from qsmprep.core.methods import METHODS
from qsmprep.core.metrics import nrmse
from qsmprep.core.parameters.inversion import TAKEN_AFTER_TFI
from qsmprep.core.results import LocalField
from qsmprep.phantom.scan import Protocol, scan
from qsmprep.phantom.subject import Person, draw_subject
from qsmprep.training.scans import Echoes, configured, measure

TE_S = {3.0: (0.006, 0.012, 0.018, 0.024), 7.0: (0.004, 0.008, 0.012, 0.016, 0.020)}
DEPTHS_MM = (0.0, 2.1, 4.1, 8.0, 14.0, 99.0)
"""Bounds of the classes of distance from the outside of the mask."""

Volume = NDArray[np.float32]
Mask = NDArray[np.bool_]
Row = dict[str, Any]


@dataclass(frozen=True)
class Head:
    """A person and a scan. ``snr`` is that of white matter at the first echo; ``anisotropy`` is `Protocol`'s."""

    seed: int
    b0_t: float
    voxel_mm: tuple[float, float, float]
    snr: float
    tilt_deg: float = 0.0
    lesions: tuple[str, ...] = ()
    anisotropy: float = 0.0

    @property
    def name(self) -> str:
        """What is special about it."""
        size = " × ".join(f"{mm:g}" for mm in self.voxel_mm)
        extra = f", {self.tilt_deg:g}°" * (self.tilt_deg != 0) + ", lesions" * bool(self.lesions)
        return f"{self.b0_t:g} T, {size} mm, SNR {self.snr:g}{extra}"


LESIONS = ("calcification", "haemorrhage")
HEADS = (
    Head(101, 3.0, (2.0, 2.0, 2.0), 90),
    Head(102, 7.0, (2.0, 2.0, 2.0), 90),
    Head(103, 3.0, (1.5, 1.5, 3.0), 90),
    Head(104, 7.0, (1.5, 1.5, 3.0), 40),
    Head(105, 3.0, (2.0, 2.0, 2.0), 90, 20.0),
    Head(106, 7.0, (1.5, 1.5, 3.0), 90, 20.0),
    Head(107, 3.0, (2.0, 2.0, 2.0), 40),
    Head(108, 7.0, (2.0, 2.0, 2.0), 200),
    Head(109, 3.0, (2.0, 2.0, 2.0), 200, 20.0),
    Head(110, 7.0, (2.0, 2.0, 2.0), 40, 20.0),
    Head(111, 3.0, (1.5, 1.5, 3.0), 200, lesions=LESIONS),
    Head(112, 7.0, (2.0, 2.0, 2.0), 90, lesions=LESIONS),
)
"""None of these seeds was used to choose a parameter."""


@dataclass(frozen=True)
class Variant:
    """A registered method with the parameters it is measured with.

    An inversion is given the local field as background removal leaves it or, with ``off``, less what that leaves, as
    in a run.
    """

    title: str
    method: str
    changes: dict[str, Any] = field(default_factory=dict)
    off: bool = False


VSHARP = Variant(
    "V-SHARP, published", "vsharp", {"radius_max_mm": 12, "radius_min_mm": 1, "radius_step_mm": 1, "threshold": 0.05}
)
RESHARP = Variant(
    "RESHARP, published",
    "resharp",
    {"radius_mm": 6, "radius_max_mm": 6, "tikhonov": 1e-4, "tolerance": 1e-6, "max_iter": 200},
)
RTS = Variant(
    "RTS, published",
    "rts",
    {"threshold": 0.15, "lsqr_iter": 4, "weight": 1e-5, "rho": 1e-4, "tolerance": 1e-2, "max_iter": 20},
)
"""Kames et al. weigh the data with mu = 1e5 (so the total variation with 1/mu) and split with rho = 10 (so rho/mu)."""
REMAINDER = Variant("TFI, total less background", "tfi", {"model": False})
TFI = Variant("TFI", "tfi", {"model": True})
WHOLE = "none (total field)"
QUICK = (VSHARP, RESHARP, Variant("RESHARP", "resharp"), Variant("LBV", "lbv"), TFI, REMAINDER)
FULL = (
    VSHARP,
    RESHARP,
    *(Variant(METHODS.get("background", n).title, n) for n in METHODS.names("background") if n not in ("sharp", "tfi")),
    TFI,
    REMAINDER,
)
TV, MEDI = Variant("TV", "tv"), Variant("MEDI (sees the magnitude)", "medi")
WEAK, TGV = Variant("WH-QSM", "whqsm", {"harmonic": "yes"}), Variant("single-step TGV", "tgv")
LEARNED = tuple(
    Variant(f"{title}, remainder {'taken off' if off else 'kept'}", name, off=off)
    for title, name in (("ConeNet", "conenet"), ("QSMInvNet+", "qsminvnet"))
    for off in (False, True)
)
CLEANED = tuple(replace(variant, title=f"{variant.title}, remainder taken off", off=True) for variant in (TV, MEDI))
"""On the field less what the step `remainder` finds in it."""
CHAINS: dict[str, tuple[Variant, ...]] = {
    "V-SHARP, published": (RTS, Variant("RTS", "rts"), TV, MEDI, *CLEANED, *LEARNED[:2]),
    "RESHARP": (TV, WEAK, MEDI, *CLEANED, *LEARNED[:2]),
    "TFI": (RTS, Variant("RTS", "rts"), TV, WEAK, MEDI),
    REMAINDER.title: (TV, WEAK, Variant("nonlinear TGV", "nltgv"), MEDI, *CLEANED, *LEARNED),
    WHOLE: (TGV,),
}
QUICK_CHAINS: dict[str, tuple[Variant, ...]] = {
    "V-SHARP, published": (RTS, TV, CLEANED[0], *LEARNED[:2]),
    "RESHARP": (TV, WEAK, CLEANED[0], *LEARNED[:2]),
    "TFI": (TV,),
    REMAINDER.title: (TV, WEAK, CLEANED[0], *LEARNED),
    WHOLE: (TGV,),
}
"""Which inversions follow which background removal."""


@dataclass(frozen=True)
class Case:
    """What one head's phase gives, beside the truth; fields in ppm."""

    grid: Grid
    brain: Mask
    mask: Mask
    field_ppm: Volume
    weights: Volume
    magnitude: Volume
    total_ppm: Volume
    local_ppm: Volume
    chi_ppm: Volume


def measure_phase(head: Head) -> Case:
    """Simulate a head and go from its wrapped phase to total field, mask and weights."""
    ages, sexes = np.random.default_rng(head.seed).uniform(22, 78), "MF"[head.seed % 2]
    subject = draw_subject(Person(float(ages), sexes, lesions=head.lesions), (head.seed, 0))
    te_s = TE_S[head.b0_t]
    plan = Protocol(head.voxel_mm, tilt_deg=head.tilt_deg, te_s=te_s, tr_s=0.04, b0_t=head.b0_t, snr=head.snr)
    truth = scan(subject, replace(plan, anisotropy=head.anisotropy))
    grid = Grid.from_affine(truth.brain.shape, truth.affine)
    found = measure(Echoes(truth.acquired.images, te_s, head.b0_t), truth.brain, grid)
    return Case(
        grid,
        truth.brain,
        found.mask,
        found.field_ppm,
        found.weights,
        found.magnitude,
        truth.total_ppm,
        truth.local_ppm,
        truth.chi_ppm,
    )


def remove(case: Case, variant: Variant, field_ppm: Volume) -> LocalField:
    """The local field by one method."""
    function, params = configured("background", variant.method, **variant.changes)
    return function(field_ppm, case.mask, case.grid, params, weights=case.weights)


def head_rows(head: Head, full: bool) -> Iterator[Row]:
    """All that is measured on one head: rows of the kinds ``field``, ``depth`` and ``chi``."""
    case = measure_phase(head)
    brain = np.count_nonzero(case.brain)
    found, seconds = {}, {}
    for variant in FULL if full else QUICK:
        start = time.perf_counter()
        found[variant.title] = remove(case, variant, case.field_ppm)
        seconds[variant.title] = time.perf_counter() - start
    outer, inner = found[VSHARP.title].mask, found[RESHARP.title].mask
    inner = inner & outer
    for title, local in found.items():
        yield {
            "kind": "field",
            "head": head.name,
            "background": title,
            "own": nrmse(local.field_ppm, case.local_ppm, local.mask),
            "kept": 100 * np.count_nonzero(local.mask) / brain,
            "vsharp": nrmse(local.field_ppm, case.local_ppm, outer & local.mask),
            "resharp": nrmse(local.field_ppm, case.local_ppm, inner & local.mask),
            "seconds": seconds[title],
        }
    yield from depth_rows(head, case, found, full)
    yield from chi_rows(head, case, found, CHAINS if full else QUICK_CHAINS)


def depth_rows(head: Head, case: Case, found: dict[str, LocalField], full: bool) -> Iterator[Row]:
    """What limits the local field: error against depth, from the phase, from the true total field, and of the field."""
    depth = depth_mm(case.mask, case.grid)
    spread = float(np.std(case.local_ppm[case.mask]))
    errors = {"total field from phase": (case.field_ppm - case.total_ppm, case.mask)}
    for variant in (VSHARP, TFI):
        local = found[variant.title]
        errors[f"{variant.title}, from phase"] = (local.field_ppm - case.local_ppm, local.mask)
        if full or variant is VSHARP:
            local = remove(case, variant, case.total_ppm)
            errors[f"{variant.title}, from the true total field"] = (local.field_ppm - case.local_ppm, local.mask)
    for title, (error, mask) in errors.items():
        error = error - np.median(error[mask])
        row: Row = {"kind": "depth", "head": head.name, "error of": title}
        for low, high in pairwise(DEPTHS_MM):
            here = mask & (depth > low) & (depth <= high)
            rms = float(np.sqrt(np.mean(error[here] ** 2))) if here.any() else float("nan")
            row[f"{low:g} to {high:g} mm" if high < 99 else f"over {low:g} mm"] = 100 * rms / spread
        yield row


def cleaned(case: Case, local: LocalField, background: str) -> LocalField:
    """A local field less what a background removal left in it, as in a run."""
    taken = TAKEN_AFTER_TFI if background == "tfi" else 1.0
    function, params = configured("remainder", "weakharmonic", harmonic="yes", taken=taken)
    return function(local.field_ppm, local.mask, case.grid, params, weights=case.weights)


def depth_mm(mask: Mask, grid: Grid) -> NDArray[np.floating]:
    """Distance in mm from the nearest voxel outside the mask."""
    return ndimage.distance_transform_edt(np.pad(mask, 1), sampling=grid.voxel_mm)[1:-1, 1:-1, 1:-1]


def chi_rows(
    head: Head, case: Case, found: dict[str, LocalField], chains: dict[str, tuple[Variant, ...]]
) -> Iterator[Row]:
    """Susceptibility of every chain in its own mask and where published V-SHARP is valid."""
    common = found[VSHARP.title].mask
    found = {**found, WHOLE: LocalField(case.field_ppm, case.mask)}
    for title, inversions in chains.items():
        local = found[title]
        start, clean = time.perf_counter(), local
        if any(variant.off for variant in inversions):
            clean = cleaned(case, local, next(variant.method for variant in FULL if variant.title == title))
        spent = time.perf_counter() - start
        for variant in inversions:
            function, params = configured("inversion", variant.method, **variant.changes)
            start = time.perf_counter()
            chi = function(
                (clean if variant.off else local).field_ppm,
                local.mask,
                case.grid,
                params,
                weights=None if variant is RTS else case.weights,
                magnitude=case.magnitude,
            ).chi_ppm
            seconds = time.perf_counter() - start
            yield {
                "kind": "chi",
                "head": head.name,
                "background": title,
                "inversion": variant.title,
                "own": nrmse(chi, case.chi_ppm, local.mask),
                "kept": 100 * np.count_nonzero(local.mask) / np.count_nonzero(case.brain),
                "vsharp": nrmse(chi, case.chi_ppm, local.mask & common),
                "seconds": seconds + spent * variant.off,
            }


def averages(rows: Sequence[Row], kind: str, by: Sequence[str]) -> list[Row]:
    """Means over heads of the numbers of one kind of row, in the order of first sight; of seconds the median."""
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        if row["kind"] == kind:
            groups.setdefault(tuple(row[name] for name in by), []).append(row)
    numbers = [name for name in next(iter(groups.values()))[0] if name not in ("kind", "head", *by)]
    return [
        {**dict(zip(by, key, strict=True)), **{name: typical(name, [r[name] for r in group]) for name in numbers}}
        for key, group in groups.items()
    ]


def typical(name: str, values: Sequence[float]) -> float:
    """The mean over heads; of seconds the median, which a run that had to wait does not change."""
    return float(np.median(values) if name == "seconds" else np.mean(values))


def ratios(rows: Sequence[Row]) -> list[Row]:
    """For every head, error over that of the published methods at equal mask, and the share of the brain kept."""
    table = []
    for head in dict.fromkeys(row["head"] for row in rows):
        fields = {r["background"]: r for r in rows if r["kind"] == "field" and r["head"] == head}
        maps = {(r["background"], r["inversion"]): r for r in rows if r["kind"] == "chi" and r["head"] == head}
        ours = fields["TFI"]
        reference = maps[VSHARP.title, RTS.title]["vsharp"]
        row = {
            "head": head,
            "brain kept %": ours["kept"],
            "TFI / V-SHARP": ours["vsharp"] / fields[VSHARP.title]["vsharp"],
            "TFI / RESHARP": ours["resharp"] / fields[RESHARP.title]["resharp"],
        }
        for (background, inversion), found in maps.items():
            if background.startswith((TFI.title, WHOLE)):
                row[f"χ, {background} + {inversion}"] = found["vsharp"] / reference
        table.append(row)
    mean = {name: float(np.mean([r[name] for r in table])) for name in table[0] if name != "head"}
    return [*table, {"head": "mean", **mean}]


def report(rows: Sequence[Row]) -> str:
    """All tables."""
    n = len({row["head"] for row in rows})
    heads = {"own": "NRMSE %", "kept": "brain kept %", "vsharp": "where V-SHARP is valid", "resharp": "and RESHARP"}
    named = [
        [{heads.get(name, name): value for name, value in row.items()} for row in averages(rows, kind, by)]
        for kind, by in (("field", ["background"]), ("chi", ["background", "inversion"]), ("depth", ["error of"]))
    ]
    return "\n\n".join(
        [
            f"Local field from phase, mean over {n} heads (seconds: median). The last columns compare methods at equal "
            "mask: where published V-SHARP is valid, and where published RESHARP is as well.",
            markdown(named[0]),
            "Susceptibility from phase:",
            markdown(named[1]),
            "Error of each head over that of the published methods, at equal mask; susceptibility over that of "
            "published V-SHARP and RTS:",
            markdown(ratios(rows)),
            "What limits it: root mean square error in percent of the spread of the true local field, by distance "
            "from the outside of the mask:",
            markdown(named[2]),
        ]
    )


def options(text: str | None, heads: Sequence[Head]) -> argparse.ArgumentParser:
    """The options of a benchmark of such heads."""
    every = range(1, len(heads) + 1)
    parser = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--heads", type=int, nargs="+", choices=every, default=every, help="numbers (default: all)")
    parser.add_argument("--rows", type=Path, help="file of measured rows to go on from and to add to")
    parser.add_argument("--threads", type=int, default=1, help="of each method (default: 1)")
    parser.add_argument("--update-docs", action="store_true", help="put the tables into docs/pages/measured")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, and on demand write into the docs."""
    words = list(sys.argv[1:] if argv is None else argv)
    parser = options(__doc__, HEADS)
    parser.add_argument("--full", action="store_true", help="all methods, and from the true total field as well")
    args = parser.parse_args(words)
    torch.set_num_threads(args.threads)
    rows, measured = read_rows(args.rows), commit()
    for head in (HEADS[i - 1] for i in args.heads):
        if any(row["head"] == head.name for row in rows):
            continue
        new = [{**row, "commit": measured, "seed": head.seed} for row in head_rows(head, args.full)]
        rows += new
        keep_rows(new, args.rows)
    commits = sorted({row["commit"] for row in rows})
    numbers = [{k: v for k, v in row.items() if k not in ("commit", "seed")} for row in rows]
    shown = " ".join(
        ["python benchmarks/fieldmap.py", *(w for w in words if w not in ("--rows", str(args.rows), "--update-docs"))]
    )
    note = f"Measured at commit {', '.join(commits)} with `{shown}`; {args.threads} thread(s)."
    text = "\n\n".join([note, report(numbers)])
    print(text)
    if args.update_docs:
        put_into_page(text, "fieldmap")
    return 0


if __name__ == "__main__":
    sys.exit(main())
