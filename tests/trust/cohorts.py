"""Small cohorts with a segmentation, runs of ``qsmprep`` on them, and what two output folders have in common."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import scans

FAST = ("--inversion", "tkd", "--background", "vsharp", "--device", "cpu", "--omp-nthreads", "1")

OF_ONE_RUN = (
    r"[0-9.]+ (s|min|h)( of work)?(?=[.,<])",
    r"[0-9.]+ [MG]B(?= of memory|<)",
    r"<td>(work_dir|out_dir|mem_gb|nprocs|omp_nthreads)</td>\s*<td>[^<]*</td>",
    r"<th[^>]*>(work_dir|out_dir|mem_gb|nprocs|omp_nthreads)</th>\s*<td>[^<]*</td>",
)
"""What a page says of one run and not of its results: how long it took, where, with what memory."""


def cohort(root: Path, subjects: tuple[str, ...] = ("01",)) -> Path:
    """A cohort under ``root/raw``, and a segmentation of its nuclei under ``root/seg``, on the grid of the echoes."""
    raw = scans.write_cohort(root, subjects)
    _, signal = scans.head(0)
    labels = np.zeros(scans.SHAPE, np.uint8)
    labels[signal == 85] = 11
    labels[(signal == 85) & (np.indices(scans.SHAPE)[0] > scans.SHAPE[0] // 2)] = 50
    description = {"Name": "s", "BIDSVersion": "1.10.0", "DatasetType": "derivative", "GeneratedBy": [{"Name": "x"}]}
    for subject in subjects:
        folder = root / "seg" / f"sub-{subject}" / "anat"
        folder.mkdir(parents=True)
        nib.Nifti1Image(labels, scans.AFFINE).to_filename(folder / f"sub-{subject}_desc-aseg_dseg.nii.gz")
    (root / "seg" / "dataset_description.json").write_text(json.dumps(description))
    return raw


def command(root: Path, out: str, work: str, *words: str, nprocs: int = 1) -> list[str]:
    """The command line of a run on ``root/raw``."""
    start = [sys.executable, "-m", "qsmprep.cli.main", str(root / "raw"), str(root / out), "participant"]
    return [*start, "-w", str(root / work), "--derivatives", str(root / "seg"), "--nprocs", str(nprocs), *FAST, *words]


def start(words: list[str], log: Path) -> subprocess.Popen[bytes]:
    """Begin a run in a session of its own, with one thread."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with log.open("ab") as stream:
        return subprocess.Popen(words, stdout=stream, stderr=stream, env=environment, start_new_session=True)


def results(out: Path) -> dict[str, bytes]:
    """Files of an output folder by path, except the logs of single runs and hidden leftovers of a kill.

    Durations, peaks of memory, folders and the free memory of the machine are taken out of pages and their records.
    """
    found = {}
    for path in sorted(out.rglob("*")):
        name = path.relative_to(out).as_posix()
        if not path.is_file() or name.startswith("logs/") or (path.name.startswith(".") and path.name.endswith(".tmp")):
            continue
        content = path.read_bytes()
        if name.endswith("_metrics.json"):
            record = json.loads(content)
            for step in record["resources"]:
                step["seconds"] = step["peak_mb"] = 0
            for key in ("out_dir", "work_dir", "mem_gb", "nprocs", "omp_nthreads"):
                record["settings"].pop(key)
            content = json.dumps(record).encode()
        elif name.endswith(".html"):
            text = content.decode()
            for pattern in OF_ONE_RUN:
                text = re.sub(pattern, "", text)
            content = text.encode()
        found[name] = content
    return found


def differences(one: dict[str, bytes], other: dict[str, bytes]) -> list[str]:
    """Names of files that are in one but not the other, or have other bytes."""
    return sorted(name for name in {*one, *other} if one.get(name) != other.get(name))
