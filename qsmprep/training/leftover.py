"""What background removal leaves in a local field: that of sources outside the mask, and noise at its rim."""

from __future__ import annotations

import math

import torch

from qsmprep.networks.geometry import Geometry
from qsmprep.training.draw import Dice, Shape, coordinates, mean_in, smooth_noise, spread_in, thicken

SCALES_MM = (3.0, 8.0, 22.0)
"""Size of the sources outside the mask: the smaller, the nearer to the rim their field stays."""

FAR_SOURCES = 12
"""Number of sources beyond the patch."""

LAYERS = (1.0, 0.5, 0.25)
"""Part of the rim's noise that the outermost layers of voxels have."""


def leftover(dice: Dice, mask: torch.Tensor, geometry: Geometry) -> torch.Tensor:
    """A random field without sources in a mask, with unit spread there.

    Parameters
    ----------
    dice : Dice
        Random numbers.
    mask : (nx, ny, nz) bool torch.Tensor
        Where the field is used.
    geometry : Geometry
        Of the patch.

    Returns
    -------
    (nx, ny, nz) torch.Tensor
        Mean zero in the mask. It falls off from the rim inwards, as slowly as its sources are large.
    """
    shape: Shape = geometry.grid.shape
    outside = (~mask).float()
    parts = [far_field(dice, shape, geometry.grid.voxel_mm)]
    for scale in SCALES_MM:
        voxels = tuple(scale / mm for mm in geometry.grid.voxel_mm)
        parts.append(geometry.field(smooth_noise(dice, shape, voxels)[0] * outside))  # type: ignore[arg-type]
    total = torch.zeros(shape, device=dice.device)
    for part in parts:
        centred = part - mean_in(part, mask)
        total = total + dice.number(0.0, 1.0) ** 2 * centred / spread_in(centred, mask).clamp_min(1e-9)
    return total / spread_in(total, mask).clamp_min(1e-9)


def far_field(dice: Dice, shape: Shape, voxel_mm: tuple[float, float, float]) -> torch.Tensor:
    """The potential of random points beyond the patch, ``(nx, ny, nz)``: harmonic on all of it."""
    where = coordinates(shape, voxel_mm, dice.device)
    reach = 0.5 * math.sqrt(sum((n * mm) ** 2 for n, mm in zip(shape, voxel_mm, strict=True)))
    total = torch.zeros(shape, device=dice.device)
    for _ in range(FAR_SOURCES):
        direction = dice.normal((3,))
        point = direction / direction.norm().clamp_min(1e-6) * reach * dice.log_number(1.1, 2.5)
        total = total + dice.number(-1.0, 1.0) / (where - point.view(3, 1, 1, 1)).square().sum(dim=0).sqrt()
    return total


def rim_share(mask: torch.Tensor) -> torch.Tensor:
    """How far a voxel takes part in the noise of the rim, 0 to 1; the edge of the array is no rim.

    Parameters
    ----------
    mask : (nx, ny, nz) bool torch.Tensor
        Where the field is used.

    Returns
    -------
    (nx, ny, nz) torch.Tensor
        1 in its outermost layer of voxels, less in the next, 0 deeper and outside.
    """
    outside = (~mask).float()
    total = torch.zeros_like(outside)
    for part in LAYERS:
        wider = thicken(outside)
        total = total + part * (wider - outside)
        outside = wider
    return total
