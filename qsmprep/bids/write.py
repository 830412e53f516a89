"""Files that are either there and whole, or not there: written beside their place and renamed into it."""

from __future__ import annotations

import dataclasses
import errno
import gzip
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import nibabel as nib
import numpy as np
from numpy.typing import ArrayLike, NDArray

from qsmprep.bids.leftovers import unfinished
from qsmprep.errors import CannotWriteError, DataError, MissingFileError

COMPRESSION = 4
"""Level of gzip: float maps of noise gain little from more."""

_DTYPES = {"float16": "float32", "float32": "float32", "float64": "float32", "bool": "uint8"}
_REMEDIES = {
    errno.ENOSPC: "free some space, or write elsewhere",
    errno.EDQUOT: "free some of your quota, or write elsewhere",
    errno.EROFS: "choose an output folder on a file system that is not read-only",
    errno.EACCES: "choose a folder you may write to, or have its permissions changed",
    errno.EPERM: "choose a folder you may write to, or have its permissions changed",
}


@contextmanager
def atomic(path: Path, *, durable: bool = False) -> Iterator[BinaryIO]:
    """Open a file to be written; it takes its name only when everything went well.

    The bytes go into a hidden file in the same folder, which is removed on any failure; what a killed process leaves
    is removed by a later run (:mod:`qsmprep.bids.leftovers`).

    Parameters
    ----------
    path : Path
        Its folder is made where it is absent. A file of this name is replaced.
    durable : bool
        Wait until the bytes are on the disk.

    Raises
    ------
    CannotWriteError
        When the file system refuses.
    """
    path = Path(path)
    hidden = unfinished(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with hidden.open("xb") as stream:
            yield stream
            if durable:
                stream.flush()
                os.fsync(stream.fileno())
        hidden.replace(path)
    except OSError as error:
        raise cannot_write(path, error) from error
    finally:
        with suppress(OSError):
            hidden.unlink(missing_ok=True)


def cannot_write(path: Path, error: OSError) -> CannotWriteError:
    """The error of the exception tree for a refusal by the file system."""
    return CannotWriteError(
        f"the file cannot be written ({error.strerror or error})",
        file=path,
        expected="a folder that can be written to, with space left",
        remedy=_REMEDIES.get(error.errno or 0, "check the output folder"),
    )


def write_text(text: str, path: Path, *, durable: bool = False) -> Path:
    """Write UTF-8 text; bytes of file names that are no UTF-8 are escaped. Returns the path."""
    with atomic(path, durable=durable) as stream:
        stream.write(text.encode("utf-8", "backslashreplace"))
    return Path(path)


def write_json(content: Mapping[str, Any], path: Path, *, durable: bool = False) -> Path:
    """Write a JSON object, indented, in the order given. Returns the path.

    numpy numbers and arrays, tuples, paths and dataclasses are taken.

    Raises
    ------
    DataError
        When a value is NaN or infinite, or of a type that JSON has not.
    CannotWriteError
        When the file system refuses.
    """
    try:
        text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False, default=_as_json)
    except (TypeError, ValueError) as error:
        raise DataError(f"the content is no valid JSON ({error})", file=path, expected="finite numbers") from error
    return write_text(text + "\n", path, durable=durable)


