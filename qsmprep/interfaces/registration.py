"""Registration and segmentation: T1w to gradient echo, the template to either, FSL FIRST."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nipype.interfaces.base import File, TraitedSpec, traits

from qsmprep.bids.headers import same_place
from qsmprep.bids.tables import read_label_table, write_label_table
from qsmprep.core.labels import sample_labels
from qsmprep.core.methods import METHODS
from qsmprep.core.registration import Volume, itk_threads
from qsmprep.errors import DataError
from qsmprep.interfaces import base
from qsmprep.interfaces.masks import combined, extract_brain, placed
from qsmprep.interfaces.regions import load_labels

MAX_SHIFT_MM, MAX_TURN_DEG = 60.0, 45.0
"""A head that lies further from where the headers put it is hardly the same scan session."""

MIN_SHARE = 0.75
"""Share of the brain of the gradient echo that must lie in the brain of the T1w image."""

MIN_INFORMATION = 1.02
"""Normalised mutual information below which a person should look; not measured on real pairs."""

MAX_STRETCH, SURE_INFORMATION = 0.03, 1.045
"""How much more one direction may have to be stretched than another until a person should look, and the mutual
information from which on it does not matter. Two simulated pairs of one person had 0.013 and 0.015 with an
information of 1.06 and 1.07, a real one of 3 mm 0.031 with 1.11; three simulated pairs of two persons had 0.039 to
0.041 with 1.03 to 1.04."""

MIN_CORRELATION = 0.1
"""Least correlation of the grey values of a T1w image and the template that is no warning."""


def volume_of(path: str | Path) -> tuple[Volume, Any]:
    """A volume (or the root mean square of a series) and its image."""
    data, image = base.load(path)
    data = combined(np.moveaxis(data, -1, 0)) if data.ndim == 4 else data
    return Volume(np.nan_to_num(data), np.asarray(image.affine, float)), image


class BrainOfInputSpec(base.StepInputSpec):
    """A T1w image."""

    in_file = File(exists=True, mandatory=True)
    parameters = traits.Dict(usedefault=True, desc="of the mask `auto`")
    device = traits.Str("cpu", usedefault=True)
    model = traits.Str(usedefault=True, desc="checksum of the network's weights, so that others do not reuse results")


class BrainOfOutputSpec(TraitedSpec):
    """Its brain."""

    mask = File()
    info = File()


class BrainOf(base.Step):
    """Extract the brain of a T1w image."""

    input_spec = BrainOfInputSpec
    output_spec = BrainOfOutputSpec
    apart = True

    def compute(self, folder: Path) -> dict[str, Any]:
        """Load, extract, save."""
        volume, image = volume_of(self.inputs.in_file)
        method = METHODS.get("mask", "auto")
        with base.about(self.inputs.in_file):
            options = placed(method, self.inputs.device)
            params = method.configure(self.inputs.parameters)
            mask, info = extract_brain(volume.data, image, method.load(), params, **options)
        info["warnings"] = [f"T1w image: {text}" for text in info["warnings"]]
        return {"mask": base.save(folder, "mask", mask, image), "info": base.save_info(folder, info)}


class CoregisterInputSpec(base.MethodInputSpec):
    """Gradient echo and T1w image of one head, and their brains."""

    fixed = File(exists=True, mandatory=True)
    fixed_mask = File(exists=True, mandatory=True)
    moving = File(exists=True, mandatory=True)
    moving_mask = File(exists=True, mandatory=True)


class CoregisterOutputSpec(TraitedSpec):
    """From scanner space of the gradient echo to that of the T1w image."""

    matrix = File()
    info = File()


class Coregister(base.Step):
    """Find where the head lies in the T1w image."""

    input_spec = CoregisterInputSpec
    output_spec = CoregisterOutputSpec
    step = "coregistration"

    def compute(self, folder: Path) -> dict[str, Any]:
        """Load, register, judge, save."""
        fixed, _ = volume_of(self.inputs.fixed)
        moving, _ = volume_of(self.inputs.moving)
        inside, theirs = base.load_mask(self.inputs.fixed_mask), base.load_mask(self.inputs.moving_mask)
        function, params = self.method()
        with itk_threads(self.inputs.num_threads):
            found = function(
                Volume(np.where(inside, fixed.data, 0), fixed.affine),
                Volume(np.where(theirs, moving.data, 0), moving.affine),
                params,
            )
        at = sample_labels(theirs.astype(np.int32), moving.affine, inside.shape, fixed.affine, moved=found.matrix)
        share = float(at[inside].mean()) if inside.any() else 0.0
        warnings = judge_rigid(found, share, self.inputs.moving)
        np.savetxt(folder / "matrix.txt", found.matrix)
        info = {
            "information_before": found.information_before,
            "information_after": found.information_after,
            "shift_mm": found.shift_mm,
            "turn_deg": found.turn_deg,
            "used": found.used,
            "share_of_brain": share,
            "stretch": found.stretch,
            "warnings": warnings,
        }
        return {"matrix": str(folder / "matrix.txt"), "info": base.save_info(folder, info)}


def judge_rigid(found: Any, share: float, file: str | Path) -> list[str]:
    """Refuse a registration that is no likely position of the same head, and say what is doubtful.

    Parameters
    ----------
    found : Rigid
    share : float
        Share of the brain of the gradient echo that lies in the brain of the T1w image, 0 to 1.
    file : str or Path
        The T1w image.

    Raises
    ------
    DataError
        When the brains do not meet, or the head is too far from where the headers put it.
    """
    if share < MIN_SHARE:
        raise DataError(
            f"the T1w image does not fit the gradient echo: {100 * share:.0f} % of the brain lie in its brain",
            file=file,
            expected=f"a T1w image of the same head; {100 * MIN_SHARE:g} % or more",
            remedy="check that it belongs to this participant, and the brain mask; or use --segmentation none",
        )
    if found.shift_mm > MAX_SHIFT_MM or found.turn_deg > MAX_TURN_DEG:
        raise DataError(
            f"the T1w image was moved by {found.shift_mm:.0f} mm and turned by {found.turn_deg:.0f} degrees to fit",
            file=file,
            expected=f"at most {MAX_SHIFT_MM:g} mm and {MAX_TURN_DEG:g} degrees",
            remedy="check its orientation, and that it belongs to this participant",
        )
    told = []
    if found.information_after < MIN_INFORMATION:
        told.append(
            f"T1w image and gradient echo hardly say anything of each other ({found.information_after:.3f}): look"
        )
    if found.stretch > MAX_STRETCH and found.information_after < SURE_INFORMATION:
        told.append(
            f"the brains of T1w image and gradient echo differ in shape, by {100 * found.stretch:.0f} % between two "
            "directions: is the T1w image of this participant? Are both brain masks right?"
        )
    return told


class AtlasLabelsInputSpec(base.MethodInputSpec):
    """An image with its brain, and an atlas in the space of nilearn's MNI152 template."""

    in_file = File(exists=True, mandatory=True)
    mask = File(exists=True, mandatory=True)
    atlas = File(exists=True, mandatory=True)
    table = File(exists=True, mandatory=True)
    is_t1w = traits.Bool(True, usedefault=True)


