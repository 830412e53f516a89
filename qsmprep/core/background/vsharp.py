"""SHARP and V-SHARP: subtract the spherical mean and deconvolve what that did to the local field."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from qsmprep.core.background.common import Problem, nonempty, prepare
from qsmprep.core.background.smv import apply_spectrum, smv_kernel
from qsmprep.core.dipole import padded_shape
from qsmprep.core.grid import Grid
from qsmprep.core.parameters import VSharpParams
from qsmprep.core.results import LocalField


def kernel_radii(params: VSharpParams, voxel_mm: tuple[float, float, float]) -> tuple[float, ...]:
    """Radii in mm from the largest to the smallest, none below the longest voxel edge.

    Parameters
    ----------
    params : VSharpParams
    voxel_mm : (3,) tuple of float

    Returns
    -------
    tuple of float
        Spaced by the wanted step, or by the shortest voxel edge where that is longer (a finer
        step would give the same spheres again).
    """
    smallest = max(params.radius_min_mm, *voxel_mm)
    step = max(params.radius_step_mm, min(voxel_mm))
    count = int(np.floor((params.radius_max_mm - smallest) / step + 1e-6))
    radii = [params.radius_max_mm - i * step for i in range(max(count, 0) + 1)]
    if params.radius_max_mm < smallest:
        return (smallest,)
    if radii[-1] > smallest * (1 + 1e-6):
        radii.append(smallest)
    return tuple(radii)


def subtract_spherical_means(problem: Problem, radii_mm: tuple[float, ...]) -> tuple[torch.Tensor, torch.Tensor, float]:
    """Field minus its mean over the largest of the spheres that fits into the mask.

    Parameters
    ----------
    problem : Problem
    radii_mm : tuple of float
        From the largest to the smallest.

    Returns
    -------
    filtered : (nx, ny, nz) float32 torch.Tensor
    mask : (nx, ny, nz) bool torch.Tensor
        Where at least the smallest sphere fits.
    used_mm : float
        The largest radius that fitted anywhere.

    Raises
    ------
    DataError
        When not even the smallest sphere fits anywhere.
    """
    shape = padded_shape(problem.grid.shape, 1.0)
    grid = problem.grid.with_shape(shape)
    nx, ny, nz = problem.field.shape
    spectrum = torch.fft.rfftn(problem.field, s=shape)
    filtered = torch.zeros_like(problem.field)
    done = torch.zeros_like(problem.mask)
    used_mm = 0.0
    for radius_mm in radii_mm:
        fresh = problem.eroded(radius_mm) & ~done
        if not bool(fresh.any()):
            continue
        used_mm = max(used_mm, radius_mm)
        kernel = smv_kernel(grid, radius_mm, device=problem.field.device)
        means = torch.fft.irfftn(spectrum * kernel, s=shape)[:nx, :ny, :nz]
        filtered[fresh] = (problem.field - means)[fresh]
        done |= fresh
    return filtered, nonempty(done, radii_mm[-1]), used_mm


def deconvolve(
    filtered: torch.Tensor, mask: torch.Tensor, grid: Grid, radius_mm: float, threshold: float
) -> torch.Tensor:
    """Undo the high-pass filter of one sphere, leaving out frequencies it passes by less than ``threshold``.

    Parameters
    ----------
    filtered : (nx, ny, nz) torch.Tensor
    mask : (nx, ny, nz) bool torch.Tensor
    grid : Grid
        Of ``filtered``.
    radius_mm : float
    threshold : float
        On the transfer function, 0 to 1.
    """
    reach = [2 * int(np.ceil(radius_mm / mm)) for mm in grid.voxel_mm]
    shape = padded_shape(tuple(n + r for n, r in zip(grid.shape, reach, strict=True)), 1.0)
    high_pass = 1 - smv_kernel(grid.with_shape(shape), radius_mm, device=filtered.device)
    inverse = torch.where(high_pass.abs() > threshold, 1 / high_pass, torch.zeros_like(high_pass))
    inverse[0, 0, 0] = 0.0
    return apply_spectrum(filtered * mask, inverse, shape)


def vsharp(
    field_ppm: NDArray[np.floating],
    mask: NDArray[np.bool_],
    grid: Grid,
    params: VSharpParams,
    *,
    weights: NDArray[np.floating] | None = None,
    device: str = "cpu",
) -> LocalField:
    """Remove background fields with V-SHARP.

    Each voxel takes the largest sphere that fits into the mask; the sum is deconvolved with the
    largest sphere, truncated where its transfer function is small.

    Parameters
    ----------
    field_ppm : (nx, ny, nz) array
        Total field (the method is linear: the unit passes through).
    mask : (nx, ny, nz) bool array
    grid : Grid
    params : VSharpParams
    weights : (nx, ny, nz) array, optional
        Checked but not used: a spherical mean has no place for them.
    device : str
        Torch device.

    Returns
    -------
    LocalField
        Valid where the smallest sphere lies in the mask.

    Raises
    ------
    DataError
        For inputs that do not fit together, or a mask thinner than the smallest sphere.

    References
    ----------
    .. [1] Schweser et al., NeuroImage 54:2789 (2011), doi:10.1016/j.neuroimage.2010.10.070
    .. [2] Wu et al., Magn. Reson. Med. 67:137 (2012), doi:10.1002/mrm.23000
    """
    problem = prepare(field_ppm, mask, grid, weights, device)
    radii = kernel_radii(params, grid.voxel_mm)
    filtered, kept, used_mm = subtract_spherical_means(problem, radii)
    local = deconvolve(filtered, kept, problem.grid, used_mm, params.threshold)
    return problem.finish(local, kept, {"radii_mm": list(radii), "deconvolution_radius_mm": used_mm})
