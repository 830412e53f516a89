"""Unfinished files: named after their writer, so that those of writers that were killed can be found and removed.

Many processes on many hosts may write to one output folder. The unfinished file of a writer that lives must stay;
whether it lives can only be asked on its own host, so elsewhere the age of the file decides.
"""

from __future__ import annotations

import hashlib
import os
import re
import socket
import uuid
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

STALE_S = 3 * 86400.0
"""Age in seconds after which nobody writes a file any more whose writer cannot be asked. Writing takes seconds; a
scheduler may suspend a job for a weekend."""

NAME = re.compile(r"\.(?:([0-9a-f]{12}|unknown)-(\d+)-(\d+)-)?[0-9a-f]{32}\.tmp")
"""Place, process, start of the process and a random number; earlier versions had the random number alone."""

UNKNOWN = "unknown"


def unfinished(path: Path) -> Path:
    """A new name in the folder of ``path`` for what is to become it, which tells of this process."""
    pid = os.getpid()
    return path.with_name(f".{place()}-{pid}-{_started(pid) or 0}-{uuid.uuid4().hex}.tmp")


def place() -> str:
    """Where the numbers of processes mean the same as here: this boot of this host, this namespace (container).

    A hash, since a folder of results need not tell the names of hosts. ``unknown`` where the system has no such
    identities (only Linux does).
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        namespace = Path("/proc/self/ns/pid").stat()
    except OSError:
        return UNKNOWN
    told = f"{socket.gethostname()}\n{boot}\n{namespace.st_dev}:{namespace.st_ino}"
    return hashlib.sha256(told.encode()).hexdigest()[:12]


def is_stale(path: Path, now_s: float) -> bool:
    """Whether the writer of an unfinished file is dead, as far as that can be told.

    Parameters
    ----------
    path : Path
        A file with a name by :func:`unfinished`.
    now_s : float
        Time since the epoch by the clock of the file system.
    """
    found = NAME.fullmatch(path.name)
    if found is None:
        return False
    where, pid, start = found.groups()
    if where not in (None, UNKNOWN) and where == place():
        return not _lives(int(pid), int(start))
    try:
        return now_s - path.lstat().st_mtime > STALE_S
    except OSError:
        return False


def remove_leftovers(out_dir: Path, subjects: Iterable[str], *, all_logs: bool) -> int:
    """Remove what dead writers left in an output data set, and say so. Returns how many files.

    What cannot be read or removed stays: leftovers are hidden and do no harm. The age of files is measured by the
    clock of their file system, as the description of the data set has it, which a run writes when it begins.

    Parameters
    ----------
    out_dir : Path
        Its root; files in it, in ``logs`` and in the folders of the participants are looked at.
    subjects : iterable of str
        Labels, with or without ``sub-``.
    all_logs : bool
        Also in the log folders of earlier runs. A task of an array leaves them alone: there is one of every task.
    """
    try:
        now_s = (out_dir / "dataset_description.json").stat().st_mtime
    except OSError:
        return 0
    count = 0
    for folder in _folders(out_dir, subjects, all_logs):
        for entry in _entries(folder):
            path = Path(entry.path)
            if NAME.fullmatch(entry.name) and is_stale(path, now_s):
                with suppress(OSError):
                    path.unlink()
                    count += 1
    if count:
        print(f"Removed {count} unfinished files of an earlier run that was killed.", flush=True)
    return count


def _folders(out_dir: Path, subjects: Iterable[str], all_logs: bool) -> Iterator[Path]:
    yield from (out_dir, out_dir / "logs")
    if all_logs:
        yield from (Path(entry.path) for entry in _entries(out_dir / "logs") if entry.is_dir(follow_symlinks=False))
    for subject in subjects:
        top = out_dir / f"sub-{subject.removeprefix('sub-')}"
        yield from (Path(folder) for folder, _, _ in os.walk(top))


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as found:
            return list(found)
    except OSError:
        return []


def _lives(pid: int, start: int) -> bool:
    """Whether a process of this place still runs; in doubt it does."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass  # another user's
    now = _started(pid)
    return now is None or start == 0 or now == start


def _started(pid: int) -> int | None:
    """When a process began, in ticks since the boot; -1 where it has ended and was not waited for; None if unknown."""
    try:
        words = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
        return -1 if words[0] in (b"Z", b"X") else int(words[19])
    except (OSError, ValueError, IndexError):
        return None
