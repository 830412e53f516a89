"""Metrics of quality control of a cohort: read from the records of the participants, one table for all scans."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from qsmprep.bids.entities import natural_key, parse_name
from qsmprep.bids.tables import NOT_AVAILABLE
from qsmprep.errors import DataError
from qsmprep.reports.record import RECORD_SUFFIX, AcquisitionRecord, verdict

SCAN_MEANING: dict[str, dict[str, str]] = {
    "participant_id": {"Description": "Participant"},
    "session": {"Description": "Session"},
    "scan": {"Description": "The scan, by the entities of its files"},
    "verdict": {"Description": "ok, check or failed; the reasons stand on the page of the participant"},
}
"""First columns of the table."""

COLUMNS = (*SCAN_MEANING, "key", "what", "unit", "meaning", "value", "low", "high")
"""Columns of the long form."""


@dataclass(frozen=True)
class Quality:
    """Metrics of all scans.

    Parameters
    ----------
    metrics : DataFrame
        `COLUMNS`, one row for each metric of each scan.
    problems : tuple of str
        Records that cannot be read.
    """

    metrics: pd.DataFrame
    problems: tuple[str, ...] = ()


def read_quality(
    out_dir: Path, participants: Iterable[str], sessions: Iterable[str] = (), acquisitions: Iterable[str] = ()
) -> Quality:
    """Read the records that the participant level wrote.

    Parameters
    ----------
    out_dir : Path
        Where their ``*_desc-qc_metrics.json`` are.
    participants : iterable of str
        As ``sub-01``.
    sessions, acquisitions : iterable of str
        Without ``ses-`` and ``acq-``; all by default.
    """
    found: list[dict[str, Any]] = []
    problems: list[str] = []
    chosen, kinds = set(sessions), set(acquisitions)
    for label in participants:
        for path in sorted((out_dir / label).rglob(f"*{RECORD_SUFFIX}"), key=lambda p: natural_key(p.name)):
            name = parse_name(path)
            session = (name.get("ses") if name else None) or NOT_AVAILABLE
            if (chosen and session not in chosen) or (kinds and (name.get("acq") if name else None) not in kinds):
                continue
            try:
                content = json.loads(path.read_text(encoding="utf-8"))
                head = {"participant_id": label, "session": session, "scan": path.name.removesuffix(RECORD_SUFFIX)}
                found += [{**head, "verdict": _level(content), **_metric(m)} for m in content["metrics"]]
            except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
                problems.append(f"{path.relative_to(out_dir)}: no quality record ({type(error).__name__})")
    frame = pd.DataFrame(found, columns=list(COLUMNS))
    for column in ("value", "low", "high"):
        frame[column] = pd.to_numeric(frame[column], errors="coerce")
    return Quality(frame, tuple(problems))


def wide(metrics: pd.DataFrame) -> tuple[pd.DataFrame, dict[str, Any]]:
    """One row for each scan, one column for each metric; and the dictionary of its columns.

    Parameters
    ----------
    metrics : DataFrame
        The long form.
    """
    heads = list(SCAN_MEANING)
    keys = list(dict.fromkeys(metrics["key"]))
    table = metrics.drop_duplicates([*heads, "key"]).pivot(index=heads, columns="key", values="value")
    table = table.reindex(columns=keys).reset_index()
    table.columns.name = None
    order = {scan: number for number, scan in enumerate(dict.fromkeys(metrics["scan"]))}
    table = table.sort_values("scan", key=lambda column: column.map(order)).reset_index(drop=True)
    meaning: dict[str, Any] = dict(SCAN_MEANING)
    for row in metrics.drop_duplicates("key").to_dict("records"):
        about = {"LongName": row["what"], "Description": row["meaning"] or row["what"]}
        limits = {"Minimum": row["low"], "Maximum": row["high"]}
        known = {name: value for name, value in limits.items() if pd.notna(value)}
        meaning[row["key"]] = about | ({"Units": row["unit"]} if row["unit"] else {}) | known
    return table, meaning


def _metric(content: dict[str, Any]) -> dict[str, Any]:
    texts = {key: str(content.get(key) or "") for key in ("unit", "meaning")}
    numbers = {key: content.get(key) for key in ("value", "low", "high")}
    return {"key": str(content.get("key") or content["name"]), "what": content["name"], **texts, **numbers}


def _level(content: dict[str, Any]) -> str:
    """The verdict of a record; of one that another version wrote it may not be known."""
    try:
        return verdict(AcquisitionRecord.from_dict(content)).level
    except DataError:
        return NOT_AVAILABLE
