"""The mask that phase can be trusted in: brain extraction times phase quality."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from qsmprep.core.grid import Grid
from qsmprep.core.masking.morphology import close, erode, fill_holes, largest_component, open_
from qsmprep.core.parameters import QualityMaskParams, ThresholdMaskParams
from qsmprep.errors import DataError

Mask = NDArray[np.bool_]


def otsu(values: NDArray[np.floating]) -> float:
    """Otsu's threshold between two classes of values (doi:10.1109/TSMC.1979.4310076)."""
    from skimage.filters import threshold_otsu

    if values.size == 0 or values.min() == values.max():
        raise DataError("the image is constant, no threshold can be found", expected="two classes of voxels")
    return float(threshold_otsu(values.ravel()))


def threshold_mask(magnitude: NDArray[np.floating], grid: Grid, params: ThresholdMaskParams | None = None) -> Mask:
    """Everything bright, as one piece without holes: for objects that are no heads, or when extraction fails.

    Parameters
    ----------
    magnitude : (nx, ny, nz) array
        Magnitude, arbitrary unit.
    grid : Grid
        Gives the voxel size.
    params : ThresholdMaskParams
        Factor on Otsu's threshold.

    Raises
    ------
    DataError
        When nothing is left, or the image is constant.
    """
    params = params or ThresholdMaskParams()
    image = np.where(np.isfinite(magnitude), magnitude, 0)
    if image.shape != grid.shape:
        raise DataError(f"the magnitude has shape {image.shape}", expected=f"{grid.shape}, that of the grid")
    ceiling = np.percentile(image, 99)
    bright = image > params.factor * otsu(np.minimum(image, ceiling))
    mask = fill_holes(largest_component(open_(bright, params.open_mm, grid.voxel_mm)))
    return _not_empty(mask, "no voxel is brighter than the threshold")


def consensus_mask(
    brain: Mask, quality: NDArray[np.floating], grid: Grid, params: QualityMaskParams | None = None
) -> Mask:
    """Brain mask times phase quality, with small holes mended and one piece kept.

    Voxels of poor phase at the brain's surface (above the sinuses, along the skull base) go; small
    unreliable spots inside the brain (vessels, lesions) stay, because background removal needs a
    mask without holes and the weights discount them.

    Parameters
    ----------
    brain : (nx, ny, nz) bool array
        Brain mask.
    quality : (nx, ny, nz) array
        Phase quality in [0, 1], 1 is best.
    grid : Grid
        Gives the voxel size.
    params : QualityMaskParams
        Threshold (0 for Otsu's over the brain and its surroundings) and morphology in mm.

    Returns
    -------
    (nx, ny, nz) bool array
        Part of ``brain``.

    Raises
    ------
    DataError
        When shapes differ, or nothing is left.

    References
    ----------
    .. [1] QSM consensus, Magn. Reson. Med. 91:1834 (2024), doi:10.1002/mrm.30006
    """
    params = params or QualityMaskParams()
    if brain.shape != quality.shape or brain.shape != grid.shape:
        raise DataError(
            f"mask {brain.shape}, quality {quality.shape} and grid {grid.shape} differ", expected="one shape"
        )
    _not_empty(brain, "the brain mask is empty")
    values = np.where(np.isfinite(quality), quality, 0)
    threshold = params.threshold or min(otsu(values), params.otsu_ceiling)
    good = brain & (values >= threshold)
    good = close(good, params.close_mm, grid.voxel_mm) & brain
    good = fill_holes(open_(good, params.open_mm, grid.voxel_mm)) & brain
    mask = erode(largest_component(good), params.erode_mm, grid.voxel_mm)
    return _not_empty(mask, "no voxel of the brain has a reliable phase")


def _not_empty(mask: Mask, what: str) -> Mask:
    if not mask.any():
        raise DataError(
            what,
            expected="at least one voxel",
            remedy="look at magnitude and phase; give a mask with --derivatives where they are right",
        )
    return mask
