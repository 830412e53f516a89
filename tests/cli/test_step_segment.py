"""``qsmprep-step segment``: labels, table and sidecar, and what is refused."""

from __future__ import annotations

import json
import shutil
import stat
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from qsmprep.bids.tables import read_label_table, write_label_table
from qsmprep.cli.step import main
from qsmprep.core.structures import FREESURFER, Region

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
        (("--out", "a.nii", "--method", "second"), 2, "no segmentation `second`"),
        (("--out", "a.nii", "--method", "first"), 2, "`first` needs --t1w"),
        (("--out", "a.nii", "--method", "atlas"), 2, "`atlas` needs --t1w"),
        (("--out", "a.nii", "--method", "unetr", "--t1w", "t.nii"), 2, "`unetr` has no use for --t1w"),
        (("--out", "a.nii", "--t1w", "t.nii", "--atlas", "a.nii", "a.tsv"), 2, "no probabilities"),
        (("--out", "a.nii", "--t1w", "t.nii"), 66, "does not exist"),
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


def test_what_lies_beside_an_input_is_not_replaced(tmp_path, capsys):
    """Table and JSON file are written beside the labels: they must not be those of an input."""
    image, table = tmp_path / "mine.nii.gz", tmp_path / "mine.tsv"
    for told, words in (
        ("would replace an input", ("--t1w", T1W, "--atlas", EXAMPLE / "a.nii.gz", table, "--out", image)),
        ("t1w.json, which is written too", ("--t1w", tmp_path / "t1w.nii.gz", "--out", tmp_path / "t1w.nii")),
    ):
        assert call("segment", *words) == 2
        assert told in capsys.readouterr().err


