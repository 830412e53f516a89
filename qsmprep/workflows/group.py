"""The group level: read the tables of all participants, write those of the cohort, its models and its page."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from qsmprep.bids.dataset import check_output_dir, write_dataset_files
from qsmprep.bids.entities import natural_key
from qsmprep.bids.leftovers import remove_leftovers
from qsmprep.cohort import models, outliers, tables
from qsmprep.cohort.collect import Cohort, collect_cohort, folders
from qsmprep.cohort.formula import default_formula, names_in
from qsmprep.errors import InvalidBIDSError, MissingFileError
from qsmprep.reports.quality import Quality, read_quality
from qsmprep.settings import Settings
from qsmprep.version import qsmprep_version
from qsmprep.workflows.group_quality import write_quality
from qsmprep.workflows.group_template import Family, find_maps

FILES = {
    "long": "group_roi.tsv",
    "wide": "group_roi_wide.tsv",
    "models": "group_models.tsv",
    "outliers": "group_outliers.tsv",
    "participants": "group_participants.tsv",
}
"""Tables of the group level, in the output folder; each has a dictionary beside it."""

PARTICIPANT_MEANING = {
    "participant_id": {"Description": "Participant"},
    "status": {"Description": "present: has a table of regions; missing: has none"},
    "in_participants_tsv": {"Description": "Whether participants.tsv of the data set names the participant"},
    "n_scans": {"Description": "Scans with a table of regions"},
    "left_out": {"Description": "What keeps the participant, or some sessions, out of the models; n/a: nothing"},
}


@dataclass(frozen=True)
class GroupResult:
    """Everything that the page of the cohort shows."""

    cohort: Cohort
    models: models.Models
    outliers: pd.DataFrame
    quality: Quality
    statistic: str
    notes: tuple[str, ...] = ()
    maps: tuple[Family, ...] = ()


def run_group(settings: Settings) -> int:
    """Do the group level and return the exit code.

    Raises
    ------
    QSMPrepError
        When there is nothing to work on, or the formula asks for what is not there.
    """
    from qsmprep.workflows.group_page import write_page

    if not settings.bids_dir.is_dir():
        raise InvalidBIDSError("there is no such folder", file=settings.bids_dir, expected="a BIDS data set")
    if not settings.out_dir.is_dir():
        raise MissingFileError(
            "the output folder does not exist", file=settings.out_dir, remedy="run the participant level first"
        )
    check_output_dir(settings.bids_dir, settings.out_dir)
    try:
        result = analyse(settings)
    except MissingFileError as error:
        return _quality_only(settings, error)
    write_dataset_files(settings.out_dir, settings.bids_dir, version=qsmprep_version())
    remove_leftovers(settings.out_dir, folders(settings.out_dir), all_logs=True)
    write_tables(result, settings.out_dir)
    page = write_page(result, settings.out_dir)
    _tell(result)
    print(f"Report: {page}")
    return 0


def analyse(settings: Settings) -> GroupResult:
    """Collect, fit, flag; nothing is written."""
    cohort = collect_cohort(
        settings.out_dir, settings.bids_dir, settings.participants, settings.sessions, settings.acquisitions
    )
    statistic = settings.roi_statistic
    tables.check_statistic(cohort, statistic)
    formula, notes = settings.formula, ()
    if not formula:
        formula, notes = default_formula(cohort.rows, cohort.covariates)
    columns = (*cohort.covariates, "session", "run", "acquisition", "participant_id")
    names_in(formula, columns)
    found = read_quality(settings.out_dir, _people(settings), settings.sessions, settings.acquisitions)
    fitted = models.fit_models(cohort.rows, formula, statistic, columns)
    flagged = outliers.find_outliers(cohort.rows, found.metrics, statistic)
    maps = tuple(find_maps(settings.out_dir, _people(settings), settings.sessions, settings.acquisitions))
    return GroupResult(cohort, fitted, flagged, found, statistic, (*cohort.notes, *notes, *found.problems), maps)


def _people(settings: Settings) -> list[str]:
    """Participants with outputs, of those that are asked for."""
    wanted = {f"sub-{label}" for label in settings.participants}
    return sorted((f for f in folders(settings.out_dir) if not wanted or f in wanted), key=natural_key)


def _quality_only(settings: Settings, error: MissingFileError) -> int:
    """The group level where no participant has a table of regions: the quality of the scans, if there are any.

    Raises
    ------
    MissingFileError
        When there are no scans either.
    """
    from qsmprep.workflows.group_page import write_quality_page

    found = read_quality(settings.out_dir, _people(settings), settings.sessions, settings.acquisitions)
    maps = find_maps(settings.out_dir, _people(settings), settings.sessions, settings.acquisitions)
    if found.metrics.empty and not maps:
        raise error
    flagged = outliers.find_outliers(pd.DataFrame(), found.metrics, settings.roi_statistic)
    reason = f"{error.what}: there are no regions and no models. Do: {error.remedy}."
    write_dataset_files(settings.out_dir, settings.bids_dir, version=qsmprep_version())
    remove_leftovers(settings.out_dir, folders(settings.out_dir), all_logs=True)
    write_quality(found.metrics, settings.out_dir)
    tables.write_frame(flagged, settings.out_dir / FILES["outliers"], outliers.COLUMNS)
    for text in (reason, *found.problems):
        print(f"warning: {text}", file=sys.stderr)
    print(f"Report: {write_quality_page(found, flagged, maps, reason, settings.out_dir)}")
    return 0


def write_tables(result: GroupResult, out_dir: Path) -> None:
    """Write all tables with their dictionaries."""
    cohort = result.cohort
    tables.write_long(cohort, out_dir / FILES["long"])
    table, meaning = tables.wide(cohort, result.statistic)
    tables.write_frame(table, out_dir / FILES["wide"], meaning)
    region = {
        **{name: {"Description": text} for name, text in tables.IDENTITY_MEANING.items()},
        "quantity": {"Description": "What the map measures"},
        "unit": {"Description": "Unit of the statistic that is modelled"},
        "structure": {"Description": "Region without its side"},
        "hemisphere": {"Description": "L, R or B"},
        "name": {
            "Description": "Name in the segmentation, all of them where tables spell it differently; with the index "
            "where labels of one scan share it"
        },
    }
    formula = {"Formula": result.models.formula, "Statistic": result.statistic}
    tables.write_frame(result.models.table, out_dir / FILES["models"], {**region, **models.COLUMNS}, formula)
    tables.write_frame(result.outliers, out_dir / FILES["outliers"], outliers.COLUMNS)
    write_quality(result.quality.metrics, out_dir)
    tables.write_frame(_participants(result), out_dir / FILES["participants"], PARTICIPANT_MEANING)


def _participants(result: GroupResult) -> pd.DataFrame:
    cohort = result.cohort
    scans = cohort.rows.drop_duplicates(list(tables.SCAN)).groupby("participant_id", observed=True).size()
    left_out = {one.participant: str(one) for one in result.models.left_out}
    return pd.DataFrame(
        [
            {
                "participant_id": label,
                "status": "present" if label in scans.index else "missing",
                "in_participants_tsv": "yes" if label in cohort.listed else "no",
                "n_scans": int(scans.get(label, 0)),
                "left_out": left_out.get(label),
            }
            for label in (*cohort.present, *cohort.missing)
        ]
    )


def _tell(result: GroupResult) -> None:
    """What a person at the terminal should know."""
    cohort = result.cohort
    print(f"Participants with tables: {len(cohort.present)}; formula: {result.models.formula}; {result.statistic}")
    for word, labels in (("no table of regions", cohort.missing), ("not in participants.tsv", cohort.unmatched)):
        if labels:
            more = f" and {len(labels) - 8} more" if len(labels) > 8 else ""
            print(f"warning: {word}: {', '.join(labels[:8])}{more}", file=sys.stderr)
    for text in (*cohort.problems, *result.notes, *result.models.notes):
        print(f"warning: {text}", file=sys.stderr)
