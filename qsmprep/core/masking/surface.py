"""Closed triangle surfaces: the sphere that brain extraction starts from, and the voxels inside one."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import cKDTree

Points = NDArray[np.float64]
Faces = NDArray[np.intp]


@lru_cache(maxsize=4)
def icosphere(subdivisions: int) -> tuple[Points, Faces]:
    """Unit sphere of ``20 * 4**subdivisions`` triangles, their corners ordered so that normals point outwards.

    The icosahedron lies symmetrically to the coordinate planes, so that flipping an axis maps it to itself.

    Returns
    -------
    points : (n, 3) float array
    faces : (m, 3) int array
    """
    golden = (1 + 5**0.5) / 2
    corners = [np.roll([0.0, a, b * golden], shift) for shift in range(3) for a in (-1, 1) for b in (-1, 1)]
    points = np.array(corners)
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    edge = np.sort(np.linalg.norm(points[:, None] - points[None], axis=2), axis=1)[0, 1]
    near = np.linalg.norm(points[:, None] - points[None], axis=2) < 1.01 * edge
    n = len(points)
    triples = [
        (i, j, k)
        for i in range(n)
        for j in range(i + 1, n)
        for k in range(j + 1, n)
        if near[i, j] and near[j, k] and near[i, k]
    ]
    faces = np.array(triples)
    for _ in range(subdivisions):
        points, faces = subdivide(points, faces)
        points /= np.linalg.norm(points, axis=1, keepdims=True)
    outwards = np.einsum("ij,ij->i", normals(points, faces), points[faces].mean(axis=1)) > 0
    faces = np.where(outwards[:, None], faces, faces[:, ::-1])
    return points, faces


def subdivide(points: Points, faces: Faces) -> tuple[Points, Faces]:
    """Every triangle into four, with new corners in the middle of the edges."""
    edges = np.sort(np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]]), axis=1)
    unique, inverse = np.unique(edges, axis=0, return_inverse=True)
    m = len(faces)
    a, b, c = (len(points) + inverse.reshape(-1)[i * m : (i + 1) * m] for i in range(3))
    x, y, z = faces.T
    split = np.concatenate([np.stack(t, axis=1) for t in ((x, a, c), (a, y, b), (c, b, z), (a, b, c))])
    return np.concatenate([points, points[unique].mean(axis=1)]), split


def normals(points: Points, faces: Faces) -> Points:
    """Normal of each triangle, as long as twice its area."""
    a, b, c = points[faces[:, 0]], points[faces[:, 1]], points[faces[:, 2]]
    return np.cross(b - a, c - a).astype(np.float64)


def voxels_inside(points_mm: Points, faces: Faces, shape: tuple[int, ...], voxel_mm: Points) -> NDArray[np.bool_]:
    """Voxels whose centre lies inside a closed surface.

    Parameters
    ----------
    points_mm : (n, 3) float array
        Corners in mm; voxel (i, j, k) has its centre at ``(i, j, k) * voxel_mm``.
    faces : (m, 3) int array
        Triangles with outward normals.
    shape : (3,) tuple of int
        Volume.
    voxel_mm : (3,) float array
        Voxel size.
    """
    a, b, c = points_mm[faces[:, 0]], points_mm[faces[:, 1]], points_mm[faces[:, 2]]
    longest = max(float(np.linalg.norm(b - a, axis=1).max()), float(np.linalg.norm(c - a, axis=1).max()))
    steps = int(np.clip(np.ceil(longest / (0.4 * voxel_mm.min())), 2, 40))
    samples, owners = [], []
    for i in range(steps + 1):
        for j in range(steps + 1 - i):
            u, v = i / steps, j / steps
            samples.append(a + u * (b - a) + v * (c - a))
            owners.append(np.arange(len(faces)))
    cloud, owner = np.concatenate(samples), np.concatenate(owners)
    index = np.rint(cloud / voxel_mm).astype(int)
    low = np.minimum(index.min(axis=0), 0) - 1
    high = np.maximum(index.max(axis=0) + 1, shape) + 1
    shell = np.zeros(high - low, bool)
    shell[tuple((index - low).T)] = True
    filled = ndimage.binary_fill_holes(shell) & ~shell
    inner = tuple(slice(-start, -start + n) for start, n in zip(low, shape, strict=True))
    filled, shell = filled[inner], shell[inner]
    where = np.argwhere(shell)
    if len(where):
        centres = where * voxel_mm
        _, nearest = cKDTree(cloud).query(centres)
        side = np.einsum("ij,ij->i", centres - cloud[nearest], normals(points_mm, faces)[owner[nearest]])
        filled[tuple(where[side < 0].T)] = True
    return filled
