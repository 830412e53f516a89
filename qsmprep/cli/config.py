"""Whether the values of a configuration file are of the kinds that the settings need."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from qsmprep.errors import UsageError
from qsmprep.settings import Settings, parse_memory_gb

LEVELS_OF_OUTPUT = ("minimal", "full")

SEGMENTATIONS = ("auto", "unetr", "first", "atlas", "none")
"""Where regions of interest come from."""

PRESETS: dict[str, dict[str, Any]] = {
    "pediatric": {
        "mask": "unetr",
        "unwrap": "laplacian",
        "background": "vsharp",
        "inversions": ["pedqnet"],
        "segmentation": "unetr",
    },
}
"""Settings that go together, by name; what is given on the command line or in a configuration file comes first."""

CHOICES: dict[str, tuple[Any, ...]] = {"level": LEVELS_OF_OUTPUT, "phase_sign": (1, -1), "segmentation": SEGMENTATIONS}


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_flag(value: Any) -> bool:
    return isinstance(value, bool)


def _is_table(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(item, dict) for item in value.values())


KINDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "str": (_is_text, "text"),
    "Path": (_is_text, "a path as text"),
    "Path | None": (_is_text, "a path as text"),
    "tuple[str, ...]": (_is_texts, 'a list of texts such as ["01", "02"]'),
    "tuple[Path, ...]": (_is_texts, 'a list of paths such as ["/data/masks"]'),
    "int": (_is_int, "a whole number"),
    "float": (_is_number, "a number"),
    "float | None": (_is_number, "a number"),
    "bool": (_is_flag, "true or false"),
    "bool | None": (_is_flag, "true or false"),
    "dict[str, dict[str, Any]]": (_is_table, 'an object of objects such as {"tkd": {"threshold": 0.2}}'),
}
"""What each type of :class:`~qsmprep.settings.Settings`, as it is written there, looks like in JSON and TOML."""


def check_settings(values: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Return the settings of a configuration file after checking their names and kinds.

    Parameters
    ----------
    values : mapping
        As read; null counts as left out. ``mem_gb`` may be text such as ``16G``.
    path : Path
        The file, for the message.

    Raises
    ------
    UsageError
        When a name is not known or a value is of the wrong kind.
    """
    fields = Settings.__dataclass_fields__
    unknown = sorted(set(values) - set(fields))
    if unknown:
        raise UsageError(f"unknown settings {', '.join(unknown)}", file=path, expected=", ".join(sorted(fields)))
    checked = {name: value for name, value in values.items() if value is not None}
    if _is_text(checked.get("mem_gb")):
        checked["mem_gb"] = parse_memory_gb(checked["mem_gb"])
    for name, value in checked.items():
        fits, expected = KINDS[str(fields[name].type)]
        if not fits(value):
            raise UsageError(f"the setting `{name}` is {value!r}", file=path, expected=expected)
        if name in CHOICES and value not in CHOICES[name]:
            raise UsageError(
                f"the setting `{name}` is {value!r}", file=path, expected=f"one of {', '.join(map(str, CHOICES[name]))}"
            )
    return checked
