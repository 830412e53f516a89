"""Keeping freed memory while a network runs."""

from __future__ import annotations

import ctypes
import resource
from pathlib import Path

import pytest
import torch

from qsmprep.networks import allocation
from qsmprep.networks.allocation import reused_memory

CPU = torch.device("cpu")


def faults() -> int:
    """Pages that the system handed out to this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def work(times: int = 20) -> int:
    """Pages taken for volumes of 64 MB, one after the other."""
    before = faults()
    for _ in range(times):
        torch.ones(16 * 2**20)
    return faults() - before


def resident_mb() -> float:
    """Memory that this process holds now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20


gnu = pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="no GNU C library here")


@gnu
def test_freed_memory_is_used_again_inside_and_given_back_after():
    outside, before = work(), resident_mb()
    with reused_memory(CPU) as changed:
        assert changed
        work(1)
        inside, kept = work(), resident_mb()
    assert inside < 0.6 * outside
    assert kept > before + 50
    assert resident_mb() < before + 20


@gnu
def test_memory_is_given_back_after_an_error():
    before = resident_mb()
    with pytest.raises(MemoryError), reused_memory(CPU):
        work(1)
        raise MemoryError
    assert resident_mb() < before + 20


def test_nothing_is_done_on_a_gpu_or_without_the_library(monkeypatch):
    with reused_memory(torch.device("cuda")) as changed:
        assert not changed
    monkeypatch.setattr(allocation.ctypes, "CDLL", lambda name: object())
    with reused_memory(CPU) as changed:
        assert not changed
