"""The words of ``qsmprep-step segment``, checked before anything heavy is imported."""

from __future__ import annotations

import argparse
from pathlib import Path

from qsmprep.cli.replacing import refuse_replacing, with_companions
from qsmprep.core.methods import METHODS
from qsmprep.errors import UsageError

FIRST = "first"
"""FSL's program; the other methods are in the registry."""

SIGHTING = "t1wunetr"
"""The network that helps the embedded atlas."""

SUMMARY = "segment deep grey nuclei on a susceptibility map, or on a T1w image alone"

DETAILS = """\
Given --chi and --mask, a network segments caudate, putamen, pallidum and thalamus on the map (unetr). Given --t1w, the
embedded atlas is registered to it (atlas), or FSL FIRST is run (first, needs FSLDIR). A network that sees those nuclei
helps the atlas (t1wunetr); with --chi and --mask beside the T1w image, in its scanner space, the labels are also moved
to the contrast of both.

The labels lie on the grid of the map, or of the T1w image where there is one; left and right are those of its affine.
A table of the labels is written beside them; `qsmprep-step roi` takes both, also for a map on another grid.
"""


def methods() -> tuple[str, ...]:
    """Names of all methods: those on a susceptibility map, then those on a T1w image."""
    return (*METHODS.names("nuclei"), *METHODS.names("segmentation"), FIRST)


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser], epilog: str) -> None:
    """Add the subcommand to the parser of ``qsmprep-step``."""
    sub = commands.add_parser("segment", help=SUMMARY, description=f"{SUMMARY}.\n\n{DETAILS}", epilog=epilog)
    sub.formatter_class = argparse.RawDescriptionHelpFormatter
    sub.add_argument("--chi", type=Path, metavar="NIFTI", help="susceptibility map, any unit")
    sub.add_argument("--mask", type=Path, metavar="NIFTI", help="where the map is defined (not zero)")
    sub.add_argument(
        "--t1w", type=Path, metavar="NIFTI", help="T1w image of the whole head (for atlas also of the brain)"
    )
    sub.add_argument(
        "--brain", type=Path, metavar="NIFTI", help="brain of the T1w image (default: extracted as by `mask`)"
    )
    sub.add_argument(
        "--atlas", type=Path, nargs=2, metavar=("FILE", "LABELS.tsv"), help="another atlas in MNI152 space"
    )
    sub.add_argument("--out", required=True, type=Path, metavar="NIFTI", help="labels, .nii or .nii.gz")
    sub.add_argument(
        "--method", help=f"one of {', '.join(methods())} (default: unetr, or atlas where there is a T1w image)"
    )
    sub.add_argument(
        "--param",
        nargs="+",
        default=[],
        metavar="NAME=VALUE",
        help="parameters; `qsmprep-step list nuclei` and `list segmentation` show all",
    )
    sub.add_argument("--device", default="cpu", metavar="{auto,cpu,cuda[:N]}", help="of the network (default: cpu)")
    sub.set_defaults(act=run)


def run(args: argparse.Namespace) -> int:
    """Check the words, then do it.

    Raises
    ------
    UsageError
        For unknown methods or parameters, images that the method lacks or has no use for, an output that is no NIfTI
        name or would replace an input.
    """
    from qsmprep.cli.step import parse_overrides

    args.method = args.method or ("unetr" if args.t1w is None else "atlas")
    if args.method not in methods():
        raise UsageError(f"there is no segmentation `{args.method}`", expected=f"one of {', '.join(methods())}")
    on_map = args.method in METHODS.names("nuclei")
    _check_images(args, on_map)
    helper = [word for word in args.param if word.startswith(f"{SIGHTING}.")]
    if helper and (args.method != "atlas" or args.atlas):
        raise UsageError(f"`{SIGHTING}` helps the embedded atlas only", remedy="leave its --param out")
    args.sighting = METHODS.get("sighting", SIGHTING).configure(parse_overrides(helper, SIGHTING))
    overrides = parse_overrides([word for word in args.param if word not in helper], args.method)
    if args.method == FIRST:
        if overrides:
            raise UsageError("`first` has no parameters", remedy="leave --param out")
        args.params = None
    else:
        args.params = METHODS.get("nuclei" if on_map else "segmentation", args.method).configure(overrides)
    if not args.out.name.endswith((".nii", ".nii.gz")):
        raise UsageError("the result is not named as a NIfTI file", file=args.out, expected=".nii or .nii.gz")
    refuse_replacing(with_companions(args.out), (args.chi, args.mask, args.t1w, args.brain, *(args.atlas or ())))
    if on_map:
        from qsmprep.cli.segment import segment
    else:
        from qsmprep.cli.segment_t1w import segment

    print(segment(args))
    return 0


def _check_images(args: argparse.Namespace, on_map: bool) -> None:
    """Refuse a call that lacks an image, or has one that the method would not look at."""
    needed = ("chi", "mask") if on_map else ("t1w",)
    lacking = [f"--{name}" for name in needed if getattr(args, name) is None]
    if lacking:
        raise UsageError(f"`{args.method}` needs {' and '.join(f'--{name}' for name in needed)}", expected=lacking[0])
    if (args.chi is None) != (args.mask is None):
        raise UsageError("--chi and --mask go together", expected="--mask" if args.mask is None else "--chi")
    useless = ("t1w", "brain", "atlas") if on_map else ("chi", "brain", "atlas") if args.method == FIRST else ()
    extra = [name for name in useless if getattr(args, name) is not None]
    if extra:
        remedy = "leave it out, or choose another --method"
        raise UsageError(f"`{args.method}` has no use for --{extra[0]}", remedy=remedy)
    if args.atlas is not None and args.chi is not None:
        remedy = "leave --chi and --mask out, or take the embedded atlas"
        raise UsageError("a label map has no probabilities that susceptibility could move", remedy=remedy)
