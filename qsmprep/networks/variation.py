"""Total-variation maps that a network starts from: a few ADMM steps, from a strong to a weak penalty."""

from __future__ import annotations

import torch

from qsmprep.core.inversion.admm import TotalVariation
from qsmprep.core.inversion.edges import edge_faces
from qsmprep.core.inversion.problem import ITERATIVE_PAD, Spectral
from qsmprep.networks.geometry import Geometry

STAGES = ((0.11, 16), (0.028, 26))
"""Weight, relative to the spread of the field and the geometric mean of the voxel edges, and number of steps."""

EDGES = 0.2
"""Part of the faces between voxels where the magnitude changes most."""

SPARED = 0.1
"""Relative weight of the penalty on those faces."""

RHO = 0.03
REFRESH = 2
"""Steps between updates of what the field outside the mask is taken to be."""


@torch.no_grad()
def variation_maps(
    field: torch.Tensor, mask: torch.Tensor, geometry: Geometry, magnitude: torch.Tensor | None = None
) -> torch.Tensor:
    """Susceptibility with a strong and with a weak total-variation penalty.

    Edges of the magnitude are spared, as in MEDI (doi:10.1002/mrm.22816). The method of
    :func:`qsmprep.core.inversion.tv.tv` at fixed numbers of steps, the second stage going
    on from the first. Two maps, since which is better depends on noise and mismatch, from place to place.

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

    Returns
    -------
    (batch, 2, nx, ny, nz) torch.Tensor
        In the unit of ``field``, zero outside the mask. The maps of ``-field`` are their negatives.
    """
    space = Spectral(geometry.grid, ITERATIVE_PAD, geometry.device)
    edge = geometry.grid.voxel_volume_mm3 ** (1.0 / 3.0)
    images = [None] * len(field) if magnitude is None else list(magnitude[:, 0])
    volumes = zip(field[:, 0], mask[:, 0], images, strict=True)
    return torch.stack([_solve(one.float(), inside.float(), image, space, edge) for one, inside, image in volumes])


def _solve(
    field: torch.Tensor, mask: torch.Tensor, image: torch.Tensor | None, space: Spectral, edge: float
) -> torch.Tensor:
    """Both maps of one volume."""
    part = tuple(slice(0, n) for n in field.shape)
    data = space.dipole * space.fft(mask * field)
    faces = edge_faces(mask > 0, image, space, EDGES)
    faces = [None if face is None else face * (1 - SPARED) + SPARED for face in faces]
    split = TotalVariation(space, space.dipole**2, STAGES[0][0] * edge, RHO, faces)
    chi = split.solve(data)
    kept = []
    for weight, steps in STAGES:
        split.limit = weight * edge / split.rho
        for step in range(steps):
            split.shrink(chi)
            if step % REFRESH == 0:
                known = space.field(chi)
                known[part] += (field - known[part]) * mask
                data = space.dipole * space.fft(known)
            chi = split.solve(data)
        kept.append(chi[part] * mask)
    return torch.stack(kept)
