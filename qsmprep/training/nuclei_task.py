"""Learning to segment the deep grey nuclei on susceptibility maps."""

from __future__ import annotations

import math

import torch
from torch import nn

from qsmprep.networks.segmentation import standardised
from qsmprep.training.config import TrainParams
from qsmprep.training.draw import Dice
from qsmprep.training.mask_task import need_heads
from qsmprep.training.nuclei import Window, draw_window
from qsmprep.training.sample import Sources
from qsmprep.training.state import State

VALIDATION_SEED = 40_000
VALIDATION_WINDOWS = 6


def losses(params: TrainParams, state: State, sources: Sources, low: bool) -> tuple[torch.Tensor, float]:
    """Dice and cross-entropy of a step with their graph, and 1 - mean Dice."""
    need_heads(sources)
    dice, network = state.dice, state.network
    windows = [
        state.supply.take(state.step, dice, lambda: draw(dice, sources, network, params)) for _ in range(params.batch)
    ]
    batch = torch.cat([seen(window, network.channels) for window in windows])
    labels = torch.cat([window.labels for window in windows])
    with torch.autocast(dice.device.type, torch.bfloat16, enabled=low):
        logits = network(batch)
    return label_loss(logits, labels), 1 - mean_dice(logits, labels)


def draw(dice: Dice, sources: Sources, network: nn.Module, params: TrainParams) -> Window:
    """A window of a head."""
    return draw_window(dice, sources.heads, network.window, network.voxel_mm, params.nuclei, params.sample)


def seen(window: Window, channels: int) -> torch.Tensor:
    """What a segmenter is shown: the map, and for two channels the magnitude, standardised alike."""
    volumes = (window.seen, window.magnitude)[:channels]
    return torch.cat([standardised(volume, window.mask) for volume in volumes], dim=1)


def label_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Soft Dice of the nuclei and cross-entropy (MONAI's)."""
    from monai.losses import DiceCELoss

    return DiceCELoss(include_background=False, to_onehot_y=True, softmax=True)(logits, labels.long())  # type: ignore[no-any-return]


@torch.no_grad()
def mean_dice(logits: torch.Tensor, labels: torch.Tensor) -> float:
    """Mean Dice over the nuclei that the windows of a batch hold together; 1 where they hold none."""
    classes = logits.shape[1]
    pairs = logits.argmax(dim=1).flatten() * classes + labels.flatten().long()
    table = torch.bincount(pairs, minlength=classes**2).view(classes, classes).double().cpu()
    both, either = table.diagonal(), table.sum(dim=0) + table.sum(dim=1)
    scores = [float(2 * both[i] / either[i]) for i in range(1, classes) if table[:, i].any()]
    return sum(scores) / len(scores) if scores else 1.0


def fixed_batches(params: TrainParams, network: nn.Module, held: Sources, device: torch.device | str) -> list[Window]:
    """Fixed windows of the held-out heads."""
    if not held.heads:
        return []
    dice = [Dice.of(VALIDATION_SEED + index, device) for index in range(VALIDATION_WINDOWS)]
    return [draw(one, held, network, params) for one in dice]


@torch.no_grad()
def validate(network: nn.Module, batches: list[Window]) -> float:
    """1 - mean Dice."""
    network.eval()
    errors = [1 - mean_dice(network(seen(window, network.channels)), window.labels) for window in batches]
    return sum(errors) / len(errors) if errors else math.nan
