"""Mean and spread of the cohort's maps in template space, and their chapter on the cohort's page."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from qsmprep.bids.entities import natural_key, parse_name
from qsmprep.bids.names import sidecar_path
from qsmprep.bids.write import write_json, write_nifti
from qsmprep.cohort.average import Average, average
from qsmprep.core.methods import METHODS
from qsmprep.core.template import NAME
from qsmprep.errors import DataError, QSMPrepError
from qsmprep.interfaces import base
from qsmprep.reports.cohort_page import Chapter, Plot
from qsmprep.reports.template import plot_average

SD_TEXT = "Standard deviation over scans (n - 1), NaN where one scan has a value"
N_TEXT = "Number of scans in which susceptibility is defined"


@dataclass(frozen=True)
class Family:
    """The maps of one inversion of all scans: files of the maps, each with its mask."""

    name: str
    maps: tuple[tuple[Path, Path], ...]


def find_maps(
    out_dir: Path, participants: Iterable[str], sessions: Iterable[str] = (), acquisitions: Iterable[str] = ()
) -> list[Family]:
    """Maps in template space that the participant level wrote, one family an inversion (and value of ``acq``).

    Parameters
    ----------
    out_dir : Path
    participants : iterable of str
        As ``sub-01``.
    sessions, acquisitions : iterable of str
        Without ``ses-`` and ``acq-``; all by default.
    """
    found: dict[str, list[tuple[Path, Path]]] = defaultdict(list)
    chosen, kinds = set(sessions), set(acquisitions)
    for label in participants:
        for path in sorted(
            (out_dir / label).rglob(f"*_space-{NAME}_*Chimap.nii.gz"), key=lambda p: natural_key(p.name)
        ):
            name = parse_name(path)
            if name is None or (chosen and name.get("ses") not in chosen):
                continue
            if kinds and name.get("acq") not in kinds:
                continue
            desc = str(name.get("desc"))
            mask = path.with_name(path.name.replace(f"_desc-{desc}_Chimap", f"_desc-{desc}qsm_mask"))
            key = f"acq-{name.get('acq')}_desc-{desc}" if name.get("acq") else f"desc-{desc}"
            found[key].append((path, mask))
    return [Family(key, tuple(maps)) for key, maps in found.items()]


def template_chapter(families: list[Family], out_dir: Path) -> tuple[Chapter | None, tuple[str, ...]]:
    """Average every family, write mean, standard deviation and count, draw them; and what could not be read."""
    plots, problems = [], []
    for family in families:
        unread: dict[Path, str] = {}
        result = average(_volumes(family, unread))
        problems += [f"{path.relative_to(out_dir)}: {what}" for path, what in unread.items()]
        if result is None:
            continue
        stem = f"group_space-{NAME}_{family.name}"
        affine = nib.load(next(path for path, _ in family.maps if path not in unread)).affine
        for stat, volume, text in _parts(result, family):
            path = out_dir / f"{stem}_stat-{stat}_Chimap.nii.gz"
            write_nifti(volume, affine, None, path, undefined=stat == "sd")
            unit = "ppm" if stat != "n" else "1"
            sources = [f"bids::{file.relative_to(out_dir).as_posix()}" for file, _ in family.maps if file not in unread]
            write_json({"Description": text, "Units": unit, "Sources": sources}, sidecar_path(path))
        picture = f"figures/{stem}.png"
        plot_average(result.mean, result.sd, result.mask, affine, out_dir / picture)
        title = f"{_title(family)}: mean and spread of {result.n_scans} scans"
        alt = "Axial and coronal slices of the mean susceptibility and of its standard deviation in template space."
        caption = "Voxels in which at least half of the scans have a value. The maps lie beside this page."
        plots.append(Plot(title, picture, alt, caption, f"{stem}_stat-mean_Chimap.nii.gz"))
    chapter = Chapter("template", "Template space", (), (), (), tuple(plots)) if plots else None
    return chapter, tuple(problems)


def _parts(result: Average, family: Family) -> Iterator[tuple[str, NDArray, str]]:
    yield "mean", result.mean, f"Mean susceptibility of {result.n_scans} scans ({_title(family)})"
    yield "sd", result.sd, f"{SD_TEXT} ({_title(family)})"
    yield "n", result.count.astype(np.int32), f"{N_TEXT} ({_title(family)})"


def _title(family: Family) -> str:
    """The inversion's name as it is written."""
    name = family.name.rsplit("desc-", 1)[1]
    titles = {method.name: method.title for method in METHODS if method.step == "inversion"}
    return titles.get(name, name) + (f", {family.name.split('_')[0]}" if "_" in family.name else "")


def _volumes(family: Family, unread: dict[Path, str]) -> Iterator[tuple[NDArray, NDArray]]:
    """Map and mask of every scan, one at a time; what cannot be used is noted and left out."""
    shape = None
    for path, mask_path in family.maps:
        try:
            chi, _ = base.load(path)
            if not mask_path.exists():
                raise DataError("the mask of this map is absent", file=mask_path)
            mask = base.load_mask(mask_path)
            shape = shape or chi.shape
            if chi.shape != shape or mask.shape != shape:
                raise DataError(f"the map has shape {chi.shape}", expected=f"{shape}, as the others")
        except QSMPrepError as error:
            unread[path] = error.what
            continue
        yield chi, mask
