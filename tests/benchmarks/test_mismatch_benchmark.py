"""The benchmark of fields that no map explains: its table follows from its rows, its rows from what is measured."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from benchmark_cases import loaded

from qsmprep.core.dipole import forward_field
from qsmprep.core.grid import Grid
from qsmprep.core.methods import METHODS
from qsmprep.core.results import LocalField

MEASURED = ("NRMSE %", "dNRMSE %", "XSIM")


@pytest.fixture
def bench():
    with loaded("mismatch", "accuracy", "fieldmap") as module:
        yield module


def test_the_inversions_that_are_measured_exist(bench):
    for variant in bench.INVERSIONS:
        METHODS.get("inversion", variant.method).configure(variant.changes)
    assert bench.INVERSIONS[0].method == "whqsm"
    assert METHODS.names("inversion")[0] in {variant.method for variant in bench.INVERSIONS}
    assert len({variant.title for variant in bench.INVERSIONS}) == len(bench.INVERSIONS)


def row(seed, share, value):
    return {"seed": seed, "share": share, "inversion": "TV", **dict.fromkeys(MEASURED, value), "commit": "abc"}


def test_columns_are_means_over_heads_for_each_share(bench):
    assert tuple(bench.MEASURES) == MEASURED
    lines = bench.report([row(1, 0.0, 20.0), row(2, 0.0, 30.0), row(1, 0.3, 40.0), row(2, 0.3, 60.0)]).splitlines()
    heads, values = ([cell.strip() for cell in line.strip("|").split("|")] for line in (lines[0], lines[2]))
    assert dict(zip(heads, values, strict=True)) == {
        "inversion": "TV",
        **{f"{name}, none": "25.0" for name in MEASURED},
        **{f"{name}, 30%": "50.0" for name in MEASURED},
    }


def test_what_was_measured_is_not_measured_again(bench, monkeypatch, tmp_path, capsys):
    done = []

    def measured(head):
        done.append((head.seed, head.anisotropy))
        yield row(head.seed, head.anisotropy, 10.0)

    monkeypatch.setattr(bench, "head_rows", measured)
    rows = ["--rows", str(tmp_path / "rows.jsonl"), "--heads"]
    assert bench.main([*rows, "2"]) == 0
    assert bench.main([*rows, "2", "3"]) == 0
    seeds = [head.seed for head in bench.HEADS[1:3]]
    assert done == [(seed, share) for seed in seeds for share in bench.SHARES]
    assert "means over 2 heads" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        bench.main([*rows, "0"])


def test_inversions_are_given_the_field_that_they_ask_for(bench, monkeypatch):
    """Scores of the same method on the field as it is, and on one that holds nothing."""
    rng = np.random.default_rng(0)
    grid = Grid((12, 12, 12), (2.0, 2.0, 2.0))
    brain = np.zeros(grid.shape, bool)
    brain[2:10, 2:10, 2:10] = True
    chi = np.where(brain, rng.normal(0, 0.1, grid.shape), 0).astype(np.float32)
    local, one = forward_field(chi, grid), np.ones(grid.shape, np.float32)
    from fieldmap import Case, Variant

    monkeypatch.setattr(
        bench, "measure_phase", lambda head: Case(grid, brain, brain, local, one, one, local, local, chi)
    )
    monkeypatch.setattr(bench, "remove", lambda case, variant, field: LocalField(field, case.mask))
    monkeypatch.setattr(bench, "cleaned", lambda case, found, background: LocalField(0 * found.field_ppm, found.mask))
    monkeypatch.setattr(bench, "INVERSIONS", (Variant("with", "tkd"), Variant("off", "tkd", off=True)))
    kept, off = bench.head_rows(replace(bench.HEADS[0], anisotropy=0.6))
    assert (kept["inversion"], off["inversion"]) == ("with", "off")
    assert (kept["seed"], kept["share"]) == (bench.HEADS[0].seed, 0.6)
    assert off["NRMSE %"] == pytest.approx(100)
    assert kept["NRMSE %"] < 90
