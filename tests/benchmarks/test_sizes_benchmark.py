"""The benchmark of sizes: every call in a process of its own, and what goes wrong there is told in the table."""

from __future__ import annotations

import re

import numpy as np
import pytest
from benchmark_cases import loaded


@pytest.fixture(scope="module")
def bench():
    with loaded("sizes", "accuracy") as module:
        yield module


def test_a_finer_matrix_shows_the_same_head(bench):
    """Voxels of half the edge, joined by eights, have the field of the coarse ones but for noise."""
    for total in (False, True):
        coarse, fine = bench.head(48, total), bench.head(96, total)
        assert np.allclose(fine[0].voxel_mm, np.divide(coarse[0].voxel_mm, 2))
        joined = fine[2].reshape(48, 2, 48, 2, 48, 2).mean(axis=(1, 3, 5))
        inside = coarse[1] & fine[1].reshape(48, 2, 48, 2, 48, 2).all(axis=(1, 3, 5))
        assert np.corrcoef(joined[inside], coarse[2][inside])[0, 1] > 0.8
        assert not coarse[2][~coarse[1]].any()


def test_time_and_memory_are_those_of_the_call(bench):
    assert re.fullmatch(r"[0-9.]+ s, [0-9.]+ GB", bench.told("inversion", "tkd", 32, 1, "cpu", 120))
    assert "over 0.01 s" in bench.told("inversion", "tkd", 32, 1, "cpu", 0.01)
    assert "nonsense" in bench.told("inversion", "tkd", 32, 1, "nonsense", 120)


def test_the_table_has_a_column_a_size(bench, monkeypatch, capsys):
    monkeypatch.setattr(bench, "MEASURED", (("background", ("vsharp",)),))
    assert bench.main(["--edges", "32", "40", "--threads", "1"]) == 0
    told = capsys.readouterr().out
    assert "| step | method | 32³ | 40³ |" in told
    assert "| background | V-SHARP | " in told
