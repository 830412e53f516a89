"""Volumes as they are shown: the closest canonical axes, which slices, which millimetres.

Every figure goes through :class:`View`, so that left is on the left and superior is up whatever
the order and the flips of the stored axes. Nothing is interpolated: an oblique stack is shown in
its own planes, and the direction of B0 is drawn where it is.
"""

from __future__ import annotations

from dataclasses import dataclass

import nibabel as nib
import numpy as np
from numpy.typing import ArrayLike, NDArray

from qsmprep.core.grid import Grid
from qsmprep.errors import DataError

PLANES = {"sagittal": 0, "coronal": 1, "axial": 2}
"""Plane names and the canonical axis they are normal to."""

LETTERS = (("L", "R"), ("P", "A"), ("I", "S"))
"""The letters at the low and the high end of each canonical axis."""


@dataclass(frozen=True)
class View:
    """How native arrays of one geometry are brought to the closest canonical (RAS+) axes.

    Parameters
    ----------
    shape : (3,) tuple of int
        Shape after reorientation.
    affine : (4, 4) array
        Canonical voxel indices to scanner coordinates in mm.
    grid : Grid
        Voxel size (mm) and B0 direction along the canonical axes.
    orientation : (3, 2) array
        nibabel orientation transform from native to canonical axes.
    """

    shape: tuple[int, int, int]
    affine: NDArray[np.float64]
    grid: Grid
    orientation: NDArray[np.float64]

    @classmethod
    def from_affine(cls, shape: tuple[int, ...], affine: ArrayLike) -> View:
        """Derive the view of volumes of ``shape`` with a NIfTI ``affine`` (RAS+, mm).

        Raises
        ------
        DataError
            When the affine is not 4 x 4, singular or sheared, or the shape is not 3-D.
        """
        matrix = np.asarray(affine, dtype=float)
        if matrix.shape != (4, 4):
            raise DataError(f"the affine has shape {matrix.shape}", expected="(4, 4)")
        if len(shape) != 3:
            raise DataError(f"a volume of shape {tuple(shape)} cannot be shown", expected="three dimensions")
        Grid.from_affine(tuple(shape), matrix)
        orientation = nib.orientations.io_orientation(matrix)
        canonical = matrix @ nib.orientations.inv_ornt_aff(orientation, tuple(shape))
        lengths = [0, 0, 0]
        for native, (axis, _) in enumerate(orientation):
            lengths[int(axis)] = int(shape[native])
        grid = Grid.from_affine(tuple(lengths), canonical)
        return cls(grid.shape, canonical, grid, orientation)

    def canonical(self, volume: ArrayLike) -> NDArray:
        """The volume along the canonical axes (a view of the data, not a copy)."""
        return nib.orientations.apply_orientation(np.asarray(volume), self.orientation)

    def box(self, mask: NDArray[np.bool_], margin_mm: float = 6.0) -> tuple[slice, slice, slice]:
        """Bounding box of a canonical ``mask`` with a margin, clipped to the volume.

        Raises
        ------
        DataError
            When the mask is empty.
        """
        if not mask.any():
            raise DataError(
                "the mask is empty, there is nothing to show",
                expected="at least one voxel inside",
                remedy="check the brain extraction, or give a mask",
            )
        slices = []
        for axis in range(3):
            inside = np.flatnonzero(mask.any(axis=tuple(a for a in range(3) if a != axis)))
            margin = round(margin_mm / self.grid.voxel_mm[axis])
            slices.append(slice(max(0, int(inside[0]) - margin), min(mask.shape[axis], int(inside[-1]) + 1 + margin)))
        return tuple(slices)  # type: ignore[return-value]

    def indices(self, mask: NDArray[np.bool_], plane: str, n: int, span: tuple[float, float]) -> tuple[int, ...]:
        """``n`` evenly spaced slice indices between two fractions of the mask's extent."""
        axis = PLANES[plane]
        box = self.box(mask, margin_mm=0.0)[axis]
        fractions = np.linspace(*span, n) if n > 1 else np.array([0.5 * (span[0] + span[1])])
        found = np.floor(box.start + fractions * (box.stop - 1 - box.start) + 0.5).astype(int)
        return tuple(int(k) for k in dict.fromkeys(found))

    def position_mm(self, plane: str, index: int) -> float:
        """Scanner coordinate (mm) of a slice's centre along the plane's normal."""
        centre = [(n - 1) / 2 for n in self.shape] + [1.0]
        centre[PLANES[plane]] = index
        return float((self.affine @ centre)[PLANES[plane]])

    def b0_in_plane(self, plane: str) -> tuple[float, float, float]:
        """B0 seen in a plane: to the right, upwards, and towards the viewer."""
        right, up = in_plane_axes(plane)
        b0 = np.asarray(self.grid.b0_dir)
        normal = np.cross(np.eye(3)[right], np.eye(3)[up])
        return float(b0[right]), float(b0[up]), float(b0 @ normal)


def in_plane_axes(plane: str) -> tuple[int, int]:
    """The canonical axes that run to the right and upwards in a plane."""
    right, up = (axis for axis in range(3) if axis != PLANES[plane])
    return right, up


def cut(volume: NDArray, plane: str, index: int, box: tuple[slice, slice, slice]) -> NDArray:
    """One slice of a canonical volume within ``box``, as rows (upwards) by columns (to the right)."""
    selection: list[slice | int] = list(box)
    selection[PLANES[plane]] = index
    return volume[tuple(selection)].T
