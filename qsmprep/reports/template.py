"""The cohort's mean map and its spread in template space."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from qsmprep.errors import DataError
from qsmprep.reports.canvas import Strip, save_strips
from qsmprep.reports.figures import CHI_WINDOW_PPM
from qsmprep.reports.view import View

SD_WINDOW_PPM = (0.0, 0.06)


def plot_average(
    mean_ppm: ArrayLike, sd_ppm: ArrayLike, mask: ArrayLike, affine: ArrayLike, out_file: str | Path
) -> Path:
    """Axial and coronal slices of mean and standard deviation.

    Parameters
    ----------
    mean_ppm, sd_ppm : (nx, ny, nz) array
        Over the scans, in ppm.
    mask : (nx, ny, nz) bool array
        Where they are defined.
    affine : (4, 4) array_like
        NIfTI affine of the template's grid, mm.
    out_file : str or Path
        PNG to write.

    Raises
    ------
    DataError
        When no voxel has a mean.
    CannotWriteError
        When the file cannot be written.
    """
    inside = np.asarray(mask).astype(bool)
    if not inside.any():
        raise DataError("no voxel of the template has a mean", expected="maps that overlap")
    view = View.from_affine(inside.shape, affine)
    at = np.argwhere(view.canonical(inside))
    strips = []
    for title, volume, window, cmap in (
        ("Mean", mean_ppm, (-CHI_WINDOW_PPM, CHI_WINDOW_PPM), "gray"),
        ("Standard deviation", sd_ppm, SD_WINDOW_PPM, "inferno"),
    ):
        shown = view.canonical(np.where(inside, np.asarray(volume), np.nan))
        for plane, axis, low, high, number in (("axial", 2, 20, 80, 7), ("coronal", 1, 20, 80, 6)):
            places = np.unique(np.percentile(at[:, axis], np.linspace(low, high, number)).astype(int))
            slices = tuple((plane, int(k)) for k in places)
            strips.append(Strip(f"{title}, {plane}", shown, slices, window, "ppm", cmap))
    return save_strips(view, view.box(view.canonical(inside), 6.0), strips, out_file)
