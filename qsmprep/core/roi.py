"""Statistics of a map over regions of interest.

Only voxels in which the map is defined count. A region without such a voxel keeps its row: its count is zero and its
values are NaN, so that tables of a cohort have the same rows.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qsmprep.core.labels import Labels
from qsmprep.core.masking.morphology import erode
from qsmprep.core.parameters import RoiParams
from qsmprep.core.structures import REFERENCE_STRUCTURES, Region
from qsmprep.errors import DataError

MAD_TO_SD = 1.4826022185056018
"""Standard deviation of a normal distribution over its median absolute deviation."""

MANY = 1 << 16
"""Labels below this are counted without sorting them first."""

KINDS = ("region", "whole", "reference")
"""What a row is about: a label, all voxels of the map, or the region whose mean is zero."""


def _column(meaning: str, unit: str = "map") -> float:
    """A field of :class:`RoiStatistics`; the unit ``map`` stands for that of the map."""
    return dataclasses.field(default=math.nan, metadata={"meaning": meaning, "unit": unit})


@dataclass(frozen=True)
class RoiStatistics:
    """Statistics of one region; the metadata of the fields are the dictionary of the table."""

    n_voxels: int = dataclasses.field(
        default=0, metadata={"meaning": "Voxels of the region in which the map is defined", "unit": "voxels"}
    )
    volume_mm3: float = _column("Volume of these voxels", "mm^3")
    coverage: float = _column("n_voxels over all voxels of the region, the map being undefined in the rest", "1")
    mean: float = _column("Mean")
    median: float = _column("Median")
    sd: float = _column("Standard deviation between voxels (with n - 1); undefined for one voxel")
    mad: float = _column("Median absolute deviation from the median (not scaled)")
    iqr: float = _column("Interquartile range, 75th less 25th percentile")
    p5: float = _column("5th percentile")
    p95: float = _column("95th percentile")
    p97: float = _column("97th percentile")
    trimmed_mean: float = _column("Mean without outliers: voxels far from the median are left out")
    n_trimmed: int = dataclasses.field(
        default=0, metadata={"meaning": "Voxels left out of trimmed_mean", "unit": "voxels"}
    )
    weighted_mean: float = _column("Mean weighted by the share of each voxel that lies in the region")
    weighted_volume_mm3: float = _column("Volume of the region counted by these shares", "mm^3")
    eroded_mean: float = _column("Mean of the voxels that remain after erosion of the region")
    n_eroded: int = dataclasses.field(
        default=0, metadata={"meaning": "Voxels that remain after erosion", "unit": "voxels"}
    )


@dataclass(frozen=True)
class RoiRow:
    """One row of a table: the region, what kind of row it is, and its statistics."""

    region: Region
    kind: str
    statistics: RoiStatistics


def roi_statistics(
    values: NDArray[np.floating],
    labels: Labels,
    regions: Sequence[Region],
    voxel_mm: tuple[float, float, float],
    params: RoiParams | None = None,
    *,
    valid: NDArray[np.bool_] | None = None,
    sub_labels: Iterable[Labels] | None = None,
) -> list[RoiRow]:
    """Statistics of a map over every region, and over all of the map.

    Parameters
    ----------
    values : (nx, ny, nz) array
        The map, for example susceptibility in ppm or R2* in 1/s.
    labels : (nx, ny, nz) int32 array
        Labels at the centres of the voxels.
    regions : sequence of Region
        Every one gets a row, in this order.
    voxel_mm : (3,) tuple of float
        Edge lengths of a voxel in mm.
    params : RoiParams, optional
        Erosion and trimming.
    valid : (nx, ny, nz) bool array, optional
        Where the map is defined; by default where it is finite.
    sub_labels : iterable of (nx, ny, nz) int32 arrays, optional
        Labels at points spread evenly over each voxel (see :func:`qsmprep.core.labels.sub_offsets`), for the
        weighted mean: the share of a voxel in a region is that of its points. By default ``labels`` alone, where every
        share is 0 or 1.

    Returns
    -------
    list of RoiRow
        The last row is the whole map (kind ``whole``), by which others can be referenced.

    Raises
    ------
    DataError
        When shapes differ or the map is not finite where it is said to be defined.
    """
    params = params or RoiParams()
    chi, defined = _checked(values, labels, valid)
    voxel_mm3 = float(np.prod(voxel_mm))
    sums, counts = _weighted_sums(chi, defined, labels, sub_labels)
    boxes = _boxes(labels)
    rows = []
    for region in regions:
        box = boxes.get(region.index)
        if box is None:
            found = RoiStatistics(volume_mm3=0.0, weighted_volume_mm3=0.0)
        else:
            inside = labels[box] == region.index
            found = _describe(chi[box], inside, defined[box], voxel_mm, params)
        share = counts.get(region.index, 0.0)
        weighted = sums[region.index] / share if share else math.nan
        found = dataclasses.replace(found, weighted_mean=weighted, weighted_volume_mm3=share * voxel_mm3)
        rows.append(RoiRow(region, "region", found))
    return [*rows, region_row(chi, defined, defined, voxel_mm, "whole brain", "whole", params)]


def region_row(
    values: NDArray[np.floating],
    inside: NDArray[np.bool_],
    valid: NDArray[np.bool_],
    voxel_mm: tuple[float, float, float],
    name: str,
    kind: str,
    params: RoiParams | None = None,
) -> RoiRow:
    """The row of a region given as a mask: the whole brain, or a reference region.

    Parameters
    ----------
    values : (nx, ny, nz) array
    inside, valid : (nx, ny, nz) bool array
        The region, and where the map is defined.
    voxel_mm : (3,) tuple of float
    name, kind : str
        ``kind`` is ``whole`` or ``reference``.
    params : RoiParams, optional
    """
    found = _describe(np.asarray(values), inside, valid, voxel_mm, params or RoiParams())
    found = dataclasses.replace(found, weighted_mean=found.mean, weighted_volume_mm3=found.volume_mm3)
    return RoiRow(Region(0, name, name, "B"), kind, found)


def reference_region(labels: Labels, regions: Iterable[Region], name: str) -> NDArray[np.bool_]:
    """Voxels of a reference region of a segmentation.

    Parameters
    ----------
    labels : (nx, ny, nz) int32 array
    regions : iterable of Region
    name : str
        ``csf`` (the lateral ventricles, or else cerebrospinal fluid as a whole) or ``whitematter``.

    Raises
    ------
    DataError
        When the segmentation has no such label.
    """
    regions = tuple(regions)
    for structure in REFERENCE_STRUCTURES[name]:
        inside = np.isin(labels, [region.index for region in regions if region.structure == structure])
        if inside.any():
            return inside
    raise DataError(
        f"the segmentation has no voxel of the reference region {name}",
        expected=f"labels of {' or '.join(REFERENCE_STRUCTURES[name])}",
        remedy="take another segmentation, or --reference wholebrain",
    )


def _checked(
    values: NDArray[np.floating], labels: Labels, valid: NDArray[np.bool_] | None
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    chi = np.asarray(values, np.float64)
    finite = np.isfinite(chi)
    defined = finite if valid is None else np.asarray(valid).astype(bool)
    for name, shape in (("labels", labels.shape), ("mask", defined.shape)):
        if shape != chi.shape:
            raise DataError(f"the {name} have shape {shape}", expected=f"the shape of the map, {chi.shape}")
    if (defined & ~finite).any():
        raise DataError(
            "the map is not finite everywhere in its mask",
            expected="finite values wherever the mask is set",
            remedy="take these voxels out of the mask",
        )
    return np.where(finite, chi, 0.0), defined


def _weighted_sums(
    chi: NDArray[np.float64], defined: NDArray[np.bool_], labels: Labels, sub_labels: Iterable[Labels] | None
) -> tuple[Mapping[int, float], Mapping[int, float]]:
    """By label: sum of the map times the share of each voxel, and the sum of these shares."""
    inside = chi[defined]
    sums: dict[int, float] = {}
    counts: dict[int, float] = {}
    n = 0
    for points in [labels] if sub_labels is None else sub_labels:
        found, where = _compact(points[defined])
        totals, shares = np.bincount(where, inside, len(found)), np.bincount(where, minlength=len(found))
        for index, total, count in zip(found, totals, shares, strict=True):
            if not count:
                continue
            sums[int(index)] = sums.get(int(index), 0.0) + float(total)
            counts[int(index)] = counts.get(int(index), 0.0) + float(count)
        n += 1
    return {k: v / n for k, v in sums.items()}, {k: v / n for k, v in counts.items()}


def _compact(labels: Labels) -> tuple[NDArray[np.integer], NDArray[np.integer]]:
    """Values, and for every label the place of its value; labels that are small already are their own place."""
    if labels.size and labels.min() >= 0 and labels.max() < MANY:
        return np.arange(int(labels.max()) + 1), labels
    found, where = np.unique(labels, return_inverse=True)
    return found, where


def _boxes(labels: Labels) -> dict[int, tuple[slice, ...]]:
    """Bounding box of every label, one voxel wider where the volume allows."""
    from scipy import ndimage

    present, compact = np.unique(labels, return_inverse=True)
    boxes = ndimage.find_objects(compact.reshape(labels.shape) + 1)
    return {
        int(index): tuple(slice(max(s.start - 1, 0), s.stop + 1) for s in box)
        for index, box in zip(present, boxes, strict=True)
        if box is not None
    }


def _describe(
    chi: NDArray[np.floating],
    inside: NDArray[np.bool_],
    defined: NDArray[np.bool_],
    voxel_mm: tuple[float, float, float],
    params: RoiParams,
) -> RoiStatistics:
    """Everything but the weighted mean."""
    used = inside & defined
    x = np.asarray(chi[used], np.float64)
    n_all = int(np.count_nonzero(inside))
    coverage = x.size / n_all if n_all else math.nan
    if not x.size:
        return RoiStatistics(volume_mm3=0.0, coverage=coverage)
    median = float(np.median(x))
    away = np.abs(x - median)
    mad = float(np.median(away))
    kept = x[away <= params.trim_sd * MAD_TO_SD * mad] if mad > 0 else x
    p5, p25, p75, p95, p97 = (float(p) for p in np.percentile(x, [5, 25, 75, 95, 97]))
    core = erode(inside, params.erode_mm, voxel_mm) & defined
    n_core = int(np.count_nonzero(core))
    return RoiStatistics(
        n_voxels=int(x.size),
        volume_mm3=float(x.size * np.prod(voxel_mm)),
        coverage=coverage,
        mean=float(x.mean()),
        median=median,
        sd=float(x.std(ddof=1)) if x.size > 1 else math.nan,
        mad=mad,
        iqr=p75 - p25,
        p5=p5,
        p95=p95,
        p97=p97,
        trimmed_mean=float(kept.mean()),
        n_trimmed=int(x.size - kept.size),
        eroded_mean=float(np.mean(chi[core], dtype=np.float64)) if n_core else math.nan,
        n_eroded=n_core,
    )
