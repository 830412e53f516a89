"""Drawing slices of volumes on one black sheet, and writing it as a small PNG in one step.

Only the object interface of matplotlib is used: no window, no global figure, safe in any process.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import Colormap, Normalize, to_rgb
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.patheffects import withStroke
from numpy.typing import NDArray
from PIL import Image

from qsmprep.bids.write import atomic
from qsmprep.reports.view import LETTERS, PLANES, View, cut, in_plane_axes

DPI = 100
WIDTH_PX = 1280
MAX_BYTES = 250_000
"""Largest PNG written; the colour levels, then the size, are reduced until it fits."""

INK = "#f2f2f2"
MUTED = "#a9b0b8"
TEAL = "#35d0c5"
ORANGE = "#ffab2e"

_GUTTER, _PAD, _GAP, _TITLE, _FOOT, _MAX_ROW = 96, 10, 6, 28, 18, 470
_TRIES = ((100, DPI), (72, DPI), (48, DPI), (32, DPI), (32, 85), (32, 72), (32, 60), (24, 48))
"""Colour levels and dots per inch, from the best to the smallest."""


@dataclass(frozen=True)
class Strip:
    """One row of slices with one colour scale.

    Parameters
    ----------
    title : str
        Said above the row.
    volume : (nx, ny, nz) array
        Canonical axes; NaN is drawn as background.
    slices : tuple of (plane, index)
    window : (float, float)
        Values at the two ends of the colour scale.
    unit : str
        Said above the colour bar.
    cmap : str
    contours : tuple of (mask, colour, label)
        Outlines of canonical masks.
    smooth : bool
        Whether in-between values may be interpolated (never for wrapped phase).
    ticks : dict of float to str
        Marks of the colour bar; matplotlib's choice when empty.
    """

    title: str
    volume: NDArray
    slices: tuple[tuple[str, int], ...]
    window: tuple[float, float]
    unit: str
    cmap: str = "gray"
    contours: tuple[tuple[NDArray[np.bool_], str, str], ...] = ()
    smooth: bool = True
    ticks: dict[float, str] = field(default_factory=dict)


def save_strips(
    view: View,
    box: tuple[slice, slice, slice],
    strips: list[Strip],
    out_file: str | Path,
    *,
    max_bytes: int = MAX_BYTES,
) -> Path:
    """Draw strips below one another and write them as a palette PNG, whole or not at all.

    Every strip is as wide as the sheet and true to scale in mm. The number of colour levels, then
    the resolution, is reduced until the file has at most ``max_bytes``.

    Raises
    ------
    CannotWriteError
        When the folder or the file cannot be written.
    """
    data, first = b"", _TRIES[0]
    for levels, dpi in _TRIES:
        expected = len(data) * (dpi / first[1]) ** 2 * math.log(levels) / math.log(first[0])
        if expected > 1.2 * max_bytes and (levels, dpi) != _TRIES[-1]:
            continue  # it would hardly fit either
        maps = {strip.cmap for strip in strips}
        palette = np.concatenate([_colours(name, levels)(np.arange(levels))[:, :3] for name in sorted(maps)])
        data = encode_figure(draw_strips(view, box, strips, levels=levels, dpi=dpi), palette)
        if len(data) <= max_bytes:
            break
        first = (levels, dpi)
    return write_png(data, out_file)


def draw_strips(
    view: View, box: tuple[slice, slice, slice], strips: list[Strip], *, levels: int = 256, dpi: int = DPI
) -> Figure:
    """The sheet as a matplotlib figure."""
    scales = [_strip_scale(view, box, strip) for strip in strips]
    heights = [
        max(_panel_mm(view, box, plane)[1] for plane, _ in strip.slices) * scale
        for strip, scale in zip(strips, scales, strict=True)
    ]
    total = _PAD + sum(_TITLE + h + _FOOT for h in heights)
    figure = Figure(figsize=(WIDTH_PX / DPI, total / DPI), dpi=dpi, facecolor="black")
    FigureCanvasAgg(figure)
    top, marked = total - _PAD, set[str]()
    for strip, scale, height in zip(strips, scales, heights, strict=True):
        _draw_title(figure, strip, top, total)
        _draw_row(figure, view, box, strip, levels, (scale, top - _TITLE - height, height, total), marked)
        top -= _TITLE + height + _FOOT
    return figure


def _panel_mm(view: View, box: tuple[slice, slice, slice], plane: str) -> tuple[float, float]:
    right, up = in_plane_axes(plane)
    extent = [(s.stop - s.start) * mm for s, mm in zip(box, view.grid.voxel_mm, strict=True)]
    return extent[right], extent[up]


def _strip_scale(view: View, box: tuple[slice, slice, slice], strip: Strip) -> float:
    """Pixels per mm at which the strip fills the width, unless it would grow too high."""
    sizes = [_panel_mm(view, box, plane) for plane, _ in strip.slices]
    room = WIDTH_PX - _GUTTER - 2 * _PAD - (len(sizes) - 1) * _GAP
    return min(room / sum(w for w, _ in sizes), _MAX_ROW / max(h for _, h in sizes))


def _draw_title(figure: Figure, strip: Strip, top: float, total: float) -> None:
    y = (top - _TITLE * 0.42) / total
    text = figure.text(_PAD / WIDTH_PX, y, strip.title, color=INK, fontsize=10.5, va="center", ha="left")
    renderer = figure.canvas.get_renderer()  # type: ignore[attr-defined]
    for _, colour, label in strip.contours:
        if label:
            x = (text.get_window_extent(renderer).x1 * DPI / figure.dpi + 20) / WIDTH_PX
            text = figure.text(x, y, f"■ {label}", color=colour, fontsize=9.5, va="center", ha="left")


def _draw_row(
    figure: Figure,
    view: View,
    box: tuple[slice, slice, slice],
    strip: Strip,
    levels: int,
    place: tuple[float, float, float, float],
    marked: set[str],
) -> None:
    scale, bottom, height, total = place
    x, seen = float(_PAD), set[str]()
    for plane, index in strip.slices:
        w_mm, h_mm = _panel_mm(view, box, plane)
        w, h = w_mm * scale, h_mm * scale
        y = bottom + (height - h) / 2
        axes = figure.add_axes((x / WIDTH_PX, y / total, w / WIDTH_PX, h / total))
        image = _draw_slice(axes, view, box, strip, (plane, index), levels, scale)
        if plane not in seen:
            _draw_letters(axes, plane)
        if plane not in marked:
            _draw_b0(axes, view, plane, (w, h))
        seen.add(plane)
        marked.add(plane)
        x += w + _GAP
    bar_height = min(height * 0.72, 190)
    y = bottom + (height - bar_height) / 2 - 6
    cax = figure.add_axes(((x + 8) / WIDTH_PX, y / total, 12 / WIDTH_PX, bar_height / total))
    _draw_colour_bar(figure, image, cax, strip.unit, strip.ticks)


def _draw_slice(
    axes: Axes,
    view: View,
    box: tuple[slice, slice, slice],
    strip: Strip,
    where: tuple[str, int],
    levels: int,
    scale: float,
) -> AxesImage:
    plane, index = where
    w_mm, h_mm = _panel_mm(view, box, plane)
    extent = (0.0, w_mm, 0.0, h_mm)
    enlarged = scale * min(view.grid.voxel_mm[a] for a in in_plane_axes(plane)) >= 2
    image = axes.imshow(
        np.ma.masked_invalid(cut(strip.volume, plane, index, box)),
        cmap=_colours(strip.cmap, levels),
        norm=Normalize(*strip.window),
        origin="lower",
        extent=extent,
        aspect="auto",
        interpolation="nearest" if enlarged or not strip.smooth else "auto",
        interpolation_stage="data",
    )
    for mask, colour, _ in strip.contours:
        outline = cut(mask, plane, index, box)
        if outline.any() and not outline.all():
            axes.contour(outline.astype(float), [0.5], colors=[colour], linewidths=0.9, extent=extent)
    axes.set_axis_off()
    label = f"{'xyz'[PLANES[plane]]} = {view.position_mm(plane, index):.0f} mm".replace("-", "−")
    axes.annotate(
        label, (0.5, 0), (0, -1), "axes fraction", "offset points", color=MUTED, fontsize=7, ha="center", va="top"
    )
    return image


def _colours(cmap: str, levels: int) -> Colormap:
    return matplotlib.colormaps[cmap].resampled(levels).with_extremes(bad=(0, 0, 0, 1))


def _draw_letters(axes: Axes, plane: str) -> None:
    low, high = LETTERS[in_plane_axes(plane)[0]]
    for letter, x, side in ((low, 0.01, "left"), (high, 0.99, "right")):
        axes.text(x, 0.985, letter, transform=axes.transAxes, color=INK, fontsize=10, weight="bold", ha=side, va="top")


def _draw_b0(axes: Axes, view: View, plane: str, size_px: tuple[float, float]) -> None:
    """The direction of B0 in the lower right corner: an arrow, or a circle when it runs through the plane."""
    right, up, towards = view.b0_in_plane(plane)
    length = min(24.0, 0.16 * min(size_px))
    x, y = size_px[0] - 8 - length * max(right, 0.0), 4.0 - length * min(up, 0.0)

    def at(x_px: float, y_px: float) -> tuple[float, float]:
        return x_px / size_px[0], y_px / size_px[1]

    if np.hypot(right, up) < 0.4:
        ring, dot = at(x, y + 5), "." if towards >= 0 else "x"
        axes.plot(*ring, "o", mec=ORANGE, mfc="none", ms=8, transform=axes.transAxes)
        axes.plot(*ring, dot, color=ORANGE, ms=4, transform=axes.transAxes)
    else:
        arrow = {"arrowstyle": "-|>", "color": ORANGE, "lw": 1.3, "shrinkA": 0, "shrinkB": 0}
        tip = at(x + length * right, y + length * up)
        axes.annotate("", tip, at(x, y), "axes fraction", "axes fraction", arrowprops=arrow)
    name = at(x - 8 + length * min(right, 0.0), y + 5)
    halo = [withStroke(linewidth=2.5, foreground="black")]
    axes.text(
        *name, "$B_0$", transform=axes.transAxes, color=ORANGE, fontsize=8.5, ha="right", va="center", path_effects=halo
    )


def _draw_colour_bar(figure: Figure, image: AxesImage, cax: Axes, unit: str, ticks: dict[float, str]) -> None:
    """A vertical colour bar in light ink with the unit above it."""
    bar = figure.colorbar(image, cax=cax)
    if ticks:
        bar.set_ticks(list(ticks), labels=list(ticks.values()))
    bar.outline.set_edgecolor(MUTED)
    bar.outline.set_linewidth(0.6)
    cax.tick_params(colors=INK, labelsize=8.5, length=3, width=0.6)
    cax.set_title(unit, color=INK, fontsize=9, pad=7, loc="left")


def encode_figure(figure: Figure, palette: NDArray[np.floating] | None = None) -> bytes:
    """Render a figure and encode it as a palette PNG; ``palette`` (n, 3), 0 to 1, is kept exactly."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    inks = np.array([to_rgb(c) for c in (INK, MUTED, TEAL, ORANGE, "black")])
    greys = np.linspace(0, 1, 16)[:, None].repeat(3, axis=1)
    fixed = np.concatenate([inks, greys] if palette is None else [inks, greys, palette])
    return encode_png(np.asarray(canvas.buffer_rgba())[..., :3], np.round(255 * fixed).astype(np.uint8))


