"""A volume to draw tissues on, addressed in template coordinates."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Volume = NDArray[np.float32]
Slices = tuple[slice, slice, slice]
Distance = Callable[[Volume], Volume]
"""From coordinates (3, ...) in mm to a signed distance in mm, negative inside."""

Limit = Callable[[Slices], Volume]
"""Factor 0 to 1 on what is drawn, within a box of the canvas."""

PROPERTIES = ("chi_ppm", "r2star_hz", "density", "t1_s", "fat")


@dataclass
class Canvas:
    """Tissue properties and labels under the brush.

    Parameters
    ----------
    where_mm : (3, nx, ny, nz) float32 array
        Template coordinate of every voxel.
    soft_mm : float
        Width of the soft edge of whatever is drawn.
    """

    where_mm: Volume
    soft_mm: float
    labels: NDArray[np.int16] = field(init=False)
    values: dict[str, Volume] = field(init=False)

    def __post_init__(self) -> None:
        shape = self.where_mm.shape[1:]
        self.labels = np.zeros(shape, dtype=np.int16)
        self.values = {name: np.zeros(shape, dtype=np.float32) for name in PROPERTIES}
        self._coarse = np.ascontiguousarray(self.where_mm[:, ::4, ::4, ::4])

    def box(self, low: Sequence[float], high: Sequence[float], margin_mm: float = 4.0) -> Slices | None:
        """Slices around all voxels whose template coordinates lie between ``low`` and ``high``."""
        grow = margin_mm + 4 * self.soft_mm
        hit = np.ones(self._coarse.shape[1:], dtype=bool)
        for axis in range(3):
            hit &= (self._coarse[axis] >= low[axis] - grow) & (self._coarse[axis] <= high[axis] + grow)
        if not hit.any():
            return None
        slices = []
        for axis, n in enumerate(self.labels.shape):
            along = np.flatnonzero(hit.any(axis=tuple(a for a in range(3) if a != axis)))
            slices.append(slice(max(0, int(along[0]) * 4 - 4), min(n, int(along[-1]) * 4 + 5)))
        return tuple(slices)  # type: ignore[return-value]

    def fill(self, values: dict[str, float], label: int = 0) -> None:
        """Make everything one tissue."""
        self.labels[:] = label
        for name in PROPERTIES:
            self.values[name][:] = values[name]

    def paint(self, share: Volume, values: dict[str, float], label: int | None, at: Slices | None = None) -> None:
        """Lay ``share`` (0 to 1) of a tissue over what is there; label where it takes at least half."""
        at = at or (slice(None), slice(None), slice(None))
        for name in PROPERTIES:
            under = self.values[name][at]
            under += share * (np.float32(values[name]) - under)
        if label is not None:
            self.labels[at][share >= 0.5] = label

    def draw(
        self,
        distance: Distance,
        low: Sequence[float],
        high: Sequence[float],
        values: dict[str, float],
        label: int | None,
        limit: Limit | None = None,
    ) -> None:
        """Paint a shape given by its signed distance within a box of template space."""
        at = self.box(low, high)
        if at is None:
            return
        share = soft_step(distance(self.where_mm[(slice(None), *at)]), self.soft_mm)
        if limit is not None:
            share = share * limit(at)
        self.paint(share, values, label, at)


def soft_step(distance_mm: Volume, width_mm: float) -> Volume:
    """1 inside, 0 outside, linear over ``width_mm`` across the surface."""
    return np.clip(0.5 - distance_mm / np.float32(width_mm), 0.0, 1.0).astype(np.float32)


def ellipsoid(
    centre_mm: Sequence[float], radii_mm: Sequence[float], turn_deg: Sequence[float] = (0.0, 0.0, 0.0)
) -> Distance:
    """Approximate signed distance to an ellipsoid turned about x, then y, then z."""
    axes = rotation(turn_deg)
    centre = np.asarray(centre_mm, dtype=np.float32).reshape(3, 1, 1, 1)
    inverse = (1.0 / np.asarray(radii_mm, dtype=np.float32)).reshape(3, 1, 1, 1)

    def distance(where: Volume) -> Volume:
        local = np.tensordot(axes.T.astype(np.float32), where - centre, axes=1) * inverse
        length = np.sqrt((local**2).sum(axis=0))
        slope = np.sqrt(((local * inverse) ** 2).sum(axis=0))
        outward = np.where(length > 1e-4, length / np.maximum(slope, 1e-9), np.float32(min(radii_mm)))
        return outward * (length - 1)

    return distance


def tube(points_mm: NDArray[np.floating], radii_mm: NDArray[np.floating]) -> Distance:
    """Signed distance to a chain of segments whose radius changes linearly along each."""
    points = np.asarray(points_mm, dtype=np.float32)
    radii = np.asarray(radii_mm, dtype=np.float32)

    def distance(where: Volume) -> Volume:
        best = np.full(where.shape[1:], np.inf, dtype=np.float32)
        for a, b, ra, rb in zip(points[:-1], points[1:], radii[:-1], radii[1:], strict=True):
            along = b - a
            offset = where - a.reshape(3, 1, 1, 1)
            t = np.tensordot(along, offset, axes=1) / max(float(along @ along), 1e-6)
            t = np.clip(t, 0.0, 1.0)
            gap = np.sqrt(((offset - along.reshape(3, 1, 1, 1) * t) ** 2).sum(axis=0)) - (ra + (rb - ra) * t)
            np.minimum(best, gap, out=best)
        return best

    return distance


def rotation(turn_deg: Sequence[float]) -> NDArray[np.float64]:
    """Matrix of the rotations about x, then y, then z, right-handed, in degrees."""
    matrix = np.eye(3)
    for axis, degrees in enumerate(turn_deg):
        c, s = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
        i, j = (axis + 1) % 3, (axis + 2) % 3
        step = np.eye(3)
        step[i, i] = step[j, j] = c
        step[i, j], step[j, i] = -s, s
        matrix = step @ matrix
    return matrix
