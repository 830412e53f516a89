"""Morphology in millimetres, right for any voxel size."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Mask = NDArray[np.bool_]


def erode(mask: Mask, radius_mm: float, voxel_mm: tuple[float, ...]) -> Mask:
    """Voxels of the mask at least ``radius_mm`` away from its outside; the volume's edge counts as outside."""
    if radius_mm <= 0:
        return mask.copy()
    distance = ndimage.distance_transform_edt(np.pad(mask, 1), sampling=voxel_mm)
    return distance[1:-1, 1:-1, 1:-1] > radius_mm


def dilate(mask: Mask, radius_mm: float, voxel_mm: tuple[float, ...]) -> Mask:
    """The mask and all voxels within ``radius_mm`` of it."""
    if radius_mm <= 0 or not mask.any():
        return mask.copy()
    return ndimage.distance_transform_edt(~mask, sampling=voxel_mm) <= radius_mm


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
