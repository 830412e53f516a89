"""Brain extraction: a surface is blown up inside the head until it meets the edge of the brain.

The forces are those of Smith's Brain Extraction Tool. Our own are the start (where the head is
farthest from air, so that a neck or a cut field of view does not pull it away), the evolution from
a coarse to a fine mesh that has all symmetries of the array, trilinear sampling in mm, and the
correction of slow variations of intensity beforehand.

References
----------
.. [1] Smith, Hum. Brain Mapp. 17:143 (2002), doi:10.1002/hbm.10062
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.filters import threshold_otsu

from qsmprep.core.grid import Grid
from qsmprep.core.masking.evolve import evolve
from qsmprep.core.masking.mesh import Mesh, fill, refine, sphere
from qsmprep.core.masking.morphology import fill_holes, largest_component
from qsmprep.core.masking.resample import average, centre_shift_mm, coarse_grid, interpolate
from qsmprep.core.parameters import BetParams
from qsmprep.core.results import FloatVolume, Mask
from qsmprep.errors import DataError, NotSeenError

WORK_MM = 1.0
"""Finer voxels are averaged to this size before the surface moves; it is filled on the full grid."""
COARSE_MM = 4.0
"""Voxel size at which the head is found and slow variations are measured."""
BIAS_MM = 25.0
"""Standard deviation of the Gaussian that measures slow variations of intensity."""
FAR = 0.02
"""Weight of the typical intensity in the slow variations; far from the head nothing else is left."""
CURVATURE_MM = (3.33, 10.0)
"""Radii of curvature that are smoothed fully and hardly at all."""
SEARCH_MM = 20.0
"""Depth below the surface searched for the darkest point; half of it for the brightest."""
MARGIN_MM = 10.0
"""How far the border of the volume is continued, so that a brain cut by the field of view stays whole."""
STAGES = ((3, 150), (4, 100), (5, 150))
"""Refinements of the octahedron, and the iterations with each."""
ATTEMPTS = ((1.0, 1.0), (1.5, 1.0), (1.0, 0.85), (1.5, 0.85), (1.5, 0.7))
"""Factors on the radii of curvature and on the threshold, tried in turn until the surface is sound."""
MAX_FOLDED = 0.02
"""Share of voxels within a surface that crosses itself that is accepted at once ..."""
LAST_FOLDED = 0.05
"""... and where no attempt is better: wide fissures full of dark fluid in an otherwise good mask."""
MIN_CORE = 0.6
"""Share of the core of the head (a ball of CORE times its depth) that a brain must hold."""
CORE = 0.8
"""Radius of the ball whose intensities are taken for those of the brain, relative to the depth of the head."""
SPREAD = 2.5
"""The edge is put this many lower half-widths of the brain's intensities below their median ..."""
EDGE = (0.35, 0.71)
"""... but within these fractions of it."""
NOISE = (0.05, 0.15)
"""Noise relative to the brain from which on the image is smoothed, and with which it is fully."""
SMOOTH_MM = 1.5
"""Standard deviation of the Gaussian that smooths a very noisy image."""
MIN_BRAIN_ML = 50.0
"""Less is no brain."""


@dataclass(frozen=True)
class Levels:
    """Intensities that steer the surface.

    Parameters
    ----------
    low, high : float
        Robust minimum and maximum (2 % and 98 %).
    air : float
        What is darker is air.
    tissue : float
        Median of the brain.
    dark : float
        First quartile of the brain.
    """

    low: float
    high: float
    air: float
    tissue: float
    dark: float

    @classmethod
    def of(cls, volume: FloatVolume) -> Levels:
        """Levels of a whole volume; ``tissue`` is its robust maximum as long as no brain is known."""
        low, high = (float(q) for q in np.percentile(volume, (2, 98)))
        air = low + max(0.1 * (high - low), 0.5 * (float(threshold_otsu(np.minimum(volume, high))) - low))
        return cls(low, high, air, high, high)

    def within(self, values: FloatVolume) -> Levels:
        """The same with ``tissue`` and ``dark`` from the values of the brain."""
        brain = values[(values > self.air) & (values < self.high)]
        if brain.size == 0:
            return self
        dark, tissue = (float(q) for q in np.percentile(brain, (25, 50)))
        return Levels(self.low, self.high, self.air, tissue, dark)

    def edge(self, fraction: float) -> float:
        """Threshold between brain and skull, from 0 (``low``) to 1 (``tissue``).

        A single fraction does not fit both even (gradient-echo) and strong (T1w) contrast between
        grey and white matter, so the width of the brain's own intensities sets it; ``fraction``
        of 0.5 is neutral.
        """
        width = (self.tissue - self.dark) / max(self.tissue - self.low, 1e-12)
        return fraction / 0.5 * min(max(1.0 - SPREAD * width, EDGE[0]), EDGE[1])


