"""TFI: the sources inside and outside the mask together, from the total field."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from qsmprep.core.background.cg import conjugate_gradients
from qsmprep.core.background.common import Problem, prepare
from qsmprep.core.background.lbv import harmonic_inside
from qsmprep.core.dipole import convolve, dipole_kernel, padded_shape
from qsmprep.core.grid import Grid
from qsmprep.core.inversion.edges import flatness
from qsmprep.core.inversion.problem import Spectral, add_adjoint, difference, on_faces
from qsmprep.core.multiresolution import block_mean, divisible_shape, interpolate, join, joined
from qsmprep.core.parameters import LbvParams, TfiParams
from qsmprep.core.results import LocalField

TO_SD = 1.4826
"""Median of absolute deviations to standard deviation, for a normal distribution."""
FIRST_ROUNDING = 5.0
"""The first pass is quadratic: its gradients are rounded off this many times higher than those of the others."""
HARMONIC_TOLERANCE = 1e-5
"""Relative residual of the harmonic function that is taken off first; single precision reaches it."""
FLOOR = 1e-3
"""Smallest curvature that the preconditioner assumes, relative to that of the data."""
TRUSTED = 1e-6
"""Squared weight of a voxel below which its field is not divided by it."""


def tfi(
    field_ppm: NDArray[np.floating],
    mask: NDArray[np.bool_],
    grid: Grid,
    params: TfiParams,
    *,
    weights: NDArray[np.floating] | None = None,
    device: str = "cpu",
) -> LocalField:
    r"""Split the total field by total field inversion.

    Finds sources :math:`\chi` in and around the mask :math:`M` that minimise
    :math:`\frac{1}{2}\|W(F - D\chi)\|^2 + \lambda\|MP\nabla\chi\|_1 + \frac{\mu}{2}\|(1 - M)\chi\|^2`: inside,
    piecewise constant; outside, free but small. :math:`P` spares edges, see
    :func:`qsmprep.core.inversion.edges.flatness`. Both are found together, so what a harmonic function
    can explain is not taken from the sources inside, as it is by methods that remove the background
    first, and nothing of the mask is lost. The local field is that of the sources inside, relative to
    their mean over the mask; it holds no noise that a source cannot make. With ``params.model`` false
    it is the total field less that of the sources outside.

    The total variation is dealt with by reweighted least squares. What makes it quick is that the
    harmonic function with the field's values on the border of the mask (LBV) is taken off first (it
    belongs to sources outside; what it takes too much of, they give back), and a preconditioner that
    is diagonal in k-space. It does not tell sources inside and outside apart, and needs fewer than half the
    iterations of one with a block for each. Voxels of which two fit into ``params.coarse_mm`` start from the
    solution on joined voxels, and need few passes of their own.

    Parameters
    ----------
    field_ppm : (nx, ny, nz) array
        Total field. All weights are relative to the spread of the field, so the unit passes through.
    mask : (nx, ny, nz) bool array
    grid : Grid
        Voxel size and direction of B0.
    params : TfiParams
    weights : (nx, ny, nz) array, optional
        Relative reliability of the field; None counts every voxel alike.
    device : str
        Torch device.

    Returns
    -------
    LocalField
        Valid in the whole mask.

    Raises
    ------
    DataError
        For inputs that do not fit together, or a mask with nothing within its border.

    References
    ----------
    .. [1] Liu et al., Magn. Reson. Med. 78:303 (2017), doi:10.1002/mrm.26331
    .. [2] Zhou et al., NMR Biomed. 27:312 (2014), doi:10.1002/nbm.3064
    .. [3] Candès et al., J. Fourier Anal. Appl. 14:877 (2008), doi:10.1007/s00041-008-9045-x (edges that are spared)
    """
    problem = prepare(field_ppm, mask, grid, weights, device)
    rest, kept = _without_harmonic(problem)
    spread = TO_SD * float(rest[kept].abs().median())
    if spread == 0:
        return problem.finish(rest, problem.mask, {"spread_ppm": 0.0, "iterations": 0, "relative_residual": 0.0})
    sources, iterations, residual = _solve(_Sources.of(problem, params, rest / spread))
    local = spread * sources.local_field(params.model)
    info = {"spread_ppm": spread, "iterations": iterations, "relative_residual": residual}
    return problem.finish(local, problem.mask, info)


def _without_harmonic(problem: Problem) -> tuple[torch.Tensor, torch.Tensor]:
    """Field less the harmonic function with its values on the border of the mask, and the mask without it."""
    kept, harmonic = harmonic_inside(problem, LbvParams(tolerance=HARMONIC_TOLERANCE))
    return torch.where(kept, problem.field - harmonic.x, torch.zeros_like(problem.field)), kept


def _solve(sources: _Sources) -> tuple[_Sources, int, float]:
    """Improve sources that are zero, starting with a solution on larger voxels; and iterations, relative residual."""
    params, iterations, residual = sources.params, 0, 0.0
    coarse = sources.coarser() if max(sources.factors) > 1 else None
    if coarse is not None and bool(coarse.mask.any()):
        iterations = _solve(coarse)[1]
        sources.start_from(coarse)
        passes, rounding = params.fine_passes, 1.0
    else:
        passes, rounding = params.passes, FIRST_ROUNDING
    for number in range(passes):
        steps, residual = sources.improve(rounding if number == 0 else 1.0)
        iterations += steps
    return sources, iterations, residual


@dataclass
class _Sources:
    """The sources on a periodic grid that is larger than the mask's box, and how they are improved.

    Parameters
    ----------
    grid : Grid
        Of the mask's box.
    room : Grid
        Of the periodic grid, of fast lengths.
    mask : (nx, ny, nz) bool torch.Tensor
    trust : (nx, ny, nz) float32 torch.Tensor
        Weight of the squared misfit of every voxel.
    field : (nx, ny, nz) float32 torch.Tensor
        What they are to explain, in units of its spread; zero outside the mask.
    params : TfiParams
    """

    grid: Grid
    room: Grid
    mask: torch.Tensor
    trust: torch.Tensor
    field: torch.Tensor
    params: TfiParams

    @classmethod
    def of(cls, problem: Problem, params: TfiParams, field: torch.Tensor) -> _Sources:
        """On the voxels of the problem."""
        grid = problem.grid
        margin = [int(np.ceil(2 * params.padding_mm / mm)) for mm in grid.voxel_mm]
        needed = [n + more for n, more in zip(grid.shape, margin, strict=True)]
        room = grid.with_shape(divisible_shape(grid, needed, params.coarse_mm))
        trust = problem.mask.to(torch.float32) if problem.weights is None else problem.weights**2
        return cls(grid, room, problem.mask, trust, field, params)

    def __post_init__(self) -> None:
        self.space = Spectral(self.room, 1.0, self.field.device)
        self.part = tuple(slice(0, n) for n in self.grid.shape)
        self.outside = 1 - self.space.pad(self.mask.to(torch.float32))
        self.spectrum = torch.zeros_like(self.space.dipole, dtype=torch.complex64)
        self.factors = joined(self.grid, self.params.coarse_mm)

    def coarser(self) -> _Sources:
        """The same problem, not solved, on larger voxels: their weighted mean field, where half lies in the mask."""
        mask = block_mean(self.mask.to(torch.float32), self.factors) >= 0.5
        trust = block_mean(self.trust, self.factors) * mask
        field = block_mean(self.trust * self.field, self.factors).mul_(mask).div_(trust.clamp(min=TRUSTED))
        return _Sources(join(self.grid, self.factors), join(self.room, self.factors), mask, trust, field, self.params)

    def start_from(self, coarse: _Sources) -> None:
        """Take over what was found on larger voxels."""
        self.spectrum = self.space.fft(interpolate(coarse.space.ifft(coarse.spectrum), self.factors))

    def improve(self, rounding: float) -> tuple[int, float]:
        """One pass: weigh the gradients anew, solve; iterations done and their relative residual.

        Everything that conjugate gradients keep is a half spectrum: the preconditioner is then a product, and an
        iteration takes four transforms.
        """
        space, params = self.space, self.params
        scales = self._scales(rounding * params.edge)
        smoothness = sum(
            float(s.sum(dtype=torch.float64)) * mm**2 for s, mm in zip(scales, space.grid.voxel_mm, strict=True)
        ) / (3 * float(self.mask.sum()))
        inverse = space.laplacian().mul_(smoothness).add_(FLOOR).addcmul_(space.dipole, space.dipole).reciprocal_()

        def operator(spectrum: torch.Tensor) -> torch.Tensor:
            result = self.to_sources(space.ifft(spectrum * space.dipole)[self.part])
            chi = space.ifft(spectrum)
            total = (chi * self.outside).mul_(params.tikhonov)
            for axis, scale in enumerate(scales):
                add_adjoint(total[self.part], difference(chi[self.part], axis, 1.0).mul_(scale), axis, 1.0)
            return result.add_(space.fft(total))

        solution = conjugate_gradients(
            operator,
            self.to_sources(self.field) - operator(self.spectrum),
            tolerance=params.tolerance,
            max_iter=params.max_iter,
            precondition=lambda residual: residual * inverse,
            inner=space.inner,
        )
        self.spectrum += solution.x
        return solution.iterations, solution.relative_residual

    def _scales(self, edge: float) -> list[torch.Tensor]:
        """Weight of the squared difference across every face within the mask, for each axis."""
        chi = self.space.ifft(self.spectrum)[self.part]
        inside = self.mask.to(torch.float32)
        least = self.params.edge_weight
        shares = flatness(chi, self.mask, least) if least < 1 else None
        scales = []
        for axis, mm in enumerate(self.space.grid.voxel_mm):
            rounded = difference(chi, axis, mm).square_().add_(edge**2).sqrt_()
            faces = inside * torch.roll(inside, -1, axis)
            faces.narrow(axis, -1, 1).zero_()
            if shares is not None:
                faces.mul_(on_faces(shares, axis))
            scales.append(faces.mul_(self.params.weight / mm**2).div_(rounded))
        return scales

    def to_sources(self, field: torch.Tensor) -> torch.Tensor:
        """Adjoint of the dipole field within the mask, with the weights of its voxels, as a half spectrum."""
        return self.space.fft(self.trust * field).mul_(self.space.dipole)

    def local_field(self, model: bool) -> torch.Tensor:
        """Field of the sources inside relative to their mean; else also what nothing explains."""
        mask = self.mask
        chi = self.space.ifft(self.spectrum)[self.part]
        chi = torch.where(mask, chi - chi[mask].mean(), torch.zeros_like(chi))
        shape = padded_shape(chi.shape)
        local = convolve(chi, dipole_kernel(self.grid.with_shape(shape), device=chi.device), shape)
        return local if model else local + self.field - self.space.ifft(self.spectrum * self.space.dipole)[self.part]
