"""A benchmark as a script sees it: its folder on the path, and off it again."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

FOLDER = Path(__file__).parents[2] / "benchmarks"


@contextmanager
def loaded(name: str, *others: str) -> Iterator[ModuleType]:
    """A module of the benchmarks; ``others`` are those that it imports and that are forgotten with it."""
    sys.path.insert(0, str(FOLDER))
    try:
        yield importlib.import_module(name)
    finally:
        sys.path.remove(str(FOLDER))
        for module in (name, *others):
            sys.modules.pop(module, None)
