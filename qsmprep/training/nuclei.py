"""Heads around the deep grey nuclei: a field, a map that an inversion might give of it, and the labels."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch

from qsmprep.core.grid import Grid
from qsmprep.networks.geometry import Geometry
from qsmprep.networks.pedqnet import CLASSES, OTHER_SIDE
from qsmprep.training.anatomy import Anatomy
from qsmprep.training.draw import Dice, Shape, erode, gaussian
from qsmprep.training.heads import FIRST_NUCLEUS, TISSUE_COUNT, HeadMap, PoseParams, class_of_tissue, pose
from qsmprep.training.sample import PAD, SampleParams, draw_field, draw_grid
from qsmprep.training.susceptibility import draw_magnitude, paint

TRIES = 6
"""Poses that are tried until the window holds nuclei."""

LEAST = 500
"""Voxels of nuclei that a window holds at least."""


@dataclass(frozen=True)
class NucleiParams:
    """How windows around the nuclei are drawn.

    Parameters
    ----------
    pose : PoseParams
    slice_mm : (2,) tuple of float
        Range of the slice thickness that blurs one axis.
    smooth : (2,) tuple of float
        Range of the weight of the closed-form inversion that maps are made with: what is ill-posed is
        lost, or streaks, as in maps of real scans.
    true_chance : float
        Probability that the map is the true one with a little noise.
    """

    pose: PoseParams = field(default_factory=lambda: PoseParams(scale=(0.75, 1.1), turn_deg=18.0, shift_mm=18.0))
    slice_mm: tuple[float, float] = (1.0, 3.0)
    smooth: tuple[float, float] = (0.003, 0.2)
    true_chance: float = 0.3


@dataclass(frozen=True)
class Window:
    """A window around the nuclei, ``(1, 1, n, n, n)`` each.

    Parameters
    ----------
    field, chi, mask, magnitude : torch.Tensor
        As in :class:`qsmprep.training.sample.Sample`.
    seen : torch.Tensor
        The map that a segmenter is shown, in ppm.
    labels : torch.Tensor
        uint8: 0, then left and right of each of :data:`qsmprep.networks.pedqnet.NUCLEI`.
    geometry : Geometry
    prepared : (1, ..., n, n, n) torch.Tensor, optional
        What the network that inverts the field prepares for it.
    """

    field: torch.Tensor
    chi: torch.Tensor
    mask: torch.Tensor
    magnitude: torch.Tensor
    seen: torch.Tensor
    labels: torch.Tensor
    geometry: Geometry
    prepared: torch.Tensor | None = None

    def state(self) -> dict[str, Any]:
        """All of it as tensors and numbers, for a checkpoint."""
        grid = self.geometry.grid
        names = ("field", "chi", "mask", "magnitude", "seen", "labels", "prepared")
        volumes = {name: getattr(self, name) for name in names}
        return {**volumes, "voxel_mm": grid.voxel_mm, "b0_dir": grid.b0_dir}

    @classmethod
    def of(cls, state: dict[str, Any]) -> Window:
        """From :meth:`state`."""
        parts = dict(state)
        voxel, b0 = parts.pop("voxel_mm"), parts.pop("b0_dir")
        shape = tuple(parts["field"].shape[-3:])
        return cls(**parts, geometry=Geometry(Grid(shape, voxel, b0), PAD, parts["field"].device))  # type: ignore[arg-type]

    def mirrored(self, dice: Dice) -> Window:
        """The same, or (half the time) its mirror image with left and right changed."""
        if dice.chance(0.5):
            return self
        grid = self.geometry.grid
        bx, by, bz = grid.b0_dir
        geometry = Geometry(Grid(grid.shape, grid.voxel_mm, (-bx, by, bz)), PAD, self.field.device)
        names = ("field", "chi", "mask", "magnitude", "seen")
        parts = {name: getattr(self, name).flip(-3) for name in names}
        prepared = None if self.prepared is None else self.prepared.flip(-3)
        other = torch.tensor(OTHER_SIDE, dtype=torch.uint8, device=self.labels.device)
        labels = other[self.labels.flip(-3).int()]
        return Window(**parts, labels=labels, geometry=geometry, prepared=prepared)


def draw_window(
    dice: Dice, heads: tuple[HeadMap, ...], edge: int, voxel_mm: float, params: NucleiParams, sample: SampleParams
) -> Window:
    """A random window.

    Parameters
    ----------
    dice : Dice
        Also decides the device.
    heads : tuple of HeadMap
        One of them is taken.
    edge : int
        Of the window, in voxels.
    voxel_mm : float
        Of the window.
    params : NucleiParams
        Pose, resolution, map.
    sample : SampleParams
        How susceptibility and field are drawn; of its geometry only the tilt counts.
    """
    shape: Shape = (edge,) * 3
    b0_dir = draw_grid(dice, shape, sample.geometry).b0_dir
    grid = Grid(shape, (voxel_mm,) * 3, b0_dir)
    geometry = Geometry(grid, PAD, dice.device)
    for _ in range(TRIES):
        head = heads[dice.integer(0, len(heads) - 1)]
        tissues, brain = pose(dice, head, head.nuclei_mm, shape, grid.voxel_mm, params.pose)
        labels = labels_of(tissues)
        if int((labels > 0).sum()) >= LEAST:
            break
    table = torch.tensor(class_of_tissue(), device=dice.device)
    anatomy = Anatomy(table[tissues.int()], brain)
    chi = paint(dice, anatomy, grid.voxel_mm, sample.chi)
    mask = erode(brain, dice.integer(0, sample.field.erosion))
    image = draw_magnitude(dice, anatomy, chi, grid.voxel_mm)
    width = [0.0, 0.0, 0.0]
    width[2 if dice.chance(0.8) else dice.integer(0, 1)] = dice.number(*params.slice_mm) / 2.355 / voxel_mm
    chi, image = (gaussian(volume, (width[0], width[1], width[2])) for volume in (chi, image))
    inside = mask.float()
    local, _ = draw_field(dice, chi, anatomy, mask, image, geometry, sample.field)
    local, chi, image = local * inside, chi * inside, image * inside
    seen = chi + dice.number(0.0, 0.01) * dice.normal(shape)
    if not dice.chance(params.true_chance):
        soft = dice.number(0.0, 0.6)
        seen = gaussian(geometry.closed_form(local, dice.log_number(*params.smooth)), (soft, soft, soft))
    volumes = (local, chi, inside, image, seen * inside, labels)
    return Window(*(volume[None, None] for volume in volumes), geometry)


def labels_of(tissues: torch.Tensor) -> torch.Tensor:
    """Labels of the nuclei from tissues."""
    table = torch.zeros(TISSUE_COUNT, dtype=torch.uint8, device=tissues.device)
    for index in range(CLASSES - 1):
        table[FIRST_NUCLEUS + index] = index + 1
    return table[tissues.int()]
