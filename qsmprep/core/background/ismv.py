"""iSMV: the background as the fixed point of the spherical mean."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from qsmprep.core.background.cg import conjugate_gradients
from qsmprep.core.background.common import nonempty, prepare
from qsmprep.core.background.smv import apply_spectrum, at_least_one_voxel, smv_kernel
from qsmprep.core.dipole import padded_shape
from qsmprep.core.grid import Grid
from qsmprep.core.parameters import IsmvParams
from qsmprep.core.results import LocalField


def ismv(
    field_ppm: NDArray[np.floating],
    mask: NDArray[np.bool_],
    grid: Grid,
    params: IsmvParams,
    *,
    weights: NDArray[np.floating] | None = None,
    device: str = "cpu",
) -> LocalField:
    r"""Remove background fields with the iterated spherical mean value.

    The published iteration replaces the background by its spherical mean wherever the sphere lies
    in the mask, and holds it at the total field in the rim. Its fixed point solves
    :math:`(1 - M S M) b = M S F_{rim}`, a symmetric system, so conjugate gradients reach it in far
    fewer steps than the iteration does.

    Parameters
    ----------
    field_ppm : (nx, ny, nz) array
        Total field (the method is linear: the unit passes through).
    mask : (nx, ny, nz) bool array
    grid : Grid
    params : IsmvParams
    weights : (nx, ny, nz) array, optional
        Checked but not used: the field of the rim is taken at its word.
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
    .. [1] Wen et al., Magn. Reson. Med. 72:1065 (2014), doi:10.1002/mrm.24998
    """
    problem = prepare(field_ppm, mask, grid, weights, device)
    radius_mm = at_least_one_voxel(params.radius_mm, grid.voxel_mm)
    kept = nonempty(problem.eroded(radius_mm), radius_mm)
    shape = padded_shape(problem.grid.shape, 1.0)
    mean = smv_kernel(problem.grid.with_shape(shape), radius_mm, device=device)
    keep = kept.to(torch.float32)
    rim = problem.field * (1 - keep)
    solution = conjugate_gradients(
        lambda volume: volume - keep * apply_spectrum(volume, mean, shape),
        keep * apply_spectrum(rim, mean, shape),
        tolerance=params.tolerance,
        max_iter=params.max_iter,
    )
    return problem.finish(
        problem.field - solution.x, kept, {"radii_mm": [radius_mm], **solution.info(params.tolerance)}
    )
