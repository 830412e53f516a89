"""``qsmprep-slurm`` against a real SLURM, started here on one host (``make test-slurm``).

QSMPREP_TRANSCRIPT names a file into which the first test writes what a person would have seen.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from onehost import OneHost, why_not

from qsmprep.cluster.folder import log_of, read_plans, read_records
from qsmprep.cluster.status import look

ROOT = Path(__file__).parents[2]
FAST = ("--level", "minimal", "--background", "vsharp", "--inversion", "tkd")
ODD = """out "a" $HOME 'b' #1 %x & c"""
"""A name that a shell, sbatch or SLURM's own patterns would change if it were not quoted."""

pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(why_not()), reason=why_not() or "SLURM is there")]


@pytest.fixture(scope="module")
def slurm(tmp_path_factory) -> Iterator[OneHost]:
    with OneHost(tmp_path_factory.mktemp("slurm") / "host") as host:
        yield host


@pytest.fixture(autouse=True)
def _environment(slurm, monkeypatch):
    """`look` asks the SLURM of the test, as the commands do."""
    for key in ("SLURM_CONF", "PATH"):
        monkeypatch.setenv(key, slurm.environment[key])


class Terminal:
    """Runs commands as a person would, and keeps what was seen, without the names of this machine."""

    def __init__(self, host: OneHost, folder: Path) -> None:
        self.host, self.folder = host, folder
        self.environment = {**host.environment, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        self.seen: list[str] = []

    def note(self, text: str) -> None:
        """A sentence between the commands."""
        self.seen.append(f"\n{text}\n")

    def __call__(self, *words: str, code: int = 0, shown: str = "") -> str:
        command = [sys.executable, "-m", "qsmprep.cli.slurm", *words] if words[0].startswith("/") else list(words)
        done = subprocess.run(
            command, capture_output=True, text=True, env=self.environment, cwd=self.folder, timeout=300
        )
        said = done.stdout + done.stderr
        assert done.returncode == code, f"{done.returncode}\n{said}"
        prompt = shown or " ".join(words)
        self.seen.append("\n".join(["", "```", f"$ {prompt}", said.rstrip(), "```"]).replace("\n\n```", "\n```"))
        return said

    def transcript(self) -> str:
        """Everything seen; folders, host and dates of this machine are replaced."""
        text = "\n".join(self.seen)
        hidden = (
            (f"{self.folder}/", ""),
            (str(self.folder), "."),
            (socket.gethostname(), "login"),
            (str(ROOT), "/src"),
        )
        for known, shown in hidden:
            text = text.replace(known, shown)
        text = text.replace(sys.executable, "python")
        text = re.sub(r"\d{8}T\d{6}(\.\d+)?Z_[0-9a-f]{8}", "20260101T120000Z_0a1b2c3d", text)
        return re.sub(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ?", "2026-01-01T12:00:00Z", text)


def until(ready: Callable[[], object], what: Callable[[], object], seconds: float = 240) -> None:
    """Wait; where it takes too long, fail with ``what`` there is then."""
    end = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < end, f"not within {seconds:g} s: {what()}"
        time.sleep(0.5)


def text_of(path: Path) -> str:
    return path.read_text(errors="replace") if path.exists() else ""


def spoil(image: Path) -> None:
    """Give a phase image a scale that no scanner uses: its header can be read, its voxels make no sense."""
    loaded = nib.load(image)
    data = 1000 * (1 + np.asarray(loaded.dataobj, dtype=np.float32))
    nib.Nifti1Image(data, loaded.affine).to_filename(image)


@pytest.fixture(scope="module")
def cohort(tmp_path_factory) -> Path:
    """Four simulated heads; the phase of the third is spoilt."""
    folder = tmp_path_factory.mktemp("cohort")
    words = ["--subjects", "4", "--voxel-mm", "4", "4", "4", "--fine-mm", "4", "--t1w-mm", "0"]
    command = [sys.executable, "-m", "qsmprep.cli.simulate", str(folder / "raw"), *words]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    for image in (folder / "raw/sub-03/anat").glob("*part-phase_MEGRE.nii.gz"):
        spoil(image)
    return folder


def states(job_dir: Path) -> dict[str, str]:
    return {fate.name: fate.state for fate in look(job_dir).fates}


def test_array_of_four(slurm, cohort):
    """One fails, one is put back into the queue while it runs and goes on on another node; then the group level."""
    terminal = Terminal(slurm, cohort)
    out, scratch = cohort / ODD, cohort / "node's own $scratch"
    job_dir = out / "logs" / "slurm"
    words = [str(cohort / "raw"), str(out), *FAST, "--derivatives", str(cohort / "raw/derivatives/truth")]
    words += ["--nprocs", "1", "--mem", "4G", "--time", "30", "--scratch", str(scratch), "--group", "--submit"]
    shown = 'qsmprep-slurm raw "$OUT" --level minimal --background vsharp --inversion tkd --derivatives '
    shown += 'raw/derivatives/truth --nprocs 1 --mem 4G --time 30 --scratch "$SCRATCH" --group --submit'
    terminal.note(f"The output folder is called `{ODD}`: nothing in a name may confuse the shell or SLURM.")
    terminal(*words, "--inversoin", "tv", code=2, shown=shown + " --inversoin tv")
    assert not out.exists(), "a typing error must leave nothing behind"
    said = terminal(*words, shown=shown)
    job = re.search(r"Submitted array (\d+)", said).group(1)
    log = log_of(job_dir, (job, 2))
    until(lambda: "conform done" in text_of(log), lambda: text_of(log))
    terminal("squeue", "--array", "--format=%i %j %T %r")
    terminal.note("The second participant is put back into the queue while it runs, as preemption does it:")
    terminal("scontrol", "requeue", f"{job}_2")
    kept = cohort / "work" / "sub-02"
    until(lambda: (r := read_records(job_dir).get("sub-02")) and r.end, lambda: read_records(job_dir))
    assert read_records(job_dir)["sub-02"].state == "interrupted"
    until(kept.exists, lambda: text_of(log), 30)
    shutil.rmtree(next(scratch.glob("qsmprep-*")) / "sub-02", ignore_errors=True)  # as if the next node were another
    until(lambda: states(job_dir)["sub-02"] == "pending", lambda: states(job_dir))
    terminal(
        *words[:2],
        "--status",
        code=int("failed" in states(job_dir).values()),
        shown='qsmprep-slurm raw "$OUT" --status',
    )
    terminal(*words, code=2, shown=shown)
    until(lambda: states(job_dir)["group"] in ("done", "failed"), lambda: states(job_dir), 400)
    terminal.note("When all have ended:")
    said = terminal(*words[:2], "--status", code=1, shown='qsmprep-slurm raw "$OUT" --status')
    check_outcome(job_dir, out, log, said)
    assert not kept.exists()
    assert not list(scratch.glob("*/sub-0[124]")), "what is done leaves no work on the node"
    terminal.note("The log of the second participant:")
    terminal("cat", str(log), shown='cat "$OUT"/logs/slurm/log/' + log.name)
    write_transcript(terminal.transcript())


def check_outcome(job_dir: Path, out: Path, log: Path, said: str) -> None:
    assert states(job_dir) == {
        "sub-01": "done",
        "sub-02": "done",
        "sub-03": "failed",
        "sub-04": "done",
        "group": "done",
    }
    records = read_records(job_dir)
    assert {name: record.exit_code for name, record in records.items()} == {
        "sub-01": 0, "sub-02": 0, "sub-03": 65, "sub-04": 0, "group": 0,
    }  # fmt: skip
    assert (records["sub-02"].restarts, records["sub-01"].restarts) == (1, 0)
    assert "3 done, 1 failed" in said
    assert "conform: the phase runs from" in said
    assert "goes on from" in text_of(log)
    took_s = [float(text) for text in re.findall(r"conform done \(([\d.]+) s\)", text_of(log))]
    assert len(took_s) == 2 and took_s[1] < 0.1 * took_s[0], "what was done before is not done again"
    assert records["group"].start >= max(r.end for name, r in records.items() if name != "group")
    for label in ("01", "02", "04"):
        assert (out / f"sub-{label}/anat/sub-{label}_desc-tkd_Chimap.nii.gz").exists()
    people = (out / "group_participants.tsv").read_text()
    assert [line.split("\t")[1] for line in people.splitlines()[1:]].count("present") == 3


def write_transcript(text: str) -> None:
    target = os.environ.get("QSMPREP_TRANSCRIPT")
    head = (
        "# A cohort on SLURM\n\nWritten by `make test-slurm`: what a person sees of `tests/cluster/test_on_slurm.py`, "
        "run against a real SLURM\n(slurmctld, slurmd and munge on one host). Four simulated heads; the voxels of the "
        "third are damaged.\nFolders, dates and the name of the machine are replaced, nothing else.\n"
    )
    if target:
        Path(target).write_text(head + text + "\n", encoding="utf-8")


@pytest.fixture
def stand_in(tmp_path) -> Path:
    """An environment whose ``qsmprep`` does as its participant is told by a file."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "python").symlink_to(sys.executable)
    program = folder / "qsmprep"
    program.write_text(f'#!/bin/bash\nfor label; do :; done\necho "$$ $label"\n. "{folder}/sub-$label"\n')
    program.chmod(0o755)
    return folder


def submit(terminal: Terminal, raw: Path, stand_in: Path, orders: dict[str, str], *words: str) -> tuple[str, Path]:
    for label, text in orders.items():
        (stand_in / f"sub-{label}").write_text(text)
    out = terminal.folder / "out"
    said = terminal(
        str(raw), str(out), "--python", str(stand_in / "python"), "--nprocs", "1", "--mem", "1G", "--submit",
        "--participant-label", *orders, *words,
    )  # fmt: skip
    return re.search(r"Submitted array (\d+)", said).group(1), out / "logs" / "slurm"


def test_killed_cancelled_and_out_of_time(slurm, cohort, stand_in, tmp_path):
    """What ends without a word is called lost, what was told to stop says so."""
    terminal = Terminal(slurm, tmp_path)
    orders = {"01": "sleep 300", "02": "exec sleep 300", "04": "exit 75"}
    job, job_dir = submit(terminal, cohort / "raw", stand_in, orders, "--time", "2", "--group", "--group-after", "ok")
    until(lambda: "01" in text_of(log_of(job_dir, (job, 1))), lambda: states(job_dir))
    pid = int(text_of(log_of(job_dir, (job, 1))).split("\n")[1].split()[0])
    shell = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    os.kill(shell, signal.SIGKILL)
    os.kill(pid, signal.SIGKILL)
    until(lambda: states(job_dir)["sub-01"] == "lost", lambda: states(job_dir))
    until(lambda: states(job_dir)["sub-04"] == "failed", lambda: states(job_dir))
    until(lambda: states(job_dir)["sub-02"] == "interrupted", lambda: states(job_dir))
    until(lambda: states(job_dir)["group"] == "lost", lambda: states(job_dir), 120)
    said = terminal(str(cohort / "raw"), str(tmp_path / "out"), "--status", code=1)
    assert "time limit came" in said
    assert "was killed" in said
    assert "More memory is needed than there is" in said
    again = {"01": "exit 0", "02": "exec sleep 300", "04": "exit 0"}
    job, _ = submit(terminal, cohort / "raw", stand_in, again, "--unfinished", "--max-running", "1")
    until(lambda: (r := read_records(job_dir).get("sub-02")) and r.key == (job, 2), lambda: states(job_dir))
    assert states(job_dir)["sub-02"] == "running"
    assert states(job_dir)["sub-01"] == "done"
    slurm.run("scancel", f"{job}_2")
    until(lambda: states(job_dir)["sub-02"] == "interrupted", lambda: states(job_dir))
    until(lambda: states(job_dir)["sub-04"] == "done", lambda: states(job_dir))
    said = terminal(str(cohort / "raw"), str(tmp_path / "out"), "--status", code=1)
    assert "it was cancelled" in said
    assert read_plans(job_dir)[-1].jobs == (job,)


def test_sbatch_refuses(slurm, cohort, stand_in, tmp_path):
    """What sbatch does not take is told in its own words, and nothing is in the queue."""
    terminal = Terminal(slurm, tmp_path)
    before = slurm.run("squeue", "--noheader")
    said = terminal(
        str(cohort / "raw"), str(tmp_path / "out"), "--python", str(stand_in / "python"), "--submit",
        "--sbatch=--partition=nowhere", code=2,
    )  # fmt: skip
    assert "nvalid partition" in said
    assert slurm.run("squeue", "--noheader") == before
    assert set(states(tmp_path / "out/logs/slurm").values()) == {"not submitted"}
