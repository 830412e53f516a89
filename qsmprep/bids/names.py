"""Where every output goes and what it is called: one table, and paths made from it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from qsmprep.bids.acquisition import Acquisition
from qsmprep.bids.entities import ENTITIES, LABEL
from qsmprep.errors import UsageError

_ANAT = frozenset({"sub", "ses", "task", "acq", "ce", "rec", "run", "chunk"})
_FMAP = frozenset({"sub", "ses", "acq", "run", "chunk"})
_VARIANT = frozenset({"space", "res", "desc"})
_IMAGE = (".nii.gz", ".json")


@dataclass(frozen=True)
class Output:
    """One kind of output.

    Parameters
    ----------
    suffix : str
        BIDS suffix.
    datatype : str
        Folder: ``anat`` or ``fmap``.
    entities : frozenset of str
        Short names of the entities that BIDS allows.
    extensions : tuple of str
        Files it comes as.
    units : str or None
        Unit of the voxels.
    in_bids : bool
        Whether BIDS has a rule for it; ``.bidsignore`` names what has none.
    """

    suffix: str
    datatype: str
    entities: frozenset[str]
    extensions: tuple[str, ...] = _IMAGE
    units: str | None = None
    in_bids: bool = True

    @property
    def is_labels(self) -> bool:
        """Whether the voxels are labels or membership, for which ``SkullStripped`` has no meaning."""
        return self.suffix in ("mask", "dseg", "probseg")


OUTPUTS: dict[str, Output] = {
    output.suffix: output
    for output in (
        Output("Chimap", "anat", _ANAT | _VARIANT, units="ppm"),
        Output("R2starmap", "anat", _ANAT | _VARIANT, units="1/s"),
        Output("T2starmap", "anat", _ANAT | _VARIANT, units="s"),
        Output("S0map", "anat", _ANAT | _VARIANT, units="arbitrary"),
        Output("MEGRE", "anat", _ANAT | _VARIANT | {"echo", "part"}, units="arbitrary"),
        Output("T2starw", "anat", _ANAT | _VARIANT | {"echo", "part"}, units="arbitrary"),
        Output("PDw", "anat", _ANAT | _VARIANT | {"echo", "part"}, units="arbitrary"),
        Output("T1w", "anat", _ANAT | _VARIANT | {"echo", "part"}, units="arbitrary"),
        Output("mask", "anat", _ANAT | _VARIANT | {"label"}),
        Output("dseg", "anat", _ANAT | _VARIANT | {"atlas", "seg", "scale"}, (".nii.gz", ".tsv", ".json")),
        Output("probseg", "anat", _ANAT | _VARIANT | {"atlas", "seg", "scale", "label"}),
        Output("fieldmap", "fmap", _FMAP | _VARIANT, units="Hz"),
        Output("magnitude", "fmap", _FMAP | _VARIANT, units="arbitrary"),
        Output("stats", "anat", frozenset(ENTITIES), (".tsv", ".json"), in_bids=False),
        Output("metrics", "anat", frozenset(ENTITIES), (".json",), in_bids=False),
        Output("checklist", "anat", frozenset(ENTITIES), (".tsv", ".md"), in_bids=False),
        Output("xfm", "anat", frozenset(ENTITIES), (".txt", ".h5", ".mat", ".nii.gz", ".json"), in_bids=False),
        Output("swi", "anat", frozenset(ENTITIES), units="arbitrary", in_bids=False),
        Output("minIP", "anat", frozenset(ENTITIES), units="arbitrary", in_bids=False),
    )
}
"""Every output by its suffix. Field maps are in ``fmap/``, where BIDS asks for a magnitude beside them."""

FIGURE_EXTENSIONS = (".svg", ".png", ".webp", ".html")
"""What may lie in ``figures/``, with any suffix."""


def derivative_path(
    out_dir: Path,
    acquisition: Acquisition,
    suffix: str,
    extension: str = ".nii.gz",
    *,
    datatype: str | None = None,
    **entities: str | int | None,
) -> Path:
    """Path of an output of one acquisition.

    Parameters
    ----------
    out_dir : Path
        Root of the derivatives.
    acquisition : Acquisition
        Gives the first entities of the name.
    suffix, extension : str
        Such as ``Chimap`` and ``.nii.gz``.
    datatype : str, optional
        ``anat``, ``fmap`` or ``figures``; by default the one of the table.
    **entities
        Further entities by their short names (``desc="rts"``, ``space="T1w"``); None leaves one out.
        ``from`` is spelt ``from_``.

    Returns
    -------
    Path
        ``out_dir/sub-XX[/ses-YY]/<datatype>/<entities in BIDS order>_<suffix><extension>``; figures are
        in ``out_dir/sub-XX/figures/`` for all sessions.

    Raises
    ------
    UsageError
        When the suffix, an entity, its value or the extension does not fit the table.

    Examples
    --------
    ``derivative_path(out, acquisition, "Chimap", desc="rts")`` is
    ``out/sub-01/ses-1/anat/sub-01_ses-1_run-1_desc-rts_Chimap.nii.gz``.
    """
    extra = {name.removesuffix("_"): str(value) for name, value in entities.items() if value is not None}
    datatype = _checked(suffix, extension, datatype, extra)
    given = {"sub": acquisition.subject, **dict(acquisition.entities)}
    if acquisition.session:
        given["ses"] = acquisition.session
    doubled = sorted(set(given) & set(extra))
    if doubled:
        raise UsageError(f"`{doubled[0]}` is given by the acquisition {acquisition.key} already")
    pairs = {**given, **extra}
    name = "_".join(f"{entity}-{pairs[entity]}" for entity in ENTITIES if entity in pairs)
    folder = Path(out_dir) / f"sub-{acquisition.subject}"
    if acquisition.session and datatype != "figures":
        folder = folder / f"ses-{acquisition.session}"
    return folder / datatype / f"{name}_{suffix}{extension}"


def sidecar_path(path: Path) -> Path:
    """The JSON file beside an image or a table."""
    for extension in (".nii.gz", ".nii", ".tsv", ".txt", ".h5", ".mat"):
        if path.name.endswith(extension):
            return path.with_name(path.name.removesuffix(extension) + ".json")
    raise UsageError("this kind of file has no sidecar", file=path)


def report_path(out_dir: Path, subject: str) -> Path:
    """The participant's report, ``out_dir/sub-XX.html``."""
    return Path(out_dir) / f"sub-{subject}.html"


