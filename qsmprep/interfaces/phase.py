"""From the scanner's images to a field map."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nipype.interfaces.base import File, TraitedSpec, traits
from numpy.typing import NDArray

from qsmprep.bids.headers import same_place
from qsmprep.core.methods import METHODS
from qsmprep.errors import DataError
from qsmprep.interfaces import base

MAX_MAGNITUDE = 1e15
"""Largest magnitude that is taken: sums of squares stay far from the largest float32."""


class ConformInputSpec(base.StepInputSpec):
    """The echoes as they are stored, in the order of echo time."""

    magnitude = traits.List(File(exists=True))
    phase = traits.List(File(exists=True))
    real = traits.List(File(exists=True))
    imag = traits.List(File(exists=True))
    units = traits.Str(usedefault=True, desc="`Units` of the phase, empty when unknown")
    manufacturer = traits.Str(usedefault=True)
    sign = traits.Enum(1, -1, usedefault=True)


class ConformOutputSpec(TraitedSpec):
    """Magnitude and phase (radians) of all echoes, each as one series."""

    magnitude = File()
    phase = File()
    info = File()


class Conform(base.Step):
    """Stack the echoes, bring the phase to radians and the numbers to finite ones."""

    input_spec = ConformInputSpec
    output_spec = ConformOutputSpec

    def compute(self, folder: Path) -> dict[str, Any]:
        """Load, scale, save."""
        from qsmprep.core.phase import complex_from_parts, scale_phase

        inputs = self.inputs
        if inputs.real:
            real, like, _ = stack(inputs.real)
            imag, _, _ = stack(inputs.imag, like)
            with base.about(inputs.real[0]):
                magnitude, phase = complex_from_parts(real, imag * inputs.sign)
            scaling: dict[str, Any] = {"rule": "real and imaginary parts", "sign": inputs.sign}
        else:
            stored, like, raw = stack(inputs.phase)
            check_phase(stored, inputs.phase)
            with base.about(inputs.phase[0]):
                phase, found = scale_phase(
                    stored,
                    units=inputs.units or None,
                    manufacturer=inputs.manufacturer or None,
                    sign=inputs.sign,
                    **raw,
                )
            scaling = dataclasses.asdict(found)
            magnitude = stack(inputs.magnitude, like)[0] if inputs.magnitude else np.ones_like(phase)
        bad = ~np.isfinite(magnitude)
        scaling["n_nonfinite_magnitude"] = int(bad.sum())
        magnitude[bad] = 0
        check_magnitude(magnitude, inputs.magnitude)
        return {
            "magnitude": base.save(folder, "magnitude", magnitude.astype(np.float32), like),
            "phase": base.save(folder, "phase", phase.astype(np.float32), like),
            "info": base.save_info(
                folder,
                {
                    "phase_scaling": scaling,
                    "has_magnitude": bool(inputs.magnitude or inputs.real),
                    "warnings": conform_warnings(scaling),
                },
            ),
        }


def conform_warnings(scaling: dict[str, Any]) -> list[str]:
    """What a person should know of the numbers in the files."""
    warnings = [str(scaling["note"])] if scaling.get("note") else []
    for key, name in (("n_nonfinite", "phase"), ("n_nonfinite_magnitude", "magnitude")):
        if scaling.get(key):
            warnings.append(f"{scaling[key]} voxels of the {name} are not finite and were set to zero")
    return warnings


def check_magnitude(magnitude: NDArray[np.float32], files: list[str]) -> None:
    """Refuse a magnitude without any signal, or with values that overflow when they are squared."""
    for number, echo in enumerate(magnitude):
        if not np.any(echo > 0):
            raise DataError(
                "the magnitude image holds no signal",
                file=files[number] if files else None,
                expected="positive values inside the head",
                remedy="convert it again",
            )
        if echo.max() > MAX_MAGNITUDE:
            raise DataError(
                f"the magnitude image reaches {echo.max():.3g}",
                file=files[number] if files else None,
                expected=f"values below {MAX_MAGNITUDE:g}, whose square is still a number",
                remedy="check the scaling (scl_slope) of the image, or convert it again",
            )


def check_phase(stored: NDArray[np.float32], files: list[str]) -> None:
    """Refuse an echo whose phase is the same everywhere."""
    for echo, file in zip(stored, files, strict=True):
        finite = echo[np.isfinite(echo)]
        if finite.min() == finite.max():
            raise DataError(
                f"the phase is {finite[0]:g} everywhere", file=file, expected="a phase image", remedy="convert it again"
            )


def stack(
    files: list[str], like: nib.Nifti1Image | None = None
) -> tuple[NDArray[np.float32], nib.Nifti1Image, dict[str, Any]]:
    """Read volumes of one geometry into (n, nx, ny, nz), with what their headers say of the stored numbers."""
    volumes, raw_low, raw_high = [], [], []
    first: nib.Nifti1Image | None = like
    for path in files:
        data, image = base.load(path)
        data = data.reshape(data.shape[:3]) if data.ndim > 3 and data.shape[3:] == (1,) * (data.ndim - 3) else data
        if data.ndim != 3:
            raise DataError(f"the image has shape {data.shape}", file=path, expected="one volume of three dimensions")
        first = first or image
        if data.shape != first.shape[:3] or not same_place(first.affine, image.affine, data.shape):
            raise DataError(
                "the image is on another grid than the first echo",
                file=path,
                expected=f"{first.shape[:3]} voxels in the same place",
            )
        if not np.isfinite(data).any():
            raise DataError(
                "the image holds no finite value", file=path, expected="a measured image", remedy="convert it again"
            )
        unscaled = np.asanyarray(image.dataobj.get_unscaled())
        raw_low.append(float(np.nanmin(unscaled)))
        raw_high.append(float(np.nanmax(unscaled)))
        volumes.append(data)
    if first is None:
        raise DataError("no images were given")
    scalings = {(float(proxy.slope), float(proxy.inter)) for proxy in (nib.load(path).dataobj for path in files)}
    if len(scalings) > 1:
        return np.stack(volumes), first, {}
    header = nib.load(files[0]).dataobj
    raw = {
        "raw_range": (min(raw_low), max(raw_high)),
        "slope": float(header.slope),
        "inter": float(header.inter),
        "dtype": str(header.dtype),
    }
    return np.stack(volumes), first, raw


class UnwrapInputSpec(base.MethodInputSpec):
    """Wrapped phase of all echoes."""

    magnitude = File(exists=True, mandatory=True)
    phase = File(exists=True, mandatory=True)
    mask = File(exists=True, mandatory=True)
    te_s = traits.List(traits.Float(), mandatory=True)
    offset_method = traits.Str(METHODS.names("offset")[0], usedefault=True)
    offset_parameters = traits.Dict(usedefault=True)


class UnwrapOutputSpec(TraitedSpec):
    """Unwrapped phase, wrapped phase without offset, and the quality of the phase."""

    unwrapped = File()
    phase = File()
    quality = File()
    info = File()


class Unwrap(base.Step):
    """Remove the phase offset (MCPC-3D-S) and unwrap."""

    input_spec = UnwrapInputSpec
    output_spec = UnwrapOutputSpec
    step = "unwrap"
    iterates = True

    def compute(self, folder: Path) -> dict[str, Any]:
        """Load, correct, unwrap, save."""
        from qsmprep.core.unwrap.romeo import voxel_quality

        magnitude, image = base.load_echoes(self.inputs.magnitude)
        phase, _ = base.load_echoes(self.inputs.phase)
        mask, te_s, grid = base.load_mask(self.inputs.mask), list(self.inputs.te_s), base.grid_of(image)
        offset = METHODS.get("offset", self.inputs.offset_method)
        offset_params = offset.configure(self.inputs.offset_parameters)
        removal = offset.load()(phase, magnitude, mask, te_s, grid, offset_params)
        del phase
        corrected = removal.phase_rad
        quality = voxel_quality(corrected, magnitude, te_s)
        function, params = self.method()
        unwrapped = function(corrected, magnitude, mask, te_s, grid, params)
        return {
            "unwrapped": base.save(folder, "unwrapped", unwrapped.phase_rad, image),
            "phase": base.save(folder, "phase", corrected, image),
            "quality": base.save(folder, "quality", quality.astype(np.float32), image),
            "info": base.save_info(folder, {**removal.info, **unwrapped.info, "exact": unwrapped.exact}),
        }


class FitFieldInputSpec(base.MethodInputSpec):
    """Unwrapped and wrapped phase with the magnitude."""

    unwrapped = File(exists=True, mandatory=True)
    phase = File(exists=True, mandatory=True)
    magnitude = File(exists=True, mandatory=True)
    mask = File(exists=True, mandatory=True)
    te_s = traits.List(traits.Float(), mandatory=True)


class FitFieldOutputSpec(TraitedSpec):
    """Field, noise and fit residual."""

    field_hz = File()
    noise_hz = File()
    residual = File()
    info = File()


class FitField(base.Step):
    """Combine the echoes into one field map."""

    input_spec = FitFieldInputSpec
    output_spec = FitFieldOutputSpec
    step = "combine"

    def compute(self, folder: Path) -> dict[str, Any]:
        """Load, fit, save."""
        unwrapped, image = base.load_echoes(self.inputs.unwrapped)
        phase, _ = base.load_echoes(self.inputs.phase)
        magnitude, _ = base.load_echoes(self.inputs.magnitude)
        mask = base.load_mask(self.inputs.mask)
        function, params = self.method()
        fit = function(unwrapped, phase, magnitude, mask, list(self.inputs.te_s), params)
        return {
            "field_hz": base.save(folder, "field_hz", fit.field_hz, image),
            "noise_hz": base.save(folder, "noise_hz", fit.noise_hz, image),
            "residual": base.save(folder, "residual", fit.residual, image),
            "info": base.save_info(folder, fit.info),
        }


class FitR2StarInputSpec(base.MethodInputSpec):
    """Magnitude of all echoes."""

    magnitude = File(exists=True, mandatory=True)
    mask = File(exists=True, mandatory=True)
    te_s = traits.List(traits.Float(), mandatory=True)


class FitR2StarOutputSpec(TraitedSpec):
    """Relaxation maps."""

    r2star_hz = File()
    t2star_s = File()
    s0 = File()


class FitR2Star(base.Step):
    """R2*, T2* and S0 from the decay of the magnitude."""

    input_spec = FitR2StarInputSpec
    output_spec = FitR2StarOutputSpec
    step = "relaxometry"

    def compute(self, folder: Path) -> dict[str, Any]:
        """Load, fit, save."""
        function, params = self.method()
        magnitude, image = base.load_echoes(self.inputs.magnitude)
        fit = function(magnitude, list(self.inputs.te_s), base.load_mask(self.inputs.mask), params)
        return {name: base.save(folder, name, getattr(fit, name), image) for name in ("r2star_hz", "t2star_s", "s0")}
