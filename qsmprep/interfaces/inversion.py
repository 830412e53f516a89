"""From the total field to susceptibility."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from nipype.interfaces.base import File, TraitedSpec, isdefined, traits

from qsmprep.core.csf import ventricles
from qsmprep.core.device import resolve_device
from qsmprep.core.units import hz_per_ppm, rad_per_ppm
from qsmprep.interfaces import base
from qsmprep.interfaces.masks import combined
from qsmprep.interfaces.regions import region_of


class RemoveBackgroundInputSpec(base.MethodInputSpec):
    """Total field, mask and weights."""

    field_hz = File(exists=True, mandatory=True)
    mask = File(exists=True, mandatory=True)
    weights = File(exists=True, mandatory=True)
    b0_t = traits.Float(mandatory=True)


class RemoveBackgroundOutputSpec(TraitedSpec):
    """Local field and the mask where it is valid."""

    local_hz = File()
    mask = File()
    info = File()


class RemoveBackground(base.Step):
    """Remove the field of sources outside the brain."""

    input_spec = RemoveBackgroundInputSpec
    output_spec = RemoveBackgroundOutputSpec
    step = "background"
    iterates = True

    def compute(self, folder: Path) -> dict[str, Any]:
        """Load, remove, save."""
        field_hz, image = base.load(self.inputs.field_hz)
        weights, _ = base.load(self.inputs.weights)
        scale = hz_per_ppm(self.inputs.b0_t)
        function, params = self.method()
        local = function(
            field_hz / np.float32(scale),
            base.load_mask(self.inputs.mask),
            base.grid_of(image),
            params,
            weights=weights,
            device=resolve_device(self.inputs.device),
        )
        return {
            "local_hz": base.save(folder, "local_hz", local.field_ppm * np.float32(scale), image),
            "mask": base.save(folder, "mask", local.mask, image),
            "info": base.save_info(folder, local.info),
        }


class LocalFieldInputSpec(base.MethodInputSpec):
    """Local field, mask and weights, and what their phase is."""

    local_hz = File(exists=True, mandatory=True)
    mask = File(exists=True, mandatory=True)
    weights = File(exists=True, mandatory=True)
    b0_t = traits.Float(mandatory=True)
    te_s = traits.Float(mandatory=True, desc="time whose phase nonlinear data terms work with")


class TakeRemainderOutputSpec(TraitedSpec):
    """Local field without what was left of the background."""

    local_hz = File()
    info = File()


class TakeRemainder(base.Step):
    """Take off the local field what background removal left in it."""

    input_spec = LocalFieldInputSpec
    output_spec = TakeRemainderOutputSpec
    step = "remainder"
    iterates = True

    def compute(self, folder: Path) -> dict[str, Any]:
        """Load, take off, save."""
        local_hz, image = base.load(self.inputs.local_hz)
        weights, _ = base.load(self.inputs.weights)
        scale = np.float32(hz_per_ppm(self.inputs.b0_t))
        function, params = self.method()
        local = function(
            local_hz / scale,
            base.load_mask(self.inputs.mask),
            base.grid_of(image),
            params,
            weights=weights,
            rad_per_ppm=rad_per_ppm(self.inputs.b0_t, self.inputs.te_s),
            device=resolve_device(self.inputs.device),
        )
        return {
            "local_hz": base.save(folder, "local_hz", local.field_ppm * scale, image),
            "info": base.save_info(folder, local.info),
        }


class InvertInputSpec(LocalFieldInputSpec):
    """Local field, mask, weights and magnitude."""

    magnitude = File(exists=True, mandatory=True)
    r2star_hz = File(exists=True, desc="for methods that look for fluid")
    model = traits.Str(usedefault=True, desc="checksum of a network's weights, so that others do not reuse results")
    gives = traits.Str("map and field", usedefault=True, desc="results of before it gave the field are not reused")


class InvertOutputSpec(TraitedSpec):
    """Susceptibility before referencing, and the field that it is to explain."""

    chi_ppm = File()
    local_hz = File(desc="the field less what the method took for no field of the map, if it looks for that")
    info = File()


class Invert(base.Step):
    """Solve for susceptibility."""

    input_spec = InvertInputSpec
    output_spec = InvertOutputSpec
    step = "inversion"
    iterates = True

    def compute(self, folder: Path) -> dict[str, Any]:
        """Load, invert, save."""
        field_ppm, image = base.load(self.inputs.local_hz)
        field_ppm = field_ppm / np.float32(hz_per_ppm(self.inputs.b0_t))
        weights, _ = base.load(self.inputs.weights)
        magnitude = combined(base.load_echoes(self.inputs.magnitude)[0])
        device = resolve_device(self.inputs.device)
        function, params = self.method()
        result = function(
            field_ppm,
            base.load_mask(self.inputs.mask),
            base.grid_of(image),
            params,
            weights=weights,
            magnitude=magnitude,
            rad_per_ppm=rad_per_ppm(self.inputs.b0_t, self.inputs.te_s),
            device=device,
            **self._extras(image),
        )
        info = {"iterations": result.iterations, "converged": bool(result.converged), "device": device, **result.info}
        local_hz = self.inputs.local_hz
        if result.remainder_ppm is not None:
            field_ppm -= result.remainder_ppm
            field_ppm *= np.float32(hz_per_ppm(self.inputs.b0_t))
            local_hz = base.save(folder, "local_hz", field_ppm, image)
        return {
            "chi_ppm": base.save(folder, "chi_ppm", result.chi_ppm, image),
            "local_hz": local_hz,
            "info": base.save_info(folder, info),
        }

    def _extras(self, image: Any) -> dict[str, Any]:
        """Fluid of the ventricles, where R2* is at hand."""
        if not isdefined(self.inputs.r2star_hz):
            return {}
        r2star_hz, _ = base.load(self.inputs.r2star_hz)
        return {"csf": ventricles(r2star_hz, base.load_mask(self.inputs.mask), base.grid_of(image))}


class ReferenceInputSpec(base.MethodInputSpec):
    """Susceptibility and the mask where it is defined."""

    chi_ppm = File(exists=True, mandatory=True)
    mask = File(exists=True, mandatory=True)
    labels = File(exists=True, desc="segmentation that a reference region is taken from")
    label_table = File(exists=True)


class ReferenceOutputSpec(TraitedSpec):
    """Referenced susceptibility."""

    chi_ppm = File()
    info = File()


class Reference(base.Step):
    """Set the mean over the reference region to zero."""

    input_spec = ReferenceInputSpec
    output_spec = ReferenceOutputSpec
    step = "reference"

    def compute(self, folder: Path) -> dict[str, Any]:
        """Load, shift, save."""
        chi_ppm, image = base.load(self.inputs.chi_ppm)
        function, _ = self.method()
        region = region_of(self.inputs.method, self.inputs.labels or None, self.inputs.label_table or None)
        result = function(chi_ppm, base.load_mask(self.inputs.mask), None, region)
        info = {"shift_ppm": result.shift_ppm, "n_voxels": result.n_voxels}
        return {
            "chi_ppm": base.save(folder, "chi_ppm", result.chi_ppm, image),
            "info": base.save_info(folder, info),
        }
