"""Jobs of which every path is hard to quote, and their scripts run by bash as SLURM would run them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

from qsmprep.cluster.plan import Job

ODD = """a "b" $HOME 'c' #1 %x & `id` \\d"""
"""What a shell would change if it were not quoted. SLURM itself cannot have the backslash in the job folder."""


def make_job(root: Path, **changes: Any) -> Job:
    """A job in folders with odd names; its ``qsmprep`` writes its words down and does as ``orders`` says."""
    home = root / ODD
    home.mkdir(exist_ok=True)
    program = home / "qsmprep"
    program.write_text('#!/bin/bash\nprintf "%s\\0" "$@" > "$0.words"\n. "$0.orders"\n')
    program.chmod(0o755)
    (home / "qsmprep.orders").write_text("exit 0")
    out = root / ODD.replace("\\", "") / "out"
    values: dict[str, Any] = {
        "bids_dir": home / "raw",
        "out_dir": out,
        "job_dir": out / "logs" / "slurm",
        "work_dir": home / "work",
        "command": (str(program), str(home / "raw"), str(out)),
        "memory_mb": 4000,
        "time_limit": "0-01:00:00",
    }
    return Job(**{**values, **changes})


def orders(root: Path, text: str) -> None:
    """What the stand-in for ``qsmprep`` does."""
    (root / ODD / "qsmprep.orders").write_text(text)


def words(root: Path) -> list[str]:
    """How the stand-in for ``qsmprep`` was called."""
    return (root / ODD / "qsmprep.words").read_text().split("\0")[:-1]


def start(script: str, root: Path, task: int | None = 1, **more: str) -> subprocess.Popen[str]:
    """Run a script as SLURM would: from a copy, with its variables."""
    copy = root / "slurm_script"
    copy.write_text(script)
    environment = {key: value for key, value in os.environ.items() if not key.startswith("SLURM")}
    environment |= {"SLURM_JOB_ID": "41", "SLURMD_NODENAME": "node7", **more}
    if task is not None:
        environment |= {"SLURM_ARRAY_JOB_ID": "40", "SLURM_ARRAY_TASK_ID": str(task)}
    return subprocess.Popen(
        ["bash", str(copy)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
        cwd=root,
    )


def run(script: str, root: Path, task: int | None = 1, **more: str) -> tuple[int, str]:
    """The same to its end: exit code and words."""
    process = start(script, root, task, **more)
    said, _ = process.communicate(timeout=30)
    return process.returncode, said


def stop(process: subprocess.Popen[str], number: signal.Signals, ready: Path) -> tuple[int, str]:
    """Send a signal to the shell when a file is there; exit code and words."""
    end = time.monotonic() + 20
    while not ready.exists():
        assert time.monotonic() < end and process.poll() is None, "it does not get going"
        time.sleep(0.02)
    process.send_signal(number)
    said, _ = process.communicate(timeout=30)
    return process.returncode, said


def status(job: Job, name: str) -> dict[str, Any]:
    """What a task wrote of itself."""
    return dict(json.loads((job.job_dir / "status" / f"{name}.json").read_text()))