def encode_png(rgb: NDArray[np.uint8], fixed: NDArray[np.uint8] | None = None, colours: int = 256) -> bytes:
    """Encode an RGB picture with a palette of those of its colours that matter.

    Parameters
    ----------
    rgb : (height, width, 3) uint8 array
    fixed : (n, 3) uint8 array, optional
        Colours kept exactly where they occur; the most frequent others fill the palette up, and
        what is left goes to the nearest colour of the palette.
    colours : int
        2 to 256.

    Returns
    -------
    bytes
        A PNG file, the same for the same picture.
    """
    pack = np.array([65536, 256, 1], dtype=np.uint32)
    packed = rgb.astype(np.uint32) @ pack
    found, inverse, counts = np.unique(packed, return_inverse=True, return_counts=True)
    if fixed is not None:
        counts = counts + packed.size * np.isin(found, fixed.astype(np.uint32) @ pack)
    keep = np.sort(np.argsort(-counts, kind="stable")[:colours])
    shades = np.stack([found >> 16, (found >> 8) & 255, found & 255], axis=1).astype(np.float32)
    palette = shades[keep]
    distance = (palette**2).sum(1) - 2 * shades @ palette.T
    nearest = distance.argmin(axis=1).astype(np.uint8)
    picture = Image.fromarray(nearest[inverse].reshape(packed.shape))
    picture.putpalette(palette.astype(np.uint8).tobytes())
    buffer = BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def write_png(data: bytes, out_file: str | Path) -> Path:
    """Write an encoded picture, whole or not at all.

    Raises
    ------
    CannotWriteError
        When the file system refuses.
    """
    with atomic(Path(out_file)) as stream:
        stream.write(data)
    return Path(out_file)
