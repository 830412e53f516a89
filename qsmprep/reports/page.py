"""One self-contained HTML page a subject: no script, no address outside the file, light and dark."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from qsmprep.bids.write import write_text
from qsmprep.errors import DataError
from qsmprep.reports.checklist import ChecklistTable, build_checklist
from qsmprep.reports.definitions import FIGURES
from qsmprep.reports.embed import Picture, embed_figures
from qsmprep.reports.prose import citation, markdown, number
from qsmprep.reports.record import (
    AcquisitionRecord,
    ErrorEntry,
    FigureRef,
    Metric,
    TableEntry,
    Verdict,
    render_text_summary,
    verdict,
    worst,
)

__all__ = ["render_subject_page", "render_text_summary", "write_subject_page"]

MAX_PAGE_BYTES = 7_500_000
TEXT_BYTES = 500_000
"""What is kept free for everything but the figures."""

SECTIONS = (
    ("magnitude", "Magnitude and masks", ("magnitude",)),
    ("phase", "Phase", ("phase",)),
    ("fit", "Fit over the echoes", ("residual",)),
    ("field", "Fields", ("field",)),
    ("chi", "Susceptibility", ("chi", "difference")),
    ("r2star", "R2*", ("r2star",)),
    ("swi", "Susceptibility-weighted image", ("swi",)),
    ("roi", "Regions of interest", ("regions", "roi")),
    ("template", "Template space", ("template",)),
    ("distribution", "Distribution and rim", ("histogram", "rim")),
    ("consistency", "Data consistency", ("consistency", "kernel")),
)
"""Anchor, heading and stages of the image sections, in the order of reading."""

WORDS = {
    "ok": "Nothing stood out",
    "check": "Please look",
    "failed": "Part of the processing failed",
}


@dataclass(frozen=True)
class Section:
    """A section of the page with its figures and numbers."""

    anchor: str
    heading: str
    figures: tuple[FigureRef, ...]
    metrics: tuple[Metric, ...]
    tables: tuple[TableEntry, ...] = ()


@dataclass(frozen=True)
class Part:
    """One acquisition as the template sees it."""

    anchor: str
    record: AcquisitionRecord
    verdict: Verdict
    sections: tuple[Section, ...]
    checklist: tuple[ChecklistTable, ...]
    seconds: float
    peak_mb: float | None


def write_subject_page(
    out_dir: str | Path, subject: str, records: Sequence[AcquisitionRecord], errors: Sequence[ErrorEntry] = ()
) -> Path:
    """Write ``out_dir/sub-<subject>.html``, whole or not at all.

    Parameters
    ----------
    out_dir : str or Path
        Output folder; the figures of the records are read from it, and nothing else.
    subject : str
        Label, with or without ``sub-``.
    records : sequence of AcquisitionRecord
        One an acquisition, in the order they are shown.
    errors : sequence of ErrorEntry
        Failures that belong to no record, for example of an acquisition that was never finished.

    Returns
    -------
    Path
        The page, smaller than 8 MB: figures are made smaller where there are many.

    Raises
    ------
    DataError
        When the label is empty or no file name.
    CannotWriteError
        When the page cannot be written.
    """
    label = subject.removeprefix("sub-")
    if not label or any(c in label for c in "/\\\0") or label.startswith("."):
        raise DataError(f"`{subject}` is no subject label", expected="letters and digits")
    html = render_subject_page(out_dir, label, records, errors)
    return write_text(html, Path(out_dir) / f"sub-{label}.html")


def render_subject_page(
    out_dir: str | Path, subject: str, records: Sequence[AcquisitionRecord], errors: Sequence[ErrorEntry] = ()
) -> str:
    """The page as text; the parameters are those of :func:`write_subject_page`."""
    files = tuple(figure.file for record in records for figure in record.figures)
    pictures = embed_figures(Path(out_dir), files, MAX_PAGE_BYTES - TEXT_BYTES)
    parts = tuple(_part(f"a{n}", record, pictures) for n, record in enumerate(records, start=1))
    level = worst([part.verdict.level for part in parts] + ["failed"] * bool(errors))
    if not records and not errors:
        level = "check"
    return (
        page_environment()
        .get_template("subject.html.j2")
        .render(
            subject=subject,
            level=level,
            words=WORDS,
            parts=parts,
            errors=tuple(errors),
            pictures=pictures,
            graphs=frozenset(stage for stage, definition in FIGURES.items() if definition.graph),
            version=next((r.versions["qsmprep"] for r in records if "qsmprep" in r.versions), ""),
        )
    )


def _part(anchor: str, record: AcquisitionRecord, pictures: dict[str, Picture]) -> Part:
    missing = tuple(f.file for f in record.figures if f.file not in pictures)
    peaks = [use.peak_mb for use in record.resources if use.peak_mb is not None]
    return Part(
        anchor,
        record,
        verdict(record, missing_files=missing),
        _sections(record),
        build_checklist(record),
        sum(use.seconds or 0.0 for use in record.resources),
        max(peaks, default=None),
    )


def _sections(record: AcquisitionRecord) -> tuple[Section, ...]:
    """The sections that have content; what belongs to no known stage comes last."""
    known = {stage for _, _, stages in SECTIONS for stage in stages}
    stages_used = [item.stage for item in (*record.figures, *record.metrics, *record.tables)]
    others = tuple(dict.fromkeys(stage for stage in stages_used if stage not in known))
    found = []
    for anchor, heading, stages in (*SECTIONS, ("other", "Other", others)):
        figures = tuple(f for stage in stages for f in record.figures if f.stage == stage)
        metrics = tuple(m for stage in stages for m in record.metrics if m.stage == stage)
        tables = tuple(t for stage in stages for t in record.tables if t.stage == stage)
        if figures or metrics or tables:
            found.append(Section(anchor, heading, figures, metrics, tables))
    return tuple(found)


def page_environment() -> Environment:
    """Templates of the pages: everything is escaped, nothing undefined is passed over."""
    environment = Environment(
        loader=PackageLoader("qsmprep.reports", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters: dict[str, Any] = {"number": number, "markdown": markdown, "citation": citation, "duration": _duration}
    environment.filters.update(filters)
    return environment


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "n/a"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"
