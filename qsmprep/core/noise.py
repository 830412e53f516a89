"""Noise of the images: the standard deviation of the real (or imaginary) part of the signal."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from qsmprep.errors import DataError

FloatArray = NDArray[np.floating]
MIN_BACKGROUND = 1000
"""Fewest voxels of air from which noise is estimated."""
RAYLEIGH_MEDIAN = math.sqrt(2.0 * math.log(2.0))
"""Median of the Rayleigh distribution in units of its parameter."""
NORMAL_MEDIAN = 0.6744897501960817
"""Median of the modulus of a normal variable in units of its standard deviation."""


def noise_from_fit(residual: FloatArray, freedom: int) -> float:
    """Noise from the residuals of a fit in every voxel.

    The sum of squared residuals of a voxel follows a chi-squared distribution; its median over the
    voxels is compared with that distribution's (Wilson-Hilferty), so voxels that the model does not
    describe have little influence.

    Parameters
    ----------
    residual : (n_echo, n_voxel) array
        In the unit of the signal.
    freedom : int
        Degrees of freedom, echoes less fitted parameters.

    Returns
    -------
    float
        Standard deviation in the unit of the signal.

    Raises
    ------
    DataError
        Without degrees of freedom or voxels.
    """
    if freedom < 1 or residual.size == 0:
        raise DataError(f"{freedom} degrees of freedom", expected="at least one, and at least one voxel")
    middle = freedom * (1.0 - 2.0 / (9.0 * freedom)) ** 3
    return math.sqrt(float(np.median(np.sum(np.square(residual, dtype=np.float64), axis=0))) / middle)


def noise_from_air(magnitude: FloatArray, mask: NDArray[np.bool_]) -> float | None:
    """Noise from the voxels outside the mask, taken to hold mostly air (Rayleigh distribution).

    Signal from outside the brain is cut off step by step. Zeros, which scanners write outside the
    head, do not count.

    Parameters
    ----------
    magnitude : (nx, ny, nz) array
        One echo.
    mask : (nx, ny, nz) bool array

    Returns
    -------
    float or None
        Standard deviation in the unit of the magnitude; ``None`` where there is too little air, or
        what there is of it is no darker than a third of the tissue.
    """
    outside = np.asarray(magnitude, np.float64)[~mask]
    outside = outside[outside > 0]
    if outside.size < MIN_BACKGROUND:
        return None
    sigma, kept = float(np.median(outside)) / RAYLEIGH_MEDIAN, outside
    for _ in range(50):
        kept = outside[outside < 3.0 * sigma]
        if kept.size < MIN_BACKGROUND:
            return None
        refined = float(np.median(kept)) / RAYLEIGH_MEDIAN
        if abs(refined - sigma) <= 1e-4 * sigma:
            break
        sigma = refined
    tissue = float(np.median(np.asarray(magnitude)[mask]))
    return sigma if 3.0 * sigma < tissue else None


def noise_from_detail(
    signal: NDArray[np.complexfloating], mask: NDArray[np.bool_], *, phase_only: bool = False
) -> float:
    """Noise from second differences of the complex signal along all three axes in turn.

    Anatomy is suppressed to the sixth order; an image interpolated by zero filling gives too small a
    value.

    Parameters
    ----------
    signal : (nx, ny, nz) complex array
    mask : (nx, ny, nz) bool array
    phase_only : bool
        Whether the signal has one modulus everywhere: noise then has one direction, along the circle.

    Returns
    -------
    float
        Standard deviation of the real part in the unit of the signal; 0 where the volume or the mask
        is too small for a single difference.
    """
    detail, inside = np.asarray(signal, np.complex128), np.asarray(mask, bool)
    gain = 1.0
    for axis in range(3):
        if detail.shape[axis] < 3:
            continue
        lead, lead_mask = np.moveaxis(detail, axis, 0), np.moveaxis(inside, axis, 0)
        lead = (lead[:-2] + lead[2:]) - 2.0 * lead[1:-1]
        lead_mask = lead_mask[:-2] & lead_mask[1:-1] & lead_mask[2:]
        detail, inside = np.moveaxis(lead, 0, axis), np.moveaxis(lead_mask, 0, axis)
        gain *= math.sqrt(6.0)
    if gain == 1.0 or not inside.any():
        return 0.0
    middle = NORMAL_MEDIAN if phase_only else RAYLEIGH_MEDIAN
    return float(np.median(np.abs(detail[inside]))) / (middle * gain)
