"""Where an image or a map has edges: what a penalty on the gradient may spare."""

from __future__ import annotations

import torch

from qsmprep.core.inversion.admm import TotalVariation
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


STEEP = 6.0
"""Gradient over its median in the mask at which half of what may be spared of the penalty is."""

RENEWED = (15, 25, 35)
"""Iterations at which what is spared follows the map, at the latest."""

PLAIN_SHARE, SPARED_SHARE = 0.1, 0.07
"""Weight that is chosen from the data, over the residual and the voxel edge, and how much more at half the weight."""


def share_of(least: float) -> float:
    """Weight of the total variation that is chosen from the data, over the residual and the voxel edge.

    Parameters
    ----------
    least : float
        Part of the weight that edges keep.
    """
    return PLAIN_SHARE + 2 * SPARED_SHARE * (1 - least)


class Sparing:
    """Lets a penalty keep less of its weight where the map is steep, a few times while the map is found.

    Parameters
    ----------
    split : TotalVariation
    mask : (nx, ny, nz) torch.Tensor
        Bool.
    least : float
        See :func:`flatness`; 1 to spare nothing.
    """

    def __init__(self, split: TotalVariation, mask: torch.Tensor, least: float) -> None:
        self.split, self.mask, self.least = split, mask, least
        self.left = list(RENEWED) if least < 1 else []

    def renew(self, chi: torch.Tensor, done: int, settled: bool) -> bool:
        """Follow the map if it is time to, or if it has settled; whether anything changed."""
        if not self.left or not (settled or done >= self.left[0]):
            return False
        self.left.pop(0)
        shares = flatness(chi, self.mask, self.split.space.grid.voxel_mm, self.least)
        if shares is not None:
            self.split.share(shares)
        return shares is not None


def flatness(
    chi: torch.Tensor, mask: torch.Tensor, voxel_mm: tuple[float, float, float], least: float
) -> torch.Tensor | None:
    """For each voxel, 1 where a map is flat, falling to ``least`` where it is steepest; None for a flat map.

    The gradient counts in every direction, each in units of its median in the mask, so that neither the unit of the
    map nor the voxel edges matter.

    Parameters
    ----------
    chi : (px, py, pz) torch.Tensor
        Map, on the mask's grid or a larger one that begins with it.
    mask : (nx, ny, nz) torch.Tensor
        Bool; where the medians are taken.
    voxel_mm : (3,) tuple of float
        Voxel edges.
    least : float
        Above 0, at most 1.
    """
    part = tuple(slice(0, n) for n in mask.shape)
    steepness = torch.zeros_like(chi)
    for axis, mm in enumerate(voxel_mm):
        step = difference(chi, axis, mm).abs_()
        step = step.add_(step.roll(1, axis))
        typical = float(step[part][mask].median())
        if typical == 0:
            return None
        steepness.addcmul_(step, step, value=(STEEP * typical) ** -2)
    return steepness.add_(1.0).reciprocal_().clamp_(min=least)


def on_faces(shares: torch.Tensor, axis: int) -> torch.Tensor:
    """What a face to the next voxel along an axis has: the smaller one of its two voxels'."""
    return torch.minimum(shares, shares.roll(-1, axis))
