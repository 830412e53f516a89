"""The words of the report: what each metric and each figure is, written once.

``make_metric("snr", 85.2)`` and ``make_figure("chi", "sub-01/figures/x.png", name="TV")`` build the
entries of a record, so that units, limits, captions and alternative texts are the same everywhere.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TypeVar

from qsmprep.errors import UsageError
from qsmprep.reports.record import FigureRef, Metric

T = TypeVar("T")

CONSENSUS = "QSM consensus (doi:10.1002/mrm.30006)"
SIGN = "Paramagnetic susceptibility (iron, deoxyhaemoglobin) is positive and bright, calcification and myelin are dark."


@dataclass(frozen=True)
class MetricDefinition:
    """Name, unit, meaning, source and limits of a metric; ``stage`` is where it is shown."""

    stage: str
    name: str
    unit: str
    meaning: str
    source: str = "definition of qsmprep"
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class FigureDefinition:
    """Title, alternative text and caption of a figure; ``{name}`` is the inversion or method."""

    title: str
    alt: str
    caption: str
    graph: bool = False


METRICS: dict[str, MetricDefinition] = {
    "mask_volume_ml": MetricDefinition(
        "magnitude",
        "Brain mask volume",
        "mL",
        "Volume of the brain mask.",
        "limits of qsmprep: far outside the range of human brains",
        500.0,
        2200.0,
    ),
    "excluded_fraction": MetricDefinition(
        "magnitude",
        "Share of the brain mask without chi",
        "",
        "Voxels of the brain mask that erosion or poor phase removed from the QSM mask, over all of its voxels.",
        "limit of qsmprep: half of the brain lost",
        high=0.5,
    ),
    "snr": MetricDefinition(
        "magnitude",
        "SNR of the magnitude",
        "",
        "Median magnitude in the brain over the noise, which is estimated from the finest diagonal differences.",
        "Donoho and Johnstone 1994 (doi:10.1093/biomet/81.3.425); limit of qsmprep",
        low=5.0,
    ),
    "mask_dark_fraction": MetricDefinition(
        "magnitude",
        "Share of the brain mask without signal",
        "",
        "Voxels of the brain mask whose magnitude at the first echo is below 15 % of its median: air, bone or sinus.",
        "definition and limit of qsmprep",
        high=0.03,
    ),
    "mask_open_fraction": MetricDefinition(
        "magnitude",
        "Share of the mask's border within tissue",
        "",
        "Border of the brain mask behind which the magnitude does not fall below 60 % within 10 mm: "
        "the mask ends where the brain does not.",
        "definition and limit of qsmprep",
        high=0.2,
    ),
    "ghosting": MetricDefinition(
        "magnitude",
        "Ghosts in the air beside the head",
        "",
        "Magnitude of the last echo in the air beside the head along the axes of the image above that of the corners "
        "(medians of squares), over the median of the brain: motion and flow.",
        "after Giannelli et al. 2010 (doi:10.1120/jacmp.v11i4.3237); regions and limit of qsmprep",
        high=0.01,
    ),
    "residual_wraps": MetricDefinition(
        "phase",
        "Residual wraps",
        "",
        "Pairs of neighbouring voxels in the mask whose unwrapped phase of the last echo differs by more than π.",
    ),
    "wrap_fraction": MetricDefinition(
        "phase",
        "Residual wraps for each voxel",
        "",
        "Residual wraps over the voxels of the mask. Some are left at large veins and sinuses in any scan.",
        "limit of qsmprep",
        high=0.02,
    ),
    "residual_median": MetricDefinition(
        "residual",
        "Relative residual of the fit, median",
        "",
        "Misfit of the signal model over the echoes, relative to the signal; 0 is perfect.",
        f"limit: voxels above 0.3 are left out in the example code of the {CONSENSUS}",
        high=0.3,
    ),
    "residual_fraction_above": MetricDefinition(
        "residual",
        "Share of voxels with a residual above 0.3",
        "",
        "Voxels whose relative residual is above 0.3 or not finite, over all voxels of the mask.",
        f"threshold: example code of the {CONSENSUS}; limit of qsmprep",
        high=0.25,
    ),
    "field_inhomogeneity_hz": MetricDefinition(
        "field",
        "Inhomogeneity of the total field",
        "Hz",
        "Standard deviation of the total field in the brain mask.",
    ),
    "b0_angle_deg": MetricDefinition(
        "field",
        "B0 of the field against B0 of the header",
        "degrees",
        "Angle between the direction of B0 that the power spectrum of the local field implies and the one of the "
        "image orientation, with which everything was computed.",
        "definition and limit of qsmprep",
        high=15.0,
    ),
    "local_field_sd_hz": MetricDefinition(
        "field", "Standard deviation of the local field", "Hz", "Standard deviation of the local field in its mask."
    ),
    "chi_sd_ppm": MetricDefinition(
        "chi", "Standard deviation of chi", "ppm", "Standard deviation of susceptibility in the QSM mask."
    ),
    "reference_ppm": MetricDefinition(
        "chi", "Reference value", "ppm", "Mean of the reference region before it was subtracted."
    ),
    "streaking_index": MetricDefinition(
        "chi",
        "Streaking index",
        "",
        "Power of chi near the magic-angle cone over its power elsewhere at equal spatial frequency; "
        "about 1 without streaks, above it where noise was amplified into streaks, below it where regularisation "
        "has emptied the cone.",
        "definition and limit of qsmprep",
        high=2.0,
    ),
    "rim_ratio": MetricDefinition(
        "rim",
        "Rim ratio",
        "",
        "Root mean square of chi within 3 mm of the edge of the mask over that deeper than 10 mm.",
    ),
    "r2star_median_hz": MetricDefinition("r2star", "R2*, median", "1/s", "Median of R2* in the brain mask."),
    "consistency_nrmse": MetricDefinition(
        "consistency",
        "Data consistency",
        "",
        "Field predicted from chi less the measured local field, relative to the measured one (norms in the mask); "
        "a map of zeros has 1.",
        "limit: no better than a map of zeros",
        high=1.0,
    ),
    "kernel_error": MetricDefinition(
        "consistency",
        "Error of the implied kernel",
        "",
        "Dipole kernel that map and field imply by the angle to B0, less the true one, relative to it (root mean "
        "squares over 45 bins); 0 is perfect.",
        "after the evaluation of PedQ-NET (ISMRM 2022, abstract 1984); definition of qsmprep",
    ),
    "registration_shift_mm": MetricDefinition(
        "roi",
        "Shift of the T1w image",
        "mm",
        "How far the brain of the T1w image was moved from where the headers put it.",
        "limit of qsmprep: more is hardly one session",
        high=25.0,
    ),
    "registration_turn_deg": MetricDefinition(
        "roi",
        "Rotation of the T1w image",
        "degrees",
        "How far the T1w image was turned from where the headers put it.",
        "limit of qsmprep: more is hardly one session",
        high=20.0,
    ),
    "registration_information": MetricDefinition(
        "roi",
        "Mutual information of T1w image and magnitude",
        "",
        "Normalised mutual information of both brains after the registration; 1 means that neither says anything of "
        "the other.",
        "Studholme et al. 1999 (doi:10.1016/S0031-3203(98)00091-0); limit of qsmprep",
        low=1.02,
    ),
    "registration_share": MetricDefinition(
        "roi",
        "Share of the brain within the brain of the T1w image",
        "",
        "Voxels of the brain mask that lie in the brain of the registered T1w image.",
        "limit of qsmprep",
        low=0.9,
    ),
    "template_dice": MetricDefinition(
        "roi",
        "Overlap of the template's brain",
        "",
        "Dice coefficient of the brain and the registered brain of the template.",
        "limit of qsmprep",
        low=0.9,
    ),
    "regions_empty": MetricDefinition(
        "roi",
        "Regions without a voxel",
        "",
        "Regions of the segmentation of which no voxel lies where susceptibility is defined.",
        "limit of qsmprep",
        high=0.0,
    ),
    "regions_coverage": MetricDefinition(
        "roi",
        "Least covered deep grey nucleus",
        "",
        "Share of a nucleus that lies where susceptibility is defined, the smallest of all.",
        "limit of qsmprep",
        low=0.8,
    ),
    "regions_asymmetry": MetricDefinition(
        "roi",
        "Largest asymmetry of a deep grey nucleus",
        "",
        "Difference of the volumes of left and right over their mean, the largest of all.",
        "limit of qsmprep: one side three times as large as the other",
        high=1.0,
    ),
    "nuclei_contrast": MetricDefinition(
        "roi",
        "Caudate, putamen and pallidum above their surroundings",
        "",
        "Mean susceptibility of these nuclei less that of the tissue 2 to 6 mm outside of them, in standard deviations "
        "of the latter; iron makes them brighter from childhood on. Near zero the labels hardly lie on the nuclei.",
        "definition and limit of qsmprep",
        low=0.15,
    ),
}

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
        "The local field should hold tissue contrast and no slow gradient towards the edge of the mask.",
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
        "Density of voxels: field predicted from the susceptibility map ({name}) against the measured local field.",
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
    return Metric(name, number, d.unit, d.meaning, d.source, d.low, d.high, d.stage, column)


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
