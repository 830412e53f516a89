"""Quality metrics: pure functions from arrays to numbers, each defined where it is computed.

No number here is a verdict: limits and their sources stand in :mod:`qsmprep.reports.definitions`.
A metric that has no meaning for the data (a mask too thin, a constant map) is NaN, so that a report
never stops a run; wrong shapes and empty masks are errors.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qsmprep.core.grid import Grid
from qsmprep.errors import DataError

GAUSSIAN_MAD = 0.6744897501960817
"""Median absolute deviation of a normal distribution of unit standard deviation."""


@dataclass(frozen=True)
class RimProfile:
    """Chi against the distance from the edge of the mask.

    Parameters
    ----------
    distance_mm : tuple of float
        Centres of the shells, from the edge inwards.
    mean_ppm, sd_ppm : tuple of float
        Mean and standard deviation of chi in each shell.
    n_voxels : tuple of int
    """

    distance_mm: tuple[float, ...]
    mean_ppm: tuple[float, ...]
    sd_ppm: tuple[float, ...]
    n_voxels: tuple[int, ...]


@dataclass(frozen=True)
class Consistency:
    """How well a susceptibility map explains the field it was computed from.

    Parameters
    ----------
    nrmse : float
        ``||D chi - f|| / ||f||`` inside the mask; NaN for a field of zeros.
    predicted_ppm : (nx, ny, nz) float32 array
        The predicted field in ppm, zero outside the mask.
    shift_ppm : float
        Constant that was added to chi inside the mask (its reference is arbitrary).
    """

    nrmse: float
    predicted_ppm: NDArray[np.float32]
    shift_ppm: float


def mask_volume_ml(mask: ArrayLike, grid: Grid) -> float:
    """Volume of a mask in mL (number of voxels times their volume)."""
    return float(np.count_nonzero(_region(mask)) * grid.voxel_volume_mm3 / 1000.0)


def excluded_fraction(brain_mask: ArrayLike, qsm_mask: ArrayLike) -> float:
    """Share of the brain mask's voxels that are not in the QSM mask, 0 to 1.

    Raises
    ------
    DataError
        When the brain mask is empty or the shapes differ.
    """
    brain = _region(brain_mask)
    return float(1.0 - np.mean(_like(qsm_mask, brain, "qsm_mask").astype(bool)[brain]))


def noise_sd(image: ArrayLike, mask: ArrayLike) -> float:
    """Standard deviation of voxel-wise noise, in the unit of ``image``.

    The mixed third difference over every 2 x 2 x 2 block that lies inside the mask (the finest
    diagonal Haar coefficient) removes smooth anatomy; its median absolute value over 0.6745 is
    robust to the edges that are left. Interpolated or zero-filled images have correlated noise,
    for which this is too low. NaN when fewer than 8 such blocks lie inside the mask.

    Raises
    ------
    DataError
        When the shapes differ or the mask is empty.

    References
    ----------
    .. [1] Donoho and Johnstone, Biometrika 81:425 (1994), doi:10.1093/biomet/81.3.425
    """
    region = _region(mask)
    values = _like(image, region, "image").astype(np.float64)
    region = region & np.isfinite(values)
    detail, block = np.where(region, values, 0.0), region
    for axis in range(3):
        low, high = _pair(axis, 1)
        detail = detail[high] - detail[low]
        block = block[high] & block[low]
    if np.count_nonzero(block) < 8:
        return math.nan
    return float(np.median(np.abs(detail[block])) / math.sqrt(8.0) / GAUSSIAN_MAD)


def snr(magnitude: ArrayLike, mask: ArrayLike) -> float:
    """Median of the magnitude inside the mask over :func:`noise_sd`; infinite without noise."""
    region = _region(mask)
    signal = float(np.nanmedian(_like(magnitude, region, "magnitude")[region]))
    sd = noise_sd(magnitude, region)
    return math.inf if sd == 0 else signal / sd


def contrast_to_noise(chi_ppm: ArrayLike, mask: ArrayLike) -> float:
    """Spread of a map that is not voxel-wise noise, over that noise (:func:`noise_sd`); infinite without noise.

    The square root of the variance in the mask less that of the noise, over the noise. NaN where the noise is unknown.
    The definition is ours.
    """
    noise = noise_sd(chi_ppm, mask)
    spread = math.sqrt(max(_sd(chi_ppm, mask, "chi_ppm") ** 2 - noise**2, 0.0)) if math.isfinite(noise) else math.nan
    return math.inf if noise == 0 else spread / noise


def residual_wraps(unwrapped_rad: ArrayLike, mask: ArrayLike) -> int:
    """Number of pairs of face neighbours inside the mask whose unwrapped phase differs by more than pi.

    Parameters
    ----------
    unwrapped_rad : (nx, ny, nz) array
        Unwrapped phase in radians.
    mask : (nx, ny, nz) bool array
    """
    region = _region(mask)
    phase = _like(unwrapped_rad, region, "unwrapped_rad").astype(np.float64)
    count = 0
    for axis in range(3):
        low, high = _pair(axis, 1)
        jump = np.abs(phase[high] - phase[low]) > math.pi
        count += int(np.count_nonzero(jump & region[high] & region[low]))
    return count


def residual_median(residual: ArrayLike, mask: ArrayLike) -> float:
    """Median of the relative residual of the fit over the echoes inside the mask (dimensionless)."""
    region = _region(mask)
    return float(np.nanmedian(_like(residual, region, "residual")[region]))


def residual_fraction_above(residual: ArrayLike, mask: ArrayLike, threshold: float = 0.3) -> float:
    """Share of the mask whose relative residual exceeds ``threshold``, 0 to 1; non-finite voxels count.

    The threshold is the one above which the example code of the QSM consensus leaves voxels out.
    """
    region = _region(mask)
    return float(1.0 - np.mean(_like(residual, region, "residual")[region] <= threshold))


def field_inhomogeneity_hz(total_hz: ArrayLike, mask: ArrayLike) -> float:
    """Standard deviation of the total field inside the mask, in Hz."""
    return _sd(total_hz, mask, "total_hz")


def chi_sd_ppm(chi_ppm: ArrayLike, mask: ArrayLike) -> float:
    """Standard deviation of susceptibility inside the mask, in ppm."""
    return _sd(chi_ppm, mask, "chi_ppm")


def r2star_median_hz(r2star_hz: ArrayLike, mask: ArrayLike) -> float:
    """Median of R2* inside the mask, in 1/s."""
    region = _region(mask)
    return float(np.nanmedian(_like(r2star_hz, region, "r2star_hz")[region]))


def streaking_index(chi_ppm: ArrayLike, mask: ArrayLike, grid: Grid, *, cone: float = 0.1) -> float:
    """Power of chi near the magic-angle cone over its power elsewhere, at equal spatial frequency.

    Streaks are what an inversion amplifies where the dipole kernel D is near zero. The map, less
    its mean inside the mask, is transformed; in every shell of \\|k\\| between 0.15 and 0.85 of the
    smallest Nyquist frequency the mean power where ``|D| < cone`` is divided by that where
    ``|D| >= 2 * cone``; the index is the geometric mean of these ratios. It is near 1 for tissue
    without a preferred direction, above 1 where noise was amplified into streaks, below 1 where
    regularisation has emptied the cone; streaks that come of the emptying alone (a kernel truncated
    far from zero) do not raise it. NaN for a constant or tiny map. The definition is ours.

    Parameters
    ----------
    chi_ppm : (nx, ny, nz) array
        Susceptibility in ppm.
    mask : (nx, ny, nz) bool array
    grid : Grid
        Voxel size and the direction of B0.
    cone : float
        Half width of the cone, in units of the kernel.

    Raises
    ------
    DataError
        When the shapes differ, the mask is empty or values are not finite.
    """
    from qsmprep.core.dipole import dipole_kernel
    from qsmprep.core.kspace import spatial_frequency

    region = _region(mask)
    chi = _finite(chi_ppm, region, "chi_ppm")
    chi = np.where(region, chi - chi[region].mean(), 0.0)
    power = np.abs(np.fft.rfftn(chi)) ** 2
    kernel = np.abs(dipole_kernel(grid.with_shape(chi.shape)).numpy())
    k = spatial_frequency(grid.with_shape(chi.shape))
    weight = np.full(power.shape, 2.0)
    weight[..., 0] = 1.0
    if chi.shape[2] % 2 == 0:
        weight[..., -1] = 1.0
    nyquist = 0.5 / max(grid.voxel_mm)
    edges = nyquist * np.linspace(0.15, 0.85, 11)
    shell = np.digitize(k, edges)
    logs = []
    for number in range(1, len(edges)):
        near, far = (shell == number) & (kernel < cone), (shell == number) & (kernel >= 2 * cone)
        if near.any() and far.any():
            a, b = np.average(power[near], weights=weight[near]), np.average(power[far], weights=weight[far])
            if a > 0 and b > 0:
                logs.append(math.log(a / b))
    return float(math.exp(np.mean(logs))) if logs else math.nan


def rim_profile(
    chi_ppm: ArrayLike, mask: ArrayLike, grid: Grid, *, step_mm: float = 1.0, max_mm: float = 20.0
) -> RimProfile:
    """Mean and spread of chi in shells of equal distance from the edge of the mask.

    A rim of wrong values, left by background removal, shows in the first shells. Distance is
    Euclidean, in mm, from the nearest voxel outside the mask (beyond the volume counts as outside).
    Shells of less than 20 voxels are left out.

    Raises
    ------
    DataError
        When the shapes differ or the mask is empty.
    """
    region = _region(mask)
    chi = _finite(chi_ppm, region, "chi_ppm")
    shell = np.floor(edge_distance_mm(region, grid) / step_mm).astype(int)
    centres, means, spreads, counts = [], [], [], []
    for number in range(int(np.ceil(max_mm / step_mm))):
        values = chi[region & (shell == number)]
        if values.size >= 20:
            centres.append((number + 0.5) * step_mm)
            means.append(float(values.mean()))
            spreads.append(float(values.std()))
            counts.append(int(values.size))
    return RimProfile(tuple(centres), tuple(means), tuple(spreads), tuple(counts))


def rim_ratio(chi_ppm: ArrayLike, mask: ArrayLike, grid: Grid, *, rim_mm: float = 3.0, deep_mm: float = 10.0) -> float:
    """Root mean square of chi within ``rim_mm`` of the mask's edge over that deeper than ``deep_mm``.

    Both are taken about the deep mean, so that the reference does not matter. NaN when the mask has
    no voxel that deep, or chi is constant there. The definition is ours.

    Raises
    ------
    DataError
        When the shapes differ, the mask is empty or values are not finite.
    """
    region = _region(mask)
    chi = _finite(chi_ppm, region, "chi_ppm")
    depth = edge_distance_mm(region, grid)
    rim, deep = chi[region & (depth <= rim_mm)], chi[region & (depth > deep_mm)]
    if not rim.size or not deep.size or deep.std() == 0:
        return math.nan
    return float(math.sqrt(np.mean((rim - deep.mean()) ** 2)) / deep.std())


def data_consistency(
    chi_ppm: ArrayLike, field_ppm: ArrayLike, mask: ArrayLike, grid: Grid, *, device: str = "cpu"
) -> Consistency:
    """Relative misfit ``||D chi - f|| / ||f||`` inside the mask.

    The reference of chi is arbitrary, but a constant added inside the mask is not invisible to the
    dipole field of a finite mask. The constant that fits best is therefore added first
    (``shift_ppm``); with it the number does not depend on the referencing.

    Parameters
    ----------
    chi_ppm : (nx, ny, nz) array
        Susceptibility in ppm; taken as zero outside the mask.
    field_ppm : (nx, ny, nz) array
        Local field in ppm of B0.
    mask : (nx, ny, nz) bool array
    grid : Grid
        Voxel size and the direction of B0.
    device : str
        Torch device.

    Raises
    ------
    DataError
        When shapes differ, the mask is empty or values are not finite.
    """
    from qsmprep.core.dipole import forward_field

    region = _region(mask)
    chi, field = _finite(chi_ppm, region, "chi_ppm"), _finite(field_ppm, region, "field_ppm")
    if region.shape != grid.shape:
        raise DataError(f"the grid has shape {grid.shape}", expected=f"{region.shape}, the shape of the mask")
    measured = field[region]
    sources = (np.where(region, chi, 0), region)
    predicted, constant = (
        forward_field(source.astype(np.float32), grid, device=device)[region].astype(np.float64) for source in sources
    )
    size, scale = float(np.linalg.norm(measured)), float(np.sum(constant**2))
    shift = float(np.sum(constant * (measured - predicted)) / scale) if scale > 0 else 0.0
    predicted += shift * constant
    nrmse = float(np.linalg.norm(predicted - measured) / size) if size > 0 else math.nan
    result = np.zeros(region.shape, np.float32)
    result[region] = predicted
    return Consistency(nrmse, result, shift)


def edge_distance_mm(mask: ArrayLike, grid: Grid) -> NDArray[np.float64]:
    """Distance in mm from every voxel of the mask to the nearest voxel outside it, less half a voxel."""
    from scipy.ndimage import distance_transform_edt

    padded = np.pad(_region(mask), 1)
    distance = distance_transform_edt(padded, sampling=grid.voxel_mm)[1:-1, 1:-1, 1:-1]
    return np.maximum(distance - 0.5 * min(grid.voxel_mm), 0.0)


def _pair(axis: int, step: int) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    low, high = [slice(None)] * 3, [slice(None)] * 3
    low[axis], high[axis] = slice(None, -step), slice(step, None)
    return tuple(low), tuple(high)


def _region(mask: ArrayLike) -> NDArray[np.bool_]:
    region = np.asarray(mask).astype(bool)
    if region.ndim != 3 or not region.any():
        raise DataError(
            f"the mask of shape {region.shape} is empty or not three-dimensional",
            expected="a 3-D mask with at least one voxel",
            remedy="check the brain extraction, or give a mask",
        )
    return region


def _like(volume: ArrayLike, mask: NDArray[np.bool_], name: str) -> NDArray:
    array = np.asarray(volume)
    if array.shape != mask.shape:
        raise DataError(f"`{name}` has shape {array.shape}", expected=f"{mask.shape}, the shape of the mask")
    return array


def _finite(volume: ArrayLike, mask: NDArray[np.bool_], name: str) -> NDArray[np.float64]:
    array = _like(volume, mask, name).astype(np.float64)
    if not np.isfinite(array[mask]).all():
        raise DataError(f"`{name}` is not finite inside the mask", expected="finite values")
    return array


def _sd(volume: ArrayLike, mask: ArrayLike, name: str) -> float:
    region = _region(mask)
    return float(np.nanstd(_like(volume, region, name)[region].astype(np.float64)))
