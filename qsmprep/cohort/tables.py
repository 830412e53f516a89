"""The tables of the group level: one long, one wide, each with its dictionary."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from qsmprep.bids.names import sidecar_path
from qsmprep.bids.tables import NOT_AVAILABLE, dictionary
from qsmprep.bids.write import write_json, write_text
from qsmprep.cohort.collect import Cohort
from qsmprep.cohort.regions import tell_apart
from qsmprep.errors import UsageError

IDENTITY_MEANING: dict[str, str] = {
    "participant_id": "Participant",
    "session": "Session, n/a where there is none",
    "acquisition": "Value of the entity acq",
    "run": "Run, n/a where there is none",
    "other": "Further entities of the file name",
    "segmentation": "Segmentation that the regions come from",
    "map": "Map that was averaged: the dipole inversion, or R2star",
}

SCAN = ("participant_id", "session", "acquisition", "run", "other")
"""What makes a row of the wide table."""


def write_frame(
    frame: pd.DataFrame, path: Path, meaning: Mapping[str, Any], facts: Mapping[str, Any] | None = None
) -> Path:
    """Write a table as TSV, seven digits, ``n/a`` for what is absent, and its dictionary with further facts."""
    shown = frame.copy()
    for column in shown.columns:
        if column == "index" or column.startswith("n_"):
            shown[column] = shown[column].astype("Int64")
    text = shown.to_csv(sep="\t", index=False, na_rep=NOT_AVAILABLE, float_format="%.7g", lineterminator="\n")
    write_text(text, path)
    about = {name: meaning[name] for name in frame.columns if name in meaning}
    if about or facts:
        write_json({**about, **(facts or {})}, sidecar_path(path))
    return path


def write_long(cohort: Cohort, path: Path) -> Path:
    """The long table: one row for each region of each map of each scan, with the covariates."""
    meaning: dict[str, Any] = {name: {"Description": text} for name, text in IDENTITY_MEANING.items()}
    meaning |= dictionary("as in the column unit")
    meaning |= {name: {"Description": "From the participants' tables of the data set"} for name in cohort.covariates}
    return write_frame(cohort.rows, path, meaning)


def wide(cohort: Cohort, statistic: str) -> tuple[pd.DataFrame, dict[str, Any]]:
    """One row for each scan, one column for each region of each map.

    Parameters
    ----------
    cohort : Cohort
    statistic : str
        A statistic of the ROI tables, such as ``mean``.

    Returns
    -------
    (DataFrame, dict)
        The table, and its dictionary.

    Raises
    ------
    UsageError
        When there is no such statistic.
    """
    check_statistic(cohort, statistic)
    rows = cohort.rows
    labels = _region_labels(rows)
    table = (
        pd.DataFrame({**{name: rows[name].astype(object) for name in SCAN}, "column": labels, "value": rows[statistic]})
        .pivot(index=list(SCAN), columns="column", values="value")
        .reindex(columns=list(dict.fromkeys(labels)))
        .reset_index()
    )
    table.columns.name = None
    if cohort.covariates:
        people = rows.drop_duplicates(list(SCAN))[[*SCAN, *cohort.covariates]]
        people = people.assign(**{name: people[name].astype(object) for name in SCAN})
        table = people.merge(table, on=list(SCAN), how="right", validate="one_to_one")
    units = dict(zip(labels, rows["unit"], strict=True))
    meaning: dict[str, Any] = {name: {"Description": IDENTITY_MEANING[name]} for name in SCAN}
    meaning |= {name: {"Description": "From the participants' tables of the data set"} for name in cohort.covariates}
    for label, unit in units.items():
        meaning[label] = {
            "Description": f"{statistic} of a region: map, segmentation, structure, hemisphere",
            "Units": unit_of(statistic, str(unit)),
        }
    return table, meaning


def unit_of(statistic: str, map_unit: str) -> str:
    """Unit of a statistic of a map: that of the map, or its own, as of a volume."""
    return str(dictionary(map_unit)[statistic]["Units"])


def check_statistic(cohort: Cohort, statistic: str) -> None:
    """Refuse a statistic that the tables do not have."""
    known = [c for c in dictionary("") if c in cohort.rows and cohort.rows[c].dtype.kind == "f" and c != "index"]
    if statistic not in known:
        raise UsageError(f"no statistic is called {statistic!r}", expected=f"one of {', '.join(known)}")


def _region_labels(rows: pd.DataFrame) -> list[str]:
    """``tv_aseg_pallidum_L``, followed by what tells labels apart where a structure and side stand for several."""
    columns = (*(rows[c] for c in ("map", "segmentation", "structure", "hemisphere")), tell_apart(rows))
    return ["_".join(str(part).replace(" ", "-") for part in parts if part) for parts in zip(*columns, strict=True)]
