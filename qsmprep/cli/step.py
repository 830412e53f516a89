"""``qsmprep-step``: one step on single files, without BIDS. Same methods, messages and exit codes as ``qsmprep``."""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from qsmprep.cli import step_cosmos, step_echoes, step_roi, step_segment
from qsmprep.cli.openmp import wait_briefly
from qsmprep.cli.parser import Parser, dashed
from qsmprep.cli.replacing import refuse_replacing, with_companions
from qsmprep.core.methods import METHODS
from qsmprep.errors import QSMPrepError, UsageError
from qsmprep.version import qsmprep_version

UNITS = ("ppm", "hz", "rad")

EPILOG = """\
exit codes: 0 done · 2 usage · 65 bad data · 66 a file is absent · 73 cannot write · 75 out of memory
A file that is there already is replaced, at the end and as a whole. Beside each result stands a JSON file that says
how it was made. Fields and susceptibilities are positive where paramagnetic.
"""


@dataclass(frozen=True)
class File:
    """An option that names a file."""

    flag: str
    help: str
    required: bool = False


@dataclass(frozen=True)
class Command:
    """One subcommand.

    Parameters
    ----------
    name : str
        Its word on the command line.
    step : str
        The step of the registry whose methods it offers.
    summary : str
        For ``--help``.
    runner : str
        ``module:function`` that takes the parsed words; imported only when it runs.
    files : tuple of File
        Inputs and outputs, besides ``--mask`` and ``--out``, which all have.
    groups : tuple of str
        Names of the option groups of :data:`GROUPS` that it takes.
    """

    name: str
    step: str
    summary: str
    runner: str
    files: tuple[File, ...]
    groups: tuple[str, ...]


COMMANDS = (
    Command(
        "background",
        "background",
        "remove the field of sources outside the mask; the result has the unit of the input",
        "qsmprep.cli.single:background",
        (
            File("--field", "total field", required=True),
            File("--weights", "relative reliability of each voxel, 0 to 1"),
            File("--out-mask", "where to write the mask in which the result is valid"),
        ),
        ("optional-units", "geometry"),
    ),
    Command(
        "remainder",
        "remainder",
        "take off a local field what background removal left in it; the result has the unit of the input",
        "qsmprep.cli.single:remainder",
        (
            File("--field", "local field", required=True),
            File("--weights", "relative reliability of each voxel, 0 to 1"),
        ),
        ("units", "geometry"),
    ),
    Command(
        "invert",
        "inversion",
        "compute susceptibility in ppm from a local field",
        "qsmprep.cli.single:invert",
        (
            File(
                "--field",
                "local field less what `qsmprep-step remainder` finds in it (whqsm: as it is; tgv: the total field)",
                required=True,
            ),
            File("--weights", "relative reliability of each voxel, 0 to 1"),
            File("--magnitude", "magnitude image, for methods that look for edges: the networks and medi"),
            File("--csf", "mask of fluid in the ventricles, for medi with csf_weight above 0"),
        ),
        ("units", "geometry", "reference"),
    ),
)


def _add_group(parser: argparse.ArgumentParser, name: str) -> None:
    """The options that several subcommands share."""
    if name == "geometry":
        parser.add_argument(
            "--b0-dir",
            nargs=3,
            type=float,
            metavar=("X", "Y", "Z"),
            help="direction of B0 in the voxel axes (default: from the affine)",
        )
    elif name in ("units", "optional-units"):
        needed = name == "units"
        given = "" if needed else "; only recorded (default: that of the JSON file beside it)"
        parser.add_argument("--units", choices=UNITS, required=needed, help=f"unit of the field{given}")
        parser.add_argument("--b0-t", type=float, metavar="TESLA", help="field strength; needed with hz and rad")
        parser.add_argument("--te-s", type=float, metavar="SECONDS", help="echo time of the phase; needed with rad")
    elif name == "reference":
        names = step_cosmos.references()
        parser.add_argument(
            "--reference", choices=names, default=names[0], help=f"region whose mean is zero (default: {names[0]})"
        )
    else:
        raise ValueError(f"no group of options is called {name!r}")


def build_parser() -> Parser:
    """The parser of all subcommands."""
    parser = Parser(
        prog="qsmprep-step",
        description="One step of quantitative susceptibility mapping on single NIfTI files.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"qsmprep {qsmprep_version()}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="STEP", parser_class=Parser)
    for command in COMMANDS:
        _add_command(commands, command)
    step_echoes.add_commands(commands, EPILOG)
    step_cosmos.add_command(commands, EPILOG)
    step_segment.add_command(commands, EPILOG)
    step_roi.add_command(commands, EPILOG)
    listing = commands.add_parser("list", help="list the methods and their parameters")
    listing.add_argument("step", nargs="?", metavar="STEP", help=f"one of {', '.join(METHODS.steps())}")
    return parser


