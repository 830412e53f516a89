"""Killed at random moments and started again: the results are those of a run that nobody disturbed, byte by byte.

What may differ is said in `cohorts.results`: logs of single runs and durations. The unfinished files that a kill leaves
(``.*.tmp``) are gone after the next run.
``QSMPREP_KILL_COUNT`` says how many kills (50).
"""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

import cohorts
import pytest

MOST_IN_A_ROW = 3


def whole(path_bytes: dict[str, bytes], of: dict[str, bytes]) -> list[str]:
    """Maps, tables and sidecars that look finished but are not what they should be."""
    ends = (".nii.gz", ".tsv", ".json", ".png")
    return [
        name
        for name, content in path_bytes.items()
        if name.endswith(ends) and "_metrics" not in name and of[name] != content
    ]


def unfinished(out: Path) -> list[str]:
    """Files that were being written."""
    return sorted(path.relative_to(out).as_posix() for path in out.rglob(".*.tmp"))


@pytest.mark.slow
def test_killed_in_the_middle_of_a_file(tmp_path):
    """Until a kill has left an unfinished file: the next run removes it."""
    cohorts.cohort(tmp_path)
    out, words = tmp_path / "out", cohorts.command(tmp_path, "out", "work")
    for _ in range(20):
        process = cohorts.start(words, tmp_path / "log")
        while process.poll() is None and not unfinished(out):
            time.sleep(0.0005)
        assert process.poll() is None, "it ended, and was never seen to write"
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        if unfinished(out):
            break
    assert unfinished(out)
    assert cohorts.start(words, tmp_path / "log").wait() == 0, (tmp_path / "log").read_text()[-2000:]
    assert not unfinished(out)
    assert "unfinished files of an earlier run" in (tmp_path / "log").read_text()


@pytest.mark.slow
def test_killed_at_random_moments(tmp_path):
    count = int(os.environ.get("QSMPREP_KILL_COUNT", "50"))
    dice = random.Random(int(os.environ.get("QSMPREP_KILL_SEED", "0")))
    cohorts.cohort(tmp_path)
    began = time.monotonic()
    assert cohorts.start(cohorts.command(tmp_path, "calm", "calm_work"), tmp_path / "log").wait() == 0
    longest_s = time.monotonic() - began
    calm = cohorts.results(tmp_path / "calm")
    assert len(calm) > 40
    killed = trial = 0
    while killed < count:
        trial += 1
        out, words = f"out{trial}", cohorts.command(tmp_path, f"out{trial}", f"work{trial}", nprocs=1 + trial % 2)
        for _ in range(min(dice.randint(1, MOST_IN_A_ROW), count - killed)):
            process = cohorts.start(words, tmp_path / "log")
            time.sleep(dice.uniform(0.2, 1.0) * longest_s)
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                killed += 1
            process.wait()
            assert not whole(cohorts.results(tmp_path / out), calm)
        assert cohorts.start(words, tmp_path / "log").wait() == 0, (tmp_path / "log").read_text()[-2000:]
        found = cohorts.results(tmp_path / out)
        assert not cohorts.differences(calm, found), f"after {killed} kills"
        assert not unfinished(tmp_path / out), f"after {killed} kills"
        print(f"{killed} kills, {trial} runs resumed, 0 lost", flush=True)
