"""Whether the input of a step has changed: hashes of contents, each file read once by a process."""

from __future__ import annotations

import hashlib
import stat
from functools import lru_cache
from pathlib import Path


def content_hash(path: str) -> str | None:
    """SHA-256 of the contents of a file as hexadecimal digits; None where ``path`` is some other text.

    It is remembered as long as inode, size and times of the last change are the same.

    Raises
    ------
    OSError
        When the file is there and cannot be read.
    """
    try:
        found = Path(path).stat()
    except (OSError, ValueError):
        return None
    if not stat.S_ISREG(found.st_mode):
        return None
    state = (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
    return _content_hash(path, *state)


@lru_cache(maxsize=4096)
def _content_hash(path: str, *state: int) -> str:
    with Path(path).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
