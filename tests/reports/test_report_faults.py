"""Faults put in on purpose: each measure rises with its fault, and each fault changes the verdict of a whole run."""

from __future__ import annotations

import json
import math
import subprocess
import sys

import numpy as np
import pytest
from faulty import FAULTS, write_faulty_cohort
from test_report_qc import ball

from qsmprep.core.dipole import forward_field
from qsmprep.core.grid import Grid
from qsmprep.errors import DataError
from qsmprep.reports import faults
from qsmprep.reports.record import read_records, verdict
from qsmprep.reports.segmentation import region_metrics, registration_metrics

GRID = Grid((60, 66, 56), (2.5, 2.5, 3.0))


def head(noise=1.0, seed=0):
    """A brain of signal 100 in a dark skull of 6 mm in a scalp of 8 mm, in air with noise."""
    rng = np.random.default_rng(seed)
    brain, skull, scalp = (ball(GRID.shape, radius, GRID.voxel_mm) for radius in (45, 51, 59))
    signal = np.select([brain, skull, scalp], [100.0, 5.0, 80.0], 0.0)
    noisy = signal + rng.normal(0, noise, GRID.shape) + 1j * rng.normal(0, noise, GRID.shape)
    return np.abs(noisy), brain


def test_dark_fraction_is_the_share_of_what_holds_no_signal():
    image, brain = head(noise=0.1)
    assert faults.dark_fraction(image, brain) == 0
    wide = brain | (ball(GRID.shape, 51, GRID.voxel_mm) & (np.indices(GRID.shape)[0] < 30))
    assert faults.dark_fraction(image, wide) == pytest.approx((wide & ~brain).sum() / wide.sum())
    assert faults.dark_fraction(0 * image, wide) == 1


