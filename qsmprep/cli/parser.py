"""The command line of ``qsmprep``: words to one frozen :class:`~qsmprep.settings.Settings`."""

from __future__ import annotations

import argparse
import dataclasses
import json
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from qsmprep.cli.cohort import add_group_options, add_region_options
from qsmprep.cli.config import LEVELS_OF_OUTPUT, PRESETS, check_settings
from qsmprep.core.methods import METHODS
from qsmprep.errors import MissingFileError, UnknownLevelError, UsageError
from qsmprep.settings import NOT_FROM_CONFIG, Settings, parse_memory_gb, usable_cpus, usable_memory_gb
from qsmprep.version import qsmprep_version

LEVELS = ("participant", "group")

EPILOG = """\
exit codes:
  0 done · 1 a step or a report failed (the others finished) · 2 usage · 16 not a BIDS data set
  17 unknown level · 18 nothing matched the selection · 65 bad data · 66 needed files absent
  73 cannot write · 75 out of memory: try again with more
Running again with the same --work-dir resumes; only what depends on a change is done again.
Susceptibility is in ppm; paramagnetic (iron, deoxyhaemoglobin) is positive and bright.
"""


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are :class:`UsageError`."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(message, remedy=f"see `{self.prog} --help`")


def dashed(argv: Sequence[str]) -> list[str]:
    """Accept ``--participant_label`` for ``--participant-label`` and so on."""
    result = []
    for word in argv:
        if word.startswith("--"):
            name, equals, value = word.partition("=")
            word = name.replace("_", "-") + equals + value
        result.append(word)
    return result


def build_parser() -> Parser:
    """The parser; every option left out keeps the default of :class:`Settings`."""
    parser = Parser(
        prog="qsmprep",
        description="Quantitative susceptibility mapping as a BIDS App.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        argument_default=argparse.SUPPRESS,
    )
    parser.add_argument("bids_dir", type=Path, help="BIDS data set")
    parser.add_argument("out_dir", type=Path, help="where the derivatives go")
    parser.add_argument("analysis_level", help="participant, or group (after it: tables and models of the cohort)")
    parser.add_argument("--version", action="version", version=f"qsmprep {qsmprep_version()}")
    _add_selection(parser.add_argument_group("which data"))
    _add_methods(parser.add_argument_group("methods"))
    add_region_options(parser.add_argument_group("regions of interest"))
    _add_resources(parser.add_argument_group("resources"))
    _add_run(parser.add_argument_group("the run"))
    add_group_options(parser.add_argument_group("the group level"))
    return parser


def _add_selection(group: argparse._ArgumentGroup) -> None:
    labels: dict[str, Any] = {"nargs": "+", "metavar": "LABEL"}
    group.add_argument(
        "--participant-label", dest="participants", help="participants, `sub-` may be left out", **labels
    )
    group.add_argument("--session-label", dest="sessions", help="sessions, `ses-` may be left out", **labels)
    group.add_argument("--acquisition-label", dest="acquisitions", help="values of the `acq` entity", **labels)
    group.add_argument(
        "--bids-filter-file",
        type=Path,
        metavar="JSON",
        help="entities for the queries qsm_mag, qsm_phase, qsm_real, qsm_imag, t1w and mask",
    )
    group.add_argument("--skip-bids-validation", action="store_true", help="do without dataset_description.json")
    group.add_argument(
        "-d", "--derivatives", nargs="+", type=Path, metavar="DIR", help="where masks and segmentations are looked for"
    )


