"""What a training run learns from: label maps and susceptibility maps, and those held out of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from qsmprep.errors import DataError, MissingFileError
from qsmprep.training.anatomy import label_files, load_chi, load_labels
from qsmprep.training.config import TrainParams
from qsmprep.training.heads import load_head
from qsmprep.training.sample import Sources
from qsmprep.training.scan_store import ensure_scans

NEARBY = Path("..", "shared", "data", "head-labels")
"""Folder of label maps that is taken, where it exists, when none is named."""

HELD_SEED = 20_000
"""Of the scans that are validated with."""


@dataclass(frozen=True)
class Material:
    """Sources of a training run.

    Parameters
    ----------
    sources, held : Sources
        What is trained on, and what is only validated with.
    labels, held_labels, chi : tuple of str
        Names of the label maps trained on and held out, and of the susceptibility maps.
    patches : bool
        Whether patches are drawn, some of them random shapes; else whole heads only.
    scans : int
        Number of scans of the label maps trained on.
    """

    sources: Sources
    held: Sources
    labels: tuple[str, ...] = ()
    held_labels: tuple[str, ...] = ()
    chi: tuple[str, ...] = ()
    patches: bool = True
    scans: int = 0

    @property
    def sentence(self) -> str:
        """What is trained on, in words."""
        parts = []
        if self.labels:
            parts.append(f"{len(self.labels)} label maps")
        if self.scans:
            parts.append(f"{self.scans} scans of them")
        if self.chi:
            parts.append(f"{len(self.chi)} susceptibility maps")
        if not self.patches:
            seen = " and ".join(parts) or "nothing"
        else:
            seen = " and ".join(parts) + ", and random shapes" if parts else "random shapes only"
        checked = f"{len(self.held_labels)} label maps held out" if self.held_labels else "nothing: none is held out"
        return f"trained on {seen}; validated with {checked}"


def stem(path: Path) -> str:
    """Name of a map: its file's, without suffixes."""
    return path.name.split(".")[0]


def gather(
    labels: Path | None,
    chi: Sequence[Path],
    hold_out: Sequence[str],
    device: torch.device | str = "cpu",
    *,
    heads: bool = False,
    patches: bool = True,
    load: bool = True,
) -> Material:
    """Read the maps of a training run.

    Parameters
    ----------
    labels : Path, optional
        Folder of label maps.
    chi : sequence of Path
        Susceptibility maps in ppm.
    hold_out : sequence of str
        Names of the label maps that are never trained on.
    device : torch.device or str
        Where the maps are kept.
    heads : bool
        Read the label maps as whole heads.
    patches : bool
        Read them as what patches are cut from.
    load : bool
        False only looks which maps there are, where no step is taken.

    Raises
    ------
    MissingFileError
        When a folder or file is absent.
    DataError
        When a map cannot be used, or all label maps are held out.
    """
    if labels is not None and not labels.is_dir():
        raise MissingFileError("there is no such folder of label maps", file=labels)
    for path in chi:
        if not path.is_file():
            raise MissingFileError("there is no such susceptibility map", file=path)
    files = label_files(labels) if labels is not None else []
    held = [path for path in files if stem(path) in hold_out]
    used = [path for path in files if stem(path) not in hold_out]
    if held and not used:
        raise DataError(
            "every label map is held out of the training",
            file=labels,
            expected="label maps whose names do not stand in the recipe's `hold_out`",
        )

    def read(paths: Sequence[Path], maps: Sequence[Path] = ()) -> Sources:
        if not load:
            return Sources()
        return Sources(
            tuple(load_labels(path, device) for path in paths) if patches else (),
            tuple(load_chi(path, device) for path in maps),
            tuple(load_head(path, device) for path in paths) if heads else (),
        )

    return Material(
        read(used, chi),
        read(held),
        tuple(stem(path) for path in used),
        tuple(stem(path) for path in held),
        tuple(stem(path) for path in chi),
        patches,
    )


def with_scans(
    found: Material,
    params: TrainParams,
    out: Path,
    *,
    stop: Callable[[], bool] = lambda: False,
    report: Callable[[int, int], None] = lambda done, count: None,
) -> Material:
    """The material with the scans that the configuration asks for, read from, or made into, folders of the training.

    Parameters
    ----------
    found : Material
        With whole heads.
    params : TrainParams
        The configuration.
    out : Path
        Folder of the training.
    stop : callable
        Asked before each scan is made; the others are left out when it says true.
    report : callable
        Called after each scan with its number and how many there will be.

    Raises
    ------
    DataError
        When there are no label maps, or a scan cannot be read.
    CannotWriteError
        When a scan cannot be written.
    """
    if not params.scans.count:
        return found
    if not found.sources.heads:
        raise DataError("the recipe trains on scans of heads, but there is no label map", expected="--labels DIR")
    used = ensure_scans(
        out / "scans", found.sources.heads, params.scans, params.sample.chi, params.seed, stop=stop, report=report
    )
    few = replace(params.scans, count=len(found.held.heads))
    held = ensure_scans(
        out / "scans_held", found.held.heads, few, params.sample.chi, HELD_SEED, stop=stop, report=report
    )
    sources, rest = replace(found.sources, scans=tuple(used)), replace(found.held, scans=tuple(held))
    return replace(found, sources=sources, held=rest, scans=len(used))
