"""The text of the job scripts, and what bash makes of it."""

from __future__ import annotations

import dataclasses
import shlex
import signal
import subprocess
from pathlib import Path

import pytest
import tasks

from qsmprep.cluster.folder import read_records, write_plan
from qsmprep.cluster.plan import check_sbatch, chunks
from qsmprep.cluster.script import array_script, group_script, sbatch_line, scratch_lines
from qsmprep.errors import UsageError


def options(script: str) -> dict[str, str]:
    """The options as sbatch reads them (its quoting is that of a shell)."""
    lines = [line.removeprefix("#SBATCH ") for line in script.splitlines() if line.startswith("#SBATCH ")]
    found = [shlex.split(line) for line in lines]
    assert all(len(words) == 1 for words in found)
    return dict(words[0].partition("=")[::2] for words in found)


def test_options_of_the_array(tmp_path):
    job = tasks.make_job(tmp_path, cpus=4, gres="gpu:1", max_running=7, sbatch=("--partition=long", "--comment=a b"))
    read = options(array_script(job, ["01", "02", "x"]))
    assert read["--array"] == "1-3%7"
    assert (read["--cpus-per-task"], read["--mem"], read["--time"]) == ("4", "4000M", "0-01:00:00")
    assert (read["--gres"], read["--partition"], read["--comment"]) == ("gpu:1", "long", "a b")
    assert read["--output"] == f"{job.job_dir}/log/%A_%a.out".replace("%x", "%%x")
    assert "--requeue" in read and read["--open-mode"] == "append"
    assert "--no-requeue" in options(array_script(dataclasses.replace(job, requeue=False), ["01"]))


def test_options_of_the_group(tmp_path):
    read = options(group_script(tasks.make_job(tmp_path, gres="gpu:1", cpus=8)))
    assert "--array" not in read and "--gres" not in read
    assert read["--cpus-per-task"] == "1"


def test_memory_said_in_another_way(tmp_path):
    job = tasks.make_job(tmp_path, memory_mb=None, sbatch=("--mem-per-cpu=3G",))
    for script in (array_script(job, ["01"]), group_script(job)):
        assert "--mem" not in options(script)
        assert "--mem " not in script


@pytest.mark.parametrize("name", ["line\nbreak", "back\\slash"])
def test_folders_that_slurm_cannot_write_to(tmp_path, name):
    with pytest.raises(UsageError):
        array_script(tasks.make_job(tmp_path, job_dir=tmp_path / name), ["01"])


def test_every_word_arrives_as_it_was(tmp_path):
    job = tasks.make_job(tmp_path, words=("--formula", "chi ~ `x` + $y 'z' \"q\" \\ \n", "--inversion", "tv", "tkd"))
    code, said = tasks.run(array_script(job, ["01", "b2"]), tmp_path, task=2)
    assert code == 0, said
    called = [*job.command[1:], "participant", "--nprocs", "1", "--mem", "4000MB", *job.words]
    called += ["--work-dir", str(job.work_dir / "sub-b2"), "--participant-label", "b2"]
    assert tasks.words(tmp_path) == called
    record = read_records(job.job_dir)["sub-b2"]
    assert (record.state, record.exit_code, record.key, record.host) == ("done", 0, ("40", 2), "node7")
    assert record.start <= record.end
    assert not list((job.job_dir / "status").glob("*.part"))


def test_the_group_script(tmp_path):
    job = tasks.make_job(tmp_path, chosen=("01", "02"), words=("--roi-statistic", "median"))
    code, said = tasks.run(group_script(job), tmp_path, task=None)
    assert code == 0, said
    assert tasks.words(tmp_path)[2:] == [
        "group", "--participant-label", "01", "02", "--roi-statistic", "median",
        "--work-dir", str(job.work_dir / "group"),
    ]  # fmt: skip
    assert read_records(job.job_dir)["group"].key == ("41", None)


