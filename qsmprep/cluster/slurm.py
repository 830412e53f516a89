"""The programs of SLURM that are asked: sbatch, squeue and, where there is accounting, sacct."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from qsmprep.errors import MissingFileError, UsageError

TIMEOUT_S = 60


@dataclass(frozen=True)
class Entry:
    """A job or a task of an array as SLURM sees it.

    Parameters
    ----------
    state : str
        SLURM's word, such as ``RUNNING``.
    reason : str
        Why it waits; empty where SLURM gives none.
    """

    state: str
    reason: str = ""


Key = tuple[str, int | None]
"""Number of the (array) job, and of the task within an array."""


def _run(command: Sequence[str]) -> subprocess.CompletedProcess[str] | None:
    """What a program says; None where it is not there or does not answer."""
    if shutil.which(command[0]) is None:
        return None
    try:
        return subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None


def submit(script: Path, *, after: str = "", kill_invalid: bool = False) -> str:
    """Hand a script to sbatch and return the number of its job.

    Parameters
    ----------
    script : Path
        What to submit.
    after : str
        A dependency, such as ``afterany:12:13``.
    kill_invalid : bool
        Whether the job goes when its dependency can no longer be met, instead of waiting for ever.

    Raises
    ------
    MissingFileError
        When there is no sbatch.
    UsageError
        When it refuses.
    """
    words = ["sbatch", "--parsable"]
    if after:
        words += [f"--dependency={after}", f"--kill-on-invalid-dep={'yes' if kill_invalid else 'no'}"]
    done = _run([*words, str(script)])
    if done is None:
        raise MissingFileError(
            "there is no sbatch here, or it does not answer",
            expected="SLURM's commands on the PATH",
            remedy=f"submit {script} from a login node of the cluster",
        )
    number = done.stdout.strip().partition(";")[0]
    if done.returncode or not number.isdigit():
        said = " ".join(done.stderr.replace("sbatch: error:", "").split())
        raise UsageError(f"sbatch refused the job ({said or done.stdout.strip()})", file=script)
    return number


def queued(jobs: Iterable[str]) -> dict[Key, Entry] | None:
    """The jobs that are still in the queue; None where squeue cannot be asked."""
    wanted = sorted(set(jobs))
    if not wanted:
        return {}
    done = _run(["squeue", "--noheader", "--array", "--format=%F|%K|%T|%r", f"--jobs={','.join(wanted)}"])
    if done is None or (done.returncode and "Invalid job id" not in done.stderr):
        return None
    return parse_squeue(done.stdout)


def parse_squeue(text: str) -> dict[Key, Entry]:
    """Lines of ``%F|%K|%T|%r``: job, task (``N/A`` outside of arrays), state, reason."""
    found: dict[Key, Entry] = {}
    for line in text.splitlines():
        job, task, state, reason = (*line.strip().split("|", 3), "", "", "")[:4]
        if job.isdigit():
            found[job, int(task) if task.isdigit() else None] = Entry(state, "" if reason == "None" else reason)
    return found


def accounted(jobs: Iterable[str]) -> dict[Key, Entry]:
    """What accounting knows of jobs; nothing where there is none."""
    wanted = sorted(set(jobs))
    if not wanted:
        return {}
    words = [
        "sacct",
        "--noheader",
        "--parsable2",
        "--allocations",
        "--format=JobID,State",
        f"--jobs={','.join(wanted)}",
    ]
    done = _run(words)
    return {} if done is None or done.returncode else parse_sacct(done.stdout)


def parse_sacct(text: str) -> dict[Key, Entry]:
    """Lines of ``JobID|State``, where ``JobID`` is ``12`` or ``12_3``; ranges that never started are left out."""
    found: dict[Key, Entry] = {}
    for line in text.splitlines():
        number, _, state = line.strip().partition("|")
        job, _, task = number.partition("_")
        if job.isdigit() and (not task or task.isdigit()) and state:
            found[job, int(task) if task else None] = Entry(state.split()[0])
    return found
