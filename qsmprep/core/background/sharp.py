"""SHARP: one sphere, one truncated deconvolution."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from qsmprep.core.background.common import prepare
from qsmprep.core.background.smv import at_least_one_voxel
from qsmprep.core.background.vsharp import deconvolve, subtract_spherical_means
from qsmprep.core.grid import Grid
from qsmprep.core.parameters import SharpParams
from qsmprep.core.results import LocalField


def sharp(
    field_ppm: NDArray[np.floating],
    mask: NDArray[np.bool_],
    grid: Grid,
    params: SharpParams,
    *,
    weights: NDArray[np.floating] | None = None,
    device: str = "cpu",
) -> LocalField:
    """Remove background fields with SHARP.

    Parameters
    ----------
    field_ppm : (nx, ny, nz) array
        Total field (the method is linear: the unit passes through).
    mask : (nx, ny, nz) bool array
    grid : Grid
    params : SharpParams
    weights : (nx, ny, nz) array, optional
        Checked but not used: a spherical mean has no place for them.
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
    .. [1] Schweser et al., NeuroImage 54:2789 (2011), doi:10.1016/j.neuroimage.2010.10.070
    """
    problem = prepare(field_ppm, mask, grid, weights, device)
    radius_mm = at_least_one_voxel(params.radius_mm, grid.voxel_mm)
    filtered, kept, _ = subtract_spherical_means(problem, (radius_mm,))
    local = deconvolve(filtered, kept, problem.grid, radius_mm, params.threshold)
    return problem.finish(local, kept, {"radii_mm": [radius_mm]})
