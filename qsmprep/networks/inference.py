"""Running a trained network on a whole volume, whatever its size, voxels, direction, sign and scale."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from qsmprep.core.allocation import reused_memory
from qsmprep.core.device import is_out_of_memory
from qsmprep.core.grid import Grid
from qsmprep.core.inversion.problem import Problem, Volume, prepare
from qsmprep.core.parameters import (
    ConeNetParams,
    LoopNetParams,
    MetaQSMParams,
    PedQNetParams,
    QSMInvNetParams,
)
from qsmprep.core.results import Susceptibility
from qsmprep.errors import OutOfMemoryError, UsageError
from qsmprep.networks.adapt import Subject, adapt_physics, adapt_statistics
from qsmprep.networks.base import QSMNetwork
from qsmprep.networks.card import Card, outside
from qsmprep.networks.conenet import ConeNet
from qsmprep.networks.geometry import Geometry, field_scale, noise_ratio
from qsmprep.networks.invnet import SYNTHETIC, TARGET, QSMInvNet
from qsmprep.networks.plan import plan_tiles, smaller
from qsmprep.networks.tiles import Tiles
from qsmprep.networks.trust import surer, trusted
from qsmprep.networks.weights import load

LOG = logging.getLogger("qsmprep.networks")

MARGIN = 8
"""Zeros around the box of the mask, in voxels on each side; more where the stride asks for it."""

DOMAINS = {"target": TARGET, "synthetic": SYNTHETIC}


@dataclass(frozen=True)
class Frame:
    """Order of the axes and padding in which a network sees the box of a problem.

    The networks were trained with the largest component of B0 along the third axis: the axes are put in
    the order of the components' sizes (then of voxel edges, then of lengths, where those are equal).

    Parameters
    ----------
    order : (3,) tuple of int
        Axis ``i`` of the frame is axis ``order[i]`` of the box.
    begin : (3,) tuple of int
        Where the box begins in the frame.
    inner : (3,) tuple of int
        Lengths of the box, in the frame's order.
    grid : Grid
        Of the frame.
    """

    order: tuple[int, ...]
    begin: tuple[int, ...]
    inner: tuple[int, ...]
    grid: Grid

    @classmethod
    def of(cls, grid: Grid, stride: int) -> Frame:
        """The frame for a box on ``grid`` whose lengths become multiples of ``stride``."""
        keys = [
            (round(abs(b), 6), round(mm, 6), n) for b, mm, n in zip(grid.b0_dir, grid.voxel_mm, grid.shape, strict=True)
        ]
        order = tuple(sorted(range(3), key=keys.__getitem__))
        inner = tuple(grid.shape[axis] for axis in order)
        full = tuple(-(-(n + 2 * MARGIN) // stride) * stride for n in inner)
        begin = tuple((whole - n) // 2 for whole, n in zip(full, inner, strict=True))
        voxel, b0 = (tuple(part[axis] for axis in order) for part in (grid.voxel_mm, grid.b0_dir))
        return cls(order, begin, inner, Grid(full, voxel, b0))  # type: ignore[arg-type]

    @property
    def where(self) -> tuple[Any, ...]:
        """The box in the frame."""
        return (..., *(slice(b, b + n) for b, n in zip(self.begin, self.inner, strict=True)))

    def enter(self, volume: torch.Tensor) -> torch.Tensor:
        """A volume of the box as ``(1, 1, nx, ny, nz)`` float32 in the frame."""
        result = torch.zeros((1, 1, *self.grid.shape), device=volume.device)
        result[self.where] = volume.permute(self.order).float()
        return result

    def leave(self, volume: torch.Tensor) -> torch.Tensor:
        """The box of a volume of the frame, its axes in their first order."""
        back = sorted(range(3), key=self.order.__getitem__)
        return volume[0, 0][self.where].permute(back)


@torch.no_grad()
def invert(
    name: str,
    field_ppm: Volume,
    mask: Volume,
    grid: Grid,
    params: Any,
    *,
    weights: Volume | None = None,
    magnitude: Volume | None = None,
    rad_per_ppm: float | None = None,
    device: str = "cpu",
) -> Susceptibility:
    """Susceptibility by the trained network of that name.

    Parameters
    ----------
    name : str
        Of the weight files, see :mod:`qsmprep.networks.weights`.
    field_ppm : (nx, ny, nz) array
        Local field in ppm of B0; ignored outside ``mask``.
    mask : (nx, ny, nz) bool array
        Where the field is valid.
    grid : Grid
        Voxel size and B0 direction along the array axes.
    params : dataclass
        One of the parameter classes of the networks; what it does not have is as trained.
    weights : (nx, ny, nz) array, optional
        Relative reliability of the field. Where it is low, the network is given what the rest of the field lets
        expect instead (:func:`qsmprep.networks.trust.trusted`).
    magnitude : (nx, ny, nz) array, optional
        Its edges guide networks that were trained with it (ConeNet and those of ``inputs: variation``).
    rad_per_ppm : optional
        Checked, but of no use to networks.
    device : str
        Torch device.

    Returns
    -------
    Susceptibility
        In ppm, zero outside the mask. ``info`` says which weights were used, with how many tiles, and
        under ``outside_card`` (and ``warnings``) what of the data the network was not trained on.

    Raises
    ------
    DataError, UsageError
        See :func:`qsmprep.core.inversion.problem.prepare` and :func:`qsmprep.networks.weights.load`.
    MissingFileError
        When the weights are not there.
    OutOfMemoryError
        When memory does not suffice for the smallest tiles either.
    """
    problem = prepare(
        field_ppm, mask, grid, weights=weights, magnitude=magnitude, rad_per_ppm=rad_per_ppm, device=device
    )
    network, card = load(name, getattr(params, "weights", ""), problem.device)
    frame = Frame.of(problem.grid, network.stride)
    field = frame.enter(problem.field_ppm)
    inside = frame.enter(problem.mask)
    trust = None if weights is None else relative(frame.enter(problem.weights), inside)
    sure = surer(inside, trust)
    scale = 0.5 * (field_scale(field, sure) + field_scale(-field, sure))
    noise_ppm = float(noise_ratio(field, sure).exp()) * float(field_scale(field, sure))
    info = describe(card, problem.grid, noise_ppm, card.title)
    info |= {"ensemble": getattr(params, "ensemble", "odd"), "device": str(device)}
    count = getattr(params, "iterations", 0) or getattr(network, "iterations", 1)
    if isinstance(network, ConeNet) and count > network.iterations:
        raise UsageError(
            f"`conenet.iterations` is {count}",
            expected=f"at most {network.iterations}, as many steps as these weights were trained with: more diverge",
        )
    if not bool(problem.field_ppm.any()):
        return Susceptibility(problem.paste(problem.field_ppm), iterations=count, info={**info, "tiles": 0})
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        image = problem.cut(magnitude)
        guide = None if image is None else frame.enter(image)
        geometry = Geometry(frame.grid, device=problem.device)
        runner = Runner(network, field / scale, inside, guide, geometry, params, trust)
        info |= runner.adapt(frame, problem, float(scale))
        with reused_memory(problem.device):
            chi, tiles = runner.run()
    info["tiles"] = tiles
    info["consistency_weight"] = float(network.consistency.weight(noise_ratio(runner.field, inside)))
    return Susceptibility(problem.paste(frame.leave(chi * scale)), iterations=count, info=info)


def relative(weights: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Weights of any size as how far a voxel can be trusted: its weight over their median in the mask, at most 1."""
    return (weights / weights[mask > 0].median().clamp_min(torch.finfo(torch.float32).tiny)).clamp_max(1.0)


