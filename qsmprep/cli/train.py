"""``qsmprep-train``: train a network on synthetic heads, on a CPU or a GPU."""

from __future__ import annotations

import argparse
import math
import os
import shlex
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from qsmprep.cli.openmp import wait_briefly
from qsmprep.errors import CannotWriteError, OutOfMemoryError, QSMPrepError, UsageError
from qsmprep.version import qsmprep_version
from qsmprep.workflows.progress import TerminalBar

if TYPE_CHECKING:
    from qsmprep.training.config import TrainParams
    from qsmprep.training.loop import State

NETWORKS = (
    "conenet", "loopnet", "metaqsm", "qsminvnet", "pedqnet", "brainmask", "subcortical",
    "subcortical_t1w", "unet", "mesaqsm", "qsminvnet1", "nnunet",
)  # fmt: skip
"""Those of ``networks/zoo.py``, named here because that needs torch."""

EPILOG = """\
The checkpoint, the log (log.csv) and a record of what was done (run.json) stand in --out. The same command goes on
from the checkpoint: runs of limited time (--minutes) can be chained. Ctrl-C ends after the step with a checkpoint
and exports nothing; the same command with --export DIR --minutes 0 takes no step and exports the checkpoint.

exit codes: 0 done, or time is up · 1 diverged · 2 usage · 65 bad data · 66 a file is absent · 73 cannot write ·
  75 out of memory · 130 interrupted (Ctrl-C) · 143 terminated"""


