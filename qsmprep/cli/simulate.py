"""``qsmprep-simulate``: whole-head gradient-echo data sets whose truth is known."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from qsmprep.errors import DataError, QSMPrepError, UsageError
from qsmprep.version import qsmprep_version

if TYPE_CHECKING:
    from qsmprep.phantom.dataset import Plan


def build_parser() -> argparse.ArgumentParser:
    """The command line (light: imports nothing heavy)."""
    parser = argparse.ArgumentParser(
        prog="qsmprep-simulate",
        description="Write a BIDS data set of simulated whole heads, with their truth in derivatives/truth.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("out_dir", type=Path, metavar="OUT_DIR", help="folder to make; must be absent or empty")
    parser.add_argument("--subjects", type=int, default=2, metavar="N", help="number of participants")
    parser.add_argument("--seed", type=int, default=0, help="same seed, same files")
    parser.add_argument("--voxel-mm", type=float, nargs=3, default=(2.0, 2.0, 2.0), metavar=("X", "Y", "Z"))
    parser.add_argument("--fov-mm", type=float, nargs=3, default=(172.0, 212.0, 164.0), metavar=("X", "Y", "Z"))
    parser.add_argument("--tilt-deg", type=float, default=0.0, help="tilt of the stack about the scanner's x axis")
    parser.add_argument("--orientation", default="LAS", help="order and direction of the array axes")
    parser.add_argument("--echo-times", type=float, nargs="+", default=(0.006, 0.012, 0.018, 0.024), metavar="S")
    parser.add_argument("--tr", type=float, default=0.032, metavar="S", help="repetition time in s")
    parser.add_argument("--flip-deg", type=float, default=15.0, help="flip angle")
    parser.add_argument("--b0-t", type=float, default=3.0, help="field strength in tesla")
    parser.add_argument("--snr", type=float, default=90.0, help="of white matter at the first echo; inf for no noise")
    parser.add_argument("--shim-order", type=int, default=2, choices=(-1, 0, 1, 2), help="-1 for no shim")
    parser.add_argument("--fine-mm", type=float, default=1.15, help="largest voxel of the simulation")
    parser.add_argument(
        "--anisotropy",
        type=float,
        default=0.0,
        metavar="SHARE",
        help="spread of the field of white matter whose susceptibility depends on direction, which no map explains, "
        "relative to that of the local field",
    )
    parser.add_argument("--suffix", default="MEGRE", choices=("MEGRE", "T2starw"))
    parser.add_argument("--vendor", default="siemens", choices=("siemens", "philips"), help="how phase is stored")
    parser.add_argument("--t1w-mm", type=float, default=1.0, help="voxel size of a T1-weighted image; 0 for none")
    parser.add_argument("--age", type=float, nargs=2, default=(22.0, 78.0), metavar=("LOW", "HIGH"), help="in years")
    parser.add_argument(
        "--group-effect", type=float, default=0.0, help="share of deep grey iron that patients have more"
    )
    parser.add_argument(
        "--effect-in",
        nargs="*",
        default=(),
        metavar="NUCLEUS",
        help="nuclei that have it, such as pallidum; all if none",
    )
    parser.add_argument(
        "--lesions", nargs="*", default=(), choices=("calcification", "haemorrhage"), help="of patients"
    )
    parser.add_argument("--name", default="Simulated gradient-echo heads", help="name of the data set")
    parser.add_argument("--nprocs", type=int, default=1, help="subjects at a time, each about 3 GB")
    parser.add_argument("--device", default="cpu", help="torch device")
    parser.add_argument("--version", action="version", version=f"qsmprep-simulate {qsmprep_version()}")
    return parser


def _plan(options: argparse.Namespace) -> Plan:
    """The data set that the options describe.

    Raises
    ------
    UsageError
        When a value is outside its limits.
    """
    from qsmprep.phantom.dataset import Plan
    from qsmprep.phantom.scan import Protocol

    try:
        protocol = Protocol(
            voxel_mm=tuple(options.voxel_mm),
            fov_mm=tuple(options.fov_mm),
            tilt_deg=options.tilt_deg,
            orientation=options.orientation,
            te_s=tuple(options.echo_times),
            tr_s=options.tr,
            flip_deg=options.flip_deg,
            b0_t=options.b0_t,
            snr=options.snr,
            shim_order=options.shim_order,
            fine_mm=options.fine_mm,
            anisotropy=options.anisotropy,
        )
    except DataError as error:
        raise UsageError(error.what, expected=error.expected) from None
    return Plan(
        protocol,
        n_subjects=options.subjects,
        seed=options.seed,
        suffix=options.suffix,
        vendor=options.vendor,
        t1w_mm=options.t1w_mm,
        group_effect=options.group_effect,
        effect_in=tuple(options.effect_in),
        lesions=tuple(options.lesions),
        age_years=tuple(options.age),
        name=options.name,
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    options = build_parser().parse_args(argv)
    try:
        from qsmprep.phantom.dataset import write_dataset

        plan = _plan(options)
        write_dataset(plan, options.out_dir, n_procs=options.nprocs, device=options.device)
    except QSMPrepError as error:
        print(f"qsmprep-simulate: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
