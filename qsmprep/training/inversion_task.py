"""Learning to invert fields: with the map that a field was made from, and with fields alone."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import torch

from qsmprep.core.grid import Grid
from qsmprep.networks.base import QSMNetwork
from qsmprep.networks.geometry import Geometry
from qsmprep.networks.invnet import SYNTHETIC, TARGET
from qsmprep.networks.physics import physics
from qsmprep.training.config import TrainParams
from qsmprep.training.draw import Dice, Shape
from qsmprep.training.losses import relative_errors, supervised
from qsmprep.training.sample import PAD, Sample, Sources, draw_batch
from qsmprep.training.scans import Scan, cut
from qsmprep.training.state import State
from qsmprep.training.supply import Batch, prepare

VALIDATION_SEED = 20_000

FILLED = 0.5
"""Part of a patch of a scan that its mask should fill."""


def losses(params: TrainParams, state: State, sources: Sources, low: bool) -> tuple[torch.Tensor, float]:
    """Loss of a step with its graph, and the relative error of the last output."""
    network, device = state.network, state.dice.device
    sample_batch = labelled(params, state, sources)
    sample = sample_batch.sample
    with torch.autocast(device.type, torch.bfloat16, enabled=low):
        outputs = apply(network, sample_batch, domain=SYNTHETIC)
    scale = sample_batch.scale
    loss = supervised(outputs, sample.chi / scale, sample.mask, params.loss, params.iteration_decay)
    with torch.no_grad():
        error = float(relative_errors(outputs[-1], sample.chi / scale, sample.mask)[0])
    if params.physics_weight:
        patch = params.patches[state.step % len(params.patches)]
        unlabelled = state.target.take(
            state.step,
            state.dice,
            lambda: prepare(draw_batch(state.dice, sources, patch, params.batch, params.target), network),
        )
        other = unlabelled.sample
        with torch.autocast(device.type, torch.bfloat16, enabled=low):
            chi = apply(network, unlabelled, domain=TARGET)[0] * unlabelled.scale
        weight = other.mask / (1 + other.noise_ppm / 0.003)
        ramp = min(1.0, 2 * max(state.step / max(1, params.steps), state.share))
        loss = loss + params.physics_weight * ramp * physics(chi, other.field, weight, other.geometry)
    return loss, error


def labelled(params: TrainParams, state: State, sources: Sources) -> Batch:
    """The batch of a step."""
    patch = params.patches[state.step % len(params.patches)]

    def draw() -> Batch:
        if sources.scans and state.dice.chance(params.scans.chance):
            scan = sources.scans[state.dice.integer(0, len(sources.scans) - 1)]
            magnitude = state.dice.chance(params.sample.magnitude)
            return prepare(scan_batch(state.dice, scan, patch, params.batch, magnitude=magnitude), state.network)
        return prepare(draw_batch(state.dice, sources, patch, params.batch, params.sample), state.network)

    return state.supply.take(state.step, state.dice, draw)  # type: ignore[no-any-return]


def scan_batch(dice: Dice, scan: Scan, shape: Shape, batch: int, *, magnitude: bool) -> Sample:
    """A batch of patches of one scan; ``magnitude`` says whether they have one."""
    cuts = zip(*(cut(dice, scan, shape, FILLED) for _ in range(batch)), strict=True)
    field, chi, mask, weights, image = (torch.stack(parts)[:, None].to(dice.device) for parts in cuts)
    geometry = Geometry(Grid(shape, scan.voxel_mm, scan.b0_dir), PAD, dice.device)
    image = image if magnitude else torch.ones_like(image)
    return Sample(field, chi, mask, torch.zeros_like(field), image, geometry, weights)


def apply(network: QSMNetwork, batch: Batch, **options: Any) -> list[torch.Tensor]:
    """Run a network on a batch; the outputs are in units of the field's spread."""
    sample = batch.sample
    scaled = sample.field / batch.scale
    if batch.prepared is not None:
        options |= {"prepared": batch.prepared, "magnitude": sample.magnitude}
    return network(scaled, sample.mask, sample.geometry, **options)  # type: ignore[no-any-return]


def fixed_batches(params: TrainParams, network: QSMNetwork, held: Sources, device: torch.device | str) -> list[Batch]:
    """Four fixed samples of the held-out label maps and one of each scan of them (none where there are none)."""
    if not held.labels:
        return []
    scanned = [Dice.of(VALIDATION_SEED + 100 + index, device) for index in range(len(held.scans))]
    scans = [
        prepare(scan_batch(one, scan, params.patches[0], 1, magnitude=True), network)
        for one, scan in zip(scanned, held.scans, strict=True)
    ]
    sample = dataclasses.replace(params.sample, shapes=0.0)
    dice = [Dice.of(VALIDATION_SEED + index, device) for index in range(4)]
    return [*(prepare(draw_batch(one, held, params.patches[0], 1, sample), network) for one in dice), *scans]


@torch.no_grad()
def validate(network: QSMNetwork, batches: list[Batch], output: int = -1) -> float:
    """Mean relative error of an output, by default the last."""
    network.eval()
    errors = []
    for batch in batches:
        sample = batch.sample
        truth = sample.chi / batch.scale
        errors.append(relative_errors(apply(network, batch, domain=SYNTHETIC)[output], truth, sample.mask)[0])
    return float(torch.stack(errors).mean()) if errors else math.nan
