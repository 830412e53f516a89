"""Total-variation maps that a network starts from: a few ADMM steps, from a strong to a weak penalty."""

from __future__ import annotations

import itertools
import math

import torch
from torch.nn import functional

from qsmprep.core.inversion.admm import RELAXATION, TotalVariation
from qsmprep.core.inversion.edges import edge_faces, flatness
from qsmprep.core.inversion.phaseterm import DataSplit, FieldTerm
from qsmprep.core.inversion.problem import ITERATIVE_PAD, Spectral
from qsmprep.networks.geometry import Geometry

STRONG, FIRST = 0.12, 16
"""Weight of the strong penalty, relative to the spread of the field and the geometric mean of the voxel edges, and its
number of steps."""

WEAK, SECOND = 0.17, 26
"""The same of the weak penalty, relative to what the map leaves of the field; never more than the strong one."""

RENEWED = (10, 16, 22, 30)
"""Steps after which the penalty follows the map's own edges, and from the second stage on what is left of the field."""

LEAST = 0.3
"""Relative weight of the penalty where the map is steepest, see :func:`qsmprep.core.inversion.edges.flatness`."""

EDGES = 0.2
"""Part of the faces between voxels where the magnitude changes most."""

SPARED = 0.25
"""Relative weight of the penalty on those faces."""

TOGETHER = 2**24
"""Voxels of the padded grid that are solved for together; more in parts, to bound the memory."""

OUTERMOST = 2
"""Of the fields around a voxel that is not trusted, how many at either end do not limit it where the iteration begins.
Zero-weight voxels of another scan of that head (below): 27.6 % of error in all with two, 27.4 with none, 27.2 without
limits, 29.9 with the median around in their place; one voxel in a hundred that is 10 units off changed a map by 0.2,
1.4, 2.1 and 0.0 % of its spread."""

AT_ONCE = 2**17
"""Voxels whose surroundings are looked at together, to bound the memory."""

RHO = 0.03
"""Penalty of the gradient's split, relative to a grid of 1 mm."""

FIDELITY = 1.0
"""Penalty of the field's split. With weights dealt with by majorisation strong sources grew too slowly where voxels can
be trusted less: a phantom head with lesions (seed 331, from phase) had 46 % of error in them by ConeNet, as by the map
that it starts from; with the field split off 31 % where it began as it was measured, 33 % within the present limits.
Other fields from phase changed by 0.6 points at most."""


