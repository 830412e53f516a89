"""Whole heads for masks and segmentations: label maps with all that surrounds the brain, left told from right."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
import torch
from nibabel.filebasedimages import ImageFileError
from scipy import ndimage

from qsmprep.errors import DataError
from qsmprep.networks.pedqnet import NUCLEI, OTHER_SIDE, SIDES
from qsmprep.training.anatomy import CLASSES, LARGEST, PARCELS
from qsmprep.training.draw import Dice, Shape, coordinates, rotation, smooth_noise

Voxel = tuple[float, float, float]

TISSUES: tuple[tuple[int, ...], ...] = (
    (),
    (24, 122, 257),
    (2, 41, 77, 78, 79, 85, 251, 252, 253, 254, 255),
    (3, 42),
    (4, 43, 5, 44, 14, 15, 72, 31, 63),
    (7, 46),
    (8, 47),
    (16,),
    (17, 53, 18, 54),
    (26, 58, 28, 60),
    (30, 62, 57, 130, 136, 137, 163, 164),
    *((code,) for name in NUCLEI for code in SIDES[name]),
)
"""FreeSurfer codes of each tissue of the head; the nuclei come last, left before right."""

FIRST_NUCLEUS = len(TISSUES) - 2 * len(NUCLEI)
OUTER = 500
"""Codes from here on lie outside the brain; each is a tissue of its own."""

OUTER_TISSUES = 40
TISSUE_COUNT = len(TISSUES) + OUTER_TISSUES
WATER = (1, 4)
"""Cerebrospinal fluid around the brain, and that of the ventricles."""

BONE, FAT = len(TISSUES) + 15, (len(TISSUES) + 11, len(TISSUES) + 16)
"""Cortical bone (515); skin and marrow (511, 516), where fat is."""

CLOSING_MM = 5.0
"""Radius of the closing that makes the brain's tissues one mask with its sulci and ventricles."""


@dataclass(frozen=True)
class HeadMap:
    """Tissues of a whole head.

    Parameters
    ----------
    tissues : (nx, ny, nz) torch.Tensor
        uint8, index into `TISSUES`, then one for each code outside the brain; axes right, anterior, superior.
    brain : (nx, ny, nz) torch.Tensor
        Bool: the brain with its sulci and ventricles.
    voxel_mm : (3,) tuple of float
    centre_mm, nuclei_mm : (3,) tuple of float
        Middle of the brain and of the deep grey nuclei from the corner of the array.
    name : str
        Of the file, without suffix.
    """

    tissues: torch.Tensor
    brain: torch.Tensor
    voxel_mm: Voxel
    centre_mm: Voxel
    nuclei_mm: Voxel
    name: str


def class_of_tissue() -> list[int]:
    """For each tissue the index of its class in :data:`qsmprep.training.anatomy.CLASSES`; 0 outside the brain."""
    codes = {code: index for index, (members, _) in enumerate(CLASSES) for code in members}
    return [codes.get(members[0], 0) if members else 0 for members in TISSUES] + [0] * OUTER_TISSUES


def mirrored_tissue() -> list[int]:
    """For each tissue that of the other side."""
    nuclei = [FIRST_NUCLEUS - 1 + other for other in OTHER_SIDE[1:]]
    return [*range(FIRST_NUCLEUS), *nuclei, *range(len(TISSUES), TISSUE_COUNT)]


def load_head(path: Path, device: torch.device | str = "cpu") -> HeadMap:
    """Read a label map as a whole head.

    Raises
    ------
    DataError
        When it is no image, or lacks the brain or a nucleus.
    """
    try:
        image = nibabel.as_closest_canonical(nibabel.load(path))
        codes = np.rint(np.nan_to_num(np.asarray(image.dataobj).squeeze())).astype(np.int32)
    except (ImageFileError, OSError, EOFError, ValueError) as problem:
        raise DataError(f"a label map cannot be read: {problem}", file=path, expected="a NIfTI or MGZ image") from None
    table = np.full(LARGEST + 1, 3, dtype=np.uint8)  # a code that is not listed is grey matter
    table[0] = 0
    for index, members in enumerate(TISSUES):
        table[list(members)] = index
    for parcels, member in PARCELS:
        table[parcels] = table[member]
    for code in range(OUTER, OUTER + 500):
        table[code] = len(TISSUES) + min(code - OUTER, OUTER_TISSUES - 1)
    tissues = table[np.clip(codes, 0, LARGEST)]
    inside = (tissues > 1) & (tissues < len(TISSUES))
    nuclei = (tissues >= FIRST_NUCLEUS) & (tissues < len(TISSUES))
    if np.count_nonzero(inside) < 1000 or len(np.unique(tissues[nuclei])) < 2 * len(NUCLEI):
        raise DataError(
            "a label map lacks the brain or one of the deep grey nuclei",
            file=path,
            expected="FreeSurfer codes: 10 to 13 and 49 to 52 for the nuclei, 2, 3, 41 and 42 around them",
        )
    zooms = image.header.get_zooms()[:3]
    voxel_mm = (float(zooms[0]), float(zooms[1]), float(zooms[2]))
    brain = closed(inside, voxel_mm)
    centres = [tuple((np.argwhere(part).mean(axis=0) + 0.5) * voxel_mm) for part in (brain, nuclei)]
    return HeadMap(
        torch.from_numpy(np.ascontiguousarray(tissues)).to(device),
        torch.from_numpy(brain).to(device),
        voxel_mm,
        centres[0],
        centres[1],
        path.name.split(".")[0],
    )


