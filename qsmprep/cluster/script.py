"""The text of the job scripts. Whatever a path holds, the shell and sbatch read it as it is."""

from __future__ import annotations

import hashlib
import re
import shlex
from collections.abc import Sequence
from importlib.resources import files

from qsmprep.cluster.plan import OTHER_MEMORY, Job
from qsmprep.errors import UsageError

GROUP_MEMORY_MB = 4000
GROUP_TIME = "0-01:00:00"
"""The group level reads tables only."""

WARN_S = 90
"""Seconds before the time limit at which a job is told, so that it can keep what is done."""

VARIABLE = re.compile(r"\$([A-Za-z_]\w*|\{[A-Za-z_]\w*\})(/.*)?")
"""A scratch folder that is a variable of the node, such as ``$SLURM_TMPDIR``; all else is taken as it is."""


def array_script(job: Job, labels: Sequence[str]) -> str:
    """The script of an array, one participant a task.

    Parameters
    ----------
    job : Job
        What is wanted.
    labels : sequence of str
        Participants without ``sub-``; they stand in the script, so that nothing that is written later can change
        what a waiting task will do.
    """
    limit = f"%{job.max_running}" if job.max_running else ""
    options = [f"--array=1-{len(labels)}{limit}", *_resources(job), *_common(job, "%A_%a.out")]
    if job.gres:
        options.append(f"--gres={job.gres}")
    return _script(job, options, "participant", labels)


def group_script(job: Job) -> str:
    """The script of the group level."""
    own_memory = any(word.startswith(OTHER_MEMORY) for word in job.sbatch)
    memory = [] if own_memory else [f"--mem={GROUP_MEMORY_MB}M"]
    options = [f"--time={GROUP_TIME}", "--cpus-per-task=1", *memory, *_common(job, "%j.out")]
    return _script(job, options, "group", ())


def _resources(job: Job) -> list[str]:
    memory = [f"--mem={job.memory_mb}M"] if job.memory_mb else []
    return [f"--cpus-per-task={job.cpus}", *memory, f"--time={job.time_limit}"]


def _common(job: Job, log: str) -> list[str]:
    folder = str(job.job_dir)
    if set("\\\n\r") & set(folder):
        raise UsageError("SLURM cannot write to a folder whose name has a backslash or a line break", file=folder)
    return [
        "--job-name=qsmprep",
        "--requeue" if job.requeue else "--no-requeue",
        "--open-mode=append",
        f"--signal=B:USR1@{WARN_S}",
        f"--output={folder.replace('%', '%%')}/log/{log}",
        *job.sbatch,
    ]


def sbatch_line(option: str) -> str:
    """One option as a line that sbatch reads from a script."""
    if re.fullmatch(r"[\w\-=:.,/@%+\[\]~ ]*", option) and (" " not in option or not option.startswith("--")):
        return f"#SBATCH {option}"
    name, equals, value = option.partition("=")
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'#SBATCH {name}{equals}"{escaped}"'


def _script(job: Job, options: Sequence[str], level: str, labels: Sequence[str]) -> str:
    words = [*job.command, level]
    if level == "participant":
        words += ["--nprocs", str(job.cpus)]
        words += ["--mem", f"{job.memory_mb}MB"] if job.memory_mb else []
    elif job.chosen:
        words += ["--participant-label", *job.chosen]
    words += job.words
    binds = [word for bind in job.binds for word in ("--bind", bind)]
    if job.gres and level == "participant":
        binds.append("--nv")
    key = hashlib.sha256(str(job.out_dir).encode(errors="surrogateescape")).hexdigest()[:12]
    return "\n".join(
        [
            "#!/bin/bash",
            "# Written by qsmprep-slurm. It says all that SLURM needs: sbatch takes it without further options.",
            *map(sbatch_line, options),
            "",
            *job.setup,
            f"level={level}",
            f"labels=({' '.join(labels)})",
            f"job_dir={shlex.quote(str(job.job_dir))}",
            f"out_dir={shlex.quote(str(job.out_dir))}",
            f"work={shlex.quote(str(job.work_dir))}",
            *scratch_lines(job.scratch),
            f"key={key}",
            f"container={shlex.quote(str(job.container or ''))}",
            f"binds=({shlex.join(binds)})",
            f"command=({shlex.join(words)})",
            files("qsmprep").joinpath("data/cluster/task.sh").read_text(encoding="utf-8"),
        ]
    )


def scratch_lines(scratch: str) -> list[str]:
    """The scratch folder for the shell; a leading variable is looked up on the node."""
    found = VARIABLE.fullmatch(scratch)
    if not found:
        return ["scratch_variable=", f"scratch={shlex.quote(scratch)}"]
    name, rest = found.group(1).strip("{}"), found.group(2) or ""
    return [f"scratch_variable={name}", f"scratch=${{{name}:-}}{shlex.quote(rest) if rest else ''}"]
