"""Single-step inversion of the total field with total generalised variation."""

from __future__ import annotations

from dataclasses import replace

import torch

from qsmprep.core.background.smv import at_least_one_voxel, smv_kernel
from qsmprep.core.grid import Grid
from qsmprep.core.inversion.admm import RELAXATION, relative_change
from qsmprep.core.inversion.auto import Weight
from qsmprep.core.inversion.generalised import GeneralisedVariation
from qsmprep.core.inversion.phaseterm import DataSplit, FieldTerm
from qsmprep.core.inversion.problem import ITERATIVE_PAD, Problem, Spectral, Volume, prepare
from qsmprep.core.parameters import TgvParams
from qsmprep.core.results import Susceptibility
from qsmprep.errors import DataError

SHARE = 0.1
"""Weight that is chosen from the data, over the residual and the voxel edge."""

WHOLE = 1.0 - 1e-4
"""Share of a ball from which on it counts as lying in the mask."""


def tgv(
    field_ppm: Volume,
    mask: Volume,
    grid: Grid,
    params: TgvParams | None = None,
    *,
    weights: Volume | None = None,
    magnitude: Volume | None = None,
    rad_per_ppm: float | None = None,
    device: str = "cpu",
) -> Susceptibility:
    r"""Susceptibility from the total field, in one step.

    Minimises :math:`\frac{1}{2}\sum_r\|W_r S_r(D\chi - f)\|^2 + \lambda\,\mathrm{TGV}(\chi)`. :math:`S_r` takes the
    mean over a ball of radius :math:`r` off a field, and with it every field of sources outside the mask,
    so nothing has to be removed beforehand. Every voxel takes part with the largest ball around it that
    lies in the mask; voxels with none, at the rim, are filled in by the penalty.

    Parameters
    ----------
    field_ppm : (nx, ny, nz) array
        **Total** field in ppm of B0; ignored outside ``mask``.
    mask : (nx, ny, nz) bool array
        Where the field is valid.
    grid : Grid
        Voxel size and B0 direction along the array axes.
    params : TgvParams, optional
        Weight :math:`\lambda` (ppm mm; 0 to follow the residual), ratio (mm) of the second order to the
        first, radii of the balls, penalty of the split, when to stop.
    weights : (nx, ny, nz) array, optional
        Relative reliability of the field, from 0 to 1.
    magnitude, rad_per_ppm : optional
        Checked, but of no use to this method.
    device : str
        Torch device.

    Returns
    -------
    Susceptibility
        In ppm, zero outside the mask. ``info`` holds ``seen``, the share of the mask with a ball around
        it, the ``weight`` in ppm mm, and the relative change of the last iteration.

    Raises
    ------
    DataError, UsageError
        See :func:`qsmprep.core.inversion.problem.prepare`; also when no ball fits into the mask.

    References
    ----------
    .. [1] Langkammer et al., NeuroImage 111:622 (2015), doi:10.1016/j.neuroimage.2015.02.041
    .. [2] Chatnuntawech et al., NMR Biomed. 30:e3570 (2017), doi:10.1002/nbm.3570
    """
    params = params or TgvParams()
    problem = prepare(
        field_ppm, mask, grid, weights=weights, magnitude=magnitude, rad_per_ppm=rad_per_ppm, device=device
    )
    space = Spectral(problem.grid, ITERATIVE_PAD, problem.device)
    balls = _Balls(problem, space, params)
    if not balls.kernels:
        raise DataError(
            "no ball fits into the mask: nothing can be told of the total field",
            expected=f"room for a ball of {min(_radii(params, problem.grid)):g} mm somewhere inside",
            remedy="look at the mask; thin slabs need background removal and another inversion",
        )
    weight = Weight(params.weight, SHARE, balls.problem)
    split = GeneralisedVariation(
        space, balls.hessian(), weight.value, params.ratio_mm * weight.value, params.rho, relaxation=RELAXATION
    )
    chi = torch.zeros_like(problem.field_ppm)
    change, done = 1.0, 0
    while done < params.max_iter and not (change < params.tolerance and weight.settled):
        spectrum = split.spectrum(balls.pull)
        whole = space.ifft(spectrum)
        old, chi = chi, whole[balls.part] * problem.mask
        change = relative_change(chi, old)
        split.shrink(whole)
        misfit = balls.meet(spectrum)
        if weight.due(done):
            split.set_weight(weight.renew(misfit))
        done += 1
    seen = float(balls.problem.mask.sum()) / float(problem.mask.sum())
    info = {"change": change, "weight": weight.value, "seen": seen}
    return Susceptibility(problem.paste(chi), iterations=done, converged=change < params.tolerance, info=info)


class _Balls:
    """The data terms, each with its split: for every radius the voxels that use it, and the field less its means.

    ``pull`` is what the splits pull a map to, in k-space.
    """

    def __init__(self, problem: Problem, space: Spectral, params: TgvParams) -> None:
        self.space, self.fidelity = space, params.fidelity
        self.part = tuple(slice(0, n) for n in problem.grid.shape)
        self.kernels: list[torch.Tensor] = []
        self.splits: list[DataSplit] = []
        free = problem.mask.clone()
        self.pull = torch.zeros_like(space.dipole, dtype=torch.complex64)
        total = torch.zeros_like(problem.field_ppm)
        inside, field = space.fft(problem.mask.to(torch.float32)), space.fft(problem.field_ppm)
        for radius in _radii(params, problem.grid):
            mean = smv_kernel(space.grid, radius, device=space.device)
            chosen = free & (space.ifft(inside * mean)[self.part] >= WHOLE)
            if not bool(chosen.any()):
                continue
            free &= ~chosen
            local = (problem.field_ppm - space.ifft(field * mean)[self.part]) * chosen
            term = FieldTerm(local, problem.weights * chosen, params.fidelity)
            self.kernels.append((1.0 - mean) * space.dipole)
            start = space.pad(local)
            self.splits.append(DataSplit(term, start, self.part, RELAXATION))
            self._pull_to(start, self.kernels[-1])
            total += local
        seen = problem.mask & ~free
        self.problem = replace(problem, field_ppm=total, mask=seen, weights=problem.weights * seen)

    def hessian(self) -> torch.Tensor:
        """Of the ties between the map and all splits."""
        return sum((self.fidelity * kernel**2 for kernel in self.kernels), torch.zeros_like(self.space.dipole))

    def _pull_to(self, target: torch.Tensor, kernel: torch.Tensor) -> None:
        """Add what a split pulls the map to, in k-space."""
        self.pull += self.space.fft(target).mul_(kernel).mul_(self.fidelity)

    def meet(self, chi: torch.Tensor) -> torch.Tensor:
        """Renew all splits, and what they pull to, for a map in k-space; the misfit in ppm of the measured voxels."""
        misfit = torch.zeros_like(self.problem.field_ppm)
        self.pull.zero_()
        for kernel, split in zip(self.kernels, self.splits, strict=True):
            local = self.space.ifft(chi * kernel)
            misfit += split.term.misfit(local[self.part]) * (split.term.weights > 0)
            split.meet(local)
            self._pull_to(split.pulled(), kernel)
        return misfit


def _radii(params: TgvParams, grid: Grid) -> list[float]:
    """Radii in mm from the largest down: the smallest (never below one voxel), doubled up to the largest."""
    radius = at_least_one_voxel(params.radius_mm, grid.voxel_mm)
    found = [radius]
    while 2 * found[-1] <= params.radius_max_mm * (1 + 1e-6):
        found.append(2 * found[-1])
    return found[::-1]
