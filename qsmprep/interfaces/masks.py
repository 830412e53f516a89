"""Which voxels: the brain, and the part of it whose phase can be trusted."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nipype.interfaces.base import File, TraitedSpec, traits
from numpy.typing import NDArray

from qsmprep.bids.headers import same_place
from qsmprep.core.device import resolve_device
from qsmprep.core.grid import Grid
from qsmprep.core.methods import METHODS
from qsmprep.core.parameters import FslBetParams
from qsmprep.core.registry import Method
from qsmprep.core.weights import reliability
from qsmprep.errors import DataError, MissingFileError
from qsmprep.interfaces import base


class BrainMaskInputSpec(base.MethodInputSpec):
    """A magnitude series, or a mask that is used exactly as given."""

    magnitude = File(exists=True, mandatory=True)
    given_mask = File(exists=True)
    model = traits.Str(usedefault=True, desc="checksum of a network's weights, so that others do not reuse results")


class BrainMaskOutputSpec(TraitedSpec):
    """The brain."""

    mask = File()
    info = File()


class BrainMask(base.Step):
    """Extract the brain from the root mean square of the echoes, or take the mask that is given."""

    input_spec = BrainMaskInputSpec
    output_spec = BrainMaskOutputSpec
    apart = True
    step = "mask"

    def compute(self, folder: Path) -> dict[str, Any]:
        """Load, extract, save."""
        magnitude, image = base.load_echoes(self.inputs.magnitude)
        if self.inputs.given_mask:
            mask, info = self._given(image), {"source": str(self.inputs.given_mask)}
        else:
            function, params = self.method()
            options = placed(METHODS.get("mask", self.inputs.method), self.inputs.device)
            mask, info = extract_brain(combined(magnitude), image, function, params, **options)
            info = {"source": info.get("used", self.inputs.method), **info}
        return {
            "mask": base.save(folder, "mask", mask, image),
            "info": base.save_info(folder, {**info, "n_voxels": int(mask.sum())}),
        }

    def _given(self, image: Any) -> NDArray[np.bool_]:
        data, given = base.load(self.inputs.given_mask)
        shape = image.shape[:3]
        if given.shape[:3] != shape or not same_place(image.affine, given.affine, shape):
            what = "in another place than" if given.shape[:3] == shape else f"of {given.shape} voxels beside {shape} of"
            raise DataError(
                f"the mask is {what} the images",
                file=self.inputs.given_mask,
                expected="the grid of the gradient-echo images",
                remedy="resample the mask with nearest neighbours",
            )
        mask = (data.reshape(image.shape[:3]) != 0) & np.isfinite(data.reshape(image.shape[:3]))
        if not mask.any():
            raise DataError(
                "the mask is empty",
                file=self.inputs.given_mask,
                expected="at least one voxel that is neither 0 nor NaN",
                remedy="correct the mask, or leave out --derivatives to have the brain extracted",
            )
        return mask


def extract_brain(
    magnitude: NDArray[np.float32], image: nib.spatialimages.SpatialImage, function: Any, params: Any, **options: Any
) -> tuple[NDArray[np.bool_], dict[str, Any]]:
    """Extract in the order of axes closest to RAS, so that the mask does not depend on how the data are stored.

    Also what the method says of it, with ``warnings`` for a person to look at.
    """
    if magnitude.min() == magnitude.max():
        raise DataError(
            "there is no magnitude image to extract the brain from, or it is the same everywhere",
            expected="an image of the head",
            remedy="add the part-mag images, or give a mask with --derivatives",
        )
    (ras,), grid, back = base.as_ras([magnitude], image)
    found = function(ras, grid, params, **options)
    mask, info = (found, {}) if isinstance(found, np.ndarray) else (found.mask, found.info)
    return back(mask), info


def placed(method: Method, device: str) -> dict[str, str]:
    """Where a method is to compute, for those that can be told."""
    return {"device": resolve_device(device)} if "device" in method.extras else {}


def combined(magnitude: NDArray[np.float32]) -> NDArray[np.float32]:
    """Root mean square over the echoes."""
    total = np.zeros(magnitude.shape[1:], dtype=np.float32)
    for echo in magnitude:
        total += np.square(echo)
    return np.sqrt(total / np.float32(len(magnitude)))


class QSMMaskInputSpec(base.MethodInputSpec):
    """The brain, the quality of its phase and the fit of its echoes."""

    brain = File(exists=True, mandatory=True)
    quality = File(exists=True, mandatory=True)
    noise_hz = File(exists=True, mandatory=True)
    residual = File(exists=True, mandatory=True)
    as_given = traits.Bool(False, usedefault=True, desc="use the brain mask unchanged")


class QSMMaskOutputSpec(TraitedSpec):
    """The mask for background removal, and the reliability of each voxel."""

    mask = File()
    weights = File()


class QSMMask(base.Step):
    """Brain times phase quality, and weights from the noise of the field."""

    input_spec = QSMMaskInputSpec
    output_spec = QSMMaskOutputSpec
    step = "quality"

    def compute(self, folder: Path) -> dict[str, Any]:
        """Load, combine, save."""
        function, params = self.method()
        quality, image = base.load(self.inputs.quality)
        noise, _ = base.load(self.inputs.noise_hz)
        residual, _ = base.load(self.inputs.residual)
        brain = base.load_mask(self.inputs.brain)
        mask = brain if self.inputs.as_given else function(brain, quality, base.grid_of(image), params)
        return {
            "mask": base.save(folder, "mask", mask, image),
            "weights": base.save(folder, "weights", reliability(noise, residual, mask), image),
        }


def fsl_bet(magnitude: NDArray[np.float32], grid: Grid, params: FslBetParams) -> NDArray[np.bool_]:
    """Brain mask by FSL's ``bet``, run through Nipype.

    Parameters
    ----------
    magnitude : (nx, ny, nz) array
        Image of the head.
    grid : Grid
        Its voxel size.
    params : FslBetParams
        Fractional intensity threshold.

    Raises
    ------
    MissingFileError
        When FSL is not installed.
    """
    from nipype.interfaces import fsl

    if shutil.which("bet") is None:
        raise MissingFileError("FSL's `bet` is not on the PATH", remedy="install FSL and load it, or use --mask bet")
    with tempfile.TemporaryDirectory() as folder:
        head = Path(folder) / "head.nii"
        nib.Nifti1Image(magnitude, np.diag([*grid.voxel_mm, 1.0])).to_filename(head)
        bet = fsl.BET(in_file=str(head), out_file="brain.nii", mask=True, no_output=True, frac=params.fraction)
        bet.inputs.output_type = "NIFTI"
        outputs = bet.run(cwd=folder).outputs
        return base.load_mask(outputs.mask_file)
