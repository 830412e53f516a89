"""The card of a weight file: what the network is, what it was trained on, how it scores, and its limits.

Light on purpose: reading a card needs neither torch nor the weight file.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qsmprep.core.grid import Grid
from qsmprep.core.methods import METHODS
from qsmprep.errors import DataError, MissingFileError, UsageError
from qsmprep.settings import Settings

FORMAT = 1
"""Version of cards and weight files that this version of the program reads."""

FOLDER = Path(__file__).resolve().parents[1] / "data" / "weights"
"""Where the shipped weights and their cards are."""

SUFFIX = ".safetensors"
"""Of weight files."""

RANGES = ("in_plane_mm", "slice_mm", "tilt_deg", "noise_ppm")
"""What a card states ranges of."""

FAR = 2.0
"""Factor beyond a range of voxel edges from where it is called far outside."""

SLACK = 0.01
"""Relative tolerance of the ranges, for voxel sizes that an affine rounds."""


@dataclass(frozen=True)
class Card:
    """What is known of a weight file; stored as JSON beside it.

    Parameters
    ----------
    network : str
        The architecture, see :mod:`qsmprep.networks.zoo`.
    title : str
        Its name in prose.
    config : dict
        Arguments of its class.
    parameters : int
        Number of trained parameters.
    sha256 : str
        Of the weight file, in hexadecimal digits.
    inputs, unit, scaling : str
        What the network is given, in which unit, scaled how.
    ranges : dict
        Lowest and highest value that was trained on, of each of `RANGES`.
    training : dict
        Command, recipe, seed, steps, batch, patches, hardware, minutes, data, commit, date.
    scores : dict
        Measured on heads that were never trained on.
    limits : tuple of str
        What it must not be trusted with, one sentence each.
    format : int
        See `FORMAT`.
    """

    network: str
    title: str
    config: dict[str, Any]
    ranges: dict[str, tuple[float, float]]
    training: dict[str, Any] = field(default_factory=dict)
    scores: dict[str, Any] = field(default_factory=dict)
    limits: tuple[str, ...] = ()
    inputs: str = "local field and mask"
    unit: str = "ppm"
    scaling: str = "the field is divided by its robust spread in the mask, the map multiplied with it"
    parameters: int = 0
    sha256: str = ""
    format: int = FORMAT

    def to_json(self) -> str:
        """As indented JSON."""
        return json.dumps(dataclasses.asdict(self), indent=2, allow_nan=False) + "\n"

    @property
    def steps(self) -> int:
        """Optimiser steps of its training; 0 where the card does not say."""
        return int(self.training.get("steps") or 0)

    @property
    def code(self) -> str:
        """The first twelve digits of the checksum of its weights."""
        return self.sha256[:12]


def card_path(name: str, folder: str | Path | None = None) -> Path:
    """Where the card of some weights is looked for; empty or None means among those shipped."""
    return Path(folder or FOLDER) / f"{name}.json"


def read_card(name: str, folder: str | Path | None = None) -> Card:
    """The card of the weights of that name.

    Raises
    ------
    MissingFileError
        When there is no such card; the message names the command that makes it.
    DataError
        When it is no card, one of another version, or its content does not fit.
    """
    path = card_path(name, folder)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise missing(name, path) from None
    except (OSError, ValueError, RecursionError) as problem:
        raise DataError(f"the card of the network cannot be read ({problem})", file=path, expected="JSON") from None
    return parse_card(content, path)


def find_weights(name: str, folder: str | Path | None = None) -> Card:
    """The card of the weights of that name, after a look whether the weights are there; without reading them.

    Raises
    ------
    MissingFileError, DataError
        See :func:`read_card`.
    """
    card, path = read_card(name, folder), card_path(name, folder).with_suffix(SUFFIX)
    if not path.is_file():
        raise missing(name, path)
    return card


def check_weights(settings: Settings) -> None:
    """Refuse a run whose networks have no weights, or weights that a step in its own folder would not find.

    Raises
    ------
    UsageError, MissingFileError, DataError
        Naming the method and the folder.
    """
    for step, name in (*settings.chosen(), ("mask", "auto")):  # T1w images take that, whatever --mask says
        method = METHODS.get(step, name)
        if not method.learned or getattr(settings.params(step, name), "share", 1.0) == 0:
            continue
        folder = settings.params(step, name).weights
        if folder and not Path(folder).is_absolute():
            raise UsageError(f"`{name}.weights` is {folder!r}", expected="an absolute path")
        find_weights(method.model or name, folder)


def missing(name: str, path: Path) -> MissingFileError:
    """The error for weights or a card that are not there."""
    return MissingFileError(
        f"the trained weights of `{name}` are not there",
        file=path,
        remedy=f"train them with `qsmprep-train {name}` and export them, or give the folder that holds them "
        f"as the parameter {name}.weights",
    )


def parse_card(content: Any, path: Path | None = None) -> Card:
    """A card from the content of its file.

    Raises
    ------
    DataError
        See :func:`read_card`.
    """
    if not isinstance(content, Mapping):
        raise DataError("the card of the network is no JSON object", file=path, expected="the fields of a card")
    if content.get("format") != FORMAT:
        raise DataError(
            f"the weights are of format {content.get('format')!r}",
            file=path,
            expected=f"format {FORMAT}",
            remedy="use the weights that came with this version of qsmprep, or train them again",
        )
    kinds: dict[str, Any] = {
        "network": str, "title": str, "config": dict, "ranges": dict, "training": dict, "scores": dict,
        "limits": list, "inputs": str, "unit": str, "scaling": str, "parameters": int, "sha256": str, "format": int,
    }  # fmt: skip
    for name, kind in kinds.items():
        if not isinstance(content.get(name), kind):
            raise DataError(
                f"the entry `{name}` of the card is {content.get(name)!r}", file=path, expected=f"a {kind.__name__}"
            )
    if not re.fullmatch(r"[0-9a-f]{64}", content["sha256"]):
        raise DataError("the checksum on the card is none", file=path, expected="64 hexadecimal digits")
    known = {name: content[name] for name in kinds}
    ranges = {name: _range(name, content["ranges"].get(name), path) for name in RANGES}
    return Card(**{**known, "ranges": ranges, "limits": tuple(map(str, content["limits"]))})


def _range(name: str, value: Any, path: Path | None) -> tuple[float, float]:
    """Two numbers in order."""
    numbers = isinstance(value, (list, tuple)) and len(value) == 2
    if not numbers or not all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in value):
        raise DataError(f"the range `{name}` of the card is {value!r}", file=path, expected="two numbers")
    low, high = float(value[0]), float(value[1])
    if not low <= high:
        raise DataError(f"the range `{name}` of the card is {value!r}", file=path, expected="the lower number first")
    return low, high


def outside(card: Card, grid: Grid, noise_ppm: float) -> list[str]:
    """What of the data lies outside of what the network was trained on, one sentence each.

    Parameters
    ----------
    card : Card
        Of the network.
    grid : Grid
        Of the data. The two shorter voxel edges count as the plane, the longest as the slice.
    noise_ppm : float
        Fine-grained part of the field, see :func:`qsmprep.networks.geometry.noise_ratio`. Only more
        than was trained on is told: a network loses nothing where there is less.
    """
    told = []
    short, middle, long = sorted(grid.voxel_mm)
    for name, values, what in (
        ("in_plane_mm", (short, middle), "in-plane voxel edge"),
        ("slice_mm", (long,), "longest voxel edge"),
    ):
        low, high = card.ranges[name]
        worst = max(values, key=lambda edge: max(low / edge, edge / high))
        factor = max(low / worst, worst / high)
        if factor > 1 + SLACK:
            far = "far " if factor > FAR else ""
            told.append(f"the {what} of {worst:.3g} mm is {far}outside of the {low:g} to {high:g} mm trained on")
    low, high = card.ranges["tilt_deg"]
    if grid.tilt_deg > high + 1:
        told.append(f"the tilt of {grid.tilt_deg:.0f} degrees is outside of the {low:g} to {high:g} degrees trained on")
    low, high = card.ranges["noise_ppm"]
    if noise_ppm > high * (1 + SLACK):
        told.append(f"the noise of the field, up to {noise_ppm:.2g} ppm, may exceed the {high:g} ppm trained on")
    return told
