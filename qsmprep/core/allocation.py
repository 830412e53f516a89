"""What the C library does with the memory of volumes that are freed (the GNU one only)."""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

TRIM_THRESHOLD, MMAP_THRESHOLD, MMAP_MAX = -1, -3, -4
"""Parameters of ``mallopt`` (malloc.h of the GNU C library)."""

KEEPING = {MMAP_MAX: 0, TRIM_THRESHOLD: 2**31 - 1}
"""Every volume from what is kept; up to 2 GB of it."""

GIVING_BACK = {MMAP_MAX: 65536, MMAP_THRESHOLD: 2**25, TRIM_THRESHOLD: 2**26 - 1}
"""The most that the library comes to by itself: blocks up to 32 MB are kept, and 64 MB of them."""


def keep(much: bool) -> bool:
    """Keep memory that is freed for the next volume, or not much of it.

    Above 32 MB the library otherwise asks the system for every volume and gives it back: the pages are then cleared
    again for each operation, which takes several times as long as the operation. Keeping pays for iterations over
    volumes of one size and for the convolutions of a network; for volumes of many sizes what is kept only adds to the
    peak. It holds for the whole process, and replaces settings of the environment.

    Returns
    -------
    bool
        Whether the library took it.
    """
    library = _gnu()
    if library is None:
        return False
    taken = [library.mallopt(name, value) for name, value in (KEEPING if much else GIVING_BACK).items()]
    return all(taken)


def release() -> None:
    """Give back to the system what is freed, that of objects which only refer to each other as well."""
    gc.collect()
    library = _gnu()
    if library is not None:
        library.malloc_trim(0)


@contextmanager
def reused_memory(device: torch.device) -> Iterator[bool]:
    """Keep freed memory for a while on a CPU, then give it back; yields whether it is kept.

    A network asks for hundreds of volumes. On a head of 128 x 128 x 96 voxels and two cores ConeNet took 21 s instead
    of 25 and LoopNet (whose attention works in place since as well) 28 instead of 43; the peak grows by a fifth to
    nearly a half. A GPU has an allocator that does the same. What another thread had set is not known: the first one
    that leaves decides.

    Parameters
    ----------
    device : torch.device
        That is computed on.
    """
    kept = device.type == "cpu" and keep(True)
    try:
        yield kept
    finally:
        if kept:
            keep(False)
            release()


def _gnu() -> Any:
    """The C library, or None where it is another one."""
    try:
        library = ctypes.CDLL(None)
        return library if library.mallopt and library.malloc_trim else None
    except (OSError, AttributeError, TypeError):
        return None
