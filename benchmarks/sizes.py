"""Time and peak memory of background removals and inversions against the size of the matrix.

    python benchmarks/sizes.py [--edges 128 192 256 384] [--threads 2] [--device cpu] [--update-docs]

Every method is called once in a process of its own, on a ball of a brain in a cube of 224 mm, so that more voxels are
smaller voxels. Seconds are those of the call with its imports; the peak is that of the process with the program (some
0.4 GB), and that of the GPU beside it on one.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from accuracy import commit, markdown, put_into_page
from numpy.typing import NDArray

from qsmprep.core.dipole import forward_field
from qsmprep.core.grid import Grid
from qsmprep.core.methods import METHODS

EDGES = (128, 192, 256, 384)
CUBE_MM = 224.0
BRAIN_MM = (140.0, 175.0, 130.0)
"""Axes of the ellipsoid that stands for a brain."""

MEASURED = (
    ("background", ("vsharp", "resharp", "lbv", "tfi")),
    ("inversion", ("tkd", "l2", "rts", "ilsqr", "tv", "whqsm", "medi", "conenet")),
)
NOISE_PPM = 0.002


def positions(grid: Grid) -> list[NDArray[np.float32]]:
    """Distance from the middle in mm along each axis, to be broadcast."""
    lines = [(np.arange(n) - (n - 1) / 2) * mm for n, mm in zip(grid.shape, grid.voxel_mm, strict=True)]
    return [line.reshape([-1 if a == b else 1 for b in range(3)]).astype(np.float32) for a, line in enumerate(lines)]


def head(edge: int, total: bool) -> tuple[Grid, NDArray[np.bool_], NDArray[np.float32]]:
    """Grid, mask and field in ppm: of blobs that do not depend on the voxels, with that of air below if ``total``."""
    grid = Grid((edge,) * 3, (CUBE_MM / edge,) * 3)
    where = positions(grid)
    mask = sum((2 * line / size) ** 2 for line, size in zip(where, BRAIN_MM, strict=True)) < 1
    rng, chi = np.random.default_rng(9), np.zeros(grid.shape, np.float32)
    for _ in range(60):
        centre, radius, value = rng.uniform(-50, 50, 3), rng.uniform(3, 12), rng.normal(0, 0.06)
        chi += np.float32(value) * (sum((line - c) ** 2 for line, c in zip(where, centre, strict=True)) < radius**2)
    chi *= mask
    if total:
        x, y, z = where
        chi += np.float32(9.0) * ((x**2 + (y - 55) ** 2 + (z + 75) ** 2) < 12**2) * ~mask
    field = forward_field(chi, grid, pad_factor=1.2)
    field += np.float32(NOISE_PPM) * rng.standard_normal(grid.shape, dtype=np.float32)
    return grid, np.asarray(mask), field * mask


def one(step: str, name: str, edge: int, threads: int, device: str) -> dict[str, float]:
    """Call a method once in this process: seconds, peak of the memory in GB, and of the GPU's."""
    import torch

    from qsmprep.interfaces.usage import forget_peak, peak_mb

    torch.set_num_threads(threads)
    grid, mask, field = head(edge, step == "background")
    forget_peak()
    start = time.perf_counter()
    method = METHODS.get(step, name)
    extra = {"harmonic": "yes"} if name == "whqsm" else {}  # as in a run
    magnitude = {"magnitude": mask.astype(np.float32)} if step == "inversion" else {}
    method.load()(field, mask, grid, method.configure(extra), device=device, **magnitude)
    row = {"seconds": time.perf_counter() - start, "peak GB": (peak_mb() or float("nan")) / 1e3}
    if device != "cpu":
        row["GPU GB"] = torch.cuda.max_memory_allocated() / 1e9
    return row


def rows(edges: Sequence[int], threads: int, device: str, limit_s: float) -> list[dict[str, str | float]]:
    """One row a method; a call that fails or takes longer than the limit is told."""
    table: list[dict[str, str | float]] = []
    for step, names in MEASURED:
        for name in names:
            row: dict[str, str | float] = {"step": step, "method": METHODS.get(step, name).title}
            for edge in edges:
                row[f"{edge}³"] = told(step, name, edge, threads, device, limit_s)
            table.append(row)
            print(row, file=sys.stderr, flush=True)
    return table


def told(step: str, name: str, edge: int, threads: int, device: str, limit_s: float) -> str:
    """Seconds and GB of a call in a process of its own, as text."""
    words = [sys.executable, __file__, "--one", step, name, "--edges", str(edge), "--threads", str(threads)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    try:
        done = subprocess.run(
            [*words, "--device", device], capture_output=True, text=True, check=False, timeout=limit_s, env=environment
        )
    except subprocess.TimeoutExpired:
        return f"over {limit_s:g} s"
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        return lines[-1] if lines else "killed"
    found = json.loads(done.stdout.splitlines()[-1])
    gpu = f", {found['GPU GB']:.1f} GB of the GPU" if "GPU GB" in found else ""
    return f"{found['seconds']:.3g} s, {found['peak GB']:.1f} GB{gpu}"


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, and on demand write into the docs."""
    words = list(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--edges", type=int, nargs="+", default=EDGES, help="of the matrix (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=2, help="of each method (default: 2)")
    parser.add_argument("--device", default="cpu", help="where methods compute (default: cpu)")
    parser.add_argument("--limit-s", type=float, default=900, help="longest call (default: 900 s)")
    parser.add_argument("--one", nargs=2, metavar=("STEP", "METHOD"), help="call one method in this process")
    parser.add_argument("--update-docs", action="store_true", help="put the table into docs/pages/measured")
    args = parser.parse_args(words)
    if args.one:
        print(json.dumps(one(*args.one, args.edges[0], args.threads, args.device)))
        return 0
    text = f"Measured at commit {commit()} by `benchmarks/{Path(__file__).name}` on the {args.device} with "
    text += f"{args.threads} threads.\n\n"
    text += markdown(rows(args.edges, args.threads, args.device, args.limit_s))
    print(text)
    if args.update_docs:
        put_into_page(text, "sizes")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
