"""PDF: the background as the field of dipoles outside the mask."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from qsmprep.core.background.cg import conjugate_gradients
from qsmprep.core.background.common import prepare
from qsmprep.core.dipole import dipole_kernel, padded_shape
from qsmprep.core.grid import Grid
from qsmprep.core.parameters import PdfParams
from qsmprep.core.results import LocalField


def pdf(
    field_ppm: NDArray[np.floating],
    mask: NDArray[np.bool_],
    grid: Grid,
    params: PdfParams,
    *,
    weights: NDArray[np.floating] | None = None,
    device: str = "cpu",
) -> LocalField:
    r"""Remove background fields by projection onto dipole fields.

    Finds sources :math:`\chi` outside the mask that minimise
    :math:`\|W (F - D \chi)\|^2 + \lambda \|\chi\|^2`, and subtracts their field. The Tikhonov term
    keeps errors of single voxels from being explained by strong sources just outside the mask.
    Sources may lie anywhere outside the mask in a periodic domain that is larger than its bounding
    box by ``padding_mm`` on each side; their periodic images lie outside the mask too, so they are
    harmonic in it and do no harm. The direction of B0 is that of ``grid``. The equations are so badly
    conditioned that rounding in single precision would change the answer by a part in a thousand from device to
    device; double precision is used.

    Parameters
    ----------
    field_ppm : (nx, ny, nz) array
        Total field (the method is linear: the unit passes through).
    mask : (nx, ny, nz) bool array
    grid : Grid
    params : PdfParams
    weights : (nx, ny, nz) array, optional
        Relative reliability of the field; None counts every voxel alike.
    device : str
        Torch device.

    Returns
    -------
    LocalField
        Valid in the whole mask; errors are largest at its border.

    Raises
    ------
    DataError
        For inputs that do not fit together.

    References
    ----------
    .. [1] Liu et al., NMR Biomed. 24:1129 (2011), doi:10.1002/nbm.1670
    """
    problem = prepare(field_ppm, mask, grid, weights, device)
    nx, ny, nz = problem.grid.shape
    margin = [int(np.ceil(2 * params.padding_mm / mm)) for mm in grid.voxel_mm]
    shape = padded_shape((nx + margin[0], ny + margin[1], nz + margin[2]), 1.0)
    kernel = dipole_kernel(problem.grid.with_shape(shape), device=device, dtype=torch.float64)
    outside = torch.ones(shape, dtype=torch.bool, device=device)
    outside[:nx, :ny, :nz] = ~problem.mask
    squared = (problem.mask if problem.weights is None else problem.weights**2).to(torch.float64)

    def to_field(chi: torch.Tensor) -> torch.Tensor:
        return torch.fft.irfftn(torch.fft.rfftn(chi).mul_(kernel), s=shape)[:nx, :ny, :nz]

    def to_sources(field: torch.Tensor) -> torch.Tensor:
        spectrum = torch.fft.rfftn(squared * field, s=shape)
        return torch.fft.irfftn(spectrum.mul_(kernel), s=shape).mul_(outside)

    solution = conjugate_gradients(
        lambda chi: to_sources(to_field(chi)).add_(chi, alpha=params.tikhonov),
        to_sources(problem.field.to(torch.float64)),
        tolerance=params.tolerance,
        max_iter=params.max_iter,
    )
    local = problem.field - to_field(solution.x)
    return problem.finish(local, problem.mask, solution.info(params.tolerance))
