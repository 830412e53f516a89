"""Running a graph: which plugin, who failed and why, and never a hang."""

from __future__ import annotations

import errno
import gc
import json
import logging
import os
import platform
import signal
import threading
import time
import traceback
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from nipype import config
from nipype.pipeline.engine import MapNode, Workflow
from nipype.pipeline.plugins.linear import LinearPlugin
from nipype.pipeline.plugins.multiproc import MultiProcPlugin

from qsmprep.bids.write import cannot_write
from qsmprep.errors import OutOfMemoryError, QSMPrepError, UsageError
from qsmprep.interfaces.usage import read_seconds
from qsmprep.settings import Settings
from qsmprep.workflows.dependencies import Dependencies
from qsmprep.workflows.server import answering, start_server

LOOK_AT_LEAST_EVERY_S = 1.0
"""Should the news of the end of a step ever be lost, it is found after so long."""

NIPYPE_LOGGERS = ("nipype.workflow", "nipype.interface", "nipype.utils", "nipype.filemanip")


@dataclass
class StepState:
    """What became of one node."""

    name: str
    status: str = "waiting"
    started: float = 0.0
    seconds: float = 0.0
    folder: Path | None = None
    killed: bool = False


@dataclass
class Outcome:
    """What became of a graph."""

    steps: dict[str, StepState] = field(default_factory=dict)
    out_of_memory: bool = False

    def failed(self) -> list[StepState]:
        """Nodes that crashed."""
        return [step for step in self.steps.values() if step.status == "exception"]


def quiet_nipype(level: int) -> None:
    """Set the level of Nipype's loggers in this process."""
    for name in NIPYPE_LOGGERS:
        logging.getLogger(name).setLevel(level)


def _start_worker(cwd: Path, level: int) -> None:
    gc.freeze()  # what was imported stays: looking for garbage after every step need not go through it
    os.chdir(cwd)
    quiet_nipype(level)


class WatchedMultiProc(MultiProcPlugin):
    """MultiProc with workers forked from a clean server, that ends when a worker is killed.

    Nipype's own plugin waits for ever when the kernel kills a worker for its memory
    (the exception is dropped in a callback); this one turns that into an error.
    """

    def __init__(self, plugin_args: dict[str, Any] | None = None) -> None:
        args = dict(plugin_args or {})
        level = args.pop("log_level", logging.CRITICAL)
        self.ahead = args.pop("ahead", False)
        super().__init__(plugin_args={**args, "mp_context": "forkserver"})
        self.pool.shutdown(wait=False)
        self.level = level
        self.pool = self._new_pool(self.processors)
        self.alone: list[Any] = []
        self.killed = False
        self.signals: list[int] = []
        self.starting = False
        self.news = threading.Event()

    def _new_pool(self, n: int) -> ProcessPoolExecutor:
        start = {"initializer": _start_worker, "initargs": (Path.cwd(), self.level)}
        return ProcessPoolExecutor(max_workers=n, mp_context=start_server(), **start)

    def _generate_dependency_list(self, graph: Any) -> None:
        super()._generate_dependency_list(graph)
        if not any(isinstance(node, MapNode) for node in self.procs):
            self.depidx = Dependencies(self.depidx)
        # the one slot of a GPU would be taken later: what is sent ahead instead goes before the next such step
        self.ahead = self.ahead and not any(node.is_gpu_node() for node in self.procs)

    def _send_procs_to_workers(self, updatehash: bool = False, graph: Any = None) -> None:
        """Give out what can be run, then wait for the next step to end instead of asking a hundred times a second."""
        before = self._finished(), len(self.pending_tasks)
        super()._send_procs_to_workers(updatehash, graph)
        # else what was found done may have made others ready, or one more may be sent ahead
        if (self._finished(), len(self.pending_tasks)) == before:
            self.news.wait(LOOK_AT_LEAST_EVERY_S if self.pending_tasks else 0.01)
        self.news.clear()  # before results are looked at: one that comes meanwhile is not missed

    def _check_resources(self, running_tasks: Any) -> Any:
        """What is free; with a step in every process, one more may be sent, which the first free process takes."""
        memory_gb, processors, gpus = super()._check_resources(running_tasks)
        ahead = self.ahead and processors == 0 and len(running_tasks) == self.processors
        # a step apart leaves a process of the pool free: what is sent would not wait
        ahead = ahead and not any(_is_apart(self.procs[jobid]) for _, jobid in running_tasks)
        return memory_gb, 1 if ahead else processors, gpus

    def _sort_jobs(self, jobids: Any, scheduler: str | None = "tsort") -> Any:
        """The steps that can be run; none apart where one is sent ahead, since it would not wait for a process."""
        jobs = super()._sort_jobs(jobids, scheduler=scheduler)
        full = len(self.pending_tasks) >= self.processors
        return [job for job in jobs if not _is_apart(self.procs[job])] if full else jobs

    def _finished(self) -> int:
        return int(np.count_nonzero(self.proc_done & ~self.proc_pending))

    def _async_callback(self, args: Any) -> None:
        try:
            self._take_result(args)
        finally:
            self.news.set()

    def _take_result(self, args: Any) -> None:
        if args.cancelled():
            return
        error = args.exception()
        if error is None:
            super()._async_callback(args)
        elif isinstance(error, BrokenProcessPool):
            self.killed = True

    def _get_result(self, taskid: int) -> Any:
        result = super()._get_result(taskid)
        future = self._task_obj[taskid]
        error = future.exception() if result is None and future.done() else None
        if result is None and (self.killed or isinstance(error, BrokenProcessPool)):
            raise self._worker_was_killed()
        if error is not None:
            lines = traceback.format_exception(error)
            return {"result": None, "traceback": lines, "hostname": platform.node(), "taskid": taskid}
        return result

    def _submit_job(self, node: Any, updatehash: bool = False) -> Any:
        for mark in _marks(Path(node.output_dir())):  # of a run that was killed: it would be taken for one of this
            with suppress(OSError):
                mark.unlink()
        self.starting = True  # a signal now would leave a process behind that nobody knows of yet
        try:
            send = self._submit_alone if _is_apart(node) else super()._submit_job
            taskid = send(node, updatehash)
        except BrokenProcessPool:
            raise self._worker_was_killed() from None
        finally:
            self.starting = False
        if self.signals:
            raise Interrupted(self.signals[0])
        return taskid

    def _submit_alone(self, node: Any, updatehash: bool) -> Any:
        """Give a step a process that ends with it, and takes along what only such steps import."""
        many, self.pool = self.pool, self._new_pool(1)
        try:
            taskid = super()._submit_job(node, updatehash)
            self.alone = [process for process in self.alone if process.is_alive()]
            self.alone += (self.pool._processes or {}).values()
            return taskid
        finally:
            self.pool.shutdown(wait=False)  # after that step
            self.pool = many

    def _worker_was_killed(self) -> OutOfMemoryError:
        self.killed = True
        return OutOfMemoryError("a worker process was killed, most likely for its memory")

    def end(self, wait: bool) -> None:
        """Let the steps that run come to their end, unless a worker was killed; then all are."""
        if self.killed:
            self.stop()
            return
        self.pool.shutdown(wait=wait, cancel_futures=True)
        for process in self.alone if wait else ():
            process.join()

    def stop(self) -> None:
        """End the workers without waiting for the steps they are at."""
        processes = [*(self.pool._processes or {}).values(), *self.alone]
        self.pool.shutdown(wait=False, cancel_futures=True)
        for process in processes:
            process.kill()


