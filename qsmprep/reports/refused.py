"""Records of acquisitions that were refused: kept among the logs, as they are no claim of results."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from qsmprep.bids.names import refused_path
from qsmprep.errors import CannotWriteError
from qsmprep.reports.record import AcquisitionRecord, read_record, write_record


def read_refused(out_dir: Path, subject: str) -> tuple[AcquisitionRecord, ...]:
    """What was refused of a subject (label without ``sub-``), in the order of the names.

    Raises
    ------
    DataError
        When a file there is no record.
    """
    return tuple(read_record(path) for path in _files(out_dir, subject))


def refused_subjects(out_dir: Path) -> set[str]:
    """Labels, without ``sub-``, of all subjects of whom something was refused."""
    folder = refused_path(out_dir, "sub").parent
    return {path.stem.split("_")[0].removeprefix("sub-") for path in folder.glob("sub-*.json")}


def keep_refused(
    out_dir: Path, subject: str, records: Iterable[AcquisitionRecord], processed: Iterable[str], *, whole: bool
) -> None:
    """Keep what a run refused of a subject, and forget what it processed.

    Parameters
    ----------
    out_dir : Path
        Output folder.
    subject : str
        Label without ``sub-``.
    records : iterable of AcquisitionRecord
        What was refused.
    processed : iterable of str
        Keys of the acquisitions that were not.
    whole : bool
        Whether the run looked at all of the subject: whatever else was refused earlier is not there any more.

    Raises
    ------
    CannotWriteError
        When a record cannot be written or removed.
    """
    stale = _files(out_dir, subject) if whole else [refused_path(out_dir, key) for key in processed]
    for path in stale:
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise CannotWriteError(f"the file cannot be removed ({error.strerror})", file=path) from error
    for record in records:
        write_record(record, refused_path(out_dir, record.key))


def _files(out_dir: Path, subject: str) -> list[Path]:
    label = f"sub-{subject}"
    found = refused_path(out_dir, label).parent.glob(f"{label}*.json")
    return sorted(path for path in found if path.stem == label or path.stem.startswith(f"{label}_"))
