"""Mean and spread of maps, and the group level where there are maps in template space."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from cohort_cases import write_cohort
from test_group_level import Reader, call

from qsmprep.cohort.average import average
from qsmprep.core.template import NAME

SHAPE, AFFINE = (20, 24, 18), np.diag([4.0, 4.0, 4.0, 1.0])


def maps(n, seed=0):
    rng = np.random.default_rng(seed)
    return [(rng.normal(0.05, 0.02, SHAPE).astype(np.float32), rng.random(SHAPE) < 0.7) for _ in range(n)]


def test_average_is_that_of_numpy():
    volumes = maps(7)
    found = average(iter(volumes))
    stack = np.stack([np.where(mask, values, np.nan) for values, mask in volumes])
    there = np.isfinite(stack).sum(axis=0) >= 4
    assert not np.isnan(found.sd).any()
    assert found.n_scans == 7
    np.testing.assert_array_equal(found.mask, there)
    np.testing.assert_array_equal(found.count, np.isfinite(stack).sum(axis=0))
    np.testing.assert_allclose(found.mean[there], np.nanmean(stack[:, there], axis=0), rtol=1e-5)
    np.testing.assert_allclose(found.sd[there], np.nanstd(stack[:, there], axis=0, ddof=1), rtol=1e-4)
    assert np.all(found.mean[~there] == 0) and np.all(found.sd[~there] == 0)


def test_one_map_and_none():
    ((values, mask),) = maps(1)
    found = average([(values, mask)])
    np.testing.assert_array_equal(found.mean, np.where(mask, values, 0))
    assert np.isnan(found.sd[mask]).all() and not found.sd[~mask].any()
    assert average([]) is None


def test_a_voxel_of_one_map_has_no_spread():
    mask = np.array([[[True, True]], [[True, False]]])
    other = np.array([[[True, False]], [[True, False]]])
    found = average([(np.ones((2, 1, 2)), mask), (np.full((2, 1, 2), 3.0), other)])
    np.testing.assert_array_equal(found.count, [[[2, 1]], [[2, 0]]])
    np.testing.assert_allclose(found.sd, [[[np.sqrt(2), np.nan]], [[np.sqrt(2), 0]]], rtol=1e-6)
    np.testing.assert_array_equal(found.mean, [[[2, 1]], [[2, 0]]])


def write_maps(out: Path, n: int, desc: str = "tv") -> list[tuple[np.ndarray, np.ndarray]]:
    volumes = maps(n)
    for number, (values, mask) in enumerate(volumes, start=1):
        folder = out / f"sub-{number:03d}" / "anat"
        folder.mkdir(parents=True, exist_ok=True)
        stem = f"sub-{number:03d}_space-{NAME}_desc-{desc}"
        nib.Nifti1Image(values, AFFINE).to_filename(folder / f"{stem}_Chimap.nii.gz")
        nib.Nifti1Image(mask.astype(np.uint8), AFFINE).to_filename(folder / f"{stem}qsm_mask.nii.gz")
    return volumes


@pytest.mark.parametrize("with_regions", [True, False])
def test_group_level(tmp_path, capsys, with_regions):
    raw, out = write_cohort(tmp_path, 12)
    if not with_regions:
        for path in out.glob("sub-*/anat/*_stats.*"):
            path.unlink()
    volumes = write_maps(out, 5)
    broken = out / f"sub-003/anat/sub-003_space-{NAME}_desc-tv_Chimap.nii.gz"
    broken.write_bytes(b"nonsense")
    lonely = out / f"sub-004/anat/sub-004_space-{NAME}_desc-tvqsm_mask.nii.gz"
    lonely.unlink()
    call(capsys, raw, out)
    stem = f"group_space-{NAME}_desc-tv"
    expected = average([volumes[0], volumes[1], volumes[4]])
    for stat, volume in (("mean", expected.mean), ("sd", expected.sd), ("n", expected.count)):
        image = nib.load(out / f"{stem}_stat-{stat}_Chimap.nii.gz")
        np.testing.assert_allclose(np.asarray(image.dataobj), volume, rtol=1e-6)
        np.testing.assert_allclose(image.affine, AFFINE)
    about = json.loads((out / f"{stem}_stat-mean_Chimap.json").read_text())
    assert about["Units"] == "ppm" and "3 scans (TV)" in about["Description"] and len(about["Sources"]) == 3
    html = (out / "group.html").read_text()
    page = Reader(html)
    assert page.open == [] and "template" in page.ids
    assert broken.name in html and "the mask of this map is absent" in html


def test_one_scan_has_a_mean_and_no_deviation(tmp_path, capsys):
    raw, out = write_cohort(tmp_path, 6)
    ((values, mask),) = write_maps(out, 1)
    call(capsys, raw, out)
    stem = f"group_space-{NAME}_desc-tv_stat"
    mean, sd = (np.asarray(nib.load(out / f"{stem}-{stat}_Chimap.nii.gz").dataobj) for stat in ("mean", "sd"))
    np.testing.assert_allclose(mean, np.where(mask, values, 0), rtol=1e-6)
    np.testing.assert_array_equal(np.isnan(sd), mask)
    assert "NaN where one scan" in json.loads((out / f"{stem}-sd_Chimap.json").read_text())["Description"]
    assert (out / f"figures/group_space-{NAME}_desc-tv.png").exists()


def test_only_the_participants_asked_for(tmp_path, capsys):
    raw, out = write_cohort(tmp_path, 12)
    write_maps(out, 9)
    call(capsys, raw, out, "--participant-label", *(f"{n:03d}" for n in range(3, 11)))
    about = json.loads((out / f"group_space-{NAME}_desc-tv_stat-n_Chimap.json").read_text())
    assert "scans in which" in about["Description"] and len(about["Sources"]) == 7
