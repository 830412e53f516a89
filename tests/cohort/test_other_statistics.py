"""Statistics with a unit of their own, and statistics that some participants lack."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from cohort_cases import write_cohort
from test_group_level import call, table

from qsmprep.cohort.collect import collect_cohort
from qsmprep.cohort.normative import fit_iron_line
from qsmprep.reports import cohort_graphs as graphs


def vary(out: Path, column: str, absent: tuple[str, ...] = ()) -> None:
    """Other values of a statistic in all tables; none in those of some participants."""
    rng = np.random.default_rng(0)
    for path in sorted(out.glob("sub-*/anat/*_stats.tsv")):
        rows = pd.read_csv(path, sep="\t", na_values="n/a")
        rows[column] = np.nan if path.parts[-3] in absent else rng.uniform(0.1, 0.9, len(rows)).round(3)
        rows["index"] = rows["index"].astype("Int64")
        rows.to_csv(path, sep="\t", index=False, na_rep="n/a")


@pytest.fixture
def figures(monkeypatch):
    """The figures that are drawn, in their order."""
    drawn, encode = [], graphs.encode_figure
    monkeypatch.setattr(graphs, "encode_figure", lambda figure: drawn.append(figure) or encode(figure))
    return drawn


@pytest.mark.parametrize(
    ("statistic", "unit", "label"),
    [("volume_mm3", "mm^3", "volume_mm3"), ("coverage", "1", "coverage"), ("sd", "ppm", "sd of χ")],
)
def test_no_susceptibility(tmp_path, capsys, figures, statistic, unit, label):
    raw, out = write_cohort(tmp_path, 12)
    vary(out, statistic)
    call(capsys, raw, out, "--roi-statistic", statistic)
    assert {row["unit"] for row in table(out / "group_models.tsv")} == {unit}
    assert json.loads((out / "group_roi_wide.json").read_text())["tv_first_pallidum_L"]["Units"] == unit
    html = (out / "group.html").read_text()
    assert f"estimate ({unit})" in html and "Hallgren" not in html
    labels = {axis.get_ylabel() for figure in figures for axis in figure.axes if axis.get_ylabel()}
    assert labels == {f"{label} ({unit})"}
    assert "published_curve" not in table(out / "figures/group_tv_first_age.tsv")[0]


def test_susceptibility(tmp_path, capsys, figures):
    raw, out = write_cohort(tmp_path, 12)
    call(capsys, raw, out, "--roi-statistic", "median")
    labels = {axis.get_ylabel() for figure in figures for axis in figure.axes if axis.get_ylabel()}
    assert labels == {"χ (ppm)"} and "Hallgren" in (out / "group.html").read_text()
    rows = collect_cohort(out, raw).rows
    assert fit_iron_line(rows, "median") is not None and fit_iron_line(rows, "weighted_volume_mm3") is None


def test_some_participants_lack_it(tmp_path, capsys, figures):
    raw, out = write_cohort(tmp_path, 12)
    vary(out, "eroded_mean", ("sub-001", "sub-002", "sub-003"))
    call(capsys, raw, out, "--roi-statistic", "eroded_mean")
    (figure,) = (f for f in figures if any("n=" in t.get_text() for a in f.axes for t in a.get_xticklabels()))
    for axis in figure.axes[:7]:
        assert [text.get_text() for text in axis.get_xticklabels()] == ["control\n(n=8)", "patient\n(n=10)"]
    assert {row["n_rows"] for row in table(out / "group_models.tsv")} == {"9"}
    assert len(table(out / "figures/group_tv_first_groups.tsv")) == 9 * 15


def test_medians_are_of_what_is_a_number(tmp_path, figures):
    some = graphs.Points("some", np.zeros(5), np.array([1.0, np.nan, 2.0, 6.0, np.nan]))
    none = graphs.Points("none", np.zeros(2), np.full(2, np.nan))
    graphs.plot_groups([graphs.Panel("x", [some, none])], "y", tmp_path / "x.png")
    (axis,) = figures[0].axes
    median, quartiles = axis.lines
    assert list(median.get_ydata()) == [2, 2] and list(quartiles.get_ydata()) == [1.5, 4]
    assert [text.get_text() for text in axis.get_xticklabels()] == ["some\n(n=3)", "none\n(n=0)"]
