"""Keeping freed memory while volumes of one size are made, and giving it back."""

from __future__ import annotations

import ctypes
import gc
import json
import subprocess
import sys
import weakref

import pytest
import torch

from qsmprep.core import allocation
from qsmprep.core.allocation import reused_memory

gnu_only = pytest.mark.skipif(
    not (hasattr(ctypes.CDLL(None), "mallopt") and hasattr(ctypes.CDLL(None), "malloc_trim")),
    reason="no GNU C library here",
)

SCRIPT = """
import json, resource
from contextlib import suppress
from pathlib import Path
import torch
from qsmprep.core.allocation import release, reused_memory

def faults(mb, times=20):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(times):
        torch.ones(mb * 2**18)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def resident_mb():
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20

def small():
    return faults(4), faults(16)

small()
told = {"small_before": small(), "outside": faults(64)}
release()  # the library keeps the smaller volumes by itself, which the large ones would take up
before = resident_mb()
with suppress(MemoryError), reused_memory(torch.device("cpu")) as changed:
    faults(64, 1)
    told |= {"changed": changed, "inside": faults(64), "kept": resident_mb() - before}
    if FAIL:
        raise MemoryError
told["after"] = resident_mb() - before
small()
print(json.dumps({**told, "small_after": small(), "outside_after": faults(64)}))
"""
"""In a process of its own: what is freed depends on all that the C library was asked for before."""


@gnu_only
@pytest.mark.parametrize("fail", [False, True])
def test_freed_memory_is_used_again_inside_and_given_back_after(fail):
    """20 volumes of 64 MB, one after the other: pages taken from the system, and memory held."""
    script = SCRIPT.replace("FAIL", str(fail))
    told = json.loads(subprocess.run([sys.executable, "-c", script], check=True, capture_output=True).stdout)
    assert told["changed"]
    assert told["inside"] < 0.6 * told["outside"]
    assert told["kept"] > 50
    assert told["after"] < 20
    assert told["outside_after"] > 0.5 * told["outside"], "large volumes go back at once again"
    for before, after in zip(told["small_before"], told["small_after"], strict=True):
        assert after <= before + 2000, "smaller volumes are kept as the library does by itself"


@gnu_only
def test_the_settings_are_ones_that_the_library_takes():
    try:
        assert allocation.keep(True)
    finally:
        assert allocation.keep(False)


def test_nothing_is_done_on_a_gpu_or_without_the_library(monkeypatch):
    with reused_memory(torch.device("cuda")) as changed:
        assert not changed
    monkeypatch.setattr(allocation.ctypes, "CDLL", lambda name: object())
    with reused_memory(torch.device("cpu")) as changed:
        assert not changed
    assert not allocation.keep(True)


def test_release_lets_go_of_what_only_refers_to_itself():
    class Ring:
        pass

    gc.disable()
    try:
        ring = Ring()
        ring.volume, ring.itself = torch.ones(10), ring
        seen = weakref.ref(ring)
        del ring
        assert seen() is not None
        allocation.release()
        assert seen() is None
    finally:
        gc.enable()
