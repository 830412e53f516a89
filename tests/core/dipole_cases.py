"""Shapes and moves that the tests of the dipole room share."""

from __future__ import annotations

import itertools

import numpy as np

from qsmprep.core.dipole import forward_field
from qsmprep.core.grid import Grid

MOVES = [(order, signs) for order in itertools.permutations(range(3)) for signs in itertools.product((1, -1), repeat=3)]
"""The 48 ways to order and flip the axes of an array."""


def move(volume: np.ndarray, order: tuple[int, ...], signs: tuple[int, ...]) -> np.ndarray:
    """Permute, then flip: axis ``i`` of the result is axis ``order[i]`` of the volume."""
    flips = tuple(slice(None, None, sign) for sign in signs)
    return np.ascontiguousarray(np.transpose(volume, order)[flips])


def move_back(volume: np.ndarray, order: tuple[int, ...], signs: tuple[int, ...]) -> np.ndarray:
    """Undo :func:`move`."""
    flips = tuple(slice(None, None, sign) for sign in signs)
    return np.ascontiguousarray(np.transpose(volume[flips], np.argsort(order)))


def move_grid(grid: Grid, order: tuple[int, ...], signs: tuple[int, ...]) -> Grid:
    """The grid seen along with a moved volume."""
    shape, voxel, b0 = (tuple(part[a] for a in order) for part in (grid.shape, grid.voxel_mm, grid.b0_dir))
    return Grid(shape, voxel, tuple(s * c for s, c in zip(signs, b0, strict=True)))


def positions_mm(grid: Grid) -> np.ndarray:
    """Voxel centres in mm from the middle of the volume, (3, nx, ny, nz)."""
    lines = [(np.arange(n) - (n - 1) / 2) * mm for n, mm in zip(grid.shape, grid.voxel_mm, strict=True)]
    return np.stack(np.meshgrid(*lines, indexing="ij"))


def supersampled(grid: Grid, inside, factor: int = 5) -> np.ndarray:
    """Share of every voxel for which ``inside(positions_mm)`` is true."""
    offsets = (np.arange(factor) + 0.5) / factor - 0.5
    centres, total = positions_mm(grid), np.zeros(grid.shape)
    for steps in itertools.product(offsets, repeat=3):
        shift = np.array([s * mm for s, mm in zip(steps, grid.voxel_mm, strict=True)])
        total += inside(centres + shift[:, None, None, None])
    return total / factor**3


def ellipsoid(grid: Grid, centre_mm, radii_mm) -> np.ndarray:
    """Voxels whose centre lies in an ellipsoid along the axes."""
    place = positions_mm(grid) - np.reshape(centre_mm, (3, 1, 1, 1))
    return np.sum((place / np.reshape(radii_mm, (3, 1, 1, 1))) ** 2, axis=0) <= 1.0


def head(grid: Grid, seed: int = 0, noise_ppm: float = 0.002) -> tuple[np.ndarray, ...]:
    """A small head with nuclei, a vein and a lesion: field_ppm, mask, chi_ppm, magnitude."""
    rng = np.random.default_rng(seed)
    size = np.array([n * mm for n, mm in zip(grid.shape, grid.voxel_mm, strict=True)])
    mask = ellipsoid(grid, (0, 0, 0), 0.42 * size)
    chi = np.where(ellipsoid(grid, 0.04 * size, 0.3 * size), -0.03, 0.02)
    for _ in range(7):
        part = ellipsoid(grid, rng.uniform(-0.22, 0.22, 3) * size, rng.uniform(0.05, 0.13, 3) * size)
        chi[part] = rng.uniform(0.04, 0.16)
    chi[ellipsoid(grid, (0.1, -0.1, 0.12) * size, 0.06 * size)] = -0.25
    magnitude = (1.0 + 3.0 * chi) * mask
    chi = (chi * mask).astype(np.float32)
    field = forward_field(chi, grid) + rng.normal(0.0, noise_ppm, grid.shape)
    return (field * mask).astype(np.float32), mask, chi, magnitude.astype(np.float32)


def nrmse(chi: np.ndarray, truth: np.ndarray, mask: np.ndarray) -> float:
    """Demeaned error over demeaned truth in the mask."""
    x, t = chi[mask] - chi[mask].mean(), truth[mask] - truth[mask].mean()
    return float(np.linalg.norm(x - t) / np.linalg.norm(t))
