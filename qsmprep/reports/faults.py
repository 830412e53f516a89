"""Measures of what goes wrong before any method is at fault: masks, ghosts, wraps, the direction of B0.

Pure functions from arrays to numbers, like those of :mod:`qsmprep.reports.qc`; limits stand in
:mod:`qsmprep.reports.definitions`. What cannot be measured on the data at hand is NaN.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qsmprep.core.grid import Grid, bounding_box
from qsmprep.errors import DataError
from qsmprep.reports.qc import residual_wraps

DARK = 0.15
"""Share of the median signal of the mask below which a voxel holds no tissue."""

OPEN = 0.6
"""Share of the signal of the mask nearby that must be undershot on the way out of it."""

REACH_MM = (2.0, 10.0)
"""Where outside of the mask its border is looked for."""

AIR_MM = 14.0
"""Distance from the head at which air begins: closer by may be skin."""

HEAD_SHARES = (0.2, 0.5)
"""Share of the brain's signal above which the head is; the second where ghosts of the first fill the air."""

HULL_DIRECTIONS = 100
"""Directions, spread over half of the sphere, in which the head is bounded."""

MIN_AIR = 500
"""Fewest voxels of air of which a median is taken."""

WAVELENGTH_MM = (4.0, 40.0)
"""Structures that tell the direction of B0: shorter ones are noise, longer ones background."""

DIRECTIONS = 600
"""Bins of the direction of k on the half sphere."""

CANDIDATES = 3000
"""Directions of B0 that are tried; neighbours are 2.5 degrees apart."""

SHELLS = 10
"""Shells of |k| in which the power is brought to one mean."""


def dark_fraction(magnitude: ArrayLike, mask: ArrayLike) -> float:
    """Share of the mask in which the magnitude is below 15 % of its median there, 0 to 1.

    Air, bone and sinuses are that dark; brain tissue at a short echo time is not. It rises when
    the mask lies beside the brain or holds more than it. The definition is ours.

    Parameters
    ----------
    magnitude : (nx, ny, nz) array
        Of the first echo.
    mask : (nx, ny, nz) bool array

    Raises
    ------
    DataError
        When the shapes differ or the mask is empty.
    """
    region, image = _pair(magnitude, mask)
    values = image[region]
    median = float(np.median(values))
    return float(np.mean(values < DARK * median)) if median > 0 else 1.0


def open_fraction(magnitude: ArrayLike, mask: ArrayLike, grid: Grid) -> float:
    """Share of the border of the mask behind which the signal goes on, 0 to 1.

    From every border voxel the image is followed outwards, along the gradient of the distance to
    the mask, from 2 to 10 mm. Around a brain there is dark skull or fluid on that way; where the
    signal never falls below 60 % of that inside nearby, the mask ends within tissue. Rays that
    leave the image are not counted. NaN when fewer than 50 are left. The definition is ours.

    Parameters
    ----------
    magnitude : (nx, ny, nz) array
        Of the first echo.
    mask : (nx, ny, nz) bool array
    grid : Grid
        For the voxel size.

    Raises
    ------
    DataError
        When the shapes differ or the mask is empty.
    """
    from scipy.ndimage import binary_erosion, distance_transform_edt, gaussian_filter, map_coordinates

    region, image = _pair(magnitude, mask)
    voxel = np.asarray(grid.voxel_mm)
    box = bounding_box(region, math.ceil((REACH_MM[1] + 2) / min(grid.voxel_mm)))
    region, image = region[box], image[box]
    border = np.argwhere(region & ~binary_erosion(region, border_value=1))
    signed = distance_transform_edt(~region, sampling=voxel) - distance_transform_edt(region, sampling=voxel)
    smooth = gaussian_filter(signed, 4.0 / voxel)
    slopes = [np.gradient(smooth, mm, axis=axis) for axis, mm in enumerate(voxel)]
    normal = np.stack([slope[tuple(border.T)] for slope in slopes], -1)
    normal /= np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-9)
    weight = gaussian_filter(region.astype(float), 8.0 / voxel)
    inside = gaussian_filter(np.where(region, image, 0.0), 8.0 / voxel)[tuple(border.T)] / weight[tuple(border.T)]
    steps = np.arange(REACH_MM[0], REACH_MM[1] + 0.1)
    at = border[:, None, :] + steps[:, None] * normal[:, None, :] / voxel
    there = np.all((at >= 0) & (at <= np.asarray(region.shape) - 1), axis=(1, 2))
    if np.count_nonzero(there) < 50:
        return math.nan
    seen = map_coordinates(image, at[there].transpose(2, 0, 1), order=1)
    return float(np.mean(seen.min(axis=1) > OPEN * inside[there]))


