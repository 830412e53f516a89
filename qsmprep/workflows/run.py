"""One run: look at the data, compute, write the pages, count what failed."""

from __future__ import annotations

import datetime
import gc
import shutil
import sys
import uuid
from collections import Counter
from importlib import import_module
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING

from qsmprep.bids.collect import Selection
from qsmprep.bids.dataset import check_output_dir, version_warning, write_dataset_files
from qsmprep.bids.headers import read_header
from qsmprep.bids.leftovers import remove_leftovers
from qsmprep.bids.preflight import Preflight, preflight
from qsmprep.bids.table import render_table
from qsmprep.bids.write import write_text
from qsmprep.core.grid import Grid
from qsmprep.errors import CannotWriteError, MissingFileError
from qsmprep.networks.card import check_weights
from qsmprep.settings import Settings
from qsmprep.version import qsmprep_version
from qsmprep.workflows.server import start_server

if TYPE_CHECKING:
    from qsmprep.workflows.pages import Result


def run(settings: Settings) -> int:
    """Do what the settings say and return the exit code.

    Raises
    ------
    QSMPrepError
        When nothing can be done at all: before any work, nothing is written then.
    """
    if settings.reports_only:
        from qsmprep.workflows.pages import rewrite_pages

        return rewrite_pages(settings)
    check_output_dir(settings.bids_dir, settings.out_dir, settings.work_dir)
    _check_machine(settings)
    found = look_at_data(settings)
    log_dir = _start_logs(settings, found)
    return _compute(settings, found, log_dir)


def look_at_data(settings: Settings) -> Preflight:
    """What can be processed; its table is printed.

    Raises
    ------
    QSMPrepError
        When there is nothing to do, with the code that it deserves.
    """
    selection = Selection(settings.participants, settings.sessions, settings.acquisitions, settings.bids_filters)
    found = preflight(
        settings.bids_dir,
        selection,
        b0_t_override=settings.b0_t,
        derivatives=settings.derivatives,
        require_description=not settings.skip_bids_validation,
    )
    print(render_table(found), flush=True)
    found.raise_if_nothing_to_do()
    return found


def _check_machine(settings: Settings) -> None:
    """Refuse a device, a plugin, a program or trained weights that are not there before any work."""
    if settings.mask == "fsl" and shutil.which("bet") is None:
        raise MissingFileError("FSL's `bet` is not on the PATH", remedy="install FSL and load it, or use --mask bet")
    check_weights(settings)
    if settings.device.startswith("cuda"):
        from qsmprep.core.device import resolve_device

        resolve_device(settings.device)
    if settings.use_plugin is not None:
        from qsmprep.workflows.engine import plugin_settings

        plugin_settings(settings.use_plugin)


def _start_logs(settings: Settings, found: Preflight) -> Path:
    """Write the data set's own files and this run's log folder, and return the latter."""
    stamp = datetime.datetime.now(tz=datetime.UTC).strftime("%Y%m%dT%H%M%SZ")
    log_dir = settings.out_dir / "logs" / f"{stamp}_{uuid.uuid4().hex[:8]}"
    try:
        log_dir.mkdir(parents=True)
        settings.work_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CannotWriteError(f"the folder cannot be made ({error.strerror})", file=log_dir) from error
    warnings = [version_warning(settings.out_dir, qsmprep_version())]
    warnings += [f"parameters of `{name}` were given, which does not run here" for name in settings.idle_parameters]
    for warning in filter(None, warnings):
        print(f"warning: {warning}", file=sys.stderr)
    names = {f"deriv{number}": path for number, path in enumerate(settings.derivatives)}
    write_dataset_files(settings.out_dir, settings.bids_dir, version=qsmprep_version(), derivatives=names)
    subjects = sorted({verdict.subject for verdict in found.verdicts})
    remove_leftovers(settings.out_dir, subjects, all_logs=not settings.participants)
    write_text(settings.to_json(), log_dir / "settings.json")
    write_text(render_table(found) + "\n", log_dir / "preflight.txt")
    print(f"Settings: {log_dir / 'settings.json'}", flush=True)
    return log_dir


def _compute(settings: Settings, found: Preflight, log_dir: Path) -> int:
    if settings.nprocs > 1 and settings.use_plugin is None and not settings.boilerplate_only:
        start_server()
    from qsmprep.workflows import engine
    from qsmprep.workflows.base import init_qsmprep_wf, write_graph
    from qsmprep.workflows.boilerplate import write_boilerplate
    from qsmprep.workflows.progress import Progress
    from qsmprep.workflows.regions import plan_segmentations

    found = plan_segmentations(found, settings)
    headers = {a.key: read_header(a.files[0]) for a in found.acquisitions}
    grids = {key: Grid.from_affine(header.shape, header.affine) for key, header in headers.items()}
    units = [(a, grids[a.key]) for a in found.acquisitions]
    engine.configure_nipype(settings, log_dir)
    workflow = init_qsmprep_wf(units, settings, {v.key: v.segmentations for v in found.verdicts})
    write_boilerplate(workflow.visit_desc(), settings.out_dir / "logs", log_dir)
    if settings.write_graph:
        write_graph(workflow, log_dir)
    if settings.boilerplate_only:
        print(f"Methods text: {log_dir / 'CITATION.md'}")
        return 0
    Thread(target=_import_pages).start()
    with Progress(f"{workflow.name}.{name}" for name in workflow.list_node_names()) as progress:
        outcome = engine.execute(workflow, settings, progress.tell)
    from qsmprep.workflows import pages

    results = pages.write_pages(settings, found, grids, outcome, log_dir)
    return summarise(results, found, outcome.out_of_memory)


def _import_pages() -> None:
    """Import, while the steps run, what is heavy and needed at the end only; garbage is not looked for in it."""
    import_module("qsmprep.workflows.pages")
    gc.freeze()


def summarise(results: list[Result], found: Preflight, out_of_memory: bool) -> int:
    """Print what became of every acquisition and return the exit code."""
    codes: list[int] = []
    done = 0
    for result in results:
        for warning in result.warnings:
            print(f"qsmprep: {result.key}: warning: {warning}", file=sys.stderr)
        for error in result.errors:
            print(f"qsmprep: {result.key}: {error.step}: {error.message}", file=sys.stderr)
        codes.extend(error.exit_code for error in result.errors)
        done += not result.errors
    for verdict in found.verdicts:
        counts = Counter(problem.what for problem in verdict.problems)
        for problem in {problem.what: problem for problem in reversed(verdict.problems)}.values():
            more = f" The same holds for {counts[problem.what] - 1} more." if counts[problem.what] > 1 else ""
            print(f"qsmprep: {verdict.key}: {problem}{more}", file=sys.stderr)
            codes.append(problem.exit_code)
    for page in sorted({result.page for result in results if result.page}):
        print(f"Report: {page}")
    return exit_code(done, codes, out_of_memory)


def exit_code(done: int, codes: list[int], out_of_memory: bool = False) -> int:
    """The one place where the exit code of a run is decided.

    Parameters
    ----------
    done : int
        Acquisitions that finished without an error.
    codes : list of int
        Exit codes of all errors.
    out_of_memory : bool
        Whether a worker was killed.

    Returns
    -------
    int
        0 without errors; 75 when memory ran out; the errors' own code when nothing finished and
        they all agree; else 1.
    """
    if out_of_memory:
        return 75
    if not codes:
        return 0
    if done == 0 and len(set(codes)) == 1:
        return codes[0]
    return 75 if 75 in codes else 1
