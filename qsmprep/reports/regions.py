"""Regions of interest on the page of a subject: outlines, values, tables."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from qsmprep.errors import DataError
from qsmprep.reports.canvas import DPI, ORANGE, TEAL, Strip, encode_figure, save_strips, write_png
from qsmprep.reports.figures import CHI_WINDOW_PPM
from qsmprep.reports.graphs import COLOURS, DARK
from qsmprep.reports.record import TableEntry
from qsmprep.reports.view import View

LARGE_MM3 = 30_000.0
"""Regions above this volume (white matter, cortex) are not outlined: they would hide the nuclei."""

SHOWN = (
    ("n_voxels", "voxels"),
    ("volume_mm3", "mm³"),
    ("mean", "mean"),
    ("sd", "sd"),
    ("median", "median"),
    ("iqr", "IQR"),
    ("p95", "95 %"),
    ("trimmed_mean", "trimmed mean"),
    ("weighted_mean", "weighted mean"),
    ("eroded_mean", "eroded mean"),
)
"""Columns of the table on the page."""

MAX_REGIONS = 40


def plot_regions(
    chi_ppm: ArrayLike, labels: ArrayLike, affine: ArrayLike, mask: ArrayLike, out_file: str | Path
) -> Path:
    """Susceptibility with the outlines of the regions.

    Parameters
    ----------
    chi_ppm : (nx, ny, nz) array
        In ppm.
    labels : (nx, ny, nz) int array
    affine : (4, 4) array_like
        NIfTI affine, mm.
    mask : (nx, ny, nz) bool array
        Where susceptibility is defined.
    out_file : str or Path
        PNG to write.

    Raises
    ------
    DataError
        Shapes that differ, an empty mask, or no region that is small enough to be outlined.
    CannotWriteError
        When the file cannot be written.
    """
    chi, marks, inside = np.asarray(chi_ppm), np.asarray(labels), np.asarray(mask).astype(bool)
    if not chi.shape == marks.shape == inside.shape:
        raise DataError(f"map, labels and mask have shapes {chi.shape}, {marks.shape}, {inside.shape}")
    view = View.from_affine(chi.shape, affine)
    voxel_mm3 = float(np.prod(view.grid.voxel_mm))
    indices, counts = np.unique(marks[marks != 0], return_counts=True)
    small = [int(i) for i, n in zip(indices, counts, strict=True) if n * voxel_mm3 <= LARGE_MM3]
    chosen = np.isin(marks, small) if small else marks != 0
    if not chosen.any():
        raise DataError("the segmentation has no region on the grid of the map", expected="at least one voxel")
    groups = [np.isin(marks, small[start::2]) if small else chosen for start in (0, 1)]
    contours = tuple(
        (view.canonical(group), colour, "" if number else "regions, in two colours")
        for number, (group, colour) in enumerate(zip(groups, (ORANGE, TEAL), strict=True))
    )
    shown = view.canonical(np.where(inside, chi, np.nan))
    at = np.argwhere(view.canonical(chosen))
    rows = {
        "axial": [("axial", int(k)) for k in np.unique(np.percentile(at[:, 2], np.linspace(8, 92, 7)).astype(int))],
        "coronal": [
            ("coronal", int(k)) for k in np.unique(np.percentile(at[:, 1], np.linspace(10, 90, 6)).astype(int))
        ],
    }
    window = (-CHI_WINDOW_PPM, CHI_WINDOW_PPM)
    strips = [
        Strip(f"Regions, {plane}", shown, tuple(slices), window, "ppm", contours=contours)
        for plane, slices in rows.items()
    ]
    return save_strips(view, view.box(view.canonical(inside), 6.0), strips, out_file)


def plot_values(tables: Mapping[str, Sequence[Mapping[str, str]]], out_file: str | Path) -> Path:
    """Median and range from the 5th to the 95th percentile by region, one panel a map.

    Parameters
    ----------
    tables : mapping of str to rows
        Rows of the ROI tables, as text, by the name of the map.
    out_file : str or Path
        PNG to write.

    Raises
    ------
    DataError
        When no region has a voxel.
    CannotWriteError
        When the file cannot be written.
    """
    regions: dict[str, int] = {}
    for rows in tables.values():
        for row in rows:
            if row["kind"] == "region" and int(row["n_voxels"]) and len(regions) < MAX_REGIONS:
                regions.setdefault(row["structure"], len(regions))
    if not regions:
        raise DataError("no region has a voxel in which the maps are defined", expected="at least one")
    width = 300 + 330 * len(tables)
    figure = Figure(figsize=(width / DPI, (120 + 24 * len(regions)) / DPI), dpi=DPI, facecolor="white")
    figure.set_layout_engine("constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(tables), squeeze=False, sharey=True)[0]
    for axes, (name, rows) in zip(panels, tables.items(), strict=True):
        for row in rows:
            if row["kind"] != "region" or row["structure"] not in regions or not int(row["n_voxels"]):
                continue
            side = "LRB".index(row["hemisphere"])
            y = regions[row["structure"]] + (-0.14, 0.14, 0.0)[side]
            axes.plot([float(row["p5"]), float(row["p95"])], [y, y], color=COLOURS[side], lw=1.6)
            axes.plot([float(row["median"])], [y], marker="os^"[side], ms=5, color=COLOURS[side])
        unit = next((row["unit"] for row in rows), "")
        axes.set_title(name, fontsize=11, color=DARK, loc="left")
        axes.set_xlabel(unit, fontsize=10, color=DARK)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color="#e4e7ea", lw=0.7)
        axes.tick_params(labelsize=9, colors=DARK)
    panels[0].set_yticks(range(len(regions)), list(regions))
    panels[0].set_ylim(len(regions) - 0.5, -0.5)
    handles = [panels[0].plot([], [], marker="os^"[k], ls="-", color=COLOURS[k])[0] for k in range(3)]
    names = ("left", "right", "both or midline")
    figure.legend(handles, names, ncols=3, frameon=False, fontsize=9, labelcolor=DARK, loc="outside lower left")
    return write_png(encode_figure(figure), out_file)


def table_of(segmentation: str, name: str, rows: Sequence[Mapping[str, str]]) -> TableEntry:
    """The table of one map for the page.

    Parameters
    ----------
    segmentation, name : str
        Names of the segmentation and of the map.
    rows : sequence of mapping
        Rows of the ROI table, as text.
    """
    unit = next((row["unit"] for row in rows), "")
    cells = tuple((f"{row['name']}", *(_number(row.get(column, "")) for column, _ in SHOWN)) for row in rows)
    caption = f"{name} in {unit}, regions of {segmentation}"
    return TableEntry("roi", caption, ("region", *(head for _, head in SHOWN)), cells)


def _number(text: str) -> float | int | None:
    try:
        value = float(text)
    except ValueError:
        return None
    if not math.isfinite(value):
        return None
    return int(value) if text.isdigit() else value
