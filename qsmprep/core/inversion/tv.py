"""Total-variation regularised inversion by ADMM, with data weights."""

from __future__ import annotations

import torch

from qsmprep.core.grid import Grid
from qsmprep.core.inversion.admm import TotalVariation, relative_change
from qsmprep.core.inversion.auto import Weight
from qsmprep.core.inversion.problem import ITERATIVE_PAD, Problem, Spectral, Volume, prepare
from qsmprep.core.parameters import TvParams
from qsmprep.core.results import Susceptibility

SHARE = 0.1
"""Weight that is chosen from the data, over the residual and the voxel edge."""

REFRESH = 2
"""Iterations between two updates of what the field is taken to be where it is not (fully) known."""


def tv(
    field_ppm: Volume,
    mask: Volume,
    grid: Grid,
    params: TvParams | None = None,
    *,
    weights: Volume | None = None,
    magnitude: Volume | None = None,
    rad_per_ppm: float | None = None,
    device: str = "cpu",
) -> Susceptibility:
    r"""Susceptibility with a total-variation penalty.

    Minimises :math:`\frac{1}{2}\|W(D\chi - f)\|^2 + \lambda\|\nabla\chi\|_1` with the gradient per mm,
    where the weights :math:`W` are zero outside the mask: the field there is not taken to be zero, it
    is unknown, and sources outside the mask may explain what background removal left.
    :math:`W` is dealt with by majorisation (a proximal ADMM): the field is replaced by
    :math:`D\chi + (W/W_{max})^2 (f - D\chi)` of an earlier iterate.

    Parameters
    ----------
    field_ppm : (nx, ny, nz) array
        Local field in ppm of B0; ignored outside ``mask``.
    mask : (nx, ny, nz) bool array
        Where the field is valid.
    grid : Grid
        Voxel size and B0 direction along the array axes.
    params : TvParams, optional
        Weight :math:`\lambda` (ppm mm; 0 to follow the residual), penalty of the split, when to stop.
    weights : (nx, ny, nz) array, optional
        Relative reliability of the field, from 0 to 1.
    magnitude, rad_per_ppm : optional
        Checked, but of no use to this method.
    device : str
        Torch device.

    Returns
    -------
    Susceptibility
        In ppm, zero outside the mask. ``info`` holds the weighted root mean square residual
        ``residual_ppm``, the ``weight`` in ppm mm, and the relative change of the last iteration.

    Raises
    ------
    DataError, UsageError
        See :func:`qsmprep.core.inversion.problem.prepare`.

    References
    ----------
    .. [1] Bilgic et al., Magn. Reson. Med. 72:1444 (2014), doi:10.1002/mrm.25029
    .. [2] Milovic et al., Magn. Reson. Med. 80:814 (2018), doi:10.1002/mrm.27073
    """
    params = params or TvParams()
    problem = prepare(
        field_ppm, mask, grid, weights=weights, magnitude=magnitude, rad_per_ppm=rad_per_ppm, device=device
    )
    weight = Weight(params.weight, SHARE, problem)
    chi, iterations, change, residual = _iterate(problem, params, weight)
    return Susceptibility(
        problem.paste(chi),
        iterations=iterations,
        converged=change < params.tolerance,
        info={"change": change, "residual_ppm": residual, "weight": weight.value},
    )


def _iterate(problem: Problem, params: TvParams, weight: Weight) -> tuple[torch.Tensor, int, float, float]:
    """The map on the padded grid, iterations done, last relative change, residual in ppm."""
    space = Spectral(problem.grid, ITERATIVE_PAD, problem.device)
    largest = float(problem.weights.max()) ** 2
    trust = problem.weights**2 / largest
    part = tuple(slice(0, n) for n in problem.grid.shape)
    split = TotalVariation(space, largest * space.dipole**2, weight.value, params.rho)
    factor = largest * space.dipole
    data = factor * space.fft(trust * problem.field_ppm)
    chi = old = split.solve(data)
    change, done = 1.0, 0
    while done < params.max_iter and change >= params.tolerance:
        split.shrink(chi)
        if done % REFRESH == 0:
            field = space.field(chi)
            misfit = problem.field_ppm - field[part]
            if weight.due(done):
                split.set_weight(weight.renew(misfit))
            field[part] += misfit * trust
            data = space.fft(field)
            data *= factor
        old, chi = chi, split.solve(data)
        change = relative_change(chi[part] * problem.mask, old[part] * problem.mask)
        done += 1
    misfit = (space.field(chi)[part] - problem.field_ppm) * problem.weights
    residual = float(torch.linalg.vector_norm(misfit)) / float(problem.mask.sum()) ** 0.5
    return chi, done, change, residual