def bet(magnitude: NDArray[np.floating], grid: Grid, params: BetParams | None = None) -> Mask:
    """Extract the brain from an image in which it is bright and the skull dark.

    Parameters
    ----------
    magnitude : (nx, ny, nz) array
        Gradient-echo magnitude or T1w, arbitrary unit; voxels that are not finite count as air.
    grid : Grid
        Its voxel size; the order and the directions of the axes do not matter.
    params : BetParams, optional
        Fractional intensity threshold; smaller gives a larger brain.

    Returns
    -------
    (nx, ny, nz) bool array
        One component without holes.

    Raises
    ------
    DataError
        When the shape does not fit, the image is empty or constant, or no brain is found.

    References
    ----------
    .. [1] Smith, Hum. Brain Mapp. 17:143 (2002), doi:10.1002/hbm.10062
    """
    image = _checked(magnitude, grid)
    work = coarse_grid(grid, WORK_MM)
    volume = homogenise(average(image, grid, work), work)
    start = _start(volume, work)
    volume = _quieten(volume, work, start.levels)
    fraction = (params or BetParams()).fraction
    least, found = LAST_FOLDED, None
    for smoother, lower in ATTEMPTS:
        vertices, mesh = _surface(volume, work, start, lower * fraction, smoother)
        mask, folded = fill(vertices + centre_shift_mm(work, grid), mesh, grid)
        mask = largest_component(fill_holes(mask))
        brain_ml = 1e-3 * int(mask.sum()) * grid.voxel_volume_mm3
        if folded < least and brain_ml > max(MIN_BRAIN_ML, MIN_CORE * start.core_ml):
            least, found = folded, mask
        if least < MAX_FOLDED:
            break
    if found is not None:
        return found
    raise NotSeenError(
        "no brain was found in the magnitude image",
        expected="a bright brain in a dark skull",
        remedy="give a mask, or use `--mask threshold` for anything but a head",
    )


def _checked(magnitude: NDArray[np.floating], grid: Grid) -> FloatVolume:
    """The image as float32 with nothing but finite values from zero on."""
    image = np.asarray(magnitude, dtype=np.float32)
    if image.shape != grid.shape:
        raise DataError(f"the magnitude has shape {image.shape}", expected=f"{grid.shape}, that of the grid")
    image = np.where(np.isfinite(image) & (image > 0), image, np.float32(0))
    if float(image.max()) == float(image.min()):
        raise DataError(
            "the magnitude image is constant",
            expected="an image of a head",
            remedy="look at the magnitude files; were they converted whole?",
        )
    return image


def homogenise(magnitude: FloatVolume, grid: Grid, sigma_mm: float = BIAS_MM) -> FloatVolume:
    """Divide an image by its slow variations within the head, as surface coils make them.

    Parameters
    ----------
    magnitude : (nx, ny, nz) float32 array
        Not negative, finite.
    grid : Grid
    sigma_mm : float
        Standard deviation of the Gaussian in mm.

    Returns
    -------
    (nx, ny, nz) float32 array
        In the unit of the input: the median of the divisor over the head is 1.
    """
    small = coarse_grid(grid, COARSE_MM)
    coarse = average(magnitude, grid, small)
    levels = Levels.of(coarse)
    head = coarse > levels.air
    if not head.any():
        return magnitude
    sigma = [sigma_mm / mm for mm in small.voxel_mm]
    clipped = np.where(head, np.minimum(coarse, levels.high), 0).astype(np.float32)
    total = ndimage.gaussian_filter(clipped, sigma, mode="constant", truncate=3.0)
    weight = ndimage.gaussian_filter(head.astype(np.float32), sigma, mode="constant", truncate=3.0)
    typical = float(np.median(coarse[head]))
    slow = (total + FAR * typical) / (weight + FAR)
    slow = np.clip(slow / float(np.median(slow[head])), 0.2, 5.0).astype(np.float32)
    return magnitude / interpolate(slow, small, grid)


