"""Susceptibility from several orientations of the head to the static field (COSMOS)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from qsmprep.core.dipole import dipole_kernel
from qsmprep.core.grid import Grid
from qsmprep.core.inversion.problem import ITERATIVE_PAD, Problem, Spectral, Volume, prepare
from qsmprep.core.parameters import CosmosParams
from qsmprep.core.results import Susceptibility
from qsmprep.errors import DataError

LEAST_ANGLE_DEG = 5.0
"""Two directions nearer than this are the same for the inversion."""

FLOOR = 1e-3
"""Least value of the preconditioner's sum of squared kernels."""


def cosmos(
    fields_ppm: Sequence[Volume],
    mask: Volume,
    grid: Grid,
    b0_dirs: Sequence[Sequence[float]],
    params: CosmosParams | None = None,
    *,
    weights: Sequence[Volume] | None = None,
    device: str = "cpu",
) -> Susceptibility:
    r"""Susceptibility by least squares over fields measured at several orientations.

    Minimises :math:`\sum_t \|W_t (D_t\chi - f_t)\|^2 + \alpha\|\chi\|^2` by conjugate gradients in k-space, where
    every orientation has its own kernel :math:`D_t`: what one cannot see, another can. The preconditioner
    is the closed form for weights that are the same everywhere. The field outside the mask is
    unknown, not zero; sources there are free.

    Parameters
    ----------
    fields_ppm : sequence of (nx, ny, nz) array
        Local fields in ppm of B0, registered to one grid; ignored outside ``mask``.
    mask : (nx, ny, nz) array
        Where all fields are valid.
    grid : Grid
        Of the common space; its own B0 direction is not used.
    b0_dirs : sequence of 3 floats
        Direction of B0 of every field **in the voxel axes of the common grid**.
    params : CosmosParams, optional
        Weight :math:`\alpha`, when to stop.
    weights : sequence of (nx, ny, nz) array, optional
        Relative reliability of every field, from 0 to 1; their ratios between fields count.
    device : str
        Torch device.

    Returns
    -------
    Susceptibility
        In ppm, zero outside the mask. ``info`` holds the weighted root mean square residual
        ``residual_ppm``, the relative residual of the normal equations, and ``worst_kernel``, the
        smallest root of the mean squared kernel in k-space: the larger, the better conditioned.

    Raises
    ------
    DataError
        See :func:`qsmprep.core.inversion.problem.prepare`; also for fewer than two fields, numbers that
        differ, or directions that are all the same.

    References
    ----------
    .. [1] Liu et al., Magn. Reson. Med. 61:196 (2009), doi:10.1002/mrm.21828
    """
    params = params or CosmosParams()
    given = list(weights) if weights is not None else [None] * len(fields_ppm)
    grids = _oriented(len(fields_ppm), len(given), grid, b0_dirs)
    problems = [
        prepare(field, mask, one, weights=weight, device=device)
        for field, one, weight in zip(fields_ppm, grids, given, strict=True)
    ]
    levels = _levels(given, problems)
    space = Spectral(problems[0].grid, ITERATIVE_PAD, problems[0].device)
    kernels = [dipole_kernel(one.with_shape(space.shape), device=space.device) for one in grids]
    trusts = [(problem.weights * level) ** 2 for problem, level in zip(problems, levels, strict=True)]
    fields = [problem.field_ppm for problem in problems]
    spectrum, done, change = _least_squares(space, kernels, trusts, fields, params)
    part = tuple(slice(0, n) for n in problems[0].grid.shape)
    total = 0.0
    for kernel, trust, field in zip(kernels, trusts, fields, strict=True):
        total += float(((space.ifft(spectrum * kernel)[part] - field) ** 2 * trust).sum())
    mean_square = torch.stack([kernel**2 for kernel in kernels]).mean(dim=0).flatten()[1:]
    info = {
        "residual_ppm": (total / float(torch.stack(trusts).sum())) ** 0.5,
        "normal_residual": change,
        "worst_kernel": float(mean_square.min()) ** 0.5,
    }
    chi = problems[0].paste(space.ifft(spectrum))
    return Susceptibility(chi, iterations=done, converged=change <= params.tolerance, info=info)


