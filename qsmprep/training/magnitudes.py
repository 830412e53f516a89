"""Images of heads for the brain mask: any contrast, coil, resolution, noise and field of view, from a label map."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch.nn import functional

from qsmprep.training.draw import Dice, Shape, coordinates, gaussian, smooth_noise
from qsmprep.training.heads import BONE, FAT, FIRST_NUCLEUS, TISSUE_COUNT, TISSUES, WATER, HeadMap, PoseParams, pose

FINER = 2
"""Heads are drawn on voxels of this fraction of the network's and averaged."""


@dataclass(frozen=True)
class ImageParams:
    """How an image is drawn.

    Parameters
    ----------
    pose : PoseParams
    any_contrast : float
        Probability that every tissue gets any intensity; else the contrast is that of a gradient echo.
    noise : (2,) tuple of float
        Range of the noise relative to the brain.
    slice_mm : (2,) tuple of float
        Range of the slice thickness that blurs one axis.
    shade : float
        Spread of the logarithm of the coil's sensitivity, at most.
    cut_chance, ghost_chance, stripped_chance, hole_chance : float
        Probabilities of a field of view that cuts the head, of ghosts of motion, of a head without all that
        lies outside the brain, and of holes of signal near air.
    coarse_chance, coarse_mm : float, (2,) tuple of float
        Probability that the scan has large isotropic voxels instead of thick slices, and the range of their edge.
    """

    pose: PoseParams = field(default_factory=PoseParams)
    any_contrast: float = 0.5
    noise: tuple[float, float] = (0.005, 0.15)
    slice_mm: tuple[float, float] = (1.0, 5.0)
    shade: float = 0.5
    cut_chance: float = 0.4
    ghost_chance: float = 0.15
    stripped_chance: float = 0.05
    hole_chance: float = 0.6
    coarse_chance: float = 0.0
    coarse_mm: tuple[float, float] = (1.2, 2.6)


@dataclass(frozen=True)
class Image:
    """A head without noise.

    Parameters
    ----------
    image, share : (n, n, n) torch.Tensor
        Intensity, brain about one, and the share of brain in each voxel.
    """

    image: torch.Tensor
    share: torch.Tensor

    def state(self) -> dict[str, torch.Tensor]:
        """As tensors, for a checkpoint."""
        return {"image": self.image, "share": self.share}

    @classmethod
    def of(cls, state: dict[str, torch.Tensor]) -> Image:
        """From :meth:`state`."""
        return cls(**state)

    def mirrored(self, dice: Dice) -> Image:
        """The same, or (half the time) its mirror image."""
        return Image(self.image.flip(0), self.share.flip(0)) if dice.chance(0.5) else self


def draw_head(
    dice: Dice, head: HeadMap, edge: int, voxel_mm: float, params: ImageParams, finer: int = FINER
) -> tuple[torch.Tensor, torch.Tensor]:
    """An image without noise, and the share of brain in each voxel, ``(edge, edge, edge)`` each."""
    fine: Shape = (edge * finer,) * 3
    mm = voxel_mm / finer
    tissues, brain = pose(dice, head, head.centre_mm, fine, (mm, mm, mm), params.pose)
    level, grain = contrast(dice, params.any_contrast)
    if dice.chance(params.stripped_chance):
        tissues = torch.where(brain, tissues, 0)
        level = torch.cat([torch.zeros(1, device=level.device), level[1:]])
    index = tissues.int()
    image = level[index]
    cloud = smooth_noise(dice, fine, (dice.log_number(1.5, 8.0) / mm,) * 3)[0]
    image = image + grain[index] * cloud
    share = functional.avg_pool3d(brain[None, None].float(), finer)[0, 0]
    return functional.avg_pool3d(image[None, None], finer)[0, 0], share


