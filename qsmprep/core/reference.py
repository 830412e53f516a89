"""Referencing: susceptibility is known up to a constant, which is fixed here."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qsmprep.core.parameters import ReferenceParams
from qsmprep.errors import DataError


@dataclass(frozen=True)
class Referenced:
    """A referenced susceptibility map.

    Parameters
    ----------
    chi_ppm : (nx, ny, nz) float32 array
        In ppm; zero outside the valid mask.
    shift_ppm : float
        What was subtracted: the mean over the reference region before referencing.
    n_voxels : int
        Number of voxels of the reference region; 0 when nothing was subtracted.
    """

    chi_ppm: NDArray[np.float32]
    shift_ppm: float
    n_voxels: int


def reference(
    chi_ppm: NDArray[np.floating],
    valid_mask: NDArray[np.bool_],
    region: NDArray[np.bool_] | None = None,
) -> Referenced:
    """Subtract the mean susceptibility of a region.

    Parameters
    ----------
    chi_ppm : (nx, ny, nz) array
        Susceptibility in ppm.
    valid_mask : (nx, ny, nz) bool array
        Where the map is defined: the mask that background removal left, not the brain mask it
        started from, whose rim of zeros would bias the mean.
    region : (nx, ny, nz) bool array, optional
        The reference region; only its voxels within ``valid_mask`` count. None takes all of
        ``valid_mask``.

    Returns
    -------
    Referenced

    Raises
    ------
    DataError
        When shapes differ, the region does not meet the valid mask, or values in the valid mask
        are not finite.
    """
    chi, valid = _checked(chi_ppm, valid_mask)
    chosen = valid
    if region is not None:
        if np.shape(region) != chi.shape:
            raise DataError(
                f"the reference region has shape {np.shape(region)}",
                expected=f"the shape of the map, {chi.shape}",
                remedy="resample the region to the map's grid",
            )
        chosen = valid & np.asarray(region).astype(bool)
        if not chosen.any():
            raise DataError(
                "the reference region has no voxel in which susceptibility is defined",
                expected="a region that meets the mask left by background removal",
                remedy="take another region, or reference to the whole brain",
            )
    shift_ppm = float(chi[chosen].mean(dtype=np.float64))
    return Referenced(_masked(chi - shift_ppm, valid), shift_ppm, int(np.count_nonzero(chosen)))


def wholebrain(
    chi_ppm: NDArray[np.floating],
    valid_mask: NDArray[np.bool_],
    params: ReferenceParams | None = None,
    region: NDArray[np.bool_] | None = None,
) -> Referenced:
    """Reference to the mean over every voxel in which susceptibility is defined (see :func:`reference`)."""
    return reference(chi_ppm, valid_mask)


def none(
    chi_ppm: NDArray[np.floating],
    valid_mask: NDArray[np.bool_],
    params: ReferenceParams | None = None,
    region: NDArray[np.bool_] | None = None,
) -> Referenced:
    """Leave the constant as the inversion left it, and set the map to zero outside ``valid_mask``."""
    chi, valid = _checked(chi_ppm, valid_mask)
    return Referenced(_masked(chi, valid), 0.0, 0)


def regional(
    chi_ppm: NDArray[np.floating],
    valid_mask: NDArray[np.bool_],
    params: ReferenceParams | None = None,
    region: NDArray[np.bool_] | None = None,
) -> Referenced:
    """Reference to the mean over a region of a segmentation (see :func:`reference`).

    Raises
    ------
    DataError
        Also when no region is given.
    """
    if region is None:
        raise DataError(
            "there is no segmentation to take the reference region from",
            expected="a segmentation with labels of the region",
            remedy="give one with --derivatives, or take --reference wholebrain",
        )
    return reference(chi_ppm, valid_mask, region)


def _checked(
    chi_ppm: NDArray[np.floating], valid_mask: NDArray[np.bool_]
) -> tuple[NDArray[np.floating], NDArray[np.bool_]]:
    chi, valid = np.asarray(chi_ppm), np.asarray(valid_mask).astype(bool)
    if chi.shape != valid.shape:
        raise DataError(
            f"the susceptibility map has shape {chi.shape} and its mask {valid.shape}", expected="one shape for both"
        )
    if not valid.any():
        raise DataError(
            "the mask of valid susceptibility is empty",
            expected="a mask with the brain in it",
            remedy="check the mask that background removal left",
        )
    if not np.isfinite(chi[valid]).all():
        raise DataError(
            "the susceptibility map is not finite everywhere in its mask",
            expected="finite values wherever the mask is set",
        )
    return chi, valid


def _masked(chi_ppm: NDArray[np.floating], valid: NDArray[np.bool_]) -> NDArray[np.float32]:
    return np.where(valid, chi_ppm, 0).astype(np.float32)
