"""``qsmprep-step cosmos`` on registered fields, and every way to use it wrongly."""

from __future__ import annotations

import json

import nibabel as nib
import numpy as np
import pytest

from qsmprep.cli import step
from qsmprep.core.dipole import forward_field
from qsmprep.core.grid import Grid
from qsmprep.core.units import hz_per_ppm

SHAPE, VOXEL_MM = (20, 22, 18), (1.5, 1.2, 1.8)
DIRS = [(0.0, 0.0, 1.0), (0.4, 0.1, 0.9), (-0.1, -0.5, 0.85)]


@pytest.fixture
def files(tmp_path):
    """Fields in Hz at 3 T with their directions in sidecars, mask, truth."""
    index = np.indices(SHAPE) - (np.reshape(SHAPE, (3, 1, 1, 1)) - 1) / 2
    radius = np.sqrt(((index * np.reshape(VOXEL_MM, (3, 1, 1, 1))) ** 2).sum(0))
    mask = radius < 12
    chi = np.where(np.abs(index[0] - 2) + np.abs(index[1]) + np.abs(index[2]) < 4, 0.1, 0.0).astype(np.float32)
    affine = np.diag([*VOXEL_MM, 1.0])
    paths = {"mask": tmp_path / "mask.nii.gz", "out": tmp_path / "chi.nii.gz", "fields": []}
    nib.Nifti1Image(mask.astype(np.uint8), affine).to_filename(paths["mask"])
    for number, b0 in enumerate(DIRS):
        field = forward_field(chi, Grid(SHAPE, VOXEL_MM, b0)) * np.float32(hz_per_ppm(3.0))
        path = tmp_path / f"field{number}.nii.gz"
        nib.Nifti1Image(field, affine).to_filename(path)
        (tmp_path / f"field{number}.json").write_text(json.dumps({"B0Direction": b0}))
        paths["fields"].append(path)
    return {**paths, "chi": chi, "inside": mask}


def call(capsys, files, *words, fields=None, units=("--units", "hz", "--b0-t", 3)):
    given = ["cosmos", "--field", *(fields or files["fields"]), "--mask", files["mask"], "--out", files["out"], *units]
    code = step.main([str(word) for word in (*given, *words)])
    told = capsys.readouterr()
    return code, told.out + told.err


def error(files):
    got, inside = np.asanyarray(nib.load(files["out"]).dataobj), files["inside"]
    truth = files["chi"] - files["chi"][inside].mean()
    return float(np.linalg.norm((got - truth)[inside]) / np.linalg.norm(truth[inside]))


def test_directions_come_from_the_sidecars_or_by_hand(files, capsys):
    code, told = call(capsys, files)
    assert code == 0, told
    assert "3 orientations" in told
    assert error(files) < 0.1
    sidecar = json.loads(files["out"].with_name("chi.json").read_text())
    assert sidecar["Method"] == "cosmos"
    np.testing.assert_allclose(sidecar["B0Direction"], DIRS)
    assert len(sidecar["Inputs"]["field"]) == 3
    for path in files["fields"]:
        path.with_name(path.name.replace(".nii.gz", ".json")).unlink()
    code, told = call(capsys, files, "--b0-dir", *(c for b0 in DIRS for c in b0), "--param", "max_iter=50")
    assert code == 0, told
    assert error(files) < 0.1
    code, told = call(capsys, files, "--b0-dir", *(c for b0 in (DIRS[0], DIRS[2], DIRS[1]) for c in b0))
    assert code == 0, told
    assert error(files) > 0.3


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("--b0-dir", 0, 0, 1), 2, "three for each of the 3 fields"),
        (("--param", "tikhonov"), 2, "NAME=VALUE"),
        (("--param", "cone=1"), 2, "no parameter"),
        (("--b0-dir", *(3 * (0, 0, 1))), 65, "differ by"),
        (("--b0-t", 99), 2, "0.01 to 25"),
    ],
)
def test_wrong_words(files, capsys, words, code, said):
    got, told = call(capsys, files, *words)
    assert (got, said in told) == (code, True), told
    assert not files["out"].exists()


def test_units_that_contradict_the_sidecars(files, capsys):
    beside = files["fields"][2].with_name("field2.json")
    beside.write_text(json.dumps({**json.loads(beside.read_text()), "Units": "Hz"}))
    code, told = call(capsys, files, units=("--units", "ppm"))
    assert code == 2 and "says Hz" in told
    assert call(capsys, files)[0] == 0


def test_only_references_that_need_no_segmentation(files, capsys):
    code, told = call(capsys, files, "--reference", "csf")
    assert code == 2 and "wholebrain" in told


def test_the_json_beside_an_input_is_kept(files, capsys):
    before = files["fields"][0].with_name("field0.json").read_text()
    code, told = call(capsys, {**files, "out": files["fields"][0].with_name("field0.nii")})
    assert code == 2 and "field0.json, which is written too" in told
    assert files["fields"][0].with_name("field0.json").read_text() == before


def test_what_is_missing_is_told(files, capsys):
    assert call(capsys, files, fields=files["fields"][:1])[0] == 2
    assert call(capsys, files, units=("--units", "hz"))[0] == 2
    beside = files["fields"][1].with_name("field1.json")
    beside.write_text("{}")
    code, told = call(capsys, files)
    assert code == 65
    assert str(beside) in told
    beside.unlink()
    code, told = call(capsys, files)
    assert code == 66
    assert "--b0-dir" in told
    assert call(capsys, {**files, "out": files["mask"]})[0] == 2
