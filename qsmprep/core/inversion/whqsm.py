"""Weak-harmonic regularisation: a map and what background removal left, from one field."""

from __future__ import annotations

import torch

from qsmprep.core.grid import Grid
from qsmprep.core.inversion.admm import TotalVariation, relative_change
from qsmprep.core.inversion.auto import Weight
from qsmprep.core.inversion.phaseterm import PhaseTerm
from qsmprep.core.inversion.problem import DEFAULT_RAD_PER_PPM, ITERATIVE_PAD, Problem, Spectral, Volume, prepare
from qsmprep.core.parameters import WhqsmParams
from qsmprep.core.results import Susceptibility

RELAXATION = 1.8
"""Of all three splits; halves the iterations that none would take."""

SHARE = 0.1
"""Weight that is chosen from the data, over the residual and the voxel edge."""


def whqsm(
    field_ppm: Volume,
    mask: Volume,
    grid: Grid,
    params: WhqsmParams | None = None,
    *,
    weights: Volume | None = None,
    magnitude: Volume | None = None,
    rad_per_ppm: float | None = None,
    device: str = "cpu",
) -> Susceptibility:
    r"""Susceptibility beside a field that is nearly harmonic inside the mask.

    Minimises
    :math:`\frac{1}{2s^2}\|W(e^{\mathrm{i}s(D\chi + h)} - e^{\mathrm{i}sf})\|^2 + \frac{\beta}{2}\|M\Delta h\|^2
    + \lambda\|\nabla\chi\|_1` over the map :math:`\chi` and the field :math:`h`, with :math:`M` the mask, derivatives
    per mm and :math:`s` the phase of 1 ppm. Sources outside the mask make harmonic fields inside, so
    :math:`h` takes what background removal left of them. Unlike in the first publication, map and
    :math:`h` are solved for together at every point of k-space, and sources of the map may lie outside the mask.

    Parameters
    ----------
    field_ppm : (nx, ny, nz) array
        Local field in ppm of B0; ignored outside ``mask``.
    mask : (nx, ny, nz) bool array
        Where the field is valid.
    grid : Grid
        Voxel size and B0 direction along the array axes.
    params : WhqsmParams, optional
        Weights :math:`\lambda` (ppm mm; 0 to follow the residual) and :math:`\beta` (mm^4), penalties of the
        splits, when to stop.
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
        ``residual_ppm``, that of the harmonic field, ``harmonic_ppm``, less its mean, the ``weight`` in
        ppm mm, and the relative change of the last iteration.

    Raises
    ------
    DataError, UsageError
        See :func:`qsmprep.core.inversion.problem.prepare`.

    References
    ----------
    .. [1] Milovic et al., Magn. Reson. Med. 81:1399 (2019), doi:10.1002/mrm.27483
    .. [2] Boyd et al., Found. Trends Mach. Learn. 3:1 (2011), section 3.4.3 (over-relaxation),
       doi:10.1561/2200000016
    """
    params = params or WhqsmParams()
    problem = prepare(
        field_ppm, mask, grid, weights=weights, magnitude=magnitude, rad_per_ppm=rad_per_ppm, device=device
    )
    return separate(problem, params, rad_per_ppm)[0]


