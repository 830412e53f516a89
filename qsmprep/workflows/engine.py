"""Running a graph: which plugin, who failed and why, and never a hang."""

from __future__ import annotations

import json
import logging
import multiprocessing as mp
import os
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nipype import config
from nipype.pipeline.engine import Workflow
from nipype.pipeline.plugins.multiproc import MultiProcPlugin

from qsmprep.errors import OutOfMemoryError
from qsmprep.settings import Settings

PRELOAD = ("qsmprep.interfaces.phase", "qsmprep.interfaces.masks", "qsmprep.interfaces.inversion", "torch", "numba")
"""What the server that workers are forked from imports once. It never touches CUDA."""

NIPYPE_LOGGERS = ("nipype.workflow", "nipype.interface", "nipype.utils", "nipype.filemanip")


@dataclass
class StepState:
    """What became of one node."""

    name: str
    status: str = "waiting"
    started: float = 0.0
    seconds: float = 0.0
    folder: Path | None = None


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
        super().__init__(plugin_args={**args, "mp_context": "forkserver"})
        self.pool.shutdown(wait=False)
        context = mp.get_context("forkserver")
        context.set_forkserver_preload(list(PRELOAD))
        self.pool = ProcessPoolExecutor(
            max_workers=self.processors,
            mp_context=context,
            initializer=_start_worker,
            initargs=(Path.cwd(), level),
        )
        self.killed = False

    def _async_callback(self, args: Any) -> None:
        try:
            super()._async_callback(args)
        except BrokenProcessPool:
            self.killed = True

    def _get_result(self, taskid: int) -> Any:
        result = super()._get_result(taskid)
        if result is None and self.killed:
            raise OutOfMemoryError("a worker process was killed, most likely for its memory")
        return result


def configure_nipype(settings: Settings, log_dir: Path) -> None:
    """Put the execution settings of a run into Nipype's configuration."""
    config.update_config(
        {
            "execution": {
                "crashdump_dir": str(log_dir),
                "crashfile_format": "txt",
                "hash_method": "content",
                "stop_on_first_crash": str(settings.stop_on_first_crash).lower(),
                "poll_sleep_duration": "0.05",
                "remove_unnecessary_outputs": "false",
                "check_version": "false",
                "create_report": "false",
            }
        }
    )
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
    outcome = Outcome()

    def watch(node: Any, status: str) -> None:
        step = outcome.steps.setdefault(node.fullname, StepState(node.fullname))
        step.status = status
        if status == "start":
            step.started = time.monotonic()
        else:
            step.seconds = time.monotonic() - step.started
            step.folder = Path(node.output_dir())
            tell(step)

    plugin = _plugin(settings, watch)
    try:
        workflow.run(plugin=plugin)
    except Exception:
        if not outcome.failed() and not getattr(plugin, "killed", False):
            raise
    finally:
        if isinstance(plugin, WatchedMultiProc):
            plugin.pool.shutdown(wait=not plugin.killed, cancel_futures=True)
    outcome.out_of_memory = bool(getattr(plugin, "killed", False))
    for step in outcome.steps.values():
        if step.status == "start":
            step.status = "exception"
    return outcome


def _plugin(settings: Settings, watch: Callable[[Any, str], None]) -> Any:
    from nipype.pipeline.plugins.linear import LinearPlugin

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
        }
    )


def _custom_plugin(path: Path, watch: Callable[[Any, str], None]) -> Any:
    import yaml
    from nipype.pipeline import plugins

    from qsmprep.errors import UsageError

    try:
        wanted = yaml.safe_load(path.read_text())
        kind = getattr(plugins, f"{wanted['plugin']}Plugin")
    except (OSError, yaml.YAMLError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(
            f"the plugin settings cannot be used ({error})",
            file=path,
            expected="YAML with `plugin` (Linear, MultiProc) and `plugin_args`",
        ) from None
    return kind(plugin_args={**(wanted.get("plugin_args") or {}), "status_callback": watch})


def why(step: StepState) -> dict[str, Any]:
    """Why a node failed: the parts of the message, and its exit code."""
    from qsmprep.interfaces.base import FAILURE_FILE

    path = (step.folder or Path()) / FAILURE_FILE
    try:
        return dict(json.loads(path.read_text()))
    except (OSError, ValueError):
        return {
            "kind": "Crash",
            "exit_code": 1,
            "what": "the step crashed; see its crash file",
            "file": None,
            "remedy": None,
        }
