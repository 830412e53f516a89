"""Label maps between grids: by world coordinates, always to the nearest voxel, never mixing labels."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qsmprep.core.structures import Region
from qsmprep.errors import DataError

Labels = NDArray[np.int32]

TIE_MM = (1e-5, 1e-5, 1e-5)
"""Points midway between voxels go to the one towards the scanner's right, front and top, however the array lies."""


def as_labels(volume: ArrayLike) -> Labels:
    """A volume of labels as whole numbers.

    Raises
    ------
    DataError
        When it has not three axes, or its values are not whole numbers (an image, or labels that were
        interpolated).
    """
    array = np.asarray(volume)
    if array.ndim != 3:
        raise DataError(f"the labels have shape {array.shape}", expected="one three-dimensional volume")
    if array.dtype.kind == "f":
        if not np.isfinite(array).all() or (array != np.rint(array)).any():
            raise DataError(
                "the labels are not whole numbers",
                expected="a segmentation: one whole number a region",
                remedy="give the label map, not an image, and resample labels with nearest neighbours only",
            )
    elif array.dtype.kind not in "iub":
        raise DataError(f"the labels are of type {array.dtype}", expected="whole numbers")
    return np.asarray(array, np.int32)


def sample_labels(
    labels: Labels,
    affine: ArrayLike,
    shape: tuple[int, int, int],
    target_affine: ArrayLike,
    *,
    moved: ArrayLike | None = None,
    offset_voxel: tuple[float, float, float] = (0.0, 0.0, 0.0),
) -> Labels:
    """Look labels up at the voxel centres of another grid (or at points beside them).

    Parameters
    ----------
    labels : (nx, ny, nz) int32 array
        On the grid of ``affine``.
    affine, target_affine : (4, 4) array_like
        Voxel indices to scanner coordinates in mm (RAS+).
    shape : (3,) tuple of int
        Of the target grid.
    moved : (4, 4) array_like, optional
        Rigid or affine map from scanner coordinates of the target to those of the labels; by default both
        images share one scanner space.
    offset_voxel : (3,) tuple of float
        Added to the indices of the target, in voxels.

    Returns
    -------
    (shape) int32 array
        The label of the nearest voxel; 0 outside the labels' field of view.
    """
    world = np.eye(4) if moved is None else np.asarray(moved, float)
    nudge = np.eye(4)
    nudge[:3, 3] = TIE_MM
    matrix = np.linalg.inv(np.asarray(affine, float)) @ world @ nudge @ np.asarray(target_affine, float)
    i, j, k = (np.arange(n) + o for n, o in zip(shape, offset_voxel, strict=True))
    result = np.zeros(shape, np.int32)
    for plane, third in enumerate(k):  # one plane at a time: the coordinates of a whole volume are large
        inside = np.ones(shape[:2], bool)
        at = []
        for axis, n in enumerate(labels.shape):
            row = matrix[axis]
            x = row[0] * i[:, None] + row[1] * j[None, :] + (row[2] * third + row[3])
            index = np.floor(x + 0.5).astype(np.int64)
            inside &= (index >= 0) & (index < n)
            at.append(np.clip(index, 0, n - 1))
        result[..., plane] = np.where(inside, labels[at[0], at[1], at[2]], 0)
    return result


def sub_offsets(subdivisions: int) -> Iterator[tuple[float, float, float]]:
    """Centres of the parts when a voxel is cut into ``subdivisions`` along each edge, in voxels."""
    steps = (np.arange(subdivisions) + 0.5) / subdivisions - 0.5
    for x in steps:
        for y in steps:
            for z in steps:
                yield float(x), float(y), float(z)


def share_inside(labels: Labels, affine: ArrayLike, shape: tuple[int, int, int], target_affine: ArrayLike) -> float:
    """Share of the labelled voxels whose centres lie inside the field of view of another grid, 0 to 1."""
    voxels = np.argwhere(labels != 0)
    if not len(voxels):
        return 0.0
    matrix = np.linalg.inv(np.asarray(target_affine, float)) @ np.asarray(affine, float)
    at = voxels @ matrix[:3, :3].T + matrix[:3, 3]
    return float(np.mean(((at > -0.5) & (at < np.array(shape) - 0.5)).all(axis=1)))


def swapped_pairs(labels: Labels, affine: ArrayLike, regions: Iterable[Region]) -> tuple[str, ...]:
    """Structures whose left label lies to the right of its right label in scanner coordinates.

    The x axis of the scanner runs from the subject's left to right, so the centre of a left region has the smaller x.
    Anything returned here means that labels, their table or an affine are mirrored.

    Parameters
    ----------
    labels : (nx, ny, nz) int32 array
    affine : (4, 4) array_like
        Voxel indices to scanner coordinates in mm (RAS+).
    regions : iterable of Region
    """
    row = np.asarray(affine, float)[0]
    x_mm: dict[tuple[str, str], float] = {}
    for region in regions:
        voxels = np.argwhere(labels == region.index) if region.hemisphere in "LR" else np.empty((0, 3))
        if len(voxels):
            x_mm[region.structure, region.hemisphere] = float(voxels.mean(axis=0) @ row[:3] + row[3])
    pairs = sorted({structure for structure, _ in x_mm})
    return tuple(s for s in pairs if x_mm.get((s, "L"), -np.inf) > x_mm.get((s, "R"), np.inf))
