"""Spatial frequencies of a grid; and fewer, larger voxels over the same field of view, in k-space or by averaging."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from qsmprep.core.grid import Grid
from qsmprep.errors import DataError


def spatial_frequency(grid: Grid) -> NDArray[np.float64]:
    """|k| in cycles per mm on the half spectrum."""
    squares = np.zeros((1, 1, 1))
    for axis, (n, mm) in enumerate(zip(grid.shape, grid.voxel_mm, strict=True)):
        k = np.fft.rfftfreq(n, mm) if axis == 2 else np.fft.fftfreq(n, mm)
        squares = squares + (k**2).reshape([-1 if a == axis else 1 for a in range(3)])
    return np.sqrt(squares)


def crop_kspace(image: torch.Tensor, shape: tuple[int, int, int]) -> torch.Tensor:
    """Keep the central k-space of a volume: the same field of view in ``shape`` voxels.

    Voxel centres of both grids are placed symmetrically in the common field of view. Where a
    length is even the two samples at its Nyquist frequency count half each, so the result does
    not depend on flips. The mean is kept.

    Parameters
    ----------
    image : (nx, ny, nz) torch.Tensor
        Real or complex.
    shape : (3,) tuple of int
        At most the shape of ``image``.

    Returns
    -------
    torch.Tensor
        Of ``shape`` and the type of ``image``.
    """
    for axis, (n, m) in enumerate(zip(image.shape, shape, strict=True)):
        if n != m:
            image = _apply(_fourier_matrix(n, m), image, axis)
    return image


def box_average(volume: NDArray[np.floating], shape: tuple[int, int, int]) -> NDArray[np.float32]:
    """Mean of a volume over each of ``shape`` voxels that share its field of view.

    Parameters
    ----------
    volume : (nx, ny, nz) array
    shape : (3,) tuple of int
        At most the shape of ``volume``.

    Returns
    -------
    float32 array of ``shape``
    """
    tensor = torch.as_tensor(np.ascontiguousarray(volume, dtype=np.float32))
    for axis, (n, m) in enumerate(zip(volume.shape, shape, strict=True)):
        if n != m:
            tensor = _apply(_overlap_matrix(n, m), tensor, axis)
    return np.ascontiguousarray(tensor.numpy())


def _fourier_matrix(n_fine: int, n_coarse: int) -> NDArray[np.float64]:
    """Real (n_coarse, n_fine) matrix: DFT, crop to the central frequencies, inverse DFT at the new centres."""
    if n_coarse > n_fine:
        raise DataError(f"{n_coarse} voxels are asked from {n_fine}", expected="a finer grid than the acquired one")
    distance = (np.arange(n_coarse)[:, None] + 0.5) / n_coarse - (np.arange(n_fine)[None, :] + 0.5) / n_fine
    matrix = np.ones_like(distance)
    for k in range(1, n_coarse // 2 + 1):
        matrix += (1.0 if 2 * k == n_coarse else 2.0) * np.cos(2 * np.pi * k * distance)
    return matrix / n_fine


def _overlap_matrix(n_fine: int, n_coarse: int) -> NDArray[np.float64]:
    """Real (n_coarse, n_fine) matrix of the share that every fine voxel has in every coarse one."""
    if n_coarse > n_fine:
        raise DataError(f"{n_coarse} voxels are asked from {n_fine}", expected="a finer grid than the acquired one")
    fine, coarse = np.arange(n_fine + 1) / n_fine, np.arange(n_coarse + 1) / n_coarse
    upper = np.minimum(coarse[1:, None], fine[None, 1:])
    lower = np.maximum(coarse[:-1, None], fine[None, :-1])
    return np.clip(upper - lower, 0.0, None) * n_coarse


def _apply(matrix: NDArray[np.float64], image: torch.Tensor, axis: int) -> torch.Tensor:
    """Multiply ``matrix`` onto one axis of ``image``."""
    operator = torch.as_tensor(matrix, device=image.device).to(image.dtype)
    return torch.movedim(torch.tensordot(operator, image, dims=([1], [axis])), 0, axis)