class AtlasLabelsOutputSpec(TraitedSpec):
    """Labels on the grid of the image, their table, and the transforms."""

    labels = File()
    table = File()
    warp = File()
    inverse_warp = File()
    linear = File()
    info = File()


class AtlasLabels(base.Step):
    """Bring the template and the labels of an atlas to an image."""

    input_spec = AtlasLabelsInputSpec
    output_spec = AtlasLabelsOutputSpec
    step = "segmentation"

    def compute(self, folder: Path) -> dict[str, Any]:
        """Load, register, judge, save."""
        volume, image = volume_of(self.inputs.in_file)
        brain = base.load_mask(self.inputs.mask)
        labels, affine = load_labels(self.inputs.atlas)
        regions = read_label_table(Path(self.inputs.table))
        function, params = self.method()
        with itk_threads(self.inputs.num_threads), base.about(self.inputs.in_file):
            found = function(volume, brain, template_brain(), Volume(labels, affine), params, folder=folder)
        if found.dice < params.min_dice:
            raise DataError(
                f"the template does not fit the brain (overlap {found.dice:.2f})",
                file=self.inputs.in_file,
                expected=f"an overlap of {params.min_dice:g} or more",
                remedy="look at the brain mask in the report; give a segmentation of your own with --derivatives",
            )
        lost = sorted(regions[i].name for i in regions if (labels == i).any() and not (found.labels == i).any())
        warnings = [f"labels of the atlas were lost on the way: {', '.join(lost)}"] if lost else []
        if self.inputs.is_t1w and found.correlation < MIN_CORRELATION:
            warnings.append(f"grey values of template and T1w image hardly go together ({found.correlation:.2f})")
        if not self.inputs.is_t1w:
            warnings.append("there is no T1w image: the template was registered to the gradient-echo magnitude")
        base.save(folder, "labels", found.labels.astype(np.int32), image)
        info = {"dice": found.dice, "correlation": found.correlation, "warnings": warnings}
        return {
            "labels": str(folder / "labels.nii"),
            "table": str(write_label_table(regions.values(), folder / "labels.tsv")),
            "warp": str(found.transforms[0]),
            "inverse_warp": str(found.inverse_warp),
            "linear": str(found.transforms[-1]),
            "info": base.save_info(folder, info),
        }


