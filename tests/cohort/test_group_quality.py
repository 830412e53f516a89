"""Quality control at the group level: the table of all scans, its page, and a cohort without any regions."""

from __future__ import annotations

import json
import math
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from cohort_cases import write_cohort
from test_group_level import Reader, call, table

from qsmprep.reports.definitions import make_metric
from qsmprep.reports.record import AcquisitionRecord, ErrorEntry, write_record


def write_records(out: Path, n: int, *, seed: int = 0) -> None:
    """Records and pages of ``n`` participants: the third has ghosts, the fifth failed, the sixth has two sessions."""
    rng = np.random.default_rng(seed)
    for number in range(1, n + 1):
        for session in ("a", "b") if number == 6 else (None,):
            label = f"{number:03d}"
            key = f"sub-{label}" + (f"_ses-{session}" if session else "")
            metrics = (
                make_metric("snr", 40 + rng.normal(0, 2)),
                make_metric("ghosting", 0.05 if number == 3 else abs(rng.normal(0, 0.002))),
                make_metric("rim_ratio", 0.6 + rng.normal(0, 0.02), of="WH-QSM"),
                make_metric("registration_shift_mm", math.nan),
            )
            errors = (ErrorEntry("invert", "it broke"),) if number == 5 else ()
            record = AcquisitionRecord(key, label, session, metrics=metrics, errors=errors)
            folder = out / f"sub-{label}" / (f"ses-{session}" if session else "") / "anat"
            write_record(record, folder / f"{key}_desc-qc_metrics.json")
        (out / f"sub-{label}.html").write_text("<p>page</p>")


def test_table_and_page(tmp_path, capsys):
    raw, out = write_cohort(tmp_path, 12)
    write_records(out, 12)
    call(capsys, raw, out)
    rows = table(out / "group_qc.tsv")
    assert len(rows) == 13
    assert list(rows[0]) == [
        *("participant_id", "session", "scan", "verdict"),
        *("snr", "ghosting", "rim_ratio_wh_qsm", "registration_shift_mm"),
    ]
    found = {row["scan"]: row for row in rows}
    assert found["sub-006_ses-b"]["session"] == "b" and found["sub-001"]["session"] == "n/a"
    assert found["sub-003"]["ghosting"] == "0.05" and found["sub-003"]["verdict"] == "check"
    assert found["sub-005"]["verdict"] == "failed"
    assert found["sub-001"]["registration_shift_mm"] == "n/a"
    about = json.loads((out / "group_qc.json").read_text())
    assert set(about) == set(rows[0])
    assert about["ghosting"]["Maximum"] == 0.01 and "Minimum" not in about["ghosting"]
    assert about["snr"]["Minimum"] == 5
    html = (out / "group.html").read_text()
    page = Reader(html)
    assert page.open == [] and "quality" in page.ids
    assert {"sub-003.html", "sub-005.html"} <= set(page.links)
    assert (out / "figures/group_qc.png").stat().st_size > 5000
    numbers = table(out / "figures/group_qc.tsv")
    assert len(numbers) == 13 * 4
    flagged = table(out / "group_outliers.tsv")
    assert any(row["scan"] == "sub-003" and row["what"].startswith("Ghosts") for row in flagged)


def test_some_participants_and_sessions_only(tmp_path, capsys):
    raw, out = write_cohort(tmp_path, 8)
    write_records(out, 8)
    call(capsys, raw, out, "--participant-label", "001", "002", "003", "004", "005", "006", "007")
    assert len(table(out / "group_qc.tsv")) == 8


def test_a_cohort_without_regions(tmp_path, capsys):
    raw, out = write_cohort(tmp_path, 2)
    for path in out.glob("sub-*/anat/*_stats.*"):
        path.unlink()
    write_records(out, 8)
    (out / "sub-008/anat/sub-008_desc-qc_metrics.json").write_text("{")
    said = call(capsys, raw, out)
    assert "no participant has a table of regions" in said and "with a segmentation" in said
    assert "sub-008" in said and "no quality record" in said
    assert len(table(out / "group_qc.tsv")) == 8
    page = Reader((out / "group.html").read_text())
    assert {"summary", "quality", "outliers"} <= set(page.ids) and page.open == []
    assert not (out / "group_roi.tsv").exists()
    assert json.loads((out / "dataset_description.json").read_text())["DatasetType"] == "derivative"


MEASURE = """
import resource, sys
from qsmprep.cli.main import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_two_hundred_participants(tmp_path):
    """Less than 60 s of CPU time."""
    raw, out = write_cohort(tmp_path, 200)
    write_records(out, 200)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-c", MEASURE, raw, out, "group"], capture_output=True, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0, done.stderr
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(f"{seconds:.1f} s of CPU")
    assert seconds < 60
