"""A small head in air for the tests of background field removal."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from dipole_cases import ellipsoid

from qsmprep.core.dipole import forward_field
from qsmprep.core.grid import Grid

AIR_PPM = 9.4


@dataclass(frozen=True)
class MiniHead:
    """Field of sources outside and inside the brain, in ppm, and the brain mask."""

    grid: Grid
    mask: np.ndarray
    background_ppm: np.ndarray
    local_ppm: np.ndarray

    @property
    def total_ppm(self) -> np.ndarray:
        return self.background_ppm + self.local_ppm


def _average(volume: np.ndarray, factor: int) -> np.ndarray:
    nx, ny, nz = (n // factor for n in volume.shape)
    return volume.reshape(nx, factor, ny, factor, nz, factor).mean(axis=(1, 3, 5))


def _shim(background: np.ndarray, mask: np.ndarray, grid: Grid) -> np.ndarray:
    """Take out the solid harmonics up to order 2 that fit best in the brain, as a shim does."""
    lines = [(np.arange(n) - n / 2) * mm / 60 for n, mm in zip(grid.shape, grid.voxel_mm, strict=True)]
    x, y, z = np.meshgrid(*lines, indexing="ij")
    terms = np.stack([np.ones(grid.shape), x, y, z, x * y, y * z, z * x, x**2 - y**2, 2 * z**2 - x**2 - y**2], axis=-1)
    fit, *_ = np.linalg.lstsq(terms[mask], background[mask], rcond=None)
    return background - terms @ fit


def mini_head(
    shape=(36, 42, 36), voxel_mm=(3.0, 3.0, 3.0), b0_dir=(0.0, 0.0, 1.0), *, sinus=1.0, seed=0, factor=2
) -> MiniHead:
    """A brain with nuclei and veins, in a head with air cavities, in air.

    Fields are computed on a grid ``factor`` times finer and averaged over each voxel.
    """
    rng = np.random.default_rng(seed)
    fine = Grid(tuple(n * factor for n in shape), tuple(mm / factor for mm in voxel_mm), b0_dir)
    size = np.array(shape) * np.array(voxel_mm)
    brain = ellipsoid(fine, (0, 0, 0), 0.37 * size)
    tissue = ellipsoid(fine, (0, 0, 0), 0.46 * size)
    for place, radii in (((0, 0.33, -0.27), (0.1, 0.08, 0.09)), ((-0.32, -0.08, -0.25), (0.07, 0.08, 0.07))):
        tissue &= ~ellipsoid(fine, np.array(place) * size, sinus * np.array(radii) * size) | brain
    chi = np.where(ellipsoid(fine, (0, 0, 0), 0.28 * size), -0.03, 0.0)
    for _ in range(8):
        chi[ellipsoid(fine, rng.uniform(-0.17, 0.17, 3) * size, rng.uniform(3, 9, 3))] = rng.choice([0.05, 0.1, 0.2])
    for _ in range(4):
        chi[ellipsoid(fine, rng.uniform(-0.2, 0.2, 3) * size, rng.permutation([2.5, 2.5, 20.0]))] = 0.3
    local = _average(forward_field(np.where(brain, chi, 0), fine), factor)
    background = _average(forward_field(np.where(tissue, -AIR_PPM, 0), fine), factor)
    grid = Grid(tuple(shape), tuple(voxel_mm), b0_dir)
    mask = _average(brain.astype(float), factor) == 1
    return MiniHead(grid, mask, _shim(background, mask, grid), local)


def random_head(shape=(20, 24, 22), voxel_mm=(1.7, 2.0, 2.6), b0_dir=(0.2, -0.3, 0.93), seed=1) -> MiniHead:
    """A mask that no flip maps onto itself, with smooth and rough random fields."""
    rng = np.random.default_rng(seed)
    grid = Grid(shape, voxel_mm, b0_dir)
    size = np.array(shape) * np.array(voxel_mm)
    mask = ellipsoid(grid, 0.03 * size, 0.42 * size) & ~ellipsoid(grid, 0.25 * size, (4, 5, 6))
    outside = np.where(mask, 0, rng.normal(0, 1, shape))
    inside = np.where(mask, rng.normal(0, 0.05, shape), 0)
    return MiniHead(grid, mask, forward_field(outside, grid), forward_field(inside, grid))


def nrmse(field: np.ndarray, truth: np.ndarray, mask: np.ndarray) -> float:
    """Demeaned error over demeaned truth in the mask."""
    x, t = field[mask] - field[mask].mean(), truth[mask] - truth[mask].mean()
    return float(np.linalg.norm(x - t) / np.linalg.norm(t))


def slope(field: np.ndarray, truth: np.ndarray, mask: np.ndarray) -> float:
    """Regression of the field on the truth in the mask."""
    return float(np.polyfit(truth[mask].astype(float), field[mask].astype(float), 1)[0])
