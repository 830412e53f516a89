"""What a step took: its time, and the peak of the memory of this process, set back before it and read after it."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

USAGE_FILE = "usage.json"
"""What a step leaves in its working folder, for the report."""

_RESET = "5"
"""What the kernel takes as the order to forget the peak (proc(5), clear_refs)."""


def forget_peak() -> None:
    """Set the peak of the resident memory of this process back to what it holds now, where the kernel allows it."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text(_RESET)


def peak_mb() -> float | None:
    """Peak of the resident memory of this process in MB since it was set back; None where nobody knows."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((float(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith("VmHWM:")), None)


def write_usage(folder: Path, seconds: float) -> None:
    """Leave time and peak in the folder of a step; that they cannot be written is no failure of the step."""
    peak = peak_mb()
    known = {"seconds": round(seconds, 4)} | ({} if peak is None else {"peak_mb": round(peak, 1)})
    with suppress(OSError):
        (folder / USAGE_FILE).write_text(json.dumps(known))


def read_peak_mb(folder: Path | None) -> float | None:
    """The peak that a step left in its folder, in MB; None where there is none."""
    return _read(folder, "peak_mb")


def read_seconds(folder: Path | None) -> float | None:
    """The time that a step left in its folder; None where there is none."""
    return _read(folder, "seconds")


def _read(folder: Path | None, name: str) -> float | None:
    try:
        return float(json.loads(((folder or Path()) / USAGE_FILE).read_text())[name])
    except (OSError, ValueError, KeyError, TypeError):
        return None
