"""Parameters of regions of interest, with units, defaults and limits."""

from __future__ import annotations

from dataclasses import dataclass

from qsmprep.core.parameters.networks import WEIGHTS
from qsmprep.core.registry import parameter


@dataclass(frozen=True)
class RoiParams:
    """Parameters of the statistics over regions."""

    erode_mm: float = parameter(
        1.0, "depth of the erosion before the eroded mean; 0 leaves the region whole", unit="mm", low=0.0, high=20.0
    )
    trim_sd: float = parameter(
        3.0, "values further from the median than this many robust standard deviations are trimmed", low=0.5, high=100.0
    )
    subdivisions: int = parameter(
        3, "points along each edge of a voxel at which labels are looked up for partial volumes", low=1, high=9
    )


@dataclass(frozen=True)
class CoregistrationParams:
    """Parameters of the rigid registration of gradient echo and T1w image."""

    sampling: float = parameter(0.25, "share of voxels at which the images are compared", low=0.01, high=1.0)


@dataclass(frozen=True)
class NormalisationParams:
    """Parameters of the registration of the template, and of the atlas that comes with it."""

    voxel_mm: float = parameter(3.0, "voxel size at which the template is registered", unit="mm", low=0.5, high=8.0)
    coarse: int = parameter(60, "iterations of SyN at the coarsest level", low=0, high=1000)
    middle: int = parameter(40, "iterations of SyN at the middle level", low=0, high=1000)
    fine: int = parameter(20, "iterations of SyN at the finest level", low=0, high=1000)
    metric: str = parameter("mattes", "what SyN compares: mutual or local correlation", choices=("mattes", "CC"))
    min_dice: float = parameter(0.8, "least overlap of the brains that is accepted", low=0.0, high=1.0)
    refine_mm: float = parameter(
        1.0, "voxel size at which labels are moved to the contrast of the head", unit="mm", low=0.3, high=4.0
    )
    soft_mm: float = parameter(
        1.5, "error of the registration that the probabilities of the atlas allow for", unit="mm", low=0.0, high=10.0
    )
    trust: float = parameter(0.5, "exponent of the probabilities of the atlas", low=0.0, high=2.0)
    doubt: float = parameter(
        0.3, "share that white matter, cortex and fluid have wherever the atlas has a structure", low=0.0, high=0.9
    )
    pull: float = parameter(1.0, "how strongly neighbouring voxels pull at each other", low=0.0, high=5.0)
    outliers: float = parameter(
        0.001, "density, against the widest tissue's peak, below which a value says nothing", low=1e-9, high=1.0
    )


@dataclass(frozen=True)
class SightingParams:
    """Parameters of the network that sees the deep grey nuclei on the image that the atlas was brought to."""

    share: float = parameter(
        0.8, "share of the network in the probabilities of the atlas; 0 does without it", low=0.0, high=1.0
    )
    weights: str = parameter("", WEIGHTS)