class _Harmonic:
    """The split of the nearly harmonic field: closed form in k-space, weighted inside the mask."""

    def __init__(self, problem: Problem, space: Spectral, params: WhqsmParams) -> None:
        self.space = space
        self.fidelity = params.fidelity
        self.rho = params.harmonic_rho * space.grid.voxel_volume_mm3 ** (4.0 / 3.0)
        self.laplacian = space.laplacian()
        self.below = (self.rho * self.laplacian**2).add_(self.fidelity).reciprocal_()
        self.drop = params.beta / (self.rho + params.beta)
        self.mask, self.part = problem.mask, tuple(slice(0, n) for n in problem.grid.shape)
        self.sum = torch.zeros(space.shape, device=space.device)
        self.pull = torch.zeros_like(space.dipole, dtype=torch.complex64)

    def left_to_map(self) -> torch.Tensor:
        """What is left of the data term's weight in k-space when the field is solved for along with the map."""
        return (self.fidelity * self.rho) * self.below * self.laplacian

    def solve(self, rest: torch.Tensor) -> torch.Tensor:
        """The field in k-space, given what it should make up for together with the map's field (overwritten)."""
        return rest.mul_(self.fidelity).addcmul_(self.pull, self.laplacian, value=self.rho).mul_(self.below)

    def shrink(self, spectrum: torch.Tensor) -> None:
        """Pull the Laplacian of a field (overwritten) towards zero inside the mask and update the multiplier.

        Kept is the sum of split and multiplier: the multiplier is that sum times ``drop`` inside the mask, else zero.
        """
        bent = self.space.ifft(spectrum.mul_(self.laplacian)).mul_(RELAXATION).add_(self.sum, alpha=1.0 - RELAXATION)
        bent[self.part].add_(self.sum[self.part] * self.mask, alpha=RELAXATION * self.drop)
        self.sum = bent
        pulled = bent.clone()
        pulled[self.part].sub_(bent[self.part] * self.mask, alpha=2.0 * self.drop)
        del self.pull
        self.pull = torch.fft.rfftn(pulled)


def separate(problem: Problem, params: WhqsmParams, rad_per_ppm: float | None) -> tuple[Susceptibility, torch.Tensor]:
    """The map, and the field of a problem that is not the map's.

    Parameters
    ----------
    problem : Problem
    params : WhqsmParams
    rad_per_ppm : float, optional
        See :func:`whqsm`.

    Returns
    -------
    Susceptibility
        See :func:`whqsm`.
    (nx, ny, nz) torch.Tensor
        The nearly harmonic field in ppm in the box of the problem, zero outside the mask.
    """
    space = Spectral(problem.grid, ITERATIVE_PAD, problem.device)
    return solve(problem, space, params, rad_per_ppm or DEFAULT_RAD_PER_PPM)


def solve(
    problem: Problem, space: Spectral, params: WhqsmParams, rad_per_ppm: float
) -> tuple[Susceptibility, torch.Tensor]:
    """Alternate between map with harmonic field, and the splits, until the map stands still; see :func:`separate`."""
    part = tuple(slice(0, n) for n in problem.grid.shape)
    term = PhaseTerm(problem, rad_per_ppm, params.fidelity)
    harmonic = _Harmonic(problem, space, params)
    factor = harmonic.left_to_map() * space.dipole
    weight = Weight(params.weight, SHARE, problem)
    hessian = factor * harmonic.laplacian * space.dipole
    split = TotalVariation(space, hessian, weight.value, params.rho, relaxation=RELAXATION)
    del hessian
    dual = torch.zeros_like(problem.field_ppm)
    target, old = space.pad(problem.field_ppm), torch.zeros_like(problem.field_ppm)
    close = target.clone()
    change, done = 1.0, 0
    while True:
        wanted = torch.fft.rfftn(target)
        del target
        spectrum = split.spectrum((wanted * harmonic.laplacian).sub_(harmonic.pull).mul_(factor))
        chi = space.ifft(spectrum)
        new = chi[part] * problem.mask
        change, old = relative_change(new, old), new
        spectrum *= space.dipole
        background = harmonic.solve(wanted.sub_(spectrum))
        target = space.ifft(spectrum.add_(background))
        del spectrum, wanted
        if done >= params.max_iter or change < params.tolerance:
            break
        if weight.due(done):
            split.set_weight(weight.renew(term.misfit(target[part])))
        close.lerp_(target, RELAXATION)
        del target
        harmonic.shrink(background)
        del background
        split.shrink(chi)
        del chi
        seen = close[part] + dual
        close[part] = term.proximal(seen)
        dual = seen - close[part]
        target = close.clone()
        target[part] -= dual
        done += 1
    del split, harmonic, factor, dual, close
    remainder = space.ifft(background)[part] * problem.mask
    del background
    field = remainder[problem.mask]
    info = {
        "change": change,
        "weight": weight.value,
        "residual_ppm": term.residual(target[part], problem.mask),
        "harmonic_ppm": float((field - field.mean()).square().mean().sqrt()),
    }
    found = Susceptibility(problem.paste(chi), iterations=done, converged=change < params.tolerance, info=info)
    return found, remainder
