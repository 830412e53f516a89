"""The words of ``qsmprep-step cosmos``, checked before anything heavy is imported."""

from __future__ import annotations

import argparse
import importlib
from pathlib import Path
from typing import Any

from qsmprep.cli.replacing import refuse_replacing, with_companions
from qsmprep.core.methods import METHODS
from qsmprep.errors import UsageError

SUMMARY = "compute susceptibility in ppm from local fields of several orientations (COSMOS)"

COSMOS = """\
All fields and the mask lie on one grid: register them first. A registered image no longer tells how the head lay in
the scanner, so the direction of B0 of each field, in the voxel axes of that grid, comes from --b0-dir, or else from
B0Direction in the JSON file beside it.
"""


def references() -> tuple[str, ...]:
    """References that need no segmentation, the default first."""
    return tuple(name for name in METHODS.names("reference") if name in ("wholebrain", "none"))


def add_command(commands: argparse._SubParsersAction[Any], epilog: str) -> None:
    """Add ``cosmos`` to the subcommands."""
    sub = commands.add_parser("cosmos", help=SUMMARY, description=f"{SUMMARY}\n\n{COSMOS}", epilog=epilog)
    sub.formatter_class = argparse.RawDescriptionHelpFormatter
    images = {"nargs": "+", "type": Path, "metavar": "NIFTI"}
    sub.add_argument("--field", required=True, help="local field of each orientation", **images)
    sub.add_argument("--weights", help="relative reliability of each voxel, one image a field", **images)
    sub.add_argument("--mask", required=True, type=Path, metavar="NIFTI", help="voxels to work in (not zero)")
    sub.add_argument("--out", required=True, type=Path, metavar="NIFTI", help="result, .nii or .nii.gz")
    sub.add_argument("--b0-dir", nargs="+", type=float, metavar="N", help="three numbers for each field, in its order")
    sub.add_argument("--units", choices=("ppm", "hz", "rad"), required=True, help="unit of the fields")
    sub.add_argument("--b0-t", type=float, metavar="TESLA", help="field strength; needed with hz and rad")
    sub.add_argument("--te-s", type=float, metavar="SECONDS", help="echo time of the phase; needed with rad")
    names = references()
    sub.add_argument(
        "--reference", choices=names, default=names[0], help=f"region whose mean is zero (default: {names[0]})"
    )
    sub.add_argument(
        "--param", nargs="+", default=[], metavar="NAME=VALUE", help="parameters; `qsmprep-step list` shows all"
    )
    sub.add_argument("--device", default="cpu", metavar="{auto,cpu,cuda[:N]}", help="default: cpu")
    sub.set_defaults(act=run)


def run(args: argparse.Namespace) -> int:
    """Check the words, compute, say what was done."""
    check(args)
    print(importlib.import_module("qsmprep.cli.orientations").cosmos(args))
    return 0


def check(args: argparse.Namespace) -> None:
    """Find what is wrong with the words.

    Raises
    ------
    UsageError
        For too few fields, numbers that do not fit them, unknown parameters, a missing field strength or
        echo time, and a result that is no NIfTI name or would replace an input.
    """
    n = len(args.field)
    if n < 2:
        raise UsageError("`--field` names one image", expected="fields of at least two orientations")
    if args.weights is not None and len(args.weights) != n:
        raise UsageError(f"`--weights` names {len(args.weights)} images", expected=f"one for each of the {n} fields")
    if args.b0_dir is not None and len(args.b0_dir) != 3 * n:
        raise UsageError(f"`--b0-dir` has {len(args.b0_dir)} numbers", expected=f"three for each of the {n} fields")
    words = {}
    for word in args.param:
        name, equals, value = word.partition("=")
        if not (equals and name and value):
            raise UsageError(f"`--param {word}` is not understood", expected="NAME=VALUE")
        words[name.removeprefix("cosmos.")] = value
    args.params = METHODS.get("cosmos", "cosmos").configure(words)
    if args.units in ("hz", "rad") and args.b0_t is None:
        raise UsageError(f"fields in {args.units} need `--b0-t`", expected="the field strength in tesla")
    if args.units == "rad" and args.te_s is None:
        raise UsageError("fields in rad need `--te-s`", expected="the echo time in seconds")
    if args.b0_t is not None and not 0.01 <= args.b0_t <= 25:
        raise UsageError(f"`--b0-t` is {args.b0_t}", expected="a field strength in tesla, 0.01 to 25")
    if args.te_s is not None and not 0 < args.te_s <= 1:
        raise UsageError(f"`--te-s` is {args.te_s}", expected="an echo time in seconds, for example 0.02")
    if not args.out.name.endswith((".nii", ".nii.gz")):
        raise UsageError("the result is not named as a NIfTI file", file=args.out, expected=".nii or .nii.gz")
    refuse_replacing(with_companions(args.out), (*args.field, *(args.weights or ()), args.mask))
