"""What is written down about a training run: its commands, hardware, label maps and versions."""

from __future__ import annotations

import csv
import json
import os
import platform
import shlex
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from qsmprep.errors import CannotWriteError, DataError
from qsmprep.networks.card import read_card
from qsmprep.training.loop import CHECKPOINT, LOG
from qsmprep.training.material import Material
from qsmprep.version import qsmprep_version

RECORD = "run.json"


def hardware(device: str) -> str:
    """The GPU, or the processor and how many of its cores this process may use."""
    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    model = platform.processor() or platform.machine()
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    except OSError:
        pass  # not Linux
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{model}, {cores} cores"


def commit() -> str | None:
    """The git commit of the checkout that the package runs from, with ``+`` where its code was changed."""
    root = Path(__file__).resolve().parents[2]
    if shutil.which("git") is None or not (root / ".git").exists():
        return None

    def git(*words: str) -> str | None:
        done = subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True, check=False)
        return done.stdout.strip() if done.returncode == 0 else None

    found = git("rev-parse", "--short", "HEAD")
    return f"{found}+" if found and git("status", "--porcelain", "--untracked-files=no", "--", "qsmprep") else found


def without_folders(words: Sequence[str]) -> str:
    """A command line whose paths are reduced to their last part: it may be published."""
    told, before = [], ""
    for word in words:
        option, equals, value = word.partition("=") if word.startswith("--") else ("", "", word)
        if "/" in value and "--description" not in (before, option):
            value = Path(value).name
        told.append(f"{option}{equals}{value}")
        before = word
    return shlex.join(told)


def read_record(out: Path) -> dict[str, Any]:
    """The record in a training folder; empty where there is none.

    Raises
    ------
    DataError
        When it cannot be read.
    """
    path = out / RECORD
    if not path.exists():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as problem:
        raise DataError(f"the record of the training cannot be read: {problem}", file=path) from None
    if not isinstance(content, dict) or not isinstance(content.get("runs"), list):
        raise DataError("this is not the record of a training", file=path, expected="an object with `runs`")
    return content


def origin(names: Iterable[str]) -> dict[str, Any]:
    """Of every weight file that a training begins with: its hash, and how it came about."""
    told = {}
    for name in filter(None, names):
        where = Path(name)
        card = read_card(where.name, where.parent if where.parent != Path() else None)
        kept = ("command", "recipe", "steps", "hardware", "commit", "begun_from")
        told[where.name] = {
            "sha256": card.sha256,
            **{key: card.training[key] for key in kept if card.training.get(key)},
        }
    return told


def open_record(
    out: Path, command: Sequence[str], recipe: Path, material: Material, device: str, begins: Iterable[str] = ()
) -> dict[str, Any]:
    """The record of a training folder with one more run; refuses maps that it was not begun with.

    Where a checkpoint was written without a record (by :func:`qsmprep.training.loop.train`), the command
    that would have done the same stands for it.

    Parameters
    ----------
    out : Path
        The folder.
    command : sequence of str
        The command line; its second word is the network.
    recipe : Path
        The configuration.
    material : Material
        Maps of this run.
    device : str
        Torch device.
    begins : iterable of str
        Weight files that a new training begins with.

    Raises
    ------
    DataError
        When the training was begun with other maps.
    """
    begun = (out / CHECKPOINT).exists()
    record = read_record(out) if begun else {}
    earlier = record.get("runs") or (
        [{"command": f"qsmprep-train {command[1]} --config {recipe.name}"}] if begun else []
    )
    maps = {
        "label_maps": list(material.labels),
        "held_out": list(material.held_labels),
        "chi_maps": list(material.chi),
    }
    changed = [key.replace("_", " ") for key in maps if record and record.get(key) != maps[key]]
    if changed:
        raise DataError(
            f"the training was begun with other maps ({', '.join(changed)})",
            file=out / RECORD,
            expected="the maps it was begun with",
            remedy="give another --out",
        )
    run = {
        "command": without_folders(command),
        "hardware": hardware(device),
        "threads": torch.get_num_threads(),
        "version": qsmprep_version(),
        "commit": commit(),
        "date": datetime.now(UTC).date().isoformat(),
    }
    before = record.get("begun_from", {}) if begun else origin(begins)
    return {"recipe": recipe.name, **({"begun_from": before} if before else {}), **maps, "runs": [*earlier, run]}


def write_record(out: Path, record: dict[str, Any]) -> None:
    """Write it beside its place and rename it into it.

    Raises
    ------
    CannotWriteError
        When the file system refuses.
    """
    path = out / RECORD
    part = path.with_name(path.name + ".part")
    try:
        part.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        part.replace(path)
    except OSError as problem:
        raise CannotWriteError(f"the record cannot be written ({problem.strerror})", file=path) from None


def last_rate(out: Path) -> float | None:
    """The learning rate of the last step in the log of a training folder."""
    found = [float(row["learning_rate"]) for row in log_rows(out) if row.get("learning_rate")]
    return found[-1] if found else None


def last_validation(out: Path) -> float | None:
    """The last error on held-out maps in the log of a training folder."""
    values = [row.get("error_validation") or row.get("nrmse_validation") for row in log_rows(out)]
    found = [float(value) for value in values if value]
    return found[-1] if found else None


def log_rows(out: Path) -> list[dict[str, str]]:
    """The log of a training folder, empty where there is none."""
    try:
        with (out / LOG).open(newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))
    except OSError:
        return []
