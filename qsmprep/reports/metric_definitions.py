"""What each metric of the report is: its unit, meaning, source, limits, and what to do beyond them, written once."""

from __future__ import annotations

from dataclasses import dataclass

CONSENSUS = "QSM consensus (doi:10.1002/mrm.30006)"


@dataclass(frozen=True)
class MetricDefinition:
    """Name, unit, meaning, source and limits of a metric, and what to do beyond them; ``stage`` is where it stands."""

    stage: str
    name: str
    unit: str
    meaning: str
    source: str = "definition of qsmprep"
    low: float | None = None
    high: float | None = None
    remedy: str = ""


MASK = "look at the outline of the brain mask; try --mask unetr, or give a mask with --derivatives"
T1W = "check that the T1w image belongs to this participant and session, and look at the outlines of the regions"
LABELS = "look at the outlines of the regions; give a segmentation with --derivatives, or take another --segmentation"

METRICS: dict[str, MetricDefinition] = {
    "mask_volume_ml": MetricDefinition(
        "magnitude",
        "Brain mask volume",
        "mL",
        "Volume of the brain mask.",
        "limits of qsmprep: far outside the range of human brains",
        500.0,
        2200.0,
        remedy=MASK,
    ),
    "excluded_fraction": MetricDefinition(
        "magnitude",
        "Share of the brain mask without chi",
        "",
        "Voxels of the brain mask that erosion or poor phase removed from the QSM mask, over all of its voxels.",
        "limit of qsmprep: half of the brain lost",
        high=0.5,
        remedy="look at the mask and at the phase: what was left out?",
    ),
    "snr": MetricDefinition(
        "magnitude",
        "SNR of the magnitude",
        "",
        "Median magnitude in the brain over the noise, which is estimated from the finest diagonal differences.",
        "Donoho and Johnstone 1994 (doi:10.1093/biomet/81.3.425); limit of qsmprep",
        low=5.0,
        remedy="look at the magnitude; too noisy a scan gives no map",
    ),
    "mask_dark_fraction": MetricDefinition(
        "magnitude",
        "Share of the brain mask without signal",
        "",
        "Voxels of the brain mask whose magnitude at the first echo is below 15 % of its median: air, bone or sinus.",
        "definition and limit of qsmprep",
        high=0.03,
        remedy=MASK,
    ),
    "mask_open_fraction": MetricDefinition(
        "magnitude",
        "Share of the mask's border within tissue",
        "",
        "Border of the brain mask behind which the magnitude does not fall below 60 % within 10 mm: "
        "the mask ends where the brain does not.",
        "definition and limit of qsmprep",
        high=0.2,
        remedy=MASK,
    ),
    "ghosting": MetricDefinition(
        "magnitude",
        "Ghosts in the air beside the head",
        "",
        "Magnitude of the last echo in the air beside the head along the axes of the image above that of the corners "
        "(medians of squares), over the median of the brain: motion and flow.",
        "after Giannelli et al. 2010 (doi:10.1120/jacmp.v11i4.3237); regions and limit of qsmprep",
        high=0.01,
        remedy="look for ghosts and blurring in the magnitude; leave the scan out or repeat it",
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
        remedy="look for sharp edges in the unwrapped phase: swapped echoes, bad masks or coils make them",
    ),
    "residual_median": MetricDefinition(
        "residual",
        "Relative residual of the fit, median",
        "",
        "Misfit of the signal model over the echoes, relative to the signal; 0 is perfect.",
        f"limit: voxels above 0.3 are left out in the example code of the {CONSENSUS}",
        high=0.3,
        remedy="check echo times, order and units of the phase",
    ),
    "residual_fraction_above": MetricDefinition(
        "residual",
        "Share of voxels with a residual above 0.3",
        "",
        "Voxels whose relative residual is above 0.3 or not finite, over all voxels of the mask.",
        f"threshold: example code of the {CONSENSUS}; limit of qsmprep",
        high=0.25,
        remedy="check echo times, order and units of the phase",
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
        remedy="check the orientation in the image header: a rotated or re-oriented copy has lost the direction of B0",
    ),
    "local_field_sd_hz": MetricDefinition(
        "field", "Standard deviation of the local field", "Hz", "Standard deviation of the local field in its mask."
    ),
    "remainder_sd_hz": MetricDefinition(
        "field",
        "Standard deviation of what background removal left",
        "Hz",
        "Standard deviation of what was taken off the local field: nearly harmonic, and voxels far off.",
    ),
    "chi_sd_ppm": MetricDefinition(
        "chi", "Standard deviation of chi", "ppm", "Standard deviation of susceptibility in the QSM mask."
    ),
    "chi_cnr": MetricDefinition(
        "chi",
        "CNR of chi",
        "",
        "Spread of susceptibility in the QSM mask that is not voxel-wise noise, over that noise, which is estimated "
        "from the finest diagonal differences.",
        "definition of qsmprep",
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
        remedy="try another inversion, or a larger weight",
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
        "Field predicted from chi less the local field that the map was made from (of one made from the total field: "
        "what background removal made of that), relative to the latter (norms in the mask); a map of zeros has 1.",
        "limit: no better than a map of zeros",
        high=1.0,
        remedy="look at the local field, and try another inversion",
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
        remedy=T1W,
    ),
    "registration_turn_deg": MetricDefinition(
        "roi",
        "Rotation of the T1w image",
        "degrees",
        "How far the T1w image was turned from where the headers put it.",
        "limit of qsmprep: more is hardly one session",
        high=20.0,
        remedy=T1W,
    ),
    "registration_information": MetricDefinition(
        "roi",
        "Mutual information of T1w image and magnitude",
        "",
        "Normalised mutual information of both brains after the registration; 1 means that neither says anything of "
        "the other.",
        "Studholme et al. 1999 (doi:10.1016/S0031-3203(98)00091-0); limit of qsmprep",
        low=1.02,
        remedy=T1W,
    ),
    "registration_stretch": MetricDefinition(
        "roi",
        "Difference in shape of the brains in T1w image and magnitude",
        "",
        "By how much more an affine map would stretch one direction than another to fit both brains better than the "
        "rigid one; above 0.03 and with little mutual information it is hardly the same head.",
        "definition of qsmprep",
    ),
    "registration_share": MetricDefinition(
        "roi",
        "Share of the brain within the brain of the T1w image",
        "",
        "Voxels of the brain mask that lie in the brain of the registered T1w image.",
        "limit of qsmprep",
        low=0.9,
        remedy=T1W,
    ),
    "template_dice": MetricDefinition(
        "roi",
        "Overlap of the template's brain",
        "",
        "Dice coefficient of the brain and the registered brain of the template.",
        "limit of qsmprep",
        low=0.9,
        remedy=LABELS,
    ),
    "regions_empty": MetricDefinition(
        "roi",
        "Regions without a voxel",
        "",
        "Regions of the segmentation of which no voxel lies where susceptibility is defined.",
        "limit of qsmprep",
        high=0.0,
        remedy=LABELS,
    ),
    "regions_coverage": MetricDefinition(
        "roi",
        "Least covered deep grey nucleus",
        "",
        "Share of a nucleus that lies where susceptibility is defined, the smallest of all.",
        "limit of qsmprep",
        low=0.8,
        remedy=LABELS,
    ),
    "regions_asymmetry": MetricDefinition(
        "roi",
        "Largest asymmetry of a deep grey nucleus",
        "",
        "Difference of the volumes of left and right over their mean, the largest of all.",
        "limit of qsmprep: one side three times as large as the other",
        high=1.0,
        remedy=LABELS,
    ),
    "nuclei_contrast": MetricDefinition(
        "roi",
        "Caudate, putamen and pallidum above their surroundings",
        "",
        "Mean susceptibility of these nuclei less that of the tissue 2 to 6 mm outside of them, in standard deviations "
        "of the latter; iron makes them brighter from childhood on. Near zero the labels hardly lie on the nuclei.",
        "definition and limit of qsmprep",
        low=0.15,
        remedy=LABELS,
    ),
}
