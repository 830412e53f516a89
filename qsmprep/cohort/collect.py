"""Read what the participant level wrote: the ROI tables of all participants, and what is known of the people.

Nothing but the output folder and the participants' tables of the raw data set is read. Who is missing is listed.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from qsmprep.bids.entities import BidsName, natural_key, parse_name
from qsmprep.bids.tables import KEY_COLUMNS, NOT_AVAILABLE, STATISTICS, read_tsv
from qsmprep.errors import DataError, MissingFileError, NoMatchError, QSMPrepError

IDENTITY = ("participant_id", "session", "acquisition", "run", "other", "segmentation", "map")
"""Columns of the long table that say which file a row comes from."""

CATEGORIES = ("group", "sex")
"""Columns of the participants' tables that are categories also where they are written in numbers."""

_MISSING = frozenset({"", NOT_AVAILABLE, "na", "nan"})
"""What stands for a value that is not there, in small letters."""

TEXT_COLUMNS = frozenset({*IDENTITY, *KEY_COLUMNS} - {"index"})


@dataclass(frozen=True)
class Cohort:
    """What was found of a cohort.

    Parameters
    ----------
    rows : DataFrame
        The long table: `IDENTITY`, the columns of the ROI tables, then the covariates.
    covariates : tuple of str
        Columns that come from the participants' tables.
    present : tuple of str
        Participants with a table, as ``sub-01``.
    missing : tuple of str
        Participants that the data set names and that have no table.
    unmatched : tuple of str
        Participants with a table that ``participants.tsv`` does not name.
    problems : tuple of str
        Files that could not be read, and why.
    notes : tuple of str
        What else a person should know.
    listed : frozenset of str
        Participants that ``participants.tsv`` names.
    """

    rows: pd.DataFrame
    covariates: tuple[str, ...]
    present: tuple[str, ...]
    missing: tuple[str, ...] = ()
    unmatched: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = field(default=())
    listed: frozenset[str] = frozenset()


def collect_cohort(
    out_dir: Path,
    bids_dir: Path,
    participants: Iterable[str] = (),
    sessions: Iterable[str] = (),
    acquisitions: Iterable[str] = (),
) -> Cohort:
    """Read the tables of a cohort.

    Parameters
    ----------
    out_dir : Path
        Where the participant level wrote.
    bids_dir : Path
        Its ``participants.tsv`` and ``sub-*/sub-*_sessions.tsv`` are read where they are there; no image is.
    participants, sessions, acquisitions : iterable of str
        Labels without ``sub-``, ``ses-`` and ``acq-``; everything by default.

    Raises
    ------
    MissingFileError
        When no participant has a ROI table.
    NoMatchError
        When a participant asked for has no table and stands in no list, or no table is of a session or acquisition
        asked for.
    DataError
        When ``participants.tsv`` names somebody twice, or a table of sessions a session.
    """
    wanted, chosen, kinds = set(participants), set(sessions), set(acquisitions)
    _check_labels(out_dir, {"ses": chosen, "acq": kinds})
    people, notes = read_people(bids_dir)
    records: list[dict[str, Any]] = []
    problems: list[str] = []
    for name in _tables(out_dir):
        label, session = str(name.get("sub")), name.get("ses")
        if (wanted and label not in wanted) or (chosen and session not in chosen):
            continue
        if kinds and name.get("acq") not in kinds:
            continue
        try:
            records += _records(name)
        except QSMPrepError as error:
            problems.append(f"{name.path.relative_to(out_dir)}: {error.what}")
    present = sorted({record["participant_id"] for record in records}, key=natural_key)
    named = sorted(set(people) | folders(out_dir), key=natural_key)
    unknown = sorted(wanted - {label.removeprefix("sub-") for label in [*present, *named]}, key=natural_key)
    if unknown:
        raise NoMatchError(
            f"no such participant: {', '.join('sub-' + label for label in unknown)}",
            file=out_dir,
            remedy="correct --participant-label",
        )
    if not records:
        raise MissingFileError(
            "no participant has a table of regions" + (f"; {problems[0]}" if problems else ""),
            file=out_dir,
            expected="sub-*/anat/*_stats.tsv, which `qsmprep … participant` writes where there is a segmentation",
            remedy="run the participant level first, with a segmentation",
        )
    rows, covariates, odd = _with_covariates(_frame(records), people, bids_dir)
    inside = [label for label in named if not wanted or label.removeprefix("sub-") in wanted]
    return Cohort(
        rows,
        covariates,
        tuple(present),
        tuple(label for label in inside if label not in set(present)),
        tuple(label for label in present if people and label not in people),
        tuple(problems),
        (*notes, *odd),
        frozenset(people),
    )


