"""Unfinished files: those of dead writers go, those of living ones stay, whoever looks."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest

from qsmprep.bids import leftovers
from qsmprep.bids.leftovers import NAME, STALE_S, is_stale, place, remove_leftovers, unfinished
from qsmprep.bids.write import write_text

pytestmark = pytest.mark.skipif(place() == leftovers.UNKNOWN, reason="this system does not tell processes apart")

WRITER = """
import sys, time
from pathlib import Path
from qsmprep.bids.write import atomic
with atomic(Path(sys.argv[1])) as stream:
    stream.write(b"half of it")
    stream.flush()
    print("writing", flush=True)
    sys.stdin.readline()
    stream.write(b" and the rest")
"""


def writer(path: Path) -> subprocess.Popen[str]:
    """A process that is in the middle of writing ``path``, until it is given a line."""
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "writing\n"
    return process


def hidden(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob(".*.tmp"))


@pytest.fixture
def out(tmp_path) -> Path:
    """An output folder that a run has just begun to write to."""
    write_text("{}", tmp_path / "out" / "dataset_description.json")
    return tmp_path / "out"


def leave(folder: Path, name: str, age_s: float = 0.0) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_bytes(b"half")
    os.utime(path, (time.time() - age_s,) * 2)
    return path


def elsewhere(pid: int = 1, start: int = 1) -> str:
    """The name of a file that a process on another host writes."""
    return f".{'0' * 12}-{pid}-{start}-{uuid.uuid4().hex}.tmp"


def test_a_killed_writer_is_cleaned_up_after_and_a_living_one_is_not(out):
    anat = out / "sub-01" / "anat"
    dead, alive = writer(anat / "dead.json"), writer(anat / "alive.json")
    dead.kill()
    os.waitid(os.P_PID, dead.pid, os.WEXITED | os.WNOWAIT)  # has ended, but not been waited for
    assert len(hidden(out)) == 2
    assert remove_leftovers(out, ["01"], all_logs=False) == 1
    dead.wait()
    assert len(hidden(out)) == 1
    alive.communicate("go on\n", timeout=60)
    assert alive.returncode == 0
    assert (anat / "alive.json").read_text() == "half of it and the rest"
    assert not (anat / "dead.json").exists()
    assert not hidden(out)


def test_a_stopped_writer_lives(out):
    stopped = writer(out / "sub-01" / "x.json")
    stopped.send_signal(signal.SIGSTOP)
    assert remove_leftovers(out, ["01"], all_logs=True) == 0
    stopped.send_signal(signal.SIGCONT)
    stopped.communicate("go on\n", timeout=60)
    assert (out / "sub-01" / "x.json").read_text() == "half of it and the rest"


def test_a_number_that_another_process_has_now_is_no_writer():
    own = NAME.fullmatch(unfinished(Path("x")).name)
    where, pid, start = own.groups()
    assert (where, int(pid)) == (place(), os.getpid())
    assert not is_stale(unfinished(Path("x")), time.time() + 1e9)  # however old: it lives
    assert is_stale(Path(f".{where}-{pid}-{int(start) - 1}-{uuid.uuid4().hex}.tmp"), time.time())


@pytest.mark.parametrize(
    "name",
    [elsewhere(), f".{uuid.uuid4().hex}.tmp", f".unknown-1-0-{uuid.uuid4().hex}.tmp"],
    ids=["another host", "an earlier version", "a system without identities"],
)
def test_where_the_writer_cannot_be_asked_age_decides(out, name):
    path = leave(out / "sub-01" / "anat", name, STALE_S - 600)
    assert remove_leftovers(out, ["01"], all_logs=False) == 0
    leave(path.parent, name, STALE_S + 600)
    assert remove_leftovers(out, ["01"], all_logs=False) == 1
    assert not path.exists()


def test_age_is_by_the_clock_of_the_file_system(out):
    """A client whose clock is days ahead would otherwise take every file for old."""
    path = leave(out / "sub-01", elsewhere(), 0)
    days_ago = time.time() - 30 * 86400
    for one in (path, out / "dataset_description.json"):
        os.utime(one, (days_ago, days_ago))
    assert remove_leftovers(out, ["01"], all_logs=False) == 0


def test_another_container_on_this_host_is_another_place(tmp_path):
    """The same numbers mean other processes there."""
    words = ["unshare", "-rpf", "--mount-proc", sys.executable, "-c"]
    code = "from qsmprep.bids.leftovers import place; print(place())"
    done = subprocess.run([*words, code], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip("namespaces cannot be made here")
    assert done.stdout.strip() not in (place(), leftovers.UNKNOWN)


def test_only_own_names_in_own_folders_are_touched(out):
    old = 2 * STALE_S
    kept = [
        leave(out / "sub-01", ".notes.tmp", old),
        leave(out / "sub-01", f"{uuid.uuid4().hex}.tmp", old),
        leave(out / "sub-01", elsewhere().removesuffix(".tmp"), old),
        leave(out / "sub-02", elsewhere(), old),  # another participant's
        leave(out / "other", elsewhere(), old),
        leave(out / "logs" / "20260101T000000Z_0", elsewhere(), old),
    ]
    gone = [leave(out / folder, elsewhere(), old) for folder in (".", "logs", "sub-01", "sub-01/ses-1/figures")]
    link = out / "sub-01" / "linked"
    link.symlink_to(out / "other")
    assert remove_leftovers(out, ["01"], all_logs=False) == len(gone)
    assert all(path.exists() for path in kept)
    assert remove_leftovers(out, ["sub-02"], all_logs=True) == 2
    assert [path.exists() for path in kept] == [True, True, True, False, True, False]


def test_a_folder_without_a_description_or_absent_is_left_alone(tmp_path):
    path = leave(tmp_path, elsewhere(), 2 * STALE_S)
    assert remove_leftovers(tmp_path, ["01"], all_logs=True) == remove_leftovers(tmp_path / "x", [], all_logs=True) == 0
    assert path.exists()


def test_many_cleaners_and_writers_at_once(out):
    """Four processes write and clean in the same folders: no file is lost, and what was left before is gone."""
    code = (
        "import sys; from pathlib import Path; from qsmprep.bids.write import write_text\n"
        "from qsmprep.bids.leftovers import remove_leftovers\n"
        "out, me = Path(sys.argv[1]), sys.argv[2]\n"
        "for n in range(60):\n"
        "    write_text('x' * 10000, out / 'sub-01' / f'{me}-{n}.txt')\n"
        "    write_text('{}', out / 'dataset_description.json')\n"
        "    remove_leftovers(out, ['01'], all_logs=True)\n"
    )
    for _ in range(20):
        leave(out / "sub-01", elsewhere(), 2 * STALE_S)
    running = [
        subprocess.Popen([sys.executable, "-c", code, str(out), str(me)], stderr=subprocess.PIPE) for me in range(4)
    ]
    for process in running:
        _, told = process.communicate(timeout=120)
        assert process.returncode == 0, told.decode()
    assert len(list((out / "sub-01").glob("*.txt"))) == 240
    assert not hidden(out)
