"""Time and memory of ``qsmprep`` for one data set: the constants of :mod:`qsmprep.cluster.cost` come from here.

    python benchmarks/cost.py BIDS_DIR [--cpus 1 2] [option of qsmprep ...]

Every participant is processed by itself, with each number of CPUs, into a temporary folder. Memory is the sum of the
proportional set sizes of all its processes (what a control group of SLURM would count, near enough), sampled four
times a second.
"""

from __future__ import annotations

import argparse
import math
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from qsmprep.bids.headers import read_header
from qsmprep.bids.preflight import preflight


def tree(root: int) -> list[int]:
    """A process and all that come from it."""
    parents: dict[int, list[int]] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            parents.setdefault(int(fields[1]), []).append(int(folder.name))
    found, todo = [], [root]
    while todo:
        found.append(todo.pop())
        todo += parents.get(found[-1], [])
    return found


def pss_gb(pids: list[int]) -> float:
    """Proportional set size of processes in GB; those that ended count nothing."""
    total_kb = 0
    for pid in pids:
        try:
            text = Path(f"/proc/{pid}/smaps_rollup").read_text()
        except OSError:
            continue
        total_kb += sum(int(line.split()[1]) for line in text.splitlines() if line.startswith("Pss:"))
    return total_kb * 1024 / 1e9


def measure(command: list[str]) -> tuple[float, float]:
    """Seconds and peak GB of a command.

    Raises
    ------
    SystemExit
        When it fails.
    """
    start, peak = time.monotonic(), 0.0
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
        while process.poll() is None:
            peak = max(peak, pss_gb(tree(process.pid)))
            time.sleep(0.25)
        if process.returncode:
            log.seek(0)
            raise SystemExit(log.read().decode(errors="replace")[-2000:])
    return time.monotonic() - start, peak


def main() -> None:
    """Measure and print one row of a Markdown table a participant and number of CPUs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bids_dir", type=Path)
    parser.add_argument("--cpus", type=int, nargs="+", default=[1, 2])
    options, words = parser.parse_known_args()
    print("| Mvoxels | echoes | CPUs | seconds | peak GB |\n| --- | --- | --- | --- | --- |")
    for found in preflight(options.bids_dir).acquisitions:
        mvoxels = math.prod(read_header(found.files[0]).shape) / 1e6
        for cpus in options.cpus:
            with tempfile.TemporaryDirectory() as folder:
                command = [sys.executable, "-m", "qsmprep.cli.main", str(options.bids_dir), f"{folder}/out"]
                command += ["participant", "--participant-label", found.subject, "-w", f"{folder}/work"]
                command += ["--nprocs", str(cpus), "--device", "cpu", *words]
                seconds, peak = measure(command)
            row = (f"{mvoxels:.3g}", len(found.echoes), cpus, f"{seconds:.0f}", f"{peak:.2f}")
            print(f"| {' | '.join(map(str, row))} |", flush=True)


if __name__ == "__main__":
    main()