def describe(card: Card, grid: Grid, noise_ppm: float, title: str) -> dict[str, Any]:
    """What is to be told of the network and of how the data suit it; what does not is logged."""
    told = outside(card, grid, noise_ppm)
    for sentence in told:
        LOG.warning("%s: %s", title, sentence)
    return {
        "network": card.network,
        "network_weights": card.code,
        "trained_steps": card.steps,
        "noise_ppm": noise_ppm,
        "outside_card": told,
        "warnings": [f"{title}: {sentence}" for sentence in told],
    }


@dataclass(frozen=True)
class Runner:
    """A network and the volume it is run on.

    Parameters
    ----------
    network : QSMNetwork
        In evaluation mode.
    measured : (1, 1, nx, ny, nz) torch.Tensor
        Field, divided by its spread.
    mask : (1, 1, nx, ny, nz) torch.Tensor
        1 inside.
    magnitude : (1, 1, nx, ny, nz) torch.Tensor, optional
        In any unit.
    geometry : Geometry
        Of the volume.
    params : dataclass
        Of the method.
    weights : (1, 1, nx, ny, nz) torch.Tensor, optional
        How far each voxel's field can be trusted, 0 to 1.
    """

    network: QSMNetwork
    measured: torch.Tensor
    mask: torch.Tensor
    magnitude: torch.Tensor | None
    geometry: Geometry
    params: Any
    weights: torch.Tensor | None = None

    @property
    def options(self) -> dict[str, Any]:
        """The options of the network."""
        return {
            "iterations": getattr(self.params, "iterations", 0),
            "domain": DOMAINS[getattr(self.params, "domain", "target")],
        }

    @cached_property
    def start(self) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The field that the network is given, and what it prepares for it, if anything."""
        return trusted(self.network, self.measured, self.mask, self.geometry, self.magnitude, self.weights)

    @property
    def field(self) -> torch.Tensor:
        """The field that the network is given."""
        return self.start[0]

    @property
    def prepared(self) -> torch.Tensor | None:
        """What the network prepares for it, if anything."""
        return self.start[1]

    def adapt(self, frame: Frame, problem: Problem, scale_ppm: float) -> dict[str, Any]:
        """Adapt the network to the volume where that is asked for, and tell what came of it."""
        how = getattr(self.params, "adapt", "none")
        if how == "none":
            return {}
        if not isinstance(self.network, QSMInvNet):
            raise UsageError(f"a network of class {type(self.network).__name__} is not adapted", expected="qsminvnet")
        try:
            weight = frame.enter(problem.weights)
            subject = Subject(
                self.field,
                self.mask,
                weight / weight.max(),
                scale_ppm,
                self.geometry,
                self.options["domain"],
                self.prepared,
                self.magnitude,
            )
            if how == "statistics":
                return {"adapted_on_patches": adapt_statistics(self.network, subject)}
            before, after = adapt_physics(self.network, subject, self.params.adapt_steps)
            return {"adapt_loss_before": before, "adapt_loss_after": after}
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            raise OutOfMemoryError(
                "there is not enough memory to adapt the network to the subject",
                remedy="run again with more memory, or with adapt=none",
            ) from error

    def run(self) -> tuple[torch.Tensor, int]:
        """The map in the unit of the field, and the number of tiles it took.

        Where memory does not suffice, tiles of half the edge are tried.
        """
        if self.measured.is_cuda:
            torch.cuda.empty_cache()  # tiles are planned by the memory that is free
        shape = tuple(n // self.network.shuffle for n in self.measured.shape[-3:])
        tiles: Tiles | None = plan_tiles(self.network, shape, getattr(self.params, "tile", 0), self.measured.device)
        while tiles is not None:
            try:
                return self.attempt(tiles), tiles.count(shape)
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
            if self.measured.is_cuda:
                torch.cuda.empty_cache()
            tiles = smaller(self.network, tiles, shape)
        raise OutOfMemoryError(
            f"there is not enough memory on {self.measured.device} for the network, even in the smallest tiles",
            remedy="run again with more memory, or on another device",
        )

    def attempt(self, tiles: Tiles) -> torch.Tensor:
        """The map, made odd in the field by averaging the network and its mirror image."""
        chi = self.once(1.0, tiles)
        if getattr(self.params, "ensemble", "odd") == "odd":
            chi = 0.5 * (chi - self.once(-1.0, tiles))
        return chi

    def once(self, sign: float, tiles: Tiles) -> torch.Tensor:
        """The output that the parameters ask for, of the field or of its negative."""
        options = self.options
        if self.prepared is not None:
            options |= {"prepared": sign * self.prepared, "magnitude": self.magnitude}
        outputs = self.network(sign * self.field, self.mask, self.geometry, over=tiles, **options)
        native = not getattr(self.params, "consistency", True) and not isinstance(self.network, ConeNet)
        return outputs[-2 if native else -1]


def _method(name: str, kind: Any, text: str) -> Callable[..., Susceptibility]:
    """The inversion by the network of that name, with parameters of that kind."""

    def run(
        field_ppm: Volume,
        mask: Volume,
        grid: Grid,
        params: Any = None,
        *,
        weights: Volume | None = None,
        magnitude: Volume | None = None,
        rad_per_ppm: float | None = None,
        device: str = "cpu",
    ) -> Susceptibility:
        given: dict[str, Any] = {"weights": weights, "magnitude": magnitude, "rad_per_ppm": rad_per_ppm}
        return invert(name, field_ppm, mask, grid, params or kind(), **given, device=device)

    run.__name__ = run.__qualname__ = name
    run.__doc__ = f"Susceptibility with {text}\n\nSee :func:`invert` for the arguments."
    return run


conenet = _method(
    "conenet",
    ConeNetParams,
    "ConeNet: a few proximal steps of a small network, each followed by data consistency; see "
    ":class:`qsmprep.networks.conenet.ConeNet`.",
)
loopnet = _method(
    "loopnet",
    LoopNetParams,
    "LoopNet: a U-Net run in a loop, with reverse connections and attention; see "
    ":class:`qsmprep.networks.loopnet.LoopNet`.",
)
metaqsm = _method(
    "metaqsm",
    MetaQSMParams,
    "Meta-QSM: a U-Net whose kernels are predicted from voxel size and B0 direction; see "
    ":class:`qsmprep.networks.metaqsm.MetaQSM`.",
)
qsminvnet = _method(
    "qsminvnet",
    QSMInvNetParams,
    "QSMInvNet+: a U-Net with batch normalisation for each domain, adapted if wanted; see "
    ":class:`qsmprep.networks.invnet.QSMInvNet`.",
)
pedqnet = _method(
    "pedqnet",
    PedQNetParams,
    "PedQ-NET: an nnU-Net trained by the physics, not by maps, joined to a segmentation; see "
    ":class:`qsmprep.networks.pedqnet.PedQNet`.",
)
