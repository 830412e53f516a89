"""What an image's header says, without reading its voxels."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from qsmprep.core.grid import Grid
from qsmprep.errors import DataError, MissingFileError

SAME_PLACE_VOXELS = 0.05
"""Two grids are the same when no corner of the volume differs by more than this many voxels."""

MIN_VOXELS = 4
"""Fewest voxels along an axis that are taken for a volume."""


MAX_VOXELS = 1 << 30
"""Most voxels that a volume may promise: four times those of a head at 0.4 mm."""

MAX_SERIES_VOXELS = 1 << 32
"""Most voxels of all volumes of a file together."""

MAX_OFFSET = 16 << 20
"""Bytes of a NIfTI file that may come before the voxels."""


@dataclass(frozen=True)
class Header:
    """Geometry of a NIfTI image.

    Parameters
    ----------
    path : Path
        The image.
    shape : (3,) tuple of int
        Voxels along each array axis.
    affine : (4, 4) float array
        Voxel indices to scanner coordinates in mm (RAS+).
    warnings : tuple of str
        What is odd about the header, but can be used.
    """

    path: Path
    shape: tuple[int, int, int]
    affine: NDArray[np.float64]
    warnings: tuple[str, ...] = ()


def read_header(path: Path) -> Header:
    """Read and check the header of an image that should hold one volume.

    A compressed file that was cut short is found from the length noted in its last four bytes; the whole
    stream is decompressed only where these do not agree with the header. Damage that keeps the length is
    found when the voxels are read, not here.

    Parameters
    ----------
    path : Path
        A NIfTI file, ``.nii`` or ``.nii.gz``.

    Raises
    ------
    MissingFileError
        When the file cannot be opened, is no regular file, or a link to nothing.
    DataError
        When it is empty, cut short, no NIfTI, holds several volumes or no real numbers, promises more voxels
        than any head has, or has an affine that cannot be used.
    """
    _check_openable(path)
    check_offset(path)
    try:
        image = nib.load(path)
    except Exception as error:
        reason = str(error).replace(str(path), path.name)
        raise DataError(f"the file is no readable NIfTI image ({reason})", file=path) from error
    if not isinstance(image, nib.Nifti1Pair):
        raise DataError(f"the file is no NIfTI image but {type(image).__name__}", file=path)
    header, affine = image.header, image.affine
    shape = _one_volume(path, tuple(int(n) for n in image.shape))
    dtype = header.get_data_dtype()
    if dtype.kind not in "iuf":
        raise DataError(
            f"the voxels are of type {dtype}",
            file=path,
            expected="real numbers, one a voxel",
            remedy="store complex images as part-mag and part-phase, or part-real and part-imag",
        )
    n_bytes = int(header["vox_offset"]) + math.prod(image.shape) * dtype.itemsize
    _check_length(path, n_bytes)
    try:
        Grid.from_affine(shape, affine)
    except DataError as error:
        raise DataError(error.what, file=path, expected=error.expected, remedy=error.remedy) from error
    return Header(path, shape, np.asarray(affine, dtype=float), _oddities(image))


def check_size(path: Path, shape: tuple[int, ...]) -> None:
    """Refuse an image that promises more voxels than any head has, before memory is asked for.

    A compressed file of a megabyte can promise, and hold, gigabytes.

    Raises
    ------
    DataError
        When a volume has more than `MAX_VOXELS`, or all together more than `MAX_SERIES_VOXELS`.
    """
    volume, series = math.prod(map(int, shape[:3])), math.prod(map(int, shape))
    if volume > MAX_VOXELS or series > MAX_SERIES_VOXELS:
        raise DataError(
            f"the header promises {series} voxels (shape {' x '.join(map(str, shape))})",
            file=path,
            expected=f"at most {MAX_VOXELS} a volume and {MAX_SERIES_VOXELS} in all",
            remedy="convert the image again",
        )


def check_offset(path: Path) -> None:
    """Refuse a NIfTI file that wants much to be read before its voxels begin.

    The extensions of the header lie there, and readers load them whole.

    Raises
    ------
    DataError
        When there are more than `MAX_OFFSET` bytes.
    """
    try:
        with nib.openers.ImageOpener(str(path), "rb") as stream:
            start = stream.read(176)
    except (OSError, EOFError, ValueError, zlib.error):
        return  # reading the header tells of it
    for code, length, place, kind in ((348, 112, 108, "f"), (540, 176, 168, "q")):
        for order in "<>":
            if len(start) >= length and struct.unpack_from(f"{order}i", start)[0] == code:
                offset = struct.unpack_from(f"{order}{kind}", start, place)[0]
                if not 0 <= offset <= MAX_OFFSET:
                    raise DataError(
                        f"the header says that the voxels begin at byte {offset:g}",
                        file=path,
                        expected=f"0 to {MAX_OFFSET}",
                        remedy="convert the image again",
                    )


def same_grid(first: Header, second: Header) -> bool:
    """Whether two images have the same voxels in the same place."""
    return first.shape == second.shape and same_place(first.affine, second.affine, first.shape)


def same_place(first: NDArray[np.float64], second: NDArray[np.float64], shape: tuple[int, ...]) -> bool:
    """Whether the affines of two volumes of one shape put their voxels in the same place."""
    return _corner_offset(first, second, shape) <= SAME_PLACE_VOXELS


def offset_voxels(first: Header, second: Header) -> float:
    """Largest distance between the corners of two volumes, in voxels (the shortest edge) of the first."""
    return _corner_offset(first.affine, second.affine, first.shape)


def _corner_offset(first: NDArray[np.float64], second: NDArray[np.float64], shape: tuple[int, ...]) -> float:
    corners = np.array(np.meshgrid(*[(0, n - 1) for n in shape[:3]], indexing="ij")).reshape(3, -1)
    moved = (first[:3, :3] - second[:3, :3]) @ corners + (first[:3, 3] - second[:3, 3])[:, None]
    edge = np.linalg.norm(first[:3, :3], axis=0).min()
    return float(np.linalg.norm(moved, axis=0).max() / edge)


def _check_openable(path: Path) -> None:
    try:
        if path.exists() and not path.is_file():
            raise OSError("it is no regular file")
        with path.open("rb") as stream:
            if not stream.read(1):
                raise DataError("the file is empty (0 bytes)", file=path, remedy="fetch or convert the image again")
    except OSError as error:
        link = path.is_symlink() and not path.exists()
        why = "it is a link to nothing" if link else error.strerror or str(error)
        raise MissingFileError(
            f"the image cannot be opened ({why})",
            file=path,
            remedy="get its content (`datalad get`)" if link else "check that it is there and readable",
        ) from error


def _one_volume(path: Path, shape: tuple[int, ...]) -> tuple[int, int, int]:
    check_size(path, shape)
    volumes = math.prod(shape[3:])
    if volumes > 1:
        raise DataError(
            f"the image holds {volumes} volumes (shape {' x '.join(map(str, shape))})",
            file=path,
            expected="one 3-D volume a file, coils already combined",
            remedy=(
                "if the volumes are echoes, split them into files with echo-1, echo-2, ... and an EchoTime each; "
                "if they are coils, combine them before the conversion to BIDS"
            ),
        )
    if len(shape) < 3 or min(shape[:3]) < MIN_VOXELS:
        raise DataError(
            f"the image is no volume (shape {' x '.join(map(str, shape))})",
            file=path,
            expected=f"three axes of {MIN_VOXELS} voxels or more",
        )
    return shape[0], shape[1], shape[2]


def _check_length(path: Path, n_bytes: int) -> None:
    """Compare the file's length with what the header promises."""
    if path.name.endswith(".gz"):
        if _noted_length(path) == n_bytes % 2**32:
            return
        found = _decompressed_length(path, n_bytes)
    else:
        found = path.stat().st_size
    if found < n_bytes:
        raise DataError(
            f"the file is cut short: {found} of {n_bytes} bytes are there",
            file=path,
            remedy="copy or convert the image again",
        )


