"""What a cohort costs beyond its steps: memory of the parent process, and time in which no step ran.

    python benchmarks/cohort_cost.py BIDS_DIR [--subjects 50] [--nprocs 2] [option of qsmprep ...]

The first participant of the data set is copied, and the copies are processed as one cohort into a temporary folder.
The parent's own memory is sampled four times a second. A run has three parts: the start (imports, reading all headers,
making the graph) until the first step begins; the steps; and the end (records and pages) after the last one. *Busy* is
the time of the steps as they measured it themselves, drawing and writing among them, over the time that there was for
them: number of processes times the second part. The rest of that part is scheduling: whatever goes on while a process
has no step (choosing, sending, hashing of inputs, Nipype's own files, and waiting for a step of another branch).
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def copies(bids_dir: Path, n: int, target: Path) -> None:
    """A data set with ``n`` copies of the first participant."""
    target.mkdir(parents=True)
    first = sorted(path for path in bids_dir.glob("sub-*") if path.is_dir())[0]
    for path in bids_dir.iterdir():
        if path.is_file() and path.name != "participants.tsv":
            shutil.copy(path, target / path.name)
    for number in range(1, n + 1):
        label = f"sub-{number:03d}"
        for path in sorted(first.rglob("*")):
            if path.is_file():
                place = target / label / path.relative_to(first).parent / path.name.replace(first.name, label)
                place.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, place)


def resident_mb(pid: int) -> float:
    """Resident memory of a process in MB; 0 when it has ended."""
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0.0
    return next((float(line.split()[1]) * 1024 / 1e6 for line in text.splitlines() if line.startswith("VmRSS:")), 0.0)


def watch(command: list[str], log: Path) -> tuple[float, list[tuple[float, float]]]:
    """Seconds of a command, and its own memory in MB over time.

    Raises
    ------
    SystemExit
        When it fails.
    """
    begun, seen = time.monotonic(), []
    with log.open("w") as stream:
        process = subprocess.Popen(command, stdout=stream, stderr=subprocess.STDOUT)
        while process.poll() is None:
            seen.append((time.monotonic() - begun, resident_mb(process.pid)))
            time.sleep(0.25)
    if process.returncode:
        raise SystemExit(f"qsmprep ended with {process.returncode}: see {log}\n{log.read_text()[-2000:]}")
    return time.monotonic() - begun, seen


def parts(work: Path, begun: float, ended: float) -> tuple[list[float], tuple[float, float, float]]:
    """Seconds of every step, and of start, steps and end of a run (clock times of its begin and end are given)."""
    steps = [(path.stat().st_mtime, json.loads(path.read_text())["seconds"]) for path in work.rglob("usage.json")]
    first, last = min(end - took for end, took in steps), max(end for end, _ in steps)
    return [took for _, took in steps], (first - begun, last - first, ended - last)


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bids_dir", type=Path)
    parser.add_argument("--subjects", type=int, default=50)
    parser.add_argument("--nprocs", type=int, default=2)
    options, words = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        copies(options.bids_dir, options.subjects, root / "raw")
        command = [sys.executable, "-m", "qsmprep.cli.main", str(root / "raw"), str(root / "out"), "participant"]
        command += ["-w", str(root / "work"), "--nprocs", str(options.nprocs), *words]
        begun = time.time()
        seconds, seen = watch(command, root / "log.txt")
        taken, (start, middle, end) = parts(root / "work", begun, begun + seconds)
    memory = [mb for _, mb in seen if mb]
    half = memory[len(memory) // 2 :]
    busy = 100 * sum(taken) / (middle * options.nprocs)
    names = ("participants", "steps", "processes", "start s", "steps s", "end s", "busy %", "scheduling %", "parent MB")
    print("| " + " | ".join(names) + " |\n" + "| --- " * len(names) + "|")
    values = (f"{number:.1f}" for number in (start, middle, end, busy, 100 - busy))
    parent = f"{min(half):.0f} to {max(half):.0f}"
    print("| " + " | ".join(map(str, (options.subjects, len(taken), options.nprocs, *values, parent))) + " |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
