"""Rapid two-step inversion."""

from __future__ import annotations

import torch

from qsmprep.core.grid import Grid
from qsmprep.core.inversion.admm import TotalVariation, relative_change
from qsmprep.core.inversion.auto import Weight
from qsmprep.core.inversion.lsqr import Solution, lsqr
from qsmprep.core.inversion.problem import ITERATIVE_PAD, Problem, Spectral, Volume, prepare
from qsmprep.core.parameters import RtsParams
from qsmprep.core.results import Susceptibility

SHARE = 1.5
"""Weight that is chosen from the data, over the residual of the first step and the voxel edge."""


def rts(
    field_ppm: Volume,
    mask: Volume,
    grid: Grid,
    params: RtsParams | None = None,
    *,
    weights: Volume | None = None,
    magnitude: Volume | None = None,
    rad_per_ppm: float | None = None,
    device: str = "cpu",
) -> Susceptibility:
    r"""Susceptibility in two rapid steps.

    The first step solves the weighted least-squares problem with a few iterations of LSQR for that
    part of k-space in which the dipole kernel exceeds a threshold. The second keeps that part and
    fills in the rest by minimising the total variation:
    :math:`\frac{1}{2}\|P F(\chi - \chi_1)\|^2 + \lambda\|\nabla\chi\|_1`, with :math:`P` the well
    conditioned part and the gradient per mm.

    Parameters
    ----------
    field_ppm : (nx, ny, nz) array
        Local field in ppm of B0; ignored outside ``mask``.
    mask : (nx, ny, nz) bool array
        Where the field is valid.
    grid : Grid
        Voxel size and B0 direction along the array axes.
    params : RtsParams, optional
        Threshold, LSQR iterations, weight of the total variation (0 to follow the residual of the first
        step), when to stop.
    weights : (nx, ny, nz) array, optional
        Relative reliability of the field, from 0 to 1.
    magnitude, rad_per_ppm : optional
        Checked, but of no use to this method.
    device : str
        Torch device.

    Returns
    -------
    Susceptibility
        In ppm, zero outside the mask. ``info`` holds the relative residual of the first step and the
        relative change of the last iteration of the second.

    Raises
    ------
    DataError, UsageError
        See :func:`qsmprep.core.inversion.problem.prepare`.

    References
    ----------
    .. [1] Kames et al., NeuroImage 167:276 (2018), doi:10.1016/j.neuroimage.2017.11.018
    """
    params = params or RtsParams()
    problem = prepare(
        field_ppm, mask, grid, weights=weights, magnitude=magnitude, rad_per_ppm=rad_per_ppm, device=device
    )
    space = Spectral(problem.grid, ITERATIVE_PAD, problem.device)
    part = tuple(slice(0, n) for n in problem.grid.shape)
    known = space.dipole.abs() > params.threshold
    first = _well_conditioned(problem, space, known, params.lsqr_iter)
    weight = Weight(params.weight, SHARE, problem)
    if weight.follows:
        weight.renew(problem.field_ppm - space.field(first.x)[part])
    split = TotalVariation(space, known.to(torch.float32), weight.value, params.rho)
    data = space.fft(first.x)
    chi, change, done = first.x, 1.0, 0
    while done < params.max_iter and change >= params.tolerance:
        split.shrink(chi)
        old, chi = chi, split.solve(data)
        change = relative_change(chi[part] * problem.mask, old[part] * problem.mask)
        done += 1
    info = {"change": change, "first_step_residual": first.residual, "weight": weight.value}
    return Susceptibility(problem.paste(chi), iterations=done, converged=change < params.tolerance, info=info)


def _well_conditioned(problem: Problem, space: Spectral, known: torch.Tensor, iterations: int) -> Solution:
    """Least-squares solution within the well conditioned part of k-space, on the padded grid."""
    part = tuple(slice(0, n) for n in problem.grid.shape)
    kernel = space.dipole * known

    def forward(chi: torch.Tensor) -> torch.Tensor:
        return space.ifft(space.fft(chi) * kernel)[part] * problem.weights

    def adjoint(field: torch.Tensor) -> torch.Tensor:
        return space.ifft(space.fft(field * problem.weights) * kernel)

    return lsqr(forward, adjoint, problem.field_ppm * problem.weights, tolerance=1e-6, max_iter=iterations)
