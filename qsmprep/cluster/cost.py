"""What one participant costs: memory and time against the size of the images.

Measured with ``benchmarks/cost.py`` and the default methods on one thread: 0.1 million voxels and 3 echoes 0.52 GB
(0.91 GB with a second CPU), 0.52 million and 1 echo 0.57 GB, 6.0 million and 4 echoes 1.8 GB and
135 s up to the mask; the rest of that last run was not measured, so its memory is a nominal figure for the
inversion (6.3 million voxels and 5 echoes took 1.6 GB in all by WH-QSM; learned ones are given up to
5.5 GB more than the program), and its time that of TFI and WH-QSM in the tables of
``benchmarks/accuracy.py`` (12.5 s per million voxels each).
The ratios of the slower inversions are from there as well.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

BASE_GB = 0.45
"""Memory in GB of the program with nothing to do."""

PROCESS_GB = 0.4
"""Memory in GB that each further CPU brings: a worker with its libraries."""

BYTES_PER_VOXEL = 700.0
"""Peak memory of a participant in bytes per voxel of one echo."""

BYTES_PER_VOXEL_ECHO = 60.0
"""The same for every echo more than one (measured: 57 for each)."""

START_S = 15.0
"""Seconds before the first step and after the last."""

S_PER_MVOXEL_ECHO = 5.0
"""Seconds for the steps on echoes, per million voxels and echo."""

S_PER_MVOXEL = 20.0
"""Seconds for background removal, figures and outputs, per million voxels."""

S_PER_MVOXEL_INVERSION = 15.0
"""Seconds of WH-QSM, per million voxels."""

SLOWER = {"nltgv": 5.0, "tgv": 3.0, "loopnet": 3.0, "qsminvnet": 2.0, "pedqnet": 2.0, "conenet": 1.5, "metaqsm": 1.5}
"""How many times longer than WH-QSM others take; those that are not named take at most as long."""

SEGMENTATION_S = 600.0
"""Seconds of a registration of the atlas, whatever the grid of the echoes."""

MEMORY_MARGIN = 1.3
TIME_MARGIN = 3.0
"""What is asked for over what was measured: other processors, shared disks, noisy data that converge late."""

MIN_GB = 4.0
MIN_MINUTES = 30


@dataclass(frozen=True)
class Scan:
    """The size of one acquisition.

    Parameters
    ----------
    n_voxels : int
        Voxels of one echo.
    n_echoes : int
        Echoes.
    """

    n_voxels: int
    n_echoes: int


@dataclass(frozen=True)
class Needs:
    """What a job is given.

    Parameters
    ----------
    memory_mb : int
        Memory in MB (10^6 bytes).
    minutes : int
        Time limit in minutes.
    """

    memory_mb: int
    minutes: int


def peak_gb(scans: Sequence[Scan], cpus: int) -> float:
    """Peak memory of one participant in GB, without a margin.

    Acquisitions of one participant are processed side by side only as far as there are CPUs, and the largest
    counts for each of them but half, since their peaks seldom meet.
    """
    sizes = sorted(
        (scan.n_voxels * (BYTES_PER_VOXEL + BYTES_PER_VOXEL_ECHO * (scan.n_echoes - 1)) / 1e9 for scan in scans),
        reverse=True,
    )
    at_once = sizes[: max(cpus, 1)]
    return BASE_GB + PROCESS_GB * (cpus - 1) + at_once[0] + sum(at_once[1:]) / 2


def seconds(scans: Sequence[Scan], inversions: Collection[str], *, segment: bool = False) -> float:
    """Time of one participant on one CPU in seconds, without a margin.

    Parameters
    ----------
    scans : sequence of Scan
        All acquisitions of the participant.
    inversions : collection of str
        Names of the inversions.
    segment : bool
        Whether an atlas is brought to the participant.
    """
    inverting = S_PER_MVOXEL_INVERSION * sum(SLOWER.get(name, 1.0) for name in inversions)
    each = [
        scan.n_voxels / 1e6 * (S_PER_MVOXEL_ECHO * scan.n_echoes + S_PER_MVOXEL + inverting)
        + (SEGMENTATION_S if segment else 0.0)
        for scan in scans
    ]
    return START_S + sum(each)


def needs(
    participants: Collection[Sequence[Scan]], inversions: Collection[str], cpus: int, *, segment: bool = False
) -> Needs:
    """What every task of an array must be given, so that the costliest participant gets through.

    More CPUs are not counted on to save time: most steps use one, and a time limit that is too long costs little.

    Parameters
    ----------
    participants : collection of sequence of Scan
        The acquisitions of each.
    inversions : collection of str
        Names of the inversions.
    cpus : int
        CPUs of a task.
    segment : bool
        Whether an atlas is brought to each.
    """
    memory_gb = max(peak_gb(scans, cpus) for scans in participants)
    time_s = max(seconds(scans, inversions, segment=segment) for scans in participants)
    whole_gb = math.ceil(max(MEMORY_MARGIN * memory_gb, MIN_GB))
    minutes = max(TIME_MARGIN * time_s / 60, MIN_MINUTES)
    return Needs(1000 * whole_gb, 10 * math.ceil(minutes / 10))
