"""The JSON beside every output, made from one description so that no key is forgotten."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qsmprep.bids.acquisition import Acquisition
from qsmprep.bids.metadata import finite_number
from qsmprep.bids.names import OUTPUTS
from qsmprep.errors import DataError

SIGN_CONVENTION = (
    "Paramagnetic sources (iron, deoxyhaemoglobin) are positive, diamagnetic ones (calcification, myelin) negative."
)
"""Said in the sidecar of every susceptibility map."""

PASSED_ON = (
    "RepetitionTimeExcitation",
    "FlipAngle",
    "Manufacturer",
    "ManufacturersModelName",
    "MRAcquisitionType",
    "PulseSequenceType",
    "ScanningSequence",
    "SequenceVariant",
    "SpoilingState",
)
"""Keys of the acquisition's sidecar that its outputs repeat."""

MASK_TYPES = ("Brain", "Lesion", "Face", "ROI")
"""What BIDS allows as ``Type`` of a mask."""


@dataclass(frozen=True)
class PhaseConvention:
    """How the phase came and how it was read.

    Parameters
    ----------
    units_in : str
        ``rad``, ``arbitrary`` or as found.
    range_in : tuple of float
        Lowest and highest stored value.
    sign : int
        +1 when the phase grows with the field, -1 when it was turned.
    source : str
        What settled the scaling, such as ``Units`` or ``vendor``.
    """

    units_in: str
    range_in: tuple[float, float]
    sign: int
    source: str = ""

    def to_dict(self) -> dict[str, Any]:
        """With the keys of the sidecar."""
        plain: dict[str, Any] = {"UnitsIn": self.units_in, "RangeIn": list(self.range_in), "Sign": self.sign}
        return {**plain, "Source": self.source} if self.source else plain


@dataclass(frozen=True)
class Sidecar:
    """What is to be said of one output.

    Parameters
    ----------
    description : str
        One sentence.
    sources : tuple of str
        BIDS URIs of the files it was made from (see `bids_uri`).
    skull_stripped : bool or None
        Whether voxels outside the brain were removed. Must be given for all but masks and segmentations.
    units : str or None
        Replaces the unit of the table, as for an unwrapped phase (``rad``).
    algorithm, reference : str or None
        Name of the method, and the URL (DOI) of the paper it comes from.
    parameters : mapping or dataclass
        All parameters of the method.
    b0_dir : tuple of float or None
        Direction of the static field in the voxel axes; it has none after a warp to a ``space``.
    susceptibility_reference : str or None
        Region whose mean is zero.
    iterations, converged : int, bool or None
        Of an iterative method.
    phase_convention : PhaseConvention or None
        For what rests on the phase.
    mask_type : str or None
        ``Brain`` or ``ROI``; must be given for a mask.
    resolution, spatial_reference : str or None
        Must be given with the entity ``res``, and with a ``space`` that is no standard template.
    execution : mapping
        ``Device``, ``Threads``, ``Dtype``, ``RandomSeed`` and the like.
    extra : mapping
        Further keys, in CamelCase.
    """

    description: str
    sources: tuple[str, ...]
    skull_stripped: bool | None = None
    units: str | None = None
    algorithm: str | None = None
    reference: str | None = None
    parameters: Any = None
    b0_dir: tuple[float, float, float] | None = None
    susceptibility_reference: str | None = None
    iterations: int | None = None
    converged: bool | None = None
    phase_convention: PhaseConvention | None = None
    mask_type: str | None = None
    resolution: str | None = None
    spatial_reference: str | None = None
    execution: Mapping[str, Any] = field(default_factory=dict)
    extra: Mapping[str, Any] = field(default_factory=dict)


def sidecar_json(
    sidecar: Sidecar, acquisition: Acquisition, suffix: str, **entities: str | int | None
) -> dict[str, Any]:
    """The content of the JSON file of one output.

    Parameters
    ----------
    sidecar : Sidecar
        What is to be said.
    acquisition : Acquisition
        Gives field strength, echo times and the like.
    suffix : str
        One of `qsmprep.bids.names.OUTPUTS`.
    **entities
        The same as for `qsmprep.bids.names.derivative_path`. With ``echo``, the echo time is that of
        this echo (from 1 on), otherwise all of them.

    Returns
    -------
    dict
        Keys in the order in which they are written.

    Raises
    ------
    DataError
        When something is missing that BIDS requires of this output.
    """
    given = {name: value for name, value in entities.items() if value is not None}
    _check_required(sidecar, suffix, given)
    output = OUTPUTS[suffix]
    keys: dict[str, Any] = {
        "Description": sidecar.description,
        "Units": sidecar.units or output.units,
        "SkullStripped": sidecar.skull_stripped,
        "Type": sidecar.mask_type,
        "Resolution": sidecar.resolution,
        "SpatialReference": sidecar.spatial_reference,
        "Sources": list(sidecar.sources),
        "EstimationReference": sidecar.reference,
        "EstimationAlgorithm": sidecar.algorithm,
    }
    if suffix == "Chimap":
        keys["SignConvention"] = SIGN_CONVENTION
    keys |= _acquisition_keys(acquisition, given) if not output.is_labels else {}
    keys |= {
        "SusceptibilityReference": sidecar.susceptibility_reference,
        "B0Direction": None if sidecar.b0_dir is None else [float(c) for c in sidecar.b0_dir],
        "Parameters": _plain_parameters(sidecar.parameters),
        "Iterations": sidecar.iterations,
        "Converged": sidecar.converged,
        "PhaseConvention": None if sidecar.phase_convention is None else sidecar.phase_convention.to_dict(),
        **sidecar.execution,
        **sidecar.extra,
    }
    return {key: value for key, value in keys.items() if value is not None}