def _check_labels(out_dir: Path, wanted: Mapping[str, set[str]]) -> None:
    """Refuse labels of sessions and acquisitions that no table has, where there are tables."""
    names = list(_tables(out_dir))
    for entity, labels in wanted.items():
        present = {str(name.get(entity)) for name in names if name.get(entity) is not None}
        unknown = sorted(labels - present, key=natural_key)
        if names and unknown:
            raise NoMatchError(
                f"no table of regions is of {', '.join(f'{entity}-{label}' for label in unknown)}",
                file=out_dir,
                expected=f"labels among {', '.join(sorted(present, key=natural_key)) or 'none at all'}",
                remedy=f"correct --{'session' if entity == 'ses' else 'acquisition'}-label",
            )


def read_people(bids_dir: Path) -> tuple[dict[str, dict[str, str]], tuple[str, ...]]:
    """Rows of ``participants.tsv`` by participant, and what to say where it is absent.

    Raises
    ------
    DataError
        When a participant stands there twice, or the column ``participant_id`` is absent.
    """
    path = Path(bids_dir) / "participants.tsv"
    if not path.exists():
        return {}, ("the data set has no participants.tsv: no age, sex or group is known",)
    rows = read_tsv(path)
    if rows and "participant_id" not in rows[0]:
        raise DataError("participants.tsv has no column participant_id", file=path)
    labels = ["sub-" + row.pop("participant_id").removeprefix("sub-") for row in rows]
    _refuse_doubled(labels, path, "participant")
    return dict(zip(labels, rows, strict=True)), ()


def _refuse_doubled(labels: list[str], path: Path, what: str) -> None:
    """Refuse a table that has several rows for one label."""
    doubled = sorted((label for label, n in Counter(labels).items() if n > 1), key=natural_key)
    if doubled:
        more = " and others" if len(doubled) > 5 else ""
        raise DataError(
            f"{path.name} names {', '.join(doubled[:5])}{more} more than once",
            file=path,
            expected=f"one row for each {what}",
            remedy="remove the rows that are wrong",
        )


def folders(out_dir: Path) -> set[str]:
    """Participants that have a folder among the outputs, as ``sub-01``."""
    return {path.name for path in Path(out_dir).glob("sub-*") if path.is_dir()}


def _tables(out_dir: Path) -> list[BidsName]:
    found = []
    for pattern in ("sub-*/anat/*_stats.tsv", "sub-*/ses-*/anat/*_stats.tsv"):
        found += [name for path in Path(out_dir).glob(pattern) if (name := parse_name(path)) is not None]
    return sorted(found, key=lambda name: natural_key(name.path.name))


def _records(name: BidsName) -> list[dict[str, Any]]:
    """Rows of one ROI table with the identity of its file."""
    rows = read_tsv(name.path)
    if rows and not {*KEY_COLUMNS, "n_voxels", "mean"} <= set(rows[0]):
        raise DataError("it is no table of regions of this version", file=name.path)
    rest = name.without("sub", "ses", "acq", "run", "seg", "desc")
    identity = {
        "participant_id": f"sub-{name.get('sub')}",
        "session": name.get("ses") or NOT_AVAILABLE,
        "acquisition": name.get("acq") or NOT_AVAILABLE,
        "run": name.get("run") or NOT_AVAILABLE,
        "other": "_".join("-".join(pair) for pair in rest) or NOT_AVAILABLE,
        "segmentation": name.get("seg") or NOT_AVAILABLE,
        "map": name.get("desc") or NOT_AVAILABLE,
    }
    return [
        {**identity, **{c: row.get(c, NOT_AVAILABLE) if c in TEXT_COLUMNS else _number(name, c, row) for c in _COLUMNS}}
        for row in rows
    ]


_COLUMNS = (*KEY_COLUMNS, *STATISTICS)


