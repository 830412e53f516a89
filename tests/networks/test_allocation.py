"""Keeping freed memory while a network runs."""

from __future__ import annotations

import ctypes
import json
import subprocess
import sys

import pytest
import torch

from qsmprep.networks import allocation
from qsmprep.networks.allocation import reused_memory

SCRIPT = """
import json, resource
from contextlib import suppress
from pathlib import Path
import torch
from qsmprep.networks.allocation import reused_memory

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def work(times=20):
    before = faults()
    for _ in range(times):
        torch.ones(16 * 2**20)
    return faults() - before

def resident_mb():
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20

outside, before = work(), resident_mb()
with suppress(MemoryError), reused_memory(torch.device("cpu")) as changed:
    work(1)
    inside, kept = work(), resident_mb()
    if FAIL:
        raise MemoryError
told = {"changed": changed, "outside": outside, "inside": inside, "kept": kept - before}
print(json.dumps({**told, "after": resident_mb() - before}))
"""
"""In a process of its own: what is freed depends on all that the C library was asked for before."""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="no GNU C library here")
@pytest.mark.parametrize("fail", [False, True])
def test_freed_memory_is_used_again_inside_and_given_back_after(fail):
    """20 volumes of 64 MB, one after the other: pages taken from the system, and memory held."""
    script = SCRIPT.replace("FAIL", str(fail))
    told = json.loads(subprocess.run([sys.executable, "-c", script], check=True, capture_output=True).stdout)
    assert told["changed"]
    assert told["inside"] < 0.6 * told["outside"]
    assert told["kept"] > 50
    assert told["after"] < 20


def test_nothing_is_done_on_a_gpu_or_without_the_library(monkeypatch):
    with reused_memory(torch.device("cuda")) as changed:
        assert not changed
    monkeypatch.setattr(allocation.ctypes, "CDLL", lambda name: object())
    with reused_memory(torch.device("cpu")) as changed:
        assert not changed
