"""Keeping freed memory while a network runs."""

from __future__ import annotations

import ctypes
import resource

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


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="no GNU C library here")
def test_freed_memory_is_used_again_inside_and_given_back_after():
    outside = work()
    with reused_memory(CPU) as changed:
        assert changed
        work(1)
        inside = work()
    assert inside < 0.6 * outside
    assert work() > 0.5 * outside


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="no GNU C library here")
def test_the_usual_way_is_back_after_an_error():
    outside = work()
    with pytest.raises(MemoryError), reused_memory(CPU):
        raise MemoryError
    assert work() > 0.5 * outside


def test_nothing_is_done_on_a_gpu_or_without_the_library(monkeypatch):
    with reused_memory(torch.device("cuda")) as changed:
        assert not changed
    monkeypatch.setattr(allocation.ctypes, "CDLL", lambda name: object())
    with reused_memory(CPU) as changed:
        assert not changed
