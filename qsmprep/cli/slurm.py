"""``qsmprep-slurm``: a cohort as an array of SLURM, one participant a task."""

from __future__ import annotations

import argparse
import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from qsmprep.cli.parser import Parser, build_parser, dashed, parse_settings
from qsmprep.errors import MissingFileError, NoMatchError, QSMPrepError, UsageError
from qsmprep.settings import SEPARATING, Settings, parse_memory_gb
from qsmprep.version import qsmprep_version

if TYPE_CHECKING:
    from qsmprep.bids.preflight import Preflight
    from qsmprep.cluster.folder import Plan
    from qsmprep.cluster.plan import Job

EPILOG = """\
All options of `qsmprep` are taken as well and handed on (see `qsmprep --help`); they are checked now, so that a typing
error fails here and not in every job. BIDS_DIR and OUT_DIR come first.

exit codes: those of `qsmprep`; --status answers 1 where somebody failed, else 0.

examples:
  qsmprep-slurm BIDS_DIR OUT_DIR --nprocs 4 --group --submit
  qsmprep-slurm BIDS_DIR OUT_DIR --container qsmprep.sif --gres gpu:1 --inversion conenet --submit
  qsmprep-slurm BIDS_DIR OUT_DIR --sbatch=--partition=long --sbatch=--account=mri --time 4:00:00
  qsmprep-slurm BIDS_DIR OUT_DIR --status
  qsmprep-slurm BIDS_DIR OUT_DIR --unfinished --mem 16G --submit
"""

TIME = re.compile(r"(\d+-\d+(:\d\d){0,2}|\d+(:\d\d){0,2})")
"""Time limits as SLURM takes them."""

NOT_HERE = ("reports_only", "boilerplate_only", "use_plugin")
"""Options of qsmprep that make no sense in an array of jobs."""


