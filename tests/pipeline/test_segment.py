"""FSL FIRST and the atlas: command lines, preflight, and the way of the labels to the maps."""

from __future__ import annotations

import csv
import dataclasses
import json
import stat
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from scans import AFFINE, SHAPE, head, write_cohort

from qsmprep.bids.fsl import find_fsl
from qsmprep.bids.preflight import preflight
from qsmprep.bids.segmentations import Segmentation
from qsmprep.bids.tables import FREESURFER_WORD, read_label_table
from qsmprep.cli.parser import parse_settings
from qsmprep.core.grid import Grid
from qsmprep.core.registration import Rigid
from qsmprep.core.structures import FIRST
from qsmprep.core.template import NAME
from qsmprep.errors import DataError, MissingFileError, UsageError
from qsmprep.interfaces.regions import LabelsToMap
from qsmprep.interfaces.registration import AtlasLabels, BrainOf, First, judge_rigid, template_brain
from qsmprep.networks.segmentation import CODES
from qsmprep.workflows.acquisition import workflow_name
from qsmprep.workflows.base import init_qsmprep_wf
from qsmprep.workflows.regions import plan_segmentations
from qsmprep.workflows.segment import check_segmentation

STAND_IN = f"""#!{sys.executable}
# Stands in for FSL's run_first_all in the tests only: two boxes with FIRST's codes.
import os, sys
import nibabel as nib, numpy as np
arguments = dict(zip(sys.argv[1::2], sys.argv[2::2]))
assert set(arguments) >= {{"-i", "-o"}}, sys.argv
assert os.environ["FSLOUTPUTTYPE"] == "NIFTI_GZ"
assert os.environ["FSLDIR"]
image = nib.load(arguments["-i"])
if float(np.max(image.dataobj)) == 0:
    sys.exit("no signal")
labels = np.zeros(image.shape, np.int16)
labels[np.asarray(image.dataobj) == 85] = 12
labels[: image.shape[0] // 2][labels[: image.shape[0] // 2] == 12] = 51
for kind in ("firstseg", "origsegs"):
    nib.Nifti1Image(labels, image.affine).to_filename(arguments["-o"] + f"_all_fast_{{kind}}.nii.gz")
sides = [f"{{side}}_{{name}}" for side in "LR" for name in ("Hipp", "Accu", "Amyg", "Caud", "Pall", "Puta", "Thal")]
for structure in [*sides, "BrStem"]:
    for extension in ("bvars", "vtk"):
        open(f"{{arguments['-o']}}-{{structure}}_first.{{extension}}", "w").close()
"""


@pytest.fixture
def fsl(tmp_path, monkeypatch) -> Path:
    """A folder that looks like FSL's, with a stand-in for ``run_first_all``."""
    folder = tmp_path / "fsl"
    program = folder / "bin" / "run_first_all"
    program.parent.mkdir(parents=True)
    program.write_text(STAND_IN)
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("FSLDIR", str(folder))
    return program


def t1w(path: Path, scale: float = 1.0) -> Path:
    """A T1w image with the nuclei of `scans.head`."""
    _, signal = head(0)
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.Nifti1Image((scale * signal).astype(np.float32), AFFINE).to_filename(path)
    return path


def table(path: Path) -> dict[str, dict[str, str]]:
    with path.open() as stream:
        return {row["name"]: row for row in csv.DictReader(stream, delimiter="\t")}


def test_fsl_is_found_by_its_variable(fsl, monkeypatch):
    assert find_fsl("run_first_all") == fsl
    monkeypatch.delenv("FSLDIR")
    monkeypatch.setenv("PATH", str(fsl.parent))
    assert find_fsl("run_first_all") == fsl
    monkeypatch.setenv("PATH", "")
    with pytest.raises(MissingFileError, match="FSLDIR is not set"):
        find_fsl("run_first_all")


def test_first_runs_the_command_and_takes_its_labels(fsl, tmp_path):
    """With a stand-in executable: the command line and the labels, not FSL itself."""
    image = t1w(tmp_path / "t1w.nii.gz")
    result = First(in_file=str(image)).run(cwd=str(tmp_path)).outputs
    labels = nib.load(result.labels)
    assert set(np.unique(labels.dataobj)) == {0, 12, 51}
    np.testing.assert_allclose(labels.affine, AFFINE, atol=1e-5)
    assert json.loads(Path(result.info).read_text())["program"] == str(fsl)


