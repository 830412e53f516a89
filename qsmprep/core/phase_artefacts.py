"""Artefacts that scanners leave in phase images: filtering, bipolar readouts, alternating slices."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from qsmprep.core.grid import Grid
from qsmprep.core.sampling import some_of
from qsmprep.errors import DataError

FloatArray = NDArray[np.floating]


@dataclass(frozen=True)
class FilterCheck:
    """Whether phase looks high-pass filtered.

    Parameters
    ----------
    filtered : bool
        ``score`` above one half.
    score : float
        From 0 (a raw field) to 1 (nothing but detail).
    """

    filtered: bool
    score: float


@dataclass(frozen=True)
class BipolarCorrection:
    """What the correction of odd and even echoes did.

    Parameters
    ----------
    phase_rad : (n_echo, nx, ny, nz) float32 array
        Corrected, wrapped phase.
    gradient_rad_per_mm : (3,) tuple of float
        Phase gradient of even against odd echoes along the array axes; the first echo is odd.
    constant_rad : float
        Their phase difference at the centre of the array, in [-pi/2, pi/2].
    applied : bool
        False where there are fewer than three echoes or they are not evenly spaced.
    reason : str
        Why not, else empty.
    """

    phase_rad: NDArray[np.float32]
    gradient_rad_per_mm: tuple[float, float, float]
    constant_rad: float
    applied: bool
    reason: str = ""


def looks_filtered(
    phase_rad: FloatArray,
    magnitude: FloatArray | None,
    mask: NDArray[np.bool_],
    grid: Grid,
    *,
    sigma_mm: float = 4.0,
) -> FilterCheck:
    """Tell phase that the scanner has high-pass filtered (as for SWI) from raw phase, heuristically.

    The complex signal is smoothed. In raw phase the angle of the smooth signal carries the field,
    larger than what is left at the fine scale; a filter has removed just that angle. The score is
    ``1 / (1 + (smooth / fine)^2)`` with root mean square angles weighted by the squared signal.

    Parameters
    ----------
    phase_rad : (nx, ny, nz) array
        Wrapped phase of one echo, best a late one.
    magnitude : (nx, ny, nz) array or None
        Arbitrary unit.
    mask : (nx, ny, nz) bool array
    grid : Grid
    sigma_mm : float
        Standard deviation of the Gaussian in mm.

    Returns
    -------
    FilterCheck

    Raises
    ------
    DataError
        For shapes that differ or an empty mask.
    """
    phase = np.asarray(phase_rad, dtype=np.float32)
    inside = np.asarray(mask, dtype=bool)
    if phase.shape != grid.shape or inside.shape != grid.shape:
        raise DataError(f"phase {phase.shape}, mask {inside.shape}", expected=f"two volumes of shape {grid.shape}")
    if not inside.any():
        raise DataError("the mask is empty", expected="at least one voxel")
    weight = np.ones(grid.shape, np.float32) if magnitude is None else np.asarray(magnitude, np.float32)
    signal = _relative(np.where(inside, weight, np.float32(0))) * np.exp(1j * phase)
    low = smooth_complex(signal, grid, sigma_mm)
    fine = np.angle(signal * np.conj(low))
    importance = np.where(inside, np.abs(low) ** 2, 0)
    total = float(importance.sum())
    if total <= 0:
        return FilterCheck(False, 0.0)
    rms_low = math.sqrt(float((importance * np.angle(low) ** 2).sum()) / total)
    rms_fine = math.sqrt(float((importance * fine**2).sum()) / total)
    if rms_fine == 0:
        return FilterCheck(False, 0.0)
    score = 1.0 / (1.0 + (rms_low / rms_fine) ** 2)
    return FilterCheck(score > 0.5, score)


def smooth_complex(signal: NDArray[np.complexfloating], grid: Grid, sigma_mm: float) -> NDArray[np.complex64]:
    """Convolve a complex volume with a Gaussian given in mm; outside the array there is nothing."""
    sigma = [sigma_mm / v for v in grid.voxel_mm]
    real = ndimage.gaussian_filter(np.real(signal).astype(np.float32), sigma, mode="constant", truncate=3.0)
    imag = ndimage.gaussian_filter(np.imag(signal).astype(np.float32), sigma, mode="constant", truncate=3.0)
    result: NDArray[np.complex64] = (real + 1j * imag).astype(np.complex64)
    return result


def correct_bipolar(
    phase_rad: FloatArray,
    magnitude: FloatArray | None,
    mask: NDArray[np.bool_] | None,
    te_s: Sequence[float],
    grid: Grid,
) -> BipolarCorrection:
    r"""Remove the linear phase between odd and even echoes of a bipolar readout.

    For evenly spaced echoes :math:`\varphi_e - 2\varphi_{e+1} + \varphi_{e+2}` holds neither field nor
    offset, only the odd-even difference, twice and with alternating sign. A plane is fitted to the
    angle of the sum of all such triples, without unwrapping; half of it is taken from the even and
    half given to the odd echoes, so that the mean of the two readout directions stays.

    Parameters
    ----------
    phase_rad : (n_echo, nx, ny, nz) array
        Wrapped phase.
    magnitude : (n_echo, nx, ny, nz) array or None
        Arbitrary unit; weights.
    mask : (nx, ny, nz) bool array or None
    te_s : sequence of float
        Echo times in s.
    grid : Grid

    Returns
    -------
    BipolarCorrection
        With the phase unchanged and ``applied`` False for fewer than three or unevenly spaced echoes.

    Raises
    ------
    DataError
        For shapes that do not fit.
    """
    fit = fit_bipolar(phase_rad, magnitude, mask, te_s, grid)
    phase = np.asarray(phase_rad, dtype=np.float32)
    if fit.reason:
        return BipolarCorrection(phase, fit.gradient_rad_per_mm, fit.constant_rad, False, fit.reason)
    return BipolarCorrection(remove_bipolar(phase, fit, grid), fit.gradient_rad_per_mm, fit.constant_rad, True)


@dataclass(frozen=True)
class BipolarFit:
    """The plane of phase between even and odd echoes (see :class:`BipolarCorrection`), or why there is none."""

    gradient_rad_per_mm: tuple[float, float, float] = (0.0, 0.0, 0.0)
    constant_rad: float = 0.0
    reason: str = ""


def fit_bipolar(
    phase_rad: FloatArray,
    magnitude: FloatArray | None,
    mask: NDArray[np.bool_] | None,
    te_s: Sequence[float],
    grid: Grid,
) -> BipolarFit:
    """The fit of :func:`correct_bipolar` alone; parameters and errors as there."""
    phase = np.asarray(phase_rad, dtype=np.float32)
    te = np.asarray(te_s, dtype=float)
    if phase.ndim != 4 or phase.shape[1:] != grid.shape or len(te) != len(phase):
        raise DataError(f"phase has shape {phase.shape}", expected=f"{len(te)} echoes of shape {grid.shape}")
    if len(te) < 3:
        return BipolarFit(reason="fewer than three echoes")
    if np.ptp(np.diff(te)) > 0.01 * float(np.diff(te).mean()):
        return BipolarFit(reason="echoes are not evenly spaced")
    inside = np.ones(grid.shape, bool) if mask is None else np.asarray(mask, bool)
    contrast = np.zeros(grid.shape, np.complex64)
    weight = None if magnitude is None else _relative(np.asarray(magnitude, np.float32)[:, inside])
    contrast[inside] = _odd_even_contrast(phase[:, inside], weight)
    scale = float(np.abs(contrast).max())
    if scale == 0:
        return BipolarFit(reason="no signal in all echoes")
    gradient, constant = fit_plane(contrast / scale, grid)
    per_mm = (float(gradient[0]) / 2, float(gradient[1]) / 2, float(gradient[2]) / 2)
    return BipolarFit(per_mm, constant / 2)


def remove_bipolar(phase_rad: FloatArray, fit: BipolarFit, grid: Grid) -> NDArray[np.float32]:
    """Wrapped phase less half of the fitted plane in even echoes, and with half of it in odd ones."""
    half = plane(grid, np.asarray(fit.gradient_rad_per_mm), fit.constant_rad).astype(np.float32) / 2
    signs = np.where(np.arange(len(phase_rad)) % 2 == 1, -1, 1).astype(np.float32)
    wrapped: NDArray[np.float32] = np.angle(np.exp(1j * (phase_rad + signs[:, None, None, None] * half)))
    return wrapped.astype(np.float32)


def _odd_even_contrast(phase: NDArray[np.float32], weight: NDArray[np.float32] | None) -> NDArray[np.complex64]:
    """Sum over triples of echoes whose angle is twice the phase of even against odd echoes."""
    contrast = np.zeros(phase.shape[1:], np.complex64)
    for e in range(len(phase) - 2):
        triple = np.exp(1j * (phase[e] - 2 * phase[e + 1] + phase[e + 2]))
        if weight is not None:
            triple *= (weight[e] * weight[e + 2]) * weight[e + 1] ** 2
        contrast += np.conj(triple) if e % 2 == 0 else triple
    return contrast


def _relative(weight: NDArray[np.float32]) -> NDArray[np.float32]:
    """Over the largest, so that products of several are numbers in any unit."""
    most = float(weight.max())
    return weight / np.float32(most) if most > 0 else weight


def _coordinates(grid: Grid) -> list[NDArray[np.float64]]:
    """Distance from the centre of the array in mm along each axis, shaped to broadcast."""
    axes: list[NDArray[np.float64]] = []
    for axis, (n, voxel) in enumerate(zip(grid.shape, grid.voxel_mm, strict=True)):
        shape = [1, 1, 1]
        shape[axis] = n
        axes.append(((np.arange(n, dtype=np.float64) - (n - 1) / 2) * voxel).reshape(shape))
    return axes


def plane(grid: Grid, gradient: NDArray[np.float64], constant: float) -> NDArray[np.float64]:
    """The plane of :func:`fit_plane` on the whole grid, in rad."""
    x, y, z = _coordinates(grid)
    return np.asarray(gradient[0] * x + gradient[1] * y + gradient[2] * z + constant)


def fit_plane(signal: NDArray[np.complexfloating], grid: Grid) -> tuple[NDArray[np.float64], float]:
    """Fit a plane to the angle of a complex volume, wraps and all, weighted by its magnitude.

    Of many voxels only some are looked at once the gradient is known roughly.

    Parameters
    ----------
    signal : (nx, ny, nz) complex array
        Zero where there is nothing to fit.
    grid : Grid

    Returns
    -------
    gradient : (3,) array
        In rad/mm along the array axes.
    constant : float
        In rad at the centre of the array, in [-pi, pi].
    """
    gradient = np.zeros(3)
    for axis, voxel in enumerate(grid.voxel_mm):
        ahead = np.moveaxis(signal, axis, 0)
        if grid.shape[axis] > 1:
            gradient[axis] = np.angle(np.sum(ahead[1:] * np.conj(ahead[:-1]), dtype=np.complex128)) / voxel
    there = np.nonzero(signal)
    there = tuple(index[some_of(index.size)] for index in there)
    values = signal[there].astype(np.complex128)
    axes = [axis for axis in range(3) if grid.shape[axis] > 1]
    lines = [_coordinates(grid)[axis].ravel()[there[axis]] for axis in axes]
    design = np.stack([*lines, np.ones(values.size)])
    weighted = design * np.abs(values)
    normal, constant = weighted @ design.T, 0.0
    for _ in range(5):
        rest = values * np.exp(-1j * (np.append(gradient[axes], constant) @ design))
        common = float(np.angle(rest.sum()))
        residual = np.angle(rest * np.exp(-1j * common))
        step = np.linalg.lstsq(normal, weighted @ residual, rcond=None)[0]
        gradient[axes] += step[:-1]
        constant += common + float(step[-1])
    return gradient, float(np.angle(np.exp(1j * constant)))


def correct_slice_alternation(
    phase_rad: FloatArray, magnitude: FloatArray | None = None, mask: NDArray[np.bool_] | None = None
) -> tuple[NDArray[np.float32], tuple[int, ...]]:
    """Undo a phase of pi between neighbouring slices, as some reconstructions leave it.

    Parameters
    ----------
    phase_rad : (..., nx, ny, nz) array
        Wrapped phase; every echo is treated alike.
    magnitude : array of the same shape, optional
        Arbitrary unit; weights.
    mask : (nx, ny, nz) bool array, optional
        Where to look; without a magnitude the phase of air would hide it.

    Returns
    -------
    phase_rad : float32 array of the same shape
        Unchanged where no axis alternates.
    axes : tuple of int
        Array axes (0 to 2) along which the phase alternated.

    Raises
    ------
    DataError
        For fewer than three axes.
    """
    phase = np.asarray(phase_rad, dtype=np.float32)
    if phase.ndim < 3:
        raise DataError(f"the phase has shape {phase.shape}", expected="at least three axes")
    signal = np.exp(1j * phase.reshape(-1, *phase.shape[-3:])[0])  # the first echo, which has most signal
    if magnitude is not None:
        signal *= np.asarray(magnitude, np.float32).reshape(-1, *phase.shape[-3:])[0]
    if mask is not None:
        signal *= np.asarray(mask, bool)
    axes = tuple(axis for axis in range(3) if _agreement(signal, axis) < -0.5)
    if not axes:
        return phase, axes
    flip = np.zeros(phase.shape[-3:], np.float32)
    for axis in axes:
        shape = [1, 1, 1]
        shape[axis] = -1
        flip += np.where(np.arange(flip.shape[axis]) % 2 == 1, np.pi, 0.0).reshape(shape).astype(np.float32)
    return np.angle(np.exp(1j * (phase + flip))).astype(np.float32), axes


def _agreement(signal: NDArray[np.complexfloating], axis: int) -> float:
    """Cosine of the phase between neighbours along an axis, weighted by their magnitudes; 0 of nothing."""
    ahead = np.moveaxis(signal, axis, 0)
    products = (ahead[1:] * np.conj(ahead[:-1])).astype(np.complex128)
    norm = float(np.abs(products).sum())
    return float(products.real.sum()) / norm if norm > 0 else 0.0