@pytest.mark.parametrize("code", [1, 65, 75, 137])
def test_exit_codes_are_handed_on(tmp_path, code):
    job = tasks.make_job(tmp_path)
    tasks.orders(tmp_path, f"exit {code}")
    assert tasks.run(array_script(job, ["01"]), tmp_path)[0] == code
    assert (tasks.status(job, "sub-01")["state"], tasks.status(job, "sub-01")["exit_code"]) == ("failed", code)


@pytest.mark.parametrize(("number", "why"), [(signal.SIGTERM, "told to stop"), (signal.SIGUSR1, "time limit")])
def test_a_signal_is_handed_on_and_told(tmp_path, number, why):
    job = tasks.make_job(tmp_path)
    ready = tmp_path / "ready"
    tasks.orders(tmp_path, f"trap 'sleep 0.3; exit 143' TERM; touch {ready}; while :; do sleep 0.05; done")
    code, _ = tasks.stop(tasks.start(array_script(job, ["01"]), tmp_path), number, ready)
    assert code == 143
    record = tasks.status(job, "sub-01")
    assert (record["state"], record["exit_code"], record["stopped"]) == ("interrupted", 143, why)


def test_killed_outright_leaves_no_file_that_looks_finished(tmp_path):
    job = tasks.make_job(tmp_path)
    ready = tmp_path / "ready"
    tasks.orders(tmp_path, f"touch {ready}; exec sleep 0.5")
    process = tasks.start(array_script(job, ["01"]), tmp_path)
    tasks.stop(process, signal.SIGKILL, ready)
    record = tasks.status(job, "sub-01")
    assert (record["state"], record["exit_code"], record["end"]) == ("running", None, None)


def test_work_on_the_node_goes_on_elsewhere(tmp_path):
    scratch = tmp_path / tasks.ODD / "scratch"
    job = tasks.make_job(tmp_path, scratch=str(scratch))
    ready = tmp_path / "ready"
    tasks.orders(
        tmp_path, f'echo 1 > "${{@: -3:1}}/half"; touch {ready}; trap "exit 143" TERM; while :; do sleep 0.05; done'
    )
    code, said = tasks.stop(tasks.start(array_script(job, ["01"]), tmp_path), signal.SIGTERM, ready)
    assert code == 143, said
    kept = job.work_dir / "sub-01"
    assert (kept / "half").read_text() == "1\n"
    here = Path(tasks.words(tmp_path)[-3])
    assert scratch in here.parents
    subprocess.run(["rm", "-r", str(scratch)], check=True)
    tasks.orders(tmp_path, 'cat "${@: -3:1}/half"')
    code, said = tasks.run(array_script(job, ["01"]), tmp_path, SLURM_RESTART_COUNT="1")
    assert (code, "goes on from" in said, "\n1\n" in said) == (0, True, True), said
    assert tasks.status(job, "sub-01")["restarts"] == 1
    assert not kept.exists() and not here.exists()


def test_a_copy_that_was_cut_short_is_not_used(tmp_path):
    job = tasks.make_job(tmp_path, scratch=str(tmp_path / "scratch"))
    (job.work_dir / "sub-01.part").mkdir(parents=True)
    (job.work_dir / "sub-01.part" / "half").touch()
    tasks.orders(tmp_path, 'ls -A "${@: -3:1}"; exit 1')
    code, said = tasks.run(array_script(job, ["01"]), tmp_path)
    assert code == 1
    assert "half" not in said


def test_scratch_named_by_a_variable_of_the_node(tmp_path):
    job = tasks.make_job(tmp_path, scratch="$NODE_TMP/x y")
    code, said = tasks.run(array_script(job, ["01"]), tmp_path)
    assert code == 73
    assert "NODE_TMP is not set on node7" in said
    assert tasks.status(job, "sub-01")["state"] == "failed"
    code, said = tasks.run(array_script(job, ["01"]), tmp_path, NODE_TMP=str(tmp_path / "a b"))
    assert code == 0, said
    assert tasks.words(tmp_path)[-3].startswith(f"{tmp_path}/a b/x y/qsmprep-")


