"""Who is done, running, waiting or failed, and why: what the tasks said, held against the queue."""

from __future__ import annotations

import datetime
import inspect
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from qsmprep import errors
from qsmprep.cluster import slurm
from qsmprep.cluster.folder import GROUP, Plan, Record, log_of, read_plans, read_records
from qsmprep.cluster.slurm import Entry, Key

STATES = ("done", "running", "pending", "failed", "interrupted", "lost", "not submitted")
"""What can have become of a task. *Lost* is one that left the queue without a word."""

BAD = ("failed", "interrupted", "lost")

RUNNING = ("RUNNING", "COMPLETING", "STAGE_OUT", "SIGNALING", "STOPPED", "SUSPENDED")
"""SLURM's words for a task that holds its node; all others in the queue wait, or have ended."""

ENDED = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "OUT_OF_MEMORY", "NODE_FAIL", "BOOT_FAIL", "DEADLINE")

WORDS = {
    "TIMEOUT": "its time limit came; ask for more with --time",
    "OUT_OF_MEMORY": "SLURM killed it for its memory; ask for more with --mem",
    "NODE_FAIL": "its node failed",
    "BOOT_FAIL": "its node did not start",
    "CANCELLED": "it was cancelled",
}

CLUES = (
    (r"oom[-_ ]?kill|out[- ]of[- ]memory", WORDS["OUT_OF_MEMORY"]),
    (r"DUE TO TIME LIMIT", WORDS["TIMEOUT"]),
    (r"DUE TO NODE FAILURE", WORDS["NODE_FAIL"]),
    (r"DUE TO PREEMPTION", "it was preempted"),
    (r"CANCELLED AT", WORDS["CANCELLED"]),
)
"""What slurmstepd writes into the log of a task that it ends, and what that means."""

TAIL_BYTES = 1 << 16


@dataclass(frozen=True)
class Fate:
    """What became of a participant, or of the group level.

    Parameters
    ----------
    name : str
        ``sub-01``, or ``group``.
    state : str
        One of `STATES`.
    why : str
        The reason of a failure or of waiting; empty where there is none.
    record : Record or None
        What the task said last, where it did.
    log : Path or None
        Its words.
    """

    name: str
    state: str
    why: str = ""
    record: Record | None = None
    log: Path | None = None


@dataclass(frozen=True)
class Report:
    """The state of a job folder; ``asked`` is whether the queue could be asked."""

    fates: tuple[Fate, ...]
    asked: bool = True

    @property
    def exit_code(self) -> int:
        """1 where somebody failed, else 0."""
        return int(any(fate.state in BAD for fate in self.fates))


def look(job_dir: Path) -> Report:
    """Read a job folder and ask SLURM.

    Raises
    ------
    MissingFileError
        When nothing was planned there.
    """
    plans = read_plans(job_dir)
    records = read_records(job_dir)
    if not plans:
        raise errors.MissingFileError(
            "there is no job of qsmprep-slurm", file=job_dir, remedy="write one first, or name its --job-dir"
        )
    places = latest(plans)
    # a script that was submitted by hand says its number only when it starts
    keys = {name: key or (records[name].key if name in records else None) for name, key in places.items()}
    queue = slurm.queued(key[0] for key in keys.values() if key)
    silent = [key for name, key in keys.items() if key and _is_silent(key, records.get(name), queue)]
    known = slurm.accounted(key[0] for key in silent)
    fates = [judge(name, key, records.get(name), queue, known, job_dir) for name, key in keys.items()]
    return Report(tuple(sorted(fates, key=lambda fate: fate.name == GROUP)), queue is not None)


def latest(plans: list[Plan]) -> dict[str, Key | None]:
    """Where each participant was submitted last; None for one that never was."""
    places: dict[str, Key | None] = {}
    for plan in plans:
        for name, key in plan.tasks.items():
            places[name] = key or places.get(name)
    return places


def _is_silent(key: Key, record: Record | None, queue: Mapping[Key, Entry] | None) -> bool:
    """Whether a task is gone and has not said how."""
    gone = queue is not None and (key not in queue or queue[key].state in ENDED)
    return gone and (record is None or record.key != key or record.state == "running")


