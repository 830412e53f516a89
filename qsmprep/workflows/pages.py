"""After the graph: one record an acquisition, one page a subject."""

from __future__ import annotations

import dataclasses
import json
import platform
from collections import defaultdict
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from qsmprep.bids.acquisition import Acquisition
from qsmprep.bids.entities import natural_key
from qsmprep.bids.names import derivative_path
from qsmprep.bids.preflight import Preflight, Verdict
from qsmprep.bids.segmentations import Segmentation
from qsmprep.core.grid import Grid
from qsmprep.core.methods import METHODS
from qsmprep.errors import NoMatchError, QSMPrepError
from qsmprep.interfaces.usage import read_peak_mb
from qsmprep.reports import record as rec
from qsmprep.reports.checklist import write_checklist
from qsmprep.reports.page import write_subject_page
from qsmprep.reports.refused import keep_refused, read_refused, refused_subjects
from qsmprep.settings import Settings
from qsmprep.version import qsmprep_version
from qsmprep.workflows.acquisition import makes_swi, methods_text, workflow_name
from qsmprep.workflows.base import WORKFLOW_NAME
from qsmprep.workflows.boilerplate import render
from qsmprep.workflows.engine import Outcome, StepState, why
from qsmprep.workflows.regions import needs_coregistration, regions_text
from qsmprep.workflows.template import can_reach_template, template_text

REPORTED_VERSIONS = ("nipype", "torch", "numpy", "scipy", "nibabel", "scikit-image", "numba")


@dataclass(frozen=True)
class Failure:
    """A step that failed, and what the run's exit code makes of it."""

    step: str
    message: str
    exit_code: int


@dataclass(frozen=True)
class Result:
    """What became of an acquisition."""

    key: str
    errors: tuple[Failure, ...] = ()
    page: Path | None = None
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Fresh:
    """What this run makes of one verdict: its record, failures of steps, warnings."""

    verdict: Verdict
    record: rec.AcquisitionRecord
    failures: tuple[Failure, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def is_refused(self) -> bool:
        """Whether there are images, but none that can be processed; the lack of images is nothing to keep."""
        return self.verdict.acquisition is None and bool(self.verdict.parts)


@dataclass
class Gathered:
    """What the nodes of one acquisition left."""

    figures: list[rec.FigureRef] = field(default_factory=list)
    metrics: list[rec.Metric] = field(default_factory=list)
    tables: list[rec.TableEntry] = field(default_factory=list)
    notes: list[rec.WarningEntry] = field(default_factory=list)
    uses: list[rec.StepUse] = field(default_factory=list)
    entries: list[rec.ErrorEntry] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)


def write_pages(
    settings: Settings, found: Preflight, grids: dict[str, Grid], outcome: Outcome, log_dir: Path
) -> list[Result]:
    """Write the record of every acquisition and the page of every subject.

    A page shows all that is known of its subject, also from earlier runs. One that cannot be written is a failure of
    its subject, and of no other.

    Parameters
    ----------
    settings : Settings
        Of the run.
    found : Preflight
        Acquisitions, and what could not be processed.
    grids : dict
        Grid of each acquisition by its key.
    outcome : Outcome
        What became of every node.
    log_dir : Path
        Where crash files are.
    """
    fresh: dict[str, list[Fresh]] = defaultdict(list)
    for verdict in found.verdicts:
        if verdict.acquisition is None:
            fresh[verdict.subject].append(Fresh(verdict, _refused(verdict)))
            continue
        gathered = gather(workflow_name(verdict.acquisition), outcome, settings.out_dir, log_dir)
        record = make_record(verdict, verdict.acquisition, grids[verdict.key], settings, gathered)
        rec.write_record(record, derivative_path(settings.out_dir, verdict.acquisition, "metrics", ".json", desc="qc"))
        for extension in (".tsv", ".md"):
            write_checklist(record, derivative_path(settings.out_dir, verdict.acquisition, "checklist", extension))
        warnings = tuple(note.message for note in gathered.notes)
        fresh[verdict.subject].append(Fresh(verdict, record, tuple(gathered.failures), warnings))
    results = []
    for subject, made in fresh.items():
        page, trouble = _page(settings, subject, made)
        results += [Result(one.record.key, (*one.failures, *trouble), page, one.warnings) for one in made]
    return results


