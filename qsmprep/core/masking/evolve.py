"""Compiled kernels that move the surface of brain extraction under the forces of Smith's tool."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from qsmprep.core.unwrap.compiled import compile_kernel


@compile_kernel
def _value(volume: NDArray[np.float32], x: float, y: float, z: float, margin: NDArray[np.float64]) -> float:
    """Trilinear interpolation; the border is continued over ``margin`` voxels, beyond that is nothing."""
    nx, ny, nz = volume.shape
    if x < -margin[0] or y < -margin[1] or z < -margin[2]:
        return 0.0
    if x > nx - 1 + margin[0] or y > ny - 1 + margin[1] or z > nz - 1 + margin[2]:
        return 0.0
    x, y, z = min(max(x, 0.0), nx - 1.0), min(max(y, 0.0), ny - 1.0), min(max(z, 0.0), nz - 1.0)
    i, j, k = int(x), int(y), int(z)
    u, v, w = x - i, y - j, z - k
    ii, jj, kk = min(i + 1, nx - 1), min(j + 1, ny - 1), min(k + 1, nz - 1)
    near = (volume[i, j, k] * (1 - v) + volume[i, jj, k] * v) * (1 - w)
    near += (volume[i, j, kk] * (1 - v) + volume[i, jj, kk] * v) * w
    far = (volume[ii, j, k] * (1 - v) + volume[ii, jj, k] * v) * (1 - w)
    far += (volume[ii, j, kk] * (1 - v) + volume[ii, jj, kk] * v) * w
    return near * (1 - u) + far * u


@compile_kernel
def _push(
    volume: NDArray[np.float32],
    voxel_mm: NDArray[np.float64],
    point: NDArray[np.float64],
    normal: NDArray[np.float64],
    levels: NDArray[np.float64],
    fraction: float,
    depth_mm: float,
    margin: NDArray[np.float64],
) -> float:
    """Outward (positive) or inward force, from the darkest and the brightest point below the surface."""
    low, air, tissue = levels
    darkest, brightest = tissue, air
    for step in range(int(depth_mm) + 1):
        x = (point[0] - step * normal[0]) / voxel_mm[0]
        y = (point[1] - step * normal[1]) / voxel_mm[1]
        z = (point[2] - step * normal[2]) / voxel_mm[2]
        value = _value(volume, x, y, z, margin)
        darkest = min(darkest, value)
        if 2 * step <= depth_mm:
            brightest = max(brightest, value)
    darkest, brightest = max(low, darkest), min(tissue, brightest)
    if brightest <= low:
        return 0.0
    return 2.0 * ((darkest - low) / (brightest - low) - fraction)


@compile_kernel
def _edge_length(vertices: NDArray[np.float64], rings: NDArray[np.int64]) -> float:
    """Mean distance between neighbours."""
    length, count = 0.0, 0
    for v in range(vertices.shape[0]):
        for neighbour in rings[v]:
            if neighbour >= 0:
                square = 0.0
                for a in range(3):
                    square += (vertices[neighbour, a] - vertices[v, a]) ** 2
                length += math.sqrt(square)
                count += 1
    return length / count


@compile_kernel
def _lie(
    vertices: NDArray[np.float64],
    ring: NDArray[np.int64],
    v: int,
    normal: NDArray[np.float64],
    mean: NDArray[np.float64],
) -> float:
    """Write the outward normal of a vertex and the way to the mean of its neighbours; return their product."""
    valence = 0
    while valence < ring.size and ring[valence] >= 0:
        valence += 1
    mean[:] = 0.0
    normal[:] = 0.0
    last = vertices[ring[valence - 1]] - vertices[v]
    for k in range(valence):
        edge = vertices[ring[k]] - vertices[v]
        mean += edge / valence
        normal[0] += last[1] * edge[2] - last[2] * edge[1]
        normal[1] += last[2] * edge[0] - last[0] * edge[2]
        normal[2] += last[0] * edge[1] - last[1] * edge[0]
        last = edge
    size = math.sqrt(normal[0] ** 2 + normal[1] ** 2 + normal[2] ** 2)
    if size > 0.0:
        normal /= size
    return mean[0] * normal[0] + mean[1] * normal[1] + mean[2] * normal[2]


@compile_kernel
def evolve(
    vertices: NDArray[np.float64],
    rings: NDArray[np.int64],
    volume: NDArray[np.float32],
    voxel_mm: NDArray[np.float64],
    levels: NDArray[np.float64],
    fraction: float,
    radii_mm: NDArray[np.float64],
    reach_mm: NDArray[np.float64],
    iterations: int,
) -> None:
    """Move the vertices, in place; all move at once, so that their order does not matter.

    Parameters
    ----------
    vertices : (n, 3) float64 array
        In mm from the centre of the first voxel.
    rings : (n, 6) int64 array
        See :class:`qsmprep.core.masking.mesh.Mesh`.
    volume : (nx, ny, nz) float32 array
    voxel_mm : (3,) float64 array
    levels : (3,) float64 array
        Robust minimum, threshold of air, median of the brain.
    fraction : float
        Fractional intensity threshold.
    radii_mm : (2,) float64 array
        Radii of curvature that are smoothed fully and hardly at all.
    reach_mm : (2,) float64 array
        Depth of the search for the darkest point, and how far the volume's border is continued.
    iterations : int
    """
    middle = (1.0 / radii_mm[0] + 1.0 / radii_mm[1]) / 2.0
    steep = 6.0 / (1.0 / radii_mm[0] - 1.0 / radii_mm[1])
    margin = reach_mm[1] / voxel_mm
    moves = np.empty_like(vertices)
    normal, mean = np.empty(3), np.empty(3)
    for _ in range(iterations):
        length = _edge_length(vertices, rings)
        for v in range(vertices.shape[0]):
            along = _lie(vertices, rings[v], v, normal, mean)
            smooth = 0.5 * (1.0 + math.tanh(steep * (2.0 * abs(along) / length**2 - middle)))
            push = _push(volume, voxel_mm, vertices[v], normal, levels, fraction, reach_mm[0], margin)
            forward = smooth * along + 0.05 * push * length - 0.5 * along
            for a in range(3):
                moves[v, a] = 0.5 * mean[a] + forward * normal[a]
        vertices += moves
