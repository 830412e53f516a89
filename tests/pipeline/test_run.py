"""The main job, as a user calls it: exit codes, outputs, resume, and failures that stay where they are."""

from __future__ import annotations

import dataclasses
import gzip
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from scans import AFFINE, SHAPE, head, write_cohort, write_subject

from qsmprep.bids.leftovers import place
from qsmprep.core.methods import METHODS
from qsmprep.workflows.run import exit_code

FAST = ("--inversion", "tkd", "--background", "vsharp")


def outputs(out: Path) -> set[str]:
    """All files of an output folder that do not belong to one run only."""
    return {
        p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file() and "/log" not in f"/{p.relative_to(out)}"
    }


def rewrite(path: Path, change) -> None:
    """Change the voxels of an image in place."""
    image = nib.load(path)
    data = change(np.asarray(image.dataobj).copy())
    nib.Nifti1Image(data, image.affine, image.header).to_filename(path)


def image(raw: Path, subject: str = "01", echo: int = 1, part: str = "phase") -> Path:
    """One image of a data set."""
    return raw / f"sub-{subject}" / "anat" / f"sub-{subject}_echo-{echo}_part-{part}_MEGRE.nii.gz"


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """A folder with ``raw``, and ``out`` of a complete run with two inversions and two processes.

    Before it, another run was killed while it wrote: its process number belongs to another one now.
    """
    root = tmp_path_factory.mktemp("finished")
    raw = write_cohort(root)
    (root / "out" / "sub-01" / "anat").mkdir(parents=True)
    (root / "out" / "sub-01" / "anat" / f".{place()}-{os.getpid()}-1-{'0' * 32}.tmp").write_bytes(b"half")
    command = [sys.executable, "-m", "qsmprep.cli.main", str(raw), str(root / "out"), "participant"]
    command += ["-w", str(root / "work"), "--nprocs", "2", "--inversion", "tkd", "l2", "--write-graph"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=root)
    assert done.returncode == 0, done.stdout + done.stderr
    return root


def test_outputs(finished):
    out = finished / "out"
    stem = "sub-01/anat/sub-01"
    expected = {f"{stem}_desc-{name}_Chimap.nii.gz" for name in ("tkd", "l2")}
    expected |= {f"{stem}_{suffix}.nii.gz" for suffix in ("R2starmap", "T2starmap", "S0map", "swi", "minIP")}
    expected |= {f"{stem}_desc-brain_mask.nii.gz", f"{stem}_desc-qsm_mask.nii.gz"}
    expected |= {f"sub-01/fmap/sub-01_desc-{kind}_fieldmap.nii.gz" for kind in ("total", "local")}
    expected |= {f"{stem}_echo-{n}_part-phase_desc-unwrapped_MEGRE.nii.gz" for n in (1, 2, 3)}
    expected |= {"dataset_description.json", ".bidsignore", "README", "sub-01.html", f"{stem}_desc-qc_metrics.json"}
    assert expected <= outputs(out)
    assert not [name for name in outputs(out) if name.endswith(".tmp")]
    for name in expected:
        if name.endswith(".nii.gz"):
            assert (out / name.replace(".nii.gz", ".json")).exists(), name
    assert (out / "logs" / "CITATION.md").exists()
    assert list((out / "logs").glob("*/settings.json"))
    assert list((out / "logs").glob("*/graph.dot"))


def test_maps_show_the_nuclei(finished):
    chi_true, signal_true = head(0)
    for name in ("tkd", "l2"):
        chi = nib.load(finished / "out" / "sub-01" / "anat" / f"sub-01_desc-{name}_Chimap.nii.gz").get_fdata()
        mask = nib.load(finished / "out" / "sub-01" / "anat" / "sub-01_desc-qsm_mask.nii.gz").get_fdata() > 0
        nuclei = (signal_true == 85) & mask
        rest = (signal_true == 100) & mask
        assert nuclei.sum() > 50
        contrast = chi[nuclei].mean() - chi[rest].mean()
        truth = chi_true[nuclei].mean() - chi_true[rest].mean()
        assert 0.5 * truth < contrast < 1.3 * truth
        assert abs(chi[mask].mean()) < 1e-4
        assert not chi[~mask].any()


