"""Batches for the training loop: drawn afresh, or mirrored copies of recent ones where drawing is slow."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from qsmprep.core.grid import Grid
from qsmprep.networks.base import QSMNetwork
from qsmprep.networks.geometry import Geometry, field_scale
from qsmprep.networks.trust import surer, trusted
from qsmprep.training.draw import Dice
from qsmprep.training.sample import PAD, Sample

KEPT = 20
"""Batches that copies are made of."""

VOLUMES = ("field", "chi", "mask", "noise_ppm", "magnitude")


@dataclass(frozen=True)
class Batch:
    """A sample, what the network prepares for it, if anything, and the spread of its field, the network's unit."""

    sample: Sample
    prepared: torch.Tensor | None
    scale: torch.Tensor

    def state(self) -> dict[str, Any]:
        """All of it as tensors and numbers, for a checkpoint."""
        grid = self.sample.geometry.grid
        volumes = {name: getattr(self.sample, name) for name in VOLUMES}
        own = {"prepared": self.prepared, "scale": self.scale}
        return {**volumes, **own, "voxel_mm": grid.voxel_mm, "b0_dir": grid.b0_dir}

    @classmethod
    def of(cls, state: dict[str, Any]) -> Batch:
        """From :meth:`state`."""
        volumes = {name: state[name] for name in VOLUMES}
        shape = tuple(volumes["field"].shape[-3:])
        geometry = Geometry(Grid(shape, state["voxel_mm"], state["b0_dir"]), PAD, volumes["field"].device)
        return cls(Sample(**volumes, geometry=geometry), state["prepared"], state["scale"])

    def mirrored(self, dice: Dice) -> Batch:
        """The same mirrored along random axes, perhaps with its sign changed."""
        axes = [axis for axis in range(3) if dice.chance(0.5)]
        sign = dice.sign()
        grid = self.sample.geometry.grid
        b0_dir = tuple(-c if axis in axes else c for axis, c in enumerate(grid.b0_dir))
        geometry = Geometry(Grid(grid.shape, grid.voxel_mm, b0_dir), PAD, self.sample.field.device)  # type: ignore[arg-type]

        def turn(volume: torch.Tensor) -> torch.Tensor:
            return volume.flip([axis - 3 for axis in axes])

        sample = Sample(
            turn(self.sample.field) * sign,
            turn(self.sample.chi) * sign,
            turn(self.sample.mask),
            turn(self.sample.noise_ppm),
            turn(self.sample.magnitude),
            geometry,
        )
        return Batch(sample, None if self.prepared is None else turn(self.prepared) * sign, self.scale)


@dataclass
class Supply:
    """Gives a batch for each step.

    Parameters
    ----------
    reuse : int
        How many steps there are for each batch that is drawn; 1 draws for every step.
    recent : list
        The last `KEPT` of them: :class:`Batch`, or anything else with ``mirrored``.
    """

    reuse: int = 1
    recent: list[Any] = field(default_factory=list)

    def take(self, step: int, dice: Dice, draw: Callable[[], Any]) -> Any:
        """The batch of a step: a new one every `reuse` steps, else a mirrored copy of a recent one."""
        if self.reuse > 1 and step % self.reuse and self.recent:
            return self.recent[dice.integer(0, len(self.recent) - 1)].mirrored(dice)
        batch = draw()
        if self.reuse > 1:
            self.recent = [*self.recent, batch][-KEPT:]
        return batch


def prepare(sample: Sample, network: QSMNetwork) -> Batch:
    """A sample, its field as :func:`qsmprep.networks.trust.trusted` makes it, with what the network prepares for it."""
    scale = field_scale(sample.field, surer(sample.mask, sample.weights))
    field, prepared = trusted(
        network, sample.field / scale, sample.mask, sample.geometry, sample.magnitude, sample.weights
    )
    if sample.weights is not None:
        sample = replace(sample, field=field * scale, weights=None)
    return Batch(sample, prepared, scale)
