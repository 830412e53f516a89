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
)
