"""``qsmprep-step roi`` on files: the table, its dictionary, other grids, and every way to use it wrongly."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from qsmprep.cli import step

AFFINE = np.array([[-1.5, 0, 0, 20], [0, 0, 2.0, -18], [0, 1.2, 0, -11], [0, 0, 0, 1]])
SHAPE = (20, 18, 16)


def save(path: Path, data: np.ndarray, affine: np.ndarray = AFFINE) -> Path:
    nib.Nifti1Image(np.asarray(data), affine).to_filename(path)
    return path


@pytest.fixture
def files(tmp_path) -> Path:
    """A map that is 0.1 ppm on the left, 0.2 on the right and zero elsewhere but in a shell of 0.01."""
    chi = np.zeros(SHAPE, np.float32)
    labels = np.zeros(SHAPE, np.uint8)
    chi[1:19, 1:17, 1:15] = 0.01
    right, left = (slice(2, 7), slice(5, 12), slice(4, 10)), (slice(12, 18), slice(5, 12), slice(4, 10))
    chi[left], labels[left] = 0.1, 12  # the first axis runs to the left
    chi[right], labels[right] = 0.2, 51
    save(tmp_path / "chi.nii.gz", chi)
    save(tmp_path / "dseg.nii.gz", labels)
    save(tmp_path / "mask.nii.gz", (chi != 0).astype(np.uint8))
    return tmp_path


def call(capsys, folder: Path, *words: object, code: int = 0) -> str:
    base = ["roi", "--chi", folder / "chi.nii.gz", "--dseg", folder / "dseg.nii.gz", "--out", folder / "out.tsv"]
    names = [word for word in words if str(word).startswith("--")]
    for name in names:
        if name in base:
            at = base.index(name)
            del base[at : at + 2]
    assert step.main([str(word) for word in (*base, *words)]) == code
    said = capsys.readouterr()
    return said.err if code else said.out


def table(path: Path) -> dict[str, dict[str, str]]:
    with path.open() as stream:
        return {row["name"]: row for row in csv.DictReader(stream, delimiter="\t")}


@pytest.mark.parametrize(
    ("codes", "lost"),
    [
        ((10, 11, 12, 13, 49, 50, 51), ["Right-Pallidum"]),
        ((4, 43, 53), ["Left-Hippocampus"]),
        ((30, 14, 16, 77, 78), []),
        ((12, 51, 999), []),
    ],
    ids=["a nucleus", "an older code", "one side of a vessel is enough", "all there"],
)
def test_a_structure_lost_on_one_side_keeps_its_row(files, capsys, codes, lost):
    labels = np.zeros((20, 18, 16), np.uint16)
    labels[2 : 2 + len(codes), 5:12, 4:10] = np.array(codes)[:, None, None]
    save(files / "dseg.nii.gz", labels)
    said = call(capsys, files, "--labels", "freesurfer")
    assert ("1 of them without a voxel" in said) == bool(lost)
    rows = table(files / "out.tsv")
    assert [name for name, row in rows.items() if row["n_voxels"] == "0"] == lost
    assert len(rows) == len(codes) + len(lost) + 1
    numbers = [int(row["index"]) for row in rows.values() if row["index"] != "n/a"]
    assert numbers == sorted(numbers)


def test_table_and_dictionary(files, capsys):
    said = call(capsys, files, "--labels", "freesurfer", "--mask", files / "mask.nii.gz")
    assert "2 regions" in said
    rows = table(files / "out.tsv")
    assert list(rows) == ["Left-Putamen", "Right-Putamen", "whole brain"]
    left, right, whole = rows.values()
    assert (left["hemisphere"], right["hemisphere"], whole["hemisphere"]) == ("L", "R", "B")
    assert (left["structure"], left["kind"], whole["kind"], whole["index"]) == ("putamen", "region", "whole", "n/a")
    assert float(left["mean"]) == pytest.approx(0.1)
    assert float(right["mean"]) == pytest.approx(0.2)
    assert int(left["n_voxels"]) == 6 * 7 * 6
    assert float(left["volume_mm3"]) == pytest.approx(6 * 7 * 6 * 1.5 * 2.0 * 1.2)
    about = json.loads((files / "out.json").read_text())
    assert set(left) <= set(about)
    assert about["mean"]["Units"] == "ppm"
    assert about["LeftRightSuspect"] == []
    assert about["Geometry"].endswith("on the grid of the map")


def test_segmentation_on_another_grid(files, capsys):
    """The same head at half the voxel size, with axes turned and more field of view: the same regions."""
    source = nib.load(files / "dseg.nii.gz")
    fine = np.repeat(np.repeat(np.repeat(np.asarray(source.dataobj), 2, 0), 2, 1), 2, 2)
    affine = AFFINE @ np.array([[0.5, 0, 0, -0.25], [0, 0.5, 0, -0.25], [0, 0, 0.5, -0.25], [0, 0, 0, 1.0]])
    call(capsys, files, "--labels", "freesurfer")
    before = table(files / "out.tsv")
    image = nib.as_closest_canonical(nib.Nifti1Image(np.pad(fine, 3), affine @ _shift(-3)))
    image.to_filename(files / "fine.nii.gz")
    said = call(capsys, files, "--dseg", files / "fine.nii.gz", "--labels", "freesurfer")
    assert "by the affines" in said
    after = table(files / "out.tsv")
    assert list(after) == list(before)
    for name in before:
        for column in ("n_voxels", "mean", "weighted_mean", "weighted_volume_mm3", "hemisphere"):
            assert after[name][column] == before[name][column], (name, column)


def _shift(voxels: float) -> np.ndarray:
    shift = np.eye(4)
    shift[:3, 3] = voxels
    return shift


def test_names_from_tables_and_without(files, capsys):
    call(capsys, files)
    assert set(table(files / "out.tsv")) == {"label 12", "label 51", "whole brain"}
    (files / "dseg.tsv").write_text("index\tname\n0\tnothing\n12\tleft red nucleus\n7\tnot there_R\n")
    call(capsys, files)
    rows = table(files / "out.tsv")
    assert (rows["left red nucleus"]["structure"], rows["left red nucleus"]["hemisphere"]) == ("red nucleus", "L")
    assert (rows["not there_R"]["n_voxels"], rows["not there_R"]["mean"]) == ("0", "n/a")
    assert "label 51" in rows, "a label that the table does not name is kept"
    (files / "mine.tsv").write_text("index\tname\themisphere\tstructure\n12\tfoo\tR\tbar\n51\tfoo\tL\tbar\n")
    said = call(capsys, files, "--labels", files / "mine.tsv")
    assert "left and right look swapped in: bar" in said


def test_reference_row(files, capsys):
    labels = np.asarray(nib.load(files / "dseg.nii.gz").dataobj).copy()
    labels[8:10, 5:12, 4:10] = 4
    save(files / "dseg.nii.gz", labels)
    call(capsys, files, "--labels", "freesurfer", "--reference-region", "csf")
    row = table(files / "out.tsv")["reference: csf"]
    assert (row["kind"], float(row["mean"])) == ("reference", pytest.approx(0.01))
    said = call(capsys, files, "--labels", "freesurfer", "--reference-region", "whitematter", code=65)
    assert "whitematter" in said


def test_parameters(files, capsys):
    call(capsys, files, "--param", "erode_mm=3", "roistats.trim_sd=2")
    assert json.loads((files / "out.json").read_text())["Parameters"] == {
        "erode_mm": 3.0,
        "trim_sd": 2.0,
        "subdivisions": 3,
    }
    assert "erode_cm" in call(capsys, files, "--param", "erode_cm=3", code=2)


def test_wrong_use(files, capsys):
    far = AFFINE.copy()
    far[0, 3] += 900
    save(files / "far.nii.gz", np.ones(SHAPE, np.uint8), far)
    said = call(capsys, files, "--dseg", files / "far.nii.gz", code=65)
    assert "no label lies inside the map" in said
    assert "register" in said
    save(files / "none.nii.gz", np.zeros(SHAPE, np.uint8))
    assert "has no label" in call(capsys, files, "--dseg", files / "none.nii.gz", code=65)
    assert "whole numbers" in call(capsys, files, "--dseg", files / "chi.nii.gz", code=65)
    assert "absent.nii" in call(capsys, files, "--dseg", files / "absent.nii", code=66)
    assert ".tsv" in call(capsys, files, "--out", files / "out.csv", code=2)
    (files / "t.tsv").write_text("index\tname\n1\ta\n")
    assert "replace an input" in call(capsys, files, "--labels", files / "t.tsv", "--out", files / "t.tsv", code=2)
    save(files / "other.nii.gz", np.ones((3, 3, 3), np.uint8))
    assert "shape" in call(capsys, files, "--mask", files / "other.nii.gz", code=65)
    assert not (files / "out.tsv").exists()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "is empty"),
        ("label\tname\n1\ta\n", "`index` and `name`"),
        ("index\tname\n1.5\ta\n", "no whole number"),
        ("index\tname\n1\ta\n1\tb\n", "twice"),
        ("index\tname\themisphere\n1\ta\tup\n", "L, R or B"),
        ("index\tname\n1 a\n", "line 2 has 1 columns"),
        ("index\tname\tname\n1\ta\tb\n", "column twice"),
        ("index\tname\n0\tbackground\n", "names no region"),
    ],
)
def test_bad_label_tables(files, capsys, text, told):
    (files / "bad.tsv").write_text(text)
    assert told in call(capsys, files, "--labels", files / "bad.tsv", code=65)
