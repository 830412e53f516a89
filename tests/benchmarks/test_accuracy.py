"""The benchmark measures what it says: known errors come out as known numbers."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

from qsmprep.core.grid import Grid
from qsmprep.core.methods import METHODS

SOURCE = Path(__file__).parents[2] / "benchmarks" / "accuracy.py"


@pytest.fixture(scope="module")
def accuracy():
    spec = importlib.util.spec_from_file_location("accuracy", SOURCE)
    module = importlib.util.module_from_spec(spec)
    sys.modules["accuracy"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["accuracy"]


@pytest.fixture
def case(accuracy):
    """A ball of random susceptibility whose fields are all zero."""
    shape = (24, 22, 20)
    rng = np.random.default_rng(3)
    brain = sum((np.indices(shape)[i] - (shape[i] - 1) / 2) ** 2 for i in range(3)) < 81
    chi = np.where(brain, rng.normal(0, 0.05, shape), 0).astype(np.float32)
    zero = np.zeros(shape, np.float32)
    return accuracy.Case("sub-01", Grid(shape, (2.0, 2.0, 2.0)), chi, zero, zero, brain.astype(np.float32), brain)


def test_rows_are_averaged_by_name(accuracy):
    rows = [{"m": "a", "x": 1.0}, {"m": "b", "x": 5.0}, {"m": "a", "x": 3.0}]
    assert accuracy.mean_rows(rows, ["m"]) == [{"m": "a", "x": 2.0}, {"m": "b", "x": 5.0}]


def test_markdown(accuracy):
    text = accuracy.markdown([{"m": "a", "x": 12.345, "y": 100.0}, {"m": "b", "x": 0.01, "y": 2.0}])
    assert text.splitlines() == [
        "| m | x | y |",
        "| --- | --- | --- |",
        "| a | 12.3 | 100 |",
        "| b | 0.0100 | 2.00 |",
    ]


def test_scores_of_a_map_with_a_known_error(accuracy, case):
    doubled = accuracy.scores(2 * case.chi_ppm, case, case.brain)
    assert doubled["NRMSE %"] == pytest.approx(100, rel=1e-5)
    assert doubled["dNRMSE %"] == pytest.approx(0, abs=1e-3)
    assert accuracy.scores(case.chi_ppm, case, case.brain)["XSIM"] == pytest.approx(1)


def test_every_method_has_its_row(accuracy, case):
    rows = list(accuracy.inversion_rows(case, seed=5))
    assert [row["inversion"] for row in rows] == list(accuracy.inversion_names())
    assert all(row["NRMSE %"] > 90 for row in rows), "a field of noise tells nothing"
    classical = [name for name in METHODS.names("inversion") if not METHODS.get("inversion", name).learned]
    assert set(classical) <= {row["inversion"] for row in rows}
    kept = [row["mask kept %"] for row in accuracy.background_rows(case, seed=5)]
    assert len(kept) == len(METHODS.names("background"))
    assert all(0 < share <= 100 for share in kept)


def test_noise_is_as_stated_and_the_same_again(accuracy, case):
    first, again, other = (case.noisy(case.local_ppm, seed) for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert first.std() == pytest.approx(accuracy.FIELD_NOISE_PPM, rel=0.03)


def test_a_page_is_changed_between_the_markers_only(accuracy, tmp_path, monkeypatch):
    first, last = "<!-- accuracy:begin -->", "<!-- accuracy:end -->"
    other, page = tmp_path / "a.md", tmp_path / "b.md"
    other.write_text("no markers")
    page.write_text(f"before\n{first}\nold\n{last}\nafter\n")
    monkeypatch.setattr(accuracy, "PAGES", tmp_path)
    accuracy.put_into_page("new", "accuracy")
    assert page.read_text() == f"before\n{first}\n\nnew\n\n{last}\nafter\n"
    assert other.read_text() == "no markers"
    with pytest.raises(SystemExit, match="markers"):
        accuracy.put_into_page("new", "fieldmap")
