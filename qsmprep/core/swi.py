"""Susceptibility-weighted images and their minimum-intensity projection, after the idea of CLEAR-SWI."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from qsmprep.core.grid import Grid
from qsmprep.core.parameters import ClearSwiParams
from qsmprep.core.unwrap import laplacian
from qsmprep.core.unwrap.common import check_inputs
from qsmprep.errors import DataError

FloatArray = NDArray[np.floating]
Volume = NDArray[np.float32]
Mask = NDArray[np.bool_]

TRUNCATE = 3.0
"""Reach of the Gaussians in standard deviations."""
TISSUE = (0.7, 1.4)
"""Magnitude relative to its surroundings within which a voxel tells of the coil: no vessels, no CSF."""


@dataclass(frozen=True)
class SusceptibilityWeighted:
    """A susceptibility-weighted image and what it was made of.

    Parameters
    ----------
    swi : (nx, ny, nz) float32 array
        Unit of the magnitude; veins are dark. Zero outside the mask.
    minip : (nx, ny, nz) float32 array
        Its sliding minimum along the array axis nearest to B0.
    phase_mask : (nx, ny, nz) float32 array
        What the magnitude was multiplied by, 0 to 1; one outside the mask.
    frequency_hz : (nx, ny, nz) float32 array
        High-pass filtered frequency of all echoes together.
    """

    swi: Volume
    minip: Volume
    phase_mask: Volume
    frequency_hz: Volume
    info: dict[str, Any] = field(default_factory=dict)


def clearswi(
    phase_rad: FloatArray,
    magnitude: FloatArray,
    mask: Mask,
    te_s: Sequence[float],
    grid: Grid,
    params: ClearSwiParams | None = None,
) -> SusceptibilityWeighted:
    r"""Darken the magnitude where the phase of all echoes together tells of paramagnetic susceptibility.

    Every echo is unwrapped (Laplacian) and high-pass filtered; the frequency of all echoes is the line
    through the origin, :math:`f = \sum m_e^2 t_e \varphi_e / 2\pi \sum m_e^2 t_e^2`. The phase mask is one
    where :math:`f \le 0` and the sigmoid :math:`(1 + \tanh(1 - f/c \bar f)) / (1 + \tanh 1)` elsewhere,
    :math:`\bar f` being the mean of the positive frequencies and :math:`c` ``params.turn``. The magnitude
    is the root of the sum of squares over the echoes, freed from the sensitivity of the coil and with its
    dark end compressed (softplus).

    Parameters
    ----------
    phase_rad : (n_echo, nx, ny, nz) array
        Wrapped phase, positive where the field is higher.
    magnitude : (n_echo, nx, ny, nz) array
        Arbitrary unit.
    mask : (nx, ny, nz) bool array
        The brain.
    te_s : sequence of float
        Echo times in s, increasing, of any spacing; one is enough.
    grid : Grid
    params : ClearSwiParams, optional
        Lengths in mm.

    Returns
    -------
    SusceptibilityWeighted

    Raises
    ------
    DataError
        For shapes that do not fit, numbers that are not finite, bad echo times, an empty mask, or a
        magnitude without signal.

    References
    ----------
    Eckstein et al., NeuroImage 2021;237:118175. doi:10.1016/j.neuroimage.2021.118175
    """
    params = params or ClearSwiParams()
    phase, weight, inside = check_inputs(phase_rad, magnitude, mask, te_s, grid)
    if weight is None or not np.any(weight[:, inside] > 0):
        raise DataError("there is no magnitude inside the mask", expected="the magnitude of every echo")
    frequency = _frequency_hz(phase, weight, inside, te_s, grid, params.highpass_mm)
    shade, typical_hz = phase_mask(frequency, inside, params.turn)
    combined = np.sqrt(np.sum(np.square(weight, dtype=np.float64), axis=0)).astype(np.float32)
    if params.bias_mm > 0:
        combined = combined / sensitivity(combined, inside, grid, params.bias_mm)
    if params.softplus > 0:
        combined = softplus(combined, float(np.median(combined[inside])) / 2, params.softplus)
    swi = np.where(inside, combined * shade, 0).astype(np.float32)
    minip, axis, slices = minimum_projection(swi, inside, grid, params.minip_mm)
    info = {
        "minip_axis": axis,
        "minip_slices": slices,
        "minip_thickness_mm": round(slices * grid.voxel_mm[axis], 4),
        "typical_frequency_hz": typical_hz,
    }
    return SusceptibilityWeighted(swi, minip, shade, frequency, info)


def _frequency_hz(
    phase: Volume, magnitude: Volume, mask: Mask, te_s: Sequence[float], grid: Grid, sigma_mm: float
) -> Volume:
    """High-pass filtered frequency of all echoes; zero outside the mask."""
    unwrapped = laplacian.unwrap(phase, magnitude, mask, te_s, grid).phase_rad
    reach = _smooth(mask.astype(np.float32), grid, sigma_mm)
    above, below = np.zeros(grid.shape, np.float64), np.zeros(grid.shape, np.float64)
    for te, echo, size in zip(te_s, unwrapped, magnitude, strict=True):
        importance = np.square(size, dtype=np.float64) * te
        above += importance * high_pass(echo, mask, grid, sigma_mm, reach)
        below += importance * te
    there = mask & (below > 0)
    return np.where(there, above / (2 * math.pi * np.where(there, below, 1)), 0).astype(np.float32)


def high_pass(volume: FloatArray, mask: Mask, grid: Grid, sigma_mm: float, reach: Volume | None = None) -> Volume:
    """What a Gaussian that sees nothing outside the mask leaves of a volume.

    Parameters
    ----------
    volume : (nx, ny, nz) array
        Any unit.
    mask : (nx, ny, nz) bool array
    grid : Grid
    sigma_mm : float
        Standard deviation of the Gaussian in mm.
    reach : (nx, ny, nz) array, optional
        The smoothed mask, where it is known already.

    Returns
    -------
    (nx, ny, nz) float32 array
        Zero outside the mask. Constants vanish. The filter is applied twice, so that slopes that the
        edge of the mask bends in the first pass are flattened in the second.
    """
    rest = np.where(mask, volume, 0).astype(np.float32)
    weight = _smooth(mask.astype(np.float32), grid, sigma_mm) if reach is None else reach
    for _ in range(2):
        low = _smooth(rest, grid, sigma_mm) / np.where(mask, weight, 1)
        rest = np.where(mask, rest - low, 0).astype(np.float32)
    return rest


def phase_mask(frequency_hz: FloatArray, mask: Mask, turn: float) -> tuple[Volume, float]:
    """The factor of the magnitude, one where the frequency is not positive, and the mean positive frequency in Hz."""
    positive = mask & (frequency_hz > 0)
    if not positive.any():
        return np.ones(mask.shape, np.float32), 0.0
    typical = float(np.mean(frequency_hz[positive], dtype=np.float64))
    sigmoid = (1 + np.tanh(1 - np.where(positive, frequency_hz, 0) / (turn * typical))) / (1 + math.tanh(1))
    return np.clip(sigmoid, 0, 1).astype(np.float32), typical


def sensitivity(magnitude: FloatArray, mask: Mask, grid: Grid, sigma_mm: float) -> Volume:
    """Slow variations of the magnitude inside the mask, as coils make them, relative to their median.

    Parameters
    ----------
    magnitude : (nx, ny, nz) array
        Not negative.
    mask : (nx, ny, nz) bool array
    grid : Grid
    sigma_mm : float
        Standard deviation of the Gaussian in mm.

    Returns
    -------
    (nx, ny, nz) float32 array
        Positive; one outside the mask. Voxels much darker or brighter than their surroundings (vessels,
        CSF) do not count in the second of two passes.
    """
    believed, slow = mask & (magnitude > 0), np.ones(mask.shape, np.float32)
    for _ in range(2):
        weight = _smooth(believed.astype(np.float32), grid, sigma_mm)
        total = _smooth(np.where(believed, magnitude, 0).astype(np.float32), grid, sigma_mm)
        typical = float(np.median(magnitude[believed]))
        slow = (total + 1e-3 * typical) / (weight + 1e-3)
        relative = magnitude / slow
        kept = mask & (relative > TISSUE[0]) & (relative < TISSUE[1])
        believed = kept if kept.any() else believed
    slow = slow / float(np.median(slow[mask]))
    return np.where(mask, np.clip(slow, 0.05, 20.0), 1).astype(np.float32)


def softplus(values: FloatArray, knee: float, steepness: float) -> Volume:
    """Compress what lies below the knee: zero stays zero, the slope is one far above it.

    Parameters
    ----------
    values : array
        Not negative.
    knee : float
        In the unit of the values; returned unchanged when it is not positive.
    steepness : float
        Of the bend, per knee.
    """
    if knee <= 0:
        return np.asarray(values, dtype=np.float32)
    argument = steepness * (np.asarray(values, dtype=np.float64) / knee - 1)
    bent = np.logaddexp(0, argument) - math.log1p(math.exp(-steepness))
    return (bent * knee / steepness).astype(np.float32)


def minimum_projection(image: FloatArray, mask: Mask, grid: Grid, thickness_mm: float) -> tuple[Volume, int, int]:
    """Sliding minimum along the array axis nearest to B0, over the odd number of slices nearest to a thickness.

    Parameters
    ----------
    image : (nx, ny, nz) array
    mask : (nx, ny, nz) bool array
        Voxels outside it do not count, and are zero in the result.
    grid : Grid
    thickness_mm : float

    Returns
    -------
    minip : (nx, ny, nz) float32 array
    axis, n_slices : int
        Array axis, and how many slices there are in a projection at most.
    """
    axis = int(np.argmax(np.abs(grid.b0_dir)))
    slices = 2 * math.floor(thickness_mm / grid.voxel_mm[axis] / 2 + 1e-6) + 1
    filled = np.where(mask, image, np.inf).astype(np.float32)
    lowest = ndimage.minimum_filter1d(filled, slices, axis=axis, mode="nearest")
    return np.where(mask, lowest, 0).astype(np.float32), axis, min(slices, image.shape[axis])


def _smooth(volume: Volume, grid: Grid, sigma_mm: float) -> Volume:
    sigma = [sigma_mm / mm for mm in grid.voxel_mm]
    smoothed: Volume = ndimage.gaussian_filter(volume, sigma, mode="constant", truncate=TRUNCATE)
    return smoothed
