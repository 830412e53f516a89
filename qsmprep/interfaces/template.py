"""Maps in the space of a template."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nipype.interfaces.base import File, TraitedSpec

from qsmprep.core.registration import Volume, itk_threads
from qsmprep.core.template import to_template
from qsmprep.interfaces import base
from qsmprep.interfaces.regions import read_matrix
from qsmprep.interfaces.registration import template_brain


class ToTemplateInputSpec(base.StepInputSpec):
    """A susceptibility map, and the registration of the template."""

    chi_ppm = File(exists=True, mandatory=True)
    mask = File(exists=True, mandatory=True)
    linear = File(exists=True, mandatory=True)
    inverse_warp = File(exists=True, mandatory=True)
    matrix = File(exists=True, desc="scanner space of the map to that of the T1w image")


class ToTemplateOutputSpec(TraitedSpec):
    """Map and mask on the grid of the template."""

    chi_ppm = File()
    mask = File()


class ToTemplate(base.Step):
    """Bring a map to the template."""

    input_spec = ToTemplateInputSpec
    output_spec = ToTemplateOutputSpec

    def compute(self, folder: Path) -> dict[str, Any]:
        """Load, resample, save."""
        chi, image = base.load(self.inputs.chi_ppm)
        template = template_brain()
        with itk_threads(self.inputs.num_threads), base.about(self.inputs.chi_ppm):
            values, there = to_template(
                Volume(chi, np.asarray(image.affine, float)),
                base.load_mask(self.inputs.mask),
                template,
                Path(self.inputs.linear),
                Path(self.inputs.inverse_warp),
                matrix=read_matrix(self.inputs.matrix or None),
                folder=folder,
            )
        like = nib.Nifti1Image(np.zeros((1, 1, 1), np.float32), template.affine)
        return {"chi_ppm": base.save(folder, "chi", values, like), "mask": base.save(folder, "mask", there, like)}