def _is_apart(node: Any) -> bool:
    """Whether a step is to have a process of its own."""
    return bool(getattr(node.interface, "apart", False))


class Interrupted(KeyboardInterrupt):
    """SIGINT or SIGTERM came while the graph ran."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.exit_code = 128 + number


def configure_nipype(settings: Settings, log_dir: Path) -> None:
    """Put the execution settings of a run into Nipype's configuration."""
    config.update_config(
        {
            "execution": {
                "crashfile_format": "txt",
                "hash_method": "content",
                "stop_on_first_crash": str(settings.stop_on_first_crash).lower(),
                "poll_sleep_duration": "0.01" if settings.use_plugin else "0",  # ours waits for news itself
                "remove_unnecessary_outputs": "false",
                "check_version": "false",
                "create_report": "false",
            }
        }
    )
    # not by `update_config`: that refuses a path with a per cent sign, and nodes read it from here as it is
    config._sections["execution"]["crashdump_dir"] = str(log_dir)
    quiet_nipype(log_level(settings))


def log_level(settings: Settings) -> int:
    """Nipype's own messages only appear with ``-vv``."""
    return logging.INFO if settings.verbose > 1 else logging.CRITICAL


def execute(workflow: Workflow, settings: Settings, tell: Callable[[StepState], None]) -> Outcome:
    """Run the graph to its end, whatever fails on the way, and say what became of every node.

    Parameters
    ----------
    workflow : Workflow
        Its ``base_dir`` is the work folder.
    settings : Settings
        Processors, memory and plugin.
    tell : callable
        Called with a node's state when it ends.
    """
    names = [f"{workflow.name}.{name}" for name in workflow.list_node_names()]
    outcome = Outcome({name: StepState(name) for name in names})
    signals: list[int] = []

    def interrupt(number: int, _: Any) -> None:
        signals.append(number)
        if not getattr(plugin, "starting", False):  # else it is raised once the process has started
            raise Interrupted(number)

    def watch(node: Any, status: str) -> None:
        if signals:  # it came inside a step, and something there took it for a failure
            raise Interrupted(signals[0])
        step = outcome.steps.setdefault(node.fullname, StepState(node.fullname))
        if status == "end" and not step.started and isinstance(plugin, LinearPlugin):
            return  # that plugin says so of what it leaves out because something before it failed
        step.status = status
        step.folder = Path(node.output_dir())
        if status == "start":
            step.started = time.monotonic()
        else:
            sent = time.monotonic() - step.started if step.started else 0.0
            measured = read_seconds(step.folder)
            step.seconds = sent if measured is None else min(sent, measured)  # not while it waited for a process
            tell(step)

    plugin = _plugin(settings, watch)
    if isinstance(plugin, WatchedMultiProc):
        plugin.signals = signals
    gc.collect()
    gc.freeze()  # the plugin collects garbage at every turn; all that is here now it need not look through
    try:
        with answering(interrupt, signal.SIGINT, signal.SIGTERM):
            workflow.run(plugin=plugin)
    except KeyboardInterrupt:
        if isinstance(plugin, WatchedMultiProc):
            plugin.stop()
        raise
    except Exception:
        if signals:
            raise Interrupted(signals[0]) from None
        if not outcome.failed() and not getattr(plugin, "killed", False):
            raise
    finally:
        gc.unfreeze()
        if isinstance(plugin, WatchedMultiProc):
            plugin.end(wait=not signals)
    outcome.out_of_memory = bool(getattr(plugin, "killed", False))
    sent = [step for step in outcome.steps.values() if step.status == "start"]
    begun = [step for step in sent if any(_marks(step.folder or Path()))] or sent
    for step in sent:
        step.status = "exception" if step in begun else "waiting"
    for step in outcome.steps.values():
        step.killed = outcome.out_of_memory and step.status == "exception"
    return outcome


