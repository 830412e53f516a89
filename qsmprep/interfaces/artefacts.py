"""What the scanner did to the phase, undone before anything is computed from it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nipype.interfaces.base import File, TraitedSpec, traits

from qsmprep.interfaces import base


class CorrectPhaseInputSpec(base.MethodInputSpec):
    """Wrapped phase of all echoes as it came from the scanner."""

    magnitude = File(exists=True, mandatory=True)
    phase = File(exists=True, mandatory=True)
    mask = File(exists=True, mandatory=True)
    te_s = traits.List(traits.Float(), mandatory=True)
    readout = traits.Enum("", "monopolar", "bipolar", usedefault=True, desc="what the sidecar says")


class CorrectPhaseOutputSpec(TraitedSpec):
    """Corrected, wrapped phase."""

    phase = File()
    info = File()


class CorrectPhase(base.Step):
    """Undo alternating slice signs and bipolar readouts; tell high-pass filtered phase."""

    input_spec = CorrectPhaseInputSpec
    output_spec = CorrectPhaseOutputSpec
    step = "artefacts"

    def compute(self, folder: Path) -> dict[str, Any]:
        """Load, correct, save."""
        phase, image = base.load_echoes(self.inputs.phase)
        magnitude, _ = base.load_echoes(self.inputs.magnitude)
        mask, te_s = base.load_mask(self.inputs.mask), list(self.inputs.te_s)
        function, params = self.method()
        found = function(phase, magnitude, mask, te_s, base.grid_of(image), params, readout=self.inputs.readout)
        return {
            "phase": base.save(folder, "phase", found.phase_rad, image),
            "info": base.save_info(folder, {**found.info, "warnings": list(found.warnings)}),
        }
