"""Susceptibility maps in the space of a template: back along the registration that brought the template to a head."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qsmprep.core.registration import LPS, Volume, to_ants
from qsmprep.errors import DataError

NAME = "MNI152NLin2009aSym"
"""The space of nilearn's MNI152 template, as TemplateFlow calls it."""

MIN_SHARE = 0.5
"""Least share of a voxel of the template that lies where the map is defined."""


def write_matrix(matrix: ArrayLike, path: Path) -> Path:
    """Write a map of scanner coordinates (RAS+, 4 x 4, mm) as an affine transform of ANTs."""
    import ants

    lps = LPS @ np.asarray(matrix, float) @ LPS
    parameters = [*lps[:3, :3].ravel(), *lps[:3, 3]]
    transform = ants.create_ants_transform("AffineTransform", dimension=3, parameters=parameters)
    ants.write_transform(transform, str(path))
    return path


def to_template(
    chi: Volume,
    mask: NDArray[np.bool_],
    template: Volume,
    linear: Path,
    inverse_warp: Path,
    *,
    matrix: ArrayLike | None = None,
    folder: Path,
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """A map on the grid of the template, interpolated linearly among voxels in which it is defined.

    Parameters
    ----------
    chi : Volume
        Map; what is outside of ``mask`` does not count.
    mask : (nx, ny, nz) bool array
        Where it is defined.
    template : Volume
        Gives the grid.
    linear : Path
        Affine transform of ANTs that brought the template to the head.
    inverse_warp : Path
        Inverse of the warp that did.
    matrix : (4, 4) array_like, optional
        Scanner coordinates of the map to those of the image that the template was brought to, where that is another.
    folder : Path
        For a transform that is written on the way.

    Returns
    -------
    (volume, mask) : (float32 array, bool array)
        Zero and False where less than half of a voxel lies where the map is defined.

    Raises
    ------
    DataError
        When map and mask have different shapes, or nothing of the map lies in the template.
    """
    import ants

    if chi.data.shape != mask.shape:
        raise DataError(f"the map has shape {chi.data.shape}, its mask {mask.shape}", expected="one shape")
    grid = to_ants(Volume(np.zeros(template.data.shape, np.float32), template.affine))
    names, inverted = [str(linear), str(inverse_warp)], [True, False]
    if matrix is not None:
        names.append(str(write_matrix(matrix, folder / "to_image.mat")))
        inverted.append(True)
    inside = np.asarray(mask, np.float32)
    parts = (Volume(np.where(mask, chi.data, 0).astype(np.float32), chi.affine), Volume(inside, chi.affine))
    values, share = (
        ants.apply_transforms(grid, to_ants(part), names, "linear", whichtoinvert=inverted).numpy() for part in parts
    )
    there = share >= MIN_SHARE
    if not there.any():
        raise DataError("nothing of the map lies in the template", expected="a registration that fits")
    return np.where(there, values / np.maximum(share, MIN_SHARE), 0).astype(np.float32), there
