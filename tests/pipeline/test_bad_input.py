"""What users do to the command line, their files, their disks and a running process: one clear line, the right code."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from scans import AFFINE, SHAPE, write_cohort

from qsmprep.bids.headers import read_header
from qsmprep.bids.preflight import Preflight, Verdict
from qsmprep.cli.main import main
from qsmprep.errors import DataError
from qsmprep.interfaces.masks import BrainMask
from qsmprep.interfaces.phase import MAX_MAGNITUDE, Conform, check_magnitude
from qsmprep.workflows.run import summarise

FAST = ("--inversion", "tkd", "--background", "vsharp", "--device", "cpu")


@pytest.fixture(scope="module")
def raw(tmp_path_factory) -> Path:
    """Two subjects; no test changes them."""
    return write_cohort(tmp_path_factory.mktemp("bad"), ("01", "02"))


def refused(capsys, code: int, *words: str) -> str:
    """Run the command line in this process, and return the one line it says."""
    assert main([str(word) for word in words]) == code
    said = capsys.readouterr().err
    assert said.startswith("qsmprep: ")
    assert said.count("\n") == 1
    return said


@pytest.mark.parametrize(
    "content",
    [
        {"omp_nthreads": "two"},
        {"nprocs": True},
        {"participants": "01"},
        {"participants": 1},
        {"parameters": []},
        {"parameters": {"tkd": 3}},
        {"b0_t": "3"},
        {"phase_sign": 7},
        {"level": "huge"},
        {"bids_filters": [1]},
        {"derivatives": "masks"},
        {"use_plugin": 3},
        {"inversions": []},
        {"mem_gb": -1},
        {"mem_gb": "lots"},
        {"colour": "red"},
    ],
)
def test_settings_of_the_wrong_kind(tmp_path, capsys, raw, content):
    path = tmp_path / "settings.json"
    path.write_text(json.dumps(content))
    said = refused(capsys, 2, raw, tmp_path / "out", "participant", "--config-file", path)
    assert "Expected:" in said
    assert not (tmp_path / "out").exists()


def test_memory_in_a_configuration_file_may_have_a_unit(tmp_path, capsys, raw):
    path = tmp_path / "settings.json"
    path.write_text('{"mem_gb": "1.5G"}')
    words = ("--config-file", path, "--participant-label", "99", "-w", tmp_path / "work")
    refused(capsys, 18, raw, tmp_path / "out", "participant", *words)


@pytest.mark.parametrize("value", [{"a": 1}, [["x"]]])
def test_filter_values_that_mean_nothing(tmp_path, capsys, raw, value):
    path = tmp_path / "filter.json"
    path.write_text(json.dumps({"qsm_mag": {"acq": value}}))
    words = ("--bids-filter-file", path, "-w", tmp_path / "work")
    assert "`acq`" in refused(capsys, 2, raw, tmp_path / "out", "participant", *words)


@pytest.mark.parametrize("text", [None, "{[oops", "plugin: Magic", "plugin: Linear\nplugin_args: 3", "3", "\0"])
def test_plugin_settings_are_read_before_any_work(tmp_path, capsys, raw, text):
    path = tmp_path / "plugin.yml"
    if text is not None:
        path.write_text(text)
    words = ("--use-plugin", path, "-w", tmp_path / "work")
    assert path.name in refused(capsys, 2, raw, tmp_path / "out", "participant", *words)
    assert not (tmp_path / "out").exists()


def test_absent_gpu_is_said_before_any_work(tmp_path, capsys, raw):
    words = ("--device", "cuda:99", "-w", tmp_path / "work")
    assert "--device cpu" in refused(capsys, 1, raw, tmp_path / "out", "participant", *words)
    assert not (tmp_path / "out").exists()


def test_home_that_is_not_there(tmp_path, capsys, monkeypatch, raw):
    monkeypatch.setenv("HOME", str(tmp_path / "absent"))
    words = ("--participant-label", "99", "-w", tmp_path / "work")
    refused(capsys, 18, raw, tmp_path / "out", "participant", *words)
    assert os.environ["HOME"] == tempfile.gettempdir()


@pytest.mark.skipif(os.getuid() == 0, reason="root may enter every folder")
def test_participant_that_may_not_be_read(tmp_path, capsys):
    cohort = write_cohort(tmp_path)
    (cohort / "sub-01").chmod(0)
    try:
        said = refused(capsys, 66, cohort, tmp_path / "out", "participant", "-w", tmp_path / "work")
    finally:
        (cohort / "sub-01").chmod(0o755)
    assert "sub-01" in said


def test_length_of_a_file_that_was_cut_is_right(tmp_path):
    path = tmp_path / "image.nii.gz"
    nib.Nifti1Image(np.random.default_rng(0).normal(size=(20, 20, 20)), np.eye(4)).to_filename(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(DataError, match="cut short") as found:
        read_header(path)
    there, whole = (int(word) for word in found.value.what.split() if word.isdigit())
    assert whole == 8 * 20**3
    assert 0.3 * whole < there < 0.7 * whole


def test_the_same_problem_of_many_files_is_said_once(capsys):
    problems = tuple(DataError("coils are not combined", file=f"echo-{n}.nii.gz", remedy="combine") for n in range(6))
    found = Preflight(Path(), (Verdict("sub-01", "01", problems=(*problems, DataError("something else"))),))
    assert summarise([], found, out_of_memory=False) == 65
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert sum("echo-0.nii.gz" in line and "5 more" in line for line in lines) == 1


def _volume(path: Path, data: np.ndarray) -> str:
    nib.Nifti1Image(data.astype(np.float32), AFFINE).to_filename(path)
    return str(path)


@pytest.mark.parametrize("n_brain", [0, 100])
def test_nan_in_a_given_mask_is_outside(tmp_path, n_brain):
    mask = np.full(SHAPE, np.nan)
    mask.ravel()[:n_brain] = 1
    series = _volume(tmp_path / "magnitude.nii", np.ones((*SHAPE, 2)))
    step = BrainMask(magnitude=series, given_mask=_volume(tmp_path / "mask.nii", mask), method="bet")
    if not n_brain:
        with pytest.raises(DataError, match="mask is empty"):
            step.run(cwd=str(tmp_path))
        return
    written = nib.load(step.run(cwd=str(tmp_path)).outputs.mask).get_fdata()
    assert written.sum() == n_brain


def test_no_brain_is_looked_for_without_a_magnitude(tmp_path):
    series = _volume(tmp_path / "magnitude.nii", np.ones((*SHAPE, 2)))
    with pytest.raises(DataError, match="no magnitude image") as found:
        BrainMask(magnitude=series, method="bet").run(cwd=str(tmp_path))
    assert "--derivatives" in str(found.value.remedy)


def test_magnitude_whose_square_overflows():
    with pytest.raises(DataError, match=r"e\+30"):
        check_magnitude(np.full((1, 4, 4, 4), 1e30, np.float32), ["mag.nii.gz"])
    check_magnitude(np.full((1, 4, 4, 4), 0.9 * MAX_MAGNITUDE, np.float32), ["mag.nii.gz"])


def test_phase_of_unknown_units_names_its_file(tmp_path):
    phase = _volume(tmp_path / "phase.nii.gz", np.random.default_rng(0).uniform(-116, 116, SHAPE))
    with pytest.raises(DataError, match="no known way") as found:
        Conform(phase=[phase]).run(cwd=str(tmp_path))
    assert found.value.file == phase


def _start(raw: Path, folder: Path, *words: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "qsmprep.cli.main", str(raw), str(folder / "out"), "participant"]
    command += ["-w", str(folder / "work"), *FAST, *words]
    pipes = {"stdout": (folder / "stdout").open("w"), "stderr": (folder / "stderr").open("w")}
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, text=True, env=environment, cwd=folder, start_new_session=True, **pipes)


def _wait_for(folder: Path, word: str, process: subprocess.Popen[str]) -> None:
    limit = time.monotonic() + 120
    while word not in (folder / "stdout").read_text():
        assert process.poll() is None, (folder / "stderr").read_text()
        assert time.monotonic() < limit
        time.sleep(0.05)


def _descendants(pid: int) -> list[int]:
    children = [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return children + [below for child in children for below in _descendants(child)]


needs_proc = pytest.mark.skipif(
    not Path(f"/proc/self/task/{os.getpid()}/children").exists(), reason="no list of child processes in /proc"
)


@pytest.mark.parametrize(
    ("number", "nprocs", "code"), [(signal.SIGINT, 1, 130), (signal.SIGINT, 2, 130), (signal.SIGTERM, 2, 143)]
)
@needs_proc
def test_interrupted(tmp_path, raw, number, nprocs, code):
    """Ctrl-C reaches all processes of the group; a scheduler's SIGTERM only the first one."""
    process = _start(raw, tmp_path, "--nprocs", str(nprocs))
    _wait_for(tmp_path, "conform done", process)
    below = _descendants(process.pid)
    (os.killpg if number == signal.SIGINT else os.kill)(process.pid, number)
    assert process.wait(15) == code
    said = (tmp_path / "stderr").read_text()
    assert said == "qsmprep: interrupted; the same command with the same work folder resumes\n"
    limit = time.monotonic() + 20
    while any(Path(f"/proc/{pid}").exists() for pid in below):
        assert time.monotonic() < limit, "a process was left behind"
        time.sleep(0.1)


