"""Thousands of mutated data sets through the real command line: no traceback, the right exit code, nothing outside.

The fast test runs a few dozen. ``make test-trust`` runs ``QSMPREP_FUZZ_COUNT`` (10,000) of them, some 20 minutes.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import mutations
import pytest

HERE = Path(__file__).parent


def fuzz(first: int, last: int, folder: Path) -> tuple[int, int, int]:
    """Tried, survived, lost."""
    command = [sys.executable, str(HERE / "fuzzing.py"), str(first), str(last), str(folder)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(HERE.parents[1])}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    found = re.search(r"tried (\d+), survived (\d+), lost (\d+)", done.stdout)
    assert found, done.stdout[-3000:] + done.stderr[-3000:]
    print(done.stdout[-500:])
    assert done.returncode == 0, done.stdout
    tried, survived, lost = map(int, found.groups())
    return tried, survived, lost


def test_mutations_are_many_and_the_same_again():
    """Every kind is drawn, a seed always gives the same data set, and no two of a hundred are alike."""
    drawn = [mutations.mutated(seed) for seed in range(300)]
    kinds = Counter(kind for _, told, _ in drawn for kind in told)
    assert set(kinds) == {mutation.__name__ for mutation in mutations.MUTATIONS}
    assert len({repr(sorted(data.files.items())) + str(data.words) for data, _, _ in drawn}) > 250
    again, told, codes = mutations.mutated(7)
    assert (again, told, codes) == drawn[7]


def test_some_mutated_data_sets(tmp_path):
    assert fuzz(0, 40, tmp_path / "case") == (40, 40, 0)


@pytest.mark.slow
def test_many_mutated_data_sets(tmp_path):
    count = int(os.environ.get("QSMPREP_FUZZ_COUNT", "10000"))
    assert fuzz(0, count, tmp_path / "case") == (count, count, 0)