def _add_methods(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--preset", choices=tuple(PRESETS), help="methods for children: PedQ-NET, the UNETR mask and "
                       "segmentation, Laplacian unwrapping and V-SHARP, where no other is given")  # fmt: skip
    for step, text in (
        ("mask", "brain extraction"),
        ("unwrap", "phase unwrapping"),
        ("combine", "echo combination"),
        ("relaxometry", "R2* from the magnitude"),
        ("background", "background field removal"),
        ("remainder", "what is done with what background removal leaves, before inversions other than whqsm and tgv"),
        ("reference", "region whose mean is zero"),
    ):
        names = METHODS.names(step)
        group.add_argument(f"--{step}", choices=names, help=f"{text} (default: {names[0]})")
    names = METHODS.names("inversion")
    group.add_argument(
        "--inversion",
        dest="inversions",
        nargs="+",
        choices=names,
        metavar="NAME",
        help=f"dipole inversion, one or several of {', '.join(names)} (default: {names[0]})",
    )
    group.add_argument(
        "--param",
        nargs="+",
        metavar="METHOD.NAME=VALUE",
        help="a parameter of a method, for example vsharp.radius_max_mm=10; `qsmprep-step list` shows all",
    )
    group.add_argument(
        "--swi",
        dest="with_swi",
        action=argparse.BooleanOptionalAction,
        help="susceptibility-weighted image and its minimum-intensity projection (default: at --level full)",
    )
    group.add_argument(
        "--b0", dest="b0_t", type=float, metavar="TESLA", help="field strength, also where sidecars say otherwise"
    )
    group.add_argument(
        "--phase-sign",
        choices=("+1", "1", "-1"),
        help="-1 where the scanner's phase falls with rising field (some GE data); default +1",
    )


