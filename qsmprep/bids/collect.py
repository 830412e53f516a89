"""Find the gradient-echo acquisitions of a data set, with what goes with them.

Nothing is judged here beyond what the file names say: see `qsmprep.bids.preflight`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qsmprep.bids.acquisition import PARTS, entity_key
from qsmprep.bids.anatomy import find_masks, find_t1w
from qsmprep.bids.entities import BidsName, is_in_its_place, natural_key, parse_name
from qsmprep.bids.index import IMAGE_EXTENSIONS, entity_name, find, index_participants, participant_labels
from qsmprep.bids.metadata import Merged, SidecarStore
from qsmprep.errors import MissingFileError, NoMatchError, UsageError

if TYPE_CHECKING:
    from bids import BIDSLayout

SUFFIXES = ("MEGRE", "T2starw", "PDw", "T1w")
"""Suffixes of gradient-echo images with phase. The earlier wins where two would write the same names."""

PART_QUERIES: dict[str, dict[str, Any]] = {
    "qsm_mag": {"suffix": list(SUFFIXES), "part": ["mag", None]},
    "qsm_phase": {"suffix": list(SUFFIXES), "part": "phase"},
    "qsm_real": {"suffix": list(SUFFIXES), "part": "real"},
    "qsm_imag": {"suffix": list(SUFFIXES), "part": "imag"},
}
"""The queries of ``--bids-filter-file`` that find the parts, with what they ask for by default."""

OTHER_QUERIES: dict[str, dict[str, Any]] = {
    "t1w": {"suffix": "T1w", "part": ["mag", None]},
    "mask": {"suffix": "mask", "desc": "brain"},
}
"""The queries of ``--bids-filter-file`` that find what goes with an acquisition."""


@dataclass(frozen=True)
class Selection:
    """What the user asked to be processed.

    Parameters
    ----------
    participants, sessions, acquisitions : tuple of str
        Labels with or without ``sub-``, ``ses-`` and ``acq-``; empty for all.
    filters : dict
        The parsed ``--bids-filter-file``: query name to a dictionary of entity and value.
        The query names are those of `PART_QUERIES` and `OTHER_QUERIES`; ``None`` asks for an absent
        entity and ``"*"`` for any value.

    Raises
    ------
    UsageError
        When a query or an entity is not known.
    """

    participants: tuple[str, ...] = ()
    sessions: tuple[str, ...] = ()
    acquisitions: tuple[str, ...] = ()
    filters: Mapping[str, Mapping[str, Any]] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        for name, prefix in (("participants", "sub-"), ("sessions", "ses-"), ("acquisitions", "acq-")):
            labels = dict.fromkeys(str(label).removeprefix(prefix) for label in getattr(self, name))
            object.__setattr__(self, name, tuple(labels))
        _check_filters(self.filters)

    @property
    def is_narrowed(self) -> bool:
        """Whether something within a participant was deselected."""
        return bool(self.sessions or self.acquisitions or any(q in PART_QUERIES for q in self.filters))

    def query(self, name: str) -> dict[str, Any]:
        """A query with its defaults, as `qsmprep.bids.index.find` takes it."""
        default = {"extension": list(IMAGE_EXTENSIONS), **{**PART_QUERIES, **OTHER_QUERIES}[name]}
        merged = {entity_name(key): value for key, value in default.items()}
        merged.update({entity_name(key): value for key, value in self.filters.get(name, {}).items()})
        return merged


@dataclass(frozen=True)
class Image:
    """One image of a candidate.

    Parameters
    ----------
    name : BidsName
        Its file name, taken apart.
    part : str
        mag, phase, real or imag.
    echo : int or None
        The ``echo`` index of the file name.
    sidecar : Merged
        Its metadata with all that is inherited.
    """

    name: BidsName
    part: str
    echo: int | None
    sidecar: Merged

    @property
    def path(self) -> Path:
        """The file."""
        return self.name.path


@dataclass(frozen=True)
class Candidate:
    """The images that share every entity but ``echo`` and ``part``; to be judged by the preflight.

    Parameters
    ----------
    subject, session, entities, suffix
        As in `qsmprep.bids.acquisition.Acquisition`.
    images : tuple of Image
        All parts of all echoes.
    t1w : tuple of Path
        Anatomical T1w images of the participant, the best one first.
    masks : tuple of Path
        Brain masks from derivatives whose entities fit, the most specific first.
    """

    subject: str
    session: str | None
    entities: tuple[tuple[str, str], ...]
    suffix: str
    images: tuple[Image, ...]
    t1w: tuple[Path, ...] = ()
    masks: tuple[Path, ...] = ()

    @property
    def key(self) -> str:
        """What the names of its outputs would begin with."""
        return entity_key(self.subject, self.session, self.entities)

    @property
    def parts(self) -> tuple[str, ...]:
        """The parts there are."""
        return tuple(part for part in PARTS if any(image.part == part for image in self.images))

    @property
    def has_phase(self) -> bool:
        """Whether any image says something about the phase."""
        return any(image.part != "mag" for image in self.images)


@dataclass(frozen=True)
class Collected:
    """What was found.

    Parameters
    ----------
    participants : tuple of str
        Labels that were looked at.
    candidates : tuple of Candidate
        In natural order of their keys.
    warnings : tuple of str
        Files that were passed over, and why.
    """

    participants: tuple[str, ...]
    candidates: tuple[Candidate, ...]
    warnings: tuple[str, ...] = ()


def collect(bids_dir: Path, selection: Selection, derivatives: Iterable[Path] = ()) -> Collected:
    """Find the candidates of a data set. Only the participants asked for are indexed.

    Parameters
    ----------
    bids_dir : Path
        Raw BIDS data set.
    selection : Selection
        What to look for.
    derivatives : iterable of Path
        Derivative data sets in which brain masks are looked for.

    Returns
    -------
    Collected

    Raises
    ------
    InvalidBIDSError
        When the folder has no participants.
    NoMatchError
        When a participant or a session asked for is not there.
    MissingFileError
        When a derivatives folder is absent.
    """
    root = Path(bids_dir).absolute()
    participants = _chosen_participants(root, selection)
    layout = index_participants(root, participants)
    names, warnings = _in_place(find(layout, {"extension": list(IMAGE_EXTENSIONS), "suffix": list(SUFFIXES)}), root)
    _check_labels("session", "ses", selection.sessions, names, root)
    _check_labels("acquisition", "acq", selection.acquisitions, names, root)
    store = SidecarStore(root, find(layout, {"extension": ".json", "suffix": list(SUFFIXES)}))
    images = _images(layout, selection, names, store)
    candidates = _wanted(_grouped(images), selection)
    t1w = list(_in_place(find(layout, selection.query("t1w")), root)[0].values())
    masks, others = _masks(derivatives, participants, selection)
    phased = _with_phase(names) | {image.path for c in _grouped(images) if c.has_phase for image in c.images}
    finished = tuple(
        replace(
            c,
            t1w=find_t1w(c.subject, c.session, t1w, phased),
            masks=find_masks(c.subject, c.session, c.entities, masks),
        )
        for c in candidates
    )
    lost = [name for name, found in (("t1w", t1w), ("mask", masks)) if name in selection.filters and not found]
    warnings += tuple(f"the query `{name}` of the filter file finds no image" for name in lost)
    return Collected(participants, finished, (*warnings, *_without_masks(finished, [*masks, *others])))


def _without_masks(candidates: Iterable[Candidate], masks: Collection[BidsName]) -> Iterator[str]:
    """What to say of acquisitions that none of the participant's masks is for."""
    for candidate in candidates:
        sessions = (None, candidate.session)
        of_them = [mask for mask in masks if mask.get("sub") == candidate.subject and mask.get("ses") in sessions]
        own = [mask.path.name for mask in of_them]
        if own and not candidate.masks:
            yield (
                f"{candidate.key}: of {_shortened(own, 3)} in --derivatives no mask is taken; expected is "
                f"{candidate.key}_desc-brain_mask, with no entities but those of the images (or say `mask` in "
                "--bids-filter-file)"
            )


