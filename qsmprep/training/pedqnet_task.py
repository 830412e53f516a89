"""Learning to invert fields from the physics alone, then together with the segmentation of the nuclei.

The map that a field was made from is never in the loss; validation alone compares with it.
"""

from __future__ import annotations

import dataclasses
from functools import partial

import torch

from qsmprep.networks.geometry import field_scale
from qsmprep.networks.physics import phase_distance
from qsmprep.networks.segmentation import standardised
from qsmprep.training import inversion_task
from qsmprep.training.config import TrainParams
from qsmprep.training.losses import relative_errors
from qsmprep.training.mask_task import need_heads
from qsmprep.training.nuclei import Window, draw_window
from qsmprep.training.nuclei_task import label_loss
from qsmprep.training.sample import Sources
from qsmprep.training.state import State

fixed_batches = inversion_task.fixed_batches
validate = partial(inversion_task.validate, output=0)
"""Of the map before any data consistency."""


def losses(params: TrainParams, state: State, sources: Sources, low: bool) -> tuple[torch.Tensor, float]:
    """Loss of a step with its graph, and the relative error of the map, which the loss does not know.

    Without a segmentation, fields of patches on any voxels. With one, every other step has a window around
    the nuclei on the segmenter's voxels, and its loss goes through both networks.
    """
    network, device = state.network, state.dice.device
    if network.segmentation is not None and state.step % 2:
        return joint_losses(params, state, sources, low)
    batch = inversion_task.labelled(params, state, sources)
    sample = batch.sample
    scale = batch.scale
    with torch.autocast(device.type, torch.bfloat16, enabled=low):
        outputs = inversion_task.apply(network, batch)
    weight = reliability(sample.magnitude, sample.mask)
    loss = phase_distance(outputs[0], sample.field / scale, weight, sample.geometry, params.variation)
    with torch.no_grad():
        error = float(relative_errors(outputs[0], sample.chi / scale, sample.mask)[0])
    return loss, error


def joint_losses(params: TrainParams, state: State, sources: Sources, low: bool) -> tuple[torch.Tensor, float]:
    """Loss of the model plus that of the segmentation on its map, and the relative error of the map."""
    need_heads(sources)
    network, dice = state.network, state.dice
    segmenter = network.segmentation

    def draw() -> Window:
        one = draw_window(dice, sources.heads, segmenter.window, segmenter.voxel_mm, params.nuclei, params.sample)
        field = one.field / field_scale(one.field, one.mask)
        return dataclasses.replace(one, prepared=network.prepare(field, one.mask, one.geometry, one.magnitude))

    window: Window = state.target.take(state.step // 2, dice, draw)
    scale = field_scale(window.field, window.mask)
    with torch.autocast(dice.device.type, torch.bfloat16, enabled=low):
        given = {"prepared": window.prepared, "magnitude": window.magnitude}
        chi = network(window.field / scale, window.mask, window.geometry, **given)[0]
        logits = segmenter(standardised(chi, window.mask))
    weight = reliability(window.magnitude, window.mask)
    loss = phase_distance(chi, window.field / scale, weight, window.geometry, params.variation)
    ramp = min(1.0, 4 * max(state.step / max(1, params.steps), state.share))
    loss = loss + params.joint * ramp * label_loss(logits, window.labels)
    with torch.no_grad():
        error = float(relative_errors(chi, window.chi / scale, window.mask)[0])
    return loss, error


def reliability(magnitude: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Magnitude relative to its largest value inside the mask (of each volume), zero outside."""
    inside = magnitude.clamp_min(0) * mask
    return inside / inside.amax(dim=(-3, -2, -1), keepdim=True).clamp_min(1e-6)
