"""What all interfaces share: reading and writing volumes, threads, and failures that can be read."""

from __future__ import annotations

import errno
import json
import os
import time
import traceback
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nipype.interfaces.base import BaseInterfaceInputSpec, SimpleInterface, traits
from numpy.typing import NDArray

from qsmprep.bids.write import cannot_write
from qsmprep.core import allocation
from qsmprep.core.device import is_out_of_memory
from qsmprep.core.grid import Grid
from qsmprep.core.methods import METHODS
from qsmprep.errors import DataError, OutOfMemoryError, QSMPrepError
from qsmprep.interfaces import usage
from qsmprep.interfaces.hashing import content_hash
from qsmprep.version import qsmprep_version

FAILURE_FILE = "failure.json"
"""What a failed step leaves in its working folder, for the report."""


class StepInputSpec(BaseInterfaceInputSpec):
    """Inputs of every step. The version is one, so that another version does not reuse results."""

    version = traits.Str(qsmprep_version(), usedefault=True)
    num_threads = traits.Int(1, usedefault=True, nohash=True)

    def _get_sorteddict(self, objekt: Any, dictwithhash: bool = False, **options: Any) -> Any:
        """The inputs with the hashes of their files' contents, which Nipype itself would compute twice a step."""
        found = content_hash(objekt) if isinstance(objekt, str) and options.get("hash_files", True) else None
        if found is None:
            return super()._get_sorteddict(objekt, dictwithhash, **options)
        return (objekt, found) if dictwithhash else found


class MethodInputSpec(StepInputSpec):
    """Inputs of a step that has several registered methods."""

    method = traits.Str(mandatory=True)
    parameters = traits.Dict(usedefault=True)
    device = traits.Str("cpu", usedefault=True)
    use_gpu = traits.Bool(False, usedefault=True, nohash=True, desc="one such node at a time (Nipype's GPU slots)")


class Step(SimpleInterface):
    """An interface whose work is :meth:`compute`: load, call one pure function, save.

    ``iterates`` says that the function makes many volumes of one size after each other, ``apart`` that it imports what
    no other step needs (MONAI takes 0.17 GB): it gets a process of its own where steps run in processes.
    """

    input_spec = StepInputSpec
    step = ""
    iterates = False
    apart = False

    def _run_interface(self, runtime: Any) -> Any:
        folder = Path(runtime.cwd)
        failure = folder / FAILURE_FILE
        failure.unlink(missing_ok=True)
        limit_threads(self.inputs.num_threads)
        allocation.keep(self.iterates)
        allocation.release()
        usage.forget_peak()
        begun = time.monotonic()
        try:
            self._results.update(self.compute(folder))
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                _note(failure, error)
                raise
            _note(failure, OutOfMemoryError("the step ran out of memory", remedy="run again with more memory"))
            raise
        except FileNotFoundError as error:
            _note(failure, error)
            raise
        except OSError as error:
            _free(folder, error)
            _note(failure, cannot_write(folder, error))
            raise
        except Exception as error:
            _note(failure, error)
            raise
        finally:
            usage.write_usage(folder, time.monotonic() - begun)
        return runtime

    def compute(self, folder: Path) -> dict[str, Any]:
        """Do the work in ``folder`` and return the outputs."""
        raise NotImplementedError

    def method(self) -> tuple[Any, Any]:
        """The function and the parameters that the inputs name."""
        method = METHODS.get(self.step, self.inputs.method)
        return method.load(), method.configure(self.inputs.parameters)


def _free(folder: Path, error: OSError) -> None:
    """Remove unfinished volumes from the folder of a step that met a full disk."""
    if error.errno in (None, errno.ENOSPC, errno.EDQUOT):
        for path in folder.glob("*.nii"):
            path.unlink()


def _note(path: Path, error: Exception) -> None:
    """Write what went wrong as JSON: class, exit code and the parts of the message."""
    if isinstance(error, QSMPrepError):
        known = {"exit_code": error.exit_code, "what": error.what, "file": error.file}
        known |= {"expected": error.expected, "remedy": error.remedy, "traceback": None}
    else:
        known = {"exit_code": 1, "what": str(error).strip() or type(error).__name__}
        known |= {"file": None, "expected": None, "remedy": None, "traceback": traceback.format_exc()}
    with suppress(OSError):
        path.write_text(json.dumps({"kind": type(error).__name__, **known}, indent=2))


