# ruff: noqa: PTH100, PTH118
"""Run ``qsmprep`` in this process on mutated data sets, and judge what it does.

Everything is real up to the first step on voxels: command line, collection, preflight, the graph with its methods text
(``--boilerplate-only``), the log folder, and the step that stacks the echoes. Run it by hand for a range of seeds::

    python tests/trust/fuzzing.py 0 10000 FOLDER
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import resource
import shutil
import signal
import sys
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mutations

LIMIT_S = 20
"""Most CPU time of one data set; the pipeline's own part takes a tenth of a second."""

HANG_S = 900
"""Most time by the clock, for what waits for ever and takes no CPU time; a busy machine does not reach it."""

QUIET = "nibabel.global"
"""Logger of nibabel, which speaks of every odd header on the real standard error."""

MEMORY_BYTES = 1 << 30
"""How much more memory than before a data set may make this process use."""

WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


class Watch:
    """Notes every path that this process opens for writing, makes, renames, links or removes, while it is on."""

    def __init__(self) -> None:
        self.on = False
        self.touched: list[str] = []
        sys.addaudithook(self._hear)

    def _hear(self, event: str, args: tuple[Any, ...]) -> None:
        if not self.on:
            return
        if event == "open":
            path, mode, flags = args
            writes = any(c in mode for c in "wax+") if isinstance(mode, str) else bool(flags and flags & WRITES)
            if writes and not isinstance(path, int):
                self.touched.append(os.fsdecode(path))
        elif event in ("os.mkdir", "os.remove", "os.rmdir", "os.truncate", "os.chmod", "shutil.rmtree"):
            self.touched.append(str(args[0]))
        elif event in ("os.rename", "os.link", "os.symlink", "shutil.move"):
            self.touched += [str(args[1])]


class TooSlow(BaseException):
    """A data set took too long."""