def test_absent_files_are_told_before_any_work(files, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    monkeypatch.setattr("tempfile.tempdir", None)
    (tmp_path / "tmp").mkdir()
    for words in (
        ("--atlas", tmp_path / "no.nii", tmp_path / "no.tsv"),
        ("--brain", tmp_path / "no.nii"),
        ("--chi", tmp_path / "no.nii", "--mask", files[1]),
    ):
        assert call("segment", "--t1w", T1W, *words, "--out", tmp_path / "out.nii") == 66
        assert "no.nii" in capsys.readouterr().err
    assert not list((tmp_path / "tmp").iterdir())


def test_a_template_that_does_not_fit_is_told_in_the_words_of_this_command(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    monkeypatch.setattr("tempfile.tempdir", None)
    (tmp_path / "tmp").mkdir()
    assert call("segment", "--t1w", T1W, "--out", tmp_path / "out.nii", *QUICK, "min_dice=1.0") == 65
    assert "--brain" in capsys.readouterr().err
    assert not list((tmp_path / "tmp").iterdir())


T1W = EXAMPLE.parents[3] / "sub-01" / "anat" / "sub-01_T1w.nii.gz"
TRUTH = EXAMPLE / "sub-01_dseg.nii.gz"
QUICK = ("--param", "voxel_mm=6", "coarse=10", "middle=0", "fine=0")
"""A registration that is coarse, but right to some millimetres."""
PUTAMEN = {"L": 13, "R": 14}
"""In the truth of the examples."""


def overlap(out: Path, hemisphere: str) -> float:
    """Dice coefficient of the putamen with the truth, looked up on the truth's grid."""
    labels, truth = nib.load(out), nib.load(TRUTH)
    back = np.linalg.inv(labels.affine) @ truth.affine
    at = np.indices(truth.shape).reshape(3, -1)
    i, j, k = np.clip(np.rint(back[:3, :3] @ at + back[:3, 3:]).astype(int), 0, np.array(labels.shape)[:, None] - 1)
    code = next(c for c, r in FREESURFER.items() if (r.structure, r.hemisphere) == ("putamen", hemisphere))
    found = (np.asarray(labels.dataobj)[i, j, k] == code).reshape(truth.shape)
    true = np.asarray(truth.dataobj) == PUTAMEN[hemisphere]
    return 2 * (found & true).sum() / (found.sum() + true.sum())


def test_the_atlas_on_a_t1w_image_alone(files, tmp_path, capsys):
    out = tmp_path / "dseg.nii.gz"
    assert call("segment", "--t1w", T1W, "--out", out, *QUICK) == 0
    assert "Right-Putamen" in capsys.readouterr().out
    assert np.allclose(nib.load(out).affine, nib.load(T1W).affine)
    assert min(overlap(out, "L"), overlap(out, "R")) > 0.4
    table, sidecar = read_label_table(tmp_path / "dseg.tsv"), json.loads((tmp_path / "dseg.json").read_text())
    assert set(table) == set(np.unique(nib.load(out).dataobj)) - {0}
    assert (sidecar["Method"], sidecar["Inputs"]) == ("atlas", {"t1w": str(T1W)})
    assert call("roi", "--chi", files[0], "--dseg", out, "--out", tmp_path / "roi.tsv") == 0


def test_susceptibility_beside_it_moves_the_labels(files, tmp_path):
    """The same coarse registration, with and without the true map; a flipped image has its left where it was."""
    flipped = tmp_path / "t1w.nii.gz"
    image = nib.load(T1W)
    turn = np.array([[0, -1], [1, 1], [2, 1]])
    image.as_reoriented(turn).to_filename(flipped)
    alone, both = tmp_path / "alone.nii.gz", tmp_path / "both.nii.gz"
    assert call("segment", "--t1w", flipped, "--out", alone, *QUICK) == 0
    assert call("segment", "--t1w", flipped, "--chi", files[0], "--mask", files[1], "--out", both, *QUICK) == 0
    for hemisphere in "LR":
        assert overlap(both, hemisphere) > max(0.65, overlap(alone, hemisphere) + 0.05)
    assert "chi" in json.loads((tmp_path / "both.json").read_text())["Inputs"]


def test_an_atlas_and_a_brain_of_ones_own(tmp_path, capsys):
    from qsmprep.interfaces.registration import BrainOf
    from qsmprep.workflows.segment import embedded_atlas

    labels, names = tmp_path / "mine.nii.gz", tmp_path / "mine.tsv"
    shutil.copy(embedded_atlas()[0], labels)
    write_label_table([Region(12, "My-Putamen", "putamen", "L")], names)
    brain = BrainOf(in_file=str(T1W)).compute(tmp_path)["mask"]
    out = tmp_path / "dseg.nii.gz"
    assert call("segment", "--t1w", T1W, "--brain", brain, "--atlas", labels, names, "--out", out, *QUICK) == 0
    assert "My-Putamen" in capsys.readouterr().out
    assert list(read_label_table(tmp_path / "dseg.tsv")) == [12]


def test_first_on_a_t1w_image(tmp_path, monkeypatch, capsys):
    """With a stand-in for FSL's program: the labels and the words, not FSL itself."""
    out = tmp_path / "dseg.nii.gz"
    monkeypatch.delenv("FSLDIR", raising=False)
    monkeypatch.setenv("PATH", "")
    assert call("segment", "--t1w", T1W, "--method", "first", "--out", out) == 66
    assert "FSLDIR" in capsys.readouterr().err
    program = tmp_path / "fsl" / "bin" / "run_first_all"
    program.parent.mkdir(parents=True)
    program.write_text(
        f"#!{sys.executable}\nimport sys, nibabel as nib, numpy as np\n"
        "words = dict(zip(sys.argv[1::2], sys.argv[2::2]))\nimage = nib.load(words['-i'])\n"
        "labels = np.zeros(image.shape, np.int16)\nlabels[10:20, 10:20, 10:20] = 12\n"
        "for kind in ('firstseg', 'origsegs'):\n"
        "    nib.Nifti1Image(labels, image.affine).to_filename(words['-o'] + f'_all_fast_{kind}.nii.gz')\n"
        "sides = [f'{a}_{b}' for a in 'LR' for b in ('Hipp', 'Accu', 'Amyg', 'Caud', 'Pall', 'Puta', 'Thal')]\n"
        "for name in [*sides, 'BrStem']:\n"
        "    for extension in ('bvars', 'vtk'):\n"
        "        open(f'{words[\"-o\"]}-{name}_first.{extension}', 'w').close()\n"
    )
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("FSLDIR", str(tmp_path / "fsl"))
    assert call("segment", "--t1w", T1W, "--method", "first", "--out", out) == 0
    assert "Left-Putamen" in capsys.readouterr().out
    assert json.loads((tmp_path / "dseg.json").read_text())["EstimationAlgorithm"] == "FSL FIRST"
    assert (np.asarray(nib.load(out).dataobj) == 12).sum() == 1000
    assert len(read_label_table(tmp_path / "dseg.tsv")) == 15, "what it did not find is listed too"
