"""The pybids index of a data set, restricted to what can be needed."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qsmprep.bids.entities import ENTITIES, SHORT_NAMES, natural_key
from qsmprep.errors import InvalidBIDSError, MissingFileError, UsageError

if TYPE_CHECKING:
    from bids import BIDSLayout

IMAGE_EXTENSIONS = (".nii.gz", ".nii")
"""Images that are read."""

DATATYPE = "anat"
"""The folder in which gradient-echo images, T1w and masks are found."""

MAX_DIGITS = 18
"""Digits of the largest number that the index, which has 64 bits for one, is asked for."""

_INDICES = ("run", "echo", "flip", "inv", "split", "chunk")


def participant_labels(root: Path) -> tuple[str, ...]:
    """Labels of all participants that have a folder, without ``sub-``, in natural order.

    Raises
    ------
    InvalidBIDSError
        When the folder cannot be listed.
    """
    try:
        labels = [p.name[4:] for p in root.iterdir() if re.fullmatch(r"sub-[A-Za-z0-9+]+", p.name) and p.is_dir()]
    except OSError as error:
        raise InvalidBIDSError(f"the folder cannot be listed ({error.strerror})", file=root) from error
    return tuple(sorted(labels, key=natural_key))


def index_participants(root: Path, participants: Collection[str]) -> BIDSLayout:
    """Index the ``anat`` folders of the participants asked for, and the sidecars above them.

    Entities are taken from file names only. pybids by itself searches the whole absolute path, and
    would take the session of every file from a folder called ``ses-2`` above the data set. Hidden files,
    nested folders, and all other participants and datatypes are never opened.

    Parameters
    ----------
    root : Path
        Absolute path of the data set.
    participants : collection of str
        Labels without ``sub-``.

    Returns
    -------
    bids.BIDSLayout
        Without metadata (see `qsmprep.bids.metadata`).

    Raises
    ------
    MissingFileError
        When a folder may not be entered.
    """
    from bids import BIDSLayout, BIDSLayoutIndexer

    indexer = BIDSLayoutIndexer(validate=False, index_metadata=False, ignore=_ignored(root, participants))
    try:
        return BIDSLayout(root, validate=False, config=[_config()], indexer=indexer)
    except OSError as error:
        raise MissingFileError(
            f"the data set cannot be read ({error.strerror or error})",
            file=error.filename or root,
            remedy="have the permissions changed, or leave the participant out with --participant-label",
        ) from error


def find(layout: BIDSLayout, entities: Mapping[str, Any]) -> tuple[Path, ...]:
    """Files of an index that match a query.

    Parameters
    ----------
    layout : bids.BIDSLayout
        From `index_participants`.
    entities : mapping
        Entity (long or short name) to a value, a list of values, None (must be absent) or ``"*"``
        (must be present).

    Raises
    ------
    UsageError
        When an entity is not known.
    """
    query = {entity_name(name): _query_value(value) for name, value in entities.items()}
    for name, value in query.items():
        if isinstance(value, list) and any(map(_unaskable, value)):
            query[name] = value = [item for item in value if not _unaskable(item)]
        if value == [] or _unaskable(value):
            return ()
    if "extension" in query:
        query["extension"] = [e if e[:1] == "." else f".{e}" for e in _listed(query["extension"])]
    return tuple(Path(f) for f in layout.get(return_type="file", invalid_filters="allow", **query))


def entity_name(name: str) -> str:
    """Short name of an entity in either spelling; ``suffix``, ``extension`` and ``datatype`` are kept.

    Raises
    ------
    UsageError
        When the entity is not known.
    """
    if name in ("suffix", "extension", "datatype"):
        return name
    if name not in SHORT_NAMES:
        raise UsageError(
            f"`{name}` is not a BIDS entity",
            expected=f"one of {', '.join(ENTITIES.values())}, suffix, extension, datatype",
            remedy="correct the filter file",
        )
    return SHORT_NAMES[name]


def _config() -> dict[str, Any]:
    """Entities as a pybids configuration; every pattern is tied to the file name."""
    entities: list[dict[str, str]] = []
    for short in ENTITIES:
        entity = {"name": short, "pattern": rf"[/\\_]{short}-([a-zA-Z0-9+]+)(?=_[^/\\]*$)"}
        if short in _INDICES:
            entity = {"name": short, "pattern": rf"[/\\_]{short}-([0-9]+)(?=_[^/\\]*$)", "dtype": "int"}
        entities.append(entity)
    entities += [
        {"name": "suffix", "pattern": r"[/\\_]([a-zA-Z0-9]+)\.[^/\\]+$"},
        {"name": "extension", "pattern": r"[/\\][^./\\]+(\.[^/\\]+)$"},
        {"name": "datatype", "pattern": r"[/\\]([a-z]+)[/\\][^/\\]+$"},
    ]
    return {"name": "qsmprep", "entities": entities}


def _ignored(root: Path, participants: Collection[str]) -> list[re.Pattern[str]]:
    """Patterns, on paths from the root of the data set, of what pybids shall not enter."""
    wanted = "|".join(map(re.escape, participants))
    file = r"sub-[^/]+\.[^/]+"  # not the folder of a participant in another, where links to above would have no end
    others = [p.name for p in root.iterdir() if not p.name.startswith("sub-") and p.is_dir()]
    patterns = [
        rf"^/sub-(?!(?:{wanted})(?:/|$))",
        rf"^/sub-[^/]+/(?!{DATATYPE}(?:/|$)|ses-[^/]+(?:/|$)|{file}$)",
        rf"^/sub-[^/]+/ses-[^/]+/(?!{DATATYPE}(?:/|$)|{file}$)",
        rf"^/sub-[^/]+/(?:ses-[^/]+/)?{DATATYPE}/[^/]+/",
        r"/\.",
        "[\ud800-\udfff]",  # bytes that are no UTF-8, which the index cannot hold
    ]
    if others:
        patterns.append(rf"^/(?:{'|'.join(map(re.escape, others))})(?:/|$)")
    return [re.compile(pattern) for pattern in patterns]


def _unaskable(value: Any) -> bool:
    """Whether the index cannot even be asked for a value: a number beyond 64 bits, or text that is no Unicode."""
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            return True
        return value.isdecimal() and len(value.lstrip("0")) > MAX_DIGITS
    return isinstance(value, int) and abs(value) >= 10**MAX_DIGITS


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]


def _query_value(value: Any) -> Any:
    from bids.layout import Query

    if isinstance(value, Iterable) and not isinstance(value, str):
        return [_query_value(item) for item in value]
    if value is None:
        return Query.NONE
    return Query.ANY if value == "*" else value
