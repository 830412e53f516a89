"""What the page shows of one acquisition, as plain frozen data with a JSON form.

A node writes one record an acquisition into the output folder; the page is made from these files
and the figures beside them, and from nothing else.
"""

from __future__ import annotations

import dataclasses
import json
import math
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from qsmprep.bids.write import write_json
from qsmprep.errors import DataError, MissingFileError

RECORD_SUFFIX = "_desc-qc_metrics.json"
LEVELS = ("ok", "check", "failed")

T = TypeVar("T")


@dataclass(frozen=True)
class Row:
    """A named value of the inputs table; ``value`` is text, a number, a list or None."""

    name: str
    value: Any
    unit: str = ""


@dataclass(frozen=True)
class WarningEntry:
    """Something to look at, and what can be done about it."""

    message: str
    remedy: str = ""


@dataclass(frozen=True)
class Metric:
    """One number of quality control.

    Parameters
    ----------
    name : str
    value : float or None
        None (or NaN) when it could not be computed.
    unit : str
    meaning : str
        How it is defined, in one sentence.
    source : str
        Where the definition and the limits come from.
    low, high : float, optional
        Outside of these a person should look.
    stage : str
        The stage of the page it is shown with; see :mod:`qsmprep.reports.definitions`.
    key : str
        Its name in tables, such as ``rim_ratio_tv``.
    remedy : str
        What to do where it is outside of the limits.
    """

    name: str
    value: float | None
    unit: str = ""
    meaning: str = ""
    source: str = ""
    low: float | None = None
    high: float | None = None
    stage: str = ""
    key: str = ""
    remedy: str = ""

    @property
    def known(self) -> bool:
        """Whether there is a finite value."""
        return self.value is not None and math.isfinite(self.value)

    @property
    def limits(self) -> str:
        """The limits in words, empty when there are none."""
        if self.low is not None and self.high is not None:
            return f"{self.low:g} to {self.high:g}"
        if self.low is not None:
            return f"at least {self.low:g}"
        return "" if self.high is None else f"at most {self.high:g}"

    @property
    def concern(self) -> str:
        """Why a person should look, and what to do; empty when nothing is wrong."""
        if not self.limits:
            return ""
        if not self.known:
            return f"{self.name} could not be computed"
        value = float(self.value)  # type: ignore[arg-type]
        below = self.low is not None and value < self.low
        if below or (self.high is not None and value > self.high):
            unit = f" {self.unit}" if self.unit else ""
            remedy = f": {self.remedy}" if self.remedy else ""
            return f"{self.name} is {value:.4g}{unit} ({self.limits} expected){remedy}"
        return ""


@dataclass(frozen=True)
class FigureRef:
    """A figure file and what is said with it; ``file`` is relative to the output folder."""

    stage: str
    title: str
    file: str
    alt: str
    caption: str = ""


@dataclass(frozen=True)
class TableEntry:
    """A table of numbers, shown with its stage; ``file`` says where all of them are."""

    stage: str
    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]
    file: str = ""

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> TableEntry:
        """Back from JSON types."""
        return _build(cls, json.loads(json.dumps(content)))


@dataclass(frozen=True)
class ProcessingStep:
    """A method that was run, with its parameters (for Table 5 of the consensus)."""

    step: str
    method: str
    parameters: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class StepUse:
    """Time and memory of one step."""

    step: str
    seconds: float | None
    peak_mb: float | None = None


@dataclass(frozen=True)
class ErrorEntry:
    """A step that failed; ``crash_file`` is relative to the output folder."""

    step: str
    cause: str
    remedy: str = ""
    crash_file: str = ""