@contextlib.contextmanager
def limited(seconds: int) -> Iterator[None]:
    """Raise `TooSlow` when the block takes more CPU time than this, or for ever."""

    def stop(*_: Any) -> None:
        raise TooSlow

    before = {number: signal.signal(number, stop) for number in (signal.SIGALRM, signal.SIGPROF)}
    signal.setitimer(signal.ITIMER_PROF, seconds)
    signal.alarm(HANG_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.alarm(0)
        for number, old in before.items():
            signal.signal(number, old)


def inventory(root: Path) -> dict[str, tuple[int, int, int]]:
    """Every entry below a folder but ``out`` and ``work``: kind, size and time of change."""
    found = {}
    for folder, names, files in os.walk(root):
        if folder == str(root):
            names[:] = [name for name in names if name not in ("out", "work")]
        for name in [*names, *files]:
            state = os.lstat(os.path.join(folder, name))
            found[os.path.join(folder, name)] = (state.st_mode, state.st_size, state.st_mtime_ns)
    return found


class Fuzzer:
    """Runs data sets one after another in one folder.

    Parameters
    ----------
    folder : Path
        Is made, and emptied after every data set.
    """

    def __init__(self, folder: Path) -> None:
        import qsmprep.workflows.run as run_module

        logging.getLogger(QUIET).setLevel(logging.CRITICAL)
        self.folder = folder
        self.watch = Watch()
        self.acquisitions: tuple[Any, ...] = ()
        self.codes: Counter[int] = Counter()
        self.kinds: Counter[str] = Counter()
        real = run_module.preflight

        def keep(*args: Any, **options: Any) -> Any:
            found = real(*args, **options)
            self.acquisitions = found.acquisitions
            return found

        self._patch = (run_module, "preflight", real)
        run_module.preflight = keep

    def close(self) -> None:
        """Undo what watching changed."""
        module, name, real = self._patch
        setattr(module, name, real)
        self.watch.on = False

    def lost(self, seed: int) -> str:
        """Run the data set of a seed; empty when all was well, else what was wrong."""
        data, told, allowed = mutations.mutated(seed)
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        data.write(self.folder)
        before = inventory(self.folder)
        code, out, err, crash, used = self._run(
            [str(self.folder / w) if "/c." in w or "/f." in w else w for w in data.words]
        )
        self.codes[code] += 1
        self.kinds.update(told)
        faults = [crash] if crash else self._faults(code, allowed, out, err)
        changed = {name for name, state in inventory(self.folder).items() if before.get(name) != state}
        changed |= set(before) - set(inventory(self.folder))
        mine = (str(self.folder / "out"), str(self.folder / "work"))
        outside = [p for p in self.watch.touched if not os.path.abspath(os.path.join(self.folder, p)).startswith(mine)]
        outside = [p for p in outside if not p.startswith(("/dev/null", "/proc/self/")) and "matplotlib" not in p]
        if changed or outside:
            faults.append(f"touched outside of the output folder: {sorted(changed)[:3]} {outside[:3]}")
        if used > MEMORY_BYTES:
            faults.append(f"took {used / 1e9:.1f} GB of memory")
        return "" if not faults else f"seed {seed} ({', '.join(told)}): " + "; ".join(faults)

    def _run(self, words: list[str]) -> tuple[int, str, str, str, int]:
        from qsmprep.cli.main import main

        root = self.folder
        argv = [str(root / "raw"), str(root / "out"), "participant", "-w", str(root / "work"), "--nprocs", "1"]
        argv += ["--boilerplate-only", *words]
        out, err = _terminal(), _terminal()
        self.acquisitions, self.watch.touched = (), []
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        code, crash = -1, ""
        try:
            with limited(LIMIT_S), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                self.watch.on = True
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    code = main(argv)
                    self._stack()
        except TooSlow:
            crash = f"not done after {LIMIT_S} s"
        except BaseException as error:
            crash = f"{type(error).__name__}: {str(error)[:200]}\n{traceback.format_exc(limit=-6)}"
        finally:
            self.watch.on = False
        used = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory)
        return code, _text(out), _text(err), crash, used

    def _stack(self) -> None:
        """The first step on the voxels of what the preflight let through: a refusal is right, anything else is not."""
        from qsmprep.errors import QSMPrepError
        from qsmprep.interfaces.phase import Conform
        from qsmprep.workflows.acquisition import _images

        for acquisition in self.acquisitions:
            kept = type(acquisition).from_dict(acquisition.to_dict())
            if kept != acquisition:
                raise AssertionError("the acquisition does not survive its own to_dict")
            folder = self.folder / "work" / "stack"
            folder.mkdir(parents=True, exist_ok=True)
            step = Conform(**_images(acquisition, _Sign))
            with contextlib.suppress(QSMPrepError):
                step.compute(folder)

    def _faults(self, code: int, allowed: set[int], out: str, err: str) -> list[str]:
        faults = []
        if code not in allowed:
            faults.append(f"exit code {code} instead of {sorted(allowed)}: {err.strip()[-300:]}")
        if "Traceback" in err or "Traceback" in out:
            faults.append(f"a traceback: {err[-300:]}")
        if "not for your eyes" in out + err:
            faults.append("shows the content of a file outside of the data set")
        if code and not err.startswith("qsmprep: "):
            faults.append(f"no message: {err[-300:]!r}")
        if code == 0 and "can be processed" not in out:
            faults.append("no table")
        return faults


class _Sign:
    phase_sign = 1


def _terminal() -> io.TextIOWrapper:
    """A stream as strict as a terminal's: text that is no UTF-8 cannot be written to it."""
    return io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True)


def _text(stream: io.TextIOWrapper) -> str:
    buffer = stream.buffer
    assert isinstance(buffer, io.BytesIO)
    return buffer.getvalue().decode("utf-8", errors="replace")


def main() -> int:
    """Seeds from, to, folder."""
    first, last, folder = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    fuzzer, lost, started = Fuzzer(folder), [], time.monotonic()
    for seed in range(first, last):
        fault = fuzzer.lost(seed)
        if fault:
            lost.append(fault)
            print(fault, flush=True)
        if seed % 500 == 499:
            print(f"# {seed + 1 - first} tried, {len(lost)} lost, {time.monotonic() - started:.0f} s", flush=True)
    tried = last - first
    print(f"tried {tried}, survived {tried - len(lost)}, lost {len(lost)}; exit codes {dict(fuzzer.codes)}")
    return bool(lost)


if __name__ == "__main__":
    sys.exit(main())
