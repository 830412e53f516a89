"""Where an image has edges: faces between voxels that a penalty on the gradient may spare."""

from __future__ import annotations

import torch

from qsmprep.core.inversion.problem import Spectral, difference


def edge_faces(
    mask: torch.Tensor, image: torch.Tensor | None, space: Spectral, fraction: float
) -> list[torch.Tensor | None]:
    """For each axis, 0 on the faces where an image changes most and 1 elsewhere (None: all 1).

    Parameters
    ----------
    mask : (nx, ny, nz) torch.Tensor
        Bool; only faces between two voxels of it count.
    image : (nx, ny, nz) torch.Tensor, optional
        Magnitude, in any unit. Where it does not change at all there is no edge.
    space : Spectral
        Padded grid of the result.
    fraction : float
        Part of all faces that are edges.
    """
    if image is None or fraction == 0:
        return [None, None, None]
    held, padded = space.pad(mask.to(torch.float32)) > 0, space.pad(image)
    steps, inside = [], []
    for axis, mm in enumerate(space.grid.voxel_mm):
        inside.append(held & held.roll(-1, axis))
        steps.append(difference(padded, axis, mm).abs_())
    values = torch.cat([step[within] for step, within in zip(steps, inside, strict=True)]).sort().values
    if values.numel() == 0:
        return [None, None, None]
    limit = values[min(int((1.0 - fraction) * values.numel()), values.numel() - 1)]
    return [1.0 - ((step >= limit) & (step > 0) & within).float() for step, within in zip(steps, inside, strict=True)]
