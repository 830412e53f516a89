"""A multigrid cycle for Laplace's equation in a mask: the preconditioner of its conjugate gradients."""

from __future__ import annotations

import torch

from qsmprep.core.multiresolution import block_mean

DAMPING = 0.8
"""Of the Jacobi steps."""
SMOOTHING = 2
"""Jacobi steps before and after the visit to the coarser grid."""
LAST = 20
"""Jacobi steps on the coarsest grid."""
FEWEST = 200
"""Voxels below which a grid is not made coarser."""


def negative_laplacian(volume: torch.Tensor, voxel_mm: tuple[float, ...]) -> torch.Tensor:
    """Minus the 7-point Laplacian in 1/mm^2, with zeros beyond the volume.

    Parameters
    ----------
    volume : (nx, ny, nz) torch.Tensor
    voxel_mm : (3,) tuple of float
    """
    result = volume * sum(2.0 / mm**2 for mm in voxel_mm)
    for axis, mm in enumerate(voxel_mm):
        n = volume.shape[axis]
        if n > 1:
            result.narrow(axis, 1, n - 1).sub_(volume.narrow(axis, 0, n - 1), alpha=1 / mm**2)
            result.narrow(axis, 0, n - 1).sub_(volume.narrow(axis, 1, n - 1), alpha=1 / mm**2)
    return result


class Multigrid:
    """One V-cycle, which is symmetric and positive definite.

    Voxels are joined in pairs along the axes that are not much longer than the shortest, so that anisotropic voxels
    become isotropic on the coarser grids.

    Parameters
    ----------
    keep : (nx, ny, nz) torch.Tensor
        1 where the equation holds, 0 where values are fixed; float32.
    voxel_mm : (3,) tuple of float

    References
    ----------
    .. [1] Tatebe, The multigrid preconditioned conjugate gradient method, NASA CP 3224, 621 (1993)
    """

    def __init__(self, keep: torch.Tensor, voxel_mm: tuple[float, ...]) -> None:
        self.keep, self.voxel_mm = keep, voxel_mm
        self.step = keep * (DAMPING / sum(2.0 / mm**2 for mm in voxel_mm))
        long = [mm for n, mm in zip(keep.shape, voxel_mm, strict=True) if n > 1]
        short = 1.5 * min(long, default=0.0)
        self.factors = tuple(2 if n > 1 and mm < short else 1 for n, mm in zip(keep.shape, voxel_mm, strict=True))
        self.coarser: Multigrid | None = None
        if max(self.factors) > 1 and float(keep.sum()) > FEWEST:
            inside = (block_mean(keep, self.factors) >= 0.5).to(keep.dtype)
            sizes = tuple(mm * factor for mm, factor in zip(voxel_mm, self.factors, strict=True))
            self.coarser = Multigrid(inside, sizes) if bool(inside.any()) else None

    def operator(self, volume: torch.Tensor) -> torch.Tensor:
        """Minus the Laplacian where the equation holds."""
        return negative_laplacian(volume, self.voxel_mm).mul_(self.keep)

    def __call__(self, residual: torch.Tensor) -> torch.Tensor:
        """Approximate solution for a residual (zero where values are fixed)."""
        volume = residual * self.step
        self._smooth(volume, residual, (LAST if self.coarser is None else SMOOTHING) - 1)
        if self.coarser is not None:
            rest = block_mean(residual - self.operator(volume), self.factors).mul_(self.coarser.keep)
            volume += self._spread(self.coarser(rest))
            self._smooth(volume, residual, SMOOTHING)
        return volume

    def _smooth(self, volume: torch.Tensor, residual: torch.Tensor, steps: int) -> None:
        """Damped Jacobi steps, in place."""
        for _ in range(steps):
            change = self.operator(volume).neg_().add_(residual)
            volume.addcmul_(self.step, change)

    def _spread(self, blocks: torch.Tensor) -> torch.Tensor:
        """Every block's value in all of its voxels where the equation holds."""
        for axis, factor in enumerate(self.factors):
            blocks = blocks.repeat_interleave(factor, axis) if factor > 1 else blocks
        nx, ny, nz = self.keep.shape
        return blocks[:nx, :ny, :nz] * self.keep
