"""The sampling grid of a volume, with the direction of the static field in its axes."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from qsmprep.errors import DataError

MAX_SHEAR = 1e-2
"""Largest deviation of the voxel axes from orthogonality (cosine) that is still accepted."""


@dataclass(frozen=True)
class Grid:
    """Shape, voxel size and B0 direction of a volume, all along its array axes.

    Parameters
    ----------
    shape : (3,) tuple of int
        Number of voxels along each array axis.
    voxel_mm : (3,) tuple of float
        Voxel edge lengths in mm along each array axis.
    b0_dir : (3,) tuple of float
        Unit vector of the static field B0 **in the voxel axes**, not in scanner axes.
        It is normalised on construction. Its sign does not matter to any dipole field.

    Raises
    ------
    DataError
        When a length is not positive and finite, or the direction has no length.
    """

    shape: tuple[int, int, int]
    voxel_mm: tuple[float, float, float]
    b0_dir: tuple[float, float, float] = (0.0, 0.0, 1.0)

    def __post_init__(self) -> None:
        shape = tuple(int(n) for n in self.shape)
        voxel = tuple(float(v) for v in self.voxel_mm)
        direction = np.asarray(self.b0_dir, dtype=float)
        if len(shape) != 3 or min(shape) < 1:
            raise DataError(f"`shape` is {self.shape}", expected="three positive lengths")
        if len(voxel) != 3 or not all(math.isfinite(v) and v > 0 for v in voxel):
            raise DataError(f"`voxel_mm` is {self.voxel_mm}", expected="three positive sizes in mm")
        norm = float(np.linalg.norm(direction))
        if direction.shape != (3,) or not math.isfinite(norm) or norm == 0:
            raise DataError(f"`b0_dir` is {self.b0_dir}", expected="a direction of three numbers")
        object.__setattr__(self, "shape", shape)
        object.__setattr__(self, "voxel_mm", voxel)
        object.__setattr__(self, "b0_dir", tuple(float(c) for c in direction / norm))

    @classmethod
    def from_affine(cls, shape: tuple[int, ...], affine: ArrayLike) -> Grid:
        """Read voxel size and B0 direction off a NIfTI affine.

        The scanner's z axis (B0) is seen from the voxel axes, whatever the flips, the order of
        the axes and the tilt of the stack.

        Parameters
        ----------
        shape : tuple of int
            Shape of the volume; only the first three lengths are used.
        affine : (4, 4) array_like
            Voxel indices to scanner coordinates in mm (RAS+).

        Raises
        ------
        DataError
            When the affine is singular, not finite, or sheared.
        """
        matrix = np.asarray(affine, dtype=float)[:3, :3]
        voxel_mm = np.linalg.norm(matrix, axis=0)
        if not np.all(np.isfinite(matrix)) or np.any(voxel_mm == 0):
            raise DataError("the affine is singular or not finite", expected="a 4x4 RAS+ affine")
        axes = matrix / voxel_mm
        shear = float(np.abs(axes.T @ axes - np.eye(3)).max())
        if shear > MAX_SHEAR:
            raise DataError(
                f"the affine is sheared (axes deviate from right angles by {shear:.3f})",
                expected="orthogonal voxel axes",
                remedy="resample the images to an orthogonal grid",
            )
        left, _, right = np.linalg.svd(axes)
        rotation = left @ right
        b0_dir = rotation.T @ np.array([0.0, 0.0, 1.0])
        b0_dir[np.abs(b0_dir) < 1e-9] = 0.0
        return cls(tuple(shape[:3]), tuple(voxel_mm), tuple(b0_dir))  # type: ignore[arg-type]

    @property
    def voxel_volume_mm3(self) -> float:
        """Volume of a voxel in mm^3."""
        return math.prod(self.voxel_mm)

    @property
    def tilt_deg(self) -> float:
        """Angle in degrees between B0 and the nearest voxel axis."""
        return math.degrees(math.acos(min(1.0, max(abs(c) for c in self.b0_dir))))

    def with_shape(self, shape: tuple[int, int, int]) -> Grid:
        """The same sampling and direction over another number of voxels."""
        return Grid(shape, self.voxel_mm, self.b0_dir)


def bounding_box(mask: ArrayLike, margin: int = 0) -> tuple[slice, slice, slice]:
    """Smallest box that holds a mask, wider by ``margin`` voxels where there is room.

    Parameters
    ----------
    mask : (nx, ny, nz) bool array
        At least one voxel.
    margin : int
    """
    inside = np.asarray(mask, bool)
    ends = [np.flatnonzero(inside.any(axis=others))[[0, -1]] for others in ((1, 2), (0, 2), (0, 1))]
    x, y, z = (slice(max(int(first) - margin, 0), int(last) + 1 + margin) for first, last in ends)
    return x, y, z
