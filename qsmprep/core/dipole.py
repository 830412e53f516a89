"""The unit dipole kernel and the forward field of a susceptibility map.

Convention: a paramagnetic source (positive susceptibility) raises the field along B0 above and
below itself and lowers it around its equator.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.fft import next_fast_len

from qsmprep.core.grid import Grid

AT_ONCE = 2**20
"""Points of k-space that are computed at once, in double precision: a kernel's memory is that of its result."""


def padded_shape(shape: tuple[int, ...], factor: float = 2.0) -> tuple[int, int, int]:
    """Smallest fast FFT lengths, at least ``factor`` times ``shape``, all even.

    Parameters
    ----------
    shape : (3,) tuple of int
        Lengths of the volume.
    factor : float
        1 pads to the next fast length only; 2 keeps the periodic copies of every source at least
        the volume's length away (less than 1 % of the field of a source at the volume's edge).
    """
    lengths = []
    for n in shape:
        length = next_fast_len(int(np.ceil(n * factor)), real=True)
        while length % 2:
            length = next_fast_len(length + 1, real=True)
        lengths.append(length)
    return tuple(lengths)


def dipole_kernel(
    grid: Grid, *, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32
) -> torch.Tensor:
    r"""Unit dipole kernel on the half spectrum of a real FFT.

    :math:`D(k) = 1/3 - (k \cdot \hat b)^2 / |k|^2`, with :math:`D(0) = 0`.

    On the Nyquist planes of even lengths the cross terms are dropped (the mean of the kernel at
    plus and minus the Nyquist frequency), so that the kernel is exactly Hermitian and the field
    does not depend on how the array axes are flipped.

    Parameters
    ----------
    grid : Grid
        Grid of the (padded) volume.
    device, dtype
        Of the result.

    Returns
    -------
    (nx, ny, nz // 2 + 1) torch.Tensor
        Dimensionless, in [-2/3, 1/3], for :func:`torch.fft.rfftn`.

    References
    ----------
    .. [1] Marques and Bowtell, Concepts Magn. Reson. B 25:65 (2005), doi:10.1002/cmr.b.20034
    .. [2] Salomir et al., Concepts Magn. Reson. B 19:26 (2003), doi:10.1002/cmr.b.10083
    """
    squares, odds = spatial_lines(grid, device=device)
    nx, ny, nz = grid.shape
    kernel = torch.empty((nx, ny, nz // 2 + 1), device=device, dtype=dtype)
    rows = max(1, AT_ONCE // (ny * (nz // 2 + 1)))
    for first in range(0, nx, rows):
        part = slice(first, first + rows)
        kernel[part] = _quotient([squares[0][part], *squares[1:]], [odds[0][part], *odds[1:]], grid.b0_dir)
    kernel[0, 0, 0] = 0.0
    return kernel


def spatial_lines(grid: Grid, *, device: str | torch.device = "cpu") -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Squared spatial frequencies along each axis of the half spectrum, and those for products of two axes.

    Parameters
    ----------
    grid : Grid
        Grid of the (padded) volume.
    device
        Of the result.

    Returns
    -------
    squares, odds : list of three torch.Tensor
        In 1/mm² and 1/mm, float64, each along its own axis of three; ``odds`` are zero at the Nyquist frequency of
        even lengths, where plus and minus are the same.
    """
    squares, odds = [], []
    for axis, (n, mm) in enumerate(zip(grid.shape, grid.voxel_mm, strict=True)):
        k = np.fft.rfftfreq(n, mm) if axis == 2 else np.fft.fftfreq(n, mm)
        odd = k.copy()
        if n % 2 == 0:
            odd[n // 2] = 0.0
        view = [1, 1, 1]
        view[axis] = -1
        squares.append(torch.from_numpy(k**2).view(view).to(device))
        odds.append(torch.from_numpy(odd).view(view).to(device))
    return squares, odds


def _quotient(
    squares: Sequence[torch.Tensor], odds: Sequence[torch.Tensor], b0_dir: tuple[float, float, float]
) -> torch.Tensor:
    """1/3 less the squared cosine of the angle to B0, in double precision; 1/3 at the origin."""
    bx, by, bz = b0_dir
    k2 = squares[0] + squares[1] + squares[2]
    kb2 = bx * bx * squares[0] + by * by * squares[1] + bz * bz * squares[2]
    kb2 = kb2 + 2 * (bx * by * odds[0] * odds[1])
    kb2 += 2 * (bx * bz * odds[0] + by * bz * odds[1]) * odds[2]
    k2.masked_fill_(k2 == 0.0, 1.0)
    return kb2.div_(k2).neg_().add_(1.0 / 3.0)


def convolve(volume: torch.Tensor, kernel: torch.Tensor, shape: tuple[int, int, int]) -> torch.Tensor:
    """Multiply by ``kernel`` in the Fourier domain of zero-padded ``shape``, and crop back.

    Parameters
    ----------
    volume : (..., nx, ny, nz) torch.Tensor
        Real volume (or a batch of them).
    kernel : torch.Tensor
        Half spectrum over ``shape``.
    shape : (3,) tuple of int
        Padded lengths.
    """
    nx, ny, nz = volume.shape[-3:]
    spectrum = torch.fft.rfftn(volume, s=shape, dim=(-3, -2, -1))
    spectrum *= kernel
    result = torch.fft.irfftn(spectrum, s=shape, dim=(-3, -2, -1))
    return result[..., :nx, :ny, :nz]


def forward_field(
    chi_ppm: NDArray[np.floating] | NDArray[np.float32],
    grid: Grid,
    *,
    pad_factor: float = 2.0,
    device: str = "cpu",
) -> NDArray[np.float32]:
    """Field offset along B0 that a susceptibility distribution makes, relative to B0.

    Parameters
    ----------
    chi_ppm : (nx, ny, nz) array
        Susceptibility in ppm on ``grid``.
    grid : Grid
        Voxel size and B0 direction.
    pad_factor : float
        Zero padding; see :func:`padded_shape`.
    device : str
        Torch device.

    Returns
    -------
    (nx, ny, nz) float32 array
        Field offset in ppm of B0 (Lorentz-sphere corrected).
    """
    shape = padded_shape(grid.shape, pad_factor)
    kernel = dipole_kernel(grid.with_shape(shape), device=device)
    chi = torch.as_tensor(np.ascontiguousarray(chi_ppm, dtype=np.float32), device=device)
    return np.ascontiguousarray(convolve(chi, kernel, shape).cpu().numpy())
