"""Write simulated subjects as a BIDS data set, with the truth as a derivative of it."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from qsmprep.core.units import hz_per_ppm
from qsmprep.errors import CannotWriteError, DataError, UsageError
from qsmprep.phantom import text
from qsmprep.phantom.anatomy import LABELS
from qsmprep.phantom.nifti import write_bytes, write_nifti
from qsmprep.phantom.scan import Protocol, Scan, scan, t1_weighted
from qsmprep.phantom.subject import Person, draw_subject
from qsmprep.phantom.vendor import VENDORS, encode_magnitude, encode_map, encode_phase

NOISE_LEVELS = 1.5
"""Standard deviation of the noise in stored magnitude integers."""

CHI_STEP_PPM, FIELD_STEP_HZ, R2STAR_STEP_HZ = 5e-4, 0.02, 0.1
"""Resolution of the truth as stored."""


@dataclass(frozen=True)
class Plan:
    """What data set to make.

    Parameters
    ----------
    protocol : Protocol
    n_subjects : int
    seed : int
        The same plan and seed give the same files, byte for byte, on the same machine.
    suffix : str
        ``MEGRE`` (several echoes) or ``T2starw`` (one echo).
    vendor : str
        How phase is stored, ``siemens`` or ``philips``.
    t1w_mm : float
        Voxel size of a T1-weighted image, or 0 for none.
    group_effect : float
        Patients have this much more iron in the deep grey nuclei (0.1: ten per cent).
    effect_in : tuple of str
        In these nuclei only; all by default.
    lesions : tuple of str
        Lesions of the patients.
    age_years : (2,) tuple of float
        Range of ages.
    name : str
        Name of the data set.
    """

    protocol: Protocol
    n_subjects: int = 2
    seed: int = 0
    suffix: str = "MEGRE"
    vendor: str = "siemens"
    t1w_mm: float = 1.0
    group_effect: float = 0.0
    lesions: tuple[str, ...] = ()
    age_years: tuple[float, float] = (22.0, 78.0)
    name: str = "Simulated gradient-echo heads"
    effect_in: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.suffix not in ("MEGRE", "T2starw"):
            raise UsageError(f"the suffix is {self.suffix!r}", expected="MEGRE or T2starw")
        if self.suffix == "T2starw" and len(self.protocol.te_s) != 1:
            raise UsageError("T2starw takes one echo time", remedy="give one echo time, or use MEGRE")
        if self.vendor not in VENDORS:
            raise UsageError(f"no vendor is called {self.vendor!r}", expected=f"one of {', '.join(VENDORS)}")
        if not (0 <= self.age_years[0] <= self.age_years[1]) or not self.group_effect > -1:
            raise UsageError(
                f"ages {self.age_years} and a group effect of {self.group_effect}",
                expected="a range of ages from 0 on, and an effect above -1",
            )
        if self.t1w_mm != 0 and not 0.2 <= self.t1w_mm <= 10:
            raise UsageError(f"a T1-weighted voxel of {self.t1w_mm} mm", expected="0 (none), or 0.2 to 10 mm")
        if self.n_subjects < 1:
            raise UsageError(f"{self.n_subjects} subjects are asked for", expected="at least one")
        try:
            Person(gain_in=self.effect_in)
        except DataError as error:
            raise UsageError(error.what, expected=error.expected) from None

    def people(self) -> list[Person]:
        """The participants; controls and patients alternate, and both have as many men as women."""
        rng = np.random.default_rng([self.seed, 0])
        people = []
        for i in range(self.n_subjects):
            patient = i % 2 == 1
            age = float(np.round(rng.uniform(*self.age_years)))
            sex = "MFFM"[i % 4]
            gain = 1.0 + self.group_effect * patient
            lesions = self.lesions if patient else ()
            people.append(Person(age, sex, ("control", "patient")[patient], gain, lesions, self.effect_in))
        return people

    def label(self, i: int) -> str:
        """Participant label of subject ``i``."""
        return f"sub-{i + 1:0{max(2, len(str(self.n_subjects)))}d}"


def write_dataset(plan: Plan, out_dir: Path, *, n_procs: int = 1, device: str = "cpu") -> None:
    """Make the data set in a folder beside ``out_dir`` and rename it into place.

    Parameters
    ----------
    plan : Plan
    out_dir : Path
        Must not exist, or be empty.
    n_procs : int
        Subjects at a time.
    device : str
        Torch device.

    Raises
    ------
    CannotWriteError
        When ``out_dir`` holds something or cannot be written.
    """
    out_dir = Path(out_dir).absolute()
    if out_dir.exists() and (not out_dir.is_dir() or any(out_dir.iterdir())):
        raise CannotWriteError("the output folder is not empty", file=out_dir, remedy="name another, or remove it")
    try:
        out_dir.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{out_dir.name}.", dir=out_dir.parent))
    except OSError as error:
        raise CannotWriteError(f"the folder cannot be made ({error.strerror})", file=out_dir) from error
    try:
        _write_root(plan, partial)
        jobs = [(plan, i, partial, device) for i in range(plan.n_subjects)]
        if n_procs > 1:
            with ProcessPoolExecutor(n_procs, mp_context=get_context("spawn")) as pool:
                list(pool.map(_write_subject, jobs))
        else:
            for job in jobs:
                _write_subject(job)
        partial.chmod(0o755)
        partial.replace(out_dir)
    except OSError as error:
        raise CannotWriteError(f"writing failed ({error.strerror})", file=out_dir) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _write_root(plan: Plan, root: Path) -> None:
    """Everything that belongs to no single subject."""
    _write_json(root / "dataset_description.json", text.raw_description(plan.name))
    write_bytes(root / "README.md", text.readme(plan).encode())
    rows = [("participant_id", "age", "sex", "group")]
    rows += [(plan.label(i), f"{p.age_years:.0f}", p.sex, p.group) for i, p in enumerate(plan.people())]
    _write_tsv(root / "participants.tsv", rows)
    _write_json(root / "participants.json", text.PARTICIPANT_COLUMNS)
    _write_json(root / f"{plan.suffix}.json", text.sequence(plan))
    truth = root / "derivatives" / "truth"
    _write_json(truth / "dataset_description.json", text.truth_description(plan.name))
    write_bytes(truth / "README.md", text.TRUTH_README.encode())
    table = [("index", "name", "hemisphere")]
    table += [(str(row.index), row.name, row.hemisphere) for row in LABELS if row.index < 90]
    _write_tsv(truth / "dseg.tsv", table)
    _write_json(truth / "dseg.json", text.LABEL_COLUMNS)


def _write_subject(job: tuple[Plan, int, Path, str]) -> None:
    """Simulate and write one subject."""
    plan, i, root, device = job
    person, name = plan.people()[i], plan.label(i)
    subject = draw_subject(person, (plan.seed, i + 1))
    result = scan(subject, plan.protocol, device=device)
    _write_echoes(plan, root / name / "anat" / name, result)
    if plan.t1w_mm > 0:
        image, affine = t1_weighted(subject, plan.protocol, voxel_mm=plan.t1w_mm)
        path = root / name / "anat" / f"{name}_T1w"
        unit = float(np.percentile(image, 99)) / 250.0
        write_nifti(path.with_name(path.name + ".nii.gz"), encode_magnitude(image, unit), affine)
        _write_json(path.with_name(path.name + ".json"), text.t1w(plan))
    _write_truth(plan, root / "derivatives" / "truth" / name, name, result)


def _write_echoes(plan: Plan, stem: Path, result: Scan) -> None:
    """Magnitude and phase of every echo."""
    images = result.acquired.images
    unit = result.acquired.noise_sd / NOISE_LEVELS or float(np.abs(images).max()) / 3000.0
    for n, (te_s, image) in enumerate(zip(plan.protocol.te_s, images, strict=True), start=1):
        echo = f"_echo-{n}" if plan.suffix == "MEGRE" else ""
        phase = encode_phase(np.angle(image), plan.vendor)
        for part, stored in (("mag", encode_magnitude(np.abs(image), unit)), ("phase", phase)):
            path = stem.with_name(f"{stem.name}{echo}_part-{part}_{plan.suffix}.nii.gz")
            write_nifti(path, stored, result.affine)
            _write_json(_sidecar(path), {"EchoTime": te_s, "Units": stored.units})


def _write_truth(plan: Plan, folder: Path, name: str, result: Scan) -> None:
    """What the images were made from, on their grid."""
    protocol = plan.protocol
    to_hz = hz_per_ppm(protocol.b0_t)
    magnitude = np.abs(result.acquired.images[0]) * result.brain
    unit = result.acquired.noise_sd / NOISE_LEVELS or float(magnitude.max()) / 3000.0
    maps = {
        f"anat/{name}_desc-truth_Chimap": encode_map(result.chi_ppm, CHI_STEP_PPM, "ppm"),
        f"anat/{name}_desc-truth_R2starmap": encode_map(result.r2star_hz, R2STAR_STEP_HZ, "1/s"),
        f"fmap/{name}_desc-local_fieldmap": encode_map(result.local_ppm * to_hz, FIELD_STEP_HZ, "Hz"),
        f"fmap/{name}_desc-total_fieldmap": encode_map(result.total_ppm * to_hz, FIELD_STEP_HZ, "Hz"),
        f"fmap/{name}_magnitude": encode_magnitude(magnitude, unit),
    }
    for stem, stored in maps.items():
        path = folder / f"{stem}.nii.gz"
        write_nifti(path, stored, result.affine)
        _write_json(_sidecar(path), text.truth_map(stem.split("_", 1)[1], stored.units, protocol))
    mask, segmentation = folder / f"anat/{name}_desc-brain_mask.nii.gz", folder / f"anat/{name}_dseg.nii.gz"
    write_nifti(mask, result.brain.astype(np.uint8), result.affine)
    _write_json(_sidecar(mask), {"Type": "Brain", "Description": text.MAPS["desc-brain_mask"]})
    write_nifti(segmentation, result.labels.astype(np.uint8), result.affine)
    _write_json(_sidecar(segmentation), {"Description": text.MAPS["dseg"]})


def _sidecar(path: Path) -> Path:
    return path.with_name(path.name.removesuffix(".nii.gz") + ".json")


def _write_json(path: Path, content: dict[str, Any]) -> None:
    write_bytes(path, (json.dumps(content, indent=2) + "\n").encode())


def _write_tsv(path: Path, rows: Sequence[Sequence[str]]) -> None:
    write_bytes(path, "".join("\t".join(row) + "\n" for row in rows).encode())
