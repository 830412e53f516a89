"""The job folder: what was planned and submitted, and what the tasks say of themselves."""

from __future__ import annotations

import datetime
import json
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qsmprep.bids.write import cannot_write, write_json, write_text
from qsmprep.cluster.plan import Job, chunks
from qsmprep.cluster.script import array_script, group_script
from qsmprep.cluster.slurm import Key

GROUP = "group"
"""Name of the job of the group level among those of participants, ``sub-…``."""

PLAN = "plan.json"


@dataclass(frozen=True)
class Plan:
    """One set of scripts.

    Parameters
    ----------
    folder : Path
        Where its scripts are.
    arrays : tuple of tuple of str
        The participants of each array, without ``sub-``.
    group : bool
        Whether there is a job of the group level.
    jobs : tuple of str
        Numbers of the arrays' jobs, as far as submitted.
    group_job : str
        Number of the job of the group level; empty where it is not submitted.
    """

    folder: Path
    arrays: tuple[tuple[str, ...], ...]
    group: bool = False
    jobs: tuple[str, ...] = ()
    group_job: str = ""

    @property
    def scripts(self) -> tuple[Path, ...]:
        """The arrays' scripts."""
        return tuple(self.folder / f"array-{number}.sh" for number in range(1, len(self.arrays) + 1))

    @property
    def group_script(self) -> Path:
        """That of the group level."""
        return self.folder / "group.sh"

    @property
    def tasks(self) -> dict[str, Key | None]:
        """Names of what is to be done, each with its place in the queue where it was submitted."""
        found: dict[str, Key | None] = {}
        for number, labels in enumerate(self.arrays):
            for task, label in enumerate(labels, start=1):
                found[f"sub-{label}"] = (self.jobs[number], task) if number < len(self.jobs) else None
        if self.group:
            found[GROUP] = (self.group_job, None) if self.group_job else None
        return found

    def save(self) -> None:
        """Write it beside its scripts."""
        content = {"arrays": self.arrays, "group": self.group, "jobs": self.jobs, "group_job": self.group_job}
        write_json(content, self.folder / PLAN)


def write_plan(job: Job, labels: Sequence[str]) -> Plan:
    """Write the scripts of a job into a new folder below the job folder.

    Raises
    ------
    CannotWriteError
        When the file system refuses.
    """
    stamp = datetime.datetime.now(tz=datetime.UTC).strftime("%Y%m%dT%H%M%S.%fZ")
    folder = job.job_dir / f"{stamp}_{uuid.uuid4().hex[:8]}"
    try:
        for path in (folder, job.job_dir / "log", job.job_dir / "status"):
            path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_write(folder, error) from error
    plan = Plan(folder, tuple(chunks(labels)), job.group)
    for path, some in zip(plan.scripts, plan.arrays, strict=True):
        write_text(array_script(job, some), path)
    if job.group:
        write_text(group_script(job), plan.group_script)
    plan.save()
    return plan


def read_plans(job_dir: Path) -> list[Plan]:
    """All sets of scripts of a job folder, the oldest first; what cannot be read is passed over."""
    plans = []
    for path in sorted(job_dir.glob(f"*/{PLAN}")):
        content = _read(path)
        try:
            arrays = tuple(tuple(map(str, labels)) for labels in content["arrays"])
            jobs = tuple(map(str, content["jobs"]))
            plans.append(Plan(path.parent, arrays, bool(content["group"]), jobs, str(content["group_job"])))
        except (KeyError, TypeError):
            continue
    return plans


@dataclass(frozen=True)
class Record:
    """What a task said of itself last.

    ``state`` is ``running``, ``done``, ``failed`` or ``interrupted``; times are as written, in UTC.
    """

    name: str
    state: str
    exit_code: int | None
    start: str
    end: str | None
    host: str
    key: Key
    restarts: int
    stopped: str


def read_records(job_dir: Path) -> dict[str, Record]:
    """What all tasks said last, by their names."""
    records = {}
    for path in sorted((job_dir / "status").glob("*.json")):
        said = _read(path)
        try:
            task = said["task"]
            records[path.stem] = Record(
                path.stem,
                str(said["state"]),
                None if said["exit_code"] is None else int(said["exit_code"]),
                str(said["start"]),
                None if said["end"] is None else str(said["end"]),
                str(said["host"]),
                (str(said["job"]), None if task is None else int(task)),
                int(said["restarts"]),
                str(said["stopped"]),
            )
        except (KeyError, TypeError, ValueError):
            continue
    return records


def log_of(job_dir: Path, key: Key) -> Path:
    """Where the words of a task are."""
    job, task = key
    return job_dir / "log" / (f"{job}.out" if task is None else f"{job}_{task}.out")


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
