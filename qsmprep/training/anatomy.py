"""Where anatomies come from: folders of label maps, susceptibility maps a user gives, random shapes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
import torch
from nibabel.filebasedimages import ImageFileError
from torch.nn import functional

from qsmprep.errors import DataError, MissingFileError
from qsmprep.training.draw import Dice, Shape, coordinates, gaussian, rotation, smooth_noise

CSF = 1
WHITE = (2, 8, 13)
"""Classes with ordered fibres: cerebral and cerebellar white matter, brain stem."""

IRON_RICH = (5, 6, 7, 10)
"""Thalamus, caudate, putamen, pallidum: classes that gather iron over the years."""

CLASSES: tuple[tuple[tuple[int, ...], float], ...] = (
    ((), 0.0),
    ((24, 122, 257), 0.0),
    ((2, 41, 77, 78, 79, 85, 251, 252, 253, 254, 255), -0.030),
    ((3, 42), 0.015),
    ((4, 43, 5, 44, 14, 15, 72, 31, 63), 0.0),
    ((10, 49, 9, 48), 0.010),
    ((11, 50), 0.050),
    ((12, 51), 0.055),
    ((7, 46), -0.030),
    ((8, 47), 0.010),
    ((13, 52), 0.140),
    ((17, 53, 18, 54), 0.000),
    ((26, 58, 28, 60), 0.030),
    ((16,), -0.020),
)
"""FreeSurfer codes of each class and its prior susceptibility in ppm, relative to CSF.