@pytest.mark.parametrize("method", ["first", "unetr"])
def test_what_a_method_did_not_find_has_a_row(tmp_path, method):
    """Both sides of a structure may be lost: the list of what it segments is fixed."""
    known = {"first": set(FIRST), "unetr": set(CODES) - {0}}[method]
    raw = write_cohort(tmp_path)
    t1w(raw / "sub-01/anat/sub-01_T1w.nii.gz")
    labels = np.zeros(SHAPE, np.int16)
    labels[10:14, 10:14, 10:14] = 12
    nib.Nifti1Image(labels, AFFINE).to_filename(tmp_path / "seg.nii.gz")
    chosen = dataclasses.replace(settings(tmp_path, "--inversion", "tkd"), segmentation=method)
    (verdict,) = preflight(raw).verdicts
    segmentation = Segmentation(method, tmp_path / "seg.nii.gz", FREESURFER_WORD, method == "unetr", method)
    unit = (verdict.acquisition, Grid(SHAPE, (4.0, 4.0, 4.0)))
    workflow = init_qsmprep_wf([unit], chosen, {verdict.key: (segmentation,)})
    node = workflow.get_node(f"{workflow_name(verdict.acquisition)}.labels_{method}")
    step = LabelsToMap(table=FREESURFER_WORD, always=node.inputs.always)
    step.inputs.segmentation = step.inputs.like = str(tmp_path / "seg.nii.gz")
    assert set(read_label_table(Path(step.run(cwd=str(tmp_path)).outputs.table))) == known


def test_first_that_fails_names_its_image(fsl, tmp_path):
    image = t1w(tmp_path / "dark.nii.gz", 0.0)
    with pytest.raises(DataError, match="FIRST failed") as caught:
        First(in_file=str(image)).run(cwd=str(tmp_path))
    assert caught.value.file == str(image)


def settings(tmp_path: Path, *words: object):
    return parse_settings([str(w) for w in (tmp_path / "raw", tmp_path / "out", "participant", *words)])


def test_preflight_of_segmentations(tmp_path, monkeypatch):
    monkeypatch.delenv("FSLDIR", raising=False)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(MissingFileError, match="run_first_all"):
        check_segmentation(settings(tmp_path, "--segmentation", "first"))
    check_segmentation(settings(tmp_path, "--segmentation", "atlas"))
    labels, names = tmp_path / "atlas.nii.gz", tmp_path / "atlas.tsv"
    with pytest.raises(UsageError, match="--segmentation atlas"):
        check_segmentation(settings(tmp_path, "--atlas", labels, names))
    words = ("--segmentation", "atlas", "--atlas", labels, names)
    with pytest.raises(MissingFileError) as caught:
        check_segmentation(settings(tmp_path, *words))
    assert caught.value.file == str(labels)
    nib.Nifti1Image(np.ones((9, 9, 9), np.uint8), np.eye(4)).to_filename(labels)
    names.write_text("number\tname\n1\ta\n")
    with pytest.raises(DataError, match="`index` and `name`"):
        check_segmentation(settings(tmp_path, *words))


def rigid(information: float = 1.2, shift_mm: float = 3.0, turn_deg: float = 2.0, stretch: float = 0.01) -> Rigid:
    return Rigid(np.eye(4), 1.1, information, shift_mm, turn_deg, True, stretch)


@pytest.mark.parametrize(
    ("found", "share", "told"),
    [
        (rigid(), 0.4, "40 % of the brain"),
        (rigid(shift_mm=90), 0.95, "moved by 90 mm"),
        (rigid(turn_deg=80), 0.95, "turned by 80 degrees"),
    ],
)
def test_a_t1w_image_of_somebody_else(found, share, told):
    assert judge_rigid(rigid(), 0.95, "t1w.nii.gz") == []
    assert "hardly" in judge_rigid(rigid(information=1.01), 0.95, "t1w.nii.gz")[0]
    assert "differ in shape, by 6 %" in judge_rigid(rigid(information=1.03, stretch=0.06), 0.95, "t1w.nii.gz")[0]
    assert judge_rigid(rigid(stretch=0.06), 0.95, "t1w.nii.gz") == [], "they say a lot of each other"
    with pytest.raises(DataError, match=told) as caught:
        judge_rigid(found, share, "t1w.nii.gz")
    assert caught.value.file == "t1w.nii.gz"


def test_brain_of_a_t1w_image(tmp_path):
    image = t1w(tmp_path / "t1w.nii.gz")
    mask = nib.load(BrainOf(in_file=str(image)).run(cwd=str(tmp_path)).outputs.mask).get_fdata() > 0
    brain = head(0)[1] >= 85
    assert 2 * (mask & brain).sum() / (mask.sum() + brain.sum()) > 0.9


