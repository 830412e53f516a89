"""What scanners do to the phase, put into a small scan on purpose: the pipeline undoes it and says so."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from scans import SHAPE, write_subject

CLEAN, FAULTY, FILTERED = "01", "02", "03"


def image(raw: Path, subject: str, echo: int, part: str) -> Path:
    return raw / f"sub-{subject}" / "anat" / f"sub-{subject}_echo-{echo}_part-{part}_MEGRE.nii.gz"


def data_of(path: Path) -> np.ndarray:
    return nib.load(path).get_fdata(dtype=np.float32)


def put(path: Path, data: np.ndarray, like: Path) -> None:
    nib.Nifti1Image(data.astype(np.float32), nib.load(like).affine).to_filename(path)


def bipolar_and_slices(raw: Path, subject: str) -> None:
    """A plane of phase on the second echo, and a sign on every other slice of all echoes."""
    x, y, _ = np.meshgrid(*[np.linspace(-1, 1, size) for size in SHAPE], indexing="ij")
    for echo in (1, 2, 3):
        path = image(raw, subject, echo, "phase")
        extra = (echo == 2) * (1.2 * x - 0.3 * y + 0.2) + np.pi * (np.arange(SHAPE[2]) % 2)
        put(path, np.angle(np.exp(1j * (data_of(path) + extra))), path)


def real_and_imaginary(raw: Path, subject: str) -> None:
    """The same signal in its other form."""
    for echo in (1, 2, 3):
        magnitude, phase = (image(raw, subject, echo, part) for part in ("mag", "phase"))
        signal = data_of(magnitude) * np.exp(1j * data_of(phase))
        for part, values in (("real", signal.real), ("imag", signal.imag)):
            put(image(raw, subject, echo, part), values, phase)
            sidecar = json.loads(Path(str(phase).replace(".nii.gz", ".json")).read_text())
            del sidecar["Units"]
            Path(str(image(raw, subject, echo, part)).replace(".nii.gz", ".json")).write_text(json.dumps(sidecar))
        for path in (magnitude, phase):
            path.unlink()
            Path(str(path).replace(".nii.gz", ".json")).unlink()


def high_passed(raw: Path, subject: str) -> None:
    """Phase less that of the smoothed signal, as a scanner makes it for SWI."""
    from scipy import ndimage

    for echo in (1, 2, 3):
        magnitude, path = (image(raw, subject, echo, part) for part in ("mag", "phase"))
        signal = data_of(magnitude) * np.exp(1j * data_of(path))
        low = ndimage.gaussian_filter(signal.real, 1) + 1j * ndimage.gaussian_filter(signal.imag, 1)
        put(path, np.angle(signal * np.conj(low)), path)


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """``raw``, and ``out`` of a run over the same head in three forms; ``told`` is what the run said."""
    root = tmp_path_factory.mktemp("artefacts")
    raw = root / "raw"
    raw.mkdir()
    description = {"Name": "faults", "BIDSVersion": "1.10.0", "DatasetType": "raw"}
    (raw / "dataset_description.json").write_text(json.dumps(description))
    for subject in (CLEAN, FAULTY, FILTERED):
        write_subject(raw, subject)
    bipolar_and_slices(raw, FAULTY)
    real_and_imaginary(raw, FAULTY)
    high_passed(raw, FILTERED)
    command = [sys.executable, "-m", "qsmprep.cli.main", str(raw), str(root / "out"), "participant", "--nprocs", "1"]
    command += ["-w", str(root / "work"), "--inversion", "tkd", "--background", "vsharp", "--device", "cpu", "--no-swi"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=root)
    assert done.returncode == 0, done.stdout + done.stderr
    (root / "told").write_text(done.stderr)
    return root


def total_hz(root: Path, subject: str) -> np.ndarray:
    return data_of(root / "out" / f"sub-{subject}" / "fmap" / f"sub-{subject}_desc-total_fieldmap.nii.gz")


def sidecar(root: Path, subject: str) -> dict:
    return json.loads((root / "out" / f"sub-{subject}" / "anat" / f"sub-{subject}_desc-tkd_Chimap.json").read_text())


def brain(root: Path) -> np.ndarray:
    return data_of(root / "out" / f"sub-{CLEAN}" / "anat" / f"sub-{CLEAN}_desc-qsm_mask.nii.gz") > 0


def test_faults_in_real_and_imaginary_parts_are_undone(finished):
    """The field is that of the clean magnitude and phase, whose spread is some ten Hz."""
    inside = brain(finished)
    clean, mended = (total_hz(finished, subject)[inside] for subject in (CLEAN, FAULTY))
    assert np.std(clean) > 5
    assert np.median(np.abs(mended - clean)) < 0.1
    facts = sidecar(finished, FAULTY)
    assert facts["PhaseConvention"]["rule"] == "real and imaginary parts"
    assert facts["BipolarReadout"] == "corrected"
    assert facts["BipolarPhaseDifference"] > 0.5
    assert "undone" in facts["AlternatingSliceSign"]
    assert sidecar(finished, CLEAN)["BipolarReadout"].startswith("no difference")


def test_no_swi_is_made_where_it_is_not_wanted(finished):
    assert not list((finished / "out").rglob("*_swi.*")) + list((finished / "out").rglob("*_minIP.*"))


def test_the_run_and_the_report_say_what_was_found(finished):
    told = (finished / "told").read_text().splitlines()
    for subject, words in (
        (FAULTY, "alternated along the third array axis; this was undone"),
        (FAULTY, "as with a bipolar readout; this was corrected"),
        (FILTERED, "looks high-pass filtered"),
    ):
        assert any(f"sub-{subject}: warning:" in line and words in line for line in told), words
        page = (finished / "out" / f"sub-{subject}.html").read_text()
        assert words in page
    assert not [line for line in told if f"sub-{CLEAN}:" in line]
    assert sidecar(finished, FILTERED)["PhaseLooksHighPassFiltered"] is True
    assert sidecar(finished, CLEAN)["PhaseLooksHighPassFiltered"] is False