def test_sidecar(finished):
    sidecar = json.loads((finished / "out/sub-01/anat/sub-01_desc-tkd_Chimap.json").read_text())
    assert sidecar["Units"] == "ppm"
    assert sidecar["SkullStripped"] is True
    assert sidecar["EchoTime"] == [0.004, 0.012, 0.02]
    assert sidecar["Parameters"] == dataclasses.asdict(METHODS.get("inversion", "tkd").configure())
    assert sidecar["Device"] == "cpu"
    assert sidecar["PhaseConvention"]["sign"] == 1
    np.testing.assert_allclose(np.abs(sidecar["B0Direction"]), [0, 0, 1], atol=1e-6)
    assert all(uri.startswith("bids:raw:sub-01/anat/") for uri in sidecar["Sources"])


def test_sidecars_say_what_was_looked_for_in_the_phase(finished):
    for name in ("desc-tkd_Chimap", "swi", "minIP", "echo-2_part-phase_desc-unwrapped_MEGRE"):
        sidecar = json.loads((finished / f"out/sub-01/anat/sub-01_{name}.json").read_text())
        assert sidecar["AlternatingSliceSign"] == "does not alternate"
        assert "evenly" in sidecar["BipolarReadout"] or "no difference" in sidecar["BipolarReadout"]
        assert sidecar["PhaseLooksHighPassFiltered"] is False
    assert sidecar["Units"] == "rad"
    minip = json.loads((finished / "out/sub-01/anat/sub-01_minIP.json").read_text())
    assert minip["ProjectionThickness"] == 4.0, "one slice of 4 mm is nearer to 7 mm than three"
    assert minip["Parameters"] == dataclasses.asdict(METHODS.get("swi", "clearswi").configure())
    page = (finished / "out/sub-01.html").read_text()
    assert "Susceptibility-weighted image" in page
    assert "CLEAR-SWI" in (finished / "out/logs/CITATION.md").read_text()


def test_geometry_is_kept(finished):
    for path in (finished / "out").rglob("*.nii.gz"):
        found = nib.load(path)
        assert found.shape == SHAPE
        np.testing.assert_allclose(found.affine, AFFINE, atol=1e-4)