def _depth_mm(head: Mask, grid: Grid) -> NDArray[np.float64]:
    """Distance in mm from air within the head; the edge of the volume is not air."""
    radius = int(np.ceil(2 * COARSE_MM / min(grid.voxel_mm)))
    padded = np.pad(head, radius, mode="edge")
    closed = ndimage.distance_transform_edt(~padded, sampling=grid.voxel_mm) <= 2 * COARSE_MM
    closed = ndimage.distance_transform_edt(closed, sampling=grid.voxel_mm) > 2 * COARSE_MM
    inner = tuple(slice(radius, -radius) for _ in range(3))
    whole = largest_component(fill_holes(closed[inner] | head))
    if whole.all():
        return np.full(grid.shape, min(n * mm for n, mm in zip(grid.shape, grid.voxel_mm, strict=True)) / 2)
    return np.asarray(ndimage.distance_transform_edt(whole, sampling=grid.voxel_mm))


def _quieten(volume: FloatVolume, grid: Grid, levels: Levels) -> FloatVolume:
    """Smooth a noisy image, by so much as its air is bright: the darkest of many noisy voxels is too dark."""
    air = volume[(volume > 0) & (volume < levels.air)]
    if air.size == 0:
        return volume
    noise = float(np.median(air)) / math.sqrt(2 * math.log(2)) / levels.tissue
    sigma_mm = SMOOTH_MM * float(np.clip((noise - NOISE[0]) / (NOISE[1] - NOISE[0]), 0, 1))
    if sigma_mm == 0:
        return volume
    return np.asarray(ndimage.gaussian_filter(volume, [sigma_mm / mm for mm in grid.voxel_mm], truncate=3.0))


@dataclass(frozen=True)
class _Start:
    """Where the surface begins: the ball deep in the head, in mm from the first voxel, and its levels."""

    centre_mm: NDArray[np.float64]
    depth_mm: float
    core_ml: float
    levels: Levels


def _start(volume: FloatVolume, grid: Grid) -> _Start:
    """Centre the ball on the head, weighted by the squared distance from air."""
    small = coarse_grid(grid, COARSE_MM)
    coarse = average(volume, grid, small)
    levels = Levels.of(coarse)
    depth = _depth_mm(coarse > levels.air, small)
    weight = depth**2
    index = np.indices(small.shape, sparse=True)
    centre = np.array([float((weight * i).sum()) / float(weight.sum()) for i in index]) * np.array(small.voxel_mm)
    away2 = sum((i * mm - c) ** 2 for i, mm, c in zip(index, small.voxel_mm, centre, strict=True))
    core = np.asarray(away2) < (CORE * depth.max()) ** 2
    core_ml = 1e-3 * float((core & (depth > 0)).sum()) * small.voxel_volume_mm3
    return _Start(centre + centre_shift_mm(small, grid), float(depth.max()), core_ml, levels.within(coarse[core]))


def _surface(
    volume: FloatVolume, grid: Grid, start: _Start, fraction: float, smoother: float
) -> tuple[NDArray[np.float64], Mesh]:
    """Vertices (mm from the first voxel) and mesh of the surface at rest."""
    small = coarse_grid(grid, COARSE_MM)
    levels, edge = start.levels, start.levels.edge(fraction)
    vertices, mesh = sphere(STAGES[0][0])
    vertices = start.centre_mm + 0.5 * start.depth_mm * vertices
    for stage, (_, iterations) in enumerate(STAGES):
        if stage == 1:
            inside, _ = fill(vertices + centre_shift_mm(grid, small), mesh, small)
            levels = levels.within(average(volume, grid, small)[inside])
        if stage:
            vertices, faces = refine(vertices, mesh.faces)
            mesh = Mesh.from_faces(faces)
        evolve(
            vertices,
            mesh.rings,
            volume,
            np.array(grid.voxel_mm),
            np.array([levels.low, levels.air, levels.tissue]),
            edge,
            smoother * np.array(CURVATURE_MM),
            np.array([SEARCH_MM, MARGIN_MM]),
            iterations,
        )
    return vertices, mesh
