"""What the tasks said, held against what SLURM lists."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tasks

from qsmprep.cluster import slurm, status
from qsmprep.cluster.folder import Plan, log_of, read_plans, read_records, write_plan
from qsmprep.cluster.slurm import Entry, parse_sacct, parse_squeue
from qsmprep.cluster.status import Report, judge, look, render
from qsmprep.errors import MissingFileError

KEY = ("40", 1)


def write_record(job_dir: Path, name: str = "sub-01", **changes) -> None:
    values = {"name": name, "state": "running", "exit_code": None, "start": "2026-01-01T10:00:00Z", "end": None}
    values |= {"host": "node7", "job": "40", "task": 1, "restarts": 0, "stopped": "", **changes}
    if values["state"] != "running":
        values["end"] = "2026-01-01T11:02:03Z"
    (job_dir / "status").mkdir(parents=True, exist_ok=True)
    (job_dir / "status" / f"{name}.json").write_text(json.dumps(values))


def fate(tmp_path: Path, queue, *, said=None, known=None, log="", key=KEY):
    if said is not None:
        write_record(tmp_path, **said)
    if log:
        path = log_of(tmp_path, KEY)
        path.parent.mkdir(exist_ok=True)
        path.write_text(log)
    return judge("sub-01", key, read_records(tmp_path).get("sub-01"), queue, known or {}, tmp_path)


def test_words_of_squeue():
    text = "40|1|RUNNING|None\n40|2|PENDING|BeginTime\n41|N/A|PENDING|Dependency\n\nslurm_load_jobs error: x\n"
    assert parse_squeue(text) == {
        ("40", 1): Entry("RUNNING"),
        ("40", 2): Entry("PENDING", "BeginTime"),
        ("41", None): Entry("PENDING", "Dependency"),
    }


def test_words_of_sacct():
    text = "40_1|COMPLETED\n40_2|CANCELLED by 1000\n40_[3-9]|PENDING\n41|OUT_OF_MEMORY\n"
    assert parse_sacct(text) == {
        ("40", 1): Entry("COMPLETED"),
        ("40", 2): Entry("CANCELLED"),
        ("41", None): Entry("OUT_OF_MEMORY"),
    }


@pytest.mark.parametrize(
    ("queue", "said", "state"),
    [
        ({KEY: Entry("RUNNING")}, {}, "running"),
        ({KEY: Entry("RUNNING")}, None, "running"),
        ({KEY: Entry("COMPLETING")}, {"state": "done", "exit_code": 0}, "done"),
        ({KEY: Entry("PENDING", "Resources")}, None, "pending"),
        ({KEY: Entry("PENDING", "BeginTime")}, {"state": "interrupted", "exit_code": 143}, "pending"),
        ({KEY: Entry("PENDING", "BeginTime")}, {}, "pending"),
        ({KEY: Entry("PENDING")}, {"job": "39", "state": "failed", "exit_code": 1}, "pending"),
        ({}, {"state": "done", "exit_code": 0}, "done"),
        ({}, {"state": "failed", "exit_code": 65}, "failed"),
        ({}, {"state": "interrupted", "exit_code": 143, "stopped": "told to stop"}, "interrupted"),
        ({}, {}, "lost"),
        ({}, None, "lost"),
        ({}, {"job": "39", "state": "done", "exit_code": 0}, "lost"),
        ({KEY: Entry("COMPLETED")}, {"state": "done", "exit_code": 0}, "done"),
        ({KEY: Entry("NODE_FAIL")}, {}, "lost"),
        (None, {}, "running"),
        (None, None, "pending"),
        (None, {"state": "done", "exit_code": 0}, "done"),
    ],
)
def test_what_became_of_a_task(tmp_path, queue, said, state):
    assert fate(tmp_path, queue, said=said).state == state


def test_not_submitted(tmp_path):
    assert fate(tmp_path, {}, key=None).state == "not submitted"


def test_why_a_task_failed_is_its_own_last_word_of_the_last_try(tmp_path):
    log = (
        "== sub-01 of /out: job 40, task 1, try 1, on a\nqsmprep: sub-01: old\n"
        "== sub-01 of /out: job 40, task 1, try 2, on a\nqsmprep: sub-01: warning: x\n"
        "qsmprep: sub-01: conform: the file is cut short. File: y.\nqsmprep: sub-01: warning: z\n"
    )
    assert fate(tmp_path, {}, said={"state": "failed", "exit_code": 65}, log=log).why == (
        "conform: the file is cut short. File: y."
    )


@pytest.mark.parametrize(
    ("code", "why"), [(75, "More memory is needed"), (16, "not a BIDS"), (127, "not found"), (99, "see its log")]
)
def test_why_a_task_failed_is_else_told_by_its_exit_code(tmp_path, code, why):
    assert why in fate(tmp_path, {}, said={"state": "failed", "exit_code": code}).why


@pytest.mark.parametrize(
    ("log", "known", "why"),
    [
        ("slurmstepd: error: *** JOB 4 ON a CANCELLED AT 2026 DUE TO TIME LIMIT ***", {}, "time limit"),
        ("slurmstepd: error: Detected 1 oom_kill event in StepId=4.batch.", {}, "memory"),
        ("slurmstepd: error: *** JOB 4 ON a CANCELLED AT 2026 DUE TO NODE FAILURE ***", {}, "node failed"),
        ("a line of ours that says DUE TO TIME LIMIT", {}, "it was killed"),
        ("", {KEY: Entry("OUT_OF_MEMORY")}, "memory"),
        ("", {KEY: Entry("CANCELLED")}, "cancelled"),
        ("", {}, "it was killed"),
    ],
)
def test_why_a_task_is_lost(tmp_path, log, known, why):
    assert why in fate(tmp_path, {}, said={}, log=log, known=known).why


def test_out_of_time(tmp_path):
    said = {"state": "interrupted", "exit_code": 143, "stopped": "time limit"}
    assert "--time" in fate(tmp_path, {}, said=said).why


@pytest.mark.parametrize("text", ["", "{", "[]", '{"state": "done"}', '{"state": "done", "task": "x"}'])
def test_broken_status_files_are_passed_over(tmp_path, text):
    (tmp_path / "status").mkdir()
    (tmp_path / "status" / "sub-01.json").write_text(text)
    assert read_records(tmp_path) == {}


def test_a_whole_folder(tmp_path, monkeypatch):
    """The last submission counts, and a task that is done in it stays so when SLURM forgets it."""
    job = tasks.make_job(tmp_path, group=True)
    with pytest.raises(MissingFileError):
        look(job.job_dir)
    plan = write_plan(job, ["01", "02", "03"])
    Plan(plan.folder, plan.arrays, True, ("40",), "41").save()
    asked = []
    monkeypatch.setattr(slurm, "queued", lambda jobs: asked.append(set(jobs)) or {("41", None): Entry("PENDING", "x")})
    monkeypatch.setattr(slurm, "accounted", lambda jobs: {})
    write_record(job.job_dir, "sub-01", state="done", exit_code=0)
    write_record(job.job_dir, "sub-02", task=2, state="failed", exit_code=65)
    report = look(job.job_dir)
    assert asked == [{"40", "41"}]
    assert [(f.name, f.state) for f in report.fates] == [
        ("sub-01", "done"), ("sub-02", "failed"), ("sub-03", "lost"), ("group", "pending"),
    ]  # fmt: skip
    assert report.exit_code == 1
    text = render(report, job.job_dir)
    assert "3 participants: 1 done, 1 failed, 1 lost" in text
    assert "1:02:03" in text
    again = write_plan(job, ["02"])
    Plan(again.folder, again.arrays, False, ("50",)).save()
    assert len(read_plans(job.job_dir)) == 2
    monkeypatch.setattr(slurm, "queued", lambda jobs: {("50", 1): Entry("RUNNING")})
    assert {f.name: f.state for f in look(job.job_dir).fates}["sub-02"] == "running"


def test_without_a_queue(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert slurm.queued(["40"]) is None
    assert slurm.accounted(["40"]) == {}
    assert "squeue cannot be asked" in render(Report((), asked=False), tmp_path)


def test_exit_codes_are_those_of_the_errors():
    assert {0: 0, 16: 1, 65: 1, 66: 1, 73: 1, 75: 1}.keys() - {0} <= status.MEANINGS.keys()