Order of magnitude of adult values at 3 T, see the tables of Langkammer et al. (2012),
doi:10.1016/j.neuroimage.2012.05.049; every draw spreads them widely.
"""

PARCELS = (
    (slice(1000, 3000), 3),
    (slice(3000, 5000), 2),
    (slice(11000, 13000), 3),
    (slice(13000, 15000), 2),
)
"""FreeSurfer codes of parcels of the cortex and of the white matter below, and the code of the whole."""

LARGEST = 15000
"""Codes from here on are none of the above."""


@dataclass(frozen=True)
class LabelMap:
    """Tissue classes of a head.

    Parameters
    ----------
    classes : (nx, ny, nz) torch.Tensor
        uint8, an index into `CLASSES`; axes right, anterior, superior.
    voxel_mm : (3,) tuple of float
        Voxel edges in mm.
    name : str
        Of the file, without suffix.
    """

    classes: torch.Tensor
    voxel_mm: tuple[float, float, float]
    name: str


@dataclass(frozen=True)
class Anatomy:
    """What lies where on a patch.

    Parameters
    ----------
    classes : (nx, ny, nz) torch.Tensor
        Class indices (long).
    brain : (nx, ny, nz) torch.Tensor
        Bool.
    """

    classes: torch.Tensor
    brain: torch.Tensor


def label_files(folder: Path) -> list[Path]:
    """NIfTI and MGZ files of a folder, sorted.

    Raises
    ------
    MissingFileError
        When there are none.
    """
    found = sorted(p for p in folder.glob("*") if p.name.endswith((".nii", ".nii.gz", ".mgz")))
    if not found:
        raise MissingFileError(
            "the folder of label maps holds no image", file=folder, expected="NIfTI or MGZ files with FreeSurfer codes"
        )
    return found


def load_labels(path: Path, device: torch.device | str = "cpu") -> LabelMap:
    """Read a label map, turn it to RAS, reduce it to the classes and the brain's box.

    Raises
    ------
    DataError
        When it is no image, or holds no brain label.
    """
    try:
        image = nibabel.as_closest_canonical(nibabel.load(path))
        codes = np.asarray(image.dataobj).squeeze()
    except (ImageFileError, OSError, EOFError, ValueError) as problem:
        raise DataError(f"a label map cannot be read: {problem}", file=path, expected="a NIfTI or MGZ image") from None
    table = np.zeros(LARGEST + 1, dtype=np.uint8)
    for index, (members, _) in enumerate(CLASSES):
        table[list(members)] = index
    for parcels, member in PARCELS:
        table[parcels] = table[member]
    classes = table[np.rint(np.clip(np.nan_to_num(codes), 0, LARGEST)).astype(np.int32)]
    if np.count_nonzero(classes > CSF) < 1000:
        raise DataError(
            "a label map holds no brain", file=path, expected="FreeSurfer codes: 2 and 41 white, 3 and 42 cortex …"
        )
    box = tuple(slice(max(0, int(i.min()) - 4), int(i.max()) + 5) for i in np.nonzero(classes > CSF))
    zooms = image.header.get_zooms()[:3]
    voxel_mm = (float(zooms[0]), float(zooms[1]), float(zooms[2]))
    tensor = torch.from_numpy(np.ascontiguousarray(classes[box])).to(device)
    return LabelMap(tensor, voxel_mm, path.name.split(".")[0])


def head_patch(dice: Dice, labels: LabelMap, shape: Shape, voxel_mm: tuple[float, float, float]) -> Anatomy:
    """A random, warped patch of a head: mirrored, turned by quarters about its long axis, tilted, bent."""
    device = labels.classes.device
    where = coordinates(shape, voxel_mm, device)
    bend = smooth_noise(dice, shape, tuple(18.0 / mm for mm in voxel_mm), 3)  # type: ignore[arg-type]
    where = where + dice.number(0.5, 3.0) * bend
    scale = dice.uniform(0.85, 1.18, (3,))
    turn = (_quarter_turn(dice) @ rotation(dice, 20.0)).to(device)
    edges = torch.tensor(labels.voxel_mm, device=device)
    size = torch.tensor(labels.classes.shape, device=device)
    extent = torch.tensor([n * mm for n, mm in zip(shape, voxel_mm, strict=True)], device=device)
    slack = (size * edges - 0.6 * extent * scale).clamp_min(0.0) / 2
    centre = size * edges / 2 + dice.uniform(-1, 1, (3,)) * slack
    points = (turn @ where.flatten(1)) * scale.view(3, 1) + centre.view(3, 1)
    index = torch.floor(points / edges.view(3, 1)).long()
    held = ((index >= 0) & (index < size.view(3, 1))).all(dim=0)
    index = index.clamp_min(0).minimum(size.view(3, 1) - 1)
    classes = labels.classes[index[0], index[1], index[2]].long() * held
    classes = classes.view(shape)
    sigma = dice.number(1.5, 4.0)
    soft = gaussian((classes > 0).float(), tuple(sigma / mm for mm in voxel_mm))  # type: ignore[arg-type]
    return Anatomy(classes, soft > dice.number(0.35, 0.65))


def _quarter_turn(dice: Dice) -> torch.Tensor:
    """A rotation by a multiple of 90 degrees about the third axis, with random mirrors, on the CPU."""
    quarter = dice.integer(0, 3) * math.pi / 2
    c, s = round(math.cos(quarter)), round(math.sin(quarter))
    turn = torch.tensor([[c, -s, 0], [s, c, 0], [0, 0, 1]], dtype=torch.float32)
    return turn * torch.tensor([dice.sign(), dice.sign(), dice.sign()]).view(3, 1)


def random_patch(dice: Dice, shape: Shape, voxel_mm: tuple[float, float, float]) -> Anatomy:
    """Blobs of random classes inside a random closed region: no anatomy at all."""
    scale = tuple(dice.log_number(4.0, 20.0) / mm for mm in voxel_mm)
    fields = smooth_noise(dice, shape, scale, 8)  # type: ignore[arg-type]
    order = torch.randperm(len(CLASSES) - 2, generator=dice.generator, device=dice.device)[:8] + 2
    classes = order[fields.argmax(dim=0)]
    where = coordinates(shape, voxel_mm, dice.device)
    half = torch.tensor([n * mm / 2 for n, mm in zip(shape, voxel_mm, strict=True)], device=dice.device)
    radius = (where / (half * dice.uniform(0.7, 1.4, (3,))).view(3, 1, 1, 1)).square().sum(dim=0).sqrt()
    wobble = smooth_noise(dice, shape, tuple(16.0 / mm for mm in voxel_mm))[0]  # type: ignore[arg-type]
    return Anatomy(classes, radius + 0.12 * wobble < 1)


def load_chi(path: Path, device: torch.device | str = "cpu") -> tuple[torch.Tensor, tuple[float, float, float]]:
    """Read a susceptibility map in ppm that a user gives (zero outside the brain) and its voxel size.

    Raises
    ------
    DataError
        When it cannot be read or is not a volume in ppm.
    """
    try:
        image = nibabel.as_closest_canonical(nibabel.load(path))
        values = np.asarray(image.dataobj, dtype=np.float32).squeeze()
    except (ImageFileError, OSError, EOFError, ValueError) as problem:
        raise DataError(f"a susceptibility map cannot be read: {problem}", file=path, expected="NIfTI") from None
    spread = float(values[values != 0].std()) if values.any() else 0.0
    if values.ndim != 3 or not np.isfinite(values).all() or not 1e-3 < spread < 2:
        raise DataError(
            f"a susceptibility map of shape {values.shape} has a spread of {spread:g}",
            file=path,
            expected="a 3-D map in ppm: a spread between 0.001 and 2, zero outside the brain",
        )
    zooms = image.header.get_zooms()[:3]
    return torch.from_numpy(values).to(device), (float(zooms[0]), float(zooms[1]), float(zooms[2]))


def chi_patch(
    dice: Dice,
    chi: torch.Tensor,
    chi_voxel_mm: tuple[float, float, float],
    shape: Shape,
    voxel_mm: tuple[float, float, float],
) -> tuple[torch.Tensor, torch.Tensor]:
    """A random, warped patch of a given susceptibility map and its mask."""
    where = coordinates(shape, voxel_mm, chi.device)
    bend = smooth_noise(dice, shape, tuple(18.0 / mm for mm in voxel_mm), 3)  # type: ignore[arg-type]
    turn = (_quarter_turn(dice) @ rotation(dice, 20.0)).to(chi.device)
    size = torch.tensor(chi.shape, device=chi.device, dtype=torch.float32)
    edges = torch.tensor(chi_voxel_mm, device=chi.device)
    slack = (size * edges) * 0.2
    centre = dice.uniform(-1, 1, (3,)) * slack
    points = (turn @ (where + 2.0 * bend).flatten(1)) * dice.number(0.85, 1.18) + centre.view(3, 1)
    relative = (points / (size * edges / 2).view(3, 1)).flip(0).T.reshape(1, *shape, 3)
    stack = torch.stack([chi, (chi != 0).float()])[None]
    values = functional.grid_sample(stack, relative, align_corners=False)[0]
    return values[0], values[1] > 0.9
