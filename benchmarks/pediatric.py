"""PedQ-NET on children: data consistency, likeness and sharpness, beside what it is compared with in its abstract.

    python benchmarks/pediatric.py                           shipped weights
    python benchmarks/pediatric.py --weights DIR             and the nnU-Net with TV in DIR/nnunet.*
    python benchmarks/pediatric.py --update-docs             and put the table into the page

Heads are subjects of the project's phantom from 3 months to 6 years old, whose deep grey nuclei have little iron:
another make than those that networks are trained on. Fields as in ``networks.py``: noise, the field of anisotropic
white matter, residual background. Classical methods are tuned on one more head of a child.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from accuracy import commit, put_into_page
from network_heads import Scan, phantom_head
from network_methods import Row, Trial, classical, learned, measure, scores
from network_scans import Case, cases
from numpy.typing import NDArray
from scipy import ndimage

from qsmprep.phantom.subject import Person
from qsmprep.reports.qc import data_consistency

AGES = (0.25, 0.5, 1.0, 2.0, 4.0, 6.0)
TUNING_AGE = 1.5
SCANS = (Scan("1 mm", (1.0, 1.0, 1.0)), Scan("0.76 × 0.76 × 2 mm, tilted", (16 / 21, 16 / 21, 2.0), tilted=True))
CLASSICAL = {
    "tkd": ({"threshold": 0.15}, {"threshold": 0.2}, {"threshold": 0.3}),
    "ilsqr": ({"cone": 0.1}, {"cone": 0.2}, {"cone": 0.3}),
    "medi": ({"weight": 2e-4}, {"weight": 4e-4}, {"weight": 8e-4}),
    "tv": ({"weight": 2e-4}, {"weight": 4e-4}, {"weight": 8e-4}),
}
COLUMNS = ("NRMSE %", "XSIM", "residual %", "sharpness", "slope")


def sharpness(chi: NDArray[np.floating], case: Case) -> float:
    """Mean gradient across the borders of the deep grey nuclei, relative to that of the truth.

    Only the part along the true gradient counts, so that noise adds nothing.
    """
    nuclei = case.nuclei > 0
    border = (ndimage.binary_dilation(nuclei) & ~ndimage.binary_erosion(nuclei)) & ndimage.binary_erosion(case.mask)
    found, true = (np.stack(np.gradient(volume, *case.grid.voxel_mm))[:, border] for volume in (chi, case.chi_ppm))
    size = np.linalg.norm(true, axis=0)
    along = (found * true).sum(axis=0) / np.maximum(size, 1e-9)
    return float(along.sum() / size.sum())


def row_of(case: Case, trial: Trial) -> Row:
    """All measures of a method on a case."""
    chi = trial.run(case)
    residual = 100 * data_consistency(chi, case.field_ppm, case.mask, case.grid).nrmse
    return {**scores(chi, case), "residual %": residual, "sharpness": sharpness(chi, case)}


def trials(case: Case, weights: Path | None) -> list[Trial]:
    """Networks, and classical methods tuned on a case."""
    found = [learned("pedqnet", None), learned("conenet", None), learned("loopnet", None)]
    if weights is not None:
        found.append(learned("nnunet", weights, title="nnU-Net with TV, first phase"))
    chosen = [one for one in found if isinstance(one, Trial)]
    for name, grid in CLASSICAL.items():
        tried = [classical(name, settings) for settings in grid]
        chosen.append(min(tried, key=lambda one: measure(case, one)["NRMSE %"]))
    return chosen


def child(seed: int, age_years: float) -> list[Case]:
    """A child under all scans."""
    head = phantom_head(seed, someone=Person(age_years=age_years, sex="MF"[seed % 2]))
    return list(cases(head, SCANS))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, help="folder with nnunet")
    parser.add_argument("--heads", type=int, default=len(AGES))
    parser.add_argument("--update-docs", action="store_true")
    args = parser.parse_args()
    tuning = child(900, TUNING_AGE)
    heads = [child(901 + number, age) for number, age in enumerate(AGES[: args.heads])]
    text = [f"Measured at commit {commit()} on {len(heads)} heads; mean ± standard deviation."]
    for place, scan in enumerate(SCANS):
        text += ["", f"## {scan.name}", "", f"| method | {' | '.join(COLUMNS)} |", "|---|" + "--:|" * len(COLUMNS)]
        for trial in trials(tuning[place], args.weights):
            rows = [row_of(head[place], trial) for head in heads]
            cells = []
            for column in COLUMNS:
                values = np.array([row[column] for row in rows])
                digits = 1 if "%" in column else 2
                cells.append(f"{values.mean():.{digits}f} ± {values.std():.{digits}f}")
            text.append(f"| {trial.title} | {' | '.join(cells)} |")
            print(text[-1], flush=True)
    print("\n".join(text))
    if args.update_docs:
        put_into_page("\n".join(text), "pediatric")


if __name__ == "__main__":
    main()
