"""Parameters of regions of interest, with units, defaults and limits."""

from __future__ import annotations

from dataclasses import dataclass

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
