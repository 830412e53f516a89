"""Figures as data addresses inside the page, within a budget of bytes."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from qsmprep.reports.canvas import encode_png

SMALLEST_PX = 320


@dataclass(frozen=True)
class Picture:
    """A figure in the page: its data address and its size in pixels."""

    address: str
    width: int
    height: int


def embed_figures(out_dir: Path, files: tuple[str, ...], budget: int) -> dict[str, Picture]:
    """Read PNG figures and make each a data address; together they take at most ``budget`` bytes.

    Parameters
    ----------
    out_dir : Path
        Output folder; nothing outside it is read.
    files : tuple of str
        Paths relative to ``out_dir``.
    budget : int
        When the files are larger together, every one is made smaller by the same share, but never
        narrower than 320 pixels.

    Returns
    -------
    dict of str to Picture
        Without those that are missing, unreadable or not PNG.
    """
    found = {name: data for name in dict.fromkeys(files) if (data := _read(out_dir, name)) is not None}
    total = sum(map(len, found.values()))
    room = 0.74 * budget
    pictures = {}
    for name, data in found.items():
        fitted = data if total <= room else _shrink(data, int(len(data) * room / total))
        width, height = _size(fitted)
        pictures[name] = Picture("data:image/png;base64," + base64.b64encode(fitted).decode(), width, height)
    return pictures


def _read(out_dir: Path, name: str) -> bytes | None:
    path = (out_dir / name).resolve()
    if not path.is_relative_to(out_dir.resolve()):
        return None
    try:
        data = path.read_bytes()
        with Image.open(BytesIO(data)) as picture:
            picture.verify()
            return data if picture.format == "PNG" else None
    except (OSError, UnidentifiedImageError, SyntaxError, ValueError):
        return None


def _size(data: bytes) -> tuple[int, int]:
    with Image.open(BytesIO(data)) as picture:
        return picture.size


def _shrink(data: bytes, room: int) -> bytes:
    with Image.open(BytesIO(data)) as opened:
        picture = opened.convert("RGB")
    scale = 1.0
    while len(data) > room and picture.width * scale > SMALLEST_PX:
        scale *= 0.85
        size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
        data = encode_png(np.asarray(picture.resize(size, Image.Resampling.LANCZOS)), colours=96)
    return data
