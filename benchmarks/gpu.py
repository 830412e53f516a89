"""CPU against GPU: the same answer, and how long it takes.

    python benchmarks/gpu.py [--weights DIR] [--seconds S]

The first table times the networks and a few classical methods on 256 x 256 x 128 voxels on the GPU (after a first run
that is not counted), the second compares every background removal and inversion on a small volume. Methods that cannot
be run, or that there is no time left for, are told.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from network_scans import RAD_PER_PPM, Case
from network_timing import SHAPE, volume

from qsmprep.core.methods import METHODS
from qsmprep.errors import QSMPrepError

SMALL = (64, 72, 48)
TIMED = ("conenet", "loopnet", "metaqsm", "qsminvnet", "pedqnet", "tv", "whqsm", "rts", "medi")


def runner(case: Case, step: str, name: str, weights: Path | None) -> Callable[[str], Any]:
    """A method as a function of the device alone."""
    method = METHODS.get(step, name)
    params = method.configure({"harmonic": "yes"} if name == "whqsm" else {})  # as in a run
    if method.learned and weights is not None:
        params = dataclasses.replace(params, weights=str(weights))
    extra: dict[str, Any] = {"weights": case.weights}
    if step == "inversion":
        extra |= {"magnitude": case.magnitude, "rad_per_ppm": RAD_PER_PPM}
    solve = method.load()

    def run(device: str) -> Any:
        result = solve(case.field_ppm, case.mask, case.grid, params, device=device, **extra)
        return result.chi_ppm if step == "inversion" else result.field_ppm

    return run


def agreement(limit: Callable[[], bool], weights: Path | None) -> str:
    """How far the GPU's answer is from the CPU's, relative to the spread of the CPU's."""
    case = volume(SMALL, full=True)
    lines = ["| step | method | relative difference |", "| --- | --- | --- |"]
    for step in ("background", "inversion"):
        for name in METHODS.names(step):
            told = "no time left"
            if limit():
                run = runner(case, step, name, weights)
                try:
                    here, there = run("cpu"), run("cuda")
                    told = f"{np.linalg.norm(there - here) / np.linalg.norm(here - here[case.mask].mean()):.1e}"
                except (QSMPrepError, RuntimeError) as problem:
                    told = str(problem).splitlines()[0]
            lines.append(f"| {step} | {METHODS.get(step, name).title} | {told} |")
            print(lines[-1], file=sys.stderr, flush=True)
    return "\n".join(lines)


def timing(limit: Callable[[], bool], weights: Path | None) -> str:
    """Seconds and memory of the GPU on a large volume."""
    case = volume(SHAPE)
    lines = ["| method | seconds | GiB |", "| --- | --- | --- |"]
    for name in TIMED:
        told = "no time left |"
        if limit():
            run = runner(case, "inversion", name, weights)
            torch.cuda.reset_peak_memory_stats()
            try:
                run("cuda")
                start = time.perf_counter()
                run("cuda")
                told = f"{time.perf_counter() - start:.2f} | {torch.cuda.max_memory_allocated() / 2**30:.1f}"
            except (QSMPrepError, RuntimeError) as problem:
                told = str(problem).splitlines()[0] + " |"
        lines.append(f"| {METHODS.get('inversion', name).title} | {told} |")
        print(lines[-1], file=sys.stderr, flush=True)
    return "\n".join(lines)


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, help="folder of weight files (default: the shipped ones)")
    parser.add_argument("--seconds", type=float, default=1e9, help="begin nothing after so many")
    args = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("gpu.py: no CUDA device is visible")
    begun = time.monotonic()
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}\n")
    large = timing(lambda: time.monotonic() - begun < 0.5 * args.seconds, args.weights)
    small = agreement(lambda: time.monotonic() - begun < args.seconds, args.weights)
    print(f"{' x '.join(map(str, SHAPE))} voxels\n\n{large}\n\n{' x '.join(map(str, SMALL))} voxels\n\n{small}")


if __name__ == "__main__":
    main()
