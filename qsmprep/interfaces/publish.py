"""From the work folder to the output folder."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from nipype.interfaces.base import File, InputMultiObject, TraitedSpec, traits

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
    "agreement": "MaskAgreement",
    "network_weights": "NetworkWeights",
    "trained_steps": "NetworkTrainingSteps",
    "outside_card": "NetworkOutsideTraining",
    "consistency_weight": "DataConsistencyWeight",
    "tiles": "Tiles",
    "harmonic_ppm": "HarmonicFieldRms",
    "outlier_share": "OutlierShare",
}
"""What a step learnt, and the key of the sidecar it goes to."""


class PublishInputSpec(base.StepInputSpec):
    """Intermediate files of one step and what becomes of them among the outputs."""

    in_files = InputMultiObject(File(exists=True), mandatory=True)
    images = traits.List(traits.Dict, mandatory=True, desc="see `image`")
    infos = InputMultiObject(File(exists=True))


class PublishOutputSpec(TraitedSpec):
    """The published files."""

    out_files = traits.List(traits.Str)


def image(
    out_file: Path,
    sidecar: dict[str, Any],
    *,
    file: int = 0,
    kind: str = "map",
    volume: int = -1,
    infos: Sequence[int] = (),
) -> dict[str, Any]:
    """One image for :class:`Publish`.

    Parameters
    ----------
    out_file : Path
    sidecar : dict
    file : int
        Which of the input files.
    kind : {"map", "mask"}
    volume : int
        One volume of a series; -1 for the root mean square over it.
    infos : sequence of int
        Which of the input ``infos`` go into the sidecar.
    """
    facts = {"file": file, "kind": kind, "volume": volume, "infos": list(infos)}
    return {"out_file": str(out_file), "sidecar": sidecar, **facts}


class Publish(base.Step):
    """Write images and their sidecars under their BIDS names; always done, so that deleted outputs come back."""

    input_spec = PublishInputSpec
    output_spec = PublishOutputSpec
    _always_run = True

    def compute(self, folder: Path) -> dict[str, Any]:
        """Load every file once; choose, write."""
        for number, file in enumerate(self.inputs.in_files):
            data, source = base.load(file)
            for wanted in self.inputs.images:
                if wanted["file"] == number:
                    self._write(wanted, data, source)
        return {"out_files": [wanted["out_file"] for wanted in self.inputs.images]}

    def _write(self, wanted: dict[str, Any], data: Any, source: Any) -> None:
        if data.ndim == 4:
            index = wanted["volume"]
            data = data[..., index] if index >= 0 else np.sqrt(np.mean(np.square(data), axis=-1))
        data = (data != 0).astype(np.uint8) if wanted["kind"] == "mask" else data.astype(np.float32)
        sidecar = dict(wanted["sidecar"])
        for number in wanted["infos"]:
            info = json.loads(Path(self.inputs.infos[number]).read_text())
            sidecar |= {key: info[name] for name, key in FROM_INFO.items() if name in info}
        out_file = Path(wanted["out_file"])
        write_nifti(data, source.affine, source.header, out_file)
        write_json(sidecar, sidecar_path(out_file))


class PublishFileInputSpec(base.StepInputSpec):
    """Any file and its place among the outputs."""

    in_file = File(exists=True, mandatory=True)
    out_file = traits.Str(mandatory=True)


class PublishFileOutputSpec(TraitedSpec):
    """The published file."""

    out_file = traits.Str()


class PublishFile(base.Step):
    """Copy a file, such as a transform, to its place among the outputs."""

    input_spec = PublishFileInputSpec
    output_spec = PublishFileOutputSpec
    _always_run = True

    def compute(self, folder: Path) -> dict[str, Any]:
        """Copy it."""
        return {"out_file": str(copy_file(Path(self.inputs.in_file), Path(self.inputs.out_file)))}
