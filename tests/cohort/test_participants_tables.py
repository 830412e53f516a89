"""What the participants' tables say: categories, values that are missing, sessions, and who stands in them."""

from __future__ import annotations

import json

import pytest
from cohort_cases import FIRST, change_people, people, write_cohort, write_table
from test_group_level import call, table

from qsmprep.cohort.collect import collect_cohort
from qsmprep.errors import NoMatchError


def test_codes_of_groups_are_categories(tmp_path, capsys):
    raw, out = write_cohort(tmp_path, 24)
    change_people(raw, "group", {p.label: str(1 + i % 3) for i, p in enumerate(people(24))})
    change_people(raw, "sex", {p.label: str(i // 3 % 2) for i, p in enumerate(people(24))})
    call(capsys, raw, out)
    assert json.loads((out / "group_models.json").read_text())["Formula"] == "chi ~ group + age + sex"
    terms = {row["term"] for row in table(out / "group_models.tsv")}
    assert terms == {"Intercept", "group[T.2]", "group[T.3]", "sex[T.1]", "age"}
    html = (out / "group.html").read_text()
    assert all(f"group: {code}</th>" in html for code in (1, 2, 3))


@pytest.mark.parametrize("word", ["NA", "N/A", "NaN", "na"])
def test_words_for_a_missing_value(tmp_path, capsys, word):
    raw, out = write_cohort(tmp_path, 16)
    change_people(raw, "group", {"sub-001": word, "sub-002": "n/a"})
    change_people(raw, "age", {"sub-003": word})
    said = call(capsys, raw, out)
    assert "counted as missing in the participants' tables, where BIDS writes n/a" in said
    assert f"{word} in age; {word} in group" in said
    assert "2 participants left out of the models: group missing (sub-001, sub-002)" in said
    assert "1 participant left out of the models: age missing (sub-003)" in said
    terms = {row["term"] for row in table(out / "group_models.tsv")}
    assert terms == {"Intercept", "group[T.patient]", "sex[T.M]", "age"}


def test_missing_as_bids_writes_it_needs_no_word(tmp_path):
    raw, out = write_cohort(tmp_path, 8)
    change_people(raw, "group", {"sub-001": "n/a"})
    change_people(raw, "age", {"sub-002": ""})
    found = collect_cohort(out, raw)
    assert found.notes == ()
    assert list(found.rows["group"].cat.categories) == ["control", "patient"]
    assert found.rows["age"].isna().sum() == 16


def test_who_stands_in_the_table_of_participants(tmp_path, capsys):
    """A table that has labels only, one that names nobody of the outputs, and none."""
    raw, out = write_cohort(tmp_path, 4)
    (out / "sub-empty").mkdir()
    path = raw / "participants.tsv"

    def said() -> dict[str, str]:
        call(capsys, raw, out)
        return {row["participant_id"]: row["in_participants_tsv"] for row in table(out / "group_participants.tsv")}

    path.write_text("participant_id\nsub-001\nsub-003\nsub-900\n")
    expected = {"sub-001": "yes", "sub-002": "no", "sub-003": "yes", "sub-004": "no"}
    assert said() == {**expected, "sub-900": "yes", "sub-empty": "no"}
    path.write_text("participant_id\tage\nsub-900\t30\n")
    assert said() == {**dict.fromkeys(expected, "no"), "sub-900": "yes", "sub-empty": "no"}
    path.unlink()
    assert said() == {**dict.fromkeys(expected, "no"), "sub-empty": "no"}


def test_a_session_without_a_value_keeps_that_of_the_participant(tmp_path):
    raw, out = write_cohort(tmp_path, 4, sessions=2)
    (raw / "sub-002").mkdir()
    table_of_sessions = raw / "sub-002/sub-002_sessions.tsv"
    table_of_sessions.write_text("session_id\tage\tdose\nses-1\tn/a\tn/a\nses-2\t99\t3\n")
    rows = collect_cohort(out, raw).rows
    mine = rows[rows["participant_id"] == "sub-002"].drop_duplicates("session").set_index("session")
    assert list(mine["age"]) == [people(4)[1].age, 99]
    assert list(mine["dose"].isna()) == [True, False]


def test_a_session_that_stands_there_twice(tmp_path, capsys):
    raw, out = write_cohort(tmp_path, 4, sessions=2)
    (raw / "sub-002").mkdir()
    (raw / "sub-002/sub-002_sessions.tsv").write_text("session_id\tage\nses-1\t30\n1\t40\nses-2\t50\n")
    said = call(capsys, raw, out, code=65)
    assert "sub-002_sessions.tsv names ses-1 more than once" in said and "one row for each session" in said


def test_names_with_dollars_are_drawn_as_they_are(tmp_path, capsys):
    """As groups in the plots, and as terms in the titles of the effects."""
    raw, out = write_cohort(tmp_path, 12)
    change_people(raw, "group", {p.label: r"$\bad$" if p.group == "patient" else "!" for p in people(12)})
    call(capsys, raw, out)
    assert r"group[T.$\bad$]" in {row["term"] for row in table(out / "group_models.tsv")}
    assert r"group: $\bad$</th>" in (out / "group.html").read_text()
    assert len(list((out / "figures").glob("*_effect-*.png"))) == 3


def test_sessions_and_acquisitions_that_are_asked_for(tmp_path):
    raw, out = write_cohort(tmp_path, 4, sessions=2)
    write_table(out, "sub-001", {next(iter(FIRST)): 0.1}, entities="ses-1_acq-fast")
    assert set(collect_cohort(out, raw, sessions=("2",)).rows["session"]) == {"2"}
    found = collect_cohort(out, raw, acquisitions=("fast",)).rows
    assert set(found["participant_id"]) == {"sub-001"} and set(found["acquisition"]) == {"fast"}
    for words, told in (({"sessions": ("2", "typo")}, "ses-typo"), ({"acquisitions": ("slow",)}, "acq-slow")):
        with pytest.raises(NoMatchError, match=told):
            collect_cohort(out, raw, **words)


def test_a_measurement_in_a_column_of_categories_is_told(tmp_path):
    raw, out = write_cohort(tmp_path, 12)
    change_people(raw, "group", {p.label: f"{0.1 * i:.1f}" for i, p in enumerate(people(12))})
    (said,) = [note for note in collect_cohort(out, raw).notes if "group" in note]
    assert "12 values of 12" in said and "rename" in said
    assert not [
        note for note in collect_cohort(*reversed(write_cohort(tmp_path / "b", 12))).notes if "values of" in note
    ]
