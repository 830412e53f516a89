"""Segmentations made elsewhere, from BIDS derivatives and FreeSurfer folders, to tables of regions."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from scans import AFFINE, SHAPE, head, write_cohort

from qsmprep.bids.acquisition import Acquisition, Echo
from qsmprep.bids.headers import Header
from qsmprep.bids.segmentations import find_segmentations
from qsmprep.errors import DataError
from qsmprep.interfaces.inversion import Reference
from qsmprep.interfaces.regions import LabelsToMap

FAST = ("--inversion", "tkd", "--background", "vsharp")
FINE = 2.0
"""Voxel size of the segmentation in mm; the scans have 4."""


def fine_labels() -> tuple[np.ndarray, np.ndarray]:
    """The two nuclei of `scans.head` and a ball of fluid, with FreeSurfer codes, axes in another order."""
    affine = np.array([[0, 0, FINE, -70.0], [-FINE, 0, 0, 80], [0, FINE, 0, -60], [0, 0, 0, 1]])
    index = np.indices((80, 60, 70)).reshape(3, -1)
    x, y, z = (affine[:3, :3] @ index + affine[:3, 3:]).reshape(3, 80, 60, 70)
    corner = np.array([78.0, -90, -70])
    cx, cy, cz = corner + np.array([-4.0, 4, 4]) * (np.array(SHAPE) - 1) / 2
    labels = np.zeros(x.shape, np.uint8)
    # the first axis of the scans runs to the left: what `head` puts at +18 mm along it is the left one
    for code, side in ((12, -1), (51, 1)):
        labels[(x - cx - 18 * side) ** 2 + (y - cy - 4) ** 2 + (z - cz) ** 2 < 10**2] = code
    labels[(x - cx) ** 2 + (y - cy + 25) ** 2 + (z - cz) ** 2 < 8**2] = 4
    return labels, affine


def freesurfer_folder(root: Path, subject: str = "01") -> Path:
    labels, affine = fine_labels()
    folder = root / f"sub-{subject}" / "mri"
    folder.mkdir(parents=True)
    nib.MGHImage(labels, affine).to_filename(folder / "aseg.mgz")
    return root


def bids_derivative(root: Path, subject: str = "01") -> Path:
    """On the grid of the echoes, with a table at the root."""
    folder = root / f"sub-{subject}" / "anat"
    folder.mkdir(parents=True)
    _, signal = head(0)
    labels = np.where(signal == 85, 1, 0).astype(np.uint8)
    labels[SHAPE[0] // 2 :] *= 2  # the first axis runs to the left
    nib.Nifti1Image(labels, AFFINE).to_filename(folder / f"sub-{subject}_seg-mine_dseg.nii.gz")
    (root / "seg-mine_dseg.tsv").write_text("index\tname\n1\tright red nucleus\n2\tleft red nucleus\n")
    return root


def table(path: Path) -> dict[str, dict[str, str]]:
    with path.open() as stream:
        return {row["name"]: row for row in csv.DictReader(stream, delimiter="\t")}


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("regions")
    raw = write_cohort(root)
    command = [sys.executable, "-m", "qsmprep.cli.main", str(raw), str(root / "out"), "participant"]
    command += ["-w", str(root / "work"), "--nprocs", "1", "--level", "minimal", *FAST, "--reference", "csf"]
    fs, bids = freesurfer_folder(root / "fs"), bids_derivative(root / "bids")
    command += ["--derivatives", str(bids), str(fs)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, cwd=root)
    assert done.returncode == 0, done.stdout + done.stderr
    return root


def test_outputs(finished):
    stem = finished / "out/sub-01/anat/sub-01"
    for name in ("aseg", "mine"):
        image = nib.load(f"{stem}_seg-{name}_dseg.nii.gz")
        assert image.shape == SHAPE
        assert image.get_data_dtype().kind in "iu"
        sidecar = json.loads(Path(f"{stem}_seg-{name}_dseg.json").read_text())
        assert sidecar["Sources"][0].startswith("bids:deriv")
        assert Path(f"{stem}_seg-{name}_dseg.tsv").exists()
        for desc in ("tkd", "R2star"):
            about = json.loads(Path(f"{stem}_seg-{name}_desc-{desc}_stats.json").read_text())
            assert about["mean"]["Units"] == ("ppm" if desc == "tkd" else "1/s")
            assert about["Sources"][0].startswith("bids::sub-01/anat/")


def test_sides_and_values(finished):
    """Codes of the left nucleus lie on the left, in the table and in the image; the maps are those of the run."""
    out = finished / "out/sub-01/anat"
    chi = nib.load(out / "sub-01_desc-tkd_Chimap.nii.gz").get_fdata()
    mask = nib.load(out / "sub-01_desc-qsm_mask.nii.gz").get_fdata() > 0
    for name, codes in (("aseg", {12: "Left-Putamen", 51: "Right-Putamen"}), ("mine", {2: "left red nucleus"})):
        labels = np.asarray(nib.load(out / f"sub-01_seg-{name}_dseg.nii.gz").dataobj)
        rows = table(out / f"sub-01_seg-{name}_desc-tkd_stats.tsv")
        for code, region in codes.items():
            inside = labels == code
            x_mm = (AFFINE @ np.array([*np.argwhere(inside).mean(axis=0), 1.0]))[0] - 78 + 4 * (SHAPE[0] - 1) / 2
            assert (x_mm < -10) == (rows[region]["hemisphere"] == "L")
            values = chi[inside & mask]
            assert int(rows[region]["n_voxels"]) == values.size > 30
            assert float(rows[region]["mean"]) == pytest.approx(values.mean(), abs=1e-6)
            assert float(rows[region]["mean"]) > 0.05
    fine = table(out / "sub-01_seg-aseg_desc-tkd_stats.tsv")["Left-Putamen"]
    assert float(fine["weighted_volume_mm3"]) == pytest.approx((fine_labels()[0] == 12).sum() * FINE**3, rel=0.03)
    assert fine["weighted_mean"] != fine["mean"]


def test_reference_region(finished):
    """The fluid of the segmentation that knows it is zero, and has its row; the whole brain has one too."""
    out = finished / "out/sub-01/anat"
    chi = nib.load(out / "sub-01_desc-tkd_Chimap.nii.gz").get_fdata()
    mask = nib.load(out / "sub-01_desc-qsm_mask.nii.gz").get_fdata() > 0
    fluid = np.asarray(nib.load(out / "sub-01_seg-aseg_dseg.nii.gz").dataobj) == 4
    assert chi[fluid & mask].mean() == pytest.approx(0, abs=1e-5)
    rows = table(out / "sub-01_seg-aseg_desc-tkd_stats.tsv")
    assert float(rows["reference: csf"]["mean"]) == pytest.approx(0, abs=1e-5)
    assert float(rows["whole brain"]["mean"]) == pytest.approx(chi[mask].mean(), abs=1e-6)
    assert float(rows["whole brain"]["sd"]) == pytest.approx(chi[mask].std(ddof=1), abs=1e-6)
    assert json.loads((out / "sub-01_desc-tkd_Chimap.json").read_text())["SusceptibilityReference"] == "csf"


def test_a_segmentation_that_cannot_be_read(tmp_path):
    """It is a warning; a reference that needs it fails in its own branch and says why."""
    fs = freesurfer_folder(tmp_path / "fs")
    (fs / "sub-01" / "mri" / "aseg.mgz").write_bytes(b"nonsense")
    found, notes = find_segmentations([fs], acquisition(), Header(Path("x"), SHAPE, AFFINE))
    assert found == ()
    assert "aseg.mgz is not used" in notes[0]
    for name in ("chi", "mask"):
        nib.Nifti1Image(np.ones((4, 4, 4), np.float32), np.eye(4)).to_filename(tmp_path / f"{name}.nii")
    step = Reference(method="csf", chi_ppm=str(tmp_path / "chi.nii"), mask=str(tmp_path / "mask.nii"))
    with pytest.raises(DataError, match="no segmentation to take the reference region from"):
        step.run(cwd=str(tmp_path))


def test_a_segmentation_of_another_place(tmp_path):
    """Its labels do not meet the maps: an error that names the file. Few of them do: a warning."""
    labels, affine = fine_labels()
    nib.Nifti1Image(np.zeros(SHAPE, np.float32), AFFINE).to_filename(tmp_path / "like.nii")
    for shift_mm, told in ((500.0, "no label"), (103.0, "only")):
        moved = affine.copy()
        moved[0, 3] += shift_mm
        nib.Nifti1Image(labels, moved).to_filename(tmp_path / "seg.nii.gz")
        like = str(tmp_path / "like.nii")
        step = LabelsToMap(segmentation=str(tmp_path / "seg.nii.gz"), table="freesurfer", like=like)
        if told == "no label":
            with pytest.raises(DataError, match=told) as caught:
                step.run(cwd=str(tmp_path))
            assert caught.value.file.endswith("seg.nii.gz")
        else:
            info = json.loads(Path(step.run(cwd=str(tmp_path)).outputs.info).read_text())
            assert info["inside"] < 0.2
            assert told in info["warnings"][0]


def test_page_and_text(finished):
    page = (finished / "out/sub-01.html").read_text()
    for text in ("Regions of interest", "Left-Putamen", "regions of aseg", "Outlines of the regions, mine"):
        assert text in page, text
    text = (finished / "out/logs/CITATION.md").read_text()
    assert "Regions of interest came from" in text
    assert "cerebrospinal fluid" in text


def test_output_passes_the_validator(finished):
    validator = Path(sys.executable).with_name("bids-validator-deno")
    if not validator.exists():
        pytest.skip("bids-validator-deno is not installed")
    done = subprocess.run([validator, finished / "out", "--json"], capture_output=True, text=True)
    issues = json.loads(done.stdout)["issues"]["issues"]
    errors = [issue for issue in issues if issue.get("severity") == "error"]
    assert not errors, json.dumps(errors, indent=1)[:3000]


def test_none_and_nothing_found(qsmprep, tmp_path):
    raw = write_cohort(tmp_path)
    done = qsmprep(raw, *FAST, "--reference", "csf", check=66)
    assert "needs a segmentation" in done.stderr
    fs = freesurfer_folder(tmp_path / "fs")
    qsmprep(raw, *FAST, "--segmentation", "none", "--derivatives", str(fs), check=0)
    assert not list((tmp_path / "out").rglob("*dseg*"))


def acquisition(session: str | None = None, t1w: str | None = None) -> Acquisition:
    path = None if t1w is None else Path(t1w)
    return Acquisition(
        "01", session, (("run", "1"),), "MEGRE", (Echo(0.01, phase=Path("p")),), 3.0, "sidecar", t1w=path
    )


def put(path: Path, affine: np.ndarray = AFFINE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.Nifti1Image(np.ones(SHAPE, np.uint8), affine).to_filename(path)
    return path


@pytest.mark.parametrize(
    ("file", "session", "used"),
    [
        ("sub-01/anat/sub-01_desc-aseg_dseg.nii.gz", None, "aseg"),
        ("sub-01/anat/sub-01_desc-aseg_dseg.nii.gz", "a", "aseg"),
        ("sub-01/ses-a/anat/sub-01_ses-a_run-1_seg-SynthSeg_dseg.nii.gz", "a", "SynthSeg"),
        ("sub-01/ses-b/anat/sub-01_ses-b_seg-SynthSeg_dseg.nii.gz", "a", None),
        ("sub-01/anat/sub-01_space-MNI152NLin2009cAsym_desc-aseg_dseg.nii.gz", None, None),
        ("sub-01/anat/sub-01_space-T1w_desc-aseg_dseg.nii.gz", None, "aseg"),
        ("sub-01/anat/sub-01_run-2_desc-aseg_dseg.nii.gz", None, None),
        ("sub-01/anat/sub-01_acq-mprage_desc-aseg_dseg.nii.gz", None, "aseg"),
        ("sub-02/anat/sub-02_desc-aseg_dseg.nii.gz", None, None),
        ("sub-01/anat/sub-01_desc-unnamed_dseg.nii.gz", None, None),
    ],
)
def test_which_files_fit(tmp_path, file, session, used):
    put(tmp_path / file)
    grid = Header(Path("x"), SHAPE, AFFINE)
    one = acquisition(session, "/data/sub-01_acq-mprage_T1w.nii.gz")
    found, notes = find_segmentations([tmp_path], one, grid)
    assert [s.name for s in found] == ([used] if used else [])
    assert all(s.on_grid for s in found)
    assert bool(notes) == ("unnamed" in file)


def test_freesurfer_of_a_session_comes_first(tmp_path):
    for name in ("sub-01", "sub-01_ses-a"):
        folder = tmp_path / name / "mri"
        folder.mkdir(parents=True)
        nib.MGHImage(np.ones((9, 9, 9), np.uint8), np.eye(4)).to_filename(folder / "aseg.mgz")
    (found,), _ = find_segmentations([tmp_path], acquisition("a"), Header(Path("x"), SHAPE, AFFINE))
    assert found.file.parent.parent.name == "sub-01_ses-a"
    assert not found.on_grid
