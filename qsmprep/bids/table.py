"""The preflight as a plain-text table."""

from __future__ import annotations

import textwrap
from pathlib import Path

from qsmprep.bids.preflight import Preflight, Verdict
from qsmprep.errors import QSMPrepError, printable

WIDTH = 110
"""Columns of the terminal that remedies are wrapped to."""

MAX_SHOWN = 5
"""Problems shown of one acquisition."""

_HEAD = ("acquisition", "echoes", "TE (ms)", "parts", "B0 (T)", "T1w", "mask", "verdict")


def render_table(preflight: Preflight) -> str:
    """Lay out the verdicts for a terminal.

    One aligned row an acquisition; below it every problem with what to do, and every warning.

    Parameters
    ----------
    preflight : Preflight

    Returns
    -------
    str
        Plain text, ending in a summary line.
    """
    rows = [_row(verdict) for verdict in preflight.verdicts]
    widths = [max(len(row[i]) for row in [_HEAD, *rows]) for i in range(len(_HEAD))]
    lines = []
    if rows:
        lines = [_aligned(_HEAD, widths), "  ".join("-" * width for width in widths)]
    for row, verdict in zip(rows, preflight.verdicts, strict=True):
        lines.append(_aligned(row, widths))
        for problem in verdict.problems[:MAX_SHOWN]:
            lines += _problem(problem, preflight.bids_dir)
        if len(verdict.problems) > MAX_SHOWN:
            lines.append(f"    ... and {len(verdict.problems) - MAX_SHOWN} more problems")
        for warning in verdict.warnings:
            lines += _wrapped("warning", warning)
    for problem in preflight.problems:
        lines += _problem(problem, preflight.bids_dir)
    for warning in preflight.warnings:
        lines += _wrapped("warning", warning)
    return "\n".join([*lines, summary(preflight)])


def summary(preflight: Preflight) -> str:
    """One line: how many acquisitions can be processed, and how many participants not at all."""
    ready = len(preflight.acquisitions)
    refused = len(preflight.verdicts) - ready
    served = {verdict.subject for verdict in preflight.verdicts if verdict.acquisition is not None}
    left_out = {verdict.subject for verdict in preflight.verdicts} - served
    line = f"{_counted(ready, 'acquisition')} of {_counted(len(served), 'participant')} can be processed"
    if refused:
        line += f", {refused} cannot ({_counted(len(left_out), 'participant')} left out)"
    return line + "."


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _row(verdict: Verdict) -> tuple[str, ...]:
    acquisition = verdict.acquisition
    return (
        verdict.key,
        str(verdict.n_echoes or "-"),
        " ".join(f"{1000 * te:.4g}" for te in verdict.te_s) or "-",
        "+".join(verdict.parts) or "-",
        f"{acquisition.b0_t:g}" if acquisition else "-",
        "yes" if acquisition and acquisition.t1w else "no" if acquisition else "-",
        "given" if acquisition and acquisition.given_mask else "-",
        ("ready" if not verdict.warnings else "ready, with warnings") if acquisition else "cannot be processed",
    )


def _aligned(row: tuple[str, ...], widths: list[int]) -> str:
    return "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def _problem(problem: QSMPrepError, root: Path) -> list[str]:
    """What is wrong, where (from the data set's root), what was expected and what to do."""
    lines = _wrapped("problem", problem.what)
    if problem.file is not None:
        path = Path(problem.file)
        lines += _wrapped("   file", str(path.relative_to(root)) if path.is_relative_to(root) else str(path))
    if problem.expected:
        lines += _wrapped("   want", problem.expected)
    if problem.remedy:
        lines += _wrapped("     do", problem.remedy)
    return lines


def _wrapped(kind: str, text: str) -> list[str]:
    lead = f"    {kind}: "
    return textwrap.wrap(
        printable(text),
        WIDTH,
        initial_indent=lead,
        subsequent_indent=" " * len(lead),
        break_long_words=False,
        break_on_hyphens=False,
    )
