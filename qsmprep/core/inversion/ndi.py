"""Nonlinear dipole inversion: gradient descent on the complex signal, regularised by stopping early."""

from __future__ import annotations

import math

import torch

from qsmprep.core.grid import Grid
from qsmprep.core.inversion.phaseterm import folds, phase_cost
from qsmprep.core.inversion.problem import DEFAULT_RAD_PER_PPM, ITERATIVE_PAD, Problem, Spectral, Volume, prepare
from qsmprep.core.parameters import NdiParams
from qsmprep.core.results import Susceptibility

STRAIGHT = 0.2
"""Part of the steps that a descent begins with as if the phase had no turns."""


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

    Where a source turns the phase by more than half, the sine leads the first steps astray. There the descent is
    run once more, its first steps (:data:`STRAIGHT` of them all) without the sine, and the map with the lower misfit
    is kept: next to strong lesions the second, of a field with errors of unwrapping the first.

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
    scale = rad_per_ppm or DEFAULT_RAD_PER_PPM
    chi, misfit = descend(problem, space, params, scale)
    weights2, steps = problem.weights**2, params.max_iter
    if folds(problem.field_ppm, weights2, scale):
        other, left = descend(problem, space, params, scale, straight=math.ceil(STRAIGHT * params.max_iter))
        steps += params.max_iter
        if phase_cost(left, weights2, scale) < phase_cost(misfit, weights2, scale):
            chi, misfit = other, left
    residual = float(torch.linalg.vector_norm(misfit * problem.weights)) / float(problem.mask.sum()) ** 0.5
    return Susceptibility(problem.paste(space.ifft(chi)), steps, info={"residual_ppm": residual})


def descend(
    problem: Problem, space: Spectral, params: NdiParams, rad_per_ppm: float, straight: int = 0
) -> tuple[torch.Tensor, torch.Tensor]:
    """The map in k-space after all steps, the first ``straight`` of them without the sine, and its misfit in ppm."""
    part = tuple(slice(0, n) for n in problem.grid.shape)
    trust = (problem.weights / problem.weights.max()) ** 2
    chi = torch.zeros_like(space.dipole, dtype=torch.complex64)
    misfit = -problem.field_ppm
    for done in range(params.max_iter):
        misfit *= rad_per_ppm
        if done >= straight:
            misfit.sin_()
        misfit *= trust
        pull = space.fft(misfit)
        pull *= space.dipole
        chi *= 1.0 - params.step * params.tikhonov
        chi.sub_(pull, alpha=params.step / rad_per_ppm)
        misfit = space.ifft(chi * space.dipole)[part] - problem.field_ppm
    return chi, misfit