def judge(
    name: str,
    key: Key | None,
    record: Record | None,
    queue: Mapping[Key, Entry] | None,
    known: Mapping[Key, Entry],
    job_dir: Path,
) -> Fate:
    """What became of one task.

    Parameters
    ----------
    name : str
        Of the task.
    key : Key or None
        Its place in the queue; None when it was not submitted.
    record : Record or None
        What it said last, maybe in an earlier job.
    queue : mapping or None
        What squeue lists; None when it could not be asked.
    known : mapping
        What accounting knows.
    job_dir : Path
        For its log.
    """
    if key is None:
        return Fate(name, "not submitted")
    own = record if record is not None and record.key == key else None
    log = log_of(job_dir, key)
    entry = queue.get(key) if queue is not None else None
    if entry is not None and entry.state in RUNNING and not (own and own.end):
        return Fate(name, "running", record=own, log=log)
    if entry is not None and entry.state not in (*RUNNING, *ENDED) and not (own and own.state in ("done", "failed")):
        again = "again, " if own is not None else ""
        return Fate(name, "pending", f"{again}{entry.reason or entry.state}", own, log)
    if own is None:
        if queue is None:
            return Fate(name, "pending", "no word from it yet; squeue cannot be asked", log=log)
        return Fate(name, "lost", _silence(key, known, log, "it left the queue before it began"), log=log)
    if own.state == "running":
        if queue is None:
            return Fate(name, "running", "so it says; squeue cannot be asked", own, log)
        return Fate(name, "lost", _silence(key, known, log, "it was killed (memory, or its node failed)"), own, log)
    if own.state == "interrupted":
        limit = own.stopped == "time limit"
        return Fate(name, "interrupted", WORDS["TIMEOUT"] if limit else _clue(log) or own.stopped, own, log)
    return Fate(name, own.state, "" if own.state == "done" else _reason(own, log), own, log)


def _silence(key: Key, known: Mapping[Key, Entry], log: Path, otherwise: str) -> str:
    entry = known.get(key)
    return (WORDS.get(entry.state, entry.state) if entry is not None else "") or _clue(log) or otherwise


def _tail(log: Path) -> list[str]:
    """The last lines of a log, of the last try only."""
    try:
        with log.open("rb") as stream:
            stream.seek(max(0, log.stat().st_size - TAIL_BYTES))
            lines = stream.read().decode("utf-8", errors="replace").splitlines()
    except OSError:
        return []
    starts = [number for number, line in enumerate(lines) if line.startswith("== ") and ", try " in line]
    return lines[starts[-1] :] if starts else lines


def _clue(log: Path) -> str:
    """What SLURM wrote into the log of a task that it ended."""
    text = "\n".join(line for line in _tail(log) if "slurm" in line)
    return next((meaning for pattern, meaning in CLUES if re.search(pattern, text, flags=re.IGNORECASE)), "")


def _reason(record: Record, log: Path) -> str:
    """Why a task failed: its own last word, else what its exit code means."""
    told = [line for line in _tail(log) if line.startswith("qsmprep: ") and ": warning: " not in line]
    if told:
        return told[-1].removeprefix("qsmprep: ").removeprefix(f"{record.name}: ")
    return _clue(log) or MEANINGS.get(record.exit_code or 0, "see its log")


def _meanings() -> dict[int, str]:
    kinds = [kind for kind in vars(errors).values() if inspect.isclass(kind) and issubclass(kind, errors.QSMPrepError)]
    told = {kind.exit_code: (inspect.getdoc(kind) or "").splitlines()[0] for kind in kinds}
    return {**told, 1: "a step or a report failed", 127: "the program was not found", 137: "it was killed"}


MEANINGS = _meanings()
"""Exit code to what it means."""


def render(report: Report, job_dir: Path) -> str:
    """The report as text: a table, the reasons below it, and a count."""
    head = ("name", "state", "code", "tries", "time", "node")
    rows = [_row(fate) for fate in report.fates]
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    lines = [_aligned(head, widths), "  ".join("-" * width for width in widths)]
    for fate, row in zip(report.fates, rows, strict=True):
        lines.append(_aligned(row, widths))
        if fate.why:
            lines.append(f"    {fate.why}")
        if fate.state in BAD and fate.log is not None and fate.log.exists():
            lines.append(f"    log: {fate.log.relative_to(job_dir)}")
    counts = Counter(fate.state for fate in report.fates if fate.name != GROUP)
    total = sum(counts.values())
    told = ", ".join(f"{counts[state]} {state}" for state in STATES if counts[state])
    lines += ["", f"{total} participant{'s' if total != 1 else ''}: {told}. Job folder: {job_dir}"]
    if not report.asked:
        lines.append("squeue cannot be asked: running and waiting tasks are told from what they wrote.")
    if report.exit_code:
        lines.append("Submit those that are not done again with --unfinished; they go on where they were.")
    return "\n".join(lines)


def _row(fate: Fate) -> tuple[str, ...]:
    record = fate.record
    if record is None:
        return (fate.name, fate.state, "-", "-", "-", "-")
    code = "-" if record.exit_code is None or fate.state in ("running", "pending") else str(record.exit_code)
    return (fate.name, fate.state, code, str(record.restarts + 1), _time(fate, record), record.host)


def _time(fate: Fate, record: Record) -> str:
    """How long the last try took, or has been going on."""
    end = record.end if fate.state != "running" else datetime.datetime.now(tz=datetime.UTC).isoformat()
    try:
        took = datetime.datetime.fromisoformat(str(end)) - datetime.datetime.fromisoformat(record.start)
    except ValueError:
        return "-"
    minutes, seconds = divmod(int(took.total_seconds()), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}"


def _aligned(row: tuple[str, ...], widths: list[int]) -> str:
    return "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
