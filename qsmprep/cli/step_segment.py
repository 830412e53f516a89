"""The words of ``qsmprep-step segment``, checked before anything heavy is imported."""

from __future__ import annotations

import argparse
from pathlib import Path

from qsmprep.core.methods import METHODS
from qsmprep.errors import UsageError

SUMMARY = "segment caudate, putamen, pallidum and thalamus on a susceptibility map"

DETAILS = """\
The labels lie on the grid of the map, with the codes of FreeSurfer; left and right are those of its affine. A table
of the labels is written beside them, as `qsmprep-step roi` takes it.
"""


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser], epilog: str) -> None:
    """Add the subcommand to the parser of ``qsmprep-step``."""
    names = METHODS.names("nuclei")
    sub = commands.add_parser("segment", help=SUMMARY, description=f"{SUMMARY}.\n\n{DETAILS}", epilog=epilog)
    sub.formatter_class = argparse.RawDescriptionHelpFormatter
    sub.add_argument("--chi", required=True, type=Path, metavar="NIFTI", help="susceptibility map, any unit")
    sub.add_argument("--mask", required=True, type=Path, metavar="NIFTI", help="where the map is defined (not zero)")
    sub.add_argument("--out", required=True, type=Path, metavar="NIFTI", help="labels, .nii or .nii.gz")
    sub.add_argument("--method", default=names[0], help=f"one of {', '.join(names)} (default: {names[0]})")
    sub.add_argument(
        "--param", nargs="+", default=[], metavar="NAME=VALUE", help="parameters; `qsmprep-step list nuclei` shows all"
    )
    sub.add_argument("--device", default="cpu", metavar="{auto,cpu,cuda[:N]}", help="default: cpu")
    sub.set_defaults(act=run)


def run(args: argparse.Namespace) -> int:
    """Check the words, then do it.

    Raises
    ------
    UsageError
        For unknown methods or parameters, an output that is no NIfTI name or would replace an input.
    """
    from qsmprep.cli.step import parse_overrides

    args.params = METHODS.get("nuclei", args.method).configure(parse_overrides(args.param, args.method))
    if not args.out.name.endswith((".nii", ".nii.gz")):
        raise UsageError("the result is not named as a NIfTI file", file=args.out, expected=".nii or .nii.gz")
    if args.out.absolute() in {args.chi.absolute(), args.mask.absolute()}:
        raise UsageError("the result would replace an input", file=args.out, remedy="choose another name")
    from qsmprep.cli.segment import segment

    print(segment(args))
    return 0
