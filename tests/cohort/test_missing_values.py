"""What is missing is told, and the models say how many measurements they really hold."""

from __future__ import annotations

import pandas as pd
import pytest
from cohort_cases import change_people, people, write_cohort
from test_group_level import call, table

from qsmprep.cohort.collect import collect_cohort
from qsmprep.cohort.models import fit_models

COLUMNS = ("age", "sex", "group", "session")


def patients(n: int) -> list[str]:
    return [person.label for person in people(n) if person.group == "patient"]


def test_a_tested_column_that_vanishes_is_told(tmp_path, capsys):
    raw, out = write_cohort(tmp_path, 14)
    change_people(raw, "age", dict.fromkeys(patients(14), "n/a"))
    said = call(capsys, raw, out)
    assert "warning: 7 participants left out of the models: age missing (sub-002, " in said
    assert "warning: every region: group has one value left (control): no effect of it can be told" in said
    lines = [row for row in table(out / "group_models.tsv") if row["term"] == "group"]
    assert len(lines) == 15 and {row["estimate"] for row in lines} == {"n/a"}
    html = (out / "group.html").read_text()
    assert "7 participants left out of the models: age missing" in html and "group has one value left" in html


def test_the_page_and_the_table_say_who_is_in_the_models(tmp_path, capsys):
    raw, out = write_cohort(tmp_path, 14)
    absent = ["sub-001", "sub-004", "sub-006", "sub-007", "sub-013"]
    change_people(raw, "age", dict.fromkeys(absent, "n/a"))
    change_people(raw, "sex", {"sub-013": "n/a"})
    said = call(capsys, raw, out)
    assert "4 participants left out of the models: age missing (sub-001, sub-004, sub-006, sub-007)" in said
    assert "1 participant left out of the models: age and sex missing (sub-013)" in said
    people_table = table(out / "group_participants.tsv")
    assert [row["participant_id"] for row in people_table if row["left_out"] != "n/a"] == absent
    models = table(out / "group_models.tsv")
    assert {(row["n_rows"], row["n_participants"], row["n_left_out"]) for row in models} == {("9", "9", "5")}
    html = (out / "group.html").read_text()
    assert html.split("participants in the models</th>")[1].split("</td>")[0].endswith(">9")


def test_a_session_that_lacks_a_value(tmp_path, capsys):
    raw, out = write_cohort(tmp_path, 10, sessions=2)
    for number in range(1, 11):
        (raw / f"sub-{number:03d}").mkdir()
        second = "n/a" if number == 3 else str(32 + 3 * number)
        lines = ["session_id\tdose", f"ses-1\t{30 + 2 * number}", f"ses-2\t{second}"]
        (raw / f"sub-{number:03d}/sub-{number:03d}_sessions.tsv").write_text("\n".join(lines) + "\n")
    said = call(capsys, raw, out, "--formula", "chi ~ dose")
    assert "1 participant partly left out of the models: dose missing in some sessions (sub-003)" in said
    found = {row["participant_id"]: row["left_out"] for row in table(out / "group_participants.tsv")}
    assert found["sub-003"] == "dose missing in 1 of 2 sessions" and found["sub-004"] == "n/a"


@pytest.mark.parametrize("sessions", [1, 2])
def test_measurements_without_a_number_are_not_counted(tmp_path, sessions):
    """The logarithm of a negative value: in ordinary and in mixed models the rows of the design count."""
    raw, out = write_cohort(tmp_path, 12, sessions=sessions)
    rows = collect_cohort(out, raw).rows
    putamen = rows[(rows["structure"] == "putamen") & (rows["hemisphere"] == "L")].index
    rows["mean"] = rows["mean"].abs() + 1e-3
    rows.loc[putamen[:3], "mean"] = [-0.01, -0.02, 0.0]
    found = fit_models(rows, "np.log(chi) ~ age", "mean", COLUMNS)
    line = found.table[(found.table["structure"] == "putamen") & (found.table["hemisphere"] == "L")].iloc[0]
    kept = rows.loc[putamen[3:]]
    assert (line["status"], line["n_rows"], line["n_left_out"]) == ("ok", 12 * sessions - 3, 3)
    assert line["n_participants"] == kept["participant_id"].nunique()
    assert [note for note in found.notes if "no number" in note] == [
        "measurements left out because the formula gives no number for them: putamen L 3"
    ]
    without = fit_models(kept, "np.log(chi) ~ age", "mean", COLUMNS).table
    mine = found.table[(found.table["structure"] == "putamen") & (found.table["hemisphere"] == "L")]
    own = ["model", "term", "n_rows", "n_participants", "estimate", "se", "p"]
    pd.testing.assert_frame_equal(mine[own].reset_index(drop=True), without[own])


def test_a_level_that_vanishes_with_the_numbers(tmp_path):
    raw, out = write_cohort(tmp_path, 12)
    rows = collect_cohort(out, raw).rows
    rows["mean"] = rows["mean"].abs() + 1e-3
    rows.loc[(rows["structure"] == "putamen") & (rows["group"] == "patient"), "mean"] = -0.01
    found = fit_models(rows, "np.log(chi) ~ group", "mean", COLUMNS)
    putamen = found.table[(found.table["structure"] == "putamen") & (found.table["hemisphere"] == "L")]
    assert list(putamen["term"]) == ["Intercept", "group"]
    assert "putamen L: group has one value left (control): no effect of it can be told" in found.notes


@pytest.mark.parametrize("formula", ["chi ~ 0", "chi ~ -1", "0"])
def test_a_formula_without_a_term(tmp_path, capsys, formula):
    raw, out = write_cohort(tmp_path, 6)
    assert "has no term" in call(capsys, raw, out, "--formula", formula, code=2)
