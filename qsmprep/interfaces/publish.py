"""From the work folder to the output folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from nipype.interfaces.base import File, TraitedSpec, traits

from qsmprep.bids.names import sidecar_path
from qsmprep.bids.write import copy_file, write_json, write_nifti
from qsmprep.interfaces import base

FROM_INFO = {
    "iterations": "Iterations",
    "converged": "Converged",
    "device": "Device",
    "shift_ppm": "ReferenceShift",
    "exact": "UnwrappingExact",
    "phase_scaling": "PhaseConvention",
    "echo_order": "EchoOrder",
    "slice_sign": "AlternatingSliceSign",
    "bipolar": "BipolarReadout",
    "bipolar_difference_rad": "BipolarPhaseDifference",
    "high_pass_filtered": "PhaseLooksHighPassFiltered",
    "minip_thickness_mm": "ProjectionThickness",
    "minip_axis": "ProjectionAxis",
    "source": "MaskSource",
    "network_weights": "NetworkWeights",
    "trained_steps": "NetworkTrainingSteps",
    "outside_card": "NetworkOutsideTraining",
    "consistency_weight": "DataConsistencyWeight",
    "tiles": "Tiles",
}
"""What a step learnt, and the key of the sidecar it goes to."""


class PublishInputSpec(base.StepInputSpec):
    """An intermediate file and its place among the outputs."""

    in_file = File(exists=True, mandatory=True)
    out_file = traits.Str(mandatory=True)
    kind = traits.Enum("map", "mask", usedefault=True)
    volume = traits.Int(-1, usedefault=True, desc="one volume of a series; -1 for the root mean square over it")
    sidecar = traits.Dict(mandatory=True)
    infos = traits.List(File(exists=True), usedefault=True)


class PublishOutputSpec(TraitedSpec):
    """The published file."""

    out_file = traits.Str()


class Publish(base.Step):
    """Write one image and its sidecar under their BIDS names; always done, so that deleted outputs come back."""

    input_spec = PublishInputSpec
    output_spec = PublishOutputSpec
    _always_run = True

    def compute(self, folder: Path) -> dict[str, Any]:
        """Load, choose, write."""
        data, image = base.load(self.inputs.in_file)
        if data.ndim == 4:
            index = self.inputs.volume
            data = data[..., index] if index >= 0 else np.sqrt(np.mean(np.square(data), axis=-1))
        out_file = Path(self.inputs.out_file)
        data = (data != 0).astype(np.uint8) if self.inputs.kind == "mask" else data.astype(np.float32)
        sidecar = dict(self.inputs.sidecar)
        for path in self.inputs.infos:
            info = json.loads(Path(path).read_text())
            sidecar |= {key: info[name] for name, key in FROM_INFO.items() if name in info}
        write_nifti(data, image.affine, image.header, out_file)
        write_json(sidecar, sidecar_path(out_file))
        return {"out_file": str(out_file)}


class PublishFileInputSpec(base.StepInputSpec):
    """Any file and its place among the outputs."""

    in_file = File(exists=True, mandatory=True)
    out_file = traits.Str(mandatory=True)


class PublishFile(base.Step):
    """Copy a file, such as a transform, to its place among the outputs."""

    input_spec = PublishFileInputSpec
    output_spec = PublishOutputSpec
    _always_run = True

    def compute(self, folder: Path) -> dict[str, Any]:
        """Copy it."""
        return {"out_file": str(copy_file(Path(self.inputs.in_file), Path(self.inputs.out_file)))}