def ghosting(magnitude: ArrayLike, mask: ArrayLike, grid: Grid) -> float:
    """Signal that motion and flow throw into the air beside the head, relative to that of the brain.

    Ghosts lie along a phase-encoding axis, so in the air beside, before or above the head, but not
    in the corners that no line along an axis shares with it. The median of the squared magnitude in
    the air beside the head along each axis, less that of the corners (the noise, whatever its
    distribution), is divided by the squared median of the brain; the root of the largest is
    returned. NaN where air is not recorded: set to zero, or not in the field of view. After the
    ghost-to-signal ratio of Giannelli et al. (doi:10.1120/jacmp.v11i4.3237); regions and medians
    are ours.

    Parameters
    ----------
    magnitude : (nx, ny, nz) array
        Of the last echo, in which motion shows most.
    mask : (nx, ny, nz) bool array
        The brain.
    grid : Grid
        For the voxel size.

    Raises
    ------
    DataError
        When the shapes differ or the mask is empty.
    """
    from scipy.ndimage import distance_transform_edt

    region, image = _pair(magnitude, mask)
    signal = float(np.median(image[region]))
    for share in HEAD_SHARES:
        head = _head(image, region, share * signal, grid)
        air = (distance_transform_edt(~head, sampling=grid.voxel_mm) > AIR_MM) & (image != 0)
        beside = [air & head.any(axis=axis, keepdims=True) for axis in range(3)]
        corners = air & ~np.logical_or.reduce(beside)
        powers = [float(np.median(image[part] ** 2)) for part in beside if np.count_nonzero(part) >= MIN_AIR]
        if signal > 0 and powers and np.count_nonzero(corners) >= MIN_AIR:
            return math.sqrt(max(max(powers) - float(np.median(image[corners] ** 2)), 0.0)) / signal
    return math.nan


def _head(image: NDArray[np.float64], region: NDArray[np.bool_], above: float, grid: Grid) -> NDArray[np.bool_]:
    """About the convex hull, in steps of 4 mm, of the brain and of all large parts of an image above a value.

    The hull is that of `HULL_DIRECTIONS` pairs of planes that touch what is inside.
    """
    from scipy.ndimage import gaussian_filter, label

    parts, _ = label((gaussian_filter(image, 1.0) > above) | region)
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0
    large = (sizes > 0.01 * np.count_nonzero(region))[parts]
    step = tuple(max(1, round(4 / mm)) for mm in grid.voxel_mm)
    coarse = large[tuple(slice(None, None, n) for n in step)]
    places = np.indices(coarse.shape).reshape(3, -1).T * (np.asarray(step) * np.asarray(grid.voxel_mm))
    along = places @ _half_sphere(HULL_DIRECTIONS).T
    seen = along[coarse.ravel()]
    hull = np.all((along >= seen.min(axis=0)) & (along <= seen.max(axis=0)), axis=1).reshape(coarse.shape)
    for axis, n in enumerate(step):
        hull = np.repeat(hull, n, axis=axis)
    return np.asarray(hull[tuple(slice(0, n) for n in large.shape)] | large, bool)


def wrap_fraction(unwrapped_rad: ArrayLike, mask: ArrayLike) -> float:
    """Residual wraps (see :func:`qsmprep.reports.qc.residual_wraps`) for each voxel of the mask."""
    return residual_wraps(unwrapped_rad, mask) / float(np.count_nonzero(np.asarray(mask)))


