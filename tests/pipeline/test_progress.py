"""What is said while a graph runs: one line a step off a terminal, a bar with the time left on one."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys

import pytest

from qsmprep.workflows.engine import StepState
from qsmprep.workflows.progress import Progress, duration

NAMES = [f"qsmprep_wf.sub_0{n}_wf.{step}" for n in (1, 2) for step in ("unwrap", "invert_tv", "report_chi")]

SCRIPT = """
from qsmprep.workflows.engine import StepState
from qsmprep.workflows.progress import Progress
names = [f"qsmprep_wf.sub_0{n}_wf.{step}" for n in (1, 2) for step in ("unwrap", "invert_tv", "report_chi")]
with Progress(names) as progress:
    for name in names:
        progress.tell(StepState(name, "end", seconds=2.0))
        progress.bar.refresh()
"""


class Clock:
    """Seconds as they are set."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_one_line_a_step_and_the_time_left(capsys):
    clock = Clock()
    with Progress(["qsmprep_wf", *NAMES], clock) as progress:
        for name, seconds in zip(NAMES[:4], (10, 30, 2, 14), strict=True):
            clock.now += seconds / 2  # two at a time
            failed = name.endswith("report_chi")
            progress.tell(StepState(name, "exception" if failed else "end", seconds=seconds))
        # waiting: one inversion (30 s there) and one drawing (2 s), two at a time
        assert progress.left_s() == pytest.approx(16)
    said = capsys.readouterr().out.splitlines()
    assert said == [
        "[ 16 %] sub_01 unwrap done (10.0 s)",
        "[ 33 %] sub_01 invert_tv done (30.0 s)",
        "[ 50 %] sub_01 report_chi FAILED (2.0 s)",
        "[ 66 %] sub_02 unwrap done (14.0 s)",
    ]


def test_drawing_is_not_worth_a_line(capsys):
    with Progress(NAMES) as progress:
        progress.tell(StepState(NAMES[2], "end", seconds=1.0))
    assert capsys.readouterr().out == ""


def test_a_bar_on_a_terminal():
    leader, follower = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100"}
    done = subprocess.Popen([sys.executable, "-c", SCRIPT], stdout=follower, stderr=follower, env=environment)
    os.close(follower)
    said = b""
    while True:
        try:
            part = os.read(leader, 4096)
        except OSError:  # Linux says so when the other side is closed
            break
        if not part:
            break
        said += part
    assert done.wait(60) == 0
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", said.decode())
    assert "sub_02 invert_tv done (2.0 s)" in text
    assert "2 of 2 scans, 0 s left" in text and re.search(r"3/6.*1 of 2 scans", text)


@pytest.mark.parametrize(
    ("seconds", "text"), [(3.4, "3 s"), (59.4, "59 s"), (100, "2 min"), (3599, "1 h 00 min"), (3900, "1 h 05 min")]
)
def test_durations(seconds, text):
    assert duration(seconds) == text
