"""iLSQR: least squares, then estimation and removal of the streaks."""

from __future__ import annotations

import torch

from qsmprep.core.grid import Grid
from qsmprep.core.inversion.lsqr import Solution, lsqr
from qsmprep.core.inversion.problem import (
    ITERATIVE_PAD,
    Problem,
    Spectral,
    Volume,
    add_adjoint,
    difference,
    prepare,
)
from qsmprep.core.inversion.tkd import truncated_inverse
from qsmprep.core.parameters import IlsqrParams
from qsmprep.core.results import Susceptibility

FLAT, STEEP = 0.5, 0.9
"""Quantiles of the gradient between which the weight of a face falls from 1 (no boundary) to 0."""

WINDOW = 0.3
"""Width (standard deviation) of the window whose transform smooths k-space, as a part of the box."""


def ilsqr(
    field_ppm: Volume,
    mask: Volume,
    grid: Grid,
    params: IlsqrParams | None = None,
    *,
    weights: Volume | None = None,
    magnitude: Volume | None = None,
    rad_per_ppm: float | None = None,
    device: str = "cpu",
) -> Susceptibility:
    r"""Susceptibility by LSQR with streaks estimated and removed.

    Three steps: (1) :math:`\chi_1` minimises :math:`\|W(D\chi - f)\|` by LSQR, stopped early;
    (2) a fast estimate from the sign of the kernel shows where susceptibility has its boundaries;
    (3) streaks live where :math:`|D|` is small: the map :math:`s` with support only there that
    minimises :math:`\sum_i \|G_i \partial_i(\chi_1 - s)\|`, with :math:`G` small at the boundaries, is
    subtracted from :math:`\chi_1`.

    Parameters
    ----------
    field_ppm : (nx, ny, nz) array
        Local field in ppm of B0; ignored outside ``mask``.
    mask : (nx, ny, nz) bool array
        Where the field is valid.
    grid : Grid
        Voxel size and B0 direction along the array axes.
    params : IlsqrParams, optional
        When the two LSQR runs stop, and the threshold of the ill-conditioned region.
    weights : (nx, ny, nz) array, optional
        Relative reliability of the field, from 0 to 1.
    magnitude, rad_per_ppm : optional
        Checked, but of no use to this method.
    device : str
        Torch device.

    Returns
    -------
    Susceptibility
        In ppm, zero outside the mask; ``iterations`` counts both runs. Stopping early is this
        method's regularisation, so ``converged`` is always True; ``info`` holds both residuals.

    Raises
    ------
    DataError, UsageError
        See :func:`qsmprep.core.inversion.problem.prepare`.

    References
    ----------
    .. [1] Li et al., NeuroImage 108:111 (2015), doi:10.1016/j.neuroimage.2014.12.043
    """
    params = params or IlsqrParams()
    problem = prepare(
        field_ppm, mask, grid, weights=weights, magnitude=magnitude, rad_per_ppm=rad_per_ppm, device=device
    )
    space = Spectral(problem.grid, ITERATIVE_PAD, problem.device)
    first = _least_squares(problem, space, params)
    boundaries = fast_estimate(problem, space)
    streaks = _streaks(space, problem, first.x, boundaries, params)
    info = {"first_residual": first.residual, "streak_residual": streaks.normal_residual}
    return Susceptibility(
        problem.paste(first.x - space.ifft(space.fft(streaks.x) * _cone(space, params.cone))),
        iterations=first.iterations + streaks.iterations,
        info=info,
    )


def _cone(space: Spectral, threshold: float) -> torch.Tensor:
    """1 where the kernel is below ``threshold``, 0 elsewhere (and at the origin)."""
    cone = (space.dipole.abs() < threshold).to(torch.float32)
    cone[0, 0, 0] = 0.0
    return cone


