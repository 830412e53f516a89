"""What ``qsmprep-step segment --t1w`` does: the atlas or FSL FIRST on one image, without BIDS."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from qsmprep.bids.fsl import find_fsl
from qsmprep.bids.segmentations import MADE
from qsmprep.bids.tables import read_label_table, write_label_table
from qsmprep.bids.write import write_nifti
from qsmprep.cli.segment import table_path
from qsmprep.cli.single import (
    Source,
    check_writable,
    load_image,
    make_grid,
    out_of_memory_told,
    provenance,
    read,
    read_mask,
    read_on_grid,
    write_results,
)
from qsmprep.cli.step_segment import FIRST
from qsmprep.core.bibliography import load
from qsmprep.core.grid import Grid
from qsmprep.core.methods import METHODS
from qsmprep.core.structures import FREESURFER, Region
from qsmprep.errors import DataError
from qsmprep.interfaces.refinement import RefineLabels
from qsmprep.interfaces.regions import load_labels
from qsmprep.interfaces.registration import AtlasLabels, BrainOf, First
from qsmprep.version import qsmprep_version
from qsmprep.workflows.segment import embedded_atlas, probability_files


def segment(args: argparse.Namespace) -> str:
    """Write labels on the grid of the T1w image, their table and sidecar; say how large the regions are."""
    check_writable(args.out)
    head = _read(args)
    grid = make_grid(head, None)
    folder = Path(tempfile.mkdtemp(prefix="qsmprep-segment-"))
    try:
        with out_of_memory_told():
            file, table, details = (_first if args.method == FIRST else _atlas)(args, head, folder)
        labels = load_labels(file)[0]
    except BaseException as error:
        if args.method != FIRST or not isinstance(error, DataError):  # the logs of FIRST say why it failed
            shutil.rmtree(folder, ignore_errors=True)
        raise
    shutil.rmtree(folder, ignore_errors=True)
    known = {*(int(code) for code in np.unique(labels)), *MADE.get(args.method, ())}
    regions = [region for code, region in sorted(table.items()) if code in known]
    sizes = {region.name: float((labels == region.index).sum()) * grid.voxel_volume_mm3 for region in regions}
    sidecar = {
        "Description": "Deep grey nuclei on the grid of the T1w image",
        "Manual": False,
        **_facts(args, grid),
        "VolumesMM3": sizes,
        "Details": details,
    }
    write_results({args.out: labels.astype(np.int32)}, sidecar, args.out, head)
    write_label_table(regions, table_path(args.out))
    said = [f"  {name}: {mm3 / 1e3:.2f} mL" for name, mm3 in sizes.items()]
    return "\n".join([f"{args.out}: {_title(args.method)}, {len(regions)} regions", *said, *details["warnings"]])


def _read(args: argparse.Namespace) -> Source:
    """The T1w image; whatever else is given is looked at too, before any long work."""
    head = read(args.t1w)
    if args.method == FIRST:
        find_fsl("run_first_all")
    if args.brain is not None:
        read_on_grid(args.t1w, read_mask(args.brain))
    if args.chi is not None:
        read_on_grid(args.chi, read_mask(args.mask))
    if args.atlas is not None:
        load_image(args.atlas[0])
        read_label_table(args.atlas[1])
    return head


def _title(method: str) -> str:
    return "FSL FIRST" if method == FIRST else METHODS.get("segmentation", method).title


def _facts(args: argparse.Namespace, grid: Grid) -> dict[str, Any]:
    """What the sidecar says of the method and its inputs."""
    inputs = {"t1w": args.t1w, "brain": args.brain, "chi": args.chi, "mask": args.mask}
    inputs["atlas"] = args.atlas[0] if args.atlas else None
    if args.method != FIRST:
        args.units, args.b0_t, args.te_s, args.device = None, None, None, "cpu"
        facts = provenance(args, METHODS.get("segmentation", args.method), grid, inputs)
        return {name: value for name, value in facts.items() if not name.startswith("B0")}
    return {
        "EstimationAlgorithm": _title(FIRST),
        "EstimationReference": [load()["patenaude2011"].url],
        "Method": FIRST,
        "Inputs": {"t1w": str(args.t1w)},
        "GeneratedBy": [{"Name": "qsmprep", "Version": qsmprep_version()}],
    }


def _first(args: argparse.Namespace, head: Source, folder: Path) -> tuple[str, dict[int, Region], dict[str, Any]]:
    """Labels of FSL FIRST, which stay in the folder where it fails."""
    return First(in_file=str(args.t1w)).compute(folder)["labels"], dict(FREESURFER), {"warnings": []}


def _atlas(args: argparse.Namespace, head: Source, folder: Path) -> tuple[str, dict[int, Region], dict[str, Any]]:
    """Labels of an atlas; those of the embedded one by its probabilities, with susceptibility where it is given."""
    atlas, table = args.atlas or embedded_atlas()
    threads = len(os.sched_getaffinity(0))
    shared: dict[str, Any] = {
        "in_file": str(args.t1w),
        "method": "atlas",
        "parameters": dataclasses.asdict(args.params),
        "num_threads": threads,
    }
    try:
        shared["mask"], doubts = _brain(args, head, folder)
        found = AtlasLabels(atlas=str(atlas), table=str(table), **shared).compute(folder)
    except DataError as error:
        raise DataError(
            error.what,
            file=error.file,
            expected=error.expected,
            remedy="check the image, and give its brain with --brain",
        ) from error
    regions, warnings = read_label_table(Path(found["table"])), doubts + _warnings(found["info"])
    if args.atlas:
        return found["labels"], regions, {"warnings": warnings}
    if args.chi is not None:
        shared |= {"chi_ppm": str(args.chi), "chi_mask": str(args.mask)}
    shares, classes = probability_files()
    named = {name: found[name] for name in ("labels", "warp", "linear")}
    inner = folder / "refined"
    inner.mkdir()
    sighting = dataclasses.asdict(args.sighting)
    step = RefineLabels(shares=str(shares), classes=str(classes), sighting=sighting, **named, **shared)
    refined = step.compute(inner)
    known = json.loads(Path(refined["info"]).read_text())
    facts = {key: known[key] for key in ("network_weights", "trained_steps") if key in known}
    return refined["labels"], regions, {**facts, "warnings": warnings + known["warnings"]}


def _warnings(info: str) -> list[str]:
    """What a step wants a person to look at."""
    return list(json.loads(Path(info).read_text())["warnings"])


def _brain(args: argparse.Namespace, head: Source, folder: Path) -> tuple[str, list[str]]:
    """The file of the brain: as given, on the grid of the T1w image, or extracted; and what is to be looked at."""
    if args.brain is None:
        found = BrainOf(in_file=str(args.t1w)).compute(folder)
        return str(found["mask"]), _warnings(found["info"])
    mask = read_mask(args.brain)
    path = folder / "brain.nii"
    write_nifti(mask.data.astype(np.uint8), head.image.affine, None, path)
    return str(path), []