@pytest.mark.parametrize("scratch", ["/a/$b", "/a b", "$1x/$(id)", "$A;id", "${A:-x}"])
def test_scratch_is_else_taken_as_it_is(scratch):
    done = subprocess.run(
        ["bash", "-c", "\n".join([*scratch_lines(scratch), 'printf %s "$scratch"'])], capture_output=True
    )
    assert done.stdout.decode() == scratch


def test_no_environment_on_the_node(tmp_path):
    job = tasks.make_job(tmp_path)
    (tmp_path / tasks.ODD / "qsmprep").unlink()
    code, said = tasks.run(array_script(job, ["01"]), tmp_path)
    assert code == 66
    assert "qsmprep: the environment of qsmprep is not on node7" in said


def test_in_a_container(tmp_path):
    """A stand-in for apptainer writes down how it was called."""
    image = tmp_path / tasks.ODD / "q.sif"
    binds = (f"{tmp_path}/in:{tmp_path}/in:ro", f"{tmp_path}/out")
    job = tasks.make_job(tmp_path, container=image, binds=binds, gres="gpu:1", command=("qsmprep", "/in", "/out"))
    code, said = tasks.run(array_script(job, ["01"]), tmp_path, PATH="/usr/bin:/bin")
    assert (code, "neither apptainer nor singularity" in said) == (66, True)
    programs = tmp_path / "programs"
    programs.mkdir()
    (programs / "apptainer").write_text(f'#!/bin/bash\nprintf "%s\\0" "$@" > {programs}/words\n')
    (programs / "apptainer").chmod(0o755)
    path = f"{programs}:/usr/bin:/bin"
    code, said = tasks.run(array_script(job, ["01"]), tmp_path, PATH=path)
    assert (code, "image cannot be read" in said) == (66, True)
    image.touch()
    code, said = tasks.run(array_script(job, ["01"]), tmp_path, PATH=path)
    assert code == 0, said
    work = str(job.work_dir / "sub-01")
    assert (programs / "words").read_text().split("\0")[:-1] == [
        "exec", "--cleanenv", "--no-home", "--bind", binds[0], "--bind", binds[1], "--nv", "--bind", work, str(image),
        "qsmprep", "/in", "/out", "participant", "--nprocs", "1", "--mem", "4000MB",
        "--work-dir", work, "--participant-label", "01",
    ]  # fmt: skip


def test_setup_lines_come_first(tmp_path):
    job = tasks.make_job(tmp_path, setup=("export GREETING='good day'",))
    tasks.orders(tmp_path, 'echo "$GREETING"')
    assert "good day" in tasks.run(array_script(job, ["01"]), tmp_path)[1]


def test_what_waits_does_not_change(tmp_path):
    """A later set of scripts is another folder; the participants stand in the script itself."""
    job = tasks.make_job(tmp_path)
    first = write_plan(job, ["01", "02"])
    before = first.scripts[0].read_bytes()
    second = write_plan(job, ["02"])
    assert first.folder != second.folder
    assert first.scripts[0].read_bytes() == before
    assert subprocess.run(["bash", "-n", str(first.scripts[0])]).returncode == 0


def test_large_cohorts_become_several_arrays(tmp_path):
    labels = [f"{number:04d}" for number in range(2500)]
    assert [len(some) for some in chunks(labels)] == [1000, 1000, 500]
    plan = write_plan(tasks.make_job(tmp_path), labels)
    assert [options(path.read_text())["--array"] for path in plan.scripts] == ["1-1000", "1-1000", "1-500"]
    plan = dataclasses.replace(plan, jobs=("7", "8", "9"))
    assert plan.tasks["sub-2499"] == ("9", 500)


def test_options_for_sbatch():
    given = ["--partition=long", "--account", "mri", "-p", "x", "--exclusive", "--nice=-5"]
    assert check_sbatch(given) == ("--partition=long", "--account=mri", "-p x", "--exclusive", "--nice=-5")
    assert sbatch_line("-p x") == "#SBATCH -p x"
    for words in (["--array=1-2"], ["-a", "1"], ["-o/x"], ["--mem=3G"], ["long"], ["--requeue"], ["--wrap=id"]):
        with pytest.raises(UsageError):
            check_sbatch(words)