def _page(settings: Settings, subject: str, made: list[Fresh]) -> tuple[Path | None, tuple[Failure, ...]]:
    """Write the page of a subject; where what earlier runs left cannot be read, it says so and shows this run's."""
    refused = [one.record for one in made if one.is_refused]
    processed = [one.record.key for one in made if one.verdict.acquisition is not None]
    whole = not (settings.sessions or settings.acquisitions or settings.bids_filters)
    try:
        keep_refused(settings.out_dir, subject, refused, processed, whole=whole)
        records, errors = known_records(settings.out_dir, subject), ()
    except QSMPrepError as error:
        records, errors = [one.record for one in made], (error,)
    entries = [rec.ErrorEntry("report", error.what, error.remedy or "") for error in errors]
    try:
        shown = records or [one.record for one in made]
        page = write_subject_page(settings.out_dir, subject, shown, entries)
    except QSMPrepError as error:
        page, errors = None, (error,)
    return page, tuple(Failure("report", str(error), error.exit_code) for error in errors)


def known_records(out_dir: Path, subject: str) -> list[rec.AcquisitionRecord]:
    """What was processed and what was refused of a subject, by all runs so far, in the order of the names.

    Raises
    ------
    QSMPrepError
        When a record cannot be read.
    """
    found = [*rec.read_records(out_dir, subject), *read_refused(out_dir, subject)]
    return sorted(found, key=lambda record: natural_key(record.key))


def rewrite_pages(settings: Settings) -> int:
    """Write the pages again from the records and figures in the output folder (``--reports-only``)."""
    written = {path.name.removeprefix("sub-") for path in settings.out_dir.glob("sub-*") if path.is_dir()}
    subjects = settings.participants or tuple(sorted(written | refused_subjects(settings.out_dir)))
    count = 0
    for subject in subjects:
        records = known_records(settings.out_dir, subject)
        if records:
            print(f"Report: {write_subject_page(settings.out_dir, subject, records)}")
            count += 1
    if not count:
        raise NoMatchError(
            "there is nothing to report on", file=settings.out_dir, expected="outputs of an earlier run of qsmprep"
        )
    return 0


def gather(branch: str, outcome: Outcome, out_dir: Path, log_dir: Path) -> Gathered:
    """Collect fragments, times and failures of the nodes of one branch of the graph."""
    result, waiting = Gathered(), 0
    for step in outcome.steps.values():
        if not step.name.startswith(f"{WORKFLOW_NAME}.{branch}."):
            continue
        waiting += step.status == "waiting"
        if step.status == "waiting":
            continue
        name = step.name.rsplit(".", 1)[1]
        if step.status != "end":
            _note_failure(result, name, step, out_dir, log_dir)
            continue
        if not name.startswith(("publish_", "report_")):
            result.uses.append(rec.StepUse(name, round(step.seconds, 2), read_peak_mb(step.folder)))
        if name.startswith("report_") and step.folder is not None and (step.folder / "fragment.json").exists():
            content = json.loads((step.folder / "fragment.json").read_text())
            result.figures += [rec.FigureRef(**figure) for figure in content["figures"]]
            result.metrics += [rec.Metric(**metric) for metric in content["metrics"]]
            result.tables += [rec.TableEntry.from_dict(table) for table in content["tables"]]
        if step.folder is not None and (step.folder / "info.json").exists():
            info = json.loads((step.folder / "info.json").read_text())
            result.notes += [rec.WarningEntry(text) for text in info.get("warnings", ())]
    if waiting and not result.failures:
        cause = f"the run stopped before {waiting} steps of this acquisition"
        remedy = "run the same command again with the same work folder"
        result.entries.append(rec.ErrorEntry("run", cause, remedy, ""))
        result.failures.append(Failure("run", f"{cause}. Do: {remedy}.", 1))
    order = (
        "magnitude",
        "phase",
        "residual",
        "field",
        "chi",
        "difference",
        "r2star",
        "swi",
        "histogram",
        "rim",
        "consistency",
        "kernel",
        "regions",
        "roi",
        "template",
    )
    result.figures.sort(key=lambda figure: order.index(figure.stage) if figure.stage in order else len(order))
    return result


