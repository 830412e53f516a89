"""What is to be done on a cluster: by whom, with what, and where things go."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from qsmprep.bids.headers import read_header
from qsmprep.bids.preflight import Preflight
from qsmprep.cluster.cost import Needs, Scan
from qsmprep.errors import UsageError
from qsmprep.settings import Settings

MAX_ARRAY = 1000
"""Tasks of one array: SLURM's own default allows 1001 indices. A larger cohort becomes several arrays."""

OURS = {
    "--array": "the participants decide it",
    "-a": "the participants decide it",
    "--output": "logs go to the job folder",
    "-o": "logs go to the job folder",
    "--error": "logs go to the job folder",
    "-e": "logs go to the job folder",
    "--wrap": "the script is written here",
    "--parsable": "the job number is read here",
    "--mem": "use --mem of qsmprep-slurm",
    "--time": "use --time of qsmprep-slurm",
    "-t": "use --time of qsmprep-slurm",
    "--cpus-per-task": "use --nprocs",
    "-c": "use --nprocs",
    "--gres": "use --gres of qsmprep-slurm",
    "--signal": "the scripts rely on theirs",
    "--open-mode": "the scripts rely on theirs",
    "--ntasks": "a job is one task",
    "-n": "a job is one task",
    "--requeue": "use --requeue of qsmprep-slurm",
    "--no-requeue": "use --no-requeue of qsmprep-slurm",
}
"""Options of sbatch that cannot be passed through, and why."""

OTHER_MEMORY = ("--mem-per-cpu", "--mem-per-gpu")
"""Options of sbatch that say the memory in another way; ours is left out then."""

VALUED = frozenset("ApqCwxMJDdbL")
"""Short options of sbatch that may be passed through and take a value in the next word."""


@dataclass(frozen=True)
class Job:
    """One call of ``qsmprep-slurm``.

    Paths are absolute. ``command`` is ``qsmprep`` as it is called on the node up to the output folder, and ``words``
    are its further options, checked.
    """

    bids_dir: Path
    out_dir: Path
    job_dir: Path
    work_dir: Path
    command: tuple[str, ...]
    words: tuple[str, ...] = ()
    chosen: tuple[str, ...] = ()
    scratch: str = ""
    container: Path | None = None
    binds: tuple[str, ...] = ()
    setup: tuple[str, ...] = ()
    cpus: int = 1
    memory_mb: int | None = None
    time_limit: str = ""
    gres: str = ""
    max_running: int = 0
    requeue: bool = True
    sbatch: tuple[str, ...] = ()
    group: bool = False
    group_after: str = "any"


def check_sbatch(words: Sequence[str]) -> tuple[str, ...]:
    """Options for sbatch as one word each, ``--name=value``; what it takes itself is left to it.

    Raises
    ------
    UsageError
        When a word is no option, or one that is decided here.
    """
    result: list[str] = []
    for word in words:
        before = result[-1] if result else ""
        bare = before.startswith("-") and "=" not in before and (before[1:2] == "-" or before[1:] in VALUED)
        if not word.startswith("-"):
            if not bare:
                raise UsageError(f"`{word}` is no option of sbatch", expected="for example --sbatch=--partition=long")
            result[-1] = f"{before}{'=' if before.startswith('--') else ' '}{word}"
            continue
        name = word.partition("=")[0]
        short = name[:2] if not name.startswith("--") else ""
        reason = OURS.get(name) or OURS.get(short)
        if reason:
            raise UsageError(f"the option `{name}` of sbatch cannot be passed through", expected=reason)
        result.append(word)
    return tuple(result)


def scans_of(found: Preflight) -> dict[str, list[Scan]]:
    """Participants that can be processed, in their order, each with the sizes of its acquisitions."""
    result: dict[str, list[Scan]] = defaultdict(list)
    for acquisition in found.acquisitions:
        shape = read_header(acquisition.files[0]).shape
        result[acquisition.subject].append(Scan(math.prod(shape), len(acquisition.echoes)))
    return dict(result)


def chunks(labels: Sequence[str], size: int = MAX_ARRAY) -> list[tuple[str, ...]]:
    """Labels in as many arrays as it takes."""
    return [tuple(labels[first : first + size]) for first in range(0, len(labels), size)]


def binds_of(job: Job, settings: Settings, more: Iterable[str] = ()) -> tuple[str, ...]:
    """What a container must see of the file system, as Apptainer's ``--bind`` takes it.

    The data set and all further inputs are bound read-only at their own place, the output folder writable; the script
    adds the work folder of its participant.

    Raises
    ------
    UsageError
        When a path cannot be said in that language.
    """
    inputs: dict[Path, None] = dict.fromkeys([job.bids_dir, *settings.derivatives, *settings.atlas])
    if settings.use_plugin is not None:
        inputs[settings.use_plugin] = None
    values = [value for parameters in settings.parameters.values() for value in parameters.values()]
    for text in [*job.words, *map(str, values)]:
        if text.startswith("/") and Path(text).exists():
            inputs[Path(text)] = None
    outside = [path for path in inputs if path != job.out_dir]
    for path in (*outside, job.out_dir, job.work_dir):
        if set(":,") & set(str(path)):
            raise UsageError(
                "Apptainer cannot bind a path with a colon or a comma",
                file=path,
                remedy="make a link with another name and give that",
            )
    return (*(f"{path}:{path}:ro" for path in outside), str(job.out_dir), *more)


def time_text(needs: Needs) -> str:
    """Minutes as SLURM reads them: ``days-hours:minutes:00``."""
    hours, minutes = divmod(needs.minutes, 60)
    days, hours = divmod(hours, 24)
    return f"{days}-{hours:02d}:{minutes:02d}:00"
