"""Parameters of masks, with units, defaults and limits."""

from __future__ import annotations

from dataclasses import dataclass

from qsmprep.core.parameters.networks import WEIGHTS
from qsmprep.core.registry import parameter


@dataclass(frozen=True)
class AgreedMaskParams:
    """Parameters of brain extraction by a deformable surface that a network checks."""

    fraction: float = parameter(
        0.5, "BET's fractional intensity threshold; smaller gives a larger brain", low=0.0, high=1.0
    )
    threshold: float = parameter(0.5, "the network's probability from which on a voxel is brain", low=0.01, high=0.99)
    agreement: float = parameter(
        0.95, "Dice coefficient of both from which on BET's mask is taken, else the network's", low=0.0, high=1.0
    )
    weights: str = parameter("", WEIGHTS)


@dataclass(frozen=True)
class BetParams:
    """Parameters of brain extraction by a deformable surface."""

    fraction: float = parameter(0.5, "fractional intensity threshold; smaller gives a larger brain", low=0.0, high=1.0)


@dataclass(frozen=True)
class FslBetParams:
    """Parameters of FSL's brain extraction tool."""

    fraction: float = parameter(0.5, "fractional intensity threshold (-f)", low=0.0, high=1.0)


@dataclass(frozen=True)
class ThresholdMaskParams:
    """Parameters of the mask of everything bright."""

    factor: float = parameter(0.7, "factor on Otsu's threshold of the magnitude", low=0.0, high=5.0)
    open_mm: float = parameter(2.0, "radius of the opening that removes thin bridges", unit="mm", low=0.0)


@dataclass(frozen=True)
class QualityMaskParams:
    """Parameters of the phase-quality mask."""

    threshold: float = parameter(0.0, "quality threshold; 0 chooses it by Otsu's method", low=0.0, high=1.0)
    otsu_ceiling: float = parameter(0.5, "highest threshold that Otsu's method may choose", low=0.0, high=1.0)
    close_mm: float = parameter(2.0, "radius of the closing that mends small unreliable spots", unit="mm", low=0.0)
    open_mm: float = parameter(2.0, "radius of the opening that removes thin bridges", unit="mm", low=0.0)
    erode_mm: float = parameter(0.0, "depth of the final erosion", unit="mm", low=0.0)