def _oriented(n_fields: int, n_weights: int, grid: Grid, b0_dirs: Sequence[Sequence[float]]) -> list[Grid]:
    """The grid as seen by every orientation."""
    if n_fields < 2:
        raise DataError(f"there are {n_fields} fields", expected="fields of at least two orientations")
    if len(b0_dirs) != n_fields or n_weights != n_fields:
        raise DataError(
            f"there are {n_fields} fields, {len(b0_dirs)} directions of B0 and {n_weights} weights",
            expected="one direction, and one weight or none, for every field",
        )
    grids = [Grid(grid.shape, grid.voxel_mm, (float(x), float(y), float(z))) for x, y, z in b0_dirs]
    dirs = np.array([one.b0_dir for one in grids])
    widest = np.degrees(np.arccos(np.clip(np.abs(dirs @ dirs.T).min(), 0.0, 1.0)))
    if widest < LEAST_ANGLE_DEG:
        raise DataError(
            f"the directions of B0 differ by {widest:.1f} degrees at most",
            expected=f"orientations that differ by {LEAST_ANGLE_DEG:g} degrees or more",
            remedy="give the directions in the voxel axes of the common grid, as each scan had them",
        )
    return grids


def _levels(weights: Sequence[Volume | None], problems: Sequence[Problem]) -> list[float]:
    """What brings weights that were each scaled to a root mean square of 1 back to their ratios."""
    if any(weight is None for weight in weights):
        return [1.0] * len(problems)
    inside = [
        np.asarray(weight)[problem.box][problem.mask.cpu().numpy()]
        for weight, problem in zip(weights, problems, strict=True)
    ]
    raw = [float(np.sqrt(np.mean(values.astype(np.float64) ** 2))) for values in inside]
    return [level / float(np.sqrt(np.mean(np.square(raw)))) for level in raw]


def _least_squares(
    space: Spectral,
    kernels: list[torch.Tensor],
    trusts: list[torch.Tensor],
    fields: list[torch.Tensor],
    params: CosmosParams,
) -> tuple[torch.Tensor, int, float]:
    """The map in k-space by preconditioned conjugate gradients, steps done, relative residual."""
    part = tuple(slice(0, n) for n in fields[0].shape)
    share = [float(trust.sum()) / float(np.prod(space.shape)) for trust in trusts]
    precondition = sum(s * kernel**2 for s, kernel in zip(share, kernels, strict=True))
    assert isinstance(precondition, torch.Tensor)
    precondition = 1.0 / (precondition + max(params.tikhonov, FLOOR * max(share)))
    precondition[0, 0, 0] = 0.0

    def normal(spectrum: torch.Tensor) -> torch.Tensor:
        total = params.tikhonov * spectrum
        for kernel, trust in zip(kernels, trusts, strict=True):
            total += kernel * space.fft(space.ifft(spectrum * kernel)[part] * trust)
        return total

    residual = torch.zeros_like(kernels[0], dtype=torch.complex64)
    for kernel, trust, field in zip(kernels, trusts, fields, strict=True):
        residual += kernel * space.fft(field * trust)
    chi, direction = torch.zeros_like(residual), residual * precondition
    energy = space.inner(residual, direction)
    first, done = energy, 0
    while done < params.max_iter and energy > params.tolerance**2 * first:
        image = normal(direction)
        length = energy / max(space.inner(direction, image), 1e-30)
        chi.add_(direction, alpha=length)
        residual.add_(image, alpha=-length)
        ahead = residual * precondition
        new = space.inner(residual, ahead)
        direction = ahead + (new / energy) * direction
        energy, done = new, done + 1
    return chi, done, (energy / first) ** 0.5 if first > 0 else 0.0
