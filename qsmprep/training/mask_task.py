"""Learning the brain mask from images of heads."""

from __future__ import annotations

import math

import torch
from torch import nn

from qsmprep.errors import MissingFileError
from qsmprep.networks.segmentation import normalised
from qsmprep.training.config import TrainParams
from qsmprep.training.draw import Dice
from qsmprep.training.magnitudes import Image, ImageParams, draw_head, scanned
from qsmprep.training.sample import Sources
from qsmprep.training.state import State

VALIDATION_SEED = 30_000
VALIDATION_IMAGES = 8


def need_heads(sources: Sources) -> None:
    """Refuse to train without whole heads.

    Raises
    ------
    MissingFileError
        Naming what is needed.
    """
    if not sources.heads:
        raise MissingFileError(
            "this network is trained on whole heads, and there is no folder of label maps",
            expected="label maps with FreeSurfer codes and what surrounds the brain",
            remedy="give their folder with --labels",
        )


def draw(dice: Dice, sources: Sources, network: nn.Module, params: ImageParams) -> Image:
    """A head without noise."""
    head = sources.heads[dice.integer(0, len(sources.heads) - 1)]
    image, share = draw_head(dice, head, network.window, network.voxel_mm, params)
    return Image(image, share)


def losses(params: TrainParams, state: State, sources: Sources, low: bool) -> tuple[torch.Tensor, float]:
    """Dice and cross-entropy of a step with their graph, and 1 - Dice."""
    need_heads(sources)
    network, dice = state.network, state.dice
    images, shares = [], []
    for _ in range(params.batch):
        drawn = state.supply.take(state.step, dice, lambda: draw(dice, sources, network, params.image))
        image, share = scanned(dice, drawn.image, drawn.share, network.voxel_mm, params.image)
        images.append(normalised(image)[None])
        shares.append(share[None])
    batch, true = torch.stack(images), torch.stack(shares)
    with torch.autocast(dice.device.type, torch.bfloat16, enabled=low):
        logits = network(batch)
    return overlap_loss(logits, true), 1 - overlap(logits, true)


def overlap_loss(logits: torch.Tensor, share: torch.Tensor) -> torch.Tensor:
    """Soft Dice (of each image) and cross-entropy with the share of brain in each voxel."""
    probability, space = torch.sigmoid(logits), (1, 2, 3, 4)
    both = (probability * share).sum(dim=space)
    sum_ = probability.square().sum(dim=space) + share.square().sum(dim=space)
    entropy = nn.functional.binary_cross_entropy_with_logits(logits, share)
    return (1 - (2 * both + 1) / (sum_ + 1)).mean() + 3 * entropy


@torch.no_grad()
def overlap(logits: torch.Tensor, share: torch.Tensor) -> float:
    """Dice of the masks of a batch, taken together."""
    found, true = logits > 0, share > 0.5
    return float((2 * (found & true).sum() + 1) / (found.sum() + true.sum() + 1))


def fixed_batches(
    params: TrainParams, network: nn.Module, held: Sources, device: torch.device | str
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Fixed images of the held-out heads, with their truth."""
    if not held.heads:
        return []
    kept = []
    for index in range(VALIDATION_IMAGES):
        dice = Dice.of(VALIDATION_SEED + index, device)
        drawn = draw(dice, held, network, params.image)
        image, share = scanned(dice, drawn.image, drawn.share, network.voxel_mm, params.image)
        kept.append((normalised(image)[None, None], share[None, None]))
    return kept


@torch.no_grad()
def validate(network: nn.Module, batches: list[tuple[torch.Tensor, torch.Tensor]]) -> float:
    """1 - mean Dice."""
    network.eval()
    errors = [1 - overlap(network(image), share) for image, share in batches]
    return sum(errors) / len(errors) if errors else math.nan
