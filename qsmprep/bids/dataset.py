"""Files of the output data set as a whole, and whether it may be where it was asked to be."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from qsmprep.bids.metadata import read_json
from qsmprep.bids.names import ignored_patterns
from qsmprep.bids.write import write_json, write_text
from qsmprep.errors import CannotWriteError, QSMPrepError, UsageError

NAME = "qsmprep"
"""Name of the pipeline in ``GeneratedBy``."""

BIDS_VERSION = "1.10.0"
"""Version of the standard that the outputs follow."""

README = """\
qsmprep derivatives
===================

Quantitative susceptibility maps made by qsmprep {version} from gradient-echo magnitude and phase.

sub-*/[ses-*/]anat/*_desc-<method>_Chimap    magnetic susceptibility in ppm
sub-*/[ses-*/]anat/*_R2starmap, *_T2starmap  R2* in 1/s and T2* in s
sub-*/[ses-*/]anat/*_desc-brain_mask         brain mask
sub-*/[ses-*/]anat/*_desc-qsm_mask           where the susceptibility is defined (in all maps;
                                             desc-<map>qsm of one that is defined in more)
sub-*/[ses-*/]fmap/*_desc-total_fieldmap     field of all sources in Hz
sub-*/[ses-*/]fmap/*_desc-local_fieldmap     field of the sources inside the mask in Hz
sub-*.html                                   report of a participant

Sign: paramagnetic sources (iron, deoxyhaemoglobin) are positive and bright, diamagnetic sources
(calcification, myelin) are negative and dark. Susceptibility is relative to the region that
`SusceptibilityReference` in the sidecar names.

Keys of the sidecars that are not BIDS terms:

SusceptibilityReference      region whose mean is zero
SignConvention               the sentence above
B0Direction                  unit vector of the static field in the voxel axes of the image
MagneticFieldStrengthSource  `sidecar` or `override` (given on the command line)
Parameters                   all parameters of the method that made the file
Iterations, Converged        of an iterative method
PhaseConvention              units and range of the phase as found, and the sign it was read with
"""


def write_dataset_files(
    out_dir: Path,
    bids_dir: Path,
    *,
    version: str,
    derivatives: Mapping[str, Path] | None = None,
    container: Mapping[str, str] | None = None,
) -> dict[str, Path]:
    """Write ``dataset_description.json``, ``.bidsignore`` and ``README``.

    Many processes may do so at once: each file is replaced as a whole. Links, other pipelines in
    ``GeneratedBy``, lines of ``.bidsignore`` and a README that are there already are kept.

    Parameters
    ----------
    out_dir, bids_dir : Path
        Derivatives to be written, and the raw data set.
    version : str
        Version of qsmprep.
    derivatives : mapping of str to Path, optional
        Names and roots of further data sets that were read.
    container : mapping of str to str, optional
        ``Type`` and ``Tag`` or ``URI``.

    Returns
    -------
    dict of str to Path
        Name to root of every linked data set, for `qsmprep.bids.sidecars.bids_uri`.

    Raises
    ------
    CannotWriteError
        When the file system refuses.
    """
    out_dir, bids_dir = Path(out_dir), Path(bids_dir)
    links = {"raw": bids_dir, **(derivatives or {})}
    existing = _description(out_dir)
    raw = _description(bids_dir)
    generated: dict[str, Any] = {"Name": NAME, "Version": version}
    if container:
        generated["Container"] = dict(container)
    relative = {name: os.path.relpath(Path(root).resolve(), out_dir.resolve()) for name, root in links.items()}
    description: dict[str, Any] = {
        "Name": "qsmprep - quantitative susceptibility mapping",
        "BIDSVersion": BIDS_VERSION,
        "DatasetType": "derivative",
        "GeneratedBy": [generated, *_by_others(existing)],
        "HowToAcknowledge": "Cite the methods listed in the methods section of the reports (logs/CITATION.*).",
        "DatasetLinks": {**_links(existing), **relative},
    }
    if _is_text(raw.get("DatasetDOI")):
        description["SourceDatasets"] = [{"DOI": raw["DatasetDOI"]}]
    if _is_text(raw.get("License")):
        description["License"] = raw["License"]
    write_json(description, out_dir / "dataset_description.json")
    write_text("\n".join(_ignore_lines(out_dir)) + "\n", out_dir / ".bidsignore")
    if not (out_dir / "README").exists():
        write_text(README.format(version=version), out_dir / "README")
    return {name: Path(root) for name, root in links.items()}


def _is_text(value: Any) -> bool:
    """Whether a field of somebody else's description can be taken over: a number there may be no JSON at all (NaN)."""
    return isinstance(value, str) and bool(value)


def _by_others(description: dict[str, Any]) -> list[dict[str, Any]]:
    """What a description says of other pipelines whose results lie in the same folder."""
    generated = description.get("GeneratedBy")
    entries = generated if isinstance(generated, list) else []
    return [entry for entry in entries if isinstance(entry, dict) and entry.get("Name") != NAME]


def _links(description: dict[str, Any]) -> dict[str, str]:
    """The links of a description, without what is none."""
    links = description.get("DatasetLinks")
    return {name: root for name, root in links.items() if _is_text(root)} if isinstance(links, dict) else {}


def version_warning(out_dir: Path, version: str) -> str | None:
    """What to say when results of another version are in the output already, or None."""
    generated = _description(Path(out_dir)).get("GeneratedBy")
    first = generated[0] if isinstance(generated, list) and generated and isinstance(generated[0], dict) else {}
    name, found = first.get("Name"), first.get("Version")
    if not first or (name == NAME and found == version):
        return None
    return (
        f"{out_dir} holds results of {name or 'another pipeline'} {found or 'of unknown version'}, "
        f"this is {NAME} {version}: use a fresh output folder to keep them apart"
    )


def check_output_dir(bids_dir: Path, out_dir: Path, work_dir: Path | None = None) -> tuple[str, ...]:
    """Whether results may be written where they were asked to be. Nothing is made or written.

    Parameters
    ----------
    bids_dir, out_dir, work_dir : Path
        As given on the command line.

    Returns
    -------
    tuple of str
        Warnings.

    Raises
    ------
    UsageError
        When the output or the work folder is inside the input (other than ``derivatives/<name>``), or
        they lie in each other in a way that loses results, or the output holds links into the input or is
        a raw data set.
    CannotWriteError
        When the output or the work folder cannot be written to.
    """
    raw, out = Path(bids_dir).resolve(), Path(out_dir).resolve()
    below = out.relative_to(raw).parts if out.is_relative_to(raw) else None
    if below is not None and not (len(below) > 1 and below[0] == "derivatives"):
        raise UsageError(
            "the output folder is the input itself" if not below else "the output folder lies inside the input",
            file=out_dir,
            expected="a folder of its own",
            remedy=f"use {Path(bids_dir) / 'derivatives' / NAME}",
        )
    description = _description(out)
    if _is_raw(description):
        raise UsageError(
            "the output folder is a data set of its own, no derivatives: its description would be replaced",
            file=out_dir,
            expected="a new folder, or one with derivatives",
            remedy=f"use {Path(out_dir) / 'derivatives' / NAME}; is the order BIDS_DIR OUT_DIR?",
        )
    _check_writable(out, Path(out_dir))
    _check_links(out, raw)
    warnings = []
    if below is not None and NAME not in below[1]:
        warnings.append(f"BIDS asks for the name {NAME} in the name of a folder below derivatives/, not {below[1]}")
    if work_dir is not None:
        work = Path(work_dir).resolve()
        if work.is_relative_to(raw):
            raise UsageError(
                "the work folder lies inside the input",
                file=work_dir,
                remedy=f"use {Path(out_dir).parent / 'work'}" if below is None else "use a scratch folder elsewhere",
            )
        if out.is_relative_to(work):
            raise UsageError(
                "the output folder lies inside the work folder and would be lost when that is cleaned",
                file=work_dir,
                expected="two separate folders",
            )
        _check_writable(work, Path(work_dir))
        if work.is_relative_to(out):
            warnings.append("the work folder lies inside the output folder; the BIDS validator will complain of it")
    return tuple(warnings)


def _is_raw(description: dict[str, Any]) -> bool:
    """Whether a description is of no derivatives. Old ones of pipelines do not say what they are."""
    made = any(key in description for key in ("GeneratedBy", "PipelineDescription"))
    return bool(description) and description.get("DatasetType", "derivative" if made else "raw") != "derivative"


def _check_links(out: Path, raw: Path) -> None:
    """Refuse an output folder whose own folders are links into the input: raw data would be written over."""
    for path in (*out.glob("*"), *out.glob("sub-*/*"), *out.glob("sub-*/ses-*/*")):
        if path.is_symlink() and path.is_dir() and path.resolve().is_relative_to(raw):
            raise UsageError(
                "a folder of the output is a link into the input",
                file=path,
                expected="an output folder of its own",
                remedy="remove the link",
            )


def _check_writable(folder: Path, given: Path) -> None:
    nearest = folder
    while not nearest.exists() and nearest != nearest.parent:
        nearest = nearest.parent
    why = None
    if not nearest.is_dir():
        why = f"{nearest.name} is a file"
    elif not os.access(nearest, os.W_OK | os.X_OK, effective_ids=os.access in os.supports_effective_ids):
        why = "it is read-only" if nearest == folder else f"{nearest} is read-only"
    if why is not None:
        raise CannotWriteError(
            f"the folder cannot be written to: {why}",
            file=given,
            expected="a folder in which files can be made",
            remedy="choose another folder, or have its permissions changed",
        )


def _description(root: Path) -> dict[str, Any]:
    """The data set's description, or an empty one where it is absent or broken."""
    try:
        return read_json(root / "dataset_description.json")
    except QSMPrepError:
        return {}


def _ignore_lines(out_dir: Path) -> Iterable[str]:
    """The lines that are there, and those of ours that are not."""
    try:
        present = (out_dir / ".bidsignore").read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        present = []
    return dict.fromkeys([*present, *ignored_patterns()])
