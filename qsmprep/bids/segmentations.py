"""Segmentations made elsewhere: FreeSurfer, FastSurfer and SynthSeg folders, and BIDS ``*_dseg`` files.

They are looked for in the data sets given with ``--derivatives``. What is found is of the same participant, and of the
same session or of none. Whether its voxels are good is for the steps to see; its header is read here.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib

from qsmprep.bids.acquisition import Acquisition
from qsmprep.bids.entities import BidsName, natural_key, parse_name
from qsmprep.bids.headers import Header, check_size, read_header, same_grid
from qsmprep.bids.names import safe_label
from qsmprep.bids.tables import FREESURFER_WORD, read_label_table
from qsmprep.core.structures import FIRST, FREESURFER
from qsmprep.errors import DataError, QSMPrepError

FREESURFER_FILES = (
    "aseg.mgz",
    "aseg.auto_noCCseg.mgz",
    "aparc.DKTatlas+aseg.deep.mgz",
)
"""Files of a FreeSurfer or FastSurfer ``mri`` folder, the first that is there."""

FREESURFER_NAMES = ("aseg", "aparcaseg", "synthseg", "fastsurfer", "freesurfer", "aparc")
"""BIDS names of segmentations whose codes are FreeSurfer's where no label table says otherwise."""

_SEEN = ("caudate", "putamen", "pallidum", "thalamus")

MADE: dict[str, tuple[int, ...]] = {
    "first": tuple(sorted(FIRST)),
    "unetr": tuple(code for code, region in sorted(FREESURFER.items()) if region.structure in _SEEN),
}
"""FreeSurfer's codes of all regions that a method segments, whether it finds them or not."""

OWN_SPACES = (None, "T1w", "orig", "individual")
"""Values of ``space`` that mean the participant's own anatomy."""

_ABOUT_LABELS = ("seg", "atlas", "desc", "space", "res", "label", "scale", "den")


@dataclass(frozen=True)
class Segmentation:
    """One segmentation of a participant.

    Parameters
    ----------
    name : str
        Value of the entity ``seg`` of everything that is made from it.
    file : Path
        NIfTI or MGZ.
    table : str
        Path of its label table, or ``freesurfer`` for the codes.
    on_grid : bool
        Whether it lies on the grid of the echoes; otherwise in the scanner space of the T1w image.
    method : str
        ``given``, or how it is made in the run: ``first``, ``atlas`` or ``unetr``; then ``file`` is the image it is
        made on.
    """

    name: str
    file: Path
    table: str
    on_grid: bool
    method: str = "given"


def find_segmentations(
    derivatives: Iterable[Path], acquisition: Acquisition, grid: Header
) -> tuple[tuple[Segmentation, ...], tuple[str, ...]]:
    """Segmentations of the participant of an acquisition, and what is odd about those that are not used.

    Parameters
    ----------
    derivatives : iterable of Path
        Roots of derivative data sets, or a FreeSurfer subjects folder.
    acquisition : Acquisition
        Gives participant, session and T1w image.
    grid : Header
        Of its echoes.

    Returns
    -------
    (tuple of Segmentation, tuple of str)
        One for each name, in order.
    """
    found: dict[str, Segmentation] = {}
    notes: list[str] = []
    for root in derivatives:
        candidates = [*_bids_files(Path(root), acquisition), *_freesurfer(Path(root), acquisition)]
        for name, path, table in candidates:
            try:
                header = _header(path)
                if table is None:
                    raise DataError("it has no label table, so its labels have no names")
                if table != FREESURFER_WORD:
                    read_label_table(Path(table))
            except QSMPrepError as error:
                notes.append(f"the segmentation {path.name} is not used: {error.what}")
                continue
            if name in found:
                notes.append(f"the segmentation {path} is not used: {found[name].file} has the same name")
                continue
            found[name] = Segmentation(name, path, table, same_grid(grid, header))
    return tuple(found.values()), tuple(notes)


def _header(path: Path) -> Header:
    """Header of a NIfTI or MGZ image."""
    if not path.name.endswith((".mgz", ".mgh")):
        return read_header(path)
    try:
        image = nib.load(path)
    except Exception as error:
        raise DataError(f"the image cannot be read ({error})", file=path) from error
    if len(image.shape) != 3:
        raise DataError(f"the image has shape {image.shape}", file=path, expected="one volume")
    check_size(path, image.shape)
    return Header(path, image.shape, image.affine)


def _bids_files(root: Path, acquisition: Acquisition) -> list[tuple[str, Path, str | None]]:
    """``*_dseg`` files of the participant in a BIDS derivative: name, file, label table."""
    subject = root / f"sub-{acquisition.subject}"
    paths = [*subject.glob("anat/*_dseg.nii*")]
    if acquisition.session:
        paths = [*subject.glob(f"ses-{acquisition.session}/anat/*_dseg.nii*"), *paths]
    names = [name for path in paths if (name := parse_name(path)) is not None and _fits(name, acquisition)]
    names.sort(key=lambda name: (name.get("ses") is None, natural_key(name.path.name)))
    result = []
    for name in names:
        raw = name.get("seg") or name.get("atlas") or name.get("desc") or root.name
        label = safe_label(raw) if any(c.isalnum() for c in raw) else "dseg"
        table = _table(name, root)
        known = any(label.lower().startswith(word) for word in FREESURFER_NAMES)
        result.append((label, name.path, str(table) if table else FREESURFER_WORD if known else None))
    return result


def _fits(name: BidsName, acquisition: Acquisition) -> bool:
    """Whether a segmentation is in the participant's own space, and of this acquisition or of the T1w image."""
    if name.get("space") not in OWN_SPACES:
        return False
    pairs = set(name.without(*_ABOUT_LABELS))
    session = [("ses", acquisition.session)] if acquisition.session else []
    own = {("sub", acquisition.subject), *session, *acquisition.entities}
    t1w = parse_name(acquisition.t1w) if acquisition.t1w is not None else None
    return pairs <= own or (t1w is not None and pairs <= {*t1w.entities, *own})


def _table(name: BidsName, root: Path) -> Path | None:
    """The label table of a segmentation: the nearest whose entities are among its own."""
    own = set(name.entities)
    folder = name.path.parent
    while True:
        fitting = []
        for path in folder.glob("*dseg.tsv"):
            *chunks, suffix = path.name.removesuffix(".tsv").split("_")
            pairs = {tuple(chunk.partition("-")[::2]) for chunk in chunks}
            if suffix == "dseg" and pairs <= own:
                fitting.append((len(pairs), path))
        if fitting:
            return max(fitting)[1]
        if folder == root or folder == folder.parent:
            return None
        folder = folder.parent


def _freesurfer(root: Path, acquisition: Acquisition) -> list[tuple[str, Path, str | None]]:
    """The segmentation in the participant's folder of FreeSurfer or FastSurfer."""
    subject = f"sub-{acquisition.subject}"
    folders = [root / subject]
    if acquisition.session:
        session = f"ses-{acquisition.session}"
        folders = [root / f"{subject}_{session}", root / subject / session, *folders]
    for folder in folders:
        for file in FREESURFER_FILES:
            if (folder / "mri" / file).is_file():
                return [("aseg", folder / "mri" / file, FREESURFER_WORD)]
    return []