def bids_uri(path: Path, out_dir: Path, links: Mapping[str, Path]) -> str:
    """BIDS URI of a file: ``bids::...`` in the output, ``bids:raw:...`` in the data set called raw.

    Parameters
    ----------
    path : Path
        Any file.
    out_dir : Path
        Root of the derivatives that are written.
    links : mapping of str to Path
        The names of ``DatasetLinks`` and the roots of these data sets.

    Returns
    -------
    str
        The URI in the innermost data set that holds the file; a ``file:`` URI when none does.
    """
    file = Path(path).absolute()
    roots = {"": Path(out_dir).absolute(), **{name: Path(root).absolute() for name, root in links.items()}}
    holding = {name: root for name, root in roots.items() if file.is_relative_to(root)}
    if not holding:
        return file.as_uri()
    name = max(holding, key=lambda key: len(holding[key].parts))
    return f"bids:{name}:{file.relative_to(holding[name]).as_posix()}"


def bids_uris(paths: Iterable[Path], out_dir: Path, links: Mapping[str, Path]) -> tuple[str, ...]:
    """`bids_uri` of several files."""
    return tuple(bids_uri(path, out_dir, links) for path in paths)


def _check_required(sidecar: Sidecar, suffix: str, given: Mapping[str, Any]) -> None:
    output = OUTPUTS.get(suffix)
    if output is None:
        raise DataError(f"there is no output `{suffix}`", expected=f"one of {', '.join(OUTPUTS)}")
    missing = []
    if not sidecar.sources:
        missing.append("sources")
    is_image = ".nii.gz" in output.extensions and output.in_bids
    if is_image and not output.is_labels and sidecar.skull_stripped is None:
        missing.append("skull_stripped")
    if suffix == "mask" and sidecar.mask_type not in MASK_TYPES:
        missing.append("mask_type")
    if suffix == "Chimap":
        missing += [
            name
            for name in ("algorithm", "parameters", "b0_dir", "susceptibility_reference")
            if getattr(sidecar, name) is None and not (name == "b0_dir" and "space" in given)
        ]
    if given.get("part") == "phase" and sidecar.units not in ("rad", "arbitrary"):
        missing.append("units")
    if "res" in given and sidecar.resolution is None:
        missing.append("resolution")
    if "space" in given and not _is_standard(str(given["space"])) and sidecar.spatial_reference is None:
        missing.append("spatial_reference")
    if missing:
        raise DataError(f"the sidecar of a `{suffix}` lacks {', '.join(missing)}")


def _is_standard(space: str) -> bool:
    """Whether a space is one of the templates that BIDS knows by name."""
    return space.startswith(("MNI", "fsaverage", "fsLR", "ICBM", "IXI", "OASIS", "UNC", "Talairach", "NIHPD", "PNC"))


def _acquisition_keys(acquisition: Acquisition, given: Mapping[str, Any]) -> dict[str, Any]:
    te_s: Any = list(acquisition.te_s)
    if "echo" in given:
        index = int(given["echo"])
        if not 1 <= index <= len(te_s):
            raise DataError(f"{acquisition.key} has no echo {index}", expected=f"1 to {len(te_s)}")
        te_s = te_s[index - 1]
    keys = {
        "MagneticFieldStrength": acquisition.b0_t,
        "MagneticFieldStrengthSource": acquisition.b0_source,
        "EchoTime": te_s,
    }
    metadata = dict(acquisition.metadata)
    if "RepetitionTimeExcitation" not in metadata and "RepetitionTime" in metadata:
        metadata["RepetitionTimeExcitation"] = metadata["RepetitionTime"]
    return {**keys, **{key: metadata[key] for key in PASSED_ON if _is_plain(metadata.get(key))}}


def _is_plain(value: Any) -> bool:
    """Whether a value of a raw sidecar is text, a finite number, a truth value, or a list of these."""
    if isinstance(value, list):
        return all(_is_plain(item) and not isinstance(item, list) for item in value)
    return isinstance(value, str | bool) or finite_number(value) is not None


def _plain_parameters(parameters: Any) -> dict[str, Any] | None:
    if parameters is None:
        return None
    is_instance = dataclasses.is_dataclass(parameters) and not isinstance(parameters, type)
    return dataclasses.asdict(parameters) if is_instance else dict(parameters)
