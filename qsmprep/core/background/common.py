"""What every background-removal method shares: checks, the crop to the mask, and the way back."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from qsmprep.core.grid import Grid, bounding_box
from qsmprep.core.masking.morphology import RADIUS_TOLERANCE
from qsmprep.core.results import LocalField
from qsmprep.errors import DataError


@dataclass(frozen=True)
class Problem:
    """A field cropped to the bounding box of its mask, on the device.

    Parameters
    ----------
    field : (nx, ny, nz) float32 torch.Tensor
        In the unit of the input; zero outside ``mask``.
    mask : (nx, ny, nz) bool torch.Tensor
    weights : (nx, ny, nz) float32 torch.Tensor or None
        Root mean square 1 over the mask; zero outside it.
    grid : Grid
        Of the crop.
    box : tuple of slice
        Where the crop lies in the full volume.
    full_shape : (3,) tuple of int
    """

    field: torch.Tensor
    mask: torch.Tensor
    weights: torch.Tensor | None
    grid: Grid
    box: tuple[slice, ...]
    full_shape: tuple[int, int, int]

    @cached_property
    def depth_mm(self) -> NDArray[np.floating]:
        """Distance in mm from each voxel centre to the nearest outside the mask, as is all beyond the volume."""
        inside = np.pad(self.mask.cpu().numpy(), 1)
        return ndimage.distance_transform_edt(inside, sampling=self.grid.voxel_mm)[1:-1, 1:-1, 1:-1]

    def eroded(self, radius_mm: float) -> torch.Tensor:
        """Voxels around which every voxel centre within ``radius_mm`` lies in the mask."""
        return torch.from_numpy(self.depth_mm > radius_mm * (1 + RADIUS_TOLERANCE)).to(self.field.device)

    def finish(self, local: torch.Tensor, mask: torch.Tensor, info: dict[str, Any]) -> LocalField:
        """Put a local field of the crop back into the full volume, zero outside ``mask``."""
        field_full = np.zeros(self.full_shape, dtype=np.float32)
        mask_full = np.zeros(self.full_shape, dtype=bool)
        field_full[self.box] = torch.where(mask, local, torch.zeros_like(local)).cpu().numpy()
        mask_full[self.box] = mask.cpu().numpy()
        kept = float(mask_full.sum()) / float(self.mask.sum())
        return LocalField(field_full, mask_full, {**info, "kept_fraction": kept})


def prepare(
    field_ppm: NDArray[np.floating],
    mask: NDArray[np.bool_],
    grid: Grid,
    weights: NDArray[np.floating] | None,
    device: str,
) -> Problem:
    """Check the inputs of a method and crop them to the mask.

    Parameters
    ----------
    field_ppm : (nx, ny, nz) array
        Total field; values outside the mask are ignored, finite or not.
    mask : (nx, ny, nz) bool array
    grid : Grid
    weights : (nx, ny, nz) array or None
        Relative reliability of the field (for example one over its standard deviation).
    device : str
        Torch device.

    Raises
    ------
    DataError
        For a shape that is not the grid's, an empty mask, values in the mask that are not finite,
        or weights that are negative or all zero.
    """
    field = np.asarray(field_ppm)
    inside = np.asarray(mask).astype(bool)
    for name, shape in (("field", field.shape), ("mask", inside.shape), *_shape_of(weights)):
        if shape != grid.shape:
            raise DataError(
                f"the {name} has shape {shape}",
                expected=f"the shape of the grid, {grid.shape}",
                remedy="resample all volumes of the acquisition to one grid",
            )
    if not inside.any():
        raise DataError("the mask is empty", expected="a mask with the brain in it", remedy="check the mask image")
    if not np.isfinite(field[inside]).all():
        count = int(np.count_nonzero(~np.isfinite(field[inside])))
        raise DataError(
            f"the field is not finite in {count} voxels of the mask",
            expected="finite values wherever the mask is set",
            remedy="leave these voxels out of the mask",
        )
    box = bounding_box(inside)
    cut = np.ascontiguousarray(inside[box])
    values = np.where(cut, field[box], 0).astype(np.float32)
    return Problem(
        torch.from_numpy(values).to(device),
        torch.from_numpy(cut).to(device),
        None if weights is None else torch.from_numpy(_normalised(np.asarray(weights)[box], cut)).to(device),
        grid.with_shape(cut.shape),
        box,
        grid.shape,
    )


def _shape_of(weights: NDArray[np.floating] | None) -> tuple[tuple[str, tuple[int, ...]], ...]:
    return () if weights is None else (("weights", np.asarray(weights).shape),)


def _normalised(weights: NDArray[np.floating], mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Weights with root mean square 1 over the mask."""
    inside = weights[mask].astype(np.float64)
    if not np.isfinite(inside).all() or (inside < 0).any() or not (inside > 0).any():
        raise DataError(
            "the weights are negative, not finite or all zero in the mask",
            expected="weights of zero or more, for example one over the standard deviation of the field",
        )
    scale = np.sqrt(np.mean(inside**2))
    return np.where(mask, weights / scale, 0).astype(np.float32)


def nonempty(mask: torch.Tensor, radius_mm: float) -> torch.Tensor:
    """Return ``mask``, or raise when erosion by ``radius_mm`` left nothing of it.

    Raises
    ------
    DataError
    """
    if not bool(mask.any()):
        raise DataError(
            f"no sphere of radius {radius_mm:g} mm fits into the mask",
            expected="a mask thicker than the kernel",
            remedy="take a smaller kernel radius, or check the mask image",
        )
    return mask