@contextmanager
def about(file: str | Path) -> Iterator[None]:
    """Name a file in errors that do not name one, because the function that raised them knows arrays only."""
    try:
        yield
    except QSMPrepError as error:
        if error.file is not None:
            raise
        raise type(error)(error.what, file=file, expected=error.expected, remedy=error.remedy) from error


def limit_threads(n: int) -> None:
    """Let the numerical libraries of this process use ``n`` threads."""
    import torch

    os.environ["OMP_NUM_THREADS"] = str(n)
    torch.set_num_threads(n)


def load(path: str | Path, dtype: Any = np.float32) -> tuple[NDArray[Any], nib.Nifti1Image]:
    """Read a volume or a series, and its image for the header.

    Raises
    ------
    DataError
        When the file is truncated or not an image.
    """
    try:
        image = nib.load(path)
        return np.asanyarray(image.dataobj, dtype=dtype), image
    except (OSError, EOFError, ValueError, zlib.error, nib.filebasedimages.ImageFileError) as error:
        raise DataError(
            f"the image cannot be read ({error})",
            file=path,
            expected="a complete NIfTI file",
            remedy="copy or convert it again",
        ) from error


def load_echoes(path: str | Path) -> tuple[NDArray[np.float32], nib.Nifti1Image]:
    """Read a series written by :func:`save` with the echoes first."""
    data, image = load(path)
    return np.ascontiguousarray(np.moveaxis(data, -1, 0)), image


def save(folder: Path, name: str, data: NDArray[Any], like: nib.Nifti1Image) -> str:
    """Write an intermediate volume (or, four-dimensional, echoes first) as plain NIfTI; return its path."""
    if data.ndim == 4:
        data = np.moveaxis(data, 0, -1)
    if data.dtype == bool:
        data = data.astype(np.uint8)
    path = folder / f"{name}.nii"
    image = nib.Nifti1Image(data, like.affine)
    image.set_qform(like.affine, int(like.header["qform_code"]) or 1)
    image.set_sform(like.affine, int(like.header["sform_code"]) or 1)
    image.header.set_xyzt_units("mm", "sec")
    image.to_filename(path)
    return str(path)


def grid_of(image: nib.Nifti1Image) -> Grid:
    """The grid of an image, with B0 along the scanner's z axis."""
    return Grid.from_affine(image.shape[:3], image.affine)


def as_ras(
    volumes: Sequence[NDArray[Any]], image: nib.spatialimages.SpatialImage
) -> tuple[list[NDArray[Any]], Grid, Callable[[NDArray[Any]], NDArray[Any]]]:
    """Volumes in the order of axes closest to right, anterior, superior; their grid; and the way back.

    What is computed on them does not depend on how the data are stored, and left stays left.
    """
    stored = nib.orientations.io_orientation(image.affine)
    turned = [nib.orientations.apply_orientation(volume, stored) for volume in volumes]
    shape = turned[0].shape[:3]
    affine = image.affine @ nib.orientations.inv_ornt_aff(stored, volumes[0].shape[:3])
    back = nib.orientations.ornt_transform(nib.orientations.axcodes2ornt("RAS"), stored)
    return turned, Grid.from_affine(shape, affine), lambda volume: nib.orientations.apply_orientation(volume, back)


def load_mask(path: str | Path) -> NDArray[np.bool_]:
    """Read a mask: everything that is not zero."""
    data, _ = load(path)
    return data.reshape(data.shape[:3]) != 0


def save_info(folder: Path, info: dict[str, Any]) -> str:
    """Write what a step learnt as JSON; return its path."""
    path = folder / "info.json"
    path.write_text(json.dumps(info, indent=2, default=_json))
    return str(path)


def _json(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, (np.ndarray, Sequence)):
        return list(value)
    return str(value)
