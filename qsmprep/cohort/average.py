"""Mean and spread of maps on one grid, one map in memory at a time."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MIN_SHARE = 0.5
"""Least share of the maps that must be defined in a voxel."""


@dataclass(frozen=True)
class Average:
    """What :func:`average` found.

    Parameters
    ----------
    mean, sd : (nx, ny, nz) float32 array
        In the unit of the maps; zero outside ``mask``. The deviation is that of a sample (n - 1), NaN in voxels of
        the mask in which one map is defined.
    mask : (nx, ny, nz) bool array
        Where at least half of the maps are defined.
    count : (nx, ny, nz) int32 array
        Maps that are defined in each voxel.
    n_scans : int
    """

    mean: NDArray[np.float32]
    sd: NDArray[np.float32]
    mask: NDArray[np.bool_]
    count: NDArray[np.int32]
    n_scans: int


def average(volumes: Iterable[tuple[NDArray[np.floating], NDArray[np.bool_]]]) -> Average | None:
    """Mean and standard deviation over maps, each with the mask in which it is defined, in one pass.

    Parameters
    ----------
    volumes : iterable of (map, mask)
        All of one shape.

    Returns
    -------
    Average or None
        None where there is no map.

    References
    ----------
    .. [1] Welford, Technometrics 4:419 (1962), doi:10.1080/00401706.1962.10490022
    """
    mean = squares = count = None
    n_scans = 0
    for values, mask in volumes:
        if mean is None or squares is None or count is None:
            mean, squares = np.zeros(values.shape), np.zeros(values.shape)
            count = np.zeros(values.shape, np.int32)
        n_scans += 1
        count[mask] += 1
        before = np.asarray(values, np.float64)[mask] - mean[mask]
        mean[mask] += before / count[mask]
        squares[mask] += before * (values[mask] - mean[mask])
    if mean is None or squares is None or count is None:
        return None
    sd = np.where(count > 1, np.sqrt(squares / np.maximum(count - 1, 1)), np.nan)
    mask = count >= max(1, MIN_SHARE * n_scans)
    kept = (np.where(mask, volume, 0).astype(np.float32) for volume in (mean, sd))
    return Average(*kept, mask, count, n_scans)
