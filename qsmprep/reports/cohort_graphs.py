"""The graphs of a cohort: effects over regions, groups, and susceptibility against age with published curves."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from qsmprep.errors import DataError
from qsmprep.reports.canvas import DPI, encode_figure, write_png
from qsmprep.reports.graphs import COLOURS, DARK

MARKERS = ("o", "s", "^", "D", "v", "P")
MAX_GROUPS = len(COLOURS)
GREY = "#8a9099"
MAX_NAMED = 4
"""Most scans that are named in one panel; the table has all."""


@dataclass(frozen=True)
class Effect:
    """One coefficient of one region: its name, effect size with interval, and whether it stands the correction."""

    label: str
    size: float
    low: float
    high: float
    significant: bool


@dataclass(frozen=True)
class Points:
    """Measurements of one group in one panel: ``x`` is the age in years (or unused), ``y`` the statistic."""

    group: str
    x: NDArray[np.float64]
    y: NDArray[np.float64]


@dataclass(frozen=True)
class Panel:
    """One structure: its points by group, and a curve behind them."""

    title: str
    points: Sequence[Points]
    curve_x: NDArray[np.float64] | None = None
    curve_y: NDArray[np.float64] | None = field(default=None)


@dataclass(frozen=True)
class Spread:
    """One metric of all scans: who has which value, who is named, and the limits (NaN where there are none)."""

    title: str
    unit: str
    names: Sequence[str]
    values: NDArray[np.float64]
    flagged: NDArray[np.bool_]
    low: float
    high: float


def plot_spreads(panels: Sequence[Spread], out_file: str | Path) -> Path:
    """Every scan's value of every metric, with medians, quartiles and limits; who is flagged is named.

    Raises
    ------
    DataError
        When there is no panel.
    CannotWriteError
        When the file cannot be written.
    """
    figure, axes = _grid_of(panels, 190)
    for axis, panel in zip(axes, panels, strict=False):
        side = _spread(panel.values)
        for flag, colour, marker, size in ((False, COLOURS[0], "o", 9), (True, COLOURS[1], "D", 20)):
            chosen = panel.flagged == flag
            axis.scatter(panel.values[chosen], side[chosen], s=size, color=colour, marker=marker, alpha=0.6, lw=0)
        low, middle, high = np.percentile(panel.values, [25, 50, 75])
        axis.plot([middle, middle], [-0.32, 0.32], color=DARK, lw=2)
        axis.plot([low, high], [0, 0], color=DARK, lw=1.2)
        for limit in (panel.low, panel.high):
            if np.isfinite(limit):
                axis.axvline(limit, color=COLOURS[1], lw=1, ls="--")
        for number, at in enumerate(np.flatnonzero(panel.flagged)[:MAX_NAMED]):
            place = (panel.values[at], side[at])
            offset = (0, 7 if number % 2 else -13)
            axis.annotate(_plain(panel.names[at]), place, offset, textcoords="offset points", fontsize=7.5, ha="center")
        axis.set_yticks([])
        axis.set_ylim(-0.5, 0.5)
        axis.margins(x=0.12)
        axis.set_title(_plain(textwrap.fill(panel.title, 44)), fontsize=9.5, color=DARK, loc="left")
        axis.set_xlabel(_plain(panel.unit), fontsize=9)
    return write_png(encode_figure(figure), out_file)


def plot_effects(effects: Sequence[Effect], title: str, out_file: str | Path) -> Path:
    """Effect sizes of one term over all regions, with 95 % intervals (a forest plot).

    Raises
    ------
    DataError
        When there is no effect.
    CannotWriteError
        When the file cannot be written.
    """
    if not effects:
        raise DataError("no effect is given", expected="at least one")
    height = 110 + 26 * len(effects)
    figure, (axes,) = _panels(1, 1, 820, height)
    for row, effect in enumerate(effects):
        colour = COLOURS[1] if effect.significant else COLOURS[0]
        axes.plot([effect.low, effect.high], [row, row], color=colour, lw=1.8)
        axes.plot([effect.size], [row], marker="o" if effect.significant else "s", color=colour, ms=5.5)
    axes.axvline(0, color=DARK, lw=0.7)
    axes.set_yticks(range(len(effects)), [_plain(effect.label) for effect in effects])
    axes.set_ylim(len(effects) - 0.4, -0.6)
    axes.set_xlabel("effect size with 95 % interval (residual standard deviations)")
    axes.set_title(_plain(title), fontsize=12, color=DARK, loc="left")
    handles = [axes.plot([], [], marker=m, ls="-", color=c)[0] for m, c in (("o", COLOURS[1]), ("s", COLOURS[0]))]
    names = ["p < 0.05 after correction over regions", "not"]
    place = {"loc": "lower right", "bbox_to_anchor": (1.0, 1.0), "ncols": 2, "borderaxespad": 0.2}  # beside the title
    axes.legend(handles, names, frameon=False, fontsize=9, labelcolor=DARK, **place)
    return write_png(encode_figure(figure), out_file)


def plot_groups(panels: Sequence[Panel], label: str, out_file: str | Path) -> Path:
    """Every measurement by group, one panel a region, with medians and quartiles of those that are numbers.

    Raises
    ------
    DataError
        When there is no panel.
    CannotWriteError
        When the file cannot be written.
    """
    figure, axes = _grid_of(panels)
    for axis, panel in zip(axes, panels, strict=False):
        counts: list[int] = []
        for place, points in enumerate(panel.points):
            colour = COLOURS[place % MAX_GROUPS]
            y = points.y[np.isfinite(points.y)]
            counts.append(y.size)
            if not y.size:
                continue
            axis.scatter(place + _spread(y), y, s=9, color=colour, alpha=0.45, lw=0, rasterized=True)
            low, middle, high = np.percentile(y, [25, 50, 75])
            axis.plot([place - 0.28, place + 0.28], [middle, middle], color=DARK, lw=2)
            axis.plot([place, place], [low, high], color=DARK, lw=1.2)
        names = [f"{_plain(points.group)}\n(n={n})" for points, n in zip(panel.points, counts, strict=True)]
        axis.set_xticks(range(len(names)), names)
        axis.set_xlim(-0.6, len(names) - 0.4)
        axis.set_title(_plain(panel.title), fontsize=11, color=DARK, loc="left")
        axis.set_ylabel(_plain(label), fontsize=9)
    return write_png(encode_figure(figure), out_file)


def plot_age(panels: Sequence[Panel], label: str, curve_name: str, out_file: str | Path) -> Path:
    """Every measurement against age, one panel a structure, with the published curve behind.

    Raises
    ------
    DataError
        When there is no panel.
    CannotWriteError
        When the file cannot be written.
    """
    figure, axes = _grid_of(panels)
    shown: Mapping[str, object] = {}
    for axis, panel in zip(axes, panels, strict=False):
        if panel.curve_x is not None and panel.curve_y is not None:
            axis.plot(panel.curve_x, panel.curve_y, color=GREY, lw=4, alpha=0.6, label=curve_name, zorder=1)
        for place, points in enumerate(panel.points):
            axis.scatter(
                points.x,
                points.y,
                s=14,
                marker=MARKERS[place % len(MARKERS)],
                color=COLOURS[place % MAX_GROUPS],
                alpha=0.6,
                lw=0,
                label=_plain(points.group),
                zorder=2,
            )
        axis.set_title(_plain(panel.title), fontsize=11, color=DARK, loc="left")
        axis.set_xlabel("age (years)", fontsize=9)
        axis.set_ylabel(_plain(label), fontsize=9)
        handles, names = axis.get_legend_handles_labels()
        shown = {**dict(zip(names, handles, strict=True)), **shown}
    figure.legend(
        list(shown.values()), list(shown), frameon=False, fontsize=9, labelcolor=DARK, ncols=3, loc="outside lower left"
    )
    return write_png(encode_figure(figure), out_file)


def _plain(text: str) -> str:
    """A text that matplotlib draws as it is written: no dollar begins a formula."""
    return text.replace("$", r"\$")


def _spread(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Sideways offsets that keep points apart, the same at every run."""
    rank = np.argsort(np.argsort(values, kind="stable"), kind="stable")
    return 0.22 * (((rank * 0.61803398875) % 1.0) * 2 - 1)


def _grid_of(panels: Sequence[Panel] | Sequence[Spread], height: int = 270) -> tuple[Figure, list[Axes]]:
    if not panels:
        raise DataError("no panel is given", expected="at least one")
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    figure, axes = _panels(rows, columns, 330 * columns if columns > 1 else 560, height * rows + 40)
    for axis in axes[len(panels) :]:
        axis.set_visible(False)
    return figure, axes


def _panels(rows: int, columns: int, width: int, height: int) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    axes = list(np.ravel(figure.subplots(rows, columns, squeeze=False)))
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(labelsize=9, colors=DARK)
        axis.xaxis.label.set(size=10, color=DARK)
        axis.yaxis.label.set(size=10, color=DARK)
        axis.grid(color="#e4e7ea", lw=0.7)
        axis.set_axisbelow(True)
    return figure, axes