def test_template_on_something_else_fails_loudly(tmp_path):
    """A mask that is no brain: the overlap is low, and the error names the image."""
    image = t1w(tmp_path / "t1w.nii.gz")
    mask = np.zeros(SHAPE, np.uint8)
    mask[5:35, 20:26, 5:30] = 1
    nib.Nifti1Image(mask, AFFINE).to_filename(tmp_path / "mask.nii.gz")
    labels, names = tmp_path / "atlas.nii.gz", tmp_path / "atlas.tsv"
    nib.Nifti1Image(np.ones((9, 9, 9), np.uint8), np.diag([9, 9, 9, 1.0])).to_filename(labels)
    names.write_text("index\tname\n1\ta\n")
    step = AtlasLabels(in_file=str(image), mask=str(tmp_path / "mask.nii.gz"), atlas=str(labels), table=str(names))
    step.inputs.method = "atlas"
    step.inputs.parameters = {"voxel_mm": 8.0, "coarse": 0, "middle": 0, "fine": 0, "min_dice": 0.9}
    with pytest.raises(DataError, match="does not fit the brain") as caught:
        step.run(cwd=str(tmp_path))
    assert caught.value.file == str(image)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["first", "atlas"])
def test_whole_run(method, fsl, tmp_path):
    """From a T1w image that lies elsewhere to tables; the atlas is a drawn one on the template's grid."""
    raw = write_cohort(tmp_path)
    turned = np.eye(4)
    turned[:3, 3] = (6.0, -4.0, 5.0)
    path = t1w(raw / "sub-01/anat/sub-01_T1w.nii.gz")
    nib.Nifti1Image(nib.load(path).get_fdata().astype(np.float32), turned @ AFFINE).to_filename(path)
    command = [sys.executable, "-m", "qsmprep.cli.main", str(raw), str(tmp_path / "out"), "participant"]
    command += ["-w", str(tmp_path / "work"), "--nprocs", "1", "--level", "minimal", "--inversion", "tkd"]
    command += ["--template-maps"] * (method == "atlas")
    command += ["--background", "vsharp", "--segmentation", method, "--param", "atlas.voxel_mm=6", "atlas.min_dice=0.5"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    out = tmp_path / "out/sub-01/anat"
    matrix = np.loadtxt(out / "sub-01_from-MEGRE_to-T1w_mode-image_xfm.txt")
    np.testing.assert_allclose(matrix[:3, 3], turned[:3, 3], atol=2.0)
    rows = table(out / f"sub-01_seg-{method}_desc-tkd_stats.tsv")
    if method == "first":
        assert int(rows["Left-Putamen"]["n_voxels"]) > 40
        assert float(rows["Left-Putamen"]["mean"]) > 0.05
        assert float(rows["Right-Putamen"]["mean"]) > 0.05
    else:
        assert (out / "sub-01_from-MNI152NLin2009aSym_to-T1w_mode-image_xfm.nii.gz").exists()
        assert sum(int(row["n_voxels"]) > 0 for row in rows.values()) > 10
        name = f"sub-01_space-{NAME}_desc-tkd_Chimap.nii.gz"
        chi = nib.load(out / name)
        template = template_brain()
        assert chi.shape == template.data.shape
        np.testing.assert_allclose(chi.affine, template.affine)
        inside = np.asarray(nib.load(out / f"sub-01_space-{NAME}_desc-tkdqsm_mask.nii.gz").dataobj) > 0
        assert (inside & (template.data > 0)).sum() > 0.7 * inside.sum()
        assert np.abs(chi.get_fdata()[inside]).max() > 0.05
        about = json.loads((out / name.replace(".nii.gz", ".json")).read_text())
        assert about["Interpolation"] == "linear" and "B0Direction" not in about
        assert (tmp_path / "out/sub-01/figures/sub-01_desc-templatetkd_qsm.png").exists()
        html = (tmp_path / "out/sub-01.html").read_text()
        assert "Template space" in html and "resampled to the space of the MNI152 template" in html


@pytest.mark.parametrize("with_t1w", [True, False])
@pytest.mark.parametrize("segmentation", ["none", "atlas", "unetr"])
def test_graph_of_template_maps(tmp_path, segmentation, with_t1w):
    """One registration whatever the segmentation, and the way from magnitude to T1w image where there is one."""
    raw = write_cohort(tmp_path)
    if with_t1w:
        t1w(raw / "sub-01/anat/sub-01_T1w.nii.gz")
    chosen = settings(tmp_path, "--segmentation", segmentation, "--template-maps", "--inversion", "tkd", "tgv")
    found = plan_segmentations(preflight(raw), chosen)
    (verdict,) = found.verdicts
    unit = (verdict.acquisition, Grid(SHAPE, (4.0, 4.0, 4.0)))
    workflow = init_qsmprep_wf([unit], chosen, {verdict.key: verdict.segmentations})
    names = [name.rsplit(".", 1)[1] for name in workflow.list_node_names()]
    assert names.count("atlas") == 1
    assert names.count("coregister") == with_t1w
    for wanted in ("template_tkd", "template_tgv", "report_templatetkd", "publish_template_tkd"):
        assert wanted in names
    assert "resampled to the space of the MNI152 template" in workflow.visit_desc()
