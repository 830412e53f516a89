"""Closed triangle meshes for brain extraction: a sphere, its refinement, and filling it with voxels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qsmprep.core.grid import Grid
from qsmprep.core.results import Mask
from qsmprep.core.unwrap.compiled import compile_kernel

MAX_VALENCE = 6
"""Most neighbours of a vertex of a refined octahedron."""


@dataclass(frozen=True)
class Mesh:
    """Connectivity of a closed triangle mesh.

    Parameters
    ----------
    faces : (n_faces, 3) int64 array
        Vertices of each triangle, counter-clockwise seen from outside.
    rings : (n_vertices, 6) int64 array
        Neighbours of each vertex, counter-clockwise; rows of shorter rings end with -1.
    """

    faces: NDArray[np.int64]
    rings: NDArray[np.int64]

    @classmethod
    def from_faces(cls, faces: NDArray[np.int64]) -> Mesh:
        """Order the neighbours of every vertex."""
        n = int(faces.max()) + 1
        ahead: list[dict[int, int]] = [{} for _ in range(n)]
        for a, b, c in faces.tolist():
            ahead[a][b], ahead[b][c], ahead[c][a] = c, a, b
        rings = np.full((n, MAX_VALENCE), -1, np.int64)
        for vertex, following in enumerate(ahead):
            neighbour = next(iter(following))
            for k in range(len(following)):
                rings[vertex, k] = neighbour
                neighbour = following[neighbour]
        return cls(faces, rings)


def octahedron() -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Vertices and faces of the octahedron, which no flip or exchange of the axes changes."""
    vertices = np.concatenate([np.eye(3), -np.eye(3)])
    faces = []
    for x in (0, 3):
        for y in (1, 4):
            for z in (2, 5):
                outward = (x < 3) ^ (y < 3) ^ (z < 3)
                faces.append((x, y, z) if outward else (x, z, y))
    return vertices, np.array(faces, np.int64)


def refine(vertices: NDArray[np.float64], faces: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Split every triangle into four at the midpoints of its edges.

    Parameters
    ----------
    vertices : (n, 3) array
    faces : (m, 3) int array

    Returns
    -------
    vertices : (n + 3 m / 2, 3) array
        The old vertices first.
    faces : (4 m, 3) int array
    """
    edges = np.sort(np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]]), axis=1)
    unique, where = np.unique(edges, axis=0, return_inverse=True)
    middle = len(vertices) + where.reshape(3, -1)
    a, b, c = faces.T
    ab, bc, ca = middle
    split = np.concatenate([np.stack(f, axis=1) for f in ((a, ab, ca), (ab, b, bc), (ca, bc, c), (ab, bc, ca))])
    return np.concatenate([vertices, vertices[unique].mean(axis=1)]), split


def sphere(levels: int) -> tuple[NDArray[np.float64], Mesh]:
    """Unit sphere from an octahedron refined ``levels`` times, ``2 + 4 ** (levels + 1)`` vertices."""
    vertices, faces = octahedron()
    for _ in range(levels):
        vertices, faces = refine(vertices, faces)
        vertices /= np.linalg.norm(vertices, axis=1, keepdims=True)
    return vertices, Mesh.from_faces(faces)


@compile_kernel
def _side(b0: float, c0: float, b1: float, c1: float, row: int, col: int, sign: float) -> float:
    """Twice the area that an edge spans with a point, positive inside; of two triangles one owns their edge."""
    area = sign * ((b0 - row) * (c1 - col) - (b1 - row) * (c0 - col))
    if area == 0.0:
        along_b, along_c = sign * (b1 - b0), sign * (c1 - c0)
        return 0.0 if along_c > 0.0 or (along_c == 0.0 and along_b < 0.0) else -1.0
    return area


@compile_kernel
def _cross_columns(points: NDArray[np.float64], faces: NDArray[np.int64], axis: int, winding: NDArray[np.int8]) -> None:
    """Count the surface's crossings of the lines of voxel centres along ``axis`` (the last of ``winding``)."""
    nb, nc, na = winding.shape
    b, c = (axis + 1) % 3, (axis + 2) % 3
    for f in range(faces.shape[0]):
        i, j, k = faces[f, 0], faces[f, 1], faces[f, 2]
        b0, b1, b2 = points[i, b], points[j, b], points[k, b]
        c0, c1, c2 = points[i, c], points[j, c], points[k, c]
        area = (b1 - b0) * (c2 - c0) - (b2 - b0) * (c1 - c0)
        if area == 0.0:
            continue
        sign = 1 if area > 0.0 else -1
        for row in range(max(0, int(np.ceil(min(b0, b1, b2)))), min(nb - 1, int(np.floor(max(b0, b1, b2)))) + 1):
            for col in range(max(0, int(np.ceil(min(c0, c1, c2)))), min(nc - 1, int(np.floor(max(c0, c1, c2)))) + 1):
                w0 = _side(b1, c1, b2, c2, row, col, sign)
                w1 = _side(b2, c2, b0, c0, row, col, sign)
                w2 = _side(b0, c0, b1, c1, row, col, sign)
                if w0 < 0.0 or w1 < 0.0 or w2 < 0.0:
                    continue
                height = w0 * points[i, axis] + w1 * points[j, axis] + w2 * points[k, axis]
                first = int(np.ceil(height / (w0 + w1 + w2)))
                if first < na:
                    winding[row, col, max(first, 0)] -= sign


def fill(vertices_mm: NDArray[np.float64], mesh: Mesh, grid: Grid) -> tuple[Mask, float]:
    """Voxels whose centre a closed surface goes around, and how much of the surface is folded.

    The winding number is counted along the lines of voxels of each axis, and the three counts vote.

    Parameters
    ----------
    vertices_mm : (n, 3) array
        In mm from the centre of the first voxel, along the array axes.
    mesh : Mesh
    grid : Grid

    Returns
    -------
    inside : (nx, ny, nz) bool array
    folded : float
        Voxels that the surface goes around in any way but once, relative to those inside. More than
        a few per cent means that it crosses itself.
    """
    points = np.ascontiguousarray(vertices_mm / np.asarray(grid.voxel_mm))
    votes = np.zeros(grid.shape, np.int8)
    folded = np.zeros(grid.shape, np.int8)
    for axis in range(3):
        lines = tuple(grid.shape[(axis + k) % 3] for k in (1, 2, 0))
        winding = np.zeros(lines, np.int8)
        _cross_columns(points, mesh.faces, axis, winding)
        np.cumsum(winding, axis=2, out=winding)
        turned = np.moveaxis(winding, (0, 1, 2), ((axis + 1) % 3, (axis + 2) % 3, axis))
        votes += turned > 0
        folded += (turned < 0) | (turned > 1)
    inside = votes >= 2
    return inside, float((folded >= 2).sum()) / max(1, int(inside.sum()))
