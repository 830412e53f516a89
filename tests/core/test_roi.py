"""ROI statistics against slow restatements and closed forms, on any grid and with any orientation."""

from __future__ import annotations

import dataclasses
import itertools
import math

import numpy as np
import pytest

from qsmprep.core.labels import as_labels, sample_labels, share_inside, sub_offsets, swapped_pairs
from qsmprep.core.parameters import RoiParams
from qsmprep.core.roi import MAD_TO_SD, reference_region, region_row, roi_statistics
from qsmprep.core.structures import FIRST, FREESURFER, make_region
from qsmprep.errors import DataError

VOXEL_MM = (0.8, 1.1, 2.0)
REGIONS = [make_region(12, "Left-Putamen"), make_region(51, "Right-Putamen"), make_region(10, "Left-Thalamus")]


def volume(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A map of noise, and blobs with labels 12 and 51 (and none with 10)."""
    rng = np.random.default_rng(seed)
    chi = rng.normal(0.05, 0.03, (14, 12, 9)).astype(np.float32)
    labels = np.zeros(chi.shape, np.int32)
    labels[2:6, 3:9, 2:7] = 12
    labels[8:12, 3:8, 2:7] = 51
    return chi, labels


def by_hand(x: np.ndarray, trim: float = 3.0) -> dict[str, float]:
    """Statistics of a list of numbers in plain Python."""
    ordered = sorted(float(v) for v in x)
    n = len(ordered)

    def percentile(q: float, values: list[float]) -> float:
        at = q / 100 * (len(values) - 1)
        low = math.floor(at)
        high = min(low + 1, len(values) - 1)
        return values[low] + (at - low) * (values[high] - values[low])

    mean = math.fsum(ordered) / n
    median = percentile(50, ordered)
    mad = percentile(50, sorted(abs(v - median) for v in ordered))
    kept = [v for v in ordered if abs(v - median) <= trim * MAD_TO_SD * mad]
    return {
        "n_voxels": n,
        "volume_mm3": n * math.prod(VOXEL_MM),
        "mean": mean,
        "median": median,
        "sd": math.sqrt(math.fsum((v - mean) ** 2 for v in ordered) / (n - 1)),
        "mad": mad,
        "iqr": percentile(75, ordered) - percentile(25, ordered),
        "p5": percentile(5, ordered),
        "p95": percentile(95, ordered),
        "p97": percentile(97, ordered),
        "trimmed_mean": math.fsum(kept) / len(kept),
        "n_trimmed": n - len(kept),
    }


def test_against_plain_python():
    chi, labels = volume()
    chi[3, 4, 3] = 9.0  # an outlier
    valid = np.random.default_rng(1).random(chi.shape) < 0.9
    rows = roi_statistics(chi, labels, REGIONS, VOXEL_MM, valid=valid)
    assert [row.region.index for row in rows[:-1]] == [12, 51, 10]
    for row in rows[:2]:
        inside = labels == row.region.index
        expected = by_hand(chi[inside & valid])
        found = dataclasses.asdict(row.statistics)
        for name, value in expected.items():
            assert found[name] == pytest.approx(value, rel=1e-6), name
        assert found["coverage"] == pytest.approx((inside & valid).sum() / inside.sum())
        assert found["weighted_mean"] == pytest.approx(found["mean"])
    assert rows[0].statistics.n_trimmed >= 1
    whole = rows[-1]
    assert whole.kind == "whole"
    assert whole.statistics.mean == pytest.approx(chi[valid].mean(dtype=np.float64))
    assert whole.statistics.sd == pytest.approx(chi[valid].std(dtype=np.float64, ddof=1))


def test_region_without_a_voxel_keeps_its_row():
    chi, labels = volume()
    row = roi_statistics(chi, labels, REGIONS, VOXEL_MM)[2].statistics
    assert (row.n_voxels, row.volume_mm3, row.n_eroded) == (0, 0.0, 0)
    assert all(math.isnan(v) for v in (row.mean, row.median, row.sd, row.weighted_mean, row.eroded_mean))
    hidden = roi_statistics(chi, labels, REGIONS, VOXEL_MM, valid=labels != 51)[1].statistics
    assert (hidden.n_voxels, hidden.coverage) == (0, 0.0)
    assert math.isnan(hidden.mean)


@pytest.mark.parametrize(("erode_mm", "kept"), [(0.0, (4, 6, 5)), (1.0, (2, 6, 5)), (1.5, (2, 4, 5)), (2.0, (0, 4, 3))])
def test_erosion_is_in_mm(erode_mm, kept):
    """A box loses the layers whose centres are within the depth of a voxel outside, axis by axis."""
    chi, labels = volume()
    row = roi_statistics(chi, labels, REGIONS, VOXEL_MM, RoiParams(erode_mm=erode_mm))[0].statistics
    layers = [math.floor(erode_mm / mm + 1e-9) if erode_mm else 0 for mm in VOXEL_MM]
    box = [slice(low + k, high - k) for (low, high), k in zip(((2, 6), (3, 9), (2, 7)), layers, strict=True)]
    assert tuple(max(s.stop - s.start, 0) for s in box) == kept
    assert row.n_eroded == math.prod(kept)
    if row.n_eroded:
        assert row.eroded_mean == pytest.approx(chi[tuple(box)].mean(dtype=np.float64), rel=1e-6)
    else:
        assert math.isnan(row.eroded_mean)


def test_partial_volume_weights_are_those_of_a_cut_box():
    """A box of labels at 0.5 mm seen at 2 mm: shares of the voxels are areas that can be written down."""
    fine = np.zeros((40, 40, 40), np.int32)
    fine[6:27, 8:32, 8:32] = 1  # from 3 mm to 13.5 mm along the first axis
    fine_affine = np.diag([0.5, 0.5, 0.5, 1.0])
    fine_affine[:3, 3] = 0.25  # edges at 0
    coarse_affine = np.diag([2.0, 2.0, 2.0, 1.0])
    coarse_affine[:3, 3] = 1.0
    shape = (10, 10, 10)
    chi = np.broadcast_to(np.arange(10.0)[:, None, None], shape)
    sub = [sample_labels(fine, fine_affine, shape, coarse_affine, offset_voxel=o) for o in sub_offsets(4)]
    centre = sample_labels(fine, fine_affine, shape, coarse_affine)
    row = roi_statistics(chi, centre, [make_region(1, "box")], (2, 2, 2), sub_labels=sub)[0].statistics
    share = np.clip(np.minimum(np.arange(10) * 2 + 2, 13.5) - np.maximum(np.arange(10) * 2, 3.0), 0, None) / 2
    assert row.weighted_mean == pytest.approx((share * np.arange(10)).sum() / share.sum())
    assert row.weighted_volume_mm3 == pytest.approx(10.5 * 12 * 12)


def turns():
    return itertools.product(itertools.permutations(range(3)), itertools.product((1, -1), repeat=3))


def turned(array: np.ndarray, affine: np.ndarray, order, flips) -> tuple[np.ndarray, np.ndarray]:
    """The same volume in space with its axes permuted and flipped."""
    matrix = np.zeros((4, 4))
    matrix[3, 3] = 1
    for new, (old, flip) in enumerate(zip(order, flips, strict=True)):
        matrix[old, new] = flip
        matrix[old, 3] = 0 if flip > 0 else array.shape[old] - 1
    data = np.transpose(array, order)[tuple(slice(None, None, flip) for flip in flips)]
    return np.ascontiguousarray(data), affine @ matrix


def tilted_affine() -> np.ndarray:
    angle = np.deg2rad(17)
    rotation = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1.0]])
    affine = np.eye(4)
    affine[:3, :3] = rotation @ np.diag(VOXEL_MM)
    affine[:3, 3] = (-5.3, 2.1, 8.0)
    return affine


@pytest.mark.parametrize("which", ["map", "labels"])
def test_nothing_depends_on_the_order_of_the_axes(which):
    """Under the 48 permutations and flips of the map or of the segmentation; sides stay with their labels."""
    _, labels = volume()
    labels_affine, map_affine = tilted_affine(), np.diag([1.0, 1.3, 1.9, 1.0])
    map_affine[:3, 3] = (-4.0, 3.0, 7.0)
    shape = (12, 11, 10)
    values = np.random.default_rng(3).normal(0, 1, shape)

    def statistics(values, affine, labels, labels_affine, voxel):
        at = (labels, labels_affine, values.shape, affine)
        sub = [sample_labels(*at, offset_voxel=o) for o in sub_offsets(3)]
        rows = roi_statistics(values, sample_labels(*at), REGIONS, voxel, sub_labels=sub)
        return np.array([dataclasses.astuple(row.statistics) for row in rows], float)

    expected = statistics(values, map_affine, labels, labels_affine, (1.0, 1.3, 1.9))
    assert (expected[:2, 0] > 20).all()
    for order, flips in turns():
        if which == "map":
            new, affine = turned(values, map_affine, order, flips)
            found = statistics(new, affine, labels, labels_affine, tuple(np.array([1.0, 1.3, 1.9])[list(order)]))
        else:
            new, affine = turned(labels, labels_affine, order, flips)
            found = statistics(values, map_affine, new, affine, (1.0, 1.3, 1.9))
            assert swapped_pairs(new, affine, REGIONS) == ()
        np.testing.assert_allclose(found, expected, rtol=1e-9, equal_nan=True)


def test_ties_between_voxels_do_not_depend_on_flips():
    """Each centre of the coarse grid is a corner of the fine one."""
    labels = np.random.default_rng(0).integers(0, 5, (8, 8, 8)).astype(np.int32)
    affine, coarse = np.eye(4), np.diag([2.0, 2.0, 2.0, 1.0])
    coarse[:3, 3] = 0.5
    expected = sample_labels(labels, affine, (4, 4, 4), coarse)
    np.testing.assert_array_equal(expected, labels[1::2, 1::2, 1::2])
    for order, flips in turns():
        new, new_affine = turned(labels, affine, order, flips)
        np.testing.assert_array_equal(sample_labels(new, new_affine, (4, 4, 4), coarse), expected)


def test_labels_move_with_a_rigid_map():
    labels = np.zeros((20, 20, 20), np.int32)
    labels[5:9, 6:12, 3:8] = 7
    shift = np.eye(4)
    shift[:3, 3] = (3, -2, 1)  # from the target's space to that of the labels
    found = sample_labels(labels, np.eye(4), (20, 20, 20), np.eye(4), moved=shift)
    expected = np.zeros_like(labels)
    expected[2:6, 8:14, 2:7] = 7
    np.testing.assert_array_equal(found, expected)


def test_mirrored_labels_are_noticed():
    _, labels = volume()
    affine = np.diag([*VOXEL_MM, 1.0])
    assert swapped_pairs(labels, affine, REGIONS) == ()
    mirrored = affine.copy()
    mirrored[0] *= -1
    assert swapped_pairs(labels, mirrored, REGIONS) == ("putamen",)


def test_share_inside():
    labels = np.zeros((10, 10, 10), np.int32)
    labels[2:8, 4:6, 4:6] = 1
    away = np.eye(4)
    away[0, 3] = 5.0  # the target begins at x = 5
    assert share_inside(labels, np.eye(4), (10, 10, 10), np.eye(4)) == 1.0
    assert share_inside(labels, np.eye(4), (10, 10, 10), away) == pytest.approx(0.5)
    away[0, 3] = 50.0
    assert share_inside(labels, np.eye(4), (10, 10, 10), away) == 0.0


def test_reference_region():
    labels = np.zeros((5, 5, 5), np.int32)
    labels[:2], labels[3] = 4, 43
    regions = [FREESURFER[4], FREESURFER[43], FREESURFER[2]]
    inside = reference_region(labels, regions, "csf")
    np.testing.assert_array_equal(inside, labels > 0)
    row = region_row(np.full(labels.shape, 2.0), inside, labels != 43, (1, 1, 1), "csf", "reference")
    assert (row.statistics.n_voxels, row.statistics.mean, row.kind) == (50, 2.0, "reference")
    with pytest.raises(DataError, match="no voxel of the reference region whitematter"):
        reference_region(labels, regions, "whitematter")


@pytest.mark.parametrize(
    ("bad", "told"),
    [
        (np.full((3, 3, 3), 0.5), "not whole numbers"),
        (np.full((3, 3, 3), np.nan), "not whole numbers"),
        (np.zeros((3, 3)), r"shape \(3, 3\)"),
        (np.zeros((3, 3, 3), complex), "complex"),
    ],
)
def test_what_is_no_label_map(bad, told):
    with pytest.raises(DataError, match=told):
        as_labels(bad)


def test_bad_arrays():
    chi, labels = volume()
    with pytest.raises(DataError, match="labels have shape"):
        roi_statistics(chi, labels[1:], REGIONS, VOXEL_MM)
    with pytest.raises(DataError, match="mask have shape"):
        roi_statistics(chi, labels, REGIONS, VOXEL_MM, valid=np.ones((2, 2, 2), bool))
    chi[0, 0, 0] = np.nan
    with pytest.raises(DataError, match="not finite"):
        roi_statistics(chi, labels, REGIONS, VOXEL_MM, valid=np.ones(chi.shape, bool))
    assert roi_statistics(chi, labels, REGIONS, VOXEL_MM)[-1].statistics.n_voxels == chi.size - 1


@pytest.mark.parametrize(
    ("name", "structure", "side"),
    [
        ("Left-Thalamus-Proper", "thalamus", "L"),
        ("right red nucleus", "red nucleus", "R"),
        ("GPe_R", "pallidum external", "R"),
        ("left globus pallidus", "pallidum", "L"),
        ("Brain-Stem", "brainstem", "B"),
        ("ctx-lh-insula", "ctx insula", "L"),
        ("L Substantia Nigra pars compacta", "substantia nigra compacta", "L"),
        ("7", "7", "B"),
    ],
)
def test_names_come_to_one_vocabulary(name, structure, side):
    region = make_region(3, name)
    assert (region.structure, region.hemisphere) == (structure, side)


def test_the_codes_have_both_sides():
    for table in (FREESURFER, FIRST):
        left = {r.structure for r in table.values() if r.hemisphere == "L"}
        right = {r.structure for r in table.values() if r.hemisphere == "R"}
        assert left == right
        assert {"thalamus", "caudate", "putamen", "pallidum", "accumbens", "hippocampus", "amygdala"} <= left
    pairs = {(r.structure, r.hemisphere) for r in FREESURFER.values()}
    assert len(pairs) == len(FREESURFER)
