"""The words of the ``qsmprep-step`` commands that take echoes, checked before anything heavy is imported."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qsmprep.cli.replacing import refuse_replacing, with_companions
from qsmprep.core.methods import METHODS
from qsmprep.errors import UsageError

MAX_TE_S = 1.0
"""Echo times above this are not seconds."""

ECHOES = """\
Echoes are given as one file each or as one file of four dimensions. Echo times, units of the phase, manufacturer and
field strength are taken from the JSON file beside each image where an option does not say them.
"""


@dataclass(frozen=True)
class Volumes:
    """An option that names images; ``result`` tells those that are written."""

    flag: str
    help: str
    required: bool = False
    result: bool = False

    @property
    def dest(self) -> str:
        """Its attribute among the parsed words."""
        return self.flag.lstrip("-").replace("-", "_")


@dataclass(frozen=True)
class EchoCommand:
    """One subcommand that takes echoes.

    Parameters
    ----------
    name : str
        Its word on the command line, and its function in :mod:`qsmprep.cli.echo_steps`.
    step : str
        The step of the registry whose methods ``--method`` chooses.
    summary, result : str
        For ``--help``: what it does, and what ``--out`` is.
    volumes : tuple of Volumes
        Images besides ``--mask`` and ``--out``.
    mask : str
        ``required``, ``optional`` or empty.
    also : tuple of str
        Further steps, each with an option of its name.
    field : bool
        Whether it has ``--units`` and ``--b0-t``.
    """

    name: str
    step: str
    summary: str
    result: str
    volumes: tuple[Volumes, ...]
    mask: str = "required"
    also: tuple[str, ...] = ()
    field: bool = False


WRAPPED = Volumes("--phase", "wrapped phase of the echoes")
PARTS = (Volumes("--real", "real part of the echoes"), Volumes("--imag", "imaginary part of the echoes"))
MAGNITUDE = Volumes("--magnitude", "magnitude of the echoes")
NEEDED = Volumes("--magnitude", "magnitude of the echoes", required=True)

COMMANDS = (
    EchoCommand(
        "phase",
        "artefacts",
        "phase to radians; alternating slice signs, bipolar readouts and the phase offset are taken out",
        "corrected, wrapped phase in rad",
        (WRAPPED, *PARTS, MAGNITUDE, Volumes("--out-magnitude", "where to write the magnitude", result=True)),
        "optional",
        ("offset",),
    ),
    EchoCommand("unwrap", "unwrap", "unwrap the phase of one or several echoes", "unwrapped phase in rad", (
        Volumes("--phase", "wrapped phase of the echoes", required=True), MAGNITUDE)),
    EchoCommand(
        "fieldmap",
        "combine",
        "one field map from all echoes, with its noise and its residual",
        "total field",
        (
            WRAPPED,
            Volumes("--unwrapped", "unwrapped phase of the echoes, instead of --phase"),
            *PARTS,
            MAGNITUDE,
            Volumes("--out-noise", "where to write the standard deviation of the field, in its unit", result=True),
            Volumes("--out-residual", "where to write the relative residual of the fit", result=True),
            Volumes("--out-weights", "where to write the reliability of each voxel, 0 to 1", result=True),
        ),
        also=("artefacts", "offset", "unwrap"),
        field=True,
    ),
    EchoCommand(
        "mask",
        "mask",
        "extract the brain from the magnitude; with phase, also where the phase can be trusted",
        "brain mask",
        (NEEDED, WRAPPED, Volumes("--out-qsm", "where to write brain times phase quality", result=True)),
        "",
        ("quality", "artefacts", "offset"),
    ),
    EchoCommand(
        "r2star",
        "relaxometry",
        "relaxation from the magnitude of two echoes or more",
        "R2* in 1/s",
        (
            NEEDED,
            Volumes("--out-t2star", "where to write T2* in s", result=True),
            Volumes("--out-s0", "where to write the signal at echo time zero", result=True),
        ),
    ),
    EchoCommand(
        "swi",
        "swi",
        "susceptibility-weighted image from magnitude and phase",
        "susceptibility-weighted image",
        (
            WRAPPED,
            *PARTS,
            MAGNITUDE,
            Volumes("--out-minip", "where to write the minimum-intensity projection", result=True),
        ),
        also=("artefacts",),
    ),
)  # fmt: skip


def add_commands(commands: argparse._SubParsersAction[Any], epilog: str) -> None:
    """Add the subcommands to the parser of ``qsmprep-step``."""
    for command in COMMANDS:
        text = f"{command.summary}.\n\n{ECHOES}"
        sub = commands.add_parser(command.name, help=command.summary, description=text, epilog=epilog)
        sub.formatter_class = argparse.RawDescriptionHelpFormatter
        for volumes in command.volumes:
            many: dict[str, Any] = {} if volumes.result else {"nargs": "+"}
            sub.add_argument(
                volumes.flag, type=Path, required=volumes.required, metavar="NIFTI", help=volumes.help, **many
            )
        if command.mask:
            needed = command.mask == "required"
            sub.add_argument("--mask", required=needed, type=Path, metavar="NIFTI", help="voxels to work in (not zero)")
        sub.add_argument("--out", required=True, type=Path, metavar="NIFTI", help=f"{command.result}, .nii or .nii.gz")
        _add_methods(sub, command)
        _add_facts(sub, command)
        sub.set_defaults(act=run)


def _add_methods(sub: argparse.ArgumentParser, command: EchoCommand) -> None:
    for step, flag in ((command.step, "--method"), *((step, f"--{step}") for step in command.also)):
        names = METHODS.names(step)
        if flag == "--method" or len(names) > 1:
            sub.add_argument(flag, default=names[0], help=f"one of {', '.join(names)} (default: {names[0]})")
    if "offset" in command.also:
        sub.add_argument("--keep-offset", action="store_true", help="leave the phase at echo time zero where it is")
    sub.add_argument(
        "--param", nargs="+", default=[], metavar="NAME=VALUE",
        help="parameters, METHOD.NAME=VALUE for all but that of --method; `qsmprep-step list` shows all",
    )  # fmt: skip


def _add_facts(sub: argparse.ArgumentParser, command: EchoCommand) -> None:
    sub.add_argument("--te-s", nargs="+", type=float, metavar="SECONDS", help="echo times, in the order of the files")
    if any(volumes.flag == "--phase" for volumes in command.volumes):
        sub.add_argument("--phase-units", choices=("rad", "arbitrary"), help="unit of the stored phase")
        sub.add_argument("--manufacturer", metavar="NAME", help="of the scanner, which tells how phase is stored")
        sub.add_argument("--phase-sign", type=int, choices=(1, -1), default=1, help="-1 turns the phase round")
        sub.add_argument("--readout", choices=("monopolar", "bipolar"), help="how the echoes were read out")
    if command.name == "mask":
        sub.add_argument("--device", default="cpu", metavar="{auto,cpu,cuda[:N]}", help="for unetr (default: cpu)")
    if command.field:
        sub.add_argument("--units", choices=("hz", "ppm"), default="hz", help="unit of the field (default: hz)")
        sub.add_argument("--b0-t", type=float, metavar="TESLA", help="field strength; needed with ppm")


def run(args: argparse.Namespace) -> int:
    """Check the words, then do the step.

    Raises
    ------
    QSMPrepError
        As the words or the files deserve.
    """
    command = next(command for command in COMMANDS if command.name == args.command)
    check(args, command)
    print(getattr(importlib.import_module("qsmprep.cli.echo_steps"), command.name)(args))
    return 0


def check(args: argparse.Namespace, command: EchoCommand) -> None:
    """Resolve the methods into ``args.chosen`` and find what is wrong with the words.

    Raises
    ------
    UsageError
        For unknown methods or parameters, images that do not go together, impossible echo times or field
        strengths, and outputs that are no NIfTI names or would replace an input.
    """
    args.chosen = _chosen(args, command)
    given = {v.dest: getattr(args, v.dest) for v in command.volumes if getattr(args, v.dest)}
    _check_volumes(given, command)
    for te_s in args.te_s or ():
        if not 0 < te_s <= MAX_TE_S:
            raise UsageError(f"`--te-s` has {te_s:g}", expected="echo times in seconds, for example 0.005 0.010")
    b0_t = getattr(args, "b0_t", None)
    if b0_t is not None and not 0.01 <= b0_t <= 25:
        raise UsageError(f"`--b0-t` is {b0_t}", expected="a field strength in tesla, 0.01 to 25")
    results = [args.out, *(given[v.dest] for v in command.volumes if v.result and v.dest in given)]
    inputs = [path for v in command.volumes if not v.result for path in given.get(v.dest, ())]
    inputs += [args.mask] if getattr(args, "mask", None) else []
    _check_results(results, inputs)
    args.results, args.inputs = results, inputs


def _chosen(args: argparse.Namespace, command: EchoCommand) -> dict[str, tuple[Any, Any]]:
    """Method and parameters of every step of the command."""
    names = {command.step: args.method}
    names |= {step: getattr(args, step, METHODS.names(step)[0]) for step in command.also}
    methods = {step: METHODS.get(step, name) for step, name in names.items()}
    overrides = split_overrides(args.param, args.method, [name for step, name in names.items() if step != command.step])
    return {step: (method, method.configure(overrides[method.name])) for step, method in methods.items()}


def split_overrides(words: Sequence[str], main: str, others: Sequence[str]) -> dict[str, dict[str, str]]:
    """``["sigma_mm=5", "romeo.individual=true"]`` to parameters by method; without a name they are those of ``main``.

    Raises
    ------
    UsageError
        For words that are no NAME=VALUE.
    """
    result: dict[str, dict[str, str]] = {name: {} for name in (main, *others)}
    for word in words:
        name, equals, value = word.partition("=")
        method, dot, key = name.partition(".")
        if not dot:
            method, key = main, name
        if not (equals and key and value):
            raise UsageError(f"`--param {word}` is not understood", expected="NAME=VALUE")
        if method not in result:
            raise UsageError(f"`--param {word}` is of no method of this step", expected=f"one of {', '.join(result)}")
        result[method][key] = value
    return result


def _check_volumes(given: dict[str, Any], command: EchoCommand) -> None:
    """Phase in one form, real and imaginary together, and what the results need."""
    known = {volumes.dest for volumes in command.volumes}
    forms = [form for form in ("phase", "unwrapped") if form in given]
    forms += ["real and --imag"] if {"real", "imag"} & set(given) else []
    if "real" in known and len(forms) != 1:
        options = ["--phase", *(["--unwrapped"] if "unwrapped" in known else []), "--real with --imag"]
        told = f"{' and '.join(f'`--{form}`' for form in forms)} are given" if forms else "there is no phase"
        raise UsageError(told, expected=f"one of {', '.join(options)}")
    if ("real" in given) != ("imag" in given):
        raise UsageError("`--real` and `--imag` belong together", expected="both, for every echo")
    if "real" in given and "magnitude" in given:
        raise UsageError("the magnitude follows from `--real` and `--imag`", remedy="leave out `--magnitude`")
    if command.name == "mask" and ("phase" in given) != ("out_qsm" in given):
        raise UsageError("`--phase` and `--out-qsm` belong together", expected="both, or neither")
    if command.name == "swi" and not {"real", "magnitude"} & set(given):
        raise UsageError("there is no magnitude", expected="`--magnitude` with `--phase`, or `--real` with `--imag`")


def _check_results(results: list[Path], inputs: list[Path]) -> None:
    for path in results:
        if not path.name.endswith((".nii", ".nii.gz")):
            raise UsageError("the result is not named as a NIfTI file", file=path, expected=".nii or .nii.gz")
    refuse_replacing((file for path in results for file in with_companions(path)), inputs)
    if len({_stem(path) for path in results}) < len(results):
        raise UsageError("two results have one name", file=results[0], remedy="choose different names")


def _stem(path: Path) -> str:
    return str(path.absolute()).removesuffix(".gz").removesuffix(".nii")
