"""The words of the report: what each figure is, and entries of a record from these and from the metrics' table.

``make_metric("snr", 85.2)`` and ``make_figure("chi", "sub-01/figures/x.png", name="TV")`` build the
entries of a record, so that units, limits, captions and alternative texts are the same everywhere.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TypeVar

from qsmprep.errors import UsageError
from qsmprep.reports.metric_definitions import METRICS
from qsmprep.reports.record import FigureRef, Metric

T = TypeVar("T")

SIGN = "Paramagnetic susceptibility (iron, deoxyhaemoglobin) is positive and bright, calcification and myelin are dark."


@dataclass(frozen=True)
class FigureDefinition:
    """Title, alternative text and caption of a figure; ``{name}`` is the inversion or method."""

    title: str
    alt: str
    caption: str
    graph: bool = False


FIGURES: dict[str, FigureDefinition] = {
    "magnitude": FigureDefinition(
        "Magnitude and masks",
        "Axial, coronal and sagittal slices of the magnitude with the outlines of the brain mask and the QSM mask.",
        "The outlines should follow the brain: no skull, eyes or sinus inside, no cortex outside.",
    ),
    "phase": FigureDefinition(
        "Phase before and after unwrapping",
        "Wrapped phase of the first and last echo in cyclic colours, and the unwrapped phase below.",
        "Unwrapped phase should have no sharp edge where the wrapped phase has a fringe.",
    ),
    "residual": FigureDefinition(
        "Noise and residual of the fit over the echoes",
        "Slices of the noise of the field map in hertz and of the relative residual of the fit.",
        "High residual marks voxels whose phase is not linear in echo time: flow, wraps, signal loss near air.",
    ),
    "field": FigureDefinition(
        "Total and local field",
        "Slices of the total field and of the local field in hertz, red for positive and blue for negative.",
        "The local field should hold tissue contrast and no slow gradient towards the edge of the mask. A last row "
        "shows what was found in it that background removal had left: that should be smooth.",
    ),
    "chi": FigureDefinition(
        "Susceptibility, {name}",
        "Susceptibility map ({name}) in three planes and an axial mosaic, grey from -0.1 to 0.1 ppm.",
        f"The window is the same for every subject. {SIGN}",
    ),
    "difference": FigureDefinition(
        "Difference between inversions, {name}",
        "Two susceptibility maps and their difference ({name}), red where the first is higher.",
        "Structure in the difference is what the choice of the inversion decides.",
    ),
    "r2star": FigureDefinition(
        "R2*",
        "Slices of the relaxation rate R2* from 0 to 50 per second.",
        "The window is the same for every subject.",
    ),
    "swi": FigureDefinition(
        "Susceptibility-weighted image",
        "Slices of the susceptibility-weighted image and of its minimum-intensity projection, veins dark.",
        "Veins and iron are dark. Where the phase is wrong, above the sinuses, dark bands are no veins.",
    ),
    "regions": FigureDefinition(
        "Outlines of the regions, {name}",
        "Susceptibility map with the outlines of the regions of the segmentation {name}.",
        "The outlines should follow the nuclei: bright rims outside of them mean that labels and map do not fit each "
        "other.",
    ),
    "roi": FigureDefinition(
        "Values of the regions, {name}",
        "Median and 5th to 95th percentile of each map by region of the segmentation {name}, left and right.",
        "Mark: median; line: 5th to 95th percentile of the voxels. The table above has more, the file beside the map "
        "has everything.",
        graph=True,
    ),
    "template": FigureDefinition(
        "Template space, {name}",
        "Susceptibility map ({name}) in the space of the MNI152 template with the outlines of the atlas.",
        "The outlines are those of the atlas in its own place: nuclei beside them mean that the registration failed.",
    ),
    "histogram": FigureDefinition(
        "Distribution of susceptibility",
        "Histogram of susceptibility in the QSM mask, one line for each inversion.",
        "Voxels of the QSM mask.",
        graph=True,
    ),
    "rim": FigureDefinition(
        "Profile from the rim inwards",
        "Mean and spread of susceptibility against the distance from the edge of the mask.",
        "Line: mean; band: one standard deviation. Values that run away near zero distance are a rim artefact.",
        graph=True,
    ),
    "consistency": FigureDefinition(
        "Predicted against measured field, {name}",
        "Density of voxels: field predicted from the susceptibility map ({name}) against the local field that the "
        "map was made from.",
        "Voxels on the dashed line are explained by the map.",
        graph=True,
    ),
    "kernel": FigureDefinition(
        "Implied dipole kernel, {name}",
        "Kernel that the susceptibility map ({name}) and the measured field imply, and that of the physics, against "
        "the angle between k and B0.",
        "Both lines should agree. Where they part near 1/3 the map holds what its field does not tell; a slope that "
        "differs means a wrong scale, a wrong direction of B0, or a field that no map explains.",
        graph=True,
    ),
}


def make_metric(key: str, value: float | None, *, of: str = "") -> Metric:
    """An entry of a record from the table of definitions.

    Parameters
    ----------
    key : str
        A key of :data:`METRICS`.
    value : float or None
    of : str
        The inversion, echo or method it belongs to, added to the name.

    Raises
    ------
    UsageError
        For an unknown key.
    """
    d = _find(METRICS, key)
    name = f"{d.name}, {of}" if of else d.name
    column = "_".join([key, *re.findall("[a-z0-9]+", of.lower())])
    number = None if value is None else float(value)
    return Metric(name, number, d.unit, d.meaning, d.source, d.low, d.high, d.stage, column, d.remedy)


def make_figure(stage: str, file: str, *, name: str = "") -> FigureRef:
    """An entry of a record; ``file`` is relative to the output folder, ``name`` the inversion or method.

    Raises
    ------
    UsageError
        For an unknown stage.
    """
    d = _find(FIGURES, stage)
    return FigureRef(stage, d.title.format(name=name), file, d.alt.format(name=name), d.caption)


def _find(table: dict[str, T], key: str) -> T:
    if key not in table:
        raise UsageError(f"the report knows nothing called {key!r}", expected=f"one of {', '.join(table)}")
    return table[key]