def build_slurm_parser() -> Parser:
    """The options of ``qsmprep-slurm`` itself, and those of ``qsmprep`` whose words are not handed on as they are."""
    parser = Parser(
        prog="qsmprep-slurm",
        description="Write (and submit) qsmprep for a cohort as an array job of SLURM, one participant a task.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("bids_dir", type=Path, metavar="BIDS_DIR", help="BIDS data set")
    parser.add_argument("out_dir", type=Path, metavar="OUT_DIR", help="where the derivatives go")
    parser.add_argument("--version", action="version", version=f"qsmprep-slurm {qsmprep_version()}")
    _add_what(parser.add_argument_group("what to do"))
    _add_where(parser.add_argument_group("where and with what"))
    _add_resources(parser.add_argument_group("what each task is given"))
    paths = parser.add_argument_group("options of qsmprep whose paths are made absolute")
    for action in path_actions():
        paths.add_argument(
            *action.option_strings, dest=action.dest, type=Path, nargs=action.nargs, metavar=action.metavar
        )
    return parser


def path_actions() -> list[argparse.Action]:
    """Options of ``qsmprep`` that name files or folders, but for the work folder."""
    return [
        action
        for action in build_parser()._actions
        if action.type is Path and action.option_strings and action.dest != "work_dir"
    ]


def _add_what(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--submit", action="store_true", help="hand the scripts to sbatch")
    group.add_argument("--status", action="store_true", help="say who is done, running, pending or failed, and why")
    group.add_argument("--unfinished", action="store_true", help="leave out who is done, running or pending")
    group.add_argument("--participant-label", nargs="+", default=(), metavar="LABEL", help="these participants only")
    group.add_argument("--group", action="store_true", help="the group level as a further job, after all participants")
    group.add_argument(
        "--group-after",
        choices=("any", "ok"),
        default="any",
        help="any: when all tasks have ended, however; the group level lists who has no table (default). "
        "ok: only if none failed; else the job is removed from the queue",
    )
    group.add_argument("--job-dir", type=Path, help="for scripts, logs and status (default: OUT_DIR/logs/slurm)")


def _add_where(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--container", type=Path, metavar="IMAGE.sif", help="run in this image of Apptainer")
    group.add_argument(
        "--bind", action="append", default=[], metavar="SRC[:DST[:OPTS]]", help="a further folder for the container"
    )
    group.add_argument("--python", type=Path, help="interpreter of the environment of qsmprep (default: this one)")
    group.add_argument(
        "--setup", action="append", default=[], metavar="SHELL", help="a line for the start of the job: 'module load x'"
    )
    group.add_argument(
        "-w", "--work-dir", type=Path, default=Path("work"), help="shared by all nodes; keep to resume (default: work)"
    )
    group.add_argument(
        "--scratch",
        default="",
        metavar="DIR",
        help="work in this folder of the node, e.g. '$SLURM_TMPDIR'; what an interrupted task has done is kept below "
        "--work-dir, where its next try goes on from",
    )


def _add_resources(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--nprocs", "--nthreads", "--n-cpus", type=int, default=2, help="CPUs of a task (default: 2)")
    group.add_argument("--mem", "--mem-mb", metavar="AMOUNT", help="memory of a task (default: from the images' size)")
    group.add_argument(
        "--time", help="limit, as SLURM takes it: minutes, H:M:S or D-H (default: from the images' size)"
    )
    group.add_argument("--gres", default="", metavar="LIST", help="such as gpu:1, for tasks of participants")
    group.add_argument("--max-running", type=int, default=0, metavar="N", help="tasks at a time (default: no limit)")
    group.add_argument(
        "--requeue",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="back into the queue when preempted or when the node fails, to go on from there (default: yes)",
    )
    group.add_argument(
        "--sbatch",
        action="append",
        default=[],
        metavar="=OPTION",
        help="a further option of sbatch, as --sbatch=--qos=x",
    )


def parse(argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """Own options, and the words for ``qsmprep`` with absolute paths.

    Raises
    ------
    UsageError
        When the words make no sense to this command; those for ``qsmprep`` are not looked at.
    """
    parser = build_slurm_parser()
    words = dashed(argv)
    options, rest = parser.parse_known_args(words)
    first = next((n for n, word in enumerate(words) if word.startswith("-") and word in rest), len(words))
    try:
        head, _ = parser.parse_known_args(words[:first])
    except UsageError:
        head = None
    if head is None or (head.bids_dir, head.out_dir) != (options.bids_dir, options.out_dir):
        raise UsageError(
            f"`{words[first]}` comes before the folders", expected="BIDS_DIR and OUT_DIR first, then options of qsmprep"
        )
    if rest[:1] == ["participant"]:
        rest = rest[1:]
    for action in path_actions():
        value = getattr(options, action.dest)
        if value is not None:
            paths = value if isinstance(value, list) else [value]
            rest += [action.option_strings[-1], *(str(path.absolute()) for path in paths)]
    for name in ("bids_dir", "out_dir", "work_dir", "container", "job_dir"):
        if getattr(options, name) is not None:
            setattr(options, name, getattr(options, name).absolute())
    options.job_dir = options.job_dir or options.out_dir / "logs" / "slurm"
    return options, rest


def check(options: argparse.Namespace, rest: Sequence[str]) -> Settings:
    """What ``qsmprep`` will make of the words, which its own parser decides.

    Raises
    ------
    UsageError, MissingFileError
        As ``qsmprep`` would in every job, and for what makes no sense in one.
    """
    known = {name for action in build_parser()._actions for name in action.option_strings}
    for word in rest:
        if word.startswith("--") and word.partition("=")[0] not in known:  # nor abbreviations, which could be of ours
            raise UsageError(f"there is no option `{word}`", remedy="see `qsmprep-slurm --help` and `qsmprep --help`")
    labels = ["--participant-label", *options.participant_label] if options.participant_label else []
    where = [str(options.bids_dir), str(options.out_dir), "participant", "--work-dir", str(options.work_dir)]
    settings = parse_settings([*where, "--nprocs", str(options.nprocs), *labels, *rest])
    for name in NOT_HERE:
        if getattr(settings, name):
            raise UsageError(f"`--{name.replace('_', '-')}` makes no sense in an array of jobs")
    from qsmprep.cluster.script import VARIABLE

    if options.time is not None and not TIME.fullmatch(options.time):
        raise UsageError(f"`--time` is {options.time!r}", expected="minutes, hours:minutes:seconds or days-hours")
    if options.max_running < 0:
        raise UsageError(f"`--max-running` is {options.max_running}", expected="1 or more")
    if settings.device.startswith("cuda") and not options.gres and not any("--gpu" in word for word in options.sbatch):
        raise UsageError("`--device cuda` without a GPU to run on", remedy="ask for one, for example --gres gpu:1")
    if options.gres and settings.device == "cpu":
        raise UsageError("`--gres` asks for what `--device cpu` does not use", remedy="leave one of them out")
    if options.scratch and not options.scratch.startswith("/") and not VARIABLE.fullmatch(options.scratch):
        raise UsageError(f"`--scratch` is {options.scratch!r}", expected="an absolute path or a variable of the node")
    if options.container is not None and not options.container.exists():
        raise MissingFileError("the container image does not exist", file=options.container)
    if options.container is None:
        from qsmprep.networks.card import check_weights

        check_weights(settings)
    return settings


def call_of(options: argparse.Namespace) -> tuple[str, ...]:
    """``qsmprep`` with both folders, as it is called on the node."""
    folders = (str(options.bids_dir), str(options.out_dir))
    if options.container is not None:
        return ("qsmprep", *folders)
    python = (options.python or Path(sys.executable)).absolute()
    if not python.exists():
        raise MissingFileError("the interpreter does not exist", file=python)
    program = python.with_name("qsmprep")
    return (str(program), *folders) if program.exists() else (str(python), "-m", "qsmprep.cli.main", *folders)


def make_job(options: argparse.Namespace, rest: Sequence[str], settings: Settings, found: Preflight) -> Job:
    """The job that the words describe, with what its tasks need."""
    import dataclasses

    from qsmprep.cluster.cost import needs
    from qsmprep.cluster.plan import OTHER_MEMORY, Job, binds_of, check_sbatch, scans_of, time_text

    sbatch = check_sbatch([word for text in options.sbatch for word in shlex.split(text)])
    solved = settings.inversions + ((SEPARATING,) if settings.remainder_from == "remainder" else ())
    registers = settings.template_maps or settings.segmentation in ("atlas", "first")  # FIRST's remedy is the atlas
    estimate = needs(scans_of(found).values(), solved, options.nprocs, segment=registers)
    memory_mb: int | None = estimate.memory_mb
    if options.mem is not None:
        memory_mb = round(1000 * parse_memory_gb(options.mem))
    elif any(word.startswith(OTHER_MEMORY) for word in sbatch):
        memory_mb = None
    job = Job(
        options.bids_dir,
        options.out_dir,
        options.job_dir,
        options.work_dir,
        call_of(options),
        tuple(rest),
        settings.participants,
        options.scratch,
        options.container,
        setup=tuple(options.setup),
        cpus=options.nprocs,
        memory_mb=memory_mb,
        time_limit=options.time or time_text(estimate),
        gres=options.gres,
        max_running=options.max_running,
        requeue=options.requeue,
        sbatch=sbatch,
        group=options.group,
        group_after=options.group_after,
    )
    binds = binds_of(job, settings, options.bind) if options.container is not None else ()
    return dataclasses.replace(job, binds=binds)


def wanted(labels: Sequence[str], options: argparse.Namespace) -> list[str]:
    """Of all participants, those that go into the array.

    Raises
    ------
    UsageError
        When some of them are in the queue already.
    NoMatchError
        When none is left.
    """
    from qsmprep.cluster.status import look

    try:
        fates = {fate.name: fate.state for fate in look(options.job_dir).fates}
    except MissingFileError:
        return list(labels)
    queued = [label for label in labels if fates.get(f"sub-{label}") in ("running", "pending")]
    if options.unfinished:
        left = [label for label in labels if label not in queued and fates.get(f"sub-{label}") != "done"]
        if not left:
            raise NoMatchError("nobody is left: all are done, running or pending", remedy="see --status")
        return left
    if queued and options.submit:
        raise UsageError(
            f"in the queue already: {', '.join('sub-' + label for label in queued[:8])}"
            f"{f' and {len(queued) - 8} more' if len(queued) > 8 else ''}",
            remedy="leave them out with --unfinished, or cancel them first (scancel)",
        )
    return list(labels)


def submit(plan: Plan, job: Job) -> Plan:
    """Hand all scripts to sbatch; what was submitted is written down after each, so that it is never forgotten."""
    import dataclasses

    from qsmprep.cluster import slurm

    for script in plan.scripts:
        number = slurm.submit(script)
        plan = dataclasses.replace(plan, jobs=(*plan.jobs, number))
        plan.save()
        print(f"Submitted array {number}: {len(plan.arrays[len(plan.jobs) - 1])} participant(s)")
    if plan.group:
        after = f"after{job.group_after}:{':'.join(plan.jobs)}"
        number = slurm.submit(plan.group_script, after=after, kill_invalid=job.group_after == "ok")
        plan = dataclasses.replace(plan, group_job=number)
        plan.save()
        print(f"Submitted group level {number}: {after}")
    return plan


def tell(plan: Plan, job: Job, labels: Sequence[str]) -> None:
    """Say what was written and how it is submitted."""
    memory = f"{job.memory_mb} MB" if job.memory_mb else "memory as --sbatch says"
    print(f"Each of {len(labels)} task(s): {job.cpus} CPU(s), {memory}, at most {job.time_limit}")
    for script in (*plan.scripts, *([plan.group_script] if plan.group else [])):
        print(f"Script: {script}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    try:
        options, rest = parse(sys.argv[1:] if argv is None else argv)
        if options.status:
            from qsmprep.cluster.status import look, render

            report = look(options.job_dir)
            print(render(report, options.job_dir))
            return report.exit_code
        settings = check(options, rest)
        from qsmprep.bids.dataset import check_output_dir
        from qsmprep.cluster.folder import write_plan
        from qsmprep.cluster.plan import scans_of
        from qsmprep.workflows.run import look_at_data

        check_output_dir(settings.bids_dir, settings.out_dir, settings.work_dir)
        found = look_at_data(settings)
        labels = wanted(list(scans_of(found)), options)
        job = make_job(options, rest, settings, found)
        plan = write_plan(job, labels)
        tell(plan, job, labels)
        if options.submit:
            submit(plan, job)
        else:
            print("Nothing is submitted: look at the scripts, then give the same command with --submit")
        return 0
    except QSMPrepError as error:
        print(f"qsmprep-slurm: {error}", file=sys.stderr)
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
