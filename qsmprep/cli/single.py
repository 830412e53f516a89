"""What ``qsmprep-step`` does with its files: read, check, convert, call one function of ``core``, write."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import errno
import math
import tempfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from qsmprep.bids.headers import check_offset, check_size, same_place
from qsmprep.bids.metadata import read_json
from qsmprep.bids.names import sidecar_path
from qsmprep.bids.write import cannot_write, write_json, write_nifti
from qsmprep.core.bibliography import load
from qsmprep.core.device import is_out_of_memory, resolve_device
from qsmprep.core.grid import Grid
from qsmprep.core.methods import METHODS
from qsmprep.core.registry import Method
from qsmprep.core.results import LocalField
from qsmprep.core.units import hz_per_ppm, rad_per_ppm
from qsmprep.errors import DataError, MissingFileError, OutOfMemoryError, QSMPrepError, UsageError
from qsmprep.version import qsmprep_version

UNIT_SYMBOLS = {"ppm": "ppm", "hz": "Hz", "rad": "rad"}
"""Units of the command line as they are written in sidecars."""


@dataclass(frozen=True)
class Source:
    """A volume as it was read."""

    path: Path
    data: NDArray[np.float32]
    image: nib.spatialimages.SpatialImage


def load_image(path: Path) -> tuple[NDArray[Any], nib.spatialimages.SpatialImage]:
    """Read the voxels of an image, of any number of dimensions from three on, and the image.

    Raises
    ------
    MissingFileError, DataError
        When it is absent, not an image, cut short, complex, or has fewer than three dimensions.
    """
    try:
        check_offset(path)
        image = nib.load(path)
        if not isinstance(image, nib.spatialimages.SpatialImage):
            raise DataError("the file holds no image of voxels", file=path, expected="a NIfTI file")
        check_size(path, image.shape)
        data = np.asanyarray(image.dataobj)
    except FileNotFoundError:
        raise MissingFileError("the file does not exist", file=path) from None
    except (OSError, EOFError, ValueError, zlib.error, nib.filebasedimages.ImageFileError) as error:
        raise DataError(f"the image cannot be read ({error})", file=path, expected="a complete NIfTI file") from None
    if np.iscomplexobj(data):
        raise DataError("the image is complex", file=path, expected="real values")
    if data.ndim < 3:
        raise DataError(f"the image has shape {data.shape}", file=path, expected="three dimensions or more")
    return data, image


def read(path: Path) -> Source:
    """Read a three-dimensional volume.

    Raises
    ------
    MissingFileError, DataError
        As :func:`load_image`, and when there is more than one volume.
    """
    data, image = load_image(path)
    if any(n != 1 for n in data.shape[3:]):
        raise DataError(f"the image has shape {data.shape}", file=path, expected="one three-dimensional volume")
    return Source(path, data.reshape(data.shape[:3]).astype(np.float32), image)


def read_mask(path: Path) -> Source:
    """Read a mask; what is not zero is inside.

    Raises
    ------
    MissingFileError, DataError
        As :func:`read`, and when the mask is empty or not finite.
    """
    source = read(path)
    if not np.isfinite(source.data).all():
        raise DataError("the mask has values that are not finite", file=path, expected="zero outside, one inside")
    mask = source.data != 0
    if not mask.any():
        raise DataError("the mask is empty", file=path, expected="at least one voxel that is not zero")
    return dataclasses.replace(source, data=mask)


def read_on_grid(path: Path | None, mask: Source) -> NDArray[np.float32] | None:
    """Read a volume that must lie on the grid of the mask and be finite inside it; zero where it is not.

    Raises
    ------
    MissingFileError, DataError
        As :func:`read`, and when grids differ or values inside the mask are not finite.
    """
    if path is None:
        return None
    source = read(path)
    if source.data.shape != mask.data.shape:
        raise DataError(
            f"the image has shape {source.data.shape}, but the mask {mask.path} has {mask.data.shape}",
            file=path,
            expected="one grid for all files",
            remedy="resample one to the other, the mask with nearest neighbours",
        )
    if not same_place(mask.image.affine, source.image.affine, mask.data.shape):
        off_mm = float(np.abs(source.image.affine - mask.image.affine).max())
        raise DataError(
            f"the affine differs from that of the mask {mask.path} by up to {off_mm:.3g}",
            file=path,
            expected="one grid for all files",
            remedy="resample one to the other, the mask with nearest neighbours",
        )
    finite = np.isfinite(source.data)
    bad = int(np.count_nonzero(mask.data & ~finite))
    if bad:
        raise DataError(
            f"{bad} voxels inside the mask are not finite",
            file=path,
            expected="finite values wherever the mask is set",
            remedy="take these voxels out of the mask",
        )
    return np.where(finite, source.data, np.float32(0))


def make_grid(mask: Source, b0_dir: list[float] | None) -> Grid:
    """The grid of the mask, with B0 from its affine or as given.

    Raises
    ------
    DataError
        When the affine is singular or sheared, or the given direction has no length.
    """
    try:
        grid = Grid.from_affine(mask.data.shape, mask.image.affine)
    except DataError as error:
        raise DataError(error.what, file=mask.path, expected=error.expected, remedy=error.remedy) from None
    return grid if b0_dir is None else Grid(grid.shape, grid.voxel_mm, (b0_dir[0], b0_dir[1], b0_dir[2]))


def unit_per_ppm(units: str, b0_t: float | None, te_s: float | None) -> float:
    """How much of the unit (``ppm``, ``hz`` or ``rad``) makes 1 ppm."""
    if units == "ppm":
        return 1.0
    assert b0_t is not None, "the words are checked before"
    if units == "hz":
        return hz_per_ppm(b0_t)
    assert te_s is not None, "the words are checked before"
    return rad_per_ppm(b0_t, te_s)


def units_of(field: Path, given: str | None) -> str | None:
    """The unit of a field: as given, else as in the JSON file beside it; None where neither knows.

    Raises
    ------
    UsageError
        When the two contradict each other: susceptibility would be wrong by a factor.
    """
    try:
        written = str(read_json(sidecar_path(field)).get("Units", "")).lower()
    except QSMPrepError:
        return given
    if written not in UNIT_SYMBOLS:
        return given
    if given is not None and given != written:
        raise UsageError(
            f"`--units` is {given}, but the file beside the field says {UNIT_SYMBOLS[written]}",
            file=sidecar_path(field),
            expected="one unit",
            remedy=f"give --units {written}, or correct the file",
        )
    return written


def check_writable(path: Path) -> None:
    """Find out whether a file can be made at ``path``, before any long work.

    Raises
    ------
    CannotWriteError
        When it cannot.
    """
    folder = path.absolute().parent
    while not folder.exists():
        folder = folder.parent
    try:
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, "it is a folder")
        with tempfile.NamedTemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise cannot_write(path, error) from None


@contextlib.contextmanager
def out_of_memory_told() -> Iterator[None]:
    """Turn Python's and torch's lack of memory into the error of the house."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if is_out_of_memory(error):
            raise OutOfMemoryError("there is not enough memory", remedy="run again with more memory") from error
        raise