def _check_filters(filters: Mapping[str, Mapping[str, Any]]) -> None:
    known = [*PART_QUERIES, *OTHER_QUERIES]
    for query, entities in filters.items():
        if query not in known:
            raise UsageError(
                f"the filter file has a query called `{query}`",
                expected=f"only {', '.join(known)}",
                remedy="rename or remove the query",
            )
        if not isinstance(entities, Mapping):
            raise UsageError(
                f"the query `{query}` of the filter file is no object",
                expected='{"entity": value, ...}',
            )
        for name, value in entities.items():
            entity_name(name)
            if any(isinstance(item, dict | list) for item in (value if isinstance(value, list) else [value])):
                raise UsageError(
                    f"`{name}` in the query `{query}` of the filter file is {value!r}",
                    expected='a value, a list of values, null (absent) or "*" (any)',
                )


def _chosen_participants(root: Path, selection: Selection) -> tuple[str, ...]:
    present = participant_labels(root)
    unknown = [label for label in selection.participants if label not in present]
    if unknown:
        raise NoMatchError(
            f"no such participant: {', '.join('sub-' + label for label in unknown)}",
            file=root,
            expected=f"labels among {_shortened(present)}",
            remedy="correct --participant-label",
        )
    return tuple(label for label in present if not selection.participants or label in selection.participants)


