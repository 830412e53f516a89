"""Regions of interest: labels on the grid of the maps, and statistics over them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nipype.interfaces.base import File, TraitedSpec, traits

from qsmprep.bids.names import sidecar_path
from qsmprep.bids.tables import find_regions, read_label_table, write_label_table, write_roi_table
from qsmprep.bids.write import copy_file, write_json, write_nifti
from qsmprep.core.device import resolve_device
from qsmprep.core.labels import as_labels, sample_labels, share_inside, sub_offsets, swapped_pairs
from qsmprep.core.parameters import RoiParams
from qsmprep.core.roi import reference_region, region_row
from qsmprep.core.structures import REFERENCE_STRUCTURES
from qsmprep.errors import DataError
from qsmprep.interfaces import base

MIN_SHARE_INSIDE = 0.2
"""Share of a segmentation inside the field of view below which a person should look."""


def load_labels(path: str | Path) -> tuple[Any, Any]:
    """A segmentation and its affine.

    Raises
    ------
    DataError
        When it cannot be read, or holds no labels.
    """
    data, image = base.load(path, dtype=None)
    with base.about(path):
        return as_labels(data.reshape(data.shape[:3])), image.affine


def read_matrix(path: str | Path | None) -> Any:
    """A 4 x 4 matrix from text; None stands for none."""
    return np.loadtxt(path) if path else None


class SegmentNucleiInputSpec(base.MethodInputSpec):
    """A susceptibility map and where it is defined."""

    chi_ppm = File(exists=True, mandatory=True)
    mask = File(exists=True, mandatory=True)
    model = traits.Str(usedefault=True, desc="checksum of the network's weights, so that others do not reuse results")


class SegmentNucleiOutputSpec(TraitedSpec):
    """FreeSurfer's codes on the grid of the map."""

    labels = File()
    info = File()


class SegmentNuclei(base.Step):
    """Segment the deep grey nuclei on a susceptibility map."""

    input_spec = SegmentNucleiInputSpec
    output_spec = SegmentNucleiOutputSpec
    apart = True
    step = "nuclei"

    def compute(self, folder: Path) -> dict[str, Any]:
        """Load, segment, save."""
        chi_ppm, image = base.load(self.inputs.chi_ppm)
        function, params = self.method()
        (chi, mask), grid, back = base.as_ras([chi_ppm, base.load_mask(self.inputs.mask)], image)
        found = function(chi, mask, grid, params, device=resolve_device(self.inputs.device))
        return {
            "labels": base.save(folder, "labels", back(found.labels), image),
            "info": base.save_info(folder, found.info),
        }


class LabelsToMapInputSpec(base.StepInputSpec):
    """A segmentation anywhere in scanner space, and an image on the grid of the maps."""

    segmentation = File(exists=True, mandatory=True)
    table = traits.Str(mandatory=True, desc="label table, or `freesurfer`")
    always = traits.List(
        traits.Int(), usedefault=True, desc="FreeSurfer's codes that get a row whether they are present or not"
    )
    like = File(exists=True, mandatory=True)
    matrix = File(exists=True, desc="from scanner space of the maps to that of the segmentation, 4 x 4 as text")


class LabelsToMapOutputSpec(TraitedSpec):
    """Labels on the grid of the maps, and their table."""

    labels = File()
    table = File()
    info = File()


class LabelsToMap(base.Step):
    """Look the labels up at the centres of the map's voxels."""

    input_spec = LabelsToMapInputSpec
    output_spec = LabelsToMapOutputSpec

    def compute(self, folder: Path) -> dict[str, Any]:
        """Load, look up, save."""
        labels, affine = load_labels(self.inputs.segmentation)
        _, like = base.load(self.inputs.like)
        shape = like.shape[:3]
        matrix = read_matrix(self.inputs.matrix or None)
        on_map = sample_labels(labels, affine, shape, like.affine, moved=matrix)
        if not on_map.any():
            raise DataError(
                "no label of the segmentation lies inside the field of view of the maps",
                file=self.inputs.segmentation,
                expected="a segmentation of the same head, in the scanner space of the T1w image",
                remedy="check that it belongs to this participant, or leave it out",
            )
        named = (Path(self.inputs.segmentation), self.inputs.table, np.unique(labels), self.inputs.always)
        regions, source = find_regions(*named)
        moved = affine if matrix is None else np.linalg.inv(matrix) @ affine
        inside = share_inside(labels, moved, shape, like.affine)
        swapped = swapped_pairs(on_map, like.affine, regions.values())
        info: dict[str, Any] = {"label_names": source, "inside": inside, "swapped": list(swapped), "warnings": []}
        if inside < MIN_SHARE_INSIDE:
            info["warnings"].append(f"only {100 * inside:.0f} % of the segmentation lie inside the field of view")
        if swapped:
            info["warnings"].append(f"left and right look swapped in {', '.join(swapped)}: check labels and affines")
        base.save(folder, "labels", on_map.astype(np.int32), like)
        return {
            "labels": str(folder / "labels.nii"),
            "table": str(write_label_table(regions.values(), folder / "labels.tsv")),
            "info": base.save_info(folder, info),
        }


