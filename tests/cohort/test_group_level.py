"""``qsmprep BIDS_DIR OUT_DIR group`` as a user calls it, on tables and on people as they come."""

from __future__ import annotations

import csv
import json
import resource
import subprocess
import sys
import time
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest
from cohort_cases import write_cohort, write_table

from qsmprep.cli.main import main
from qsmprep.core.structures import FIRST


def call(capsys, raw: Path, out: Path, *words: object, code: int = 0) -> str:
    assert main([str(word) for word in (raw, out, "group", *words)]) == code
    said = capsys.readouterr()
    return said.out + said.err


def table(path: Path) -> list[dict[str, str]]:
    with path.open() as stream:
        return list(csv.DictReader(stream, delimiter="\t"))


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """A cohort of 24 with somebody missing and somebody unmatched, and two maps."""
    root = tmp_path_factory.mktemp("group")
    raw, out = write_cohort(root, 24)
    for number in range(1, 25):
        write_table(out, f"sub-{number:03d}", dict.fromkeys(FIRST, 30.0 + number), desc="R2star")
    write_table(out, "sub-stranger", dict.fromkeys(FIRST, 0.01))
    (out / "sub-empty").mkdir()
    with (raw / "participants.tsv").open("a") as stream:
        stream.write("sub-900\t44\tM\tcontrol\n")
    record = {"metrics": [{"name": "SNR", "value": 3.0, "low": 5.0, "high": None}]}
    (out / "sub-001/anat/sub-001_desc-qc_metrics.json").write_text(json.dumps(record))
    (out / "sub-002/anat/sub-002_desc-qc_metrics.json").write_text("{broken")
    assert main([str(raw), str(out), "group"]) == 0
    return root


def test_long_table(finished):
    rows = table(finished / "out/group_roi.tsv")
    assert len(rows) == (24 * 2 + 1) * 16
    first = rows[0]
    assert first["participant_id"] == "sub-001"
    assert (first["segmentation"], first["session"], first["run"]) == ("first", "n/a", "n/a")
    assert {row["map"] for row in rows} == {"tv", "R2star"}
    assert {row["unit"] for row in rows if row["map"] == "R2star"} == {"1/s"}
    assert {row["group"] for row in rows if row["participant_id"] == "sub-stranger"} == {"n/a"}
    about = json.loads((finished / "out/group_roi.json").read_text())
    assert set(first) == set(about)


def test_wide_table(finished):
    rows = table(finished / "out/group_roi_wide.tsv")
    assert len(rows) == 25
    person = next(row for row in rows if row["participant_id"] == "sub-005")
    long = [row for row in table(finished / "out/group_roi.tsv") if row["participant_id"] == "sub-005"]
    for row in long:
        column = "_".join((row["map"], "first", row["structure"].replace(" ", "-"), row["hemisphere"]))
        assert person[column] == row["mean"]
    assert (person["age"], person["sex"]) == (long[0]["age"], long[0]["sex"])


def test_who_is_there(finished):
    rows = {row["participant_id"]: row for row in table(finished / "out/group_participants.tsv")}
    assert rows["sub-900"]["status"] == rows["sub-empty"]["status"] == "missing"
    assert rows["sub-stranger"]["in_participants_tsv"] == "no"
    assert (rows["sub-010"]["status"], rows["sub-010"]["n_scans"]) == ("present", "1")


def test_models_and_outliers(finished):
    rows = table(finished / "out/group_models.tsv")
    hits = {
        (row["structure"], row["hemisphere"])
        for row in rows
        if row["map"] == "tv" and row["term"] == "group[T.patient]" and float(row["p_fdr"]) < 0.05
    }
    assert {("pallidum", "L"), ("pallidum", "R")} <= hits
    assert json.loads((finished / "out/group_models.json").read_text())["Formula"] == "chi ~ group + age + sex"
    flagged = table(finished / "out/group_outliers.tsv")
    assert any(row["what"] == "SNR" and row["why"] == "outside the limits" for row in flagged)