def _least_squares(problem: Problem, space: Spectral, params: IlsqrParams) -> Solution:
    """Early-stopped least squares on the padded grid."""
    part = tuple(slice(0, n) for n in problem.grid.shape)

    def forward(chi: torch.Tensor) -> torch.Tensor:
        return space.field(chi)[part] * problem.weights

    def adjoint(field: torch.Tensor) -> torch.Tensor:
        return space.field(field * problem.weights)

    data = problem.field_ppm * problem.weights
    return lsqr(forward, adjoint, data, tolerance=params.tolerance, max_iter=params.max_iter)


def fast_estimate(problem: Problem, space: Spectral) -> torch.Tensor:
    """Quick, streak-poor map on the padded grid that shows the boundaries of susceptibility.

    K-space is multiplied by the sign of the kernel; where the kernel is small, it is replaced by its
    smooth surroundings. The scale is fitted to that of thresholded division.
    """
    mask = space.pad(problem.mask.to(torch.float32))
    spectrum = space.fft(problem.field_ppm)
    signed = space.ifft(spectrum * space.dipole.sign()) * mask
    blurred = signed * _window(space, problem.grid.shape)
    trust = ((space.dipole.abs() - 0.05) / 0.15).clamp_(0.0, 1.0)
    blend = space.fft(signed) * trust + space.fft(blurred) * (1.0 - trust)
    estimate = space.ifft(blend) * mask
    target = space.ifft(spectrum * truncated_inverse(space.dipole, 0.15)) * mask
    size = float((estimate * estimate).sum())
    return estimate * (float((estimate * target).sum()) / size) if size > 0 else estimate


def _window(space: Spectral, shape: tuple[int, int, int]) -> torch.Tensor:
    """Gaussian over the padded volume, around the centre of the box: smooths k-space."""
    window = torch.ones((1, 1, 1), device=space.device)
    for axis, (n, inner) in enumerate(zip(space.shape, shape, strict=True)):
        place = torch.arange(n, dtype=torch.float32, device=space.device)
        centre = (inner - 1) / 2.0
        view = [1, 1, 1]
        view[axis] = -1
        window = window * torch.exp(-0.5 * ((place - centre) / (WINDOW * inner)) ** 2).view(view)
    return window


def _streaks(
    space: Spectral, problem: Problem, chi: torch.Tensor, boundaries: torch.Tensor, params: IlsqrParams
) -> Solution:
    """The part of ``chi`` in the cone without which its gradient is smallest away from boundaries."""
    cone = _cone(space, params.cone)
    mask = space.pad(problem.mask.to(torch.float32)) > 0
    faces = [_face_weights(boundaries, mask, axis, mm) for axis, mm in enumerate(space.grid.voxel_mm)]
    spacing = space.grid.voxel_mm

    def forward(streak: torch.Tensor) -> torch.Tensor:
        part = space.ifft(space.fft(streak) * cone)
        return torch.stack([difference(part, a, mm) * faces[a] for a, mm in enumerate(spacing)])

    def adjoint(gradient: torch.Tensor) -> torch.Tensor:
        total = torch.zeros(space.shape, device=space.device)
        for a, mm in enumerate(spacing):
            add_adjoint(total, gradient[a] * faces[a], a, 1.0 / mm)
        return space.ifft(space.fft(total) * cone)

    data = torch.stack([difference(chi, a, mm) * faces[a] for a, mm in enumerate(spacing)])
    return lsqr(forward, adjoint, data, tolerance=params.streak_tolerance, max_iter=params.streak_iter)


def _face_weights(boundaries: torch.Tensor, mask: torch.Tensor, axis: int, mm: float) -> torch.Tensor:
    """From 1 where the estimate is flat to 0 where it is steep; 0 on faces that leave the mask."""
    steep = difference(boundaries, axis, mm).abs_()
    inside = mask & mask.roll(-1, axis)
    values = steep[inside].sort().values
    if values.numel() == 0:
        return torch.zeros_like(steep)
    low, high = (float(values[int(q * (values.numel() - 1))]) for q in (FLAT, STEEP))
    weight = ((high - steep) / max(high - low, 1e-12)).clamp_(0.0, 1.0)
    return weight * inside