def _marks(folder: Path) -> list[Path]:
    """What Nipype keeps in the folder of a step from its begin in a process to its end."""
    return list(folder.glob("_0x*_unfinished.json"))


def _plugin(settings: Settings, watch: Callable[[Any, str], None]) -> Any:
    if settings.use_plugin is not None:
        return _custom_plugin(settings.use_plugin, watch)
    if settings.nprocs == 1:
        return LinearPlugin(plugin_args={"status_callback": watch})
    return WatchedMultiProc(
        {
            "n_procs": settings.nprocs,
            "memory_gb": settings.mem_gb,
            "raise_insufficient": False,
            "n_gpu_procs": 1,
            "status_callback": watch,
            "log_level": log_level(settings),
            "ahead": not settings.stop_on_first_crash,
        }
    )


def _custom_plugin(path: Path, watch: Callable[[Any, str], None]) -> Any:
    kind, args = plugin_settings(path)
    return kind(plugin_args={**args, "status_callback": watch})


def plugin_settings(path: Path) -> tuple[Any, dict[str, Any]]:
    """The class and the arguments of the Nipype plugin that a YAML file names.

    Raises
    ------
    UsageError
        When the file cannot be read or names no plugin.
    """
    import yaml
    from nipype.pipeline import plugins

    try:
        wanted = yaml.safe_load(path.read_text())
        kind = getattr(plugins, f"{wanted['plugin']}Plugin")
        return kind, dict(wanted.get("plugin_args") or {})
    except (OSError, ValueError, yaml.YAMLError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(
            f"the plugin settings cannot be used ({' '.join(str(error).split())})",
            file=path,
            expected="YAML with `plugin` (Linear, MultiProc) and `plugin_args`",
        ) from None


def why(step: StepState, crash_file: Path | None = None) -> dict[str, Any]:
    """Why a node failed: the parts of the message, and its exit code.

    The step leaves this in its folder. On a full disk it cannot; then the crash file says so.
    """
    from qsmprep.interfaces.base import FAILURE_FILE

    path = (step.folder or Path()) / FAILURE_FILE
    try:
        return dict(json.loads(path.read_text()))
    except (OSError, ValueError):
        if step.killed:
            remedy = "run the same command again with fewer --nprocs, or where there is more memory"
            return _parts(OutOfMemoryError("a worker process was killed, most likely for its memory", remedy=remedy))
        text = crash_file.read_text(errors="replace") if crash_file is not None else ""
        for number in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
            if os.strerror(number) in text:
                error = cannot_write(step.folder or Path(), OSError(number, os.strerror(number)))
                return _parts(error)
        return {
            "kind": "Crash",
            "exit_code": 1,
            "what": "the step crashed; see its crash file",
            "file": None,
            "remedy": None,
        }


def _parts(error: QSMPrepError) -> dict[str, Any]:
    known = {"what": error.what, "file": error.file, "expected": error.expected, "remedy": error.remedy}
    return {"kind": type(error).__name__, "exit_code": error.exit_code, **known}
