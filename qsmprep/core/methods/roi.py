"""Methods of regions of interest. The first of a step is its default."""

from __future__ import annotations

from qsmprep.core import parameters as p
from qsmprep.core.registry import Method

METHODS = (
    Method(
        "roi",
        "roistats",
        "ROI statistics",
        "qsmprep.core.roi:roi_statistics",
        p.RoiParams,
        "Statistics of every region were taken over the voxels in which the map is defined: besides mean, median and "
        "percentiles a mean without values further than {trim_sd:g} robust standard deviations from the median, a mean "
        "weighted by partial volume, and a mean after erosion by {erode_mm:g} mm",
    ),
    Method(
        "coregistration",
        "rigid",
        "rigid registration",
        "qsmprep.core.registration:register_rigid",
        p.CoregistrationParams,
        "The T1-weighted image was registered rigidly to the gradient-echo magnitude by mutual information with ANTs",
        ("tustison2021",),
    ),
    Method(
        "segmentation",
        "atlas",
        "atlas",
        "qsmprep.core.registration:normalise",
        p.NormalisationParams,
        "Regions were taken from an atlas by affine and SyN registration of the MNI152 template with ANTs "
        "(voxels of {voxel_mm:g} mm, {coarse}, {middle} and {fine} iterations)",
        ("avants2008", "tustison2021", "fonov2011"),
    ),
    Method(
        "sighting",
        "t1wunetr",
        "UNETR beside the atlas",
        "qsmprep.networks.t1w:sight",
        p.SightingParams,
        "In these probabilities those of caudate, putamen, pallidum and thalamus are by {share:g} those of a UNETR of "
        "qsmprep that was trained on heads of simulated contrast",
        ("hatamizadeh2022", "billot2023"),
        model="subcortical_t1w",
    ),
    Method(
        "nuclei",
        "unetr",
        "UNETR segmentation",
        "qsmprep.networks.segmentation:unetr_nuclei",
        p.UnetrParams,
        "Caudate, putamen, pallidum and thalamus were segmented on the susceptibility map with a UNETR of qsmprep that "
        "was trained on simulated maps",
        ("hatamizadeh2022",),
        model="subcortical",
    ),
)