def _check_labels(what: str, entity: str, wanted: Collection[str], names: Mapping[Path, BidsName], root: Path) -> None:
    """Refuse labels that no image of any participant has: the others would be processed as if that were all."""
    present = sorted({name.get(entity) or "" for name in names.values()} - {""}, key=natural_key)
    unknown = [label for label in wanted if label not in present and not _anybody_has(root, entity, label)]
    if unknown:
        raise NoMatchError(
            f"no image in {what} {', '.join(f'{entity}-{label}' for label in unknown)}",
            expected=f"labels among {_shortened(present)}",
            remedy=f"correct --{what}-label",
        )


def _anybody_has(root: Path, entity: str, label: str) -> bool:
    """Whether any image of the data set has that label."""
    end = f"_{entity}-{label}_*"
    return any(next(root.glob(f"sub-*/{place}*{end}"), None) for place in ("", "*/", "ses-*/*/"))


def _shortened(labels: Collection[str], at_most: int = 12) -> str:
    shown = ", ".join(list(labels)[:at_most]) or "none at all"
    return shown if len(labels) <= at_most else f"{shown}, ... ({len(labels)} in all)"


def _in_place(paths: Iterable[Path], root: Path) -> tuple[dict[Path, BidsName], tuple[str, ...]]:
    """Names of the files that lie where their name says; the others are passed over with a warning."""
    names, warnings = {}, []
    for path in paths:
        name = parse_name(path)
        if name is not None and is_in_its_place(name, root):
            names[path] = name
        else:
            why = "its name is not a BIDS name" if name is None else "its name belongs into another folder"
            warnings.append(f"{path.relative_to(root)} is passed over: {why}")
    return names, tuple(warnings)


def _images(
    layout: BIDSLayout, selection: Selection, names: Mapping[Path, BidsName], store: SidecarStore
) -> list[Image]:
    images = []
    taken: set[Path] = set()
    for part, query in zip(PARTS, PART_QUERIES, strict=True):
        for path in find(layout, selection.query(query)):
            name = names.get(path)
            if name is None or path in taken or not _is_selected(name, selection):
                continue
            taken.add(path)
            echo = name.get("echo")
            index = int(echo) if echo is not None and echo.isdigit() else None
            images.append(Image(name, part, index, store.merged(name)))
    return images


def _is_selected(name: BidsName, selection: Selection) -> bool:
    in_session = not selection.sessions or name.get("ses") in selection.sessions
    return in_session and (not selection.acquisitions or name.get("acq") in selection.acquisitions)


def _grouped(images: Iterable[Image]) -> list[Candidate]:
    groups: dict[tuple[Any, ...], list[Image]] = defaultdict(list)
    for image in images:
        groups[image.name.without("echo", "part"), image.name.suffix].append(image)
    candidates = []
    for (entities, suffix), members in groups.items():
        given = dict(entities)
        rest = tuple(pair for pair in entities if pair[0] not in ("sub", "ses"))
        candidates.append(Candidate(given["sub"], given.get("ses"), rest, suffix, tuple(members)))
    return sorted(candidates, key=lambda c: (natural_key(c.key), SUFFIXES.index(c.suffix)))


def _with_phase(names: Mapping[Path, BidsName]) -> set[Path]:
    """Images of gradient-echo acquisitions with phase by their names, of those that were not selected too."""
    groups = {path: (name.without("echo", "part"), name.suffix) for path, name in names.items()}
    phased = {groups[path] for path, name in names.items() if name.get("part") in ("phase", "real", "imag")}
    return {path for path, group in groups.items() if group in phased}


def _wanted(candidates: list[Candidate], selection: Selection) -> list[Candidate]:
    """Leave out images that are not meant for QSM.

    T1w and PDw without phase are anatomical images. T2starw without phase is kept (and will be
    refused with a reason) only when the participant has nothing better. MEGRE is always meant.
    """
    explicit = "qsm_mag" in selection.filters and "suffix" in selection.filters["qsm_mag"]
    with_better = {c.subject for c in candidates if c.has_phase or c.suffix == "MEGRE"}
    return [
        c
        for c in candidates
        if c.has_phase or c.suffix == "MEGRE" or explicit or (c.suffix == "T2starw" and c.subject not in with_better)
    ]


def _masks(
    derivatives: Iterable[Path], participants: Collection[str], selection: Selection
) -> tuple[list[BidsName], list[BidsName]]:
    """Brain masks, and masks that the query does not find; none that qsmprep makes of a brain mask."""
    names: list[BidsName] = []
    others: list[BidsName] = []
    for folder in derivatives:
        root = Path(folder).absolute()
        if not root.is_dir():
            raise MissingFileError(
                "the derivatives folder is absent", file=root, remedy="correct the path given with --derivatives"
            )
        layout = index_participants(root, participants)
        found, _ = _in_place(find(layout, selection.query("mask")), root)
        names.extend(found.values())
        every, _ = _in_place(find(layout, {"suffix": "mask", "extension": list(IMAGE_EXTENSIONS)}), root)
        others.extend(
            name for path, name in every.items() if path not in found and not str(name.get("desc")).endswith("qsm")
        )
    return names, others
