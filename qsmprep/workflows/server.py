"""The server that workers are forked from, started before this process imports what is heavy: both do so at once."""

from __future__ import annotations

import multiprocessing as mp
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import forkserver
from typing import Any

PRELOAD = (
    "qsmprep.interfaces.phase",
    "qsmprep.interfaces.masks",
    "qsmprep.interfaces.inversion",
    "torch",
    "numba",
    "qsmprep.workflows.base",
    "qsmprep.reports.figures",
)
"""What the server imports once, for all workers: what steps compute with, what they are unpickled with, what they draw
with. It never touches CUDA."""


@contextmanager
def answering(handler: Any, *numbers: signal.Signals) -> Iterator[None]:
    """Let ``handler`` answer signals for a while (in the main thread; elsewhere nothing changes)."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)


def start_server() -> mp.context.BaseContext:
    """Start the server where it does not run yet, without waiting for it. Returns the context of its workers."""
    context = mp.get_context("forkserver")
    context.set_forkserver_preload(list(PRELOAD))
    with answering(signal.SIG_IGN, signal.SIGINT):  # inherited: the workers leave Ctrl-C to this process
        forkserver.ensure_running()
    return context