def provenance(args: argparse.Namespace, method: Method, grid: Grid, inputs: dict[str, Path | None]) -> dict[str, Any]:
    """What every sidecar says: method, parameters, geometry, inputs, version."""
    facts: dict[str, Any] = {
        "EstimationAlgorithm": method.title,
        "EstimationReference": [load()[key].url for key in method.citations],
        "Method": method.name,
        "Parameters": dataclasses.asdict(args.params),
        "InputUnits": UNIT_SYMBOLS.get(args.units),
        "MagneticFieldStrength": args.b0_t,
        "EchoTime": args.te_s,
        "B0Direction": list(grid.b0_dir),
        "B0DirectionFrame": "voxel axes",
        "Inputs": {name: str(path) for name, path in inputs.items() if path is not None},
        "Device": args.device,
        "GeneratedBy": [{"Name": "qsmprep", "Version": qsmprep_version()}],
    }
    return {name: value for name, value in facts.items() if value is not None}


def details(info: dict[str, Any]) -> dict[str, Any]:
    """What a method noted on its way, as far as it is numbers and words; ``None`` where a number is not finite."""
    result: dict[str, Any] = {}
    for name, value in info.items():
        value = value.item() if isinstance(value, np.generic) else value
        words = isinstance(value, list) and all(isinstance(item, str) for item in value)
        if words or isinstance(value, bool | int | str):
            result[name] = value
        elif isinstance(value, float):
            result[name] = value if math.isfinite(value) else None
    return result


def write_results(volumes: dict[Path, NDArray[Any]], sidecar: dict[str, Any], out: Path, like: Source) -> None:
    """Write all volumes and the sidecar of ``out``; what is new is taken back when one of them fails.

    Raises
    ------
    CannotWriteError
        When a file cannot be written.
    """
    targets = [sidecar_path(out), *volumes]
    fresh = [path for path in targets if not path.exists()]
    header = like.image.header if isinstance(like.image.header, nib.Nifti1Header) else None
    try:
        for path, data in volumes.items():
            write_nifti(data, like.image.affine, header, path, series=True)
        write_json(sidecar, sidecar_path(out))
    except QSMPrepError:
        for path in fresh:
            path.unlink(missing_ok=True)
        raise


def _start(args: argparse.Namespace) -> tuple[Source, Grid]:
    """What both steps begin with: can it be written, the device, the mask and its grid."""
    for path in (args.out, getattr(args, "out_mask", None)):
        if path is not None:
            check_writable(path)
    args.device = resolve_device(args.device)
    mask = read_mask(args.mask)
    return mask, make_grid(mask, args.b0_dir)