@dataclass(frozen=True)
class AcquisitionRecord:
    """Everything the page says about one (subject, session, acquisition, run).

    Parameters
    ----------
    key : str
        For example ``sub-01_ses-1_run-1``.
    subject : str
        Label without ``sub-``.
    session : str, optional
        Label without ``ses-``.
    inputs : tuple of Row
    warnings : tuple of WarningEntry
    metrics : tuple of Metric
    figures : tuple of FigureRef
    tables : tuple of TableEntry
    methods_markdown : str
    bibliography : tuple of str
    settings, versions : dict
    metadata : dict
        Merged sidecar of the echoes, for the tables of the consensus.
    processing : tuple of ProcessingStep
    resources : tuple of StepUse
    errors : tuple of ErrorEntry
    """

    key: str
    subject: str
    session: str | None = None
    inputs: tuple[Row, ...] = ()
    warnings: tuple[WarningEntry, ...] = ()
    metrics: tuple[Metric, ...] = ()
    figures: tuple[FigureRef, ...] = ()
    tables: tuple[TableEntry, ...] = ()
    methods_markdown: str = ""
    bibliography: tuple[str, ...] = ()
    settings: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    metadata: dict[str, Any] = field(default_factory=dict)
    processing: tuple[ProcessingStep, ...] = ()
    resources: tuple[StepUse, ...] = ()
    errors: tuple[ErrorEntry, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """As JSON types; NaN and infinity become None, paths become text."""
        return {key: _plain(value) for key, value in dataclasses.asdict(self).items()}

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> AcquisitionRecord:
        """Back from :meth:`to_dict`; unknown keys are left out.

        Raises
        ------
        DataError
            When a required key is absent or a part has the wrong type.
        """
        return _build(cls, content)


@dataclass(frozen=True)
class Verdict:
    """``ok``, ``check`` or ``failed``, and why."""

    level: str
    reasons: tuple[str, ...] = ()


def verdict(record: AcquisitionRecord, *, missing_files: tuple[str, ...] = ()) -> Verdict:
    """Judge a record: failed with errors; check with warnings, metrics outside their limits or missing files.

    Parameters
    ----------
    record : AcquisitionRecord
    missing_files : tuple of str
        Figures that the record names and that are not there.
    """
    failures = tuple(f"{e.step} failed: {e.cause}" for e in record.errors)
    concerns = tuple(m.concern for m in record.metrics if m.concern) + tuple(w.message for w in record.warnings)
    concerns += tuple(f"the figure {name} is missing" for name in missing_files)
    if failures:
        return Verdict("failed", failures + concerns)
    return Verdict("check", concerns) if concerns else Verdict("ok")


def worst(levels: typing.Iterable[str]) -> str:
    """The worst of several levels; ``ok`` when there is none."""
    return max(levels, key=LEVELS.index, default="ok")


def write_record(record: AcquisitionRecord, out_file: str | Path) -> Path:
    """Write a record as JSON, whole or not at all.

    Raises
    ------
    CannotWriteError
        When the file cannot be written.
    """
    return write_json(record.to_dict(), Path(out_file))


def read_record(file: str | Path) -> AcquisitionRecord:
    """Read a record.

    Raises
    ------
    MissingFileError
        When the file is not there.
    DataError
        When it is not the JSON of a record.
    """
    path = Path(file)
    try:
        return AcquisitionRecord.from_dict(json.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise MissingFileError("a quality record cannot be read", file=path, remedy="run the subject again") from error
    except (ValueError, DataError) as error:
        raise DataError(
            f"this is not a quality record ({error})",
            file=path,
            expected=f"the JSON of an acquisition written by qsmprep (*{RECORD_SUFFIX})",
            remedy="delete it and run the subject again",
        ) from error


def read_records(out_dir: str | Path, subject: str) -> tuple[AcquisitionRecord, ...]:
    """All records of a subject (label without ``sub-``) in an output folder, in the order of their names."""
    files = sorted((Path(out_dir) / f"sub-{subject}").rglob(f"*{RECORD_SUFFIX}"))
    return tuple(read_record(file) for file in files)


def render_text_summary(record: AcquisitionRecord) -> str:
    """The verdict, its reasons and every metric as plain text, for the terminal and the log."""
    judged = verdict(record)
    lines = [f"{record.key}: {judged.level}"]
    lines += [f"  - {reason}" for reason in judged.reasons]
    remedies = [w.remedy for w in record.warnings] + [e.remedy for e in record.errors]
    lines += [f"    remedy: {remedy}" for remedy in remedies if remedy]
    width = max((len(m.name) for m in record.metrics), default=0)
    for metric in record.metrics:
        value = f"{metric.value:.4g}" if metric.known else "n/a"
        mark = "  <- look" if metric.concern else ""
        lines.append(f"  {metric.name:<{width}}  {value:>10} {metric.unit}".rstrip() + mark)
    return "\n".join(lines) + "\n"


def _plain(value: Any) -> Any:
    """JSON types only."""
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(v) for v in value]
    if value is None or isinstance(value, (bool, str, int)):
        return value
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return str(value)


def _build(kind: type[T], content: Any) -> T:
    """A dataclass from JSON types, following its annotations."""
    if not isinstance(content, dict):
        raise DataError(f"a {kind.__name__} is a {type(content).__name__}", expected="an object")
    hints, values = typing.get_type_hints(kind), {}
    for item in dataclasses.fields(kind):  # type: ignore[arg-type]
        if item.name in content:
            values[item.name] = _convert(f"{kind.__name__}.{item.name}", hints[item.name], content[item.name])
    try:
        return kind(**values)
    except TypeError as error:
        raise DataError(f"a {kind.__name__} is incomplete ({error})", expected="all required keys") from None


def _convert(name: str, hint: Any, value: Any) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if origin is tuple:
        if not isinstance(value, list):
            raise DataError(f"`{name}` is {value!r}", expected="a list")
        return tuple(_convert(name, arguments[0], v) for v in value)
    if dataclasses.is_dataclass(hint):
        return _build(hint, value)  # type: ignore[arg-type]
    if origin is types.UnionType:
        if value is None:
            return None
        return _convert(name, next(a for a in arguments if a is not type(None)), value)
    kind = origin or hint
    accepted = (int, float) if kind is float else kind
    if not isinstance(value, accepted) or (isinstance(value, bool) and kind is not bool):
        raise DataError(f"`{name}` is {value!r}", expected=f"a value of type {kind.__name__}")
    return value
