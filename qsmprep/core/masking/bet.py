"""Brain extraction by a surface that is inflated until it meets the edge of the brain."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from qsmprep.core.grid import Grid
from qsmprep.core.masking.morphology import largest_component
from qsmprep.core.masking.surface import Faces, Points, icosphere, normals, subdivide, voxels_inside
from qsmprep.core.parameters import BetParams
from qsmprep.errors import DataError

SEARCH_MM = (20.0, 10.0)
"""How far inwards the lowest and the highest intensity are looked for."""

CURVATURE_MM = (3.33, 10.0)
"""Radii of curvature below which the surface is smoothed fully, and above which hardly."""

ITERATIONS = (1000, 300)
"""Steps of the coarse surface (1280 triangles) and of the fine one (5120)."""

WORKING_MM = 2.0
"""Voxels finer than this are averaged before extraction; the surface is laid over the full grid."""

SMALLEST_MM3 = 1e4
"""A brain is larger than this."""

NO_BRAIN = "no brain was found in the magnitude image"
A_BRAIN = "a bright brain inside a dark skull"
REMEDY = "give a mask with --derivatives, or try --mask threshold"


@dataclass(frozen=True)
class _Levels:
    """Robust intensity levels of the head, as the paper names them."""

    t2: float
    t: float
    tm: float


def bet(magnitude: NDArray[np.floating], grid: Grid, params: BetParams | None = None) -> NDArray[np.bool_]:
    """Brain mask from an image of the head in which the brain is bright and the skull dark.

    Parameters
    ----------
    magnitude : (nx, ny, nz) array
        Magnitude, arbitrary unit, any order and direction of the axes.
    grid : Grid
        Gives the voxel size.
    params : BetParams
        Fractional threshold: smaller gives a larger brain.

    Returns
    -------
    (nx, ny, nz) bool array

    Raises
    ------
    DataError
        When the image holds no head, or no brain was found in it.

    References
    ----------
    .. [1] Smith, Hum. Brain Mapp. 17:143 (2002), doi:10.1002/hbm.10062
    """
    params = params or BetParams()
    image = np.asarray(magnitude, dtype=np.float32)
    if image.shape != grid.shape:
        raise DataError(f"the magnitude has shape {image.shape}", expected=f"{grid.shape}, that of the grid")
    image = np.where(np.isfinite(image), np.maximum(image, 0), 0).astype(np.float32)
    coarse, voxel_mm = _averaged(image, np.array(grid.voxel_mm))
    even = homogeneous(coarse, voxel_mm)
    surface, faces = _extract(even, voxel_mm, params.fraction)
    factor = np.round(voxel_mm / np.array(grid.voxel_mm))
    offset_mm = (factor - 1) / 2 * np.array(grid.voxel_mm)
    mask = voxels_inside(surface + offset_mm, faces, image.shape, np.array(grid.voxel_mm))
    mask = largest_component(mask)
    if mask.sum() * grid.voxel_volume_mm3 < SMALLEST_MM3:
        raise DataError(NO_BRAIN, expected=A_BRAIN, remedy=REMEDY)
    return mask


def _extract(image: NDArray[np.float32], voxel_mm: Points, fraction: float) -> tuple[Points, Faces]:
    """Inflate a coarse surface to the brain, then refine it."""
    levels, centre, radius = _head(image, voxel_mm)
    points, faces = icosphere(3)
    surface = _inflate(image, voxel_mm, levels, centre + 0.5 * radius * points, faces, fraction, ITERATIONS[0])
    surface, faces = subdivide(surface, faces)
    surface = _inflate(image, voxel_mm, levels, surface, faces, fraction, ITERATIONS[1])
    if not np.isfinite(surface).all() or np.ptp(surface, axis=0).max() > 2 * np.max(image.shape * voxel_mm):
        raise DataError(NO_BRAIN, expected=A_BRAIN, remedy=REMEDY)
    return surface, faces


def _averaged(image: NDArray[np.float32], voxel_mm: Points) -> tuple[NDArray[np.float32], Points]:
    """Block means over whole voxels, to about WORKING_MM."""
    factors = [max(1, int(WORKING_MM / mm + 1e-6)) for mm in voxel_mm]
    if max(factors) == 1:
        return image, voxel_mm
    padding = [(0, -n % f) for n, f in zip(image.shape, factors, strict=True)]
    padded = np.pad(image, padding, mode="edge")
    nx, ny, nz = (n // f for n, f in zip(padded.shape, factors, strict=True))
    blocks = padded.reshape(nx, factors[0], ny, factors[1], nz, factors[2])
    return blocks.mean(axis=(1, 3, 5)), voxel_mm * factors


def homogeneous(image: NDArray[np.float32], voxel_mm: Points, sigma_mm: float = 25.0) -> NDArray[np.float32]:
    """Divide a magnitude by its own smoothed version, taken over the head only, against coil shading."""
    from skimage.filters import threshold_otsu

    if not np.any(image > 0) or image.min() == image.max():
        raise DataError("the magnitude is constant", expected="an image of a head")
    ceiling = np.percentile(image[image > 0], 99)
    head = image > 0.5 * threshold_otsu(np.minimum(image, ceiling))
    sigma = sigma_mm / voxel_mm
    weight = ndimage.gaussian_filter(head.astype(np.float32), sigma, mode="constant")
    smooth = ndimage.gaussian_filter(np.where(head, np.minimum(image, ceiling), 0), sigma, mode="constant")
    bias = smooth / np.maximum(weight, 1e-3)
    floor = 0.1 * float(np.median(bias[head]))
    return (image / np.maximum(bias, floor)).astype(np.float32)


def _head(image: NDArray[np.float32], voxel_mm: Points) -> tuple[_Levels, Points, float]:
    """Intensity levels, centre of gravity (mm) and radius (mm) of the head."""
    t2, t98 = (float(v) for v in np.percentile(image, [2, 98]))
    t = t2 + 0.1 * (t98 - t2)
    clipped = np.where(image > t, np.minimum(image, t98) - t2, 0)
    total = float(clipped.sum())
    if not total > 0:
        raise DataError("the magnitude holds no head", expected="an image of a head")
    index = np.indices(image.shape, sparse=True)
    centre = np.array([float((clipped * axis).sum()) / total for axis in index]) * voxel_mm
    volume = float((image > t).sum()) * float(np.prod(voxel_mm))
    radius = (3 * volume / (4 * np.pi)) ** (1 / 3)
    distance2 = sum((axis * mm - c) ** 2 for axis, mm, c in zip(index, voxel_mm, centre, strict=True))
    inner = (distance2 < radius**2) & (image > t) & (image < t98)
    tm = float(np.median(image[inner])) if inner.any() else t98
    return _Levels(t2, t, tm), centre, radius


def _inflate(
    image: NDArray[np.float32], voxel_mm: Points, levels: _Levels, points: Points, faces: Faces, fraction: float, n: int
) -> Points:
    """Move the surface until it rests between smoothness and the edge of the brain."""
    vertices = len(points)
    pairs = np.unique(np.sort(np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]]), axis=1), axis=0)
    start, end = np.concatenate([pairs, pairs[:, ::-1]]).T
    degree = np.bincount(start, minlength=vertices)[:, None]
    threshold = fraction**0.275
    low, high = CURVATURE_MM
    middle, steepness = (1 / low + 1 / high) / 2, 6 / (1 / low - 1 / high)
    for _ in range(n):
        edge = float(np.linalg.norm(points[pairs[:, 0]] - points[pairs[:, 1]], axis=1).mean())
        normal = _vertex_normals(points, faces)
        mean = np.stack([np.bincount(start, points[end, axis], minlength=vertices) for axis in range(3)], axis=1)
        to_mean = mean / degree - points
        along = np.einsum("ij,ij->i", to_mean, normal)
        tangential = to_mean - along[:, None] * normal
        curvature = 2 * np.abs(along) / edge**2
        smooth = 0.5 * (1 + np.tanh(steepness * (curvature - middle)))
        push = _push(image, voxel_mm, levels, points, normal, threshold)
        step = 0.5 * tangential + (smooth * along + 0.05 * push * edge)[:, None] * normal
        points = points + step
    return points


def _vertex_normals(points: Points, faces: Faces) -> Points:
    """Unit outward normal of each vertex, the mean of its triangles weighted by area."""
    of_face = normals(points, faces)
    result = np.empty_like(points)
    for axis in range(3):
        result[:, axis] = np.bincount(faces.ravel(), np.repeat(of_face[:, axis], 3), minlength=len(points))
    return result / np.maximum(np.linalg.norm(result, axis=1, keepdims=True), 1e-12)


def _push(
    image: NDArray[np.float32], voxel_mm: Points, levels: _Levels, points: Points, normal: Points, threshold: float
) -> NDArray[np.float64]:
    """Outward (positive) or inward force from the lowest and highest intensity below each vertex."""
    far, near = SEARCH_MM
    step = max(1.0, float(voxel_mm.min()))
    depths = np.arange(0.5 * step, far + 1e-6, step)
    index = np.rint((points[None] - depths[:, None, None] * normal[None]) / voxel_mm).astype(int)
    within = np.all((index >= 0) & (index < np.array(image.shape)), axis=2)
    index = np.clip(index, 0, np.array(image.shape) - 1)
    values = np.where(within, image[index[..., 0], index[..., 1], index[..., 2]], levels.t2)
    lowest = np.maximum(levels.t2, np.minimum(levels.tm, values.min(axis=0)))
    highest = np.minimum(levels.tm, np.maximum(levels.t, values[depths <= near].max(axis=0)))
    local = (highest - levels.t2) * threshold + levels.t2
    return 2 * (lowest - local) / np.maximum(highest - levels.t2, 1e-12)
