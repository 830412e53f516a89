"""Inversion with a variational penalty by ADMM, from the complex signal: total variation, or generalised."""

from __future__ import annotations

from typing import Protocol

import torch

from qsmprep.core.grid import Grid
from qsmprep.core.inversion.admm import RELAXATION, TotalVariation, relative_change
from qsmprep.core.inversion.auto import Weight
from qsmprep.core.inversion.edges import Sparing, share_of
from qsmprep.core.inversion.generalised import GeneralisedVariation
from qsmprep.core.inversion.phaseterm import DataSplit, DataTerm, PhaseTerm
from qsmprep.core.inversion.problem import DEFAULT_RAD_PER_PPM, ITERATIVE_PAD, Problem, Spectral, Volume, prepare
from qsmprep.core.parameters import NltgvParams, NltvParams, TvParams
from qsmprep.core.results import Susceptibility

GENERALISED_SHARE = 0.1
"""Weight of the generalised penalty that is chosen from the data, over the residual and the voxel edge."""


class Split(Protocol):
    """A penalty split off the data term (see :class:`qsmprep.core.inversion.admm.TotalVariation`)."""

    def spectrum(self, data: torch.Tensor) -> torch.Tensor:
        """The map in k-space that minimises data term plus split."""
        ...

    def shrink(self, chi: torch.Tensor) -> None:
        """Update the split."""
        ...

    def set_weight(self, weight: float) -> None:
        """Go on with another weight."""
        ...


def nltv(
    field_ppm: Volume,
    mask: Volume,
    grid: Grid,
    params: NltvParams | None = None,
    *,
    weights: Volume | None = None,
    magnitude: Volume | None = None,
    rad_per_ppm: float | None = None,
    device: str = "cpu",
) -> Susceptibility:
    r"""Susceptibility with a total-variation penalty, from the complex signal.

    Minimises :math:`\frac{1}{2s^2}\|W(e^{\mathrm{i}sD\chi} - e^{\mathrm{i}sf})\|^2 + \lambda\|P\nabla\chi\|_1` with
    the gradient per mm, :math:`s` the phase of 1 ppm and :math:`W` zero outside the mask. Both the
    gradient and the field are split off; the field's part is solved by Newton's method in every voxel.
    In terms of the phase, the weight of FANSI is :math:`s\lambda` at voxels of 1 mm. :math:`P` is that of
    :func:`qsmprep.core.inversion.tv.tv`, and 1 in the publication (``edge_weight`` 1). The data term is blind to whole
    turns of the phase; a start that holds some leads to other edges that are spared, and to a slightly different map.

    Parameters
    ----------
    field_ppm : (nx, ny, nz) array
        Local field in ppm of B0; ignored outside ``mask``.
    mask : (nx, ny, nz) bool array
        Where the field is valid.
    grid : Grid
        Voxel size and B0 direction along the array axes.
    params : NltvParams, optional
        Weight :math:`\lambda` (ppm mm; 0 to follow the residual), what edges keep, penalties of splits, when to stop.
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
        In ppm, zero outside the mask. ``info`` holds the weighted root mean square residual
        ``residual_ppm``, the ``weight`` in ppm mm, and the relative change of the last iteration.

    Raises
    ------
    DataError, UsageError
        See :func:`qsmprep.core.inversion.problem.prepare`.

    References
    ----------
    .. [1] Milovic et al., Magn. Reson. Med. 80:814 (2018), doi:10.1002/mrm.27073
    .. [2] Candès et al., J. Fourier Anal. Appl. 14:877 (2008), doi:10.1007/s00041-008-9045-x (edges that are spared)
    """
    params = params or NltvParams()
    problem = prepare(
        field_ppm, mask, grid, weights=weights, magnitude=magnitude, rad_per_ppm=rad_per_ppm, device=device
    )
    term = PhaseTerm(problem, rad_per_ppm or DEFAULT_RAD_PER_PPM, params.fidelity)
    return total_variation(problem, Spectral(problem.grid, ITERATIVE_PAD, problem.device), params, term)


def total_variation(problem: Problem, space: Spectral, params: NltvParams | TvParams, term: DataTerm) -> Susceptibility:
    """The map with a total-variation penalty for either data term, see :func:`nltv`."""
    weight = Weight(params.weight, share_of(params.edge_weight), problem)
    hessian = params.fidelity * space.dipole**2
    split = TotalVariation(space, hessian, weight.value, params.rho, relaxation=RELAXATION)
    sparing = Sparing(split, problem.mask, params.edge_weight, params.max_iter)
    return solve(problem, space, split, term, params, weight, RELAXATION, sparing)


