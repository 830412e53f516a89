"""One training sample: a patch of susceptibility and the local field that a scan would give of it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch

from qsmprep.core.grid import Grid
from qsmprep.networks.geometry import Geometry
from qsmprep.training.anatomy import Anatomy, LabelMap, chi_patch, head_patch, random_patch
from qsmprep.training.draw import Dice, Shape, erode, rotation, smooth_noise, spread_in
from qsmprep.training.heads import HeadMap
from qsmprep.training.leftover import leftover, rim_share
from qsmprep.training.scans import Scan
from qsmprep.training.susceptibility import ChiParams, draw_magnitude, fibres, paint

PAD = 1.25
"""Padding of the transforms that networks work with in training."""

MIN_MASK = 0.25
"""Smallest part of a patch that the mask must fill; else the patch is drawn again."""


@dataclass(frozen=True)
class GeometryParams:
    """Voxel sizes and B0 directions.

    Parameters
    ----------
    in_plane_mm, slice_mm : (2,) tuple of float
        Ranges of the voxel edges; the slice is never thinner than the plane.
    isotropic : float
        Probability of cubic voxels.
    tilt_deg : float
        Largest angle between B0 and the third axis. At run time the axes are put in an order in which
        it is at most 54.8 degrees.
    fixed_mm : (3,) tuple of float, optional
        One voxel size for all samples.
    """

    in_plane_mm: tuple[float, float] = (0.4, 1.3)
    slice_mm: tuple[float, float] = (0.4, 4.0)
    isotropic: float = 0.4
    tilt_deg: float = 54.0
    fixed_mm: tuple[float, float, float] | None = None


@dataclass(frozen=True)
class FieldParams:
    """What a field carries beside that of the susceptibility map.

    Parameters
    ----------
    noise_ppm : (2,) tuple of float
        Range of the standard deviation of white noise, which also varies over the patch.
    mismatch : (2,) tuple of float
        Range of the spread of the field that no isotropic map explains, relative to the field's.
    mismatch_chance : float
        Probability of it.
    background : float
        Largest part of the mismatch that comes from sources outside the mask.
    erosion : int
        Largest number of layers that the mask loses.
    leftover : (2,) tuple of float
        Range of the spread of what background removal left, relative to the field's
        (:func:`qsmprep.training.leftover.leftover`).
    leftover_chance : float
        Probability of it.
    rim_noise : float
        Largest factor, less one, by which the white noise grows towards the rim of the mask.
    """

    noise_ppm: tuple[float, float] = (0.0005, 0.006)
    mismatch: tuple[float, float] = (0.05, 0.6)
    mismatch_chance: float = 0.9
    background: float = 0.5
    erosion: int = 3
    leftover: tuple[float, float] = (0.05, 0.8)
    leftover_chance: float = 0.0
    rim_noise: float = 0.0


@dataclass(frozen=True)
class SampleParams:
    """How samples are drawn."""

    shapes: float = 0.2
    """Probability of a patch without anatomy; 1 where there are no label maps."""
    magnitude: float = 0.0
    """Probability that a sample has a magnitude."""
    chi: ChiParams = field(default_factory=ChiParams)
    geometry: GeometryParams = field(default_factory=GeometryParams)
    field: FieldParams = field(default_factory=FieldParams)


@dataclass(frozen=True)
class Sample:
    """A batch of patches on one grid.

    Parameters
    ----------
    field, chi, mask, noise_ppm, magnitude : (batch, 1, nx, ny, nz) torch.Tensor
        Local field and susceptibility in ppm, zero outside the mask (1 inside), the standard deviation of
        the white noise in the field, and a magnitude (all ones where there is none).
    geometry : Geometry
        Of all patches.
    weights : (batch, 1, nx, ny, nz) torch.Tensor, optional
        How far each voxel's field can be trusted, 0 to 1; wholly where they are not given.
    """

    field: torch.Tensor
    chi: torch.Tensor
    mask: torch.Tensor
    noise_ppm: torch.Tensor
    magnitude: torch.Tensor
    geometry: Geometry
    weights: torch.Tensor | None = None


@dataclass(frozen=True)
class Sources:
    """What patches are cut from."""

    labels: tuple[LabelMap, ...] = ()
    chi: tuple[tuple[torch.Tensor, tuple[float, float, float]], ...] = ()
    heads: tuple[HeadMap, ...] = ()
    scans: tuple[Scan, ...] = ()


def draw_grid(dice: Dice, shape: Shape, params: GeometryParams) -> Grid:
    """A random voxel size and B0 direction."""
    if params.fixed_mm is not None:
        voxel = list(params.fixed_mm)
    elif dice.chance(params.isotropic):
        edge = dice.number(max(0.6, params.in_plane_mm[0]), params.in_plane_mm[1])
        voxel = [edge * dice.number(0.93, 1.07) for _ in range(3)]
    else:
        plane = dice.log_number(*params.in_plane_mm)
        slab = dice.log_number(max(plane, params.slice_mm[0]), max(params.slice_mm[1], plane))
        voxel = [plane, plane * dice.number(0.9, 1.1), slab]
        thick = 2 if dice.chance(0.8) else dice.integer(0, 1)
        voxel[2], voxel[thick] = voxel[thick], voxel[2]
    tilt = math.radians(0.0 if dice.chance(0.2) else params.tilt_deg * dice.number(0, 1) ** 1.5)
    turn = dice.number(0, 2 * math.pi)
    b0 = (math.sin(tilt) * math.cos(turn), math.sin(tilt) * math.sin(turn), math.cos(tilt))
    return Grid(shape, (voxel[0], voxel[1], voxel[2]), b0)


def draw_batch(dice: Dice, sources: Sources, shape: Shape, batch: int, params: SampleParams) -> Sample:
    """A batch of random samples on one random grid.

    Parameters
    ----------
    dice : Dice
        Also decides the device.
    sources : Sources
        Label maps and susceptibility maps; without any, patches are random shapes.
    shape : (3,) tuple of int
        Of each patch.
    batch : int
        Number of patches.
    params : SampleParams
        Ranges.
    """
    grid = draw_grid(dice, shape, params.geometry)
    geometry = Geometry(grid, PAD, dice.device)
    wide = Geometry(grid, 2.0, dice.device)
    drawn = [draw_one(dice, sources, grid, wide, params) for _ in range(batch)]
    fields, chis, masks, noises, images = (torch.stack(parts)[:, None] for parts in zip(*drawn, strict=True))
    return Sample(fields, chis, masks, noises, images, geometry)


def draw_one(
    dice: Dice, sources: Sources, grid: Grid, wide: Geometry, params: SampleParams
) -> tuple[torch.Tensor, ...]:
    """Field, susceptibility, mask, noise and magnitude of one patch, ``(nx, ny, nz)`` each."""
    for attempt in range(20):
        anatomy, chi = draw_map(dice, sources, grid, params)
        mask = erode(anatomy.brain, dice.integer(0, params.field.erosion) if attempt < 10 else 0)
        if mask.float().mean() > MIN_MASK:
            break
    else:  # a patch that anatomy cannot fill, a very small or very long one
        anatomy = random_patch(dice, grid.shape, grid.voxel_mm)
        chi, mask = paint(dice, anatomy, grid.voxel_mm, params.chi), anatomy.brain
    inside = mask.float()
    image = draw_magnitude(dice, anatomy, chi, grid.voxel_mm) if dice.chance(params.magnitude) else torch.ones_like(chi)
    local, noise = draw_field(dice, chi, anatomy, mask, image, wide, params.field)
    return local * inside, chi * inside, inside, noise * inside, image * inside


def draw_map(dice: Dice, sources: Sources, grid: Grid, params: SampleParams) -> tuple[Anatomy, torch.Tensor]:
    """An anatomy and its susceptibility."""
    if sources.chi and (not sources.labels or dice.chance(0.5)):
        given, edges = sources.chi[dice.integer(0, len(sources.chi) - 1)]
        chi, brain = chi_patch(dice, given, edges, grid.shape, grid.voxel_mm)
        anatomy = Anatomy(torch.zeros(grid.shape, dtype=torch.long, device=dice.device), brain)
        return anatomy, chi * brain * dice.log_number(0.5, 2.0) * dice.sign()
    if not sources.labels or dice.chance(params.shapes):
        anatomy = random_patch(dice, grid.shape, grid.voxel_mm)
    else:
        labels = sources.labels[dice.integer(0, len(sources.labels) - 1)]
        anatomy = head_patch(dice, labels, grid.shape, grid.voxel_mm)
    return anatomy, paint(dice, anatomy, grid.voxel_mm, params.chi)


def draw_field(
    dice: Dice,
    chi: torch.Tensor,
    anatomy: Anatomy,
    mask: torch.Tensor,
    image: torch.Tensor,
    wide: Geometry,
    params: FieldParams,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The local field in ppm, and the standard deviation of its white noise, which is larger where the
    magnitude ``image`` is smaller."""
    grid, shape = wide.grid, wide.grid.shape
    inside = mask.float()
    rim = dice.number(0.0, 0.3) * (1 - inside)  # what background removal leaves of the eroded rim
    local = wide.field(chi * (inside + rim))
    spread = spread_in(local, mask).clamp_min(1e-6)
    if dice.chance(params.mismatch_chance):
        size = dice.number(*params.mismatch)
        turned = rotation(dice, 50.0) @ torch.tensor(grid.b0_dir, dtype=torch.float32)
        other = Geometry(Grid(shape, grid.voxel_mm, tuple(turned.tolist())), 2.0, dice.device)
        share = dice.number(0.0, params.background) if dice.chance(0.5) else 0.0
        parts = [(fibres(dice, anatomy, grid.voxel_mm, turned.to(dice.device)) * inside, 1 - share)]
        if share:
            far = tuple(dice.log_number(6.0, 30.0) / mm for mm in grid.voxel_mm)
            parts.append((smooth_noise(dice, shape, far)[0] * (1 - inside), share))  # type: ignore[arg-type]
        for source, weight in parts:
            part = other.field(source)
            local = local + part * (weight * size * spread / spread_in(part, mask).clamp_min(1e-9))
    if params.leftover_chance and dice.chance(params.leftover_chance):
        local = local + leftover(dice, mask, wide) * (dice.log_number(*params.leftover) * spread)
    slow = tuple(25.0 / mm for mm in grid.voxel_mm)
    modulation = torch.exp(0.4 * smooth_noise(dice, shape, slow)[0])  # type: ignore[arg-type]
    middle = torch.where(mask, image, torch.nan).nanmedian()
    dark = (middle / image.clamp_min(1e-3)).clamp(0.25, 4.0)
    noise = dice.log_number(*params.noise_ppm) * modulation * (1 + 0.7 * (chi.abs() / 0.15).clamp_max(2.0)) * dark
    if params.rim_noise:
        noise = noise * (1 + dice.number(0.0, params.rim_noise) * rim_share(mask))
    return local + noise * dice.normal(shape), noise
