"""``qsmprep-step segment``: labels, table and sidecar, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from qsmprep.bids.tables import read_label_table
from qsmprep.cli.step import main

EXAMPLE = Path(__file__).parents[2] / "bids_examples" / "cohort" / "derivatives" / "truth" / "sub-01" / "anat"


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> tuple[Path, Path]:
    """The true map of an example, and its brain."""
    return next(EXAMPLE.glob("*Chimap.nii.gz")), next(EXAMPLE.glob("*desc-brain_mask.nii.gz"))


def call(*words: object) -> int:
    return main([str(word) for word in words])


def test_labels_table_and_sidecar(files, tmp_path, capsys):
    out = tmp_path / "dseg.nii.gz"
    assert call("segment", "--chi", files[0], "--mask", files[1], "--out", out) == 0
    told = capsys.readouterr().out
    assert "UNETR segmentation" in told
    labels = nib.load(out)
    assert np.allclose(labels.affine, nib.load(files[0]).affine)
    codes = set(np.unique(labels.get_fdata()).astype(int)) - {0}
    table = read_label_table(tmp_path / "dseg.tsv")
    assert set(table) == codes
    sidecar = json.loads((tmp_path / "dseg.json").read_text())
    assert sidecar["Method"] == "unetr"
    voxel_mm3 = float(np.prod(labels.header.get_zooms()))
    for code in codes:
        name = table[code].name
        assert sidecar["VolumesMM3"][name] == pytest.approx((labels.get_fdata() == code).sum() * voxel_mm3, rel=1e-3)
    assert call("roi", "--chi", files[0], "--dseg", out, "--out", tmp_path / "roi.tsv") == 0


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("--out", "a.tsv"), 2, "not named as a NIfTI file"),
        (("--out", "a.nii", "--method", "first"), 2, "no nuclei method"),
        (("--out", "a.nii", "--param", "weight=1"), 2, "no parameter"),
        (("--out", "a.nii", "--param", "weights=/nowhere"), 66, "qsmprep-train subcortical"),
    ],
)
def test_what_is_refused(files, tmp_path, monkeypatch, capsys, words, code, said):
    monkeypatch.chdir(tmp_path)
    assert call("segment", "--chi", files[0], "--mask", files[1], *words) == code
    assert said in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_an_input_is_not_replaced(files, tmp_path, capsys):
    assert call("segment", "--chi", files[0], "--mask", files[1], "--out", files[0]) == 2
    assert "would replace an input" in capsys.readouterr().err
