"""Truncated singular value decomposition: k-space division that leaves out what is ill conditioned."""

from __future__ import annotations

import torch

from qsmprep.core.grid import Grid
from qsmprep.core.inversion.problem import FULL_PAD, Spectral, Volume, prepare
from qsmprep.core.parameters import TsvdParams
from qsmprep.core.results import Susceptibility


def pseudo_inverse(kernel: torch.Tensor, threshold: float) -> torch.Tensor:
    """``1 / kernel`` where its magnitude reaches ``threshold``, zero elsewhere."""
    small = kernel.abs() < threshold
    return torch.where(small, torch.zeros_like(kernel), 1.0 / torch.where(small, torch.ones_like(kernel), kernel))


def tsvd(
    field_ppm: Volume,
    mask: Volume,
    grid: Grid,
    params: TsvdParams | None = None,
    *,
    weights: Volume | None = None,
    magnitude: Volume | None = None,
    rad_per_ppm: float | None = None,
    device: str = "cpu",
) -> Susceptibility:
    """Susceptibility by k-space division where the dipole kernel is large, and nothing elsewhere.

    The dipole operator is diagonal in k-space, so its singular values are the magnitudes of its
    kernel; those below a threshold are left out.

    Parameters
    ----------
    field_ppm : (nx, ny, nz) array
        Local field in ppm of B0; ignored outside ``mask``.
    mask : (nx, ny, nz) bool array
        Where the field is valid.
    grid : Grid
        Voxel size and B0 direction along the array axes.
    params : TsvdParams, optional
        Threshold.
    weights, magnitude, rad_per_ppm : optional
        Checked, but of no use to this method.
    device : str
        Torch device.

    Returns
    -------
    Susceptibility
        In ppm, zero outside the mask; ``info["kept"]`` is the share of k-space that was kept.

    Raises
    ------
    DataError, UsageError
        See :func:`qsmprep.core.inversion.problem.prepare`.

    References
    ----------
    .. [1] Wharton et al., Magn. Reson. Med. 63:1292 (2010), doi:10.1002/mrm.22334
    """
    params = params or TsvdParams()
    problem = prepare(
        field_ppm, mask, grid, weights=weights, magnitude=magnitude, rad_per_ppm=rad_per_ppm, device=device
    )
    space = Spectral(problem.grid, FULL_PAD, problem.device)
    inverse = pseudo_inverse(space.dipole, params.threshold)
    chi = space.ifft(space.fft(problem.field_ppm) * inverse)
    return Susceptibility(problem.paste(chi), info={"kept": space.mean((inverse != 0).float())})
