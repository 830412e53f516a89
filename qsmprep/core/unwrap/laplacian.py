"""Phase unwrapping by a Poisson equation (Laplacian unwrapping)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from qsmprep.core.grid import Grid
from qsmprep.core.parameters import LaplacianUnwrapParams
from qsmprep.core.phase_artefacts import smooth_complex
from qsmprep.core.results import Unwrapped
from qsmprep.core.unwrap import common

FloatArray = NDArray[np.floating]
REACH = (1.0, 4.0)
"""Standard deviations, in voxels, of the Gaussians that continue the phase outside the mask."""


def unwrap(
    phase_rad: FloatArray,
    magnitude: FloatArray | None,
    mask: NDArray[np.bool_] | None,
    te_s: Sequence[float],
    grid: Grid,
    params: LaplacianUnwrapParams | None = None,
) -> Unwrapped:
    """Unwrap every echo by solving for the phase whose Laplacian is that of the wrapped phase.

    The Laplacian of the true phase is taken from differences between neighbours, wrapped to
    [-pi, pi]; the Poisson equation is solved with cosine transforms, which mirror the volume at its
    faces. The noise outside the mask would bend the solution inside, so the phase there is replaced by
    a smooth continuation of the phase inside. The result is robust but smooth: it is not congruent with
    the measured phase unless ``params.snap`` is set.

    Parameters
    ----------
    phase_rad : (n_echo, nx, ny, nz) array
        Wrapped phase.
    magnitude : (n_echo, nx, ny, nz) array or None
        Checked only.
    mask : (nx, ny, nz) bool array or None
        What is unwrapped.
    te_s : sequence of float
        Echo times in s, increasing.
    grid : Grid
        Differences are weighted by the voxel sizes.
    params : LaplacianUnwrapParams, optional

    Returns
    -------
    Unwrapped
        ``exact`` only with ``params.snap``.

    Raises
    ------
    DataError
        As :func:`qsmprep.core.unwrap.romeo.unwrap`.

    References
    ----------
    Schofield & Zhu, Opt Lett 2003;28:1194-1196. doi:10.1364/OL.28.001194
    """
    params = params or LaplacianUnwrapParams()
    phase, _, inside = common.check_inputs(phase_rad, magnitude, mask, te_s, grid)
    smooth = np.zeros(phase.shape, np.float64)
    for e, echo in enumerate(phase):
        solved = solve_poisson(torch.from_numpy(_continued(echo, inside, grid)), grid).numpy().astype(np.float64)
        apart = np.exp(1j * (echo[inside] - solved[inside]))
        smooth[e] = solved + float(np.angle(apart.sum()))
    labels = inside.astype(np.int64)
    smooth[0] -= common.TWO_PI * np.rint(np.median(smooth[0][inside]) / common.TWO_PI)
    first = np.where(inside, smooth[0], 0).astype(np.float32)
    smooth[0] += common.TWO_PI * common.global_wraps(first, 0, phase, inside, te_s)
    smooth += common.TWO_PI * common.align_echoes(smooth, labels, 0, te_s)
    info = {"snap": params.snap}
    if params.snap:
        wraps = np.rint((smooth - phase) / common.TWO_PI).astype(np.int32)
        return common.exact_result(phase, wraps, inside, info)
    return Unwrapped(np.where(inside, smooth, 0).astype(np.float32), False, info)


def _continued(echo: common.Volume, mask: common.Mask, grid: Grid) -> common.Volume:
    """The phase inside the mask, and outside the angle of its unit phasors smoothed over the border."""
    inside = np.where(mask, np.exp(1j * echo), 0).astype(np.complex64)
    filled, empty = inside.copy(), ~mask
    for width in REACH:
        smooth = smooth_complex(inside, grid, width * max(grid.voxel_mm))
        reached = empty & (np.abs(smooth) > 0)
        filled[reached] = smooth[reached]
        empty &= ~reached
    return np.where(mask, echo, np.angle(filled)).astype(np.float32)


def solve_poisson(phase: torch.Tensor, grid: Grid) -> torch.Tensor:
    """Zero-mean phase whose discrete Laplacian is that of the wrapped differences of ``phase``.

    Parameters
    ----------
    phase : (nx, ny, nz) float tensor
        In radians.
    grid : Grid

    Returns
    -------
    (nx, ny, nz) float32 tensor
        Exact up to a constant where no closed loop of differences adds up to a wrap.
    """
    divergence = torch.zeros_like(phase)
    eigenvalues = torch.zeros_like(phase)
    for axis, (n, voxel) in enumerate(zip(grid.shape, grid.voxel_mm, strict=True)):
        if n == 1:
            continue
        step = torch.diff(phase, dim=axis)
        step = (step - common.TWO_PI * torch.round(step / common.TWO_PI)) / voxel**2
        divergence.narrow(axis, 0, n - 1).add_(step)
        divergence.narrow(axis, 1, n - 1).sub_(step)
        frequency = torch.arange(n, device=phase.device, dtype=phase.dtype) * (math.pi / n)
        shape = [1, 1, 1]
        shape[axis] = n
        eigenvalues += ((2 * torch.cos(frequency) - 2) / voxel**2).reshape(shape)
    spectrum = divergence
    for axis in range(3):
        spectrum = _cosine(spectrum, axis)
    eigenvalues[0, 0, 0] = 1
    spectrum = spectrum / eigenvalues
    spectrum[0, 0, 0] = 0
    for axis in range(3):
        spectrum = _inverse_cosine(spectrum, axis)
    return spectrum


def _twiddle(n: int, like: torch.Tensor) -> torch.Tensor:
    angle = torch.arange(n, device=like.device, dtype=like.dtype) * (-math.pi / (2 * n))
    return torch.complex(torch.cos(angle), torch.sin(angle))


def _cosine(x: torch.Tensor, axis: int) -> torch.Tensor:
    """Unnormalised DCT-II along one axis: ``2 sum_k x_k cos(pi m (2k + 1) / 2n)``."""
    x = x.movedim(axis, -1)
    n = x.shape[-1]
    reordered = torch.cat([x[..., ::2], x[..., 1::2].flip(-1)], dim=-1)
    result = 2 * (torch.fft.fft(reordered, dim=-1) * _twiddle(n, x)).real
    return result.movedim(-1, axis)


def _inverse_cosine(x: torch.Tensor, axis: int) -> torch.Tensor:
    """Inverse of :func:`_cosine`."""
    x = x.movedim(axis, -1)
    n = x.shape[-1]
    mirrored = torch.cat([torch.zeros_like(x[..., :1]), x[..., 1:].flip(-1)], dim=-1)
    half = torch.complex(x, -mirrored) * _twiddle(n, x).conj() / 2
    reordered = torch.fft.ifft(half, dim=-1).real
    result = torch.empty_like(x)
    middle = (n + 1) // 2
    result[..., ::2] = reordered[..., :middle]
    result[..., 1::2] = reordered[..., middle:].flip(-1)
    return result.movedim(-1, axis)
