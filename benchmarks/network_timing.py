"""Time and memory of inversions on a large volume, each in a process of its own."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from network_methods import TITLES, Trial, classical, learned
from network_scans import Case
from numpy.typing import NDArray
from scipy import ndimage
from torch.profiler import ProfilerActivity, profile

from qsmprep.core.dipole import forward_field
from qsmprep.core.grid import Grid

SHAPE = (256, 256, 128)
VOXEL_MM = (0.9, 0.9, 1.2)
BRAIN_MM = (140.0, 175.0, 130.0)
"""Axes of the ellipsoid that stands for a brain."""

THREADS = 2
KINDS = {
    "convolutions": ("conv",),
    "Fourier transforms": ("fft",),
    "normalisation": ("norm",),
    "resampling": ("upsample", "pool", "interpolate"),
}
"""Kinds of work, by a part of the operator's name."""


def volume(shape: tuple[int, int, int] = SHAPE, *, full: bool = False) -> Case:
    """A smooth random map in an ellipsoid of the size of a brain, or as large as the volume."""
    rng = np.random.default_rng(9)
    axes = [(np.arange(n) - (n - 1) / 2) * mm for n, mm in zip(shape, VOXEL_MM, strict=True)]
    sizes = [n * mm for n, mm in zip(shape, VOXEL_MM, strict=True)] if full else BRAIN_MM
    radius = sum(
        (2 * line / size).reshape([-1 if i == j else 1 for j in range(3)]) ** 2
        for i, (line, size) in enumerate(zip(axes, sizes, strict=True))
    )
    mask = np.asarray(radius < 1)
    noise: NDArray[np.float32] = rng.standard_normal(shape).astype(np.float32)
    chi = ndimage.gaussian_filter(noise, 2.0)
    chi = (0.04 * chi / chi.std() * mask).astype(np.float32)
    grid = Grid(shape, VOXEL_MM)
    sd = np.where(mask, np.float32(0.002), np.float32(0))
    field = (forward_field(chi, grid, pad_factor=1.2) + 0.002 * noise) * mask
    none = np.zeros(shape, np.int16)
    return Case("timing", "timing", grid, field.astype(np.float32), chi, mask.astype(np.float32), sd, mask, none, none)


def child(about: dict[str, Any]) -> dict[str, Any]:
    """Run one method on one volume; what it took."""
    torch.set_num_threads(THREADS)
    case = volume(full=about["full"])
    folder = Path(about["folder"]) if about["folder"] else None
    trial = learned(about["method"], folder) if about["learned"] else classical(about["method"])
    if not isinstance(trial, Trial):
        return {"problem": trial}
    before = _peak()
    start = time.perf_counter()
    if about["profile"]:
        with profile(activities=[ProfilerActivity.CPU]) as watched:
            trial.run(case)
        return {"shares": shares(watched.key_averages())}
    trial.run(case)
    return {"seconds": time.perf_counter() - start, "before_gib": before, "peak_gib": _peak()}


def _peak() -> float:
    """Largest resident size of this process in GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2


def shares(events: Any) -> dict[str, float]:
    """Percent of the time in each kind of work."""
    total = dict.fromkeys((*KINDS, "the rest"), 0.0)
    largest = ("", 0.0)
    for event in events:
        kind = next((k for k, parts in KINDS.items() if any(p in event.key.lower() for p in parts)), "the rest")
        total[kind] += event.self_cpu_time_total
        if kind == "the rest" and event.self_cpu_time_total > largest[1]:
            largest = event.key, event.self_cpu_time_total
    everything = sum(total.values()) or 1.0
    total[f"the rest (first {largest[0]})"] = total.pop("the rest")
    return {name: 100 * value / everything for name, value in total.items()}


def measured(method: str, folder: Path | None, *, is_network: bool, full: bool, profiled: bool) -> dict[str, Any]:
    """What a child process says."""
    about = {"method": method, "folder": str(folder or ""), "learned": is_network, "full": full, "profile": profiled}
    environment = {**os.environ, "OMP_NUM_THREADS": str(THREADS)}
    command = [sys.executable, str(Path(__file__).resolve()), json.dumps(about)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        return {"problem": f"ended with {done.returncode}: {done.stderr.strip().splitlines()[-1:]}"}
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def section(networks: Sequence[str], folder: Path | None, methods: Sequence[str]) -> str:
    """A Markdown table: seconds and peak memory, and what networks spend their time on."""
    heads = ["method", "seconds, brain", "GiB, brain", "seconds, full", "GiB, full", "where the time goes (brain)"]
    lines = ["| " + " | ".join(heads) + " |", "|" + " --- |" * len(heads)]
    for method, is_network in [*((n, True) for n in networks), *((m, False) for m in methods)]:
        cells = [method if is_network else TITLES[method]]
        for full in (False, True) if is_network else (False,):
            found = measured(method, folder, is_network=is_network, full=full, profiled=False)
            print(method, "full" if full else "brain", found, file=sys.stderr, flush=True)
            told = (
                (f"{found['seconds']:.1f}", f"{found['peak_gib']:.2f}")
                if "seconds" in found
                else ("—", found["problem"])
            )
            cells += told
        cells += [] if is_network else ["", ""]
        found = measured(method, folder, is_network=is_network, full=False, profiled=True) if is_network else {}
        cells.append(", ".join(f"{name} {value:.0f} %" for name, value in found.get("shares", {}).items()))
        lines.append("| " + " | ".join(cells) + " |")
    size, voxel = (" × ".join(map(str, lengths)) for lengths in (SHAPE, VOXEL_MM))
    brain = " × ".join(f"{mm:g}" for mm in BRAIN_MM)
    note = (
        f"{size} voxels of {voxel} mm, {THREADS} threads, each method in a process of its own; peak resident memory "
        f"with the program and the data. Brain: an ellipsoid of {brain} mm; full: as large as the volume."
    )
    return note + "\n\n" + "\n".join(lines)


if __name__ == "__main__":
    print(json.dumps(child(json.loads(sys.argv[1]))))