def contrast(dice: Dice, any_contrast: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Intensity of every tissue, brain about one, and the spread of its texture."""
    level = dice.uniform(0.0, 1.6, (TISSUE_COUNT,))
    if not dice.chance(any_contrast):  # proton density or T2*: flat brain, dark bone
        brain = slice(2, len(TISSUES))
        level[brain] = 1 + dice.number(0.02, 0.25) * dice.normal((len(TISSUES) - 2,)).clamp(-2, 2)
        level[list(WATER)] = dice.number(0.4, 1.5) * (1 + 0.1 * dice.normal((len(WATER),)))
        level[BONE] = dice.number(0.0, 0.3)
        level[list(FAT)] = dice.number(0.2, 1.6)
    if dice.chance(0.3):  # fluid at the surface as bright as the cortex, as in newborns, or both sides alike
        level[WATER[0]] = level[3] * dice.number(0.9, 1.1)
    if dice.chance(0.7):
        level[0] = dice.number(0.0, 0.08)
    for left in range(FIRST_NUCLEUS, len(TISSUES), 2):
        level[left + 1] = level[left]
    return level.clamp_min(0.0), dice.uniform(0.0, 0.12, (TISSUE_COUNT,)) * level.clamp_min(0.05)


def scanned(
    dice: Dice, image: torch.Tensor, share: torch.Tensor, voxel_mm: float, params: ImageParams
) -> tuple[torch.Tensor, torch.Tensor]:
    """What a scanner makes of an image: coil, gamma, holes, thick slices, ghosts, noise, cut; not yet normalised.

    Also the share of brain within the field of view.
    """
    shape: Shape = tuple(image.shape)  # type: ignore[assignment]
    coil = smooth_noise(dice, shape, (dice.number(40.0, 110.0) / voxel_mm,) * 3)[0]
    image = image.clamp_min(0.0) ** dice.log_number(0.7, 1.4) * torch.exp(dice.number(0.0, params.shade) * coil)
    if dice.chance(params.hole_chance):
        image = image * holes(dice, share, voxel_mm)
    coarse = params.coarse_chance > 0 and dice.chance(params.coarse_chance)  # other recipes draw as they did
    if coarse:
        image = on_edge(image, max(8, round(shape[0] * voxel_mm / dice.number(*params.coarse_mm))), "area")
    else:
        image = thick_slices(dice, image, voxel_mm, params.slice_mm)
    if dice.chance(params.ghost_chance):
        axis, edge = dice.integer(0, 1), image.shape[0]
        image = image + dice.number(0.02, 0.15) * image.roll(dice.integer(8 * edge // shape[0], edge // 2), axis)
    sigma, seen = dice.log_number(*params.noise), tuple(image.shape)
    image = ((image + sigma * dice.normal(seen)).square() + (sigma * dice.normal(seen)).square()).sqrt()
    if coarse:
        image = on_edge(image, shape[0], "trilinear")
    if dice.chance(params.cut_chance):
        seen = field_of_view(dice, shape)
        image, share = image * seen, share * seen
    return image, share


def thick_slices(dice: Dice, image: torch.Tensor, voxel_mm: float, slice_mm: tuple[float, float]) -> torch.Tensor:
    """A little blur along each axis, and that of thick slices along one."""
    width = [dice.number(0.0, 0.5) for _ in range(3)]
    thick = 2 if dice.chance(0.7) else dice.integer(0, 1)
    width[thick] = max(0.0, dice.number(*slice_mm) / 2.355 / voxel_mm)
    return gaussian(image, (width[0], width[1], width[2]))


def on_edge(image: torch.Tensor, edge: int, mode: str) -> torch.Tensor:
    """A cube on ``edge`` voxels an axis, of the same extent."""
    return functional.interpolate(image[None, None], size=(edge,) * 3, mode=mode)[0, 0]


def holes(dice: Dice, share: torch.Tensor, voxel_mm: float) -> torch.Tensor:
    """Factor that is small in a few blobs at the surface of the brain, as above the sinuses and the ear canals."""
    shape: Shape = tuple(share.shape)  # type: ignore[assignment]
    where = coordinates(shape, (voxel_mm,) * 3, share.device)
    rim = ((share > 0.05) & (share < 0.95)).flatten().nonzero()[:, 0]
    factor = torch.ones(shape, device=share.device)
    for _ in range(dice.integer(1, 4)):
        if not rim.numel():
            break
        place = where.flatten(1)[:, rim[dice.integer(0, rim.numel() - 1)]].view(3, 1, 1, 1)
        radius = dice.uniform(4.0, 16.0, (3,)).view(3, 1, 1, 1)
        distance = ((where - place) / radius).square().sum(dim=0)
        factor = factor * (1 - dice.number(0.3, 1.0) * torch.exp(-0.5 * distance))
    return factor


def field_of_view(dice: Dice, shape: Shape) -> torch.Tensor:
    """1 within a box that leaves out slabs at one to three sides, 0 beyond."""
    inside = torch.ones(shape, device=dice.device)
    for _ in range(dice.integer(1, 3)):
        axis = 2 if dice.chance(0.6) else dice.integer(0, 1)
        depth = dice.integer(1, shape[axis] * 2 // 5)
        inside.narrow(axis, 0 if dice.chance(0.5) else shape[axis] - depth, depth).zero_()
    return inside