def _noted_length(path: Path) -> int:
    """Uncompressed length modulo 2**32 that a single-member gzip file ends with."""
    with path.open("rb") as stream:
        stream.seek(-4, 2)
        return int(struct.unpack("<I", stream.read(4))[0])


def _decompressed_length(path: Path, enough: int) -> int:
    length = 0
    try:
        with gzip.open(path, "rb") as stream:
            while length < enough and (chunk := stream.read1(1 << 20)):
                length += len(chunk)
    except (EOFError, OSError, zlib.error):
        pass
    return length


def _oddities(image: nib.Nifti1Pair) -> tuple[str, ...]:
    header, name = image.header, Path(image.get_filename() or "").name
    sform_code, qform_code = int(header["sform_code"]), int(header["qform_code"])
    if sform_code == 0 and qform_code == 0:
        return (f"{name} has no orientation (qform and sform codes are 0): B0 is taken along its third axis",)
    if sform_code > 0 and qform_code > 0:
        nx, ny, nz = image.shape[:3]
        shape = (int(nx), int(ny), int(nz))
        try:
            offset = _corner_offset(header.get_sform(), header.get_qform(), shape)
        except ValueError:
            return (f"the qform of {name} is no rotation; the sform is used",)
        if not offset <= 0.5:
            return (f"the sform and the qform of {name} disagree; the sform is used",)
    return ()
