"""From the scanner to the template: pose, size and a smooth random deformation of the head."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from qsmprep.phantom.canvas import Volume, rotation

ISOCENTRE_MM = np.array([0.0, -17.0, 12.0])
"""The point of the template that lies at the scanner's isocentre when the head is not moved."""

LATTICE_MM = 6.0
_REACH_MM = 180.0


@dataclass(frozen=True)
class Warp:
    """Scanner to template coordinates: ``linear (x - shift) + isocentre + bend(x)``.

    Parameters
    ----------
    linear : (3, 3) float array
        Pose and size.
    shift_mm : (3,) float array
        Where the isocentre point of the template lies in the scanner.
    bend_mm : (3, n, n, n) float32 array
        Smooth displacement in mm on a lattice of ``LATTICE_MM`` centred on the scanner's isocentre.
    """

    linear: NDArray[np.float64]
    shift_mm: NDArray[np.float64]
    bend_mm: Volume

    def to_template(self, shape: tuple[int, int, int], affine: NDArray[np.float64]) -> Volume:
        """Template coordinates (3, nx, ny, nz) in mm of every voxel of a grid in the scanner."""
        matrix = np.asarray(affine, dtype=float)
        lattice = np.eye(4)
        lattice[:3, :3] /= LATTICE_MM
        lattice[:3, 3] = (self.bend_mm.shape[1] - 1) / 2
        at = index_coordinates(shape, lattice @ matrix)
        straight = np.eye(4)
        straight[:3, :3] = self.linear
        straight[:3, 3] = ISOCENTRE_MM - self.linear @ self.shift_mm
        where = index_coordinates(shape, straight @ matrix)
        for axis in range(3):
            where[axis] += ndimage.map_coordinates(self.bend_mm[axis], at, order=1, mode="nearest", output=np.float32)
        return where


def draw_warp(rng: np.random.Generator, *, size: float = 1.0, bend_sd_mm: float = 1.6, move: float = 1.0) -> Warp:
    """A random head: its pose in the scanner, its proportions and its bends.

    Parameters
    ----------
    rng : numpy.random.Generator
    size : float
        Mean size relative to the template.
    bend_sd_mm : float
        Standard deviation of the smooth displacement in mm.
    move : float
        Scale of the random pose; 0 leaves the head straight and centred.
    """
    scale = size * np.exp(rng.normal(0.0, 0.015, 3))
    turn = rotation((move * rng.normal(0.0, 2.0, 3)).tolist())
    linear = np.diag(1.0 / scale) @ turn.T
    shift = move * rng.normal(0.0, 1.5, 3)
    n = 2 * int(_REACH_MM // LATTICE_MM) + 1
    bend = np.stack([ndimage.gaussian_filter(rng.standard_normal((n, n, n)), 4.0) for _ in range(3)])
    bend *= bend_sd_mm / bend.std()
    return Warp(linear, shift, bend.astype(np.float32))


def index_coordinates(shape: tuple[int, ...], matrix: NDArray[np.float64]) -> Volume:
    """``matrix`` applied to all voxel indices: (3, nx, ny, nz) float32."""
    result = np.empty((3, *shape), dtype=np.float32)
    i, j, k = np.ogrid[: shape[0], : shape[1], : shape[2]]
    for row in range(3):
        a, b, c, d = matrix[row]
        result[row] = a * i + (b * j + (c * k + d))
    return result
