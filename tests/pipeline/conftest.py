"""Make ``scans`` importable, and run the command line as a user would."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def qsmprep(tmp_path: Path) -> Run:
    """Run ``qsmprep bids_dir out participant -w work …`` in a fresh process."""

    def run(bids_dir: Path, *words: str, out: str = "out", work: str = "work", check: int | None = None) -> object:
        command = [sys.executable, "-m", "qsmprep.cli.main", str(bids_dir), str(tmp_path / out), "participant"]
        command += ["-w", str(tmp_path / work), "--nprocs", "1", "--device", "cpu", *words]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment, cwd=tmp_path)
        if check is not None:
            assert done.returncode == check, f"{done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    return run  # type: ignore[return-value]
