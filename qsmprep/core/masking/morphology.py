"""Morphology in millimetres, right for any voxel size."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Mask = NDArray[np.bool_]


MANY = 400
"""Offsets of a ball above which a distance transform is quicker than as many shifts."""


RADIUS_TOLERANCE = 1e-6
"""Relative slack when a distance is compared with a radius: voxel sizes of headers are rounded, and ties must fall the
same way on every axis."""


def erode(mask: Mask, radius_mm: float, voxel_mm: tuple[float, ...]) -> Mask:
    """Voxels of the mask more than ``radius_mm`` away from its outside; the volume's edge counts as outside."""
    if radius_mm <= 0:
        return mask.copy()
    return ~dilate(~np.pad(mask, 1), radius_mm, voxel_mm)[1:-1, 1:-1, 1:-1]


def dilate(mask: Mask, radius_mm: float, voxel_mm: tuple[float, ...]) -> Mask:
    """The mask and all voxels within ``radius_mm`` of it."""
    if radius_mm <= 0 or not mask.any():
        return mask.copy()
    offsets = _ball(radius_mm, voxel_mm, mask.shape)
    if len(offsets) > MANY:
        return ndimage.distance_transform_edt(~mask, sampling=voxel_mm) <= radius_mm * (1 + RADIUS_TOLERANCE)
    result = mask.copy()
    for offset in offsets:
        to = tuple(slice(max(step, 0), n + min(step, 0)) for step, n in zip(offset, mask.shape, strict=True))
        of = tuple(slice(max(-step, 0), n + min(-step, 0)) for step, n in zip(offset, mask.shape, strict=True))
        result[to] |= mask[of]
    return result


def _ball(radius_mm: float, voxel_mm: tuple[float, ...], shape: tuple[int, ...]) -> NDArray[np.intp]:
    """Steps to the voxels within ``radius_mm`` that lie within the volume, the voxel itself left out."""
    reach = [min(int(radius_mm / mm) + 1, n - 1) for mm, n in zip(voxel_mm, shape, strict=True)]
    steps = np.stack(np.meshgrid(*[np.arange(-r, r + 1) for r in reach], indexing="ij"), axis=-1).reshape(-1, 3)
    distance = np.sqrt(((steps * np.asarray(voxel_mm)) ** 2).sum(axis=1))
    return steps[(distance <= radius_mm * (1 + RADIUS_TOLERANCE)) & steps.any(axis=1)]


def close(mask: Mask, radius_mm: float, voxel_mm: tuple[float, ...]) -> Mask:
    """Dilate, then erode by the same radius, without losing what touches the volume's edge."""
    margin = [int(np.ceil(radius_mm / mm)) + 1 for mm in voxel_mm]
    padded = np.pad(mask, [(m, m) for m in margin])
    closed = erode(dilate(padded, radius_mm, voxel_mm), radius_mm, voxel_mm)
    inner = tuple(slice(m, m + n) for m, n in zip(margin, mask.shape, strict=True))
    return closed[inner] | mask


def open_(mask: Mask, radius_mm: float, voxel_mm: tuple[float, ...]) -> Mask:
    """Erode, then dilate by the same radius: thin bridges and specks go."""
    return dilate(erode(mask, radius_mm, voxel_mm), radius_mm, voxel_mm) & mask


def fill_holes(mask: Mask) -> Mask:
    """The mask with its enclosed holes filled."""
    return ndimage.binary_fill_holes(mask)


def largest_component(mask: Mask) -> Mask:
    """The largest face-connected component."""
    labels, count = ndimage.label(mask)
    if count < 2:
        return mask.copy()
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    return labels == int(sizes.argmax())
