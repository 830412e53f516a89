"""Small scans for the tests of the pipeline: an ellipsoid brain with nuclei, measured on a coarse grid."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np

from qsmprep.core.dipole import forward_field
from qsmprep.core.grid import Grid
from qsmprep.core.units import rad_per_ppm

SHAPE = (40, 46, 36)
AFFINE = np.array([[-4.0, 0, 0, 78], [0, 4.0, 0, -90], [0, 0, 4.0, -70], [0, 0, 0, 1]])
TE_S = (0.004, 0.012, 0.020)
B0_T = 3.0


def head(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Susceptibility (ppm) and signal of a head: brain, skull, scalp, nuclei and an air sinus."""
    rng = np.random.default_rng(seed)
    axes = np.indices(SHAPE, dtype=float)
    centre = (np.array(SHAPE) - 1) / 2
    offset = [(axis - middle) * 4.0 for axis, middle in zip(axes, centre, strict=True)]
    radius = np.sqrt((offset[0] / 56) ** 2 + (offset[1] / 68) ** 2 + (offset[2] / 52) ** 2)
    signal = np.select([radius < 1, radius < 1.14, radius < 1.22], [100.0, 4.0, 60.0], 0.0)
    chi = np.where(radius < 1, rng.normal(0, 0.01, SHAPE), np.where(radius < 1.22, -1.0, 9.0))
    for side in (-1, 1):
        nucleus = (offset[0] - side * 18) ** 2 + (offset[1] - 4) ** 2 + offset[2] ** 2 < 10**2
        chi[nucleus] = 0.12
        signal[nucleus] = 85.0
    sinus = (offset[0] ** 2 + (offset[1] - 74) ** 2 + (offset[2] + 20) ** 2) < 9**2
    chi[sinus], signal[sinus] = 9.0, 0.0
    return chi.astype(np.float32), signal.astype(np.float32)


def write_cohort(root: Path, subjects: tuple[str, ...] = ("01",), te_s: tuple[float, ...] = TE_S) -> Path:
    """Write a BIDS data set of such heads under ``root/raw`` and return it."""
    raw = root / "raw"
    raw.mkdir(parents=True)
    (raw / "README").write_text("Ellipsoid heads, made by the tests of qsmprep.\n" * 4)
    description = {"Name": "ellipsoids", "BIDSVersion": "1.10.0", "DatasetType": "raw"}
    (raw / "dataset_description.json").write_text(json.dumps(description))
    for number, subject in enumerate(subjects):
        write_subject(raw, subject, te_s, seed=number)
    return raw


def write_subject(raw: Path, subject: str, te_s: tuple[float, ...] = TE_S, seed: int = 0) -> None:
    """Add one subject to a data set."""
    chi, signal = head(seed)
    field_ppm = forward_field(chi, Grid.from_affine(SHAPE, AFFINE))
    rng = np.random.default_rng(seed + 1)
    anat = raw / f"sub-{subject}" / "anat"
    anat.mkdir(parents=True)
    for number, te in enumerate(te_s, start=1):
        echo = signal * np.exp(-te * 25) * np.exp(1j * rad_per_ppm(B0_T, te) * field_ppm)
        echo = echo + rng.normal(0, 1, SHAPE) + 1j * rng.normal(0, 1, SHAPE)
        for part, data in (("mag", np.abs(echo)), ("phase", np.angle(echo))):
            name = f"sub-{subject}_echo-{number}_part-{part}_MEGRE"
            image = nib.Nifti1Image(data.astype(np.float32), AFFINE)
            image.header.set_xyzt_units("mm", "sec")
            image.to_filename(anat / f"{name}.nii.gz")
            keys = {"EchoTime": te, "MagneticFieldStrength": B0_T, **({"Units": "rad"} if part == "phase" else {})}
            (anat / f"{name}.json").write_text(json.dumps(keys))
