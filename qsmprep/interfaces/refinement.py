"""Labels of the embedded atlas, moved to the contrast of a head."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nipype.interfaces.base import File, TraitedSpec, traits
from numpy.typing import NDArray

from qsmprep.core.atlas import Probabilities, RefinedLabels, refine_labels
from qsmprep.core.device import resolve_device
from qsmprep.core.methods import METHODS
from qsmprep.core.registration import Volume, itk_threads
from qsmprep.errors import NotSeenError
from qsmprep.interfaces import base
from qsmprep.interfaces.regions import load_labels, read_matrix
from qsmprep.interfaces.registration import volume_of

MIN_OVERLAP = 0.4
"""A label that overlaps less with what was expected before grey values were looked at is one to look at."""

MIN_MEETING = 0.1
"""A label that overlaps less with what registration alone said: it or the network is far off. Registration alone has
0.2 and more of the true labels even in heads with large ventricles."""

ANYWHERE = ("fluid", "white", "cortex")
"""Tissues, as the table of the embedded atlas calls them, that may lie where the atlas has a structure."""

SIGHTED = (10, 11, 12, 13, 49, 50, 51, 52)
"""FreeSurfer codes of thalamus, caudate, putamen and pallidum, left and right: those the network knows. Both sides have
a distribution of their own, since iron may differ; those of the small structures beside them are shared."""


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
    sighting = traits.Dict(usedefault=True, desc="parameters of the network that sees the image; empty for none")
    model = traits.Str(usedefault=True, desc="checksum of the network's weights, so that others do not reuse results")


class RefineLabelsOutputSpec(TraitedSpec):
    """Labels on the grid of the image."""

    labels = File()
    info = File()


class RefineLabels(base.Step):
    """Move the labels of the atlas to the contrast of the head."""

    input_spec = RefineLabelsInputSpec
    output_spec = RefineLabelsOutputSpec
    apart = True
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
        brain = base.load_mask(self.inputs.mask)
        with itk_threads(self.inputs.num_threads), base.about(self.inputs.in_file):
            seen, info = self._seen(head, brain, labels)
            found = refine_labels(
                head,
                brain,
                labels,
                load_probabilities(Path(self.inputs.shares), Path(self.inputs.classes)),
                [Path(self.inputs.warp), Path(self.inputs.linear)],
                params,
                chi=chi,
                matrix=read_matrix(self.inputs.matrix or None),
                **seen,
            )
        info["warnings"] += judge(found, bool(seen))
        base.save(folder, "labels", found.labels, image)
        info["overlaps"] = {str(k): v for k, v in found.overlaps.items()}
        return {"labels": str(folder / "labels.nii"), "info": base.save_info(folder, info)}

    def _seen(
        self, head: Volume, brain: NDArray[np.bool_], labels: NDArray[np.integer]
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """What the network sees, for :func:`refine_labels`, and what there is to say of it."""
        method = METHODS.get("sighting", "t1wunetr")
        params = method.configure(self.inputs.sighting or {"share": 0.0})
        if params.share == 0:
            return {}, {"warnings": []}
        near = np.isin(labels, SIGHTED)
        try:
            sighting, card = method.load()(
                head, brain, near, weights=params.weights, device=resolve_device(self.inputs.device)
            )
        except NotSeenError as error:
            return {}, {"warnings": [f"the network did not help the atlas: {error.what}"]}
        info = {"network_weights": card.code, "trained_steps": card.steps, "warnings": []}
        return {"sighting": sighting, "share": params.share}, info


def judge(found: RefinedLabels, seen: bool) -> list[str]:
    """What a person should look at in refined labels; ``seen`` where a network helped."""

    def below(overlaps: Mapping[int, float], least: float) -> str:
        return ", ".join(str(code) for code in sorted(overlaps) if overlaps[code] < least)

    if not seen:
        far = below(found.overlaps, MIN_OVERLAP)
        return [f"labels were moved far from where registration put them: {far}"] if far else []
    far, apart = below(found.kept, MIN_OVERLAP), below(found.overlaps, MIN_MEETING)
    told = [f"labels were moved far from where atlas and network expect them: {far}"] if far else []
    return told + ([f"labels lie nowhere near where registration put them: {apart}"] if apart else [])


def load_probabilities(file: Path, table: Path) -> Probabilities:
    """The embedded probabilities (255 is 1), and what each volume is."""
    with table.open(newline="") as stream:
        rows = list(csv.DictReader(stream, delimiter="\t"))
    image = nib.load(file)
    shares = np.moveaxis(np.asarray(image.dataobj, np.float32) / 255.0, -1, 0)
    index = tuple(int(row["index"]) for row in rows)
    like = [(row["tissue"], code if code in SIGHTED else 0) for row, code in zip(rows, index, strict=True)]
    names = list(dict.fromkeys(like))
    tissue = tuple(names.index(one) for one in like)
    anywhere = tuple(names.index((name, 0)) for name in ANYWHERE)
    return Probabilities(shares, np.asarray(image.affine, float), index, tissue, anywhere)
