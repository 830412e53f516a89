"""``qsmprep-step roi``: statistics of an existing map over an existing segmentation, without phase."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qsmprep.bids.headers import same_place
from qsmprep.bids.names import sidecar_path
from qsmprep.bids.tables import find_regions, write_roi_table
from qsmprep.cli.single import Source, check_writable, read, read_mask, read_on_grid
from qsmprep.core.grid import Grid
from qsmprep.core.labels import Labels, as_labels, sample_labels, share_inside, sub_offsets, swapped_pairs
from qsmprep.core.methods import METHODS
from qsmprep.core.roi import RoiRow, reference_region, region_row
from qsmprep.core.structures import Region
from qsmprep.errors import DataError, QSMPrepError
from qsmprep.version import qsmprep_version

SAME_GRID = "the segmentation lies on the grid of the map"
RESAMPLED = (
    "the segmentation was looked up at the map's voxel centres by the affines of both (nearest neighbour); "
    "both must be in one scanner space"
)


def roi(args: argparse.Namespace) -> str:
    """Write the table and say what was done."""
    check_writable(args.out)
    chi = read(args.chi)
    valid, mask_is = _defined(args, chi)
    dseg = read(args.dseg)
    try:
        labels = as_labels(dseg.data)
    except DataError as error:
        raise DataError(error.what, file=args.dseg, expected=error.expected, remedy=error.remedy) from None
    regions, names_from = find_regions(args.dseg, args.labels, np.unique(labels))
    moved, inside = _moved(dseg, chi, labels)
    rows = _rows(args, chi, valid, (labels, dseg.image.affine), list(regions.values()), moved)
    swapped = swapped_pairs(labels, dseg.image.affine, regions.values())
    facts: dict[str, Any] = {
        "Description": f"Statistics of {args.chi.name} over the regions of {args.dseg.name}",
        "Map": str(args.chi),
        "Segmentation": str(args.dseg),
        "LabelNames": names_from,
        "Mask": mask_is,
        "Geometry": RESAMPLED if moved else SAME_GRID,
        "SegmentationInFieldOfView": round(inside, 6),
        "LeftRightSuspect": list(swapped),
        "Parameters": dataclasses.asdict(args.params),
        "GeneratedBy": [{"Name": "qsmprep", "Version": qsmprep_version()}],
    }
    _write(rows, args, facts)
    empty = sum(1 for row in rows if row.kind == "region" and not row.statistics.n_voxels)
    said = [f"{args.out}: {len(regions)} regions"]
    said += [f"{empty} of them without a voxel in the map"] if empty else []
    said += [RESAMPLED] if moved else []
    said += [f"left and right look swapped in: {', '.join(swapped)}; check labels and affines"] if swapped else []
    return "; ".join(said)


def _defined(args: argparse.Namespace, chi: Source) -> tuple[NDArray[np.bool_], str]:
    """Where the map is defined, and what says so."""
    if args.mask is not None:
        mask = read_mask(args.mask)
        read_on_grid(args.chi, mask)
        return mask.data, str(args.mask)
    valid = np.isfinite(chi.data) & (chi.data != 0)
    if not valid.any():
        raise DataError("the map is zero or not finite everywhere", file=args.chi, expected="a map with values")
    return valid, "every voxel that is finite and not zero"


def _rows(
    args: argparse.Namespace,
    chi: Source,
    valid: NDArray[np.bool_],
    segmentation: tuple[Labels, NDArray[np.float64]],
    regions: list[Region],
    moved: bool,
) -> list[RoiRow]:
    """Statistics of all regions, of the whole map, and of the reference region that was asked for."""
    grid, function = _grid(chi), METHODS.get("roi", args.method).load()
    at = (*segmentation, grid.shape, chi.image.affine)
    on_map = sample_labels(*at) if moved else segmentation[0]
    sub = (sample_labels(*at, offset_voxel=offset) for offset in sub_offsets(args.params.subdivisions))
    values = np.where(valid, chi.data, 0.0)
    rows: list[RoiRow] = function(
        values, on_map, regions, grid.voxel_mm, args.params, valid=valid, sub_labels=sub if moved else None
    )
    if args.reference_region != "none":
        whole = args.reference_region == "wholebrain"
        where = valid if whole else reference_region(on_map, regions, args.reference_region)
        name = f"reference: {args.reference_region}"
        rows.append(region_row(values, where, valid, grid.voxel_mm, name, "reference", args.params))
    return rows


def _write(rows: list[Any], args: argparse.Namespace, facts: dict[str, Any]) -> None:
    """Both files, or none where there was none."""
    fresh = [path for path in (args.out, sidecar_path(args.out)) if not path.exists()]
    try:
        write_roi_table(rows, args.quantity, args.map_unit, args.out, facts)
    except QSMPrepError:
        for path in fresh:
            path.unlink(missing_ok=True)
        raise


def _grid(chi: Source) -> Grid:
    try:
        return Grid.from_affine(chi.data.shape, chi.image.affine)
    except DataError as error:
        raise DataError(error.what, file=chi.path, expected=error.expected, remedy=error.remedy) from None


def _moved(dseg: Source, chi: Source, labels: Any) -> tuple[bool, float]:
    """Whether the segmentation has another grid than the map, and the share of it that the map covers.

    Raises
    ------
    DataError
        When the affine of the segmentation is singular, or no labelled voxel lies inside the map.
    """
    _grid(dseg)
    shape = chi.data.shape
    same = dseg.data.shape == shape and same_place(chi.image.affine, dseg.image.affine, shape)
    inside = share_inside(labels, dseg.image.affine, chi.data.shape, chi.image.affine)
    if not inside:
        what = "the segmentation has no label" if not (labels != 0).any() else "no label lies inside the map"
        raise DataError(
            what,
            file=dseg.path,
            expected=f"labels in the scanner space of {Path(chi.path).name}",
            remedy="register the segmentation to the map first; only the affines of both are used here",
        )
    return not same, inside