def refused_path(out_dir: Path, key: str) -> Path:
    """The record of an acquisition that was refused: no output, so it lies among the logs."""
    return Path(out_dir) / "logs" / "refused" / f"{key}.json"


def safe_label(text: str) -> str:
    """A text as the value of an entity: letters and digits only.

    Raises
    ------
    UsageError
        When nothing is left of it.
    """
    label = re.sub(r"[^A-Za-z0-9]", "", text)
    if not label:
        raise UsageError(f"{text!r} makes no BIDS label", expected="letters and digits")
    return label


def ignored_patterns() -> tuple[str, ...]:
    """Lines of ``.bidsignore``: what is written and BIDS has no rule for (yet).

    The validator's patterns are not those of git: a folder is given without a trailing slash
    (bids-validator issue 291), and a third ``*`` in a line does not match as it should.
    """
    patterns = ["*.html", "logs", "log", "figures", "group_*", "CITATION.*"]
    patterns += [f"*_{output.suffix}.*" for output in OUTPUTS.values() if not output.in_bids]
    inherited = ("task", "ce", "rec", "dir", "mod", "flip", "inv", "mt", "proc")
    patterns += [f"*_{name}-*" for name in inherited if name not in _ANAT]
    for name in inherited:
        if name in _ANAT and name not in _FMAP:
            patterns += [f"sub-*/fmap/*_{name}-*", f"sub-*/ses-*/fmap/*_{name}-*"]
    return tuple(patterns)


def _checked(suffix: str, extension: str, datatype: str | None, extra: dict[str, str]) -> str:
    """Check the pieces of a name against the table, and settle the folder."""
    for name, value in extra.items():
        if name not in ENTITIES:
            raise UsageError(f"`{name}` is not a BIDS entity", expected=f"one of {', '.join(ENTITIES)}")
        if not LABEL.fullmatch(value):
            raise UsageError(f"{name}-{value} is no BIDS label", expected="letters and digits", remedy="use safe_label")
    if datatype == "figures":
        if not LABEL.fullmatch(suffix) or extension not in FIGURE_EXTENSIONS:
            raise UsageError(f"{suffix}{extension} is no figure", expected=f"one of {', '.join(FIGURE_EXTENSIONS)}")
        return datatype
    output = OUTPUTS.get(suffix)
    if output is None:
        raise UsageError(f"there is no output `{suffix}`", expected=f"one of {', '.join(OUTPUTS)}")
    wrong = sorted(set(extra) - output.entities)
    if wrong:
        raise UsageError(
            f"`{suffix}` takes no entity `{wrong[0]}`", expected=f"among {', '.join(sorted(output.entities))}"
        )
    if extension not in output.extensions:
        raise UsageError(f"`{suffix}` is not written as {extension}", expected=f"one of {', '.join(output.extensions)}")
    if datatype not in (None, output.datatype):
        raise UsageError(f"`{suffix}` does not belong into {datatype}/", expected=f"{output.datatype}/")
    return output.datatype