def closed(inside: np.ndarray, voxel_mm: Voxel) -> np.ndarray:
    """Tissues of the brain, closed and filled."""
    margin = [math.ceil(CLOSING_MM / mm) + 2 for mm in voxel_mm]
    box = tuple(
        slice(max(0, int(i.min()) - m), int(i.max()) + m + 1) for i, m in zip(np.nonzero(inside), margin, strict=True)
    )
    part = np.pad(inside[box], [(m, m) for m in margin])
    wide = ndimage.distance_transform_edt(~part, voxel_mm) <= CLOSING_MM
    shut = ndimage.distance_transform_edt(wide, voxel_mm) > CLOSING_MM
    filled = ndimage.binary_fill_holes(shut | part)
    result = np.zeros_like(inside)
    result[box] = filled[tuple(slice(m, n - m) for m, n in zip(margin, filled.shape, strict=True))]
    return result


@dataclass(frozen=True)
class PoseParams:
    """How a head lies in a window.

    Parameters
    ----------
    scale : (2,) tuple of float
        Range of its size relative to the label map's: 0.7 is that of a newborn.
    stretch : float
        Largest relative change of each axis on top.
    turn_deg : float
        Largest angle of a turn about a random axis.
    bend_mm : (2,) tuple of float
        Range of the spread of a smooth bend.
    shift_mm : float
        Largest distance of its middle from that of the window, along each axis.
    """

    scale: tuple[float, float] = (0.7, 1.1)
    stretch: float = 0.08
    turn_deg: float = 25.0
    bend_mm: tuple[float, float] = (0.5, 3.0)
    shift_mm: float = 20.0


def pose(
    dice: Dice, head: HeadMap, middle_mm: Voxel, shape: Shape, voxel_mm: Voxel, params: PoseParams
) -> tuple[torch.Tensor, torch.Tensor]:
    """A head in a random pose: tissues (uint8) and brain (bool) on a window, ``(nx, ny, nz)`` each.

    Half of them are mirrored, left and right changing their labels; air lies beyond the label map.
    """
    device = head.tissues.device
    where = coordinates(shape, voxel_mm, device)
    bend = smooth_noise(dice, shape, tuple(18.0 / mm for mm in voxel_mm), 3)  # type: ignore[arg-type]
    where += dice.number(*params.bend_mm) * bend
    turn = rotation(dice, params.turn_deg).to(device)
    size = dice.log_number(*params.scale) * dice.uniform(1 - params.stretch, 1 + params.stretch, (3,))
    mirror = dice.chance(0.5)
    flip = torch.tensor([-1.0 if mirror else 1.0, 1.0, 1.0], device=device)
    matrix = (flip / size).view(3, 1) * turn
    shift = dice.uniform(-1, 1, (3,)) * params.shift_mm
    edges = torch.tensor(head.voxel_mm, device=device)
    start = torch.tensor(middle_mm, device=device) + matrix @ shift
    points = (matrix / edges.view(3, 1)) @ where.flatten(1) + (start / edges).view(3, 1)
    index = torch.floor(points).int()
    limits = torch.tensor(head.tissues.shape, device=device, dtype=torch.int32).view(3, 1)
    held = ((index >= 0) & (index < limits)).all(dim=0)
    index = index.clamp_min(0).minimum(limits - 1)
    _, ny, nz = head.tissues.shape
    flat = (index[0] * ny + index[1]) * nz + index[2]
    tissues = torch.where(held, head.tissues.flatten()[flat], 0).view(shape)
    brain = (head.brain.flatten()[flat] & held).view(shape)
    if mirror:
        tissues = torch.tensor(mirrored_tissue(), dtype=torch.uint8, device=device)[tissues.int()]
    return tissues, brain
