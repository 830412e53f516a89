"""Susceptibility-weighted images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nipype.interfaces.base import File, TraitedSpec, traits

from qsmprep.interfaces import base


class MakeSWIInputSpec(base.MethodInputSpec):
    """Wrapped phase and magnitude of all echoes."""

    magnitude = File(exists=True, mandatory=True)
    phase = File(exists=True, mandatory=True)
    mask = File(exists=True, mandatory=True)
    te_s = traits.List(traits.Float(), mandatory=True)


class MakeSWIOutputSpec(TraitedSpec):
    """Susceptibility-weighted image and its minimum-intensity projection."""

    swi = File()
    minip = File()
    info = File()


class MakeSWI(base.Step):
    """Weight the magnitude by the phase, and project it."""

    input_spec = MakeSWIInputSpec
    output_spec = MakeSWIOutputSpec
    step = "swi"

    def compute(self, folder: Path) -> dict[str, Any]:
        """Load, weight, save."""
        phase, image = base.load_echoes(self.inputs.phase)
        magnitude, _ = base.load_echoes(self.inputs.magnitude)
        mask, te_s = base.load_mask(self.inputs.mask), list(self.inputs.te_s)
        function, params = self.method()
        result = function(phase, magnitude, mask, te_s, base.grid_of(image), params)
        return {
            "swi": base.save(folder, "swi", result.swi, image),
            "minip": base.save(folder, "minip", result.minip, image),
            "info": base.save_info(folder, result.info),
        }
