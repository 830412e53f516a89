"""Spherical-mean-value kernels.

The mean of a harmonic function over a ball is its value at the centre. On a coarse or anisotropic
grid the plain mean over the voxels whose centres lie in the ball misses this by an amount that
grows with the curvature of the field. The kernels here are therefore adjusted, as little as
possible, until the property holds exactly for every harmonic polynomial of degree 2 and (where the
support has enough points) 4; odd degrees vanish by symmetry.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray

from qsmprep.core.grid import Grid
from qsmprep.core.masking.morphology import RADIUS_TOLERANCE
from qsmprep.errors import DataError


def ball_offsets(radius_mm: float, voxel_mm: tuple[float, float, float]) -> NDArray[np.int_]:
    """Voxel offsets whose centres lie within ``radius_mm`` of the origin.

    Parameters
    ----------
    radius_mm : float
        Radius in mm.
    voxel_mm : (3,) tuple of float
        Voxel edge lengths in mm.

    Returns
    -------
    (n, 3) int array
    """
    reach = [math.floor(radius_mm * (1 + RADIUS_TOLERANCE) / mm) for mm in voxel_mm]
    axes = np.meshgrid(*(np.arange(-n, n + 1) for n in reach), indexing="ij")
    offsets = np.stack([a.ravel() for a in axes], axis=1)
    distance = np.linalg.norm(offsets * np.asarray(voxel_mm), axis=1)
    return offsets[distance <= radius_mm * (1 + RADIUS_TOLERANCE)]


def at_least_one_voxel(radius_mm: float, voxel_mm: tuple[float, float, float]) -> float:
    """``radius_mm``, or the longest voxel edge where that is longer (a smaller ball would miss a direction)."""
    return max(radius_mm, *voxel_mm)


def _harmonic_conditions(x: NDArray[np.float64], degree: int) -> NDArray[np.float64]:
    """Harmonic polynomials up to ``degree`` that are even in x, y and z, at points of unit scale."""
    sx, sy, sz = (x[:, i] ** 2 for i in range(3))
    rows = [sx - sy, sy - sz, sz - sx]
    if degree >= 4:
        rows += [a**2 - 6 * a * b + b**2 for a, b in ((sx, sy), (sy, sz), (sz, sx))]
    return np.stack(rows)


def ball_weights(
    radius_mm: float, voxel_mm: tuple[float, float, float]
) -> tuple[NDArray[np.int_], NDArray[np.float64]]:
    """Support and weights of the spherical-mean-value kernel.

    Parameters
    ----------
    radius_mm : float
        Radius in mm; voxels whose centres lie within it carry weight.
    voxel_mm : (3,) tuple of float
        Voxel edge lengths in mm.

    Returns
    -------
    offsets : (n, 3) int array
        In voxels.
    weights : (n,) float array
        Non-negative, sum 1. They are the ones nearest to equal weights (least squares) that
        reproduce harmonic polynomials of degree 4 at the centre, or of degree 2 where that
        would take negative weights, or else equal weights.

    Raises
    ------
    DataError
        When the radius does not reach the next voxel along every axis.
    """
    if radius_mm * (1 + RADIUS_TOLERANCE) < max(voxel_mm):
        raise DataError(
            f"a kernel radius of {radius_mm:g} mm is smaller than a voxel ({max(voxel_mm):g} mm)",
            expected="a radius of at least the longest voxel edge",
            remedy="take a larger radius",
        )
    offsets = ball_offsets(radius_mm, voxel_mm)
    points = offsets * np.asarray(voxel_mm) / radius_mm
    equal = np.full(len(points), 1.0 / len(points))
    for degree in (4, 2):
        conditions = np.vstack([np.ones(len(points)), _harmonic_conditions(points, degree)])
        target = np.zeros(len(conditions))
        target[0] = 1.0
        step, *_ = np.linalg.lstsq(conditions, target - conditions @ equal, rcond=1e-10)
        weights = equal + step
        if weights.min() >= 0 and np.abs(conditions @ weights - target).max() < 1e-9:
            return offsets, weights
    return offsets, equal


def smv_kernel(
    grid: Grid, radius_mm: float, *, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32
) -> torch.Tensor:
    """Spectrum of the spherical-mean-value kernel on the half spectrum of a real FFT.

    Parameters
    ----------
    grid : Grid
        Grid of the (padded) volume. A ball that does not fit wraps around.
    radius_mm : float
        Radius in mm.
    device, dtype
        Of the result.

    Returns
    -------
    (nx, ny, nz // 2 + 1) torch.Tensor
        Real (the kernel is symmetric), 1 at frequency zero.

    References
    ----------
    .. [1] Schweser et al., NeuroImage 54:2789 (2011), doi:10.1016/j.neuroimage.2010.10.070
    """
    offsets, weights = ball_weights(radius_mm, grid.voxel_mm)
    kernel = np.zeros(grid.shape)
    np.add.at(kernel, tuple(offsets[:, i] % grid.shape[i] for i in range(3)), weights)
    volume = torch.from_numpy(kernel).to(device=device, dtype=dtype)
    return torch.fft.rfftn(volume).real.contiguous()


def apply_spectrum(volume: torch.Tensor, kernel: torch.Tensor, shape: tuple[int, int, int]) -> torch.Tensor:
    """Multiply a real volume by ``kernel`` in the Fourier domain of zero-padded ``shape``; crop back."""
    nx, ny, nz = volume.shape
    spectrum = torch.fft.rfftn(volume, s=shape)
    spectrum *= kernel
    return torch.fft.irfftn(spectrum, s=shape)[:nx, :ny, :nz]
