"""Morphology-enabled dipole inversion with a nonlinear data term."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch

from qsmprep.core.grid import Grid
from qsmprep.core.inversion.admm import relative_change
from qsmprep.core.inversion.auto import Weight
from qsmprep.core.inversion.edges import edge_faces
from qsmprep.core.inversion.phaseterm import folds, phase_cost
from qsmprep.core.inversion.problem import (
    DEFAULT_RAD_PER_PPM,
    ITERATIVE_PAD,
    Problem,
    Spectral,
    Volume,
    add_adjoint,
    difference,
    prepare,
)
from qsmprep.core.kspace import spatial_frequency
from qsmprep.core.masking.morphology import erode
from qsmprep.core.parameters import MediParams
from qsmprep.core.results import Susceptibility
from qsmprep.errors import DataError

SMOOTHING_PPM_PER_MM = 1e-3
"""Gradient below which the total variation is rounded off to a square."""

SHARE = 0.15
"""Weight that is chosen from the data, over the residual and the voxel edge."""

CG_TOLERANCE = 0.03
"""Relative residual at which conjugate gradients stop."""


def medi(
    field_ppm: Volume,
    mask: Volume,
    grid: Grid,
    params: MediParams | None = None,
    *,
    weights: Volume | None = None,
    magnitude: Volume | None = None,
    rad_per_ppm: float | None = None,
    device: str = "cpu",
    csf: Volume | None = None,
) -> Susceptibility:
    r"""Susceptibility that varies only where the magnitude has edges, from the complex signal.

    Minimises :math:`\frac{1}{2s^2}\|W(e^{\mathrm{i}sD\chi} - e^{\mathrm{i}sf})\|^2 + \lambda\|M\nabla\chi\|_1` by
    Gauss-Newton steps, each solved by conjugate gradients in k-space with a diagonal preconditioner.
    :math:`s` is ``rad_per_ppm`` and :math:`M` is zero on the faces where the magnitude changes most.
    The data term is blind to whole turns of the phase, and divided by :math:`s^2`, so that
    :math:`\lambda` means the same at any echo time. Sources outside the mask are free.
    With a mask of fluid :math:`F`, :math:`\frac{\gamma}{2}\|F(\chi - \bar\chi_F)\|^2` is added, and the fluid's mean
    is taken off the map (MEDI+0): fluid is uniform, and a zero that does not depend on the brain.

    The data term has many valleys where a source turns the phase by more than half. The first step is therefore
    taken twice, once towards the field as if it had no whole turns too many or too few, and the one that comes
    lower is gone on from: next to strong lesions the first, of a field with errors of unwrapping the second.

    Parameters
    ----------
    field_ppm : (nx, ny, nz) array
        Local field in ppm of B0; ignored outside ``mask``.
    mask : (nx, ny, nz) bool array
        Where the field is valid.
    grid : Grid
        Voxel size and B0 direction along the array axes.
    params : MediParams, optional
        Weight :math:`\lambda` (ppm mm; 0 to follow the residual), fraction of edges, radius of the optional
        spherical mean value that is taken off field and kernel, and when to stop.
    weights : (nx, ny, nz) array, optional
        Relative reliability of the field, from 0 to 1.
    magnitude : (nx, ny, nz) array, optional
        Image with the anatomy's edges; without it no edge is exempt from the penalty.
    rad_per_ppm : float, optional
        Phase in radians of 1 ppm at the (effective) echo time; default 3 T at 20 ms.
    device : str
        Torch device.
    csf : (nx, ny, nz) array, optional
        Fluid of the ventricles (see :func:`qsmprep.core.csf.ventricles`), for ``params.csf_weight`` above 0.

    Returns
    -------
    Susceptibility
        In ppm, zero outside the mask; ``iterations`` counts Gauss-Newton steps, ``info["csf_voxels"]`` the
        voxels of fluid that were used.

    Raises
    ------
    DataError
        See :func:`qsmprep.core.inversion.problem.prepare`; also when nothing is left of the mask at
        the radius of the spherical mean value.
    UsageError
        When ``rad_per_ppm`` is not positive.

    References
    ----------
    .. [1] Liu et al., Magn. Reson. Med. 66:777 (2011), doi:10.1002/mrm.22816
    .. [2] Liu et al., Magn. Reson. Med. 69:467 (2013), doi:10.1002/mrm.24272
    .. [3] Liu et al., Magn. Reson. Med. 79:2795 (2018), doi:10.1002/mrm.26946
    """
    params = params or MediParams()
    problem = prepare(
        field_ppm, mask, grid, weights=weights, magnitude=magnitude, rad_per_ppm=rad_per_ppm, device=device
    )
    space = Spectral(problem.grid, ITERATIVE_PAD, problem.device)
    data = _data_term(problem, space, params.smv_radius_mm, rad_per_ppm or DEFAULT_RAD_PER_PPM)
    edges = edge_faces(problem.mask, problem.cut(magnitude), space, params.edge_fraction)
    fluid = _fluid(problem, csf, grid) if params.csf_weight > 0 else None
    chi = torch.zeros(space.shape, device=space.device)
    change, done, inner = 1.0, 0, 0
    seen = problem if params.smv_radius_mm == 0 else data.seen(problem)
    weight = Weight(params.weight, SHARE, seen)
    while done < params.max_iter and change >= params.tolerance:
        if weight.follows and done:
            weight.renew(data.misfit(chi))
        penalty = _Penalty(space, edges, chi, weight.value, fluid, params.csf_weight)
        step, used = (
            _first_step(data, penalty, params.cg_iter) if done == 0 else _step(data, penalty, chi, params.cg_iter)
        )
        old, chi, inner = chi, chi + step, inner + used
        change = relative_change(problem.mask * chi[data.part], problem.mask * old[data.part])
        done += 1
    info = {"change": change, "cg_iterations": inner, "weight": weight.value}
    if fluid is not None:
        chi = chi - chi[data.part][fluid].mean()
    if params.csf_weight > 0:
        info["csf_voxels"] = 0 if fluid is None else int(fluid.sum())
    return Susceptibility(problem.paste(chi), iterations=done, converged=change < params.tolerance, info=info)


def _fluid(problem: Problem, csf: Volume | None, grid: Grid) -> torch.Tensor | None:
    """Fluid inside the mask, or None where there is none."""
    if csf is None:
        return None
    if np.shape(csf) != grid.shape:
        raise DataError(f"`csf` has shape {np.shape(csf)}", expected=f"the grid's shape {grid.shape}")
    part = torch.from_numpy(np.ascontiguousarray(np.asarray(csf)[problem.box] != 0)).to(problem.device)
    fluid = part & problem.mask
    return fluid if bool(fluid.any()) else None


@dataclass(frozen=True)
class _DataTerm:
    """The nonlinear data term on the padded grid."""

    space: Spectral
    kernel: torch.Tensor
    field_ppm: torch.Tensor
    weights2: torch.Tensor
    part: tuple[slice, ...]
    rad_per_ppm: float

    def seen(self, problem: Problem) -> Problem:
        """A problem of what takes part: without the rim that the spherical mean value leaves out."""
        inside = self.weights2 > 0
        return replace(problem, field_ppm=self.field_ppm, mask=inside, weights=self.weights2.sqrt())

    def misfit(self, chi: torch.Tensor) -> torch.Tensor:
        """How far the field of a map is from the measured one, by the sine of the phase, in ppm."""
        misfit = self.space.ifft(self.space.fft(chi) * self.kernel)[self.part] - self.field_ppm
        return torch.sin(misfit * self.rad_per_ppm) / self.rad_per_ppm

    def gradient(self, chi: torch.Tensor) -> torch.Tensor:
        """Gradient in k-space."""
        return self.pulled(self.misfit(chi))

    def pulled(self, misfit: torch.Tensor) -> torch.Tensor:
        """Where a misfit in ppm pulls the map to, in k-space."""
        return self.space.fft(misfit * self.weights2) * self.kernel

    def cost(self, chi: torch.Tensor) -> float:
        """The data term at a map."""
        misfit = self.space.ifft(self.space.fft(chi) * self.kernel)[self.part] - self.field_ppm
        return phase_cost(misfit, self.weights2, self.rad_per_ppm)

    def hessian(self, spectrum: torch.Tensor) -> torch.Tensor:
        """Gauss-Newton Hessian times a map, both in k-space."""
        field = self.space.ifft(spectrum * self.kernel)[self.part]
        return self.space.fft(field * self.weights2) * self.kernel


def _data_term(problem: Problem, space: Spectral, radius_mm: float, rad_per_ppm: float) -> _DataTerm:
    """The data term, with the spherical mean value taken off field and kernel when there is a radius."""
    part = tuple(slice(0, n) for n in problem.grid.shape)
    field, kernel, weights = problem.field_ppm, space.dipole, problem.weights
    if radius_mm > 0:
        rest = 1.0 - _ball(space, radius_mm)
        kernel = kernel * rest
        field = space.ifft(space.fft(field) * rest)[part]
        inner = torch.from_numpy(erode(problem.mask.cpu().numpy(), radius_mm, problem.grid.voxel_mm)).to(problem.device)
        if not bool(inner.any()):
            raise DataError(
                f"no voxel of the mask is {radius_mm:g} mm from its surface",
                remedy="choose a smaller spherical-mean-value radius",
            )
        weights = weights * inner
    return _DataTerm(space, kernel, field, weights**2, part, rad_per_ppm)


def _ball(space: Spectral, radius_mm: float) -> torch.Tensor:
    """Fourier transform of a ball of unit volume on the half spectrum."""
    x = (2.0 * np.pi * radius_mm) * torch.from_numpy(spatial_frequency(space.grid.with_shape(space.shape)))
    x[0, 0, 0] = 1.0
    ball = 3.0 * (torch.sin(x) - x * torch.cos(x)) / x**3
    ball[0, 0, 0] = 1.0
    return ball.to(torch.float32).to(space.device)


class _Penalty:
    """The total variation away from edges, as a quadratic form around a map, and the variance over the fluid."""

    def __init__(
        self,
        space: Spectral,
        edges: list[torch.Tensor | None],
        chi: torch.Tensor,
        weight: float,
        fluid: torch.Tensor | None = None,
        fluid_weight: float = 0.0,
    ) -> None:
        self.space = space
        self.weight, self.edges = weight, edges
        self.fluid, self.fluid_weight = fluid, fluid_weight
        self.faces = []
        for axis, mm in enumerate(space.grid.voxel_mm):
            steps = difference(chi, axis, mm)
            scale = weight / torch.sqrt(steps**2 + SMOOTHING_PPM_PER_MM**2)
            edge = edges[axis]
            self.faces.append(scale if edge is None else scale * edge)
        self.diagonal = sum(float(f.mean()) for f in self.faces) / 3.0 * space.laplacian()

    def apply(self, chi: torch.Tensor) -> torch.Tensor:
        """Gradient of the quadratic form at a map, in k-space."""
        total = torch.zeros(self.space.shape, device=self.space.device)
        for axis, mm in enumerate(self.space.grid.voxel_mm):
            add_adjoint(total, difference(chi, axis, mm) * self.faces[axis], axis, 1.0 / mm)
        if self.fluid is not None:
            nx, ny, nz = self.fluid.shape
            held = chi[:nx, :ny, :nz][self.fluid]
            total[:nx, :ny, :nz][self.fluid] += self.fluid_weight * (held - held.mean())
        return torch.fft.rfftn(total)

    def cost(self, chi: torch.Tensor) -> float:
        """The penalty itself at a map."""
        total = 0.0
        for axis, mm in enumerate(self.space.grid.voxel_mm):
            steps = torch.sqrt(difference(chi, axis, mm) ** 2 + SMOOTHING_PPM_PER_MM**2)
            edge = self.edges[axis]
            total += self.weight * float((steps if edge is None else steps * edge).sum(dtype=torch.float64))
        if self.fluid is not None:
            nx, ny, nz = self.fluid.shape
            held = chi[:nx, :ny, :nz][self.fluid]
            total += 0.5 * self.fluid_weight * float(((held - held.mean()) ** 2).sum(dtype=torch.float64))
        return total


def _first_step(data: _DataTerm, penalty: _Penalty, max_iter: int) -> tuple[torch.Tensor, int]:
    """The better one of two steps from zero (see :func:`medi`), and the iterations of both."""
    zero = torch.zeros(data.space.shape, device=data.space.device)
    step, used = _newton_step(data, penalty, data.gradient(zero), max_iter)
    if not folds(data.field_ppm, data.weights2, data.rad_per_ppm):
        return step, used
    straight, more = _newton_step(data, penalty, data.pulled(-data.field_ppm), max_iter)
    costs = [data.cost(chi) + penalty.cost(chi) for chi in (step, straight)]
    return (straight if costs[1] < costs[0] else step), used + more


def _step(data: _DataTerm, penalty: _Penalty, chi: torch.Tensor, max_iter: int) -> tuple[torch.Tensor, int]:
    """One Gauss-Newton step from a map, and the iterations it took."""
    return _newton_step(data, penalty, data.gradient(chi) + penalty.apply(chi), max_iter)


def _newton_step(data: _DataTerm, penalty: _Penalty, gradient: torch.Tensor, max_iter: int) -> tuple[torch.Tensor, int]:
    """The step that a gradient in k-space asks for, by preconditioned conjugate gradients, and their number."""
    space = data.space
    mean_weight = float(data.weights2.sum()) / float(space.shape[0] * space.shape[1] * space.shape[2])
    precondition = penalty.diagonal + mean_weight * data.kernel**2
    precondition[0, 0, 0] = 1.0
    precondition = 1.0 / precondition.clamp_(min=1e-12)
    precondition[0, 0, 0] = 0.0
    residual = -gradient
    step = torch.zeros_like(residual)
    z = residual * precondition
    direction, energy = z.clone(), space.inner(residual, z)
    first, done = energy, 0
    while done < max_iter and energy > CG_TOLERANCE**2 * first:
        done += 1
        image = data.hessian(direction) + penalty.apply(space.ifft(direction))
        length = energy / max(space.inner(direction, image), 1e-30)
        step.add_(direction, alpha=length)
        residual.add_(image, alpha=-length)
        z = residual * precondition
        new = space.inner(residual, z)
        direction.mul_(new / energy).add_(z)
        energy = new
    return space.ifft(step), done