class Reader(HTMLParser):
    """What a browser would load, and whether tags are closed."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.loads, self.ids, self.open, self.links = [], [], [], []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)
        if "src" in values:
            self.loads.append(values["src"])
        if "id" in values:
            self.ids.append(values["id"])
        if tag == "a":
            self.links.append(values["href"])

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_page(finished):
    out = finished / "out"
    html = (out / "group.html").read_text()
    page = Reader(html)
    assert page.open == []
    assert len(set(page.ids)) == len(page.ids)
    assert page.loads
    assert all(address.startswith("data:image/png;base64,") for address in page.loads)
    assert all(link[1:] in page.ids for link in page.links if link.startswith("#"))
    assert "<script" not in html
    for text in ("sub-900", "sub-stranger", "no quality record", "Hallgren", "Benjamini", "group[T.patient]", "χ tv"):
        assert text in html, text
    figures = sorted(path.name for path in (out / "figures").iterdir())
    pictures = [name for name in figures if name.endswith(".png")]
    assert len(pictures) >= 8
    assert [name.replace(".png", ".tsv") for name in pictures] == [n for n in figures if n.endswith(".tsv")]
    numbers = table(out / "figures/group_tv_first_age.tsv")
    assert {row["structure"] for row in numbers if row["published_curve"] != "n/a"} == {
        "pallidum",
        "putamen",
        "caudate",
    }


def test_group_files_are_ignored_by_the_validator(finished):
    lines = (finished / "out/.bidsignore").read_text().splitlines()
    assert {"group_*", "*_stats.*", "*.html", "figures"} <= set(lines)


def test_options(tmp_path, capsys):
    raw, out = write_cohort(tmp_path, 12)
    said = call(capsys, raw, out, "--formula", "chi ~ age", "--roi-statistic", "median")
    assert "chi ~ age; median" in said
    assert {row["term"] for row in table(out / "group_models.tsv")} == {"Intercept", "age"}
    assert "frobnicate" in call(capsys, raw, out, "--formula", "frobnicate", code=2)
    assert "trimmed_mean" in call(capsys, raw, out, "--roi-statistic", "mode", code=2)
    assert "sub-77" in call(capsys, raw, out, "--participant-label", "77", code=18)
    call(capsys, raw, out, "--participant-label", "001", "002", "003", "004", "005", "006", "007")
    assert len(table(out / "group_roi_wide.tsv")) == 7


def test_bad_input(tmp_path, capsys):
    raw, out = write_cohort(tmp_path, 12)
    people = raw / "participants.tsv"
    text = people.read_text()
    people.write_text(text + "sub-003\t30\tF\tcontrol\n")
    assert "sub-003" in call(capsys, raw, out, code=65)
    people.write_text(text.replace("participant_id", "id"))
    assert "participant_id" in call(capsys, raw, out, code=65)
    people.unlink()
    said = call(capsys, raw, out)
    assert "no participants.tsv" in said
    assert "chi ~ 1" in said
    (out / "sub-004/anat/sub-004_seg-first_desc-tv_stats.tsv").write_text("nonsense\n1\n")
    said = call(capsys, raw, out)
    assert "no table of regions of this version" in said
    assert "sub-004" in (out / "group_participants.tsv").read_text()
    (tmp_path / "new").mkdir()
    assert "participant level" in call(capsys, raw, tmp_path / "new", code=66)
    assert "participant level" in call(capsys, raw, tmp_path / "absent", code=66)
    assert not list((tmp_path / "new").iterdir())
    assert "no such folder" in call(capsys, tmp_path / "nowhere", out, code=16)


def test_sessions_have_their_own_columns(tmp_path, capsys):
    raw, out = write_cohort(tmp_path, 10, sessions=2)
    for number in range(1, 11):
        folder = raw / f"sub-{number:03d}"
        folder.mkdir()
        lines = ["session_id\tage", f"ses-1\t{30 + number}", f"ses-2\t{32 + number}"]
        (folder / f"{folder.name}_sessions.tsv").write_text("\n".join(lines) + "\n")
    call(capsys, raw, out)
    rows = table(out / "group_roi_wide.tsv")
    assert [(row["session"], row["age"]) for row in rows[:2]] == [("1", "31"), ("2", "33")]
    assert json.loads((out / "group_models.json").read_text())["Formula"] == "chi ~ group + age + sex"
    assert {row["model"] for row in table(out / "group_models.tsv")} == {"mixed"}


MEASURE = """
import resource, sys
from qsmprep.cli.main import main
code = main(sys.argv[1:])
print("PEAK_MIB", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
sys.exit(code)
"""


@pytest.mark.slow
def test_five_hundred_participants(tmp_path):
    """Under 30 s of CPU time and 1 GiB."""
    raw, out = write_cohort(tmp_path, 500)
    for number in range(1, 501):
        write_table(out, f"sub-{number:03d}", dict.fromkeys(FIRST, 30.0 + number % 17), desc="R2star")
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, raw, out, "group"], capture_output=True, text=True, check=False
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0, done.stderr
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    peak_mib = float(done.stdout.split("PEAK_MIB ")[1])
    print(f"{seconds:.1f} s of CPU, {time.monotonic() - started:.1f} s, {peak_mib:.0f} MiB")
    assert seconds < 30
    assert peak_mib < 1024
    assert len(pd.read_csv(out / "group_roi_wide.tsv", sep="\t")) == 500
