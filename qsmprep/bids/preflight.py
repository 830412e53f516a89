"""Look at every header and sidecar before any work: what can be processed, and why the rest cannot.

Nothing is written and no voxel is read. All problems of all participants are collected.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from qsmprep.bids import checks
from qsmprep.bids.acquisition import Acquisition, Echo
from qsmprep.bids.collect import Candidate, Collected, Image, Selection, collect
from qsmprep.bids.headers import Header, read_header, same_grid
from qsmprep.bids.index import participant_labels
from qsmprep.bids.metadata import read_json
from qsmprep.bids.segmentations import Segmentation
from qsmprep.errors import DataError, InvalidBIDSError, MissingFileError, NoMatchError, QSMPrepError, UsageError


@dataclass(frozen=True)
class Verdict:
    """What can be done with one acquisition.

    Parameters
    ----------
    key : str
        Such as ``sub-01_ses-1_acq-x_run-1``; ``sub-01`` for a participant without images.
    subject : str
        Label without ``sub-``.
    n_echoes : int
        Echoes found.
    te_s : tuple of float
        Their echo times in seconds, as far as known.
    parts : tuple of str
        Parts found, among mag, phase, real, imag.
    acquisition : Acquisition or None
        None when it cannot be processed.
    problems : tuple of QSMPrepError
        Why it cannot be processed; empty otherwise.
    warnings : tuple of str
        What is odd, but does not stop it.
    segmentations : tuple of Segmentation
        What regions of interest are taken from.
    """

    key: str
    subject: str
    n_echoes: int = 0
    te_s: tuple[float, ...] = ()
    parts: tuple[str, ...] = ()
    acquisition: Acquisition | None = None
    problems: tuple[QSMPrepError, ...] = ()
    warnings: tuple[str, ...] = ()
    segmentations: tuple[Segmentation, ...] = ()


@dataclass(frozen=True)
class Preflight:
    """The verdicts on a data set.

    Parameters
    ----------
    bids_dir : Path
        The data set.
    verdicts : tuple of Verdict
        One for each acquisition, and one for each participant that has none.
    problems : tuple of QSMPrepError
        What is wrong with the request or the data set as a whole. One of these stops the run.
    warnings : tuple of str
        What concerns no single acquisition.
    """

    bids_dir: Path
    verdicts: tuple[Verdict, ...]
    problems: tuple[QSMPrepError, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def acquisitions(self) -> tuple[Acquisition, ...]:
        """What can be processed."""
        return tuple(v.acquisition for v in self.verdicts if v.acquisition is not None)

    def raise_if_nothing_to_do(self) -> None:
        """Raise the most telling error when the run must not start.

        Raises
        ------
        InvalidBIDSError
            When the folder is no BIDS data set.
        NoMatchError
            When a participant or session asked for is absent, or the selection matches nothing.
        UsageError, MissingFileError, DataError
            When nothing is left to process: the commonest reason, with its first instance.
        """
        if self.problems:
            raise self.problems[0]
        if self.acquisitions:
            return
        reasons = [verdict.problems[0] for verdict in self.verdicts if verdict.problems]
        if not reasons:
            raise NoMatchError("nothing was found to process", file=self.bids_dir)
        if len(reasons) == 1:
            raise reasons[0]
        (kind, _), *_ = Counter(type(reason) for reason in reasons).most_common()
        first = next(reason for reason in reasons if type(reason) is kind)
        raise kind(
            f"none of {len(reasons)} acquisitions or participants can be processed; the first: {first.what}",
            file=first.file,
            expected=first.expected,
            remedy=first.remedy,
        )


def preflight(
    bids_dir: str | Path,
    selection: Selection | None = None,
    *,
    b0_t_override: float | None = None,
    derivatives: Iterable[str | Path] = (),
    require_description: bool = True,
) -> Preflight:
    """Judge every acquisition of the selection from its headers and sidecars.

    Parameters
    ----------
    bids_dir : str or Path
        Raw BIDS data set.
    selection : Selection, optional
        What to process; everything by default.
    b0_t_override : float, optional
        Field strength in tesla that replaces the sidecars'.
    derivatives : iterable of str or Path
        Derivative data sets with brain masks.
    require_description : bool
        Whether a data set without ``dataset_description.json`` is refused.

    Returns
    -------
    Preflight
        Never raises for what is wrong with the data; see `Preflight.raise_if_nothing_to_do`.
    """
    root = Path(bids_dir).absolute()
    selection = selection or Selection()
    try:
        warnings = _check_data_set(root, require_description)
        _check_override(b0_t_override)
        collected = collect(root, selection, [Path(folder) for folder in derivatives])
    except QSMPrepError as error:
        return Preflight(root, (), (error,))
    verdicts = _without_clashes([judge(candidate, b0_t_override) for candidate in collected.candidates], collected)
    verdicts += _empty_handed(collected, selection, root)
    order = {label: place for place, label in enumerate(collected.participants)}
    verdicts.sort(key=lambda verdict: order[verdict.subject])
    return Preflight(root, tuple(verdicts), (), (*warnings, *collected.warnings))


def judge(candidate: Candidate, b0_t_override: float | None = None) -> Verdict:
    """Judge one candidate.

    Parameters
    ----------
    candidate : Candidate
        From `qsmprep.bids.collect.collect`.
    b0_t_override : float, optional
        Field strength in tesla that replaces the sidecars'.
    """
    problems: list[QSMPrepError] = list(checks.check_name(candidate))
    warnings: list[str] = []
    for image in candidate.images:
        problems += [p for p in image.sidecar.problems if str(p) not in map(str, problems)]
        warnings += image.sidecar.warnings
    echoes, found, said = checks.by_echo(candidate)
    problems, warnings = problems + found, warnings + said
    found, said = checks.check_parts(candidate, echoes)
    problems, warnings = problems + found, warnings + said
    te_s, found, said = checks.check_echo_times(echoes)
    problems, warnings = problems + found, warnings + said
    images = [image for parts in echoes.values() for image in parts.values()]
    b0_t, b0_source, found, said = checks.check_b0(images, b0_t_override)
    problems, warnings = problems + found, warnings + said
    headers, found = _headers(images)
    problems += found or checks.check_geometry(headers)
    warnings += [text for header in headers for text in header.warnings]
    verdict = Verdict(candidate.key, candidate.subject, len(echoes), tuple(sorted(te_s.values())), candidate.parts)
    if problems or b0_t is None:
        return replace(verdict, problems=tuple(problems), warnings=tuple(warnings))
    acquisition, said = _acquisition(candidate, echoes, te_s, b0_t, b0_source, headers[0])
    return replace(verdict, acquisition=acquisition, warnings=(*warnings, *said))


def _check_data_set(root: Path, require_description: bool) -> tuple[str, ...]:
    if not root.is_dir():
        raise InvalidBIDSError("there is no such folder", file=root, expected="a BIDS data set")
    description = root / "dataset_description.json"
    if not description.exists() and not require_description and participant_labels(root):
        return ("dataset_description.json is missing",)
    if not description.exists():
        raise InvalidBIDSError(
            "the folder is no BIDS data set: dataset_description.json is missing",
            file=root,
            remedy="give the root of the data set, the folder that holds sub-*",
        )
    try:
        content = read_json(description)
    except QSMPrepError as error:
        raise InvalidBIDSError(error.what, file=description, expected=error.expected) from error
    if not participant_labels(root):
        raise InvalidBIDSError("the data set has no participants", file=root, expected="folders sub-*")
    warnings = [f"dataset_description.json has no {key}" for key in ("Name", "BIDSVersion") if not content.get(key)]
    if content.get("DatasetType", "raw") != "raw":
        warnings.append(f"the input is a data set of type {content['DatasetType']}, not raw")
    return tuple(warnings)


def _check_override(b0_t: float | None) -> None:
    if b0_t is not None and not 0 < b0_t <= checks.MAX_B0_T:
        raise UsageError(
            f"a field strength of {b0_t:g} T was asked for", expected=f"tesla, above 0 and at most {checks.MAX_B0_T:g}"
        )


def _headers(images: Iterable[Image]) -> tuple[list[Header], list[QSMPrepError]]:
    headers, problems = [], []
    for image in images:
        try:
            headers.append(read_header(image.path))
        except QSMPrepError as error:
            problems.append(error)
    return headers, problems


def _acquisition(
    candidate: Candidate,
    echoes: checks.EchoImages,
    te_s: dict[int | None, float],
    b0_t: float,
    b0_source: str,
    grid: Header,
) -> tuple[Acquisition, list[str]]:
    ordered = sorted(te_s, key=lambda index: te_s[index])
    use_phase = "phase" in candidate.parts
    names = {"magnitude": "mag", **({"phase": "phase"} if use_phase else {"real": "real", "imag": "imag"})}
    built = tuple(
        Echo(te_s[i], **{name: echoes[i][part].path for name, part in names.items() if part in echoes[i]})
        for i in ordered
    )
    metadata = {}
    for part in ("mag", "imag", "real", "phase"):
        if part in echoes[ordered[0]]:
            metadata.update(echoes[ordered[0]][part].sidecar.values)
    warnings: list[str] = []
    units = echoes[ordered[0]]["phase"].sidecar.values.get("Units") if use_phase else None
    if units not in (None, "rad", "arbitrary"):
        warnings.append(f"Units of the phase is {units!r}; BIDS knows rad and arbitrary")
    t1w = _first_readable(candidate.t1w, warnings)
    same_session = [path for path in candidate.t1w if t1w is not None and path.parent == t1w.parent]
    if t1w is not None and len(same_session) > 1:
        warnings.append(f"{len(same_session)} T1w images fit; {t1w.name} is used (choose with --bids-filter-file)")
    mask = _mask_on(grid, candidate.masks, warnings)
    acquisition = Acquisition(
        candidate.subject,
        candidate.session,
        candidate.entities,
        candidate.suffix,
        built,
        b0_t,
        b0_source,
        metadata,
        None if units is None else str(units),
        t1w,
        mask,
    )
    return acquisition, warnings


def _first_readable(images: Iterable[Path], warnings: list[str]) -> Path | None:
    for path in images:
        try:
            read_header(path)
        except QSMPrepError as error:
            warnings.append(f"the T1w image {path.name} is not used: {error.what}")
        else:
            return path
    return None


def _mask_on(grid: Header, masks: Iterable[Path], warnings: list[str]) -> Path | None:
    for path in masks:
        try:
            if same_grid(grid, read_header(path)):
                return path
            warnings.append(f"the mask {path.name} is not used: it is not on the grid of the echoes")
        except QSMPrepError as error:
            warnings.append(f"the mask {path.name} is not used: {error.what}")
    return None


def _without_clashes(verdicts: list[Verdict], collected: Collected) -> list[Verdict]:
    """Refuse what would write the same names as an acquisition with another suffix before it."""
    taken: dict[str, str] = {}
    kept = []
    for verdict, candidate in zip(verdicts, collected.candidates, strict=True):
        if verdict.acquisition is not None and verdict.key in taken:
            clash = DataError(
                f"{candidate.suffix} and {taken[verdict.key]} images would write results of the same names",
                file=candidate.images[0].path,
                expected="another acq- label for each of them",
                remedy="rename one, or choose by `suffix` in --bids-filter-file; "
                f"{taken[verdict.key]} is processed here",
            )
            verdict = replace(verdict, acquisition=None, problems=(clash,))
        elif verdict.acquisition is not None:
            taken[verdict.key] = candidate.suffix
        kept.append(verdict)
    return kept


def _empty_handed(collected: Collected, selection: Selection, root: Path) -> list[Verdict]:
    """A verdict for every participant without a candidate."""
    served = {candidate.subject for candidate in collected.candidates}
    verdicts = []
    for label in collected.participants:
        if label in served:
            continue
        problem: QSMPrepError
        if selection.is_narrowed:
            problem = NoMatchError(
                f"the selection leaves no gradient-echo image of sub-{label}",
                file=root / f"sub-{label}",
                remedy="widen the session, acquisition or filter",
            )
        else:
            problem = MissingFileError(
                f"sub-{label} has no gradient-echo images with phase",
                file=root / f"sub-{label}",
                expected="anat/*_part-phase_{MEGRE,T2starw,PDw,T1w}.nii[.gz] with their magnitudes",
            )
        verdicts.append(Verdict(f"sub-{label}", label, problems=(problem,)))
    return verdicts
