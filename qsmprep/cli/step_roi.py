"""The words of ``qsmprep-step roi``, checked before anything heavy is imported."""

from __future__ import annotations

import argparse
from pathlib import Path

from qsmprep.cli.replacing import refuse_replacing
from qsmprep.core.methods import METHODS
from qsmprep.errors import UsageError

REFERENCES = ("none", "wholebrain", "csf", "whitematter")
"""Regions that get a row of their own, so that values can be referenced to them."""

SUMMARY = "statistics of a map over the regions of a segmentation, as TSV with a JSON dictionary"

DETAILS = """\
A segmentation on another grid is looked up at the map's voxel centres by the affines of both, with nearest
neighbours; the map itself is never interpolated. Names of the regions come from --labels, from a TSV beside the
segmentation, or, with `--labels freesurfer`, from the codes that FreeSurfer, FastSurfer and SynthSeg share.
"""


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser], epilog: str) -> None:
    """Add the subcommand to the parser of ``qsmprep-step``."""
    sub = commands.add_parser("roi", help=SUMMARY, description=f"{SUMMARY}.\n\n{DETAILS}", epilog=epilog)
    sub.formatter_class = argparse.RawDescriptionHelpFormatter
    sub.add_argument("--chi", required=True, type=Path, metavar="NIFTI", help="the map, for example susceptibility")
    sub.add_argument("--dseg", required=True, type=Path, metavar="IMAGE", help="segmentation, NIfTI or MGZ")
    sub.add_argument("--labels", metavar="TSV", help="columns index, name (hemisphere, structure); or `freesurfer`")
    sub.add_argument(
        "--mask", type=Path, metavar="NIFTI", help="where the map is defined (default: finite and not zero)"
    )
    sub.add_argument(
        "--out", required=True, type=Path, metavar="TSV", help="table; its dictionary is written beside it"
    )
    sub.add_argument("--quantity", default="chi", metavar="NAME", help="what the map measures (default: chi)")
    sub.add_argument("--map-unit", default="ppm", metavar="UNIT", help="unit of the map (default: ppm)")
    sub.add_argument(
        "--reference-region", choices=REFERENCES, default="none", help="add a row for this region (default: none)"
    )
    sub.add_argument(
        "--param", nargs="+", default=[], metavar="NAME=VALUE", help="parameters; `qsmprep-step list roi` shows all"
    )
    sub.set_defaults(act=run, method=METHODS.names("roi")[0])


def run(args: argparse.Namespace) -> int:
    """Check the words, then do it.

    Raises
    ------
    UsageError
        For unknown parameters, an output that is no TSV or would replace an input.
    """
    from qsmprep.cli.step import parse_overrides

    args.params = METHODS.get("roi", args.method).configure(parse_overrides(args.param, args.method))
    if args.out.suffix != ".tsv":
        raise UsageError("the result is not named as a table", file=args.out, expected=".tsv")
    labels = None if args.labels is None else Path(args.labels)
    refuse_replacing((args.out, args.out.with_suffix(".json")), (args.chi, args.dseg, args.mask, labels))
    from qsmprep.cli.roi import roi

    print(roi(args))
    return 0
