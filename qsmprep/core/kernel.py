"""The kernel that a map and its field imply: a check of both that needs no truth."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from qsmprep.core.dipole import dipole_kernel, forward_field, padded_shape
from qsmprep.core.grid import Grid, bounding_box
from qsmprep.core.kspace import spatial_frequency
from qsmprep.core.results import FloatVolume, Mask
from qsmprep.errors import DataError

BINS = 45
"""Bins of the angle between k and B0, equal in the square of its cosine."""

PAD = 1.5
"""Zero padding of the transforms."""

RANGE_MM = (3.0, 40.0)
"""Wavelengths that count: shorter ones are noise, longer ones background."""


@dataclass(frozen=True)
class KernelCheck:
    """The kernel that map and field imply against the one that the map was made with.

    Parameters
    ----------
    cos2 : (n,) float64 array
        Squared cosine of the angle between k and B0, middle of each bin.
    implied : (n,) float64 array
        Kernel that map and field imply there, real part; NaN where the map has no power.
    true : (n,) float64 array
        The same with the field that the dipole kernel gives of the map, cut to the mask; near ``1/3 - cos2``.
    error : float
        Root mean square of ``implied - true`` over the bins, relative to that of ``true``.
    """

    cos2: NDArray[np.float64]
    implied: NDArray[np.float64]
    true: NDArray[np.float64]
    error: float


def check_kernel(field_ppm: FloatVolume, chi_ppm: FloatVolume, mask: Mask, grid: Grid) -> KernelCheck:
    r"""The kernel that map and field imply.

    The implied kernel is the regression of the field's spectrum on the map's over all k whose angle to B0
    falls into a bin, :math:`\Re\sum F f\,\overline{F\chi} / \sum|F\chi|^2`. An inversion that loses what
    is ill-posed still has the true kernel; one that invents structure there, or misses the direction
    of B0, bends it. No truth is needed, as in the evaluation of PedQ-NET (ISMRM 2022, abstract 1984).

    Parameters
    ----------
    field_ppm : (nx, ny, nz) array
        Local field in ppm; ignored outside ``mask``.
    chi_ppm : (nx, ny, nz) array
        Susceptibility in ppm; ignored outside ``mask``.
    mask : (nx, ny, nz) bool array
        Where both are valid.
    grid : Grid
        Voxel size and B0 direction along the array axes.

    Raises
    ------
    DataError
        When shapes differ, the mask is empty, or field or map is the same everywhere.
    """
    if not field_ppm.shape == chi_ppm.shape == mask.shape == grid.shape:
        raise DataError(
            f"field {field_ppm.shape}, map {chi_ppm.shape}, mask {mask.shape} and grid {grid.shape} differ",
            expected="one shape",
        )
    if not mask.any() or np.ptp(field_ppm[mask]) == 0 or np.ptp(chi_ppm[mask]) == 0:
        raise DataError("field or map is the same everywhere in the mask", expected="values that differ")
    box = bounding_box(mask)
    field_ppm, chi_ppm, mask = field_ppm[box], chi_ppm[box], mask[box]
    grid = grid.with_shape(mask.shape)
    field, chi = (np.where(mask, volume - volume[mask].mean(), 0).astype(np.float32) for volume in (field_ppm, chi_ppm))
    predicted = forward_field(chi, grid, pad_factor=PAD)
    wide = grid.with_shape(padded_shape(grid.shape, PAD))
    volumes = (field, chi, np.where(mask, predicted - predicted[mask].mean(), 0).astype(np.float32))
    seen, source, known = (torch.fft.rfftn(torch.from_numpy(volume), s=wide.shape) for volume in volumes)
    wave = torch.from_numpy(spatial_frequency(wide))
    kept = (wave > 1 / RANGE_MM[1]) & (wave < 1 / RANGE_MM[0])
    cos2 = 1 / 3 - dipole_kernel(wide)
    index = (cos2[kept] * BINS).long().clamp(0, BINS - 1)

    def summed(values: torch.Tensor) -> NDArray[np.float64]:
        return torch.zeros(BINS, dtype=torch.float64).index_add(0, index, values[kept].double()).numpy()

    power = summed(source.abs().square())
    filled = power > 1e-12 * power.max()
    cross = [summed((spectrum * source.conj()).real) for spectrum in (seen, known)]
    implied, true = (np.where(filled, part / np.where(filled, power, 1), np.nan) for part in cross)
    error = math.sqrt(np.nansum((implied - true) ** 2) / max(np.nansum(true**2), 1e-30))
    middle = (np.arange(BINS) + 0.5) / BINS
    return KernelCheck(middle, implied, true, error)