def _add_resources(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--nprocs", "--nthreads", "--n-cpus", type=int, help="CPUs in all (default: those usable)")
    group.add_argument("--omp-nthreads", type=int, help="CPUs of one step (default: nprocs, at most 8)")
    group.add_argument("--mem", "--mem-mb", metavar="AMOUNT", help="memory: 16G, 1.5GB, or a bare number of MB")
    group.add_argument("--device", metavar="{auto,cpu,cuda[:N]}", help="where arrays are computed (default: auto)")
    group.add_argument("--use-plugin", type=Path, metavar="YAML", help="Nipype plugin settings")


def _add_run(group: argparse._ArgumentGroup) -> None:
    group.add_argument("-w", "--work-dir", type=Path, help="for intermediate files (default: ./work); keep to resume")
    group.add_argument("--level", choices=LEVELS_OF_OUTPUT, help="what is written (default: full)")
    group.add_argument("--config-file", type=Path, metavar="JSON|TOML", help="settings; the command line comes first")
    group.add_argument("--stop-on-first-crash", action="store_true", help="do not go on with the others")
    group.add_argument("--reports-only", action="store_true", help="write the pages again from the outputs")
    group.add_argument("--boilerplate-only", action="store_true", help="write the methods text only")
    group.add_argument("--write-graph", action="store_true", help="write the graph of the run into the logs")
    group.add_argument("--random-seed", type=int, metavar="N", help="recorded with the results (default: 0)")
    group.add_argument("--notrack", action="store_true", help="accepted; qsmprep never tracks anybody")
    group.add_argument("-v", "--verbose", action="count", help="say more (up to -vv)")


def read_mapping(path: Path, what: str) -> dict[str, Any]:
    """A JSON or TOML file as a dict.

    Raises
    ------
    MissingFileError, UsageError
        When it is not there, or not JSON/TOML with named values at the top.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise MissingFileError(f"the {what} does not exist", file=path) from None
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"the {what} cannot be read ({error})", file=path) from None
    try:
        value = tomllib.loads(text) if path.suffix == ".toml" else json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"the {what} cannot be parsed ({error})", file=path, expected="valid JSON or TOML") from None
    if not isinstance(value, dict):
        raise UsageError(f"the {what} holds no named values", file=path, expected='an object such as {"key": …}')
    return value


def parse_parameters(words: Sequence[str]) -> dict[str, dict[str, str]]:
    """``["tv.weight=1e-4"]`` to ``{"tv": {"weight": "1e-4"}}``."""
    result: dict[str, dict[str, str]] = {}
    for word in words:
        name, equals, value = word.partition("=")
        method, dot, key = name.partition(".")
        if not (equals and dot and method and key):
            raise UsageError(f"`--param {word}` is not understood", expected="METHOD.NAME=VALUE")
        result.setdefault(method, {})[key] = value
    return result


def parse_settings(argv: Sequence[str]) -> Settings:
    """Resolve command line and configuration file into :class:`Settings`.

    Raises
    ------
    UsageError, UnknownLevelError, MissingFileError
        As the words deserve.
    """
    given = vars(build_parser().parse_args(dashed(argv)))
    given.pop("notrack", None)
    values: dict[str, Any] = dict(PRESETS.get(given.pop("preset", ""), {}))
    if "config_file" in given:
        values |= _from_config(given.pop("config_file"))
    words = parse_parameters(given.pop("param", ()))
    if "bids_filter_file" in given:
        values["bids_filters"] = read_mapping(given.pop("bids_filter_file"), "BIDS filter file")
    if "mem" in given:
        values["mem_gb"] = parse_memory_gb(given.pop("mem"))
    if "phase_sign" in given:
        given["phase_sign"] = int(given["phase_sign"])
    values |= given
    stored = values.pop("parameters", {})
    chosen = {name for _, name in _finish(dict(values)).chosen()}
    parameters = {
        name: dict(params) for name, params in stored.items() if name in chosen or not _is_saved(name, params)
    }
    for name, params in words.items():
        parameters.setdefault(name, {}).update(params)
    return _finish({**values, "parameters": parameters})


def _is_saved(name: str, params: dict[str, Any]) -> bool:
    """Whether these are all parameters of a method, as a run saves those of what it chose."""
    methods = [method for method in METHODS if method.name == name]
    return any(set(params) == {field.name for field in dataclasses.fields(method.parameters)} for method in methods)


def _from_config(path: Path) -> dict[str, Any]:
    values = check_settings(read_mapping(path, "configuration file"), path)
    return {name: value for name, value in values.items() if name not in NOT_FROM_CONFIG}


def _finish(values: dict[str, Any]) -> Settings:
    """Fill in what depends on the machine, make paths absolute, check ranges."""
    level = values["analysis_level"]
    if level not in LEVELS:
        raise UnknownLevelError(
            f"the analysis level is {level!r}",
            expected=f"one of {', '.join(LEVELS)}",
        )
    values.setdefault("work_dir", Path("work"))
    for name in ("bids_dir", "out_dir", "work_dir", "use_plugin"):
        if values.get(name) is not None:
            values[name] = Path(values[name]).absolute()
    for name in ("derivatives", "atlas"):
        values[name] = tuple(Path(p).absolute() for p in values.get(name, ()))
    for name, prefix in (("participants", "sub-"), ("sessions", "ses-"), ("acquisitions", "acq-")):
        values[name] = tuple(dict.fromkeys(str(v).removeprefix(prefix) for v in values.get(name, ())))
    if "inversions" in values:
        values["inversions"] = tuple(dict.fromkeys(values["inversions"]))
    values.setdefault("nprocs", usable_cpus())
    values.setdefault("mem_gb", usable_memory_gb())
    values.setdefault("omp_nthreads", min(values["nprocs"], 8))
    for name in ("nprocs", "omp_nthreads"):
        if values[name] < 1:
            raise UsageError(f"`--{name.replace('_', '-')}` is {values[name]}", expected="1 or more")
    if not 0 < values["mem_gb"] < float("inf"):
        raise UsageError(f"the memory is {values['mem_gb']} GB", expected="a positive amount of memory")
    if not values.get("inversions", ("default",)):
        raise UsageError("no inversion is chosen", expected=f"some of {', '.join(METHODS.names('inversion'))}")
    device = values.get("device", "auto")
    if device not in ("auto", "cpu", "cuda") and not (device.startswith("cuda:") and device[5:].isdigit()):
        raise UsageError(f"`--device` is {device!r}", expected="auto, cpu, cuda or cuda:N")
    b0_t = values.get("b0_t")
    if b0_t is not None and not 0.01 <= b0_t <= 25:
        raise UsageError(f"`--b0` is {b0_t}", expected="a field strength in tesla, 0.01 to 25")
    return Settings(**values)