def implied_b0_dir(field_ppm: ArrayLike, mask: ArrayLike, grid: Grid) -> tuple[float, float, float]:
    """Direction of B0 that a local field implies, in the voxel axes; its sign is arbitrary.

    The spectrum of a field is that of its sources times the dipole kernel, which vanishes on a
    cone about B0. The power of the field in shells of |k|, as a function of the direction of k, is
    compared with the squared kernel for B0 in 3,000 directions; that of the highest correlation is
    returned. No map is needed, so that a map made with a wrong direction cannot hide it. NaN for a
    constant field. The definition is ours.

    Parameters
    ----------
    field_ppm : (nx, ny, nz) array
        Local field; its unit does not matter.
    mask : (nx, ny, nz) bool array
        Where it is valid.
    grid : Grid
        For the voxel size; its direction of B0 is not used.

    Raises
    ------
    DataError
        When the shapes differ or the mask is empty.
    """
    region, field = _pair(field_ppm, mask)
    centred = np.where(region, field - field[region].mean(), 0.0)
    limit = float(np.percentile(np.abs(centred[region]), 99))
    if limit == 0:
        return (math.nan, math.nan, math.nan)
    mean, count, axes = _angular_power(np.clip(centred, -limit, limit), grid)
    used = count > 5
    mean, weight, axes = mean[used], np.sqrt(count[used]), axes[used]
    tried = _half_sphere(CANDIDATES)
    kernels = (1 / 3 - (tried @ axes.T) ** 2) ** 2
    weight /= weight.sum()
    power = mean - weight @ mean
    kernels -= (kernels @ weight)[:, None]
    score = kernels @ (weight * power) / np.sqrt((kernels**2) @ weight)
    best = tried[int(np.argmax(score))]
    return (float(best[0]), float(best[1]), float(best[2]))


def b0_angle_deg(field_ppm: ArrayLike, mask: ArrayLike, grid: Grid) -> float:
    """Angle in degrees between the direction of B0 that a local field implies and that of the grid, 0 to 90."""
    implied = np.asarray(implied_b0_dir(field_ppm, mask, grid))
    cosine = abs(float(implied @ np.asarray(grid.b0_dir)))
    return math.degrees(math.acos(min(cosine, 1.0))) if math.isfinite(cosine) else math.nan


def _angular_power(
    field: NDArray[np.float64], grid: Grid
) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.float64]]:
    """Power by direction of k, each shell of |k| brought to mean one; samples by direction; the directions."""
    from scipy.fft import next_fast_len, rfftn

    shape = [next_fast_len(int(1.25 * n), True) for n in field.shape]
    power = np.abs(rfftn(field, s=shape)) ** 2
    waves = [np.fft.fftfreq(n, mm) for n, mm in zip(shape, grid.voxel_mm, strict=True)]
    waves[2] = np.fft.rfftfreq(shape[2], grid.voxel_mm[2])
    x, y, z = np.meshgrid(*waves, indexing="ij", sparse=True)
    k = np.sqrt(x**2 + y**2 + z**2)
    top = min(1 / WAVELENGTH_MM[0], 0.5 / max(grid.voxel_mm))
    kept = (k > 1 / WAVELENGTH_MM[1]) & (k < top)
    unit = np.stack([np.broadcast_to(part, k.shape)[kept] / k[kept] for part in (x, y, z)], -1)
    shell = np.digitize(k[kept], np.linspace(1 / WAVELENGTH_MM[1], top, SHELLS + 1)[1:-1])
    values = power[kept]
    level = np.bincount(shell, values, SHELLS) / np.maximum(np.bincount(shell, minlength=SHELLS), 1)
    values = values / np.where(level > 0, level, 1)[shell]
    axes = _half_sphere(DIRECTIONS)
    nearest = np.concatenate([np.abs(part @ axes.T).argmax(1) for part in np.array_split(unit, len(unit) // 20000 + 1)])
    count = np.bincount(nearest, minlength=DIRECTIONS)
    return np.bincount(nearest, values, DIRECTIONS) / np.maximum(count, 1), count, axes


def _half_sphere(n: int) -> NDArray[np.float64]:
    """``n`` unit vectors, spread evenly over half of the sphere along a spiral."""
    number = np.arange(n) + 0.5
    z, turn = number / n, math.pi * (1 + math.sqrt(5)) * number
    radius = np.sqrt(1 - z**2)
    return np.stack([radius * np.cos(turn), radius * np.sin(turn), z], -1)


def _pair(volume: ArrayLike, mask: ArrayLike) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """Mask and finite volume of one shape."""
    region, array = np.asarray(mask).astype(bool), np.nan_to_num(np.asarray(volume, dtype=np.float64))
    if region.shape != array.shape or region.ndim != 3 or not region.any():
        raise DataError(
            f"volume {array.shape} and mask {region.shape} differ, are not three-dimensional or hold nothing",
            expected="one shape, and a mask with at least one voxel",
        )
    return region, array
