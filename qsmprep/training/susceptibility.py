"""From an anatomy to a susceptibility map: tissue, texture, vessels, lesions."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from qsmprep.training.anatomy import CLASSES, IRON_RICH, WHITE, Anatomy
from qsmprep.training.draw import Dice, Shape, coordinates, gaussian, shape_mask, smooth_noise, vessels

Voxel = tuple[float, float, float]

TRIED = 64
"""Random voxels of which one in the mask is taken."""


@dataclass(frozen=True)
class ChiParams:
    """How susceptibility is drawn.

    Parameters
    ----------
    spread_ppm : float
        Standard deviation of what is added to the prior of each class.
    texture_ppm : float
        Largest standard deviation of the texture inside a class.
    lesion_chance : float
        Probability of haemorrhages and calcifications of up to ``lesion_ppm``.
    lesion_ppm : float
        Their largest susceptibility, either sign.
    sign_chance : float
        Probability that the whole map changes sign.
    blur_voxels : (2,) tuple of float
        Range of the standard deviation of the final blur.
    iron : (2,) tuple of float
        Range of a factor on the priors of the deep grey nuclei: 1 for adults, next to nothing for newborns.
    """

    spread_ppm: float = 0.02
    texture_ppm: float = 0.03
    lesion_chance: float = 0.2
    lesion_ppm: float = 2.0
    sign_chance: float = 0.5
    blur_voxels: tuple[float, float] = (0.2, 0.7)
    iron: tuple[float, float] = (1.0, 1.0)


def paint(dice: Dice, anatomy: Anatomy, voxel_mm: Voxel, params: ChiParams) -> torch.Tensor:
    """Susceptibility in ppm on a patch, zero outside the brain, ``(nx, ny, nz)``."""
    shape: Shape = tuple(anatomy.classes.shape)  # type: ignore[assignment]
    prior = torch.tensor([value for _, value in CLASSES], device=dice.device)
    if params.iron != (1.0, 1.0):
        prior[list(IRON_RICH)] *= dice.number(*params.iron)
    level = prior * dice.uniform(0.3, 1.8, prior.shape) + params.spread_ppm * dice.normal(prior.shape)
    strength = dice.uniform(0.0, params.texture_ppm, prior.shape)
    level[1] *= 0.3  # water around the brain differs little from that within
    chi = level[anatomy.classes] + strength[anatomy.classes] * texture(dice, shape, voxel_mm)
    chi = nuclei(dice, chi, anatomy, voxel_mm)
    chi = contrast(dice, chi)
    if dice.chance(0.9):
        tubes = vessels(dice, shape, voxel_mm, dice.integer(3, 30))
        chi = chi + (dice.number(0.08, 0.4) - chi) * tubes
    if dice.chance(params.lesion_chance):
        chi = lesions(dice, chi, anatomy.brain, voxel_mm, params.lesion_ppm)
    width = dice.number(*params.blur_voxels)
    chi = gaussian(chi, (width, width, width))
    if dice.chance(params.sign_chance):
        chi = -chi
    return chi * anatomy.brain


def texture(dice: Dice, shape: Shape, voxel_mm: Voxel) -> torch.Tensor:
    """Fluctuations with unit spread at several scales, some of them folded into thin sheets."""
    total = torch.zeros(shape, device=dice.device)
    for scale_mm in (1.6, 4.0, 10.0):
        size: Voxel = tuple(scale_mm / mm for mm in voxel_mm)  # type: ignore[assignment]
        total = total + dice.number(0.2, 1.0) * smooth_noise(dice, shape, size)[0]
    if dice.chance(0.35):
        size = tuple(dice.number(8.0, 16.0) / mm for mm in voxel_mm)  # type: ignore[assignment]
        sheets = torch.sin(smooth_noise(dice, shape, size)[0] * dice.number(4.0, 12.0))
        total = total + dice.number(0.5, 1.5) * torch.sign(sheets) * sheets.abs().sqrt()
    return total / total.std().clamp_min(1e-6)


def nuclei(dice: Dice, chi: torch.Tensor, anatomy: Anatomy, voxel_mm: Voxel) -> torch.Tensor:
    """Add shapes of a few millimetres with the susceptibility of iron-rich nuclei (red nucleus, substantia
    nigra, dentate …), which label maps lack, and some of the opposite sign."""
    where = coordinates(tuple(chi.shape), voxel_mm, dice.device)  # type: ignore[arg-type]
    for _ in range(dice.integer(0, 8)):
        mask = shape_mask(dice, where, somewhere(dice, where, anatomy.brain), (1.5, 7.0))
        chi = torch.where(mask, chi * dice.number(0.0, 1.0) + 0.09 * dice.bell() + 0.04, chi)
    return chi


def lesions(dice: Dice, chi: torch.Tensor, brain: torch.Tensor, voxel_mm: Voxel, limit_ppm: float) -> torch.Tensor:
    """Haemorrhages and calcifications: shapes of 1 to 6 mm with large susceptibility of either sign."""
    where = coordinates(tuple(chi.shape), voxel_mm, dice.device)  # type: ignore[arg-type]
    for _ in range(dice.integer(1, 4)):
        mask = shape_mask(dice, where, somewhere(dice, where, brain), (1.0, 6.0))
        chi = torch.where(mask, torch.full_like(chi, dice.sign() * dice.log_number(0.2, limit_ppm)), chi)
    return chi


def contrast(dice: Dice, chi: torch.Tensor) -> torch.Tensor:
    """Change the contrast: not at all, a gain, a power law, or a compression, all odd."""
    kind, size = dice.integer(0, 3), 0.1
    if kind == 1:
        return chi * dice.log_number(0.5, 2.0)
    if kind == 2:
        return torch.sign(chi) * size * (chi.abs() / size) ** dice.number(0.7, 1.4)
    if kind == 3:
        return torch.sign(chi) * size * torch.log2(1 + chi.abs() / size)
    return chi


def fibres(dice: Dice, anatomy: Anatomy, voxel_mm: Voxel, direction: torch.Tensor) -> torch.Tensor:
    """Susceptibility that depends on the direction of fibres: what an isotropic model cannot explain.

    ``(n . b)^2 - 1/3`` for random smooth fibre directions ``n`` in white matter, at unit scale.
    """
    shape: Shape = tuple(anatomy.classes.shape)  # type: ignore[assignment]
    scale: Voxel = tuple(dice.number(5.0, 14.0) / mm for mm in voxel_mm)  # type: ignore[assignment]
    heading = smooth_noise(dice, shape, scale, 3)
    cosine = (heading * direction.view(3, 1, 1, 1)).sum(dim=0) / heading.square().sum(dim=0).sqrt().clamp_min(1e-6)
    white = torch.zeros(len(CLASSES), device=dice.device)
    white[list(WHITE)] = 1.0
    return (cosine.square() - 1 / 3) * (0.15 + 0.85 * white[anatomy.classes]) * anatomy.brain


def draw_magnitude(dice: Dice, anatomy: Anatomy, chi: torch.Tensor, voxel_mm: Voxel) -> torch.Tensor:
    """A gradient-echo magnitude: random tissue contrast, darker where susceptibility is large, shaded, noisy;
    half of them also with structure that susceptibility does not have."""
    shape: Shape = tuple(chi.shape)  # type: ignore[assignment]
    level = 1 + dice.number(0.02, 0.25) * dice.normal((len(CLASSES),))
    decay = torch.exp(-chi.abs() * dice.number(0.0, 6.0))
    shade = 1 + 0.2 * smooth_noise(dice, shape, tuple(40.0 / mm for mm in voxel_mm))[0]  # type: ignore[arg-type]
    image = level[anatomy.classes].clamp_min(0.2) * decay * shade.clamp_min(0.3)
    if dice.chance(0.5):
        image = image * (1 + dice.number(0.0, 0.12) * texture(dice, shape, voxel_mm)).clamp(0.3, 2.0)
    width = dice.number(0.2, 0.7)
    return gaussian(image, (width, width, width)) + dice.number(0.005, 0.08) * dice.normal(shape)


def somewhere(dice: Dice, where: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """The position in mm of a random voxel of a mask, ``(3,)`` (of the patch where it finds none of the mask)."""
    tried = (dice.uniform(0.0, 1.0, (TRIED,)) * mask.numel()).long().clamp_max(mask.numel() - 1)
    first = mask.flatten()[tried].int().argmax(dim=0, keepdim=True)
    return where.flatten(1).index_select(1, tried.index_select(0, first))[:, 0]
