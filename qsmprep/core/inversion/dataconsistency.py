"""One closed-form step that makes any susceptibility map consistent with the field it came from."""

from __future__ import annotations

import numpy as np
import torch

from qsmprep.core.grid import Grid
from qsmprep.core.inversion.problem import FULL_PAD, Spectral, Volume, check_volume, prepare
from qsmprep.core.results import FloatVolume
from qsmprep.errors import UsageError


def data_consistency(
    chi_ppm: Volume,
    field_ppm: Volume,
    mask: Volume,
    grid: Grid,
    weight: float = 0.1,
    *,
    fill_outside: bool = False,
    device: str = "cpu",
) -> FloatVolume:
    r"""Pull a susceptibility map towards the data where k-space is well conditioned.

    .. math:: \chi = F^{-1} \frac{D\,F f + \lambda\,F \chi_0}{D^2 + \lambda}

    minimises :math:`\|D\chi - f\|^2 + \lambda\|\chi - \chi_0\|^2`. Where :math:`D^2 \gg \lambda` the
    data decide, near the magic-angle cone the given map does.

    Parameters
    ----------
    chi_ppm : (nx, ny, nz) array
        The map :math:`\chi_0` in ppm; ignored outside ``mask``.
    field_ppm : (nx, ny, nz) array
        Local field in ppm of B0; ignored outside ``mask``.
    mask : (nx, ny, nz) bool array
        Where both are valid.
    grid : Grid
        Voxel size and B0 direction along the array axes.
    weight : float
        :math:`\lambda`, dimensionless, above zero: about the noise-to-signal power ratio of the field.
    fill_outside : bool
        Take the unknown field outside the mask from :math:`D\chi_0` instead of setting it to zero.
    device : str
        Torch device.

    Returns
    -------
    (nx, ny, nz) float32 array
        In ppm, zero outside the mask.

    Raises
    ------
    DataError
        See :func:`qsmprep.core.inversion.problem.prepare`.
    UsageError
        When ``weight`` is not a positive number.
    """
    if not (np.isfinite(weight) and weight > 0):
        raise UsageError(f"the data-consistency weight is {weight}", expected="a number above zero")
    problem = prepare(field_ppm, mask, grid, device=device)
    check_volume("chi_ppm", chi_ppm, grid, np.asarray(mask) != 0)
    prior = problem.cut(chi_ppm)
    assert prior is not None
    space = Spectral(problem.grid, FULL_PAD, problem.device)
    field = problem.field_ppm
    if fill_outside:
        field = space.field(prior)
        nx, ny, nz = problem.grid.shape
        part = field[:nx, :ny, :nz]
        part.copy_(torch.where(problem.mask, problem.field_ppm, part))
    spectrum = space.dipole * space.fft(field) + weight * space.fft(prior)
    spectrum /= space.dipole**2 + weight
    return problem.paste(space.ifft(spectrum))