def test_open_fraction_rises_when_the_mask_ends_within_the_brain():
    image, brain = head()
    found = [faults.open_fraction(image, brain, GRID)]
    for cut in (10, 20, 30):
        mask = brain.copy()
        mask[:cut] = False
        found.append(faults.open_fraction(image, mask, GRID))
    assert found == sorted(found) and found[0] < 0.01 and found[2] > 0.05 and found[3] > 0.2
    assert faults.open_fraction(image, ball(GRID.shape, 25, GRID.voxel_mm), GRID) == pytest.approx(1, abs=0.01)
    everything = np.ones(GRID.shape, bool)
    assert math.isnan(faults.open_fraction(image, everything, GRID))


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_ghosting_rises_with_the_ghosts(axis):
    image, brain = head(noise=2.0)
    assert faults.ghosting(image, brain, GRID) < 0.003
    found = []
    for share in (0.02, 0.05, 0.1):
        ghost = np.roll(image, GRID.shape[axis] // 2, axis)
        found.append(faults.ghosting(np.hypot(image, share * ghost), brain, GRID))
        assert share / 3 < found[-1] < 2 * share
    assert found == sorted(found)


def test_ghosting_of_what_is_not_recorded_is_unknown():
    image, brain = head()
    scalp = ball(GRID.shape, 60, GRID.voxel_mm)
    assert math.isnan(faults.ghosting(np.where(scalp, image, 0), brain, GRID))
    tight = (slice(10, 50), slice(12, 54), slice(12, 44))
    assert math.isnan(faults.ghosting(image[tight], brain[tight], GRID.with_shape((40, 42, 32))))


@pytest.mark.parametrize("b0_dir", [(0.0, 0.0, 1.0), (1.0, 0.0, 0.0), (0.1, -0.5, 0.8), (0.6, 0.6, 0.5)])
def test_the_direction_of_b0_is_found_in_the_field(b0_dir):
    rng = np.random.default_rng(1)
    from scipy.ndimage import gaussian_filter

    grid = Grid(GRID.shape, GRID.voxel_mm, b0_dir)
    mask = ball(grid.shape, 55, grid.voxel_mm)
    chi = np.where(mask, gaussian_filter(rng.normal(0, 1, grid.shape), 1.2), 0)
    field = forward_field(chi / chi.std() * 0.05, grid) + rng.normal(0, 0.003, grid.shape)
    assert faults.b0_angle_deg(field, mask, grid) < 6
    implied = np.asarray(faults.implied_b0_dir(field, mask, Grid(grid.shape, grid.voxel_mm)))
    assert abs(implied @ np.asarray(grid.b0_dir)) > math.cos(math.radians(6))
    other = np.cross(grid.b0_dir, (0.3, 0.9, -0.2))
    turned = math.cos(math.radians(30)) * np.asarray(grid.b0_dir) + 0.5 * other / np.linalg.norm(other)
    wrong = Grid(grid.shape, grid.voxel_mm, tuple(turned))
    assert faults.b0_angle_deg(field, mask, wrong) == pytest.approx(30, abs=6)


def test_a_constant_field_has_no_direction():
    mask = ball(GRID.shape, 40, GRID.voxel_mm)
    assert math.isnan(faults.b0_angle_deg(np.ones(GRID.shape), mask, GRID))
    with pytest.raises(DataError, match="differ"):
        faults.b0_angle_deg(np.ones((4, 4, 4)), mask, GRID)
    with pytest.raises(DataError, match="hold nothing"):
        faults.dark_fraction(np.ones(GRID.shape), np.zeros(GRID.shape))


def rows_of(labels, regions, inside):
    rows = []
    for index, structure, side in regions:
        all_voxels, seen = labels == index, (labels == index) & inside
        coverage = str(seen.sum() / all_voxels.sum()) if all_voxels.any() else "n/a"
        row = {"kind": "region", "index": str(index), "structure": structure, "hemisphere": side}
        rows.append({**row, "n_voxels": str(seen.sum()), "coverage": coverage})
    return [*rows, {"kind": "whole", "structure": "whole brain"}]


def test_measures_of_a_segmentation():
    rng = np.random.default_rng(2)
    inside = ball(GRID.shape, 50, GRID.voxel_mm)
    labels = np.zeros(GRID.shape, int)
    labels[18:24, 30:36, 25:30], labels[36:42, 30:36, 25:30] = 1, 2
    chi = rng.normal(0, 0.02, GRID.shape) + np.where(labels > 0, 0.06, 0)
    regions = ((1, "putamen", "L"), (2, "putamen", "R"), (3, "hippocampus", "L"))
    found = region_metrics(chi, labels, inside, GRID, rows_of(labels, regions, inside))
    assert found["regions_empty"] == 1 and found["regions_coverage"] == 1 and found["regions_asymmetry"] == 0
    assert found["nuclei_contrast"] == pytest.approx(3, abs=0.3)
    beside = np.roll(labels, 8, axis=1)
    assert abs(region_metrics(chi, beside, inside, GRID, rows_of(beside, regions, inside))["nuclei_contrast"]) < 0.15
    half = np.where((labels == 2) & (np.indices(GRID.shape)[0] > 38), 0, labels)
    assert region_metrics(chi, half, inside, GRID, rows_of(half, regions, inside))["regions_asymmetry"] == 2 / 3
    out = np.roll(labels, 24, axis=0)
    assert region_metrics(chi, out, inside, GRID, rows_of(out, regions, inside))["regions_coverage"] < 0.5
    nothing = region_metrics(chi, 0 * labels, inside, GRID, rows_of(0 * labels, regions, inside))
    assert nothing["regions_empty"] == 3 and math.isnan(nothing["nuclei_contrast"])
    with pytest.raises(DataError, match="shapes"):
        region_metrics(chi[1:], labels, inside, GRID, [])


def test_what_registrations_learnt_becomes_metrics():
    facts = [{"shift_mm": 3.0, "turn_deg": 1.0, "warnings": []}, {"dice": 0.95, "correlation": 0.4}]
    assert registration_metrics(facts) == {
        "registration_shift_mm": 3.0,
        "registration_turn_deg": 1.0,
        "template_dice": 0.95,
    }
    assert registration_metrics([]) == {}


@pytest.fixture(scope="module")
def judged(tmp_path_factory):
    """Verdicts of one run over the faulty cohort, by participant."""
    root = tmp_path_factory.mktemp("faults")
    raw, given = write_faulty_cohort(root)
    command = [sys.executable, "-m", "qsmprep.cli.main", str(raw), str(root / "out"), "participant"]
    command += ["-w", str(root / "work"), "--nprocs", "2", "--level", "minimal", "--background", "vsharp"]
    command += ["--inversion", "tv", "--derivatives", str(given)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1500, cwd=root)
    assert done.returncode == 0, done.stdout + done.stderr
    result = {}
    for name in FAULTS:
        (record,) = read_records(root / "out", name)
        result[name] = verdict(record)
        assert (root / "out" / f"sub-{name}.html").exists()
    print(json.dumps({name: [v.level, *v.reasons] for name, v in result.items()}, indent=1))
    return result


@pytest.mark.slow
@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_changes_the_verdict_and_is_named(judged, name):
    found, wanted = judged[name], FAULTS[name][1]
    if not wanted:
        assert found.level == "ok", found.reasons
        return
    assert found.level == "check"
    for metric in wanted:
        assert any(reason.startswith(metric) for reason in found.reasons), found.reasons
