"""Sidecars: BIDS inheritance, and numbers that were stored as text."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qsmprep.bids.entities import ENTITIES, BidsName
from qsmprep.errors import DataError, MissingFileError, QSMPrepError

MAX_JSON_BYTES = 16 << 20
"""Longest JSON file that is read; a sidecar has a few kilobytes."""

NUMERIC_KEYS = (
    "EchoTime",
    "MagneticFieldStrength",
    "RepetitionTime",
    "RepetitionTimeExcitation",
    "FlipAngle",
    "ImagingFrequency",
)
"""Keys that hold one number in the images that are read here."""


_POLARITY = re.compile(r"(?:bi|mono|uni)polar")


@dataclass(frozen=True)
class Merged:
    """The sidecars of one image, merged.

    Parameters
    ----------
    values : dict
        Keys and values; those nearer to the image win.
    problems : tuple of QSMPrepError
        Sidecars that cannot be read.
    warnings : tuple of str
        Numbers that were stored as text.
    """

    values: dict[str, Any] = field(default_factory=dict)
    problems: tuple[QSMPrepError, ...] = ()
    warnings: tuple[str, ...] = ()


class SidecarStore:
    """The JSON files of a data set, each read once and only when asked for.

    Parameters
    ----------
    root : Path
        The data set.
    sidecars : iterable of Path
        Every JSON file that may describe an image.
    """

    def __init__(self, root: Path, sidecars: Iterable[Path]) -> None:
        self._read: dict[Path, dict[str, Any] | QSMPrepError] = {}
        self._by_place: dict[tuple[Path, str], list[tuple[Path, frozenset[tuple[str, str]]]]] = {}
        self._root = root
        for path in sidecars:
            entities, suffix = _sidecar_name(path)
            self._by_place.setdefault((path.parent, suffix), []).append((path, entities))

    def merged(self, image: BidsName) -> Merged:
        """Merge what applies to an image by the inheritance principle.

        A sidecar applies when its suffix is that of the image, its entities are among the image's,
        and it lies in the image's folder or above it. Nearer folders win, then the more specific name.
        """
        own = {(name, plain_index(name, value)) for name, value in image.entities}
        values: dict[str, Any] = {}
        problems: list[QSMPrepError] = []
        for folder in self._folders(image.path.parent):
            applicable = [item for item in self._by_place.get((folder, image.suffix), []) if item[1] <= own]
            for path, _ in sorted(applicable, key=lambda item: (len(item[1]), item[0].name)):
                content = self._content(path)
                if isinstance(content, QSMPrepError):
                    problems.append(content)
                else:
                    values.update(content)
        values, warnings = as_numbers(values, image.path.name)
        return Merged(values, tuple(problems), warnings)

    def _folders(self, folder: Path) -> list[Path]:
        """From the root of the data set down to the folder."""
        below = folder.relative_to(self._root).parts
        return [self._root.joinpath(*below[:depth]) for depth in range(len(below) + 1)]

    def _content(self, path: Path) -> dict[str, Any] | QSMPrepError:
        if path not in self._read:
            try:
                self._read[path] = read_json(path)
            except QSMPrepError as error:
                self._read[path] = error
        return self._read[path]


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Parameters
    ----------
    path : Path
        A UTF-8 file; a byte-order mark is tolerated.

    Raises
    ------
    MissingFileError
        When the file is absent, no regular file, cannot be opened, or is a link to nothing.
    DataError
        When it is not valid JSON, or not an object, or nested or long beyond all use.
    """
    try:
        if path.exists() and not path.is_file():
            raise OSError("it is no regular file")
        if path.stat().st_size > MAX_JSON_BYTES:
            what = f"the JSON file has {path.stat().st_size} bytes"
            raise DataError(what, file=path, expected=f"at most {MAX_JSON_BYTES}")
        text = path.read_text(encoding="utf-8-sig")
        content = json.loads(text)
        if "\\ud" in text.lower():  # halves of characters, which no file or terminal takes
            content = json.loads(json.dumps(content, ensure_ascii=False).encode("utf-8", "replace"))
    except OSError as error:
        raise MissingFileError(
            f"the sidecar cannot be read ({error.strerror or error})",
            file=path,
            remedy="check that the file is there and readable; `datalad get` it where it is a link",
        ) from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"the file is not valid JSON ({error})", file=path, expected="a JSON object") from error
    if not isinstance(content, dict):
        raise DataError("the JSON file holds no object", file=path, expected="{ ... } with metadata keys")
    return content


def as_numbers(values: Mapping[str, Any], name: str) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Turn numbers stored as text, or as a list of one, into numbers.

    Parameters
    ----------
    values : mapping
        Merged metadata.
    name : str
        Name of the image, for the warnings.

    Returns
    -------
    (dict, tuple of str)
        A copy with numbers, and one warning for each value that was turned.
    """
    numbers = dict(values)
    warnings = []
    for key in NUMERIC_KEYS:
        value = numbers.get(key)
        single = value[0] if isinstance(value, list) and len(value) == 1 else value
        if isinstance(single, str):
            try:
                number = float(single.strip())
            except ValueError:
                continue
            if math.isfinite(number):
                single = number
        if single is not value:
            numbers[key] = single
            warnings.append(f"{key} of {name} is stored as {json.dumps(value)}; read as the number {single}")
    return numbers, tuple(warnings)


READOUT_KEYS = ("ReadoutMode", "PulseSequenceDetails", "PulseSequenceType", "SequenceName", "ScanOptions")
"""Keys in which converters and people write how the echoes were read out; none is required by BIDS."""


def readout_of(values: Mapping[str, Any]) -> str:
    """``bipolar`` or ``monopolar`` where a sidecar says so in words, else empty.

    Parameters
    ----------
    values : mapping
        Merged metadata of an image.
    """
    text = " ".join(str(values[key]) for key in READOUT_KEYS if key in values).lower()
    found = {"monopolar" if word in ("monopolar", "unipolar") else word for word in _POLARITY.findall(text)}
    return found.pop() if len(found) == 1 else ""


def finite_number(value: Any) -> float | None:
    """The value as a finite float, or None when it is not a number."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def _sidecar_name(path: Path) -> tuple[frozenset[tuple[str, str]], str]:
    """Entities and suffix of a sidecar, which may lack every entity (``MEGRE.json`` at the root)."""
    *chunks, suffix = path.name.removesuffix(".json").split("_")
    pairs = [tuple(chunk.partition("-")[::2]) for chunk in chunks]
    return frozenset((name, plain_index(name, value)) for name, value in pairs), suffix


def plain_index(name: str, value: str) -> str:
    """Indices are compared as numbers: ``echo-01`` of an image takes the sidecar of ``echo-1``."""
    is_index = name in ("run", "echo", "flip", "inv", "split", "chunk") and name in ENTITIES
    return str(int(value)) if is_index and re.fullmatch(r"[0-9]{1,18}", value) else value