def background(args: argparse.Namespace) -> str:
    """Remove the background field from one file and say what was done."""
    mask, grid = _start(args)
    args.units = units_of(args.field, args.units)
    method = METHODS.get("background", args.method)
    field = read_on_grid(args.field, mask)
    weights = read_on_grid(args.weights, mask)
    with out_of_memory_told():
        local = method.load()(field, mask.data, grid, args.params, weights=weights, device=args.device)
    kept = np.count_nonzero(local.mask) / np.count_nonzero(mask.data)
    told = {
        "Description": "Local field: the total field without that of sources outside the mask",
        "MaskFractionKept": round(kept, 6),
    }
    _write_field(args, method, local, mask, grid, told)
    return f"{args.out}: {method.title}, {100 * kept:.1f} % of the mask kept"


def remainder(args: argparse.Namespace) -> str:
    """Take off one local field what background removal left in it and say what was done."""
    mask, grid = _start(args)
    args.units = units_of(args.field, args.units)
    method = METHODS.get("remainder", args.method)
    field, scale = read_on_grid(args.field, mask), np.float32(unit_per_ppm(args.units, args.b0_t, args.te_s))
    assert field is not None
    with out_of_memory_told():
        local = method.load()(
            field / scale,
            mask.data,
            grid,
            args.params,
            weights=read_on_grid(args.weights, mask),
            rad_per_ppm=phase_of_ppm(args),
            device=args.device,
        )
    local = dataclasses.replace(local, field_ppm=local.field_ppm * scale)
    _write_field(args, method, local, mask, grid, {"Description": "Local field less what is left of the background"})
    size = local.info.get("harmonic_ppm", 0.0)
    told = f"a field with a root mean square of {1e3 * size:.2g} ppb" if size else "nothing"
    share = local.info.get("outlier_share", 0.0)
    more = f"; {100 * share:.2g} % of the voxels were far off and brought nearer" if share else ""
    return f"{args.out}: {method.title}, {told} taken off{more}"


def phase_of_ppm(args: argparse.Namespace) -> float | None:
    """Phase in radians of 1 ppm, where field strength and echo time are given."""
    return rad_per_ppm(args.b0_t, args.te_s) if args.b0_t and args.te_s else None


def _write_field(
    args: argparse.Namespace, method: Method, local: LocalField, mask: Source, grid: Grid, told: dict[str, Any]
) -> None:
    """Write a local field, its mask where that is wanted, and the sidecar."""
    inputs = {"field": args.field, "mask": args.mask, "weights": args.weights}
    units = {"Units": UNIT_SYMBOLS.get(args.units)}
    sidecar = {**told, **units, **provenance(args, method, grid, inputs), "Details": details(local.info)}
    volumes: dict[Path, NDArray[Any]] = {args.out: local.field_ppm}
    if getattr(args, "out_mask", None) is not None:
        volumes[args.out_mask] = local.mask
    write_results(volumes, {k: v for k, v in sidecar.items() if v is not None}, args.out, mask)


def invert(args: argparse.Namespace) -> str:
    """Compute susceptibility from one local field and say what was done."""
    mask, grid = _start(args)
    args.units = units_of(args.field, args.units)
    method = METHODS.get("inversion", args.method)
    field = read_on_grid(args.field, mask)
    assert field is not None
    field_ppm = field / np.float32(unit_per_ppm(args.units, args.b0_t, args.te_s))
    weights, magnitude = read_on_grid(args.weights, mask), read_on_grid(args.magnitude, mask)
    if args.csf is not None and "csf" not in method.extras:
        raise UsageError(f"{method.name} makes no use of `--csf`", remedy="leave it out, or choose medi")
    extras = {"csf": read_on_grid(args.csf, mask)} if args.csf is not None else {}
    with out_of_memory_told():
        result = method.load()(
            field_ppm,
            mask.data,
            grid,
            args.params,
            weights=weights,
            magnitude=magnitude,
            rad_per_ppm=phase_of_ppm(args),
            device=args.device,
            **extras,
        )
        reference = METHODS.get("reference", args.reference)
        referenced = reference.load()(result.chi_ppm, mask.data, reference.configure())
    inputs = {"field": args.field, "mask": args.mask, "weights": args.weights, "magnitude": args.magnitude}
    inputs["csf"] = args.csf
    sidecar = {
        "Description": "Magnetic susceptibility; positive where paramagnetic",
        "Units": "ppm",
        **provenance(args, method, grid, inputs),
        "Iterations": result.iterations,
        "Converged": bool(result.converged),
        "Reference": args.reference,
        "ReferenceShift": referenced.shift_ppm,
        "Details": details(result.info),
    }
    write_results({args.out: referenced.chi_ppm}, sidecar, args.out, mask)
    steps = f"{result.iterations} iterations" if result.iterations else "closed form"
    doubt = "" if result.converged else ", not converged"
    return f"{args.out}: {method.title}, {steps}{doubt}, reference {args.reference}"
