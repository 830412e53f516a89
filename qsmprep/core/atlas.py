"""Labels of an atlas on a head: its probabilities along a registration, then moved to the head's own contrast."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from qsmprep.core.grid import bounding_box
from qsmprep.core.labels import Labels
from qsmprep.core.parameters import NormalisationParams
from qsmprep.core.refine import refine
from qsmprep.core.registration import Volume, at_spacing, overlap, to_ants
from qsmprep.errors import DataError

MARGIN_MM = 10.0
"""How far around the registered labels the head is looked at."""

WHOLE = 0.99
"""Share of a voxel of the head that must lie where susceptibility is defined for its value to count."""


@dataclass(frozen=True)
class Probabilities:
    """A probabilistic atlas.

    Parameters
    ----------
    shares : (k, nx, ny, nz) float32 array
        Probability of each class in template space.
    affine : (4, 4) array
        Voxel indices to template coordinates in mm (RAS+).
    index : (k,) tuple of int
        Label of each class; 0 for tissue that has none.
    tissue : (k,) tuple of int
        Classes of one number, from 0, look alike.
    anywhere : tuple of int
        Tissues that may lie where the atlas has a structure: white matter, cortex, fluid.
    """

    shares: NDArray[np.float32]
    affine: NDArray[np.float64]
    index: tuple[int, ...]
    tissue: tuple[int, ...]
    anywhere: tuple[int, ...]


@dataclass(frozen=True)
class Sighting:
    """What a network takes structures for, on a head.

    Parameters
    ----------
    shares : (k, nx, ny, nz) float32 array
        Probability of each class; the first is none of them, and is 1 beyond the array.
    affine : (4, 4) array
        Voxel indices to scanner coordinates of the head in mm (RAS+).
    index : (k,) tuple of int
        Label of each class; 0 for the first.
    """

    shares: NDArray[np.float32]
    affine: NDArray[np.float64]
    index: tuple[int, ...]


@dataclass(frozen=True)
class RefinedLabels:
    """Labels after the head was looked at.

    Parameters
    ----------
    labels : (nx, ny, nz) int32 array
    overlaps : dict of int to float
        Dice coefficient of each refined label with what registration alone said.
    kept : dict of int to float
        That with the most probable labels, before grey values and susceptibility were looked at.
    """

    labels: Labels
    overlaps: dict[int, float]
    kept: dict[int, float]


def refine_labels(
    head: Volume,
    brain: NDArray[np.bool_],
    labels: Labels,
    atlas: Probabilities,
    transforms: Sequence[Path],
    params: NormalisationParams,
    *,
    chi: Volume | None = None,
    matrix: ArrayLike | None = None,
    sighting: Sighting | None = None,
    share: float = 1.0,
) -> RefinedLabels:
    """Labels by the probabilities of an atlas, moved to the contrast of a head where its susceptibility is known.

    A T1w image alone shows too little of pallidum and thalamus: without susceptibility every voxel takes the most
    probable label. Labels that the probabilities lack stay as they are.

    Parameters
    ----------
    head : Volume
        T1w or gradient-echo magnitude.
    brain : (nx, ny, nz) bool array
        Its brain.
    labels : (nx, ny, nz) int32 array
        Registered labels; they say where to look.
    atlas : Probabilities
    transforms : sequence of Path
        Warp and affine of ANTs that bring template space to the head.
    params : NormalisationParams
    chi : Volume, optional
        Susceptibility, not finite where it is not defined.
    matrix : (4, 4) array_like, optional
        Scanner coordinates of ``chi`` to those of the head, where they differ.
    sighting : Sighting, optional
        What a network takes the structures for.
    share : float
        How much of the probability of these structures is by the network, 0 to 1; the rest is by the atlas.

    Returns
    -------
    RefinedLabels

    Raises
    ------
    DataError
        When none of the labels lies in the head.
    """
    loose = np.isin(atlas.tissue, atlas.anywhere)
    of_class = np.where(loose, 0, atlas.index).astype(np.int32)  # ventricles stay as they were registered
    codes = sorted({int(i) for i in of_class if i})
    crop, at = _around(head, np.isin(labels, codes))
    small = at_spacing(crop, params.refine_mm)
    inside = at_spacing(Volume(brain[at].astype(np.float32), crop.affine), params.refine_mm).data > 0.5
    shares = _carried(atlas, small, transforms)
    if sighting is not None:
        shares = _mixed(shares, atlas, _seen_at(sighting, small), sighting.index, share)
    expected = np.where(brain[at], of_class[_strongest(shares, small, crop)], 0)
    if chi is not None:
        channels = [small.data, _on_grid(at_spacing(chi, params.refine_mm), small, matrix)]
        sizes = np.linalg.norm(small.affine[:3, :3], axis=0)
        shares = refine(channels, inside, shares, atlas.tissue, atlas.anywhere, sizes.tolist(), params)
    index = of_class[_strongest(shares, small, crop)]
    before = labels[at]
    kept = np.where(np.isin(before, codes), 0, before)
    result = labels.copy()
    result[at] = np.where((index > 0) & brain[at], index, kept)
    first, second = (
        {code: overlap(result[at] == code, other == code) for code in codes} for other in (before, expected)
    )
    return RefinedLabels(result, first, second)


def _around(head: Volume, marked: NDArray[np.bool_]) -> tuple[Volume, tuple[slice, ...]]:
    """The part of a head around what is marked, and where it lies."""
    if not marked.any():
        raise DataError("no label of the atlas lies in the head", expected="a registration that fits")
    margin = np.ceil(MARGIN_MM / np.linalg.norm(head.affine[:3, :3], axis=0)).astype(int)
    box = bounding_box(marked)
    low = np.maximum([part.start for part in box] - margin, 0)
    high = np.minimum([part.stop for part in box] + margin, head.data.shape)
    affine = head.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ low
    at = tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
    return Volume(head.data[at], affine), at


def _carried(atlas: Probabilities, onto: Volume, transforms: Sequence[Path]) -> NDArray[np.float32]:
    """The probabilities on the grid of a head."""
    import ants

    grid, names = to_ants(onto), [str(path) for path in transforms]
    moved = [
        ants.apply_transforms(grid, to_ants(Volume(share, atlas.affine)), names, "linear").numpy()
        for share in atlas.shares
    ]
    return np.stack(moved).astype(np.float32)


def _seen_at(sighting: Sighting, onto: Volume) -> NDArray[np.float32]:
    """What a network saw on the grid of a head, interpolated linearly; nothing beyond its window."""
    to_seen = np.linalg.inv(sighting.affine) @ onto.affine
    found = [
        ndimage.affine_transform(share, to_seen[:3, :3], to_seen[:3, 3], onto.data.shape, order=1, cval=float(not k))
        for k, share in enumerate(sighting.shares)
    ]
    return np.stack(found)


def _mixed(
    shares: NDArray[np.float32],
    atlas: Probabilities,
    seen: NDArray[np.float32],
    index: tuple[int, ...],
    part: float,
) -> NDArray[np.float32]:
    """Probabilities of the atlas and, by ``part``, of a network; what it does not know keeps its proportions.

    Where the atlas has nothing but structures that the network knows, or nothing at all, white matter is what is left:
    without it a structure would win there by the least probability.
    """
    known = np.isin(atlas.index, index[1:])
    rest = np.where(known.reshape(-1, 1, 1, 1), 0, shares)
    rest[atlas.tissue.index(atlas.anywhere[1])] += np.float32(1e-3)
    rest /= rest.sum(axis=0)
    mixed = (1 - part) * shares + part * seen[0] * rest
    for k in np.flatnonzero(known):
        mixed[k] += part * seen[index.index(atlas.index[k])]
    return np.asarray(mixed, np.float32)


def _on_grid(image: Volume, onto: Volume, matrix: ArrayLike | None) -> NDArray[np.float32]:
    """An image at the voxels of another one, interpolated linearly; NaN where it is not defined."""
    world = np.eye(4) if matrix is None else np.asarray(matrix, float)
    to_image = np.linalg.inv(world @ image.affine) @ onto.affine
    defined = np.isfinite(image.data)
    parts = (np.where(defined, image.data, 0).astype(np.float32), defined.astype(np.float32))
    values, share = (
        ndimage.affine_transform(part, to_image[:3, :3], to_image[:3, 3], onto.data.shape, order=1) for part in parts
    )
    return np.where(share >= WHOLE, values / np.maximum(share, WHOLE), np.nan).astype(np.float32)


def _strongest(shares: NDArray[np.float32], on: Volume, onto: Volume) -> NDArray[np.intp]:
    """The class of the largest probability at the voxels of a finer grid; probabilities are interpolated, no labels."""
    if on.data.shape == onto.data.shape:
        return shares.argmax(axis=0)
    back = np.linalg.inv(on.affine) @ onto.affine
    best, winner = np.full(onto.data.shape, -1.0, np.float32), np.zeros(onto.data.shape, np.intp)
    for number, share in enumerate(shares):
        there = ndimage.affine_transform(share, back[:3, :3], back[:3, 3], onto.data.shape, order=1, mode="nearest")
        better = there > best
        winner[better], best[better] = number, there[better]
    return winner