def write_nifti(
    array: ArrayLike,
    affine: ArrayLike,
    header_like: nib.Nifti1Header | Path | None,
    path: Path,
    *,
    durable: bool = False,
    series: bool = False,
    undefined: bool = False,
) -> Path:
    """Write a volume as NIfTI-1; the same input gives the same bytes.

    Parameters
    ----------
    array : (nx, ny, nz) array_like
        Floating-point arrays are stored as float32, bool and uint8 as uint8, other integers as int16
        (or int32 where the values need it), all without scaling.
    affine : (4, 4) array_like
        Voxel indices to scanner coordinates in mm (RAS+).
    header_like : Nifti1Header, Path or None
        The image, or its header, whose qform and sform codes are kept.
    path : Path
        ``.nii`` or ``.nii.gz``.
    durable : bool
        Wait until the bytes are on the disk.
    series : bool
        Whether the array may be (nx, ny, nz, n), a series of volumes.
    undefined : bool
        Whether NaN may stand for a value that is not defined.

    Returns
    -------
    Path
        `path`.

    Raises
    ------
    DataError
        When the array is no volume, or a value is not finite or does not fit.
    CannotWriteError
        When the file system refuses.
    """
    volume = _storable(np.asarray(array), path, (3, 4) if series else (3,), undefined)
    image = nib.Nifti1Image(volume, None)
    image.header.set_data_dtype(volume.dtype)
    image.header.set_xyzt_units("mm", "sec")
    _orient(image, np.asarray(affine, dtype=float), _codes(header_like))
    stream: Any
    with atomic(path, durable=durable) as stream:
        if str(path).endswith(".gz"):
            with gzip.GzipFile("", "wb", COMPRESSION, stream, mtime=0) as zipped:
                image.to_stream(zipped)
        else:
            image.to_stream(stream)
    return Path(path)


def copy_file(source: Path, path: Path, *, durable: bool = False) -> Path:
    """Copy the bytes of a file. Returns the new path.

    Raises
    ------
    MissingFileError
        When the source cannot be read.
    CannotWriteError
        When the file system refuses the copy.
    """
    if not os.access(source, os.R_OK) or not Path(source).is_file():
        raise MissingFileError("the file cannot be read", file=source, remedy="check that it is there and readable")
    with Path(source).open("rb") as reader, atomic(path, durable=durable) as stream:
        shutil.copyfileobj(reader, stream, 1 << 20)
    return Path(path)


def _as_json(value: Any) -> Any:
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    if isinstance(value, Path):
        return str(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    raise TypeError(f"{type(value).__name__} {value!r}")


def _storable(array: NDArray[Any], path: Path, axes: tuple[int, ...], undefined: bool) -> NDArray[Any]:
    if array.ndim not in axes or array.size == 0:
        raise DataError(f"the array has shape {array.shape}", file=path, expected="a volume of three axes")
    if array.dtype.name in _DTYPES:
        if array.dtype.kind == "f" and (
            count := np.count_nonzero(np.isinf(array) if undefined else ~np.isfinite(array))
        ):
            raise DataError(
                f"{count} voxels are NaN or infinite", file=path, expected="finite values (0 outside the mask)"
            )
        stored = array.astype(_DTYPES[array.dtype.name], copy=False)
        if array.dtype == np.float64 and np.isinf(stored).any():
            raise DataError("values exceed what float32 holds", file=path)
        return stored
    if array.dtype.kind not in "iu":
        raise DataError(f"the array is of type {array.dtype}", file=path, expected="float, integer or bool")
    low, high = int(array.min()), int(array.max())
    for dtype in ("uint8",) if array.dtype == np.uint8 else ("int16", "int32"):
        limits = np.iinfo(dtype)
        if limits.min <= low and high <= limits.max:
            return array.astype(dtype, copy=False)
    raise DataError(f"integers from {low} to {high} do not fit int32", file=path)


def _codes(header_like: nib.Nifti1Header | Path | None) -> tuple[int, int]:
    """qform and sform code; (0, 1) where nothing is given."""
    if header_like is None:
        return 0, 1
    header = (
        header_like if isinstance(header_like, nib.Nifti1Header) else nib.Nifti1Image.from_filename(header_like).header
    )
    return int(header["qform_code"]), int(header["sform_code"])


def _orient(image: nib.Nifti1Image, affine: NDArray[np.float64], codes: tuple[int, int]) -> None:
    """Set both forms with the codes of the source, and make sure that the affine reads back."""
    q_code, s_code = codes
    image.set_qform(affine, code=q_code, strip_shears=True)
    image.set_sform(affine, code=s_code)
    if not np.allclose(image.header.get_best_affine(), affine, atol=1e-3):
        image.set_sform(affine, code=s_code or q_code or 2)
