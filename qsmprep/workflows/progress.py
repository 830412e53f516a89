"""What a person at the terminal sees while a graph runs: a bar with the time left, or one line a step."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from qsmprep.workflows.engine import StepState

SILENT = ("publish_", "report_")
"""Steps that draw and write: counted, but not worth a line unless they fail."""


class TerminalBar:
    """A bar on a terminal; ``bar`` is None where the output goes elsewhere.

    Parameters
    ----------
    total : int
        What is counted.
    before : str
        Said before the count.
    transient : bool
        Whether it goes away at the end.
    """

    def __init__(self, total: int, before: str, *, transient: bool = False) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
        from rich.progress import Progress as Bar

        console = Console()
        columns = (TextColumn(before), MofNCompleteColumn(), BarColumn(), TextColumn("{task.description}"))
        self.bar = Bar(*columns, console=console, transient=transient) if console.is_terminal else None
        if self.bar is not None:
            self.task = self.bar.add_task("", total=total)

    def __enter__(self) -> Self:
        if self.bar is not None:
            self.bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self.bar is not None:
            self.bar.stop()


class Progress(TerminalBar):
    """One line for every step that ends; on a terminal a bar below them.

    Parameters
    ----------
    names : iterable of str
        Full names of all nodes, ``graph.branch.step``; others are not counted.
    clock : callable, optional
        Seconds that only grow.
    """

    def __init__(self, names: Iterable[str], clock: Callable[[], float] = time.monotonic) -> None:
        pairs = [name.split(".", 2)[1:] for name in names if name.count(".") == 2]
        self.waiting = Counter(step for _, step in pairs)
        self.of_branch = Counter(branch for branch, _ in pairs)
        self.branches = len(self.of_branch)
        self.total, self.done, self.work_s = len(pairs), 0, 0.0
        self.seconds: dict[str, list[float]] = defaultdict(list)
        self.clock, self.begun = clock, clock()
        super().__init__(self.total, "step", transient=True)

    def tell(self, step: StepState) -> None:
        """Say that a step ended."""
        self.done += 1
        _, branch, name = step.name.split(".", 2)
        self.waiting[name] -= 1
        self.of_branch[branch] -= 1
        self.seconds[name].append(step.seconds)
        self.work_s += step.seconds
        failed = step.status != "end"
        if failed or not name.startswith(SILENT):
            share = 100 * self.done // max(self.total, 1)
            word = "FAILED" if failed else "done"
            self._say(f"[{share:3d} %] {branch.removesuffix('_wf')} {name} {word} ({step.seconds:.1f} s)")
        if self.bar is not None:
            finished = sum(left <= 0 for left in self.of_branch.values())
            words = f"{finished} of {self.branches} scans, {duration(self.left_s())} left"
            self.bar.update(self.task, completed=self.done, description=words)

    def left_s(self) -> float:
        """Seconds left: what the waiting steps took in other scans, over how much is done side by side."""
        passed = self.clock() - self.begun
        mean = self.work_s / max(self.done, 1)
        known = {name: sum(values) / len(values) for name, values in self.seconds.items()}
        work = sum(known.get(name, mean) * n for name, n in self.waiting.items() if n > 0)
        return work * passed / self.work_s if self.work_s > 0 else 0.0

    def _say(self, text: str) -> None:
        if self.bar is None:
            print(text, flush=True)
        else:
            self.bar.console.print(text, markup=False, highlight=False)


def duration(seconds: float) -> str:
    """Such as ``40 s``, ``3 min``, ``1 h 05 min``."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"
