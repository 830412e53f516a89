"""LBV: the background as the harmonic function with the field's values on the border of the mask."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from qsmprep.core.background.cg import Solution, conjugate_gradients
from qsmprep.core.background.common import Problem, nonempty, prepare
from qsmprep.core.background.multigrid import Multigrid
from qsmprep.core.grid import Grid
from qsmprep.core.parameters import LbvParams
from qsmprep.core.results import LocalField


def lbv(
    field_ppm: NDArray[np.floating],
    mask: NDArray[np.bool_],
    grid: Grid,
    params: LbvParams,
    *,
    weights: NDArray[np.floating] | None = None,
    device: str = "cpu",
) -> LocalField:
    """Remove background fields by solving Laplace's equation in the mask.

    The background is set to the total field on the border of the mask (after ``peel_mm`` of it are
    taken off) and is harmonic inside. The system is solved by conjugate gradients
    with a multigrid preconditioner.

    Parameters
    ----------
    field_ppm : (nx, ny, nz) array
        Total field (the method is linear: the unit passes through).
    mask : (nx, ny, nz) bool array
    grid : Grid
    params : LbvParams
    weights : (nx, ny, nz) array, optional
        Checked but not used: the field of the border is taken at its word.
    device : str
        Torch device.

    Returns
    -------
    LocalField
        Valid within the border, which itself is left out (its local field is zero by definition).

    Raises
    ------
    DataError
        For inputs that do not fit together, or a mask with nothing within its border.

    References
    ----------
    .. [1] Zhou et al., NMR Biomed. 27:312 (2014), doi:10.1002/nbm.3064
    """
    problem = prepare(field_ppm, mask, grid, weights, device)
    kept, solution = harmonic_inside(problem, params)
    return problem.finish(problem.field - solution.x, kept, solution.info(params.tolerance))


def harmonic_inside(problem: Problem, params: LbvParams) -> tuple[torch.Tensor, Solution]:
    """The harmonic function within the border of the mask that has the field's values on the border.

    Parameters
    ----------
    problem : Problem
    params : LbvParams

    Returns
    -------
    kept : (nx, ny, nz) bool torch.Tensor
        The mask without its border.
    solution : Solution
        The harmonic function in ``kept``, in the unit of the field; zero elsewhere.

    Raises
    ------
    DataError
        For a mask with nothing within its border.
    """
    voxel_mm = problem.grid.voxel_mm
    peeled = problem.mask
    if params.peel_mm > 0:
        peeled = problem.eroded(params.peel_mm)
    kept = nonempty(_neighbours(peeled), params.peel_mm + max(voxel_mm))
    grid = Multigrid(kept.to(torch.float32), voxel_mm)
    border = torch.where(kept, torch.zeros_like(problem.field), problem.field)
    solution = conjugate_gradients(
        grid.operator, -grid.operator(border), tolerance=params.tolerance, max_iter=params.max_iter, precondition=grid
    )
    return kept, solution


def _neighbours(mask: torch.Tensor) -> torch.Tensor:
    """Voxels that lie in the mask with all six neighbours."""
    padded = torch.nn.functional.pad(mask, (1, 1, 1, 1, 1, 1))
    result = mask.clone()
    for axis, n in enumerate(mask.shape):
        others = [slice(1, -1)] * 3
        for start in (0, 2):
            others[axis] = slice(start, start + n)
            result &= padded[tuple(others)]
    return result