def _note_failure(result: Gathered, name: str, step: StepState, out_dir: Path, log_dir: Path) -> None:
    crash = crash_files(step.name, log_dir)
    reason = why(step, crash[-1] if crash else None)
    parts = [str(reason["what"])]
    if reason.get("file"):
        parts.append(f"File: {reason['file']}")
    if reason.get("expected"):
        parts.append(f"Expected: {reason['expected']}")
    cause, remedy = ". ".join(parts), str(reason.get("remedy") or "")
    crash_file = crash[-1].relative_to(out_dir).as_posix() if crash else ""
    result.entries.append(rec.ErrorEntry(name, cause, remedy, crash_file))
    message = f"{cause}." + (f" Do: {remedy}." if remedy else "")
    result.failures.append(Failure(name, message, int(reason["exit_code"])))


def crash_files(node: str, log_dir: Path) -> list[Path]:
    """Crash files of a node, by its full name in their first line: their names say only its last part."""
    first = f"Node: {node}\n"
    return [f for f in sorted(log_dir.glob("crash-*.txt")) if f.read_text(errors="replace").startswith(first)]


def make_record(
    verdict: Verdict, acquisition: Acquisition, grid: Grid, settings: Settings, gathered: Gathered
) -> rec.AcquisitionRecord:
    """Put everything the page says of an acquisition together."""
    text, references = render(
        methods_text(acquisition, settings)
        + regions_text(acquisition, verdict.segmentations, settings)
        + template_text(acquisition, settings)
    )
    return rec.AcquisitionRecord(
        key=acquisition.key,
        subject=acquisition.subject,
        session=acquisition.session,
        inputs=tuple(input_rows(acquisition, grid)),
        warnings=(*(rec.WarningEntry(text) for text in verdict.warnings), *gathered.notes),
        metrics=tuple(gathered.metrics),
        figures=tuple(gathered.figures),
        tables=tuple(gathered.tables),
        methods_markdown=text,
        bibliography=tuple(references),
        settings=settings.to_dict(),
        versions=versions(),
        metadata=derived(grid) | dict(acquisition.metadata) | used(acquisition),
        processing=tuple(processing(acquisition, settings, verdict.segmentations)),
        resources=tuple(gathered.uses),
        errors=tuple(gathered.entries),
    )


def _refused(verdict: Verdict) -> rec.AcquisitionRecord:
    """The record of what could not be processed at all; it is on the page and among the logs, not among the outputs."""
    entries = tuple(
        rec.ErrorEntry(
            "preflight",
            " ".join(filter(None, [p.what, p.file and f"File: {p.file}", p.expected and f"Expected: {p.expected}"])),
            p.remedy or "",
        )
        for p in verdict.problems
    )
    warnings = tuple(rec.WarningEntry(text) for text in verdict.warnings)
    return rec.AcquisitionRecord(
        key=verdict.key, subject=verdict.subject, warnings=warnings, errors=entries, versions=versions()
    )