def _add_command(commands: argparse._SubParsersAction[Parser], command: Command) -> None:
    names = METHODS.names(command.step)
    sub = commands.add_parser(command.name, help=command.summary, description=command.summary, epilog=EPILOG)
    sub.formatter_class = argparse.RawDescriptionHelpFormatter
    for file in command.files:
        sub.add_argument(file.flag, required=file.required, type=Path, metavar="NIFTI", help=file.help)
    sub.add_argument("--mask", required=True, type=Path, metavar="NIFTI", help="voxels to work in (not zero)")
    sub.add_argument("--out", required=True, type=Path, metavar="NIFTI", help="result, .nii or .nii.gz")
    sub.add_argument("--method", default=names[0], help=f"one of {', '.join(names)} (default: {names[0]})")
    sub.add_argument(
        "--param", nargs="+", default=[], metavar="NAME=VALUE", help="parameters; `qsmprep-step list` shows all"
    )
    sub.add_argument("--device", default="cpu", metavar="{auto,cpu,cuda[:N]}", help="default: cpu")
    for group in command.groups:
        _add_group(sub, group)


def parse_overrides(words: Sequence[str], method: str) -> dict[str, str]:
    """``["weight=1e-4"]``, or as in ``qsmprep`` ``["tv.weight=1e-4"]``, to a dict."""
    result = {}
    for word in words:
        name, equals, value = word.partition("=")
        name = name.removeprefix(f"{method}.")
        if not (equals and name and value):
            raise UsageError(f"`--param {word}` is not understood", expected="NAME=VALUE")
        result[name] = value
    return result


def check(args: argparse.Namespace, command: Command) -> None:
    """Find what is wrong with the words before anything heavy is imported.

    Raises
    ------
    UsageError
        For unknown methods or parameters, a missing field strength or echo time, and outputs that
        are no NIfTI names or would replace an input.
    """
    method = METHODS.get(command.step, args.method)
    args.params = method.configure(parse_overrides(args.param, args.method))
    if args.units in ("hz", "rad") and args.b0_t is None and "units" in command.groups:
        raise UsageError(f"a field in {args.units} needs `--b0-t`", expected="the field strength in tesla")
    if args.units == "rad" and args.te_s is None and "units" in command.groups:
        raise UsageError("a field in rad needs `--te-s`", expected="the echo time in seconds")
    if args.b0_t is not None and not 0.01 <= args.b0_t <= 25:
        raise UsageError(f"`--b0-t` is {args.b0_t}", expected="a field strength in tesla, 0.01 to 25")
    if args.te_s is not None and not 0 < args.te_s <= 1:
        raise UsageError(f"`--te-s` is {args.te_s}", expected="an echo time in seconds, for example 0.02")
    outputs = [path for path in (args.out, getattr(args, "out_mask", None)) if path is not None]
    flags = [file.flag.lstrip("-").replace("-", "_") for file in command.files]
    inputs = {getattr(args, flag) for flag in ("mask", *flags) if flag != "out_mask"} - {None}
    for path in outputs:
        if not path.name.endswith((".nii", ".nii.gz")):
            raise UsageError("the result is not named as a NIfTI file", file=path, expected=".nii or .nii.gz")
    refuse_replacing((file for path in outputs for file in with_companions(path)), sorted(inputs))
    if len({path.absolute() for path in outputs}) < len(outputs):
        raise UsageError("`--out` and `--out-mask` are the same file", file=args.out)


def listing(step: str | None) -> str:
    """All methods (of one step) with their parameters, defaults, units and limits, as text.

    Raises
    ------
    UsageError
        When no step is called so.
    """
    if step is not None and step not in METHODS.steps():
        raise UsageError(f"no step is called {step!r}", expected=f"one of {', '.join(METHODS.steps())}")
    lines = []
    for method in METHODS:
        if step not in (None, method.step):
            continue
        default = " (default)" if METHODS.names(method.step)[0] == method.name else ""
        lines.append(f"{method.step} {method.name}{default}: {method.title}")
        for field in dataclasses.fields(method.parameters):
            facts = field.metadata
            unit = f" {facts['unit']}" if facts["unit"] else ""
            choices = f"; one of {', '.join(facts['choices'])}" if facts["choices"] else ""
            lines.append(f"  {method.name}.{field.name}={field.default}{unit}: {facts['meaning']}{choices}")
    return "\n".join(lines)


def run(argv: Sequence[str]) -> int:
    """Parse, check, and run the step.

    Raises
    ------
    QSMPrepError
        As the words or the files deserve.
    """
    args = build_parser().parse_args(dashed(argv))
    if args.command == "list":
        print(listing(args.step))
        return 0
    if "act" in args:
        return int(args.act(args))
    command = next(command for command in COMMANDS if command.name == args.command)
    check(args, command)
    module, function = command.runner.split(":")
    print(getattr(importlib.import_module(module), function)(args))  # numpy and torch come in only here
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code (see ``qsmprep-step --help``)."""
    wait_briefly()
    try:
        return run(sys.argv[1:] if argv is None else argv)
    except QSMPrepError as error:
        print(f"qsmprep-step: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("qsmprep-step: interrupted; nothing was written", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
