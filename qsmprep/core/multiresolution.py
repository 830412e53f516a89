"""From small voxels to larger ones and back: what starts an iteration where it is cheap."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as functional

from qsmprep.core.dipole import padded_shape
from qsmprep.core.grid import Grid

FEWEST = 32
"""Voxels along an axis below which they are not joined."""
SLACK = 1e-3
"""Relative slack of the largest voxel, since headers round."""


def joined(grid: Grid, largest_mm: float) -> tuple[int, int, int]:
    """How many voxels one step to larger ones joins along each axis: two, or one where the edge would be too long.

    Parameters
    ----------
    grid : Grid
    largest_mm : float
        Longest edge of a joined voxel.
    """
    fits = [n >= FEWEST and 2 * mm <= largest_mm * (1 + SLACK) for n, mm in zip(grid.shape, grid.voxel_mm, strict=True)]
    return (1 + fits[0], 1 + fits[1], 1 + fits[2])


def join(grid: Grid, factors: Sequence[int]) -> Grid:
    """The grid of joined voxels; where a length is odd, the last voxel lies half beyond it."""
    nx, ny, nz = (-(-n // factor) for n, factor in zip(grid.shape, factors, strict=True))
    dx, dy, dz = (mm * factor for mm, factor in zip(grid.voxel_mm, factors, strict=True))
    return Grid((nx, ny, nz), (dx, dy, dz), grid.b0_dir)


def divisible_shape(grid: Grid, needed: Sequence[int], largest_mm: float) -> tuple[int, int, int]:
    """Fast even lengths, at least those needed, that stay so at every step to larger voxels.

    Parameters
    ----------
    grid : Grid
        Its voxels are joined while :func:`joined` does.
    needed : (3,) sequence of int
    largest_mm : float
    """
    times = [1, 1, 1]
    while max(factors := joined(grid, largest_mm)) > 1:
        times = [before * factor for before, factor in zip(times, factors, strict=True)]
        grid = join(grid, factors)
    nx, ny, nz = padded_shape(tuple(-(-n // by) for n, by in zip(needed, times, strict=True)), 1.0)
    return (nx * times[0], ny * times[1], nz * times[2])


def block_mean(volume: torch.Tensor, factors: Sequence[int]) -> torch.Tensor:
    """Mean over the voxels that are joined; zero counts beyond the volume."""
    more = [side for n, by in zip(volume.shape[::-1], factors[::-1], strict=True) for side in (0, n % by)]
    return functional.avg_pool3d(functional.pad(volume, more)[None], tuple(factors))[0]


def interpolate(volume: torch.Tensor, factors: Sequence[int], periodic: bool = True) -> torch.Tensor:
    """A volume on voxels that ``factors`` times fit into one of its own, trilinear between their centres.

    Beyond its borders it goes on from the other side, or else as on the border.
    """
    wrapped = functional.pad(volume[None, None], (1,) * 6, mode="circular" if periodic else "replicate")
    finer = functional.interpolate(wrapped, scale_factor=[float(by) for by in factors], mode="trilinear")
    return finer[0, 0][tuple(slice(by, -by) for by in factors)]