@torch.no_grad()
def variation_maps(
    field: torch.Tensor,
    mask: torch.Tensor,
    geometry: Geometry,
    magnitude: torch.Tensor | None = None,
    weights: torch.Tensor | None = None,
) -> torch.Tensor:
    """Susceptibility with a strong and with a weak total-variation penalty.

    Edges of the magnitude are spared, as in MEDI (doi:10.1002/mrm.22816), and those of the map itself, as in
    :func:`qsmprep.core.inversion.tv.tv`. It comes near the minimum of that method's function where there is no
    magnitude (its weights are the square roots of these), in fixed numbers of steps, the second stage from where the
    first ends. Two maps, since which is better depends on noise and mismatch, from place to place.

    Parameters
    ----------
    field : (batch, 1, nx, ny, nz) torch.Tensor
        Divided by its spread, zero outside the mask.
    mask : (batch, 1, nx, ny, nz) torch.Tensor
        1 inside.
    geometry : Geometry
        Of all volumes.
    magnitude : (batch, 1, nx, ny, nz) torch.Tensor, optional
        In any unit; one that is the same everywhere is as good as none.
    weights : (batch, 1, nx, ny, nz) torch.Tensor, optional
        How far each voxel's field can be trusted, 0 to 1: weights of squares.

    Returns
    -------
    (batch, 2, nx, ny, nz) torch.Tensor
        In the unit of ``field``, zero outside the mask. The maps of ``-field`` are their negatives.
    """
    space = Spectral(geometry.grid, ITERATIVE_PAD, geometry.device)
    edge = geometry.grid.voxel_volume_mm3 ** (1.0 / 3.0)
    fields, masks = field[:, 0].float(), mask[:, 0].float()
    shares = masks if weights is None else masks * weights[:, 0].float()
    together = max(1, TOGETHER // math.prod(space.shape))
    parts = []
    for begin in range(0, len(field), together):
        part = slice(begin, begin + together)
        images = None if magnitude is None else magnitude[part, 0]
        parts.append(_solve(fields[part], masks[part], shares[part], images, space, edge))
    return torch.cat(parts)


def _solve(
    field: torch.Tensor,
    mask: torch.Tensor,
    share: torch.Tensor,
    images: torch.Tensor | None,
    space: Spectral,
    edge: float,
) -> torch.Tensor:
    """Both maps of some volumes, ``(batch, 2, nx, ny, nz)``."""
    nx, ny, nz = field.shape[-3:]
    part = (..., slice(0, nx), slice(0, ny), slice(0, nz))
    faces = None if images is None else _faces(mask, images, space)
    strong = STRONG * edge
    kernel = FIDELITY * space.dipole
    split = TotalVariation(space, kernel * space.dipole, strong, RHO, faces, (len(field),), RELAXATION)
    target = space.pad(_begun(field, share, mask))
    data_split = DataSplit(FieldTerm(field, share.sqrt(), FIDELITY), target, part, RELAXATION)
    kept = []
    for step in range(1 + FIRST + SECOND):
        spectrum = split.spectrum(space.fft(target).mul_(kernel))
        chi = space.ifft(spectrum)
        if step in (FIRST, FIRST + SECOND):
            kept.append(chi[part] * mask)
        if step == FIRST + SECOND:
            break
        target = space.ifft(spectrum.mul_(space.dipole))
        del spectrum
        if step in RENEWED:
            left = (field - target[part]) * share
            level = 1.0 if step < FIRST else (WEAK * edge / strong * _size(left, share)).clamp_max(1.0)
            split.share(_shares(chi, mask, level))
        split.shrink(chi)
        data_split.meet(target)
        target = data_split.pulled()
    return torch.stack(kept, dim=1)


def _begun(field: torch.Tensor, share: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """The fields to begin with: as they were measured, also where they are not trusted, but within limits there.

    What they say of strong sources would come slowly from around. The limits are the lowest and the highest of the
    voxels around in the mask, but for the outermost, so that how far off a voxel is does not matter.
    """
    padded = functional.pad(torch.where(mask > 0, field, torch.nan), (1,) * 6, value=torch.nan)
    begun = field.clone()
    for at in ((share <= 0.5) & (mask > 0)).nonzero().split(AT_ONCE):
        where = tuple(at.T)
        low, high = _limits(padded, at)
        begun[where] = torch.where(low.isnan(), 0.0, begun[where].clamp(low, high))
    return begun


def _limits(padded: torch.Tensor, at: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Lowest and highest number around each voxel but for the :data:`OUTERMOST` (and for all but the middle where
    there are few), of a field with one voxel more on every side, which is not a number; nor are limits of nothing."""
    volume, x, y, z = at.T
    moves = [move for move in itertools.product(range(3), repeat=3) if move != (1, 1, 1)]
    values = torch.stack([padded[volume, x + i, y + j, z + k] for i, j, k in moves]).sort(dim=0).values
    last = (len(moves) - 1 - values.isnan().sum(dim=0, keepdim=True)).clamp_min(0)
    first = (last // 2).clamp_max(OUTERMOST)
    return values.gather(0, first)[0], values.gather(0, last - first)[0]


def _size(left: torch.Tensor, share: torch.Tensor) -> torch.Tensor:
    """Root mean square of what is left of each field, over what is trusted of it, ``(batch, 1, 1, 1)``."""
    norms = [[torch.linalg.vector_norm(one) for one in volume] for volume in (left, share)]
    return (torch.stack(norms[0]) / torch.stack(norms[1]).clamp_min(1e-6)).view(-1, 1, 1, 1)


def _shares(chi: torch.Tensor, mask: torch.Tensor, level: float | torch.Tensor) -> torch.Tensor:
    """Part of the strong penalty in each voxel of some volumes on the padded grid."""
    flat = [flatness(one, inside > 0, LEAST) for one, inside in zip(chi, mask, strict=True)]
    return level * torch.stack([torch.ones_like(chi[0]) if one is None else one for one in flat])


def _faces(mask: torch.Tensor, images: torch.Tensor, space: Spectral) -> list[torch.Tensor | None]:
    """Weight of the penalty on the faces along each axis, for some volumes."""
    stacks = []
    for one, image in zip(mask, images, strict=True):
        edges = edge_faces(one > 0, image, space, EDGES)
        stacks.append([torch.ones(space.shape, device=space.device) if e is None else e for e in edges])
    return [torch.stack(axis) * (1 - SPARED) + SPARED for axis in zip(*stacks, strict=True)]
