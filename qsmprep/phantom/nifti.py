"""NIfTI files that are the same, byte for byte, whenever their content is."""

from __future__ import annotations

import gzip
import os
from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from qsmprep.phantom.vendor import Stored


def write_nifti(path: Path, image: Stored | NDArray[np.generic], affine: NDArray[np.float64]) -> None:
    """Write one compressed NIfTI-1 image, complete or not at all.

    Parameters
    ----------
    path : Path
        Ends in ``.nii.gz``; its folder is made.
    image : Stored or array
        Integers with their header scaling, or a plain array of a NIfTI type.
    affine : (4, 4) array
        Voxel indices to scanner coordinates in mm; goes to both sform and qform, code 1.
    """
    data = image.stored if isinstance(image, Stored) else image
    header = nib.Nifti1Header()
    header.set_data_dtype(data.dtype)
    header.set_data_shape(data.shape)
    header.set_sform(affine, code=1)
    header.set_qform(affine, code=1, strip_shears=True)
    header.set_xyzt_units("mm")
    header["vox_offset"] = 352
    header["magic"] = b"n+1"
    header["scl_slope"], header["scl_inter"] = 1.0, 0.0
    if isinstance(image, Stored):
        header["scl_slope"], header["scl_inter"] = image.slope, image.intercept
    content = header.binaryblock + bytes(4) + np.asarray(data).tobytes(order="F")
    write_bytes(path, gzip.compress(content, compresslevel=9, mtime=0))


def write_bytes(path: Path, content: bytes) -> None:
    """Write beside the place and rename into it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    partial.write_bytes(content)
    partial.replace(path)