def template_brain() -> Volume:
    """Brain of nilearn's MNI152 template at 1 mm; it comes with nilearn, nothing is fetched."""
    from nilearn.datasets import load_mni152_brain_mask, load_mni152_template

    template, mask = load_mni152_template(resolution=1), load_mni152_brain_mask(resolution=1)
    data = np.where(np.asarray(mask.dataobj) > 0, np.asarray(template.dataobj), 0).astype(np.float32)
    return Volume(data, np.asarray(template.affine, float))


class FirstInputSpec(base.StepInputSpec):
    """A T1w image."""

    in_file = File(exists=True, mandatory=True)
    brain_extracted = traits.Bool(False, usedefault=True)


class FirstOutputSpec(TraitedSpec):
    """Labels with FreeSurfer's codes on the grid of the image."""

    labels = File()
    info = File()


class First(base.Step):
    """Segment the deep grey nuclei with FSL's ``run_first_all``."""

    input_spec = FirstInputSpec
    output_spec = FirstOutputSpec

    def compute(self, folder: Path) -> dict[str, Any]:
        """Run it in the folder and take its combined segmentation."""
        from nipype.interfaces import fsl

        from qsmprep.bids.fsl import find_fsl, fsl_environment

        program = find_fsl("run_first_all")
        image = nib.load(self.inputs.in_file)
        local = folder / "t1w.nii.gz"
        image.to_filename(local)
        first = fsl.FIRST(in_file=str(local), out_file="first", brain_extracted=self.inputs.brain_extracted)
        first.inputs.environ = fsl_environment(program)
        first._cmd = str(program)
        try:
            first.run(cwd=str(folder))
        except Exception as error:
            raise DataError(
                f"FSL FIRST failed ({str(error).splitlines()[0]})",
                file=self.inputs.in_file,
                remedy=f"look into {folder}, where it wrote its logs",
            ) from error
        result = next(iter(sorted(folder.glob("first*_firstseg.nii*"))), None)
        if result is None:
            raise DataError("FSL FIRST left no segmentation", file=self.inputs.in_file, remedy=f"look into {folder}")
        labels, affine = load_labels(result)
        if labels.shape != image.shape[:3] or not same_place(image.affine, affine, labels.shape):
            raise DataError("the segmentation of FSL FIRST is on another grid than its image", file=result)
        copied = folder / ("labels.nii.gz" if result.suffix == ".gz" else "labels.nii")
        shutil.copyfile(result, copied)
        return {"labels": str(copied), "info": base.save_info(folder, {"program": str(program)})}