def build_parser() -> argparse.ArgumentParser:
    """The command line (light: imports nothing heavy)."""
    parser = argparse.ArgumentParser(
        prog="qsmprep-train",
        description="Train a network on synthetic heads that are made while it trains.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("network", metavar="NAME", help=f"network: {', '.join(NETWORKS)}")
    add("--config", type=Path, metavar="FILE", help="recipe, a YAML file or the name of a shipped one "
        "(default: NAME_cpu, or NAME_h200 with CUDA)")  # fmt: skip
    add("--labels", type=Path, metavar="DIR", help="folder of label maps with FreeSurfer codes (default: "
        "../shared/data/head-labels where that exists, else random shapes only)")  # fmt: skip
    add("--chi", type=Path, nargs="+", default=[], metavar="FILE", help="susceptibility maps in ppm, zero outside "
        "the brain, to train on as well")  # fmt: skip
    add("--out", type=Path, metavar="DIR", help="folder of checkpoint and log (default: training/NAME)")
    add("--steps", type=int, metavar="N", help="optimiser steps in all (default: the recipe's)")
    add("--minutes", type=float, default=math.inf, metavar="M", help="stop after so many from the start of the "
        "command, without those of making scans, with a checkpoint, though not before a step (0: no step)")  # fmt: skip
    add("--finish", action="store_true", help="bring the learning rate down by the end of --minutes, whatever step "
        "that is")  # fmt: skip
    add("--device", default="auto", metavar="DEVICE", help="auto, cpu, cuda or cuda:N (default: auto)")
    add("--seed", type=int, metavar="N", help="of weights and samples (default: the recipe's)")
    add("--threads", type=int, metavar="N", help="CPU threads (default: torch's choice)")
    add("--export", type=Path, metavar="DIR", help="then write DIR/NAME.safetensors and its card, DIR/NAME.json "
        "(with --minutes 0: of the checkpoint as it is)")  # fmt: skip
    add("--export-name", metavar="WORD", help="name of these files instead of NAME")
    add("--half", action=argparse.BooleanOptionalAction, default=True, help="export in half precision (default: yes)")
    add("--description", metavar="TEXT", help="a remark for the card, for example on the hardware")
    add("--version", action="version", version=f"qsmprep-train {qsmprep_version()}")
    return parser


def check(args: argparse.Namespace) -> None:
    """Find what is wrong with the words before anything heavy is imported.

    Raises
    ------
    UsageError
        For an unknown network or a number outside its limits.
    """
    if args.network not in NETWORKS:
        raise UsageError(f"no network is called {args.network!r}", expected=f"one of {', '.join(NETWORKS)}")
    limits = (("steps", 1, 10**8), ("threads", 1, 4096), ("seed", 0, 2**62))
    for name, low, high in limits:
        value = getattr(args, name)
        if value is not None and not low <= value <= high:
            raise UsageError(f"`--{name}` is {value}", expected=f"a whole number from {low} to {high}")
    if args.export_name and not args.export_name.replace("-", "").replace("_", "").isalnum():
        raise UsageError(f"`--export-name` is {args.export_name!r}", expected="letters, digits, - and _")
    if args.finish and not math.isfinite(args.minutes):
        raise UsageError("`--finish` says to be done in time, but no time is given", expected="--minutes M beside it")
    if not args.minutes >= 0:
        raise UsageError(f"`--minutes` is {args.minutes}", expected="a number, not below 0")


class Interrupt:
    """Turns the first Ctrl-C or SIGTERM into a wish to stop after the step; a second one ends at once."""

    def __init__(self, what: str = "this step, with a checkpoint") -> None:
        self.code, self.what = 0, what

    def __enter__(self) -> Interrupt:
        self.before = {number: signal.signal(number, self.note) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def note(self, number: int, frame: FrameType | None) -> None:
        """The handler."""
        self.code = 128 + number
        for one, handler in self.before.items():
            signal.signal(one, handler)
        os.write(2, f"\nqsmprep-train: stopping after {self.what}\n".encode())


class Progress(TerminalBar):
    """A progress bar, or a line every few seconds where nobody watches.

    Parameters
    ----------
    steps : int
        In all.
    minutes : float
        Time that may be used.
    since : float
        From when it counts.
    every_s : float
        Seconds between lines.
    """

    def __init__(self, steps: int, minutes: float, since: float, every_s: float = 10.0) -> None:
        self.steps, self.minutes, self.since, self.every_s = steps, minutes, since, every_s
        self.begun, self.spoke = time.monotonic(), -math.inf
        self.done, self.loss, self.validation = 0, math.nan, math.nan
        super().__init__(steps, "step")

    def words(self, step: int) -> str:
        """Loss, validation and time left."""
        now = time.monotonic()
        rest = (self.steps - step) * (now - self.begun) / max(1, self.done)
        left = min(rest, 60 * self.minutes - (now - self.since))
        parts = [f"loss {self.loss:.3f}"]
        if not math.isnan(self.validation):
            parts.append(f"validation {self.validation:.3f}")
        parts.append(f"{left / 60:.1f} min left" if left > 0 else "done")
        return "  ".join(parts)

    def __call__(self, step: int, row: dict[str, float]) -> None:
        """Take in the row of the log of a step."""
        self.done += 1
        loss = row["loss"]
        self.loss = loss if math.isnan(self.loss) else 0.95 * self.loss + 0.05 * loss
        self.validation = row.get("error_validation", self.validation)
        if self.bar is not None:
            self.bar.update(self.task, completed=step, description=self.words(step))
            return
        if time.monotonic() - self.spoke > self.every_s or "error_validation" in row or step == self.steps:
            print(f"step {step}/{self.steps}  {self.words(step)}", flush=True)
            self.spoke = time.monotonic()


def learn(args: argparse.Namespace, command: Sequence[str], since: float) -> int:
    """Gather, train, export; the exit code. The time that may be used began at ``since``.

    Raises
    ------
    QSMPrepError
        As the words or the files deserve.
    """
    import torch

    from qsmprep.core.device import resolve_device
    from qsmprep.training import material, record
    from qsmprep.training.config import read_params
    from qsmprep.training.loop import CHECKPOINT, resume, train
    from qsmprep.training.recipes import find_recipe
    from qsmprep.training.tasks import task_of

    device = resolve_device(args.device)
    if args.threads:
        torch.set_num_threads(args.threads)
    recipe = find_recipe(args.config, args.network, device)
    overrides = {key: getattr(args, key) for key in ("steps", "seed") if getattr(args, key) is not None}
    params = read_params(recipe, args.network, overrides)
    labels = args.labels
    if labels is None and material.NEARBY.is_dir():
        labels = material.NEARBY
        print(f"label maps: {labels}")
    task = task_of(args.network)
    heads = task.heads or params.scans.count > 0
    found = material.gather(labels, args.chi, params.hold_out, device, heads=heads, patches=task.patches,
                            load=args.minutes > 0)  # fmt: skip
    out = args.out or Path("training", args.network)
    opened = record.open_record(out, command, recipe, found, device, (params.start, params.segmenter))
    make_folder(out)
    if args.minutes > 0 and params.scans.count:
        if (out / CHECKPOINT).exists():
            resume(out / CHECKPOINT, params, device)  # refuses one that does not fit before any scan is made
        with Interrupt("this scan of a head") as interrupt:
            begun = time.monotonic()
            found = material.with_scans(found, params, out, stop=lambda: interrupt.code > 0, report=tell_scan)
            since += time.monotonic() - begun
        if interrupt.code:
            print("qsmprep-train: interrupted; the same command goes on with the scans", file=sys.stderr)
            return interrupt.code
    print(f"{args.network} by {recipe.name}: {found.sentence}", flush=True)
    if not (out / "checkpoint.pt").exists():
        record.write_record(out, opened)
    fastest = torch.backends.cudnn.flags(enabled=True, benchmark=True)
    with Interrupt() as interrupt, Progress(params.steps, args.minutes, since) as progress, fastest:
        state = train(params, found.sources, found.held, out, device=device, minutes=args.minutes, finish=args.finish,
                      since=since, report=progress, stop=lambda: interrupt.code > 0)  # fmt: skip
    record.write_record(out, opened)
    if interrupt.code:
        print(f"qsmprep-train: interrupted at step {state.step} of {params.steps}; the same command goes on from "
              f"{out / 'checkpoint.pt'}", file=sys.stderr)  # fmt: skip
        if args.export is not None and state.step:
            print(f"qsmprep-train: nothing was exported; to export what was trained so far: "
                  f"{shlex.join([*command, '--minutes', '0'])}", file=sys.stderr)  # fmt: skip
        return interrupt.code
    if state.step < params.steps:
        print(f"time is up at step {state.step} of {params.steps}; the same command goes on")
    if args.export is not None:
        export(args, params, state, opened, out)
    return 0


def tell_scan(done: int, count: int) -> None:
    """Say how many scans there are."""
    if done == count or done % 10 == 0:
        print(f"{done} of {count} scans of heads", flush=True)


def export(args: argparse.Namespace, params: TrainParams, state: State, record: dict[str, object], out: Path) -> None:
    """Write the weights and their card, and say so."""
    from qsmprep.training.export import export_weights

    path = export_weights(params, state, record, out, args.export, name=args.export_name or "", half=args.half,
                          description=args.description)  # fmt: skip
    print(f"wrote {path} and its card")


def make_folder(out: Path) -> None:
    """Make the folder of a training.

    Raises
    ------
    CannotWriteError
        When that is not possible.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        raise CannotWriteError(f"the folder cannot be made ({problem.strerror})", file=out) from None


def run(argv: Sequence[str]) -> int:
    """Parse, check and train; system errors become those of the exception tree."""
    since = time.monotonic()
    args = build_parser().parse_args(argv)
    check(args)
    try:
        return learn(args, ["qsmprep-train", *argv], since)
    except (MemoryError, RuntimeError) as problem:
        from qsmprep.core.device import is_out_of_memory

        if is_out_of_memory(problem):
            raise OutOfMemoryError(
                "there is not enough memory", remedy="lower `batch` or `patches` in the recipe, or run with more memory"
            ) from problem
        raise
    except OSError as problem:
        raise CannotWriteError(f"writing failed ({problem.strerror})", file=problem.filename or args.out) from problem


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code (see ``qsmprep-train --help``)."""
    wait_briefly()
    try:
        return run(sys.argv[1:] if argv is None else argv)
    except QSMPrepError as error:
        print(f"qsmprep-train: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("qsmprep-train: interrupted; what was trained up to the last checkpoint is kept", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
