"""Thresholded k-space division."""

from __future__ import annotations

import torch

from qsmprep.core.grid import Grid
from qsmprep.core.inversion.problem import FULL_PAD, Spectral, Volume, prepare
from qsmprep.core.parameters import TkdParams
from qsmprep.core.results import Susceptibility


def truncated_inverse(kernel: torch.Tensor, threshold: float) -> torch.Tensor:
    """``1 / kernel`` where its magnitude exceeds ``threshold``, its sign over ``threshold`` elsewhere."""
    small = kernel.abs() < threshold
    return torch.where(small, kernel.sign() / threshold, 1.0 / torch.where(small, torch.ones_like(kernel), kernel))


def tkd(
    field_ppm: Volume,
    mask: Volume,
    grid: Grid,
    params: TkdParams | None = None,
    *,
    weights: Volume | None = None,
    magnitude: Volume | None = None,
    rad_per_ppm: float | None = None,
    device: str = "cpu",
) -> Susceptibility:
    """Susceptibility by thresholded k-space division.

    Parameters
    ----------
    field_ppm : (nx, ny, nz) array
        Local field in ppm of B0; ignored outside ``mask``.
    mask : (nx, ny, nz) bool array
        Where the field is valid.
    grid : Grid
        Voxel size and B0 direction along the array axes.
    params : TkdParams, optional
        Threshold, and whether to divide by the mean of kernel times truncated inverse over k-space
        (the centre of the point-spread function), which lifts the underestimation of TKD [2]_.
    weights, magnitude, rad_per_ppm : optional
        Checked, but of no use to this method.
    device : str
        Torch device.

    Returns
    -------
    Susceptibility
        In ppm, zero outside the mask; ``info["psf_centre"]`` is the factor of the bias.

    Raises
    ------
    DataError, UsageError
        See :func:`qsmprep.core.inversion.problem.prepare`.

    References
    ----------
    .. [1] Shmueli et al., Magn. Reson. Med. 62:1510 (2009), doi:10.1002/mrm.22135
    .. [2] Schweser et al., Magn. Reson. Med. 69:1582 (2013), doi:10.1002/mrm.24405
    """
    params = params or TkdParams()
    problem = prepare(
        field_ppm, mask, grid, weights=weights, magnitude=magnitude, rad_per_ppm=rad_per_ppm, device=device
    )
    space = Spectral(problem.grid, FULL_PAD, problem.device)
    inverse = truncated_inverse(space.dipole, params.threshold)
    centre = space.mean(inverse * space.dipole)
    if params.correct_bias:
        inverse /= centre
    chi = space.ifft(space.fft(problem.field_ppm) * inverse)
    return Susceptibility(problem.paste(chi), info={"psf_centre": centre})
