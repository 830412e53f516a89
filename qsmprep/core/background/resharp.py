"""RESHARP: the spherical-mean-value property in the least-squares sense, with a Tikhonov term."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from qsmprep.core.background.cg import conjugate_gradients
from qsmprep.core.background.common import nonempty, prepare
from qsmprep.core.background.smv import apply_spectrum, smv_kernel
from qsmprep.core.dipole import padded_shape
from qsmprep.core.grid import Grid
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
    :math:`\|M (\delta - S)(f - F)\|^2 + \lambda \|W f\|^2`, where :math:`F` is the total field,
    :math:`S` the spherical mean and :math:`M` the voxels whose sphere lies in the mask. In other
    words, the background :math:`F - f` is to be harmonic and to explain as much of :math:`F` as it
    can. Weights therefore belong in the second term: a voxel of weight zero says nothing about
    the background, and its error does not spread to the spheres it lies in.

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
        Valid where the sphere lies in the mask.

    Raises
    ------
    DataError
        For inputs that do not fit together, or a mask thinner than the sphere.

    References
    ----------
    .. [1] Sun and Wilman, Magn. Reson. Med. 71:1151 (2014), doi:10.1002/mrm.24765
    """
    problem = prepare(field_ppm, mask, grid, weights, device)
    kept = nonempty(problem.eroded(params.radius_mm), params.radius_mm)
    shape = padded_shape(problem.grid.shape, 1.0)
    high_pass = 1 - smv_kernel(problem.grid.with_shape(shape), params.radius_mm, device=device)
    keep = kept.to(torch.float32)
    penalty = params.tikhonov * (1.0 if problem.weights is None else problem.weights**2)

    def normal(volume: torch.Tensor) -> torch.Tensor:
        return apply_spectrum(keep * apply_spectrum(volume, high_pass, shape), high_pass, shape)

    solution = conjugate_gradients(
        lambda volume: normal(volume) + penalty * volume,
        normal(problem.field),
        tolerance=params.tolerance,
        max_iter=params.max_iter,
    )
    return problem.finish(solution.x, kept, solution.info(params.tolerance))
