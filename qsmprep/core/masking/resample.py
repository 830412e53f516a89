"""Volumes to coarser grids and back, centre on centre, so that flips of the array change nothing."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from qsmprep.core.grid import Grid
from qsmprep.core.results import FloatVolume


def coarse_grid(grid: Grid, voxel_mm: float) -> Grid:
    """Grid over the same extent with voxels of ``voxel_mm`` along the axes that are finer than that.

    Parameters
    ----------
    grid : Grid
        The fine grid.
    voxel_mm : float
        Voxel size in mm; axes with voxels of at least that size, or that would keep their number
        of voxels, stay as they are.
    """
    shape, voxel = [], []
    for n, mm in zip(grid.shape, grid.voxel_mm, strict=True):
        fewer = math.ceil(n * mm / voxel_mm - 1e-6)
        shape.append(min(n, fewer))
        voxel.append(voxel_mm if fewer < n else mm)
    return Grid(tuple(shape), tuple(voxel), grid.b0_dir)  # type: ignore[arg-type]


def centre_shift_mm(source: Grid, target: Grid) -> NDArray[np.float64]:
    """What to add to mm from the first voxel of ``source`` for mm from the first voxel of ``target``."""
    ends = [(np.array(g.shape) - 1) / 2 * np.array(g.voxel_mm) for g in (source, target)]
    return np.asarray(ends[1] - ends[0])


def _average_weights(n: int, mm: float, n_out: int, mm_out: float) -> NDArray[np.float32]:
    """(n_out, n) share of each voxel in each coarser one; rows sum to one."""
    left = (np.arange(n) - n / 2) * mm
    left_out = (np.arange(n_out) - n_out / 2)[:, None] * mm_out
    overlap = np.minimum(left + mm, left_out + mm_out) - np.maximum(left, left_out)
    overlap = np.maximum(overlap, 0)
    return np.asarray(overlap / overlap.sum(axis=1, keepdims=True), np.float32)


def _linear_weights(n: int, mm: float, n_out: int, mm_out: float) -> NDArray[np.float32]:
    """(n_out, n) weights of linear interpolation, constant beyond the outermost centres."""
    at = (np.arange(n_out) - (n_out - 1) / 2) * mm_out / mm + (n - 1) / 2
    distance = np.abs(np.clip(at, 0, n - 1)[:, None] - np.arange(n))
    return np.maximum(1 - distance, 0).astype(np.float32)


def _apply(volume: FloatVolume, weights: list[NDArray[np.float32]]) -> FloatVolume:
    """Multiply every axis by its weights; an axis that keeps its length is left alone."""
    for axis in sorted(range(3), key=lambda a: weights[a].shape[0] / weights[a].shape[1]):
        if weights[axis].shape[0] != weights[axis].shape[1]:
            volume = np.moveaxis(np.tensordot(weights[axis], volume, (1, axis)), 0, axis)
    return np.ascontiguousarray(volume, dtype=np.float32)


def average(volume: FloatVolume, grid: Grid, target: Grid) -> FloatVolume:
    """Mean over each voxel of a coarser grid around the same centre."""
    pairs = zip(grid.shape, grid.voxel_mm, target.shape, target.voxel_mm, strict=True)
    return _apply(volume, [_average_weights(*pair) for pair in pairs])


def interpolate(volume: FloatVolume, grid: Grid, target: Grid) -> FloatVolume:
    """Linear interpolation on a finer grid around the same centre."""
    pairs = zip(grid.shape, grid.voxel_mm, target.shape, target.voxel_mm, strict=True)
    return _apply(volume, [_linear_weights(*pair) for pair in pairs])


def isotropic_grid(grid: Grid, voxel_mm: float) -> Grid:
    """Grid of cubes of ``voxel_mm`` that covers the extent of another around the same centre."""
    shape = [max(1, math.ceil(n * mm / voxel_mm - 1e-6)) for n, mm in zip(grid.shape, grid.voxel_mm, strict=True)]
    return Grid((shape[0], shape[1], shape[2]), (voxel_mm,) * 3, grid.b0_dir)


def resample(volume: FloatVolume, grid: Grid, target: Grid) -> FloatVolume:
    """On any other grid of about the same extent around the same centre: means along axes that become coarser, lines
    along the others."""
    for axis in range(3):
        n, mm, n_out, mm_out = grid.shape[axis], grid.voxel_mm[axis], target.shape[axis], target.voxel_mm[axis]
        if n == n_out and abs(mm - mm_out) < 1e-6:
            continue
        weights = (_average_weights if mm_out > mm else _linear_weights)(n, mm, n_out, mm_out)
        volume = np.moveaxis(np.tensordot(weights, volume, (1, axis)), 0, axis)
    return np.ascontiguousarray(volume, dtype=np.float32)
