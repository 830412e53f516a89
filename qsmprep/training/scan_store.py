"""Scans of heads for training, kept in a folder: made once, each by its own seed, and read again."""

from __future__ import annotations

import dataclasses
import json
import os
import zipfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from qsmprep.errors import CannotWriteError, DataError
from qsmprep.training.draw import Dice
from qsmprep.training.heads import HeadMap
from qsmprep.training.scans import VOLUMES, Scan, ScanParams, draw_scan
from qsmprep.training.susceptibility import ChiParams


def scan_file(folder: Path, index: int) -> Path:
    """Where a scan is kept."""
    return folder / f"scan_{index:04d}.npz"


def write_scan(path: Path, scan: Scan) -> None:
    """Write a scan, whole or not at all.

    Raises
    ------
    CannotWriteError
        When that is not possible.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            geometry = {"voxel_mm": scan.voxel_mm, "b0_dir": scan.b0_dir, "origin": scan.origin}
            np.savez_compressed(file, **{name: getattr(scan, name) for name in VOLUMES}, **geometry)
        partial.replace(path)
    except OSError as problem:
        partial.unlink(missing_ok=True)
        raise CannotWriteError(f"a scan cannot be written ({problem.strerror})", file=path) from None


def read_scan(path: Path) -> Scan:
    """Read a scan.

    Raises
    ------
    DataError
        When it cannot be read.
    """
    try:
        with zipfile.ZipFile(path) as parts:
            if (broken := parts.testzip()) is not None:
                raise zipfile.BadZipFile(f"{broken} is damaged")
        with np.load(path) as held:
            volumes = [held[name] for name in VOLUMES]
            voxel, b0 = (tuple(float(v) for v in held[name]) for name in ("voxel_mm", "b0_dir"))
            origin = str(held["origin"])
    except (OSError, ValueError, KeyError, EOFError, zlib.error, zipfile.BadZipFile) as problem:
        raise DataError(
            f"a scan of the training cannot be read ({problem})",
            file=path,
            expected="one that this training wrote; remove the file to have it made again",
        ) from None
    return Scan(*volumes, voxel, b0, origin)  # type: ignore[arg-type]


def origin_of(head: HeadMap, params: ScanParams, chi_params: ChiParams, seed: int) -> str:
    """What a scan is made of and how: it is not taken for one of another head, seed or recipe."""
    how = {key: value for key, value in dataclasses.asdict(params).items() if key not in ("count", "chance")}
    content = {"head": head.name, "seed": seed, **how, "chi": dataclasses.asdict(chi_params)}
    return json.dumps(content, sort_keys=True)


def ensure_scans(
    folder: Path,
    heads: Sequence[HeadMap],
    params: ScanParams,
    chi_params: ChiParams,
    seed: int,
    *,
    stop: Callable[[], bool] = lambda: False,
    report: Callable[[int, int], None] = lambda done, count: None,
) -> list[Scan]:
    """Read the scans of a folder, and make those that are not there; each has its own seed, so that any order of
    making them, by any number of processes, gives the same.

    Raises
    ------
    DataError, CannotWriteError
        See :func:`read_scan` and :func:`write_scan`; also for a scan of another head, seed or recipe.
    """
    found = []
    for index in range(params.count):
        path, head = scan_file(folder, index), heads[index % len(heads)]
        origin = origin_of(head, params, chi_params, seed)
        if not path.exists():
            if stop():
                break
            dice = Dice.of((1_000_003 * (seed + 1) + index) % 2**62)
            drawn = draw_scan(dice, on_cpu(head), params, chi_params)
            write_scan(path, dataclasses.replace(drawn, origin=origin))
        found.append(read_scan(path))
        if found[-1].origin != origin:
            raise DataError(
                "this scan is of another label map, seed or recipe",
                file=path,
                expected=f"one made of {head.name} with the recipe of this training",
                remedy="give another --out, or remove the folder of scans to have them made again",
            )
        report(index + 1, params.count)
    return found


def on_cpu(head: HeadMap) -> HeadMap:
    """The head where scans are made."""
    return dataclasses.replace(head, tissues=head.tissues.cpu(), brain=head.brain.cpu())