@needs_proc
def test_killed_worker(tmp_path, raw):
    """As the kernel does when memory runs out: no hang, exit code 75, and all subjects are accounted for."""
    process = _start(raw, tmp_path, "--nprocs", "2")
    _wait_for(tmp_path, "conform done", process)
    direct = {int(w) for w in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()}
    workers = [pid for pid in _descendants(process.pid) if pid not in direct]
    os.kill(workers[0], signal.SIGKILL)
    assert process.wait(30) == 75
    said = (tmp_path / "stderr").read_text()
    assert "Traceback" not in said
    assert "worker process was killed" in said
    assert "sub-01" in said
    assert "sub-02" in said
    assert not list((tmp_path / "out").rglob("*Chimap*"))


def test_stop_on_first_crash_accounts_for_the_others(tmp_path, qsmprep):
    cohort = write_cohort(tmp_path, ("01", "02"))
    path = cohort / "sub-01" / "anat" / "sub-01_echo-1_part-phase_MEGRE.nii.gz"
    nib.Nifti1Image(np.ones(SHAPE, np.float32), AFFINE).to_filename(path)
    done = qsmprep(cohort, *FAST, "--stop-on-first-crash", check=1)
    first, second = done.stderr.splitlines()
    assert first.startswith("qsmprep: sub-01: conform: the phase is 1 everywhere")
    assert second.startswith("qsmprep: sub-02: run: the run stopped before")
    assert " done " not in done.stdout
    assert "the run stopped before" in (tmp_path / "out" / "sub-02.html").read_text()


@pytest.mark.parametrize("nprocs", ["1", "2"])
def test_full_work_folder(tmp_path, raw, nprocs):
    (tmp_path / "work").mkdir()
    mount = f"mount -t tmpfs -o size=1500k none {tmp_path}/work"
    if subprocess.run(["unshare", "-rm", "sh", "-c", mount], capture_output=True).returncode:
        pytest.skip("mounting in a user namespace is not allowed here")
    inner = (
        f"{mount} && {sys.executable} -m qsmprep.cli.main {raw} {tmp_path}/out participant -w {tmp_path}/work "
        f"--participant-label 01 --nprocs {nprocs} {' '.join(FAST)}"
    )
    done = subprocess.run(["unshare", "-rm", "sh", "-c", inner], capture_output=True, text=True, timeout=120)
    assert done.returncode == 73, done.stdout + done.stderr
    assert "No space left" in done.stderr
    assert str(tmp_path / "work") in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.count("\n") == 1
