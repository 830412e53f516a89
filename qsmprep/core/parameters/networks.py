"""Parameters of learned inversion and segmentation, with units, defaults and limits."""

from __future__ import annotations

from dataclasses import dataclass

from qsmprep.core.registry import parameter

ENSEMBLE = "odd averages the network and its mirror image, net(f) and -net(-f); none runs it once"
CONSISTENCY = "refine the network's map by closed-form data consistency, its weight following the noise"
TILE = "edge of the tiles that the network is run in; 0 for the whole volume where memory allows"
WEIGHTS = "folder of weight files and their cards; empty for those that come with qsmprep"


@dataclass(frozen=True)
class ConeNetParams:
    """Parameters of ConeNet at run time."""

    iterations: int = parameter(0, "steps, at most as many as in training; 0 for these", low=0, high=20)
    ensemble: str = parameter("odd", ENSEMBLE, choices=("odd", "none"))
    tile: int = parameter(0, TILE, unit="voxels", low=0)
    weights: str = parameter("", WEIGHTS)


@dataclass(frozen=True)
class LoopNetParams:
    """Parameters of LoopNet at run time."""

    iterations: int = parameter(0, "passes through the loop; 0 for as many as in training", low=0, high=20)
    consistency: bool = parameter(True, CONSISTENCY)
    ensemble: str = parameter("odd", ENSEMBLE, choices=("odd", "none"))
    tile: int = parameter(0, TILE, unit="voxels", low=0)
    weights: str = parameter("", WEIGHTS)


@dataclass(frozen=True)
class MetaQSMParams:
    """Parameters of Meta-QSM at run time."""

    consistency: bool = parameter(True, CONSISTENCY)
    ensemble: str = parameter("odd", ENSEMBLE, choices=("odd", "none"))
    tile: int = parameter(0, TILE, unit="voxels", low=0)
    weights: str = parameter("", WEIGHTS)


@dataclass(frozen=True)
class QSMInvNetParams:
    """Parameters of QSMInvNet+ at run time."""

    domain: str = parameter("synthetic", "whose batch normalisation is used", choices=("target", "synthetic"))
    adapt: str = parameter(
        "none",
        "adapt to the subject: statistics of the batch normalisation, or weights by the physics",
        choices=("none", "statistics", "physics"),
    )
    adapt_steps: int = parameter(50, "steps of adaptation by the physics", low=1, high=10000)
    consistency: bool = parameter(True, CONSISTENCY)
    ensemble: str = parameter("odd", ENSEMBLE, choices=("odd", "none"))
    tile: int = parameter(0, TILE, unit="voxels", low=0)
    weights: str = parameter("", WEIGHTS)


@dataclass(frozen=True)
class PedQNetParams:
    """Parameters of PedQ-NET at run time."""

    consistency: bool = parameter(False, CONSISTENCY)
    ensemble: str = parameter("odd", ENSEMBLE, choices=("odd", "none"))
    tile: int = parameter(0, TILE, unit="voxels", low=0)
    weights: str = parameter("", WEIGHTS)


@dataclass(frozen=True)
class UnetrParams:
    """Parameters of the trained UNETRs, of the brain mask and of the segmentation of the deep grey nuclei."""

    threshold: float = parameter(0.5, "probability from which on a voxel is brain, or nucleus", low=0.01, high=0.99)
    weights: str = parameter("", WEIGHTS)
