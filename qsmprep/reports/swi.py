"""The figure of the susceptibility-weighted image."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from qsmprep.errors import DataError
from qsmprep.reports.canvas import Strip, save_strips
from qsmprep.reports.view import View


def plot_swi(
    swi: ArrayLike, minip: ArrayLike, affine: ArrayLike, mask: ArrayLike, out_file: str | Path, *, thickness_mm: float
) -> Path:
    """Susceptibility-weighted image and its minimum-intensity projection, in one window.

    Parameters
    ----------
    swi, minip : (nx, ny, nz) array
        Arbitrary unit; shown from 0 to the 99th percentile of ``swi`` inside the mask.
    affine : (4, 4) array_like
        NIfTI affine, mm.
    mask : (nx, ny, nz) bool array
    out_file : str or Path
        PNG to write.
    thickness_mm : float
        Of the projection, for the title.

    Raises
    ------
    DataError
        Shapes that differ, or an empty mask.
    CannotWriteError
        When the file cannot be written.
    """
    region = np.asarray(mask).astype(bool)
    for name, volume in (("swi", swi), ("minip", minip)):
        if np.shape(volume) != region.shape:
            raise DataError(f"`{name}` has shape {np.shape(volume)}", expected=f"{region.shape}, the shape of the mask")
    if not region.any():
        raise DataError("the mask is empty, there is nothing to show", expected="at least one voxel inside")
    view = View.from_affine(region.shape, affine)
    inside = view.canonical(region)
    image, projection = (np.where(inside, view.canonical(np.asarray(v)), np.float32(np.nan)) for v in (swi, minip))
    window = (0.0, float(np.nanpercentile(image[inside], 99)) or 1.0)
    axial = tuple(("axial", index) for index in view.indices(inside, "axial", 7, (0.2, 0.85)))
    planes = tuple(("coronal", index) for index in view.indices(inside, "coronal", 4, (0.2, 0.8)))
    planes += tuple(("sagittal", index) for index in view.indices(inside, "sagittal", 3, (0.25, 0.75)))
    strips = [
        Strip("Susceptibility-weighted image", image, axial, window, "a.u."),
        Strip(f"Minimum-intensity projection over {thickness_mm:g} mm", projection, axial, window, "a.u."),
        Strip("Susceptibility-weighted image, coronal and sagittal", image, planes, window, "a.u."),
    ]
    return save_strips(view, view.box(inside), strips, out_file)