def _number(name: BidsName, column: str, row: dict[str, str]) -> float:
    text = row.get(column, NOT_AVAILABLE)
    if text in (NOT_AVAILABLE, ""):
        return math.nan
    try:
        return float(text)
    except ValueError:
        raise DataError(f"`{column}` is {text!r}, no number", file=name.path) from None


def _frame(records: list[dict[str, Any]]) -> pd.DataFrame:
    """The long table; texts that repeat are stored once."""
    frame = pd.DataFrame.from_records(records, columns=[*IDENTITY, *_COLUMNS])
    for column in TEXT_COLUMNS:
        frame[column] = frame[column].astype(object).astype("category")
    return frame


def _with_covariates(
    rows: pd.DataFrame, people: dict[str, dict[str, str]], bids_dir: Path
) -> tuple[pd.DataFrame, tuple[str, ...], tuple[str, ...]]:
    """Add the columns of the participants' tables, and say which values there count as missing.

    What a session says wins over what is said of the participant, where it says something.
    """
    keys = list(dict.fromkeys(zip(rows["participant_id"], rows["session"], strict=True)))
    sessions = {label: _read_sessions(bids_dir, label) for label in dict(keys)}
    known = {key: _together(people.get(key[0], {}), sessions[key[0]].get(f"ses-{key[1]}", {})) for key in keys}
    names = list(dict.fromkeys(column for values in known.values() for column in values if column not in rows.columns))
    if not names:
        return rows, (), ()
    texts = {column: [known[key].get(column, NOT_AVAILABLE) for key in keys] for column in names}
    table = pd.DataFrame(
        {column: _typed(column, values) for column, values in texts.items()}, index=pd.MultiIndex.from_tuples(keys)
    )
    at = table.index.get_indexer(pd.MultiIndex.from_arrays([rows["participant_id"].astype(object), rows["session"]]))
    added = table.iloc[at].reset_index(drop=True)
    return (
        pd.concat([rows.reset_index(drop=True), added], axis=1),
        tuple(names),
        (*_odd_words(texts), *_many_categories(texts)),
    )


def _together(person: dict[str, str], session: dict[str, str]) -> dict[str, str]:
    """What is known at a session."""
    return {**person, **{name: text for name, text in session.items() if name not in person or not _is_missing(text)}}


def _read_sessions(bids_dir: Path, label: str) -> dict[str, dict[str, str]]:
    path = Path(bids_dir) / label / f"{label}_sessions.tsv"
    if not path.exists():
        return {}
    rows = [row for row in read_tsv(path) if "session_id" in row]
    labels = ["ses-" + row.pop("session_id").removeprefix("ses-") for row in rows]
    _refuse_doubled(labels, path, "session")
    return dict(zip(labels, rows, strict=True))


def _typed(name: str, texts: list[str]) -> Any:
    """Numbers where all that is there is one and the column is not among `CATEGORIES`, else a category."""
    known = [None if _is_missing(text) else text for text in texts]
    try:
        numbers = [math.nan if text is None else float(text) for text in known]
    except ValueError:
        numbers = []
    if numbers and name not in CATEGORIES:
        return numbers
    return pd.Categorical(known, categories=sorted({text for text in known if text is not None}, key=natural_key))


def _is_missing(text: str) -> bool:
    return text.casefold() in _MISSING


def _odd_words(texts: dict[str, list[str]]) -> tuple[str, ...]:
    """What to say of words for a missing value that are not those of BIDS."""
    found = {
        name: sorted({value for value in values if value not in ("", NOT_AVAILABLE) and _is_missing(value)})
        for name, values in texts.items()
    }
    told = "; ".join(f"{', '.join(words)} in {name}" for name, words in found.items() if words)
    return (f"counted as missing in the participants' tables, where BIDS writes n/a: {told}",) if told else ()


def _many_categories(texts: Mapping[str, list[str]]) -> Iterator[str]:
    """What to say of columns that are categories and have as many values as a measurement has."""
    for column in CATEGORIES:
        values = [text for text in texts.get(column, ()) if not _is_missing(text)]
        if len(set(values)) > max(4, len(values) // 3):
            yield (
                f"`{column}` has {len(set(values))} values of {len(values)}: that column counts as categories, also "
                "in numbers; if it is a measurement, rename it and name it in --formula"
            )