def nltgv(
    field_ppm: Volume,
    mask: Volume,
    grid: Grid,
    params: NltgvParams | None = None,
    *,
    weights: Volume | None = None,
    magnitude: Volume | None = None,
    rad_per_ppm: float | None = None,
    device: str = "cpu",
) -> Susceptibility:
    r"""Susceptibility with a total generalised variation penalty, from the complex signal.

    As :func:`nltv`, with the penalty
    :math:`\min_v \lambda\|\nabla\chi - v\|_1 + \lambda r\|\mathcal{E}v\|_1`, where :math:`\mathcal{E}` is the
    symmetrised gradient: it is zero for planes and lets the map vary smoothly.

    Parameters
    ----------
    field_ppm : (nx, ny, nz) array
        Local field in ppm of B0; ignored outside ``mask``.
    mask : (nx, ny, nz) bool array
        Where the field is valid.
    grid : Grid
        Voxel size and B0 direction along the array axes.
    params : NltgvParams, optional
        Weight :math:`\lambda` (ppm mm; 0 to follow the residual), ratio :math:`r` (mm) of the second order
        to the first, penalties of the splits, when to stop.
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
        As of :func:`nltv`.

    Raises
    ------
    DataError, UsageError
        See :func:`qsmprep.core.inversion.problem.prepare`.

    References
    ----------
    .. [1] Milovic et al., Magn. Reson. Med. 80:814 (2018), doi:10.1002/mrm.27073
    .. [2] Bredies et al., SIAM J. Imaging Sci. 3:492 (2010), doi:10.1137/090769521
    """
    params = params or NltgvParams()
    problem = prepare(
        field_ppm, mask, grid, weights=weights, magnitude=magnitude, rad_per_ppm=rad_per_ppm, device=device
    )
    space = Spectral(problem.grid, ITERATIVE_PAD, problem.device)
    weight = Weight(params.weight, GENERALISED_SHARE, problem)
    hessian = params.fidelity * space.dipole**2
    split = GeneralisedVariation(
        space, hessian, weight.value, params.ratio_mm * weight.value, params.rho, relaxation=RELAXATION
    )
    term = PhaseTerm(problem, rad_per_ppm or DEFAULT_RAD_PER_PPM, params.fidelity)
    return solve(problem, space, split, term, params, weight, RELAXATION)


def solve(
    problem: Problem,
    space: Spectral,
    split: Split,
    term: DataTerm,
    params: NltvParams | NltgvParams | TvParams,
    weight: Weight,
    relaxation: float = 1.0,
    sparing: Sparing | None = None,
) -> Susceptibility:
    """Alternate between the map, the penalty's split and the data term's split until the map stands still.

    Parameters
    ----------
    problem : Problem
    space : Spectral
    split, term
        Penalty and data term.
    params
        Penalty of the data term's split (``fidelity``) and when to stop.
    weight : Weight
        Of the penalty.
    relaxation : float
        Over-relaxation of the data term's split; the penalty's is its own.
    sparing : Sparing, optional
        Of the edges by the penalty.

    Returns
    -------
    Susceptibility
        ``info`` holds ``residual_ppm``, ``weight`` and the last relative ``change``.
    """
    part = tuple(slice(0, n) for n in problem.grid.shape)
    target, old = space.pad(problem.field_ppm), torch.zeros_like(problem.field_ppm)
    data_split = DataSplit(term, target, part, relaxation)
    change, done = 1.0, 0
    while True:
        data = torch.fft.rfftn(target)
        del target
        data *= space.dipole
        data *= params.fidelity
        spectrum = split.spectrum(data)
        del data
        chi = space.ifft(spectrum)
        new = chi[part] * problem.mask
        change, old = relative_change(new, old), new
        spectrum *= space.dipole
        target = space.ifft(spectrum)
        del spectrum
        settled = change < params.tolerance
        rests = sparing.rests(chi, done, settled) if sparing else settled
        if done >= params.max_iter or (rests and weight.settled):
            break
        if weight.due(done):
            split.set_weight(weight.renew(term.misfit(target[part])))
        data_split.meet(target)
        del target
        split.shrink(chi)
        del chi
        target = data_split.pulled()
        done += 1
    info = {"change": change, "residual_ppm": term.residual(target[part], problem.mask), "weight": weight.value}
    return Susceptibility(problem.paste(chi), iterations=done, converged=change < params.tolerance, info=info)
