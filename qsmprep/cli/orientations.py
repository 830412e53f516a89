"""What ``qsmprep-step cosmos`` does with its files."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from qsmprep.bids.names import sidecar_path
from qsmprep.cli import single
from qsmprep.core.device import resolve_device
from qsmprep.core.methods import METHODS
from qsmprep.errors import DataError, MissingFileError


def b0_directions(fields: list[Path], given: list[float] | None) -> list[list[float]]:
    """Direction of B0 of every field: as given, or from ``B0Direction`` beside it.

    Raises
    ------
    MissingFileError, DataError
        Where neither tells it.
    """
    if given is not None:
        return [given[3 * i : 3 * i + 3] for i in range(len(fields))]
    found = []
    for field in fields:
        path = sidecar_path(field)
        expected = "`B0Direction`: three numbers in the voxel axes"
        remedy = "give the directions of all fields with `--b0-dir`"
        if not path.exists():
            raise MissingFileError("the field has no sidecar", file=path, expected=expected, remedy=remedy)
        try:
            value = json.loads(path.read_text(encoding="utf-8"))["B0Direction"]
            direction = [float(number) for number in value]
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
            direction = []
        if len(direction) != 3:
            raise DataError("the sidecar tells no direction of B0", file=path, expected=expected, remedy=remedy)
        found.append(direction)
    return found


def cosmos(args: argparse.Namespace) -> str:
    """Compute susceptibility from all fields and say what was done."""
    single.check_writable(args.out)
    directions = b0_directions(args.field, args.b0_dir)
    for field in args.field:
        single.units_of(field, args.units)
    args.device = resolve_device(args.device)
    mask = single.read_mask(args.mask)
    grid = single.make_grid(mask, None)
    scale = np.float32(single.unit_per_ppm(args.units, args.b0_t, args.te_s))
    fields = [single.read_on_grid(path, mask) for path in args.field]
    weights = [single.read_on_grid(path, mask) for path in args.weights] if args.weights else None
    method = METHODS.get("cosmos", "cosmos")
    with single.out_of_memory_told():
        result = method.load()(
            [field / scale for field in fields if field is not None],
            mask.data,
            grid,
            directions,
            args.params,
            weights=weights,
            device=args.device,
        )
        reference = METHODS.get("reference", args.reference)
        referenced = reference.load()(result.chi_ppm, mask.data, reference.configure())
    sidecar = {
        "Description": "Magnetic susceptibility from several orientations; positive where paramagnetic",
        "Units": "ppm",
        **single.provenance(args, method, grid, {"mask": args.mask}),
        "B0Direction": directions,
        "Iterations": result.iterations,
        "Converged": bool(result.converged),
        "Reference": args.reference,
        "ReferenceShift": referenced.shift_ppm,
        "Details": single.details(result.info),
    }
    inputs = {"field": [str(path) for path in args.field], "mask": str(args.mask)}
    if args.weights:
        inputs["weights"] = [str(path) for path in args.weights]
    sidecar["Inputs"] = inputs
    single.write_results({args.out: referenced.chi_ppm}, sidecar, args.out, mask)
    doubt = "" if result.converged else ", not converged"
    return f"{args.out}: {method.title} of {len(fields)} orientations, {result.iterations} iterations{doubt}"
