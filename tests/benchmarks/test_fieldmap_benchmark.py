"""The benchmark of the field map: its tables follow from its rows, its rows from what is measured."""

from __future__ import annotations

import numpy as np
import pytest
from benchmark_cases import loaded

from qsmprep.core.dipole import forward_field
from qsmprep.core.grid import Grid
from qsmprep.core.methods import METHODS
from qsmprep.core.results import LocalField


@pytest.fixture(scope="module")
def bench():
    with loaded("fieldmap", "accuracy") as module:
        yield module


def rows(head, scale):
    fields = {"V-SHARP, published": (60, 50), "RESHARP, published": (40, 40), "TFI": (24 * scale, 16 * scale)}
    for name, (outer, inner) in fields.items():
        same = {"own": outer, "kept": 95.0, "vsharp": outer, "resharp": inner, "seconds": 1.0}
        yield {"kind": "field", "head": head, "background": name, **same}
        yield {"kind": "depth", "head": head, "error of": name, "0 to 2 mm": outer}
    for background, inversion, error in (("V-SHARP, published", "RTS, published", 80), ("TFI", "TV", 40 * scale)):
        names = {"kind": "chi", "head": head, "background": background, "inversion": inversion}
        yield {**names, "own": error, "kept": 95.0, "vsharp": error, "seconds": 1.0}


def test_ratios_are_those_of_the_same_mask(bench):
    first, second, mean = bench.ratios([*rows("a", 1.0), *rows("b", 1.5)])
    assert first == {
        "head": "a",
        "brain kept %": 95.0,
        "TFI / V-SHARP": pytest.approx(0.4),
        "TFI / RESHARP": pytest.approx(0.4),
        "χ, TFI + TV": pytest.approx(0.5),
    }
    assert second["χ, TFI + TV"] == pytest.approx(0.75)
    assert mean["TFI / V-SHARP"] == pytest.approx(0.5)


def test_tables_are_means_over_heads(bench):
    text = bench.report([*rows("a", 1.0), *rows("b", 1.5)])
    assert "mean over 2 heads" in text
    assert "| TFI | 30.0 | 95.0 | 30.0 | 20.0 | 1.00 |" in text


def test_the_methods_that_are_measured_exist(bench):
    for variant in (*bench.FULL, *bench.QUICK):
        METHODS.get("background", variant.method).configure(variant.changes)
    for chains, backgrounds in ((bench.CHAINS, bench.FULL), (bench.QUICK_CHAINS, bench.QUICK)):
        assert set(chains) <= {bench.WHOLE, *(variant.title for variant in backgrounds)}
        for variant in (v for found in chains.values() for v in found):
            METHODS.get("inversion", variant.method).configure(variant.changes)
    assert len({head.name for head in bench.HEADS}) == len(bench.HEADS) >= 10


def test_maps_are_scored_where_their_field_is_valid(bench):
    """A perfect field has a smaller error than an empty one, and masks are counted against the brain."""
    rng = np.random.default_rng(0)
    grid = Grid((12, 12, 12), (2.0, 2.0, 2.0))
    brain = np.zeros(grid.shape, bool)
    brain[2:10, 2:10, 2:10] = True
    chi = np.where(brain, rng.normal(0, 0.1, grid.shape), 0).astype(np.float32)
    local = forward_field(chi, grid)
    one = np.ones(grid.shape, np.float32)
    case = bench.Case(grid, brain, brain, local, one, one, local, local, chi)
    half = brain.copy()
    half[:6] = False
    found = {"V-SHARP, published": LocalField(local, half), "TFI": LocalField(0 * local, brain)}
    tkd = bench.Variant("TKD", "tkd")
    good, bad = bench.chi_rows(bench.HEADS[0], case, found, {"V-SHARP, published": (tkd,), "TFI": (tkd,)})
    assert good["kept"] == 50
    assert bad["kept"] == 100
    assert bad["own"] == pytest.approx(100)
    assert good["own"] < 90


def test_heads_that_are_kept_are_not_measured_again(bench, monkeypatch, tmp_path, capsys):
    done = []

    def measured(head, full):
        done.append(head.name)
        yield from rows(head.name, 1.0)

    monkeypatch.setattr(bench, "head_rows", measured)
    kept = ["--rows", str(tmp_path / "rows.jsonl"), "--heads"]
    assert bench.main([*kept, "1"]) == 0
    assert bench.main([*kept, "1", "3"]) == 0
    assert done == [bench.HEADS[0].name, bench.HEADS[2].name]
    assert "`python benchmarks/fieldmap.py --heads 1 3`" in capsys.readouterr().out