class MeasureRegionsInputSpec(base.MethodInputSpec):
    """A map, where it is defined, and a segmentation."""

    in_file = File(exists=True, mandatory=True)
    mask = File(exists=True, mandatory=True)
    labels = File(exists=True, mandatory=True, desc="on the grid of the map")
    table = File(exists=True, mandatory=True)
    segmentation = File(exists=True, mandatory=True, desc="as it was given, for the shares of voxels")
    matrix = File(exists=True)
    quantity = traits.Str(mandatory=True)
    unit = traits.Str(mandatory=True)
    reference = traits.Str("none", usedefault=True, desc="a further row: wholebrain, csf, whitematter or none")
    facts = traits.Dict(usedefault=True, desc="further keys of the dictionary")


class MeasureRegionsOutputSpec(TraitedSpec):
    """The table and its dictionary."""

    out_table = File()
    out_dictionary = File()


class MeasureRegions(base.Step):
    """Statistics of a map over all regions."""

    input_spec = MeasureRegionsInputSpec
    output_spec = MeasureRegionsOutputSpec
    step = "roi"

    def compute(self, folder: Path) -> dict[str, Any]:
        """Load, measure, write."""
        values, image = base.load(self.inputs.in_file)
        mask = base.load_mask(self.inputs.mask)
        labels, _ = load_labels(self.inputs.labels)
        regions = list(read_label_table(Path(self.inputs.table)).values())
        grid = base.grid_of(image)
        function, params = self.method()
        rows = function(
            values, labels, regions, grid.voxel_mm, params, valid=mask, sub_labels=self._parts(image, params)
        )
        chosen = self.inputs.reference
        if chosen != "none":
            where = mask if chosen == "wholebrain" else reference_region(labels, regions, chosen)
            rows.append(region_row(values, where, mask, grid.voxel_mm, f"reference: {chosen}", "reference", params))
        path = folder / "stats.tsv"
        write_roi_table(rows, self.inputs.quantity, self.inputs.unit, path, self.inputs.facts)
        return {"out_table": str(path), "out_dictionary": str(sidecar_path(path))}

    def _parts(self, image: Any, params: RoiParams) -> Any:
        """Labels at the points of each voxel, one volume after another."""
        labels, affine = load_labels(self.inputs.segmentation)
        matrix = read_matrix(self.inputs.matrix or None)
        for offset in sub_offsets(params.subdivisions):
            yield sample_labels(labels, affine, image.shape[:3], image.affine, moved=matrix, offset_voxel=offset)


class PublishRegionsInputSpec(base.StepInputSpec):
    """Labels with their table, or statistics with their dictionary; and where they go."""

    labels = File(exists=True)
    table = File(exists=True, mandatory=True)
    dictionary = File(exists=True)
    out_file = traits.Str(mandatory=True, desc="the image where there are labels, else the table")
    sidecar = traits.Dict(usedefault=True)
    info = File(exists=True)


class PublishRegionsOutputSpec(TraitedSpec):
    """The published file."""

    out_file = traits.Str()


class PublishRegions(base.Step):
    """Write a segmentation with table and sidecar, or a table of statistics; always done."""

    input_spec = PublishRegionsInputSpec
    output_spec = PublishRegionsOutputSpec
    _always_run = True

    def compute(self, folder: Path) -> dict[str, Any]:
        """Copy to the place among the outputs."""
        out_file = Path(self.inputs.out_file)
        if self.inputs.labels:
            image = nib.load(self.inputs.labels)
            write_nifti(np.asarray(image.dataobj).astype(np.int32), image.affine, image.header, out_file)
            copy_file(Path(self.inputs.table), sidecar_path(out_file).with_suffix(".tsv"))
            sidecar = dict(self.inputs.sidecar)
            if self.inputs.info:
                info = json.loads(Path(self.inputs.info).read_text())
                sidecar |= {"LabelNames": info["label_names"], "ShareInFieldOfView": round(info["inside"], 4)}
            write_json(sidecar, sidecar_path(out_file))
        else:
            copy_file(Path(self.inputs.table), out_file)
            copy_file(Path(self.inputs.dictionary), sidecar_path(out_file))
        return {"out_file": str(out_file)}


def region_of(method: str, labels: str | None, table: str | None) -> Any:
    """The reference region that a method needs; None where it needs none."""
    if method not in REFERENCE_STRUCTURES or not labels or not table:
        return None
    volume, _ = load_labels(labels)
    return reference_region(volume, read_label_table(Path(table)).values(), method)
