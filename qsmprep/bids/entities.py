"""BIDS entities: their order, their two names, and how a file name is taken apart."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ENTITIES: dict[str, str] = {
    "sub": "subject",
    "tpl": "template",
    "ses": "session",
    "cohort": "cohort",
    "sample": "sample",
    "task": "task",
    "tracksys": "tracksys",
    "acq": "acquisition",
    "nuc": "nucleus",
    "voi": "volume",
    "ce": "ceagent",
    "trc": "tracer",
    "stain": "staining",
    "rec": "reconstruction",
    "dir": "direction",
    "run": "run",
    "mod": "modality",
    "echo": "echo",
    "flip": "flip",
    "inv": "inversion",
    "mt": "mtransfer",
    "part": "part",
    "proc": "processing",
    "hemi": "hemisphere",
    "from": "from",
    "to": "to",
    "mode": "mode",
    "space": "space",
    "split": "split",
    "recording": "recording",
    "chunk": "chunk",
    "atlas": "atlas",
    "seg": "segmentation",
    "scale": "scale",
    "res": "resolution",
    "den": "density",
    "label": "label",
    "desc": "description",
}
"""Short name to long name, in the order of a BIDS file name (``from``, ``to``, ``mode``: transforms, not yet BIDS)."""

SHORT_NAMES: dict[str, str] = {
    **{long: short for short, long in ENTITIES.items()},
    **{short: short for short in ENTITIES},
    "inv": "inv",
    "mt": "mt",
    "proc": "proc",
    "desc": "desc",
}
"""Every accepted spelling of an entity to its short name."""

LABEL = re.compile(r"[A-Za-z0-9]+(\+[A-Za-z0-9]+)*")
"""What BIDS allows as the value of an entity."""

_NAME = re.compile(r"(?P<entities>sub-[^./]+)_(?P<suffix>[A-Za-z0-9]+)(?P<extension>\.[A-Za-z0-9.]+)")


@dataclass(frozen=True)
class BidsName:
    """A BIDS file name taken apart.

    Parameters
    ----------
    path : Path
        The file.
    entities : tuple of (str, str)
        Short names and values in BIDS order.
    suffix, extension : str
        Such as ``MEGRE`` and ``.nii.gz``.
    """

    path: Path
    entities: tuple[tuple[str, str], ...]
    suffix: str
    extension: str

    def get(self, name: str) -> str | None:
        """Value of an entity by its short name, or None."""
        return dict(self.entities).get(name)

    def without(self, *names: str) -> tuple[tuple[str, str], ...]:
        """The entities other than those named."""
        return tuple(pair for pair in self.entities if pair[0] not in names)


def parse_name(path: Path) -> BidsName | None:
    """Take the name of a participant's file apart.

    Only the name is read, never the folders above it: a data set stored below a folder called
    ``sub-99`` is not participant 99.

    Parameters
    ----------
    path : Path
        Any path.

    Returns
    -------
    BidsName or None
        None when the name is not that of a participant's BIDS file.
    """
    match = _NAME.fullmatch(path.name)
    if match is None:
        return None
    pairs: dict[str, str] = {}
    for chunk in match["entities"].split("_"):
        name, dash, value = chunk.partition("-")
        if not dash or name not in ENTITIES or name in pairs or not LABEL.fullmatch(value):
            return None
        pairs[name] = value
    ordered = tuple((name, pairs[name]) for name in ENTITIES if name in pairs)
    return BidsName(path, ordered, match["suffix"], match["extension"])


def is_in_its_place(name: BidsName, root: Path) -> bool:
    """Whether the file lies in the folder its own name asks for (``sub-XX/[ses-YY/]<datatype>/``)."""
    folder = root / f"sub-{name.get('sub')}"
    session = name.get("ses")
    if session:
        folder = folder / f"ses-{session}"
    return name.path.parent.parent == folder


def natural_key(text: str) -> tuple[tuple[int, int | str], ...]:
    """Sort key under which ``run-2`` comes before ``run-10``."""
    return tuple((0, int(t)) if t.isdigit() else (1, t) for t in re.split(r"(\d+)", text))
