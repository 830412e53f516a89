"""Cerebrospinal fluid of the ventricles, found by its slow decay."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt, label

from qsmprep.core.grid import Grid
from qsmprep.errors import DataError

MAX_R2STAR_HZ = 5.0
"""R2* of fluid is below this (1/s)."""

DEPTH_MM = 10.0
"""Fluid nearer to the brain's surface does not count."""

CENTRE_MM = 30.0
"""The ventricles reach this near to the middle of the brain."""

PARTS = 3
"""Connected parts that are kept, those with most voxels near the middle."""


def ventricles(r2star_hz: NDArray[np.floating], mask: NDArray[np.bool_], grid: Grid) -> NDArray[np.bool_]:
    """Fluid in the middle of the brain.

    Parameters
    ----------
    r2star_hz : (nx, ny, nz) array
        R2* in 1/s.
    mask : (nx, ny, nz) bool array
        The brain.
    grid : Grid
        Voxel size.

    Returns
    -------
    (nx, ny, nz) bool array
        Empty where there is no such fluid.

    Raises
    ------
    DataError
        When shapes differ.

    References
    ----------
    .. [1] Liu et al., Magn. Reson. Med. 79:2795 (2018), doi:10.1002/mrm.26946
    """
    inside = np.asarray(mask) != 0
    if not (np.shape(r2star_hz) == inside.shape == grid.shape):
        raise DataError(f"R2* and mask have shapes {np.shape(r2star_hz)} and {inside.shape}", expected="one shape")
    if not inside.any():
        return inside
    depth = distance_transform_edt(np.pad(inside, 1), sampling=grid.voxel_mm)[1:-1, 1:-1, 1:-1]
    slow = (depth > DEPTH_MM) & np.isfinite(r2star_hz) & (np.asarray(r2star_hz) < MAX_R2STAR_HZ)
    parts, _ = label(slow)
    voxel = np.reshape(grid.voxel_mm, (3, 1))
    where = np.array(np.nonzero(slow)) * voxel
    middle = (np.array(np.nonzero(inside)) * voxel).mean(axis=1, keepdims=True)
    near = ((where - middle) ** 2).sum(axis=0) < CENTRE_MM**2
    counts = np.bincount(parts[slow][near], minlength=2)
    counts[0] = 0
    kept = [part for part in np.argsort(counts)[::-1][:PARTS] if counts[part] > 0]
    result: NDArray[np.bool_] = np.isin(parts, kept) & slow
    return result
