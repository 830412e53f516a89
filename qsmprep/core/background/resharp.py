"""RESHARP: the spherical-mean-value property in the least-squares sense, with a Tikhonov term."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from qsmprep.core.background.cg import conjugate_gradients
from qsmprep.core.background.common import Problem, nonempty, prepare
from qsmprep.core.background.smv import at_least_one_voxel, smv_kernel
from qsmprep.core.dipole import padded_shape
from qsmprep.core.grid import Grid
from qsmprep.core.masking.morphology import RADIUS_TOLERANCE
from qsmprep.core.parameters import ResharpParams
from qsmprep.core.results import LocalField


def resharp(
    field_ppm: NDArray[np.floating],
    mask: NDArray[np.bool_],
    grid: Grid,
    params: ResharpParams,
    *,
    weights: NDArray[np.floating] | None = None,
    device: str = "cpu",
) -> LocalField:
    r"""Remove background fields with RESHARP.

    Finds the local field :math:`f` that minimises
    :math:`\sum_r \|M_r (\delta - S_r)(f - F)\|^2 + \lambda \|W f\|^2`, where :math:`F` is
    the total field, :math:`S_r` the mean over a sphere of radius :math:`r` and :math:`M_r` the voxels
    whose sphere lies in the mask. In other words, the background :math:`F - f` is to be harmonic
    and to explain as much of :math:`F` as it can. Weights therefore belong in the second term: a
    voxel of weight zero says nothing about the background, and its error does not spread to the
    spheres it lies in. (Isolated large errors dominate the norm by which the iteration stops, so
    this takes a tolerance of 1e-4 or less; leaving such voxels out of the mask is quicker.)

    One radius is the published method. The default adds doubled radii: the smallest decides how
    much of the mask is kept, and the larger ones, which fit deeper inside only, make the slow
    components converge (in 20 to 45 instead of about 200 iterations).

    Parameters
    ----------
    field_ppm : (nx, ny, nz) array
        Total field (the method is linear: the unit passes through).
    mask : (nx, ny, nz) bool array
    grid : Grid
    params : ResharpParams
    weights : (nx, ny, nz) array, optional
        Relative reliability of the field; None counts every voxel alike.
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
    .. [1] Sun and Wilman, Magn. Reson. Med. 71:1151 (2014), doi:10.1002/mrm.24765
    """
    problem = prepare(field_ppm, mask, grid, weights, device)
    spheres = _Spheres(problem, nested_radii(params, grid.voxel_mm))
    penalty = params.tikhonov * (1.0 if problem.weights is None else problem.weights**2)
    solution = conjugate_gradients(
        lambda volume: spheres.normal(volume) + penalty * volume,
        spheres.normal(problem.field),
        tolerance=params.tolerance,
        max_iter=params.max_iter,
    )
    info = {"radii_mm": list(spheres.radii_mm), **solution.info(params.tolerance)}
    return problem.finish(solution.x, spheres.kept, info)


def nested_radii(params: ResharpParams, voxel_mm: tuple[float, float, float]) -> tuple[float, ...]:
    """Radii in mm: the smallest (one voxel at least), doubled as long as it does not exceed the largest.

    Parameters
    ----------
    params : ResharpParams
    voxel_mm : (3,) tuple of float
    """
    radii = [at_least_one_voxel(params.radius_mm, voxel_mm)]
    while 2 * radii[-1] <= params.radius_max_mm * (1 + RADIUS_TOLERANCE):
        radii.append(2 * radii[-1])
    return tuple(radii)


class _Spheres:
    """The voxel minus its spherical mean, for several radii, each where its sphere lies in the mask."""

    def __init__(self, problem: Problem, radii_mm: tuple[float, ...]) -> None:
        self.mask = problem.mask
        self.kept = nonempty(problem.eroded(radii_mm[0]), radii_mm[0])
        eroded = {radius_mm: problem.eroded(radius_mm) for radius_mm in radii_mm}
        self.radii_mm = tuple(radius_mm for radius_mm, inside in eroded.items() if bool(inside.any()))
        self.inside = [eroded[radius_mm].to(torch.float32) for radius_mm in self.radii_mm]
        self.shape = padded_shape(problem.grid.shape, 1.0)
        self.grid = problem.grid.with_shape(self.shape)
        self.device = problem.field.device
        self.high_pass = [1 - smv_kernel(self.grid, radius_mm, device=self.device) for radius_mm in self.radii_mm]

    def normal(self, volume: torch.Tensor) -> torch.Tensor:
        """The normal operator. Spheres lie in the mask, so no padding is needed beyond its bounding box."""
        nx, ny, nz = volume.shape
        spectrum = torch.fft.rfftn(volume, s=self.shape)
        total = torch.zeros_like(spectrum)
        for high_pass, inside in zip(self.high_pass, self.inside, strict=True):
            part = inside * torch.fft.irfftn(spectrum * high_pass, s=self.shape)[:nx, :ny, :nz]
            total += torch.fft.rfftn(part, s=self.shape).mul_(high_pass)
        # The result is zero outside the mask but for rounding errors, which must not pile up.
        return torch.fft.irfftn(total, s=self.shape)[:nx, :ny, :nz] * self.mask
