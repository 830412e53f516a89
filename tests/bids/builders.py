"""Tiny BIDS data sets of gradient-echo images, with knobs to break them.

``make_dataset`` writes real NIfTI images of a few hundred voxels. Every knob makes one fault of the kind
that users bring.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

SHAPE = (12, 10, 8)
TE_S = (0.004, 0.009, 0.014)
AFFINE = np.array([[-1.5, 0, 0, 8], [0, 1.2, 0, -5], [0, 0, 2.0, -7], [0, 0, 0, 1]], dtype=float)


def make_dataset(
    root: Path,
    subjects: Sequence[str] = ("01",),
    sessions: Sequence[str] | None = None,
    *,
    te_s: Sequence[float] = TE_S,
    suffix: str = "MEGRE",
    parts: Sequence[str] = ("mag", "phase"),
    entities: str = "",
    shape: tuple[int, ...] = SHAPE,
    affine: np.ndarray = AFFINE,
    b0_t: Any = 3,
    units: str | None = "rad",
    t1w: bool = True,
    extension: str = ".nii.gz",
    echo_entity: bool = True,
    metadata: Mapping[str, Any] | None = None,
) -> Path:
    """Write a data set and return its root (``root/raw``), to which further calls add.

    Parameters
    ----------
    root : Path
        An existing folder.
    subjects, sessions : sequence of str
        Labels; no sessions by default.
    te_s : sequence of float
        Echo times in seconds, one image each.
    suffix : str
        MEGRE, T2starw, PDw or T1w.
    parts : sequence of str
        Among mag, phase, real, imag; an empty string writes a file without ``part``.
    entities : str
        Put into every name, such as ``acq-x_run-1``.
    b0_t, units : any
        Values of the sidecars; None leaves the key out.
    t1w : bool
        Whether an anatomical T1w image is written.
    echo_entity : bool
        Whether the names carry ``echo-``.
    metadata : mapping, optional
        Further keys of every sidecar; None leaves a key out.
    """
    raw = Path(root) / "raw"
    raw.mkdir(exist_ok=True)
    write(raw / "dataset_description.json", {"Name": "tiny", "BIDSVersion": "1.10.0", "DatasetType": "raw"})
    (raw / "README").write_text("Made by qsmprep's tests from random numbers.\n" * 5)
    for subject in subjects:
        for session in sessions or (None,):
            anat = anat_dir(raw, subject, session)
            prefix = "_".join(filter(None, [f"sub-{subject}", f"ses-{session}" if session else "", entities]))
            for index, te in enumerate(te_s, start=1):
                for part in parts:
                    labels = [prefix, f"echo-{index}" if echo_entity else "", f"part-{part}" if part else "", suffix]
                    image = anat / ("_".join(filter(None, labels)) + extension)
                    write_image(image, echo_part(shape, te, part), affine)
                    keys = {"EchoTime": te, "MagneticFieldStrength": b0_t, "FlipAngle": 15, "RepetitionTime": 0.03}
                    keys["Units"] = units if part == "phase" else None
                    write(json_of(image), {**keys, **(metadata or {})})
            if t1w:
                image = anat / ("_".join(filter(None, [f"sub-{subject}", f"ses-{session}" if session else "", "T1w"])))
                write_image(image.with_name(image.name + ".nii.gz"), echo_part((16, 16, 16), 0.003, "mag"), np.eye(4))
                write(image.with_name(image.name + ".json"), {"MagneticFieldStrength": b0_t})
    return raw


def echo_part(shape: tuple[int, ...], te_s: float, part: str) -> np.ndarray:
    """One part of a complex signal with a linear field, decay and noise (float32)."""
    rng = np.random.default_rng(int(te_s * 1e6) % 2**31)
    ramp = np.linspace(-60, 60, shape[0])[(...,) + (None,) * (len(shape) - 1)]
    noise = rng.normal(size=(2, *shape))
    signal = 100 * np.exp(-20 * te_s) * np.exp(2j * np.pi * ramp * te_s) + noise[0] + 1j * noise[1]
    value = {"phase": np.angle, "real": np.real, "imag": np.imag}.get(part, np.abs)(signal)
    return value.astype(np.float32)


def write_image(path: Path, array: np.ndarray, affine: np.ndarray = AFFINE) -> Path:
    """Write an image with scanner codes in its header."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image(array, affine)
    image.set_qform(affine, 1)
    image.set_sform(affine, 1)
    image.header.set_xyzt_units("mm", "sec")
    nib.save(image, path)
    return path


def write(path: Path, content: Mapping[str, Any]) -> Path:
    """Write JSON, leaving out keys that are None."""
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))
    return path


def edit(path: Path, **keys: Any) -> Path:
    """Change keys of a JSON file; None removes one."""
    return write(path, {**json.loads(path.read_text()), **keys})


def json_of(image: Path) -> Path:
    """The sidecar beside an image."""
    return image.with_name(image.name.split(".nii")[0] + ".json")


def anat_dir(raw: Path, subject: str = "01", session: str | None = None) -> Path:
    """The anat folder, made where absent."""
    folder = raw / f"sub-{subject}" / (f"ses-{session}" if session else "") / "anat"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def images(raw: Path, pattern: str = "*") -> list[Path]:
    """Images of the data set whose name matches a pattern, sorted."""
    return sorted(raw.glob(f"sub-*/**/{pattern}.nii*"))