def input_rows(acquisition: Acquisition, grid: Grid) -> list[rec.Row]:
    """The table of inputs."""
    return [
        rec.Row("Field strength", acquisition.b0_t, "T"),
        rec.Row("Field strength from", acquisition.b0_source),
        rec.Row("Echoes", len(acquisition.echoes)),
        rec.Row("Echo times", [round(1e3 * te, 4) for te in acquisition.te_s], "ms"),
        rec.Row("Matrix", list(grid.shape)),
        rec.Row("Voxel size", [round(mm, 4) for mm in grid.voxel_mm], "mm"),
        rec.Row("B0 direction in the voxel axes", [round(c, 4) for c in grid.b0_dir]),
        rec.Row("Tilt against the nearest axis", round(grid.tilt_deg, 2), "degrees"),
        rec.Row("Phase units", acquisition.phase_units or "not stated"),
        rec.Row("Magnitude", "measured" if acquisition.has_magnitude else "absent: uniform"),
        rec.Row("Brain mask", acquisition.given_mask.name if acquisition.given_mask else "computed"),
        rec.Row("T1w", acquisition.t1w.name if acquisition.t1w else "none"),
    ]


def derived(grid: Grid) -> dict[str, Any]:
    """What the geometry answers of the consensus' reporting table, where the sidecar does not."""
    extent_mm = [round(n * mm, 1) for n, mm in zip(grid.shape, grid.voxel_mm, strict=True)]
    orientation = "straight" if grid.tilt_deg < 1 else f"oblique by {grid.tilt_deg:.1f} degrees"
    return {
        "Matrix": list(grid.shape),
        "FieldOfView": extent_mm,
        "VoxelSize": [round(mm, 4) for mm in grid.voxel_mm],
        "SliceOrientation": orientation,
    }


def used(acquisition: Acquisition) -> dict[str, Any]:
    """What was computed with, where the sidecar of the first echo says less, or something else."""
    return {"EchoTime": list(acquisition.te_s), "MagneticFieldStrength": acquisition.b0_t}


def processing(
    acquisition: Acquisition, settings: Settings, segmentations: tuple[Segmentation, ...] = ()
) -> list[rec.ProcessingStep]:
    """Every method that ran, with its resolved parameters, and where the brain mask came from if none was needed."""
    left_out = _not_run(acquisition, settings, segmentations)
    steps = [
        rec.ProcessingStep(step, METHODS.get(step, name).title, dataclasses.asdict(settings.params(step, name)))
        for step, name in settings.chosen()
        if step not in left_out
    ]
    if acquisition.given_mask is not None:
        steps.insert(0, rec.ProcessingStep("mask", f"supplied with the data: {acquisition.given_mask.name}"))
    if any(segmentation.method == "first" for segmentation in segmentations):
        steps.append(rec.ProcessingStep("segmentation", "FSL FIRST"))
    return steps


def _not_run(acquisition: Acquisition, settings: Settings, segmentations: tuple[Segmentation, ...]) -> set[str]:
    """Steps with a chosen method that this acquisition does without."""
    made = {segmentation.method for segmentation in segmentations}
    in_template = settings.template_maps and can_reach_template(acquisition)
    moved = any(needs_coregistration(segmentation, acquisition) for segmentation in segmentations)
    seen = "atlas" in made and settings.sees_t1w and settings.params("sighting", "t1wunetr").share > 0
    ran = {
        "mask": acquisition.given_mask is None,
        "quality": acquisition.given_mask is None,
        "offset": len(acquisition.echoes) > 1,
        "combine": len(acquisition.echoes) > 1,
        "relaxometry": acquisition.has_decay,
        "swi": makes_swi(acquisition, settings),
        "coregistration": moved or (in_template and acquisition.t1w is not None),
        "segmentation": in_template or "atlas" in made,
        "nuclei": "unetr" in made,
        "sighting": seen,
        "roi": bool(segmentations),
    }
    return {step for step, did in ran.items() if not did}


def versions() -> dict[str, str]:
    """Versions of what computed the results."""
    result: dict[str, Any] = {"qsmprep": qsmprep_version(), "python": platform.python_version()}
    for name in REPORTED_VERSIONS:
        try:
            result[name] = version(name)
        except PackageNotFoundError:
            continue
    return result
