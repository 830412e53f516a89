"""Nonlinear dipole inversion: gradient descent on the complex signal, regularised by stopping early."""

from __future__ import annotations

import torch

from qsmprep.core.grid import Grid
from qsmprep.core.inversion.problem import DEFAULT_RAD_PER_PPM, ITERATIVE_PAD, Problem, Spectral, Volume, prepare
from qsmprep.core.parameters import NdiParams
from qsmprep.core.results import Susceptibility


def ndi(
    field_ppm: Volume,
    mask: Volume,
    grid: Grid,
    params: NdiParams | None = None,
    *,
    weights: Volume | None = None,
    magnitude: Volume | None = None,
    rad_per_ppm: float | None = None,
    device: str = "cpu",
) -> Susceptibility:
    r"""Susceptibility by gradient descent on the misfit of the complex signal.

    Iterates :math:`\chi \leftarrow \chi - \tau D W^2 \sin(s(D\chi - f))/s - \tau\alpha\chi` from zero, with
    :math:`s` the phase of 1 ppm and the largest weight 1. What is ill conditioned changes slowest, so the
    number of steps is the regularisation: more steps fit more of the noise. The sine is blind to whole
    turns of the phase. Sources outside the mask are free.

    Parameters
    ----------
    field_ppm : (nx, ny, nz) array
        Local field in ppm of B0; ignored outside ``mask``.
    mask : (nx, ny, nz) bool array
        Where the field is valid.
    grid : Grid
        Voxel size and B0 direction along the array axes.
    params : NdiParams, optional
        Step length :math:`\tau`, weight :math:`\alpha`, number of steps.
    weights : (nx, ny, nz) array, optional
        Relative reliability of the field, from 0 to 1.
    magnitude : optional
        Checked, but of no use to this method.
    rad_per_ppm : float, optional
        Phase in radians of 1 ppm at the (effective) echo time; default 3 T at 20 ms.
    device : str
        Torch device.

    Returns
    -------
    Susceptibility
        In ppm, zero outside the mask; ``info["residual_ppm"]`` is the weighted root mean square residual.

    Raises
    ------
    DataError, UsageError
        See :func:`qsmprep.core.inversion.problem.prepare`.

    References
    ----------
    .. [1] Polak et al., NMR Biomed. 33:e4271 (2020), doi:10.1002/nbm.4271
    """
    params = params or NdiParams()
    problem = prepare(
        field_ppm, mask, grid, weights=weights, magnitude=magnitude, rad_per_ppm=rad_per_ppm, device=device
    )
    space = Spectral(problem.grid, ITERATIVE_PAD, problem.device)
    chi, residual = descend(problem, space, params, rad_per_ppm or DEFAULT_RAD_PER_PPM)
    info = {"residual_ppm": residual}
    return Susceptibility(problem.paste(space.ifft(chi)), iterations=params.max_iter, info=info)


def descend(problem: Problem, space: Spectral, params: NdiParams, rad_per_ppm: float) -> tuple[torch.Tensor, float]:
    """The map in k-space after all steps, and the weighted root mean square residual in ppm."""
    part = tuple(slice(0, n) for n in problem.grid.shape)
    trust = (problem.weights / problem.weights.max()) ** 2
    chi = torch.zeros_like(space.dipole, dtype=torch.complex64)
    misfit = -problem.field_ppm
    for _ in range(params.max_iter):
        misfit *= rad_per_ppm
        misfit.sin_()
        misfit *= trust
        pull = space.fft(misfit)
        pull *= space.dipole
        chi *= 1.0 - params.step * params.tikhonov
        chi.sub_(pull, alpha=params.step / rad_per_ppm)
        misfit = space.ifft(chi * space.dipole)[part] - problem.field_ppm
    residual = float(torch.linalg.vector_norm(misfit * problem.weights)) / float(problem.mask.sum()) ** 0.5
    return chi, residual
