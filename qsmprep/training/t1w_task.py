"""Learning to segment the deep grey nuclei on images of any contrast, on T1-weighted ones above all."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn

from qsmprep.networks.segmentation import normalised
from qsmprep.training.config import TrainParams
from qsmprep.training.draw import Dice, Shape, smooth_noise
from qsmprep.training.heads import (
    BONE,
    FAT,
    FIRST_NUCLEUS,
    TISSUE_COUNT,
    TISSUES,
    HeadMap,
    mirrored_tissue,
    pose,
)
from qsmprep.training.magnitudes import ImageParams, contrast, scanned
from qsmprep.training.mask_task import need_heads
from qsmprep.training.nuclei import LEAST, TRIES, NucleiParams, labels_of
from qsmprep.training.nuclei_task import label_loss, mean_dice
from qsmprep.training.sample import Sources
from qsmprep.training.state import State

VALIDATION_SEED = 50_000
VALIDATION_IMAGES = 8

CLOUD_MM = (1.5, 15.0)
"""Range of the scale of the texture of tissues; the long one is that of the parts of the thalamus."""

Seen = tuple[torch.Tensor, torch.Tensor]


@dataclass(frozen=True)
class Posed:
    """A head in a window around its nuclei, without contrast.

    Parameters
    ----------
    tissues, brain : (n, n, n) torch.Tensor
        See :func:`qsmprep.training.heads.pose`.
    """

    tissues: torch.Tensor
    brain: torch.Tensor

    def state(self) -> dict[str, torch.Tensor]:
        """As tensors, for a checkpoint."""
        return {"tissues": self.tissues, "brain": self.brain}

    @classmethod
    def of(cls, state: dict[str, torch.Tensor]) -> Posed:
        """From :meth:`state`."""
        return cls(**state)

    def mirrored(self, dice: Dice) -> Posed:
        """The same, or (half the time) its mirror image with left and right changed."""
        if dice.chance(0.5):
            return self
        table = torch.tensor(mirrored_tissue(), dtype=torch.uint8, device=self.tissues.device)
        return Posed(table[self.tissues.flip(0).int()], self.brain.flip(0))


def draw(dice: Dice, heads: tuple[HeadMap, ...], edge: int, voxel_mm: float, params: NucleiParams) -> Posed:
    """A window of a head that holds nuclei."""
    shape: Shape = (edge,) * 3
    for _ in range(TRIES):
        head = heads[dice.integer(0, len(heads) - 1)]
        tissues, brain = pose(dice, head, head.nuclei_mm, shape, (voxel_mm,) * 3, params.pose)
        if int((labels_of(tissues) > 0).sum()) >= LEAST:
            break
    return Posed(tissues, brain)


def t1_weighted(dice: Dice) -> tuple[torch.Tensor, torch.Tensor]:
    """Intensity of every tissue in a T1-weighted image, white matter one, and the spread of its texture.

    Grey matter is darker than white matter and fluid darker than both; the nuclei lie between cortex and white
    matter, the caudate near the one, the pallidum near the other. What lies outside the brain is anything.
    """
    level = dice.uniform(0.0, 1.6, (TISSUE_COUNT,))
    grey = dice.number(0.45, 0.85)

    def between(low: float, high: float) -> float:
        return grey + dice.number(low, high) * (1 - grey)

    inside = [0.0, dice.number(0.05, 0.4), 1.0, grey, dice.number(0.05, 0.35), between(0.7, 1.1), between(-0.2, 0.3)]
    inside += [between(0.4, 1.0), between(-0.2, 0.3), between(0.0, 0.9), dice.number(0.3, 0.9)]
    level[: len(inside)] = torch.tensor(inside, device=level.device)
    striatum = between(-0.1, 0.35)
    for place, value in enumerate(
        (striatum, striatum + dice.number(-0.02, 0.25) * (1 - grey), between(0.35, 1.0), between(0.25, 0.85))
    ):
        level[FIRST_NUCLEUS + 2 * place : FIRST_NUCLEUS + 2 * place + 2] = value
    if dice.chance(0.8):
        level[BONE] = dice.number(0.0, 0.3)
        level[list(FAT)] = dice.number(0.6, 1.6)
    level[0] = dice.number(0.0, 0.05)
    level[: len(TISSUES)] *= 1 + 0.02 * dice.normal((len(TISSUES),)).clamp(-2, 2)
    return level.clamp_min(0.0), dice.uniform(0.0, 0.08, (TISSUE_COUNT,)) * level.clamp_min(0.05)


def shown(dice: Dice, posed: Posed, voxel_mm: float, params: ImageParams) -> Seen:
    """What a scanner shows of a head, as the network is given it, and the labels within the field of view."""
    level, grain = contrast(dice, 1.0) if dice.chance(params.any_contrast) else t1_weighted(dice)
    tissues = posed.tissues
    if dice.chance(params.stripped_chance):
        tissues = torch.where(posed.brain, tissues, 0)
        level[0] = 0.0
    index = tissues.int()
    shape: Shape = tuple(index.shape)  # type: ignore[assignment]
    cloud = smooth_noise(dice, shape, (dice.log_number(*CLOUD_MM) / voxel_mm,) * 3)[0]
    image, share = scanned(dice, level[index] + grain[index] * cloud, posed.brain.float(), voxel_mm, params)
    inside = share > 0.5
    return normalised(image, inside) * dice.number(0.9, 1.1), labels_of(tissues) * (share > 0)


def losses(params: TrainParams, state: State, sources: Sources, low: bool) -> tuple[torch.Tensor, float]:
    """Dice and cross-entropy of a step with their graph, and 1 - mean Dice."""
    need_heads(sources)
    network, dice = state.network, state.dice
    images, labels = [], []
    for _ in range(params.batch):
        posed = state.supply.take(
            state.step, dice, lambda: draw(dice, sources.heads, network.window, network.voxel_mm, params.nuclei)
        )
        image, label = shown(dice, posed, network.voxel_mm, params.image)
        images.append(image[None])
        labels.append(label[None])
    batch, true = torch.stack(images), torch.stack(labels)
    with torch.autocast(dice.device.type, torch.bfloat16, enabled=low):
        logits = network(batch)
    return label_loss(logits, true), 1 - mean_dice(logits, true)


def fixed_batches(params: TrainParams, network: nn.Module, held: Sources, device: torch.device | str) -> list[Seen]:
    """Fixed images of the held-out heads, with their labels."""
    if not held.heads:
        return []
    kept = []
    for index in range(VALIDATION_IMAGES):
        dice = Dice.of(VALIDATION_SEED + index, device)
        posed = draw(dice, held.heads, network.window, network.voxel_mm, params.nuclei)
        image, labels = shown(dice, posed, network.voxel_mm, params.image)
        kept.append((image[None, None], labels[None, None]))
    return kept


@torch.no_grad()
def validate(network: nn.Module, batches: list[Seen]) -> float:
    """1 - mean Dice."""
    network.eval()
    errors = [1 - mean_dice(network(image), labels) for image, labels in batches]
    return sum(errors) / len(errors) if errors else math.nan
