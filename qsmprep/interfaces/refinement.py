"""Labels of the embedded atlas, moved to the contrast of a head."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nipype.interfaces.base import File, TraitedSpec

from qsmprep.core.atlas import Probabilities, refine_labels
from qsmprep.core.registration import Volume, itk_threads
from qsmprep.interfaces import base
from qsmprep.interfaces.regions import load_labels, read_matrix
from qsmprep.interfaces.registration import volume_of

MIN_OVERLAP = 0.4
"""A label that overlaps less with what registration alone said is one to look at."""

ANYWHERE = ("fluid", "white", "cortex")
"""Tissues, as the table of the embedded atlas calls them, that may lie where the atlas has a structure."""


class RefineLabelsInputSpec(base.MethodInputSpec):
    """An image and its brain, registered labels, the probabilities of the atlas, and susceptibility."""

    in_file = File(exists=True, mandatory=True)
    mask = File(exists=True, mandatory=True)
    labels = File(exists=True, mandatory=True)
    warp = File(exists=True, mandatory=True)
    linear = File(exists=True, mandatory=True)
    shares = File(exists=True, mandatory=True)
    classes = File(exists=True, mandatory=True)
    chi_ppm = File(exists=True)
    chi_mask = File(exists=True)
    matrix = File(exists=True, desc="scanner space of the map to that of the image")


class RefineLabelsOutputSpec(TraitedSpec):
    """Labels on the grid of the image."""

    labels = File()
    info = File()


class RefineLabels(base.Step):
    """Move the labels of the atlas to the contrast of the head."""

    input_spec = RefineLabelsInputSpec
    output_spec = RefineLabelsOutputSpec
    step = "segmentation"

    def compute(self, folder: Path) -> dict[str, Any]:
        """Load, refine, save."""
        head, image = volume_of(self.inputs.in_file)
        labels, _ = load_labels(self.inputs.labels)
        _, params = self.method()
        chi = None
        if self.inputs.chi_ppm:
            values, like = base.load(self.inputs.chi_ppm)
            values = np.where(base.load_mask(self.inputs.chi_mask), values, np.nan)
            chi = Volume(values.astype(np.float32), np.asarray(like.affine, float))
        with itk_threads(self.inputs.num_threads), base.about(self.inputs.in_file):
            found = refine_labels(
                head,
                base.load_mask(self.inputs.mask),
                labels,
                load_probabilities(Path(self.inputs.shares), Path(self.inputs.classes)),
                [Path(self.inputs.warp), Path(self.inputs.linear)],
                params,
                chi=chi,
                matrix=read_matrix(self.inputs.matrix or None),
            )
        far = sorted(code for code, dice in found.overlaps.items() if dice < MIN_OVERLAP)
        warnings = (
            [f"labels were moved far from where registration put them: {', '.join(map(str, far))}"] if far else []
        )
        base.save(folder, "labels", found.labels, image)
        info = {"overlaps": {str(k): v for k, v in found.overlaps.items()}, "warnings": warnings}
        return {"labels": str(folder / "labels.nii"), "info": base.save_info(folder, info)}


def load_probabilities(file: Path, table: Path) -> Probabilities:
    """The embedded probabilities (255 is 1), and what each volume is."""
    with table.open(newline="") as stream:
        rows = list(csv.DictReader(stream, delimiter="\t"))
    image = nib.load(file)
    shares = np.moveaxis(np.asarray(image.dataobj, np.float32) / 255.0, -1, 0)
    names = list(dict.fromkeys(row["tissue"] for row in rows))
    index, tissue = (tuple(int(row["index"]) for row in rows), tuple(names.index(row["tissue"]) for row in rows))
    anywhere = tuple(names.index(name) for name in ANYWHERE)
    return Probabilities(shares, np.asarray(image.affine, float), index, tissue, anywhere)
