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
"""Gradient over its median in the mask at which half of the penalty is left, where it may fall so far."""

RENEWED, PAUSE = (15, 25, 35), 5
"""Iterations at which what is spared follows the map, at the latest, and least number of them from one to the next."""

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
    max_iter : int
        Iterations of the map at most; with few of them, the penalty follows it once, half way.
    """

    def __init__(self, split: TotalVariation, mask: torch.Tensor, least: float, max_iter: int) -> None:
        self.split, self.mask, self.least = split, mask, least
        self.left = [n for n in RENEWED if n < max_iter] or [max_iter // 2]
        self.since = -PAUSE
        if least == 1:
            self.left = []

    def rests(self, chi: torch.Tensor, done: int, settled: bool) -> bool:
        """Follow the map if it is time to, or if it has settled; whether it has, and followed its edges in turn."""
        early = done < self.since + PAUSE
        if self.left and (done >= self.left[0] or (settled and not early)):
            self.left.pop(0)
            shares = flatness(chi, self.mask, self.least)
            if shares is not None:
                self.split.share(shares)
                self.since, early = done, True
        return settled and not early


def flatness(chi: torch.Tensor, mask: torch.Tensor, least: float) -> torch.Tensor | None:
    """For each voxel, 1 where a map is flat, falling to ``least`` where it is steepest.

    The gradient along each axis is taken over both faces of a voxel and counts in units of its median in the mask, so
    that neither the unit of the map nor the voxel edges matter. Faces on the surface of the mask do not count.

    Parameters
    ----------
    chi : (px, py, pz) torch.Tensor
        Map, on the mask's grid or a larger one that begins with it; both ends of an axis are neighbours.
    mask : (nx, ny, nz) torch.Tensor
        Bool; only faces between two voxels of it count.
    least : float
        Above 0, at most 1.

    Returns
    -------
    (px, py, pz) torch.Tensor or None
        One outside the mask. None for a map that is flat along an axis in most of the mask, or where there is no mask.
    """
    part = tuple(slice(0, n) for n in mask.shape)
    steepness, inside = torch.zeros_like(chi), torch.zeros_like(chi, dtype=torch.bool)
    inside[part] = mask
    for axis in range(3):
        step = difference(chi, axis, 1.0).abs_().mul_(inside & inside.roll(-1, axis))
        step = step.add_(step.roll(1, axis))
        typical = step[part][mask].median()
        if not float(typical) > 0:
            return None
        step.div_(STEEP * typical)
        steepness.addcmul_(step, step)
    return steepness.add_(1.0).reciprocal_().clamp_(min=least)
