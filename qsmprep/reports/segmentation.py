"""Whether a segmentation can be believed: measures of its registration and of its regions."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from qsmprep.bids.tables import NOT_AVAILABLE
from qsmprep.core.grid import Grid
from qsmprep.errors import DataError

NUCLEI = (
    "thalamus",
    "caudate",
    "putamen",
    "pallidum",
    "pallidum external",
    "pallidum internal",
)
"""Nuclei deep in the brain, large enough for their volume to mean something."""

BRIGHT = frozenset({"caudate", "putamen", "pallidum", "pallidum external", "pallidum internal"})
"""Nuclei that iron makes brighter than what is around them."""

SHELL_MM = (2.0, 6.0)
"""Where their surroundings are looked at: beyond what a border half a voxel off mixes in."""

REGISTRATION = {
    "shift_mm": "registration_shift_mm",
    "turn_deg": "registration_turn_deg",
    "information_after": "registration_information",
    "share_of_brain": "registration_share",
    "stretch": "registration_stretch",
    "dice": "template_dice",
}
"""What registrations learn (keys of their ``info.json``), and the metric it becomes."""


def registration_metrics(known: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Metrics of the registrations by their keys in :data:`qsmprep.reports.definitions.METRICS`.

    Parameters
    ----------
    known : iterable of mapping
        What the registrations of one segmentation learnt.
    """
    return {REGISTRATION[key]: float(facts[key]) for facts in known for key in REGISTRATION if key in facts}


def region_metrics(
    chi_ppm: ArrayLike, labels: ArrayLike, mask: ArrayLike, grid: Grid, rows: Sequence[Mapping[str, str]]
) -> dict[str, float]:
    """Metrics of the regions by their keys in :data:`qsmprep.reports.definitions.METRICS`; NaN where there are none.

    Parameters
    ----------
    chi_ppm : (nx, ny, nz) array
        Susceptibility in ppm.
    labels : (nx, ny, nz) int array
        The segmentation on its grid.
    mask : (nx, ny, nz) bool array
        Where it is defined.
    grid : Grid
        For the voxel size.
    rows : sequence of mapping
        Rows of the table of regions, as text.

    Raises
    ------
    DataError
        When the shapes differ.
    """
    chi, marks, inside = np.asarray(chi_ppm), np.asarray(labels), np.asarray(mask).astype(bool)
    if not chi.shape == marks.shape == inside.shape:
        raise DataError(f"map, labels and mask have shapes {chi.shape}, {marks.shape}, {inside.shape}")
    regions = [row for row in rows if row["kind"] == "region"]
    nuclei = [row for row in regions if row["structure"] in NUCLEI]
    coverage = [float(row["coverage"]) for row in nuclei if row["coverage"] != NOT_AVAILABLE]
    return {
        "regions_empty": float(sum(int(row["n_voxels"]) == 0 for row in regions)),
        "regions_coverage": min((value for value in coverage if math.isfinite(value)), default=math.nan),
        "regions_asymmetry": _asymmetry(marks, nuclei),
        "nuclei_contrast": _contrast(chi, marks, inside, grid, nuclei),
    }


def _asymmetry(marks: np.ndarray, nuclei: Sequence[Mapping[str, str]]) -> float:
    """Largest difference of left and right volume over their mean, all voxels of the labels counted."""
    counts: dict[str, dict[str, int]] = {}
    for row in nuclei:
        counts.setdefault(row["structure"], {})[row["hemisphere"]] = int(np.count_nonzero(marks == int(row["index"])))
    pairs = [(sides["L"], sides["R"]) for sides in counts.values() if {"L", "R"} <= set(sides)]
    return max((2 * abs(a - b) / (a + b) for a, b in pairs if a + b), default=math.nan)


def _contrast(
    chi: np.ndarray, marks: np.ndarray, inside: np.ndarray, grid: Grid, nuclei: Sequence[Mapping[str, str]]
) -> float:
    """Mean of the bright nuclei less that of a shell about them without nuclei, over the deviation of the shell."""
    from scipy.ndimage import distance_transform_edt

    bright = np.isin(marks, [int(row["index"]) for row in nuclei if row["structure"] in BRIGHT])
    others = np.isin(marks, [int(row["index"]) for row in nuclei])
    if not (bright & inside).any():
        return math.nan
    away = distance_transform_edt(~bright, sampling=grid.voxel_mm)
    around = chi[(away > SHELL_MM[0]) & (away <= SHELL_MM[1]) & inside & ~others]
    spread = float(around.std()) if around.size else 0.0
    return float(chi[bright & inside].mean() - around.mean()) / spread if spread > 0 else math.nan
