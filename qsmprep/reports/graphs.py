"""The graphs of the report: histogram of chi, profile from the rim inwards, data consistency, implied kernel.

Drawn in dark ink on white, for print; the page inverts them in dark mode.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray

from qsmprep.errors import DataError
from qsmprep.reports.canvas import DPI, encode_figure, write_png
from qsmprep.reports.qc import RimProfile

if TYPE_CHECKING:
    from qsmprep.core.kernel import KernelCheck  # needs torch, which pages do without

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")
"""Colours that people with colour-vision deficiency can tell apart (Okabe and Ito)."""

STYLES = ("-", "--", "-.", ":")
DARK = "#1d2127"


def plot_chi_histogram(
    maps: Mapping[str, ArrayLike], mask: ArrayLike, out_file: str | Path, *, window_ppm: float = 0.25
) -> Path:
    """Distribution of susceptibility inside the mask, one line an inversion.

    Parameters
    ----------
    maps : mapping of str to (nx, ny, nz) array
        Susceptibility in ppm by the name of the inversion.
    mask : (nx, ny, nz) bool array
        Where chi is defined.
    out_file : str or Path
        PNG to write.
    window_ppm : float
        Half width of the axis; how much lies beyond is said in the legend.

    Raises
    ------
    DataError
        No map, shapes that differ, an empty mask, no finite value.
    CannotWriteError
        When the file cannot be written.
    """
    if not maps:
        raise DataError("no susceptibility map is given", expected="at least one")
    figure, axes = _sheet()
    edges = np.linspace(-window_ppm, window_ppm, 126)
    for number, (name, chi) in enumerate(maps.items()):
        values = _inside(name, chi, mask)
        density = np.histogram(values, edges)[0] / values.size / np.diff(edges)
        beyond = 100 * float(np.mean(np.abs(values) > window_ppm))
        label = f"{name}: sd {values.std():.4f} ppm, {beyond:.1f} % outside"
        axes.stairs(density, edges, color=_colour(number), ls=STYLES[number % 4], lw=1.8, label=label)
    axes.axvline(0, color=DARK, lw=0.6)
    axes.set_xlim(-window_ppm, window_ppm)
    axes.set_ylim(0, None)
    axes.set_xlabel("susceptibility (ppm)")
    axes.set_ylabel("share of voxels per ppm")
    _legend(axes)
    return write_png(encode_figure(figure), out_file)


def plot_rim_profile(profiles: Mapping[str, RimProfile], out_file: str | Path) -> Path:
    """Mean and standard deviation of chi against the distance from the edge of the mask.

    Parameters
    ----------
    profiles : mapping of str to RimProfile
        By the name of the inversion; from :func:`qsmprep.reports.qc.rim_profile`.
    out_file : str or Path
        PNG to write.

    Raises
    ------
    DataError
        When no profile is given.
    CannotWriteError
        When the file cannot be written.
    """
    if not profiles:
        raise DataError("no rim profile is given", expected="at least one")
    figure, axes = _sheet()
    for number, (name, profile) in enumerate(profiles.items()):
        x, mean, spread = (np.asarray(v) for v in (profile.distance_mm, profile.mean_ppm, profile.sd_ppm))
        colour = _colour(number)
        axes.fill_between(x, mean - spread, mean + spread, color=colour, alpha=0.15, lw=0)
        axes.plot(x, mean, color=colour, ls=STYLES[number % 4], lw=1.8, marker="o", ms=3.5, label=name)
    axes.axhline(0, color=DARK, lw=0.6)
    axes.set_xlim(0, None)
    axes.set_xlabel("distance from the edge of the mask (mm)")
    axes.set_ylabel("susceptibility (ppm)")
    _legend(axes)
    return write_png(encode_figure(figure), out_file)


def plot_consistency(
    predicted_ppm: ArrayLike, measured_ppm: ArrayLike, mask: ArrayLike, out_file: str | Path, *, name: str = ""
) -> Path:
    """Local field predicted by a susceptibility map against the measured one, as a density of voxels.

    Parameters
    ----------
    predicted_ppm, measured_ppm : (nx, ny, nz) array
        Field in ppm of B0, for example from :func:`qsmprep.reports.qc.data_consistency`.
    mask : (nx, ny, nz) bool array
    out_file : str or Path
        PNG to write.
    name : str
        Name of the inversion.

    Raises
    ------
    DataError
        Shapes that differ, an empty mask, no finite value.
    CannotWriteError
        When the file cannot be written.
    """
    region = np.asarray(mask).astype(bool)
    finite = np.isfinite(np.asarray(predicted_ppm)) & np.isfinite(np.asarray(measured_ppm))
    predicted = _inside("predicted_ppm", predicted_ppm, region & finite)
    measured = _inside("measured_ppm", measured_ppm, region & finite)
    half = float(np.percentile(np.abs(np.concatenate([predicted, measured])), 99.8)) or 1.0
    figure, axes = _sheet(width=760, height=640)
    edges = np.linspace(-half, half, 121)
    counts, _, _ = np.histogram2d(measured, predicted, bins=(edges, edges))
    shown = np.ma.masked_equal(counts.T, 0)
    image = axes.pcolormesh(edges, edges, shown, cmap="cividis_r", norm=LogNorm(1, max(2.0, counts.max())))
    axes.plot([-half, half], [-half, half], color="#d55e00", lw=1.2, ls="--", label="identity")
    axes.set_aspect("equal")
    axes.set_xlabel("measured local field (ppm)")
    axes.set_ylabel(f"field predicted from {name or 'the map'} (ppm)")
    bar = figure.colorbar(image, ax=axes, shrink=0.8, pad=0.02)
    bar.set_label("voxels", fontsize=11, color=DARK)
    bar.outline.set_linewidth(0.6)
    _legend(axes)
    return write_png(encode_figure(figure), out_file)


def plot_kernel(check: KernelCheck, out_file: str | Path, *, name: str = "") -> Path:
    """Kernel that a map and its field imply, and that of the physics, against the angle to B0.

    Parameters
    ----------
    check : KernelCheck
        From :func:`qsmprep.core.kernel.check_kernel`.
    out_file : str or Path
        PNG to write.
    name : str
        Name of the inversion.

    Raises
    ------
    CannotWriteError
        When the file cannot be written.
    """
    figure, axes = _sheet()
    axes.plot(check.cos2, check.true, color=DARK, lw=1.6, ls="--", label="physics, within the mask")
    label = f"implied by {name or 'the map'} (error {100 * check.error:.0f} %)"
    axes.plot(check.cos2, check.implied, color=_colour(0), lw=1.8, marker="o", ms=3.5, label=label)
    axes.axhline(0, color=DARK, lw=0.6)
    axes.axvline(1 / 3, color=DARK, lw=0.6, ls=":")
    axes.set_xlim(0, 1)
    axes.set_xlabel("squared cosine of the angle between k and B0 (magic angle: 1/3)")
    axes.set_ylabel("kernel")
    axes.legend(frameon=False, fontsize=11, labelcolor=DARK, loc="upper right")
    return write_png(encode_figure(figure), out_file)


def _sheet(width: int = 960, height: int = 480) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=11, colors=DARK)
    axes.xaxis.label.set(size=12, color=DARK)
    axes.yaxis.label.set(size=12, color=DARK)
    axes.grid(color="#e4e7ea", lw=0.7)
    axes.set_axisbelow(True)
    return figure, axes


def _legend(axes: Axes) -> None:
    axes.legend(frameon=False, fontsize=11, labelcolor=DARK, loc="upper left")


def _colour(number: int) -> str:
    return COLOURS[number % len(COLOURS)]


def _inside(name: str, volume: ArrayLike, mask: ArrayLike) -> NDArray[np.float64]:
    array, region = np.asarray(volume), np.asarray(mask).astype(bool)
    if array.shape != region.shape:
        raise DataError(f"`{name}` has shape {array.shape}", expected=f"{region.shape}, the shape of the mask")
    values = array[region].astype(np.float64)
    values = values[np.isfinite(values)]
    if not values.size:
        raise DataError(f"`{name}` has no finite value inside the mask", expected="a finite volume and a mask")
    return values