def test_reports_only_rebuilds_the_page(finished, qsmprep, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(finished / "out", out)
    page = out / "sub-01.html"
    before = page.read_bytes()
    page.unlink()
    qsmprep(finished / "raw", "--reports-only", check=0)
    assert page.read_bytes() == before


def test_output_passes_the_validator(finished):
    validator = Path(sys.executable).with_name("bids-validator-deno")
    if not validator.exists():
        pytest.skip("bids-validator-deno is not installed")
    for folder in ("raw", "out"):
        done = subprocess.run([validator, finished / folder, "--json"], capture_output=True, text=True)
        issues = json.loads(done.stdout)["issues"]["issues"]
        errors = [issue for issue in issues if issue.get("severity") == "error"]
        assert not errors, json.dumps(errors, indent=1)[:3000]


def test_one_bad_subject_among_good_ones(qsmprep, tmp_path):
    raw = write_cohort(tmp_path, ("01", "02"))
    write_subject(raw, "03")
    rewrite(image(raw, "02"), lambda data: np.full_like(data, 1.5))
    image(raw, "03", echo=2).unlink()
    done = qsmprep(raw, *FAST, check=1)
    out = tmp_path / "out"
    assert (out / "sub-01/anat/sub-01_desc-tkd_Chimap.nii.gz").exists()
    assert not (out / "sub-02/anat/sub-02_desc-tkd_Chimap.nii.gz").exists()
    assert not (out / "sub-03/anat").exists()
    assert "sub-02: conform" in done.stderr
    assert "sub-03" in done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    for subject in ("01", "02", "03"):
        assert (out / f"sub-{subject}.html").exists()


@pytest.mark.parametrize(
    ("name", "change", "code", "words"),
    [
        ("constant", lambda data: np.zeros_like(data), 65, "phase"),
        ("nonfinite", lambda data: np.full_like(data, np.nan), 65, "finite"),
    ],
)
def test_bad_phase(qsmprep, tmp_path, name, change, code, words):
    raw = write_cohort(tmp_path)
    for echo in (1, 2, 3):
        rewrite(image(raw, echo=echo), change)
    done = qsmprep(raw, *FAST, check=code)
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert not list((tmp_path / "out").rglob("*.nii.gz"))


def test_some_nonfinite_voxels_are_survived(qsmprep, tmp_path):
    raw = write_cohort(tmp_path)

    def spoil(data):
        data[20, 23, 18:21] = [np.nan, np.inf, -np.inf]
        return data

    for part in ("mag", "phase"):
        rewrite(image(raw, part=part, echo=2), spoil)
    qsmprep(raw, *FAST, check=0)
    chi = nib.load(tmp_path / "out/sub-01/anat/sub-01_desc-tkd_Chimap.nii.gz").get_fdata()
    assert np.isfinite(chi).all()
    assert chi.std() > 0


def test_truncated_image(qsmprep, tmp_path):
    raw = write_cohort(tmp_path)
    path = image(raw)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    done = qsmprep(raw, *FAST, check=65)
    assert path.name in done.stderr
    assert "Traceback" not in done.stderr


def test_truncated_stream_with_a_right_length(qsmprep, tmp_path):
    raw = write_cohort(tmp_path)
    path = image(raw)
    blob = bytearray(gzip.decompress(path.read_bytes()))
    blob[400:500] = os.urandom(100)
    packed = bytearray(gzip.compress(bytes(blob), mtime=0))
    packed[len(packed) // 2] ^= 0xFF
    path.write_bytes(bytes(packed))
    done = qsmprep(raw, *FAST, check=65)
    assert path.name in done.stderr


def test_given_mask_is_used_exactly(qsmprep, tmp_path):
    raw = write_cohort(tmp_path)
    mask = head(0)[1] == 100
    folder = tmp_path / "masks" / "sub-01" / "anat"
    folder.mkdir(parents=True)
    (tmp_path / "masks" / "dataset_description.json").write_text(
        json.dumps(
            {"Name": "m", "BIDSVersion": "1.10.0", "DatasetType": "derivative", "GeneratedBy": [{"Name": "hand"}]}
        )
    )
    given = nib.Nifti1Image(mask.astype(np.uint8), AFFINE)
    given.to_filename(folder / "sub-01_desc-brain_mask.nii.gz")
    qsmprep(raw, *FAST, "--derivatives", str(tmp_path / "masks"), check=0)
    used = nib.load(tmp_path / "out/sub-01/anat/sub-01_desc-brain_mask.nii.gz").get_fdata() > 0
    np.testing.assert_array_equal(used, mask)


def test_empty_given_mask(qsmprep, tmp_path):
    raw = write_cohort(tmp_path)
    folder = tmp_path / "masks" / "sub-01" / "anat"
    folder.mkdir(parents=True)
    (tmp_path / "masks" / "dataset_description.json").write_text(
        json.dumps(
            {"Name": "m", "BIDSVersion": "1.10.0", "DatasetType": "derivative", "GeneratedBy": [{"Name": "hand"}]}
        )
    )
    nib.Nifti1Image(np.zeros(SHAPE, np.uint8), AFFINE).to_filename(folder / "sub-01_desc-brain_mask.nii.gz")
    done = qsmprep(raw, *FAST, "--derivatives", str(tmp_path / "masks"), check=65)
    assert "mask is empty" in done.stderr


def test_output_inside_input(qsmprep, tmp_path):
    raw = write_cohort(tmp_path)
    done = qsmprep(raw, *FAST, out="raw/sub-01/out", check=2)
    assert "derivatives" in done.stderr
    assert not (raw / "sub-01" / "out").exists()


def test_unknown_participant(qsmprep, tmp_path):
    done = qsmprep(write_cohort(tmp_path), "--participant_label", "99", check=18)
    assert "99" in done.stderr
    assert not (tmp_path / "out").exists()


def test_fsl_is_missed_before_any_work(qsmprep, tmp_path):
    if shutil.which("bet"):
        pytest.skip("FSL's bet is installed")
    done = qsmprep(write_cohort(tmp_path), "--mask", "fsl", check=66)
    assert "--mask bet" in done.stderr
    assert not (tmp_path / "out").exists()


def test_output_that_cannot_be_made(qsmprep, tmp_path):
    raw = write_cohort(tmp_path)
    (tmp_path / "out").write_text("a file, not a folder")
    qsmprep(raw, *FAST, check=73)
    assert (tmp_path / "out").read_text() == "a file, not a folder"


def test_full_disk(tmp_path):
    """The output is on a file system of 300 kB: exit code 73, and no file that looks finished."""
    raw = write_cohort(tmp_path)
    (tmp_path / "out").mkdir()
    inner = (
        f"mount -t tmpfs -o size=300k none {tmp_path}/out && "
        f"{sys.executable} -m qsmprep.cli.main {raw} {tmp_path}/out participant -w {tmp_path}/work --nprocs 1 "
        f"{' '.join(FAST)}; code=$?; find {tmp_path}/out -name '*.tmp' -o -name '.*.tmp' | head; exit $code"
    )
    if subprocess.run(["unshare", "-rm", "mount", "-t", "tmpfs", "none", str(tmp_path / "out")]).returncode:
        pytest.skip("mounting in a user namespace is not allowed here")
    done = subprocess.run(["unshare", "-rm", "sh", "-c", inner], capture_output=True, text=True, timeout=300)
    assert done.returncode == 73, done.stdout + done.stderr
    assert "No space left" in done.stderr
    assert ".tmp" not in done.stdout
    assert "Traceback" not in done.stderr


def _times(work: Path) -> dict[str, int]:
    """When each node's result was written."""
    nodes = {p.parent.name: p.stat().st_mtime_ns for p in work.rglob("result_*.pklz")}
    return {name: when for name, when in nodes.items() if not name.startswith(("publish_", "report_"))}


def test_same_work_folder_resumes_and_a_change_reruns_what_depends_on_it(qsmprep, tmp_path):
    raw = write_cohort(tmp_path)
    qsmprep(raw, *FAST, check=0)
    first = _times(tmp_path / "work")
    assert {"conform", "brain", "unwrap", "fieldmap", "background", "invert_tkd", "reference_tkd"} <= set(first)
    qsmprep(raw, *FAST, check=0)
    assert _times(tmp_path / "work") == first
    qsmprep(raw, *FAST, "--param", "tkd.threshold=0.25", check=0)
    third = _times(tmp_path / "work")
    assert {name for name in third if third[name] != first[name]} == {"invert_tkd", "reference_tkd"}
    rewrite(image(raw, echo=2), lambda data: np.where(np.indices(SHAPE)[0] < 20, data, -data * 0.5).astype(np.float32))
    qsmprep(raw, *FAST, "--param", "tkd.threshold=0.25", check=0)
    fourth = _times(tmp_path / "work")
    assert {"conform", "unwrap", "fieldmap", "background", "invert_tkd"} <= {n for n in fourth if fourth[n] != third[n]}


@pytest.mark.parametrize("delay_s", [4.0, 6.0])
def test_resume_after_a_kill(tmp_path, qsmprep, delay_s):
    """Killed at an arbitrary moment, resumed, and compared with a run that nobody disturbed."""
    raw = write_cohort(tmp_path)
    command = [sys.executable, "-m", "qsmprep.cli.main", str(raw), str(tmp_path / "out"), "participant", *FAST]
    command += ["-w", str(tmp_path / "work"), "--nprocs", "1", "--device", "cpu"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    time.sleep(delay_s)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    for path in (tmp_path / "out").rglob("*.nii.gz"):
        assert np.isfinite(nib.load(path).get_fdata()).all()
    qsmprep(raw, *FAST, check=0)
    qsmprep(raw, *FAST, out="undisturbed", work="elsewhere", check=0)
    written = {p.relative_to(tmp_path / "undisturbed") for p in (tmp_path / "undisturbed").rglob("*.nii.gz")}
    assert len(written) > 8
    for path in written:
        assert (tmp_path / "out" / path).read_bytes() == (tmp_path / "undisturbed" / path).read_bytes(), path


def test_exit_codes():
    assert exit_code(3, []) == 0
    assert exit_code(1, [65]) == 1
    assert exit_code(0, [65, 65]) == 65
    assert exit_code(0, [65, 66]) == 1
    assert exit_code(2, [75]) == 75
    assert exit_code(0, [65], out_of_memory=True) == 75
