"""How far each voxel's field can be trusted."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from qsmprep.errors import DataError

MAX_RESIDUAL = 0.3
"""Relative residual of the echo fit above which a voxel gets no weight (consensus code, doi:10.1002/mrm.30006)."""


def reliability(
    noise_hz: NDArray[np.float32],
    residual: NDArray[np.float32],
    mask: NDArray[np.bool_],
    max_residual: float = MAX_RESIDUAL,
) -> NDArray[np.float32]:
    """Relative weights of the voxels from the noise of the field map and the misfit of the echoes.

    Parameters
    ----------
    noise_hz : (nx, ny, nz) array
        Standard deviation of the field in Hz.
    residual : (nx, ny, nz) array
        Relative residual of the echo fit, dimensionless.
    mask : (nx, ny, nz) bool array
        Voxels that count.
    max_residual : float
        Voxels above it get no weight.

    Returns
    -------
    (nx, ny, nz) float32 array
        In [0, 1]: the median noise in the mask over the voxel's noise, at most 1; zero outside the
        mask and where the noise is unknown.

    Raises
    ------
    DataError
        When the shapes differ.
    """
    if not noise_hz.shape == residual.shape == mask.shape:
        raise DataError(
            f"noise, residual and mask have shapes {noise_hz.shape}, {residual.shape} and {mask.shape}",
            expected="one shape",
        )
    inside = mask & np.isfinite(noise_hz) & (noise_hz > 0)
    weights = np.zeros(mask.shape, np.float32)
    if inside.any():
        weights[inside] = np.minimum(np.median(noise_hz[inside]) / noise_hz[inside], 1.0)
    elif mask.any():
        weights[mask] = 1.0
    weights[~(residual <= max_residual)] = 0
    return weights
