"""Labels that are one region whatever they are called, and labels of one name that are not."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from cohort_cases import people, row_of, write_cohort
from test_group_level import call, table

from qsmprep.bids.tables import write_roi_table
from qsmprep.cohort.collect import collect_cohort
from qsmprep.cohort.models import fit_models
from qsmprep.cohort.outliers import find_outliers
from qsmprep.core.structures import Region

TWINS = (Region(1, "Nucleus", "nucleus", "L"), Region(2, "Nucleus", "nucleus", "L"), Region(3, "Other", "other", "L"))


def write_own(out: Path, label: str, regions: dict[Region, float]) -> None:
    rows = [row_of(region, value) for region, value in regions.items()]
    write_roi_table(rows, "chi", "ppm", out / label / "anat" / f"{label}_seg-own_desc-tv_stats.tsv")


def spell(out: Path, labels: list[str]) -> None:
    """Give the left thalamus another name in the tables of some participants."""
    for label in labels:
        (path,) = (out / label / "anat").glob("*_stats.tsv")
        path.write_text(path.read_text().replace("\tLeft-Thalamus\t", "\tLeft-Thalamus-Proper\t"))


def test_two_labels_of_one_name(tmp_path, capsys):
    raw, out = write_cohort(tmp_path, 12)
    rng = np.random.default_rng(0)
    values = {p.label: dict(zip(TWINS, rng.normal(0, 0.01, 3), strict=True)) for p in people(12)}
    for label, own in values.items():
        write_own(out, label, own)
    call(capsys, raw, out)
    wide = {row["participant_id"]: row for row in table(out / "group_roi_wide.tsv")}
    columns = ["tv_own_nucleus_L_Nucleus-1", "tv_own_nucleus_L_Nucleus-2", "tv_own_other_L"]
    assert [name for name in wide["sub-001"] if name.startswith("tv_own")] == columns
    for label, own in values.items():
        assert [float(wide[label][c]) for c in columns] == pytest.approx(list(own.values()), rel=1e-6)
    models = [row for row in table(out / "group_models.tsv") if row["segmentation"] == "own"]
    assert {(row["name"], row["model"], row["n_rows"], row["n_participants"]) for row in models} == {
        (name, "ols", "12", "12") for name in ("Nucleus 1", "Nucleus 2", "Other")
    }
    html = (out / "group.html").read_text()
    assert "nucleus L (Nucleus 1)" in html and "other L</th>" in html and "other L (" not in html


def test_two_names_for_one_structure_in_one_scan(tmp_path):
    raw, out = write_cohort(tmp_path, 8)
    regions = [Region(1, "GPe", "pallidum", "L"), Region(2, "GPi", "pallidum", "L")]
    for place, person in enumerate(people(8)):
        write_own(out, person.label, {region: 0.1 + 0.01 * place * region.index for region in regions})
    found = fit_models(collect_cohort(out, raw).rows, "age", "mean", ("age",)).table
    own = found[found["segmentation"] == "own"]
    assert list(own.drop_duplicates("name")["name"]) == ["GPe", "GPi"] and set(own["model"]) == {"ols"}


def test_a_region_with_the_name_of_the_whole(tmp_path, capsys):
    raw, out = write_cohort(tmp_path, 6)
    brain = Region(1, "whole brain", "whole brain", "B")
    for person in people(6):
        rows = [row_of(brain, 0.02), dataclasses.replace(row_of(dataclasses.replace(brain, index=0), 0), kind="whole")]
        path = out / person.label / "anat" / f"{person.label}_seg-own_desc-tv_stats.tsv"
        write_roi_table(rows, "chi", "ppm", path)
    call(capsys, raw, out)
    row = table(out / "group_roi_wide.tsv")[0]
    assert (row["tv_own_whole-brain_B_whole-brain-1"], row["tv_own_whole-brain_B_whole-brain-whole"]) == ("0.02", "0")


def test_one_structure_spelled_in_two_ways(tmp_path):
    """The same models and outliers as with one spelling; the table names both."""
    raw, out = write_cohort(tmp_path, 12)
    columns = ("age", "sex", "group")
    before = collect_cohort(out, raw).rows
    spell(out, [f"sub-{number:03d}" for number in range(1, 13, 2)])
    rows = collect_cohort(out, raw).rows
    one, two = (fit_models(r, "chi ~ group + age", "mean", columns).table for r in (before, rows))
    pd.testing.assert_frame_equal(one.drop(columns="name"), two.drop(columns="name"), check_categorical=False)
    thalamus = two[(two["structure"] == "thalamus") & (two["hemisphere"] == "L")]
    assert set(thalamus["name"]) == {"Left-Thalamus-Proper; Left-Thalamus"} and set(thalamus["n_rows"]) == {12}


def test_outliers_over_both_spellings(tmp_path):
    raw, out = write_cohort(tmp_path, 8)
    spell(out, [f"sub-{number:03d}" for number in range(1, 5)])
    rows = collect_cohort(out, raw).rows
    left = (rows["structure"] == "thalamus") & (rows["hemisphere"] == "L")
    rows.loc[left & (rows["participant_id"] == "sub-002"), "mean"] = 0.5
    metrics = pd.DataFrame(columns=["participant_id", "session", "scan", "what", "value", "low", "high"])
    flagged = find_outliers(rows, metrics, "mean")
    assert "sub-002" in set(flagged.loc[flagged["what"] == "tv first thalamus L", "participant_id"])
