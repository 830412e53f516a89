"""Scans with a fault that was put in on purpose, made of the example in ``bids_examples/cohort``."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
from scipy.ndimage import affine_transform, shift

EXAMPLE = Path(__file__).parents[2] / "bids_examples" / "cohort"
TRUTH = EXAMPLE / "derivatives" / "truth"
N_ECHOES = 4
LABELS = (
    "index\tname\tabbreviation\n11\tLeft-Caudate\tLC\n12\tRight-Caudate\tRC\n13\tLeft-Putamen\tLP\n"
    "14\tRight-Putamen\tRP\n15\tLeft-Pallidum\tLG\n16\tRight-Pallidum\tRG\n17\tLeft-Thalamus\tLT\n"
    "18\tRight-Thalamus\tRT\n"
)


class Scan:
    """A copy of an example subject under another name, with its mask and labels as derivatives."""

    def __init__(self, root: Path, name: str, source: str = "01") -> None:
        self.raw, self.derivatives, self.name = root / "raw", root / "given", name
        self.anat, self.given = (folder / f"sub-{name}" / "anat" for folder in (self.raw, self.derivatives))
        self.anat.mkdir(parents=True)
        self.given.mkdir(parents=True)
        for path in (EXAMPLE / f"sub-{source}" / "anat").iterdir():
            if "_T1w" not in path.name:
                shutil.copy(path, self.anat / path.name.replace(f"sub-{source}", f"sub-{name}"))
        truth = TRUTH / f"sub-{source}" / "anat"
        labels = nib.load(truth / f"sub-{source}_dseg.nii.gz")
        kept = np.asarray(labels.dataobj)
        self.save_labels(np.where((kept >= 11) & (kept <= 18), kept, 0), labels.affine)
        self.mask_file = truth / f"sub-{source}_desc-brain_mask.nii.gz"
        self.t1w_file = EXAMPLE / f"sub-{source}" / "anat" / f"sub-{source}_T1w.nii.gz"

    def save_labels(self, labels: np.ndarray, affine: np.ndarray) -> None:
        """Give the subject this segmentation."""
        self.labels, self.affine = labels, affine
        image = nib.Nifti1Image(labels.astype(np.uint8), affine)
        image.to_filename(self.given / f"sub-{self.name}_seg-true_dseg.nii.gz")

    def image(self, part: str, echo: int) -> Path:
        """File of an echo."""
        return self.anat / f"sub-{self.name}_echo-{echo}_part-{part}_MEGRE.nii.gz"

    def edit(self, change: Callable[[np.ndarray, int], np.ndarray]) -> None:
        """Replace every echo, as complex numbers, by ``change(echo, number)``."""
        for echo in range(1, N_ECHOES + 1):
            magnitude, phase = (nib.load(self.image(part, echo)) for part in ("mag", "phase"))
            stored = phase.get_fdata()
            radians = stored * (2 * np.pi / (8192 if stored.min() < 0 else 4096))
            changed = change(magnitude.get_fdata() * np.exp(1j * radians), echo)
            for part, data in (("mag", np.abs(changed)), ("phase", np.angle(changed))):
                image = nib.Nifti1Image(data.astype(np.float32), magnitude.affine)
                image.header.set_xyzt_units("mm", "sec")
                image.to_filename(self.image(part, echo))
            sidecar = self.image("phase", echo).with_name(self.image("phase", echo).name.replace(".nii.gz", ".json"))
            sidecar.write_text(json.dumps({**json.loads(sidecar.read_text()), "Units": "rad"}))


def clean(scan: Scan) -> None:
    """Nothing is wrong."""


def shifted_mask(scan: Scan) -> None:
    """A mask 18 mm too far to the front."""
    image = nib.load(scan.mask_file)
    moved = shift(np.asarray(image.dataobj).astype(np.uint8), (0, 18 / 2.3, 0), order=0)
    nib.Nifti1Image(moved, image.affine).to_filename(scan.given / f"sub-{scan.name}_desc-brain_mask.nii.gz")


def half_mask(scan: Scan) -> None:
    """A mask that ends in the middle of a hemisphere."""
    image = nib.load(scan.mask_file)
    mask = np.asarray(image.dataobj).astype(np.uint8)
    mask[: mask.shape[0] // 2 - 9] = 0
    nib.Nifti1Image(mask, image.affine).to_filename(scan.given / f"sub-{scan.name}_desc-brain_mask.nii.gz")


def open_fringes(scan: Scan) -> None:
    """Lines about which the phase turns once, as coils that were combined badly leave them: no unwrapping is right."""

    def change(signal: np.ndarray, echo: int) -> np.ndarray:
        x, y = (np.arange(n) for n in signal.shape[:2])
        turns = sum(
            sign * np.arctan2(y[None, :] - v, x[:, None] - u)
            for sign, u, v in ((1, 22.4, 40.4), (-1, 52.4, 40.4), (1, 37.4, 62.4), (-1, 37.4, 22.4))
        )
        return signal * np.exp(1j * echo * turns)[:, :, None]

    scan.edit(change)


def wrong_b0(scan: Scan) -> None:
    """The header says that the slices are tilted by 30 degrees; they are not."""
    turn = np.deg2rad(30.0)
    rotation = np.eye(4)
    rotation[1:3, 1:3] = [[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]
    for path in [*scan.anat.glob("*.nii.gz"), *scan.given.glob("*.nii.gz")]:
        image = nib.load(path)
        _with_affine(image, rotation @ image.affine).to_filename(path)


def motion(scan: Scan) -> None:
    """Half of k-space was measured after the head had turned by 4 degrees and moved by 3 mm."""
    turn = np.deg2rad(4.0)
    matrix = np.array([[np.cos(turn), -np.sin(turn), 0], [np.sin(turn), np.cos(turn), 0], [0, 0, 1]])

    def change(signal: np.ndarray, echo: int) -> np.ndarray:
        centre = (np.array(signal.shape) - 1) / 2
        offset = centre - matrix @ centre + np.array([0, 3 / 2.3, 0])
        moved = affine_transform(signal.real, matrix, offset, order=1) + 1j * affine_transform(
            signal.imag, matrix, offset, order=1
        )
        before, after = (np.fft.fftshift(np.fft.fftn(part)) for part in (signal, moved))
        late = np.arange(signal.shape[1]) > 0.54 * signal.shape[1]
        return np.fft.ifftn(np.fft.ifftshift(np.where(late[None, :, None], after, before)))

    scan.edit(change)


def swapped_echo(scan: Scan) -> None:
    """The phase of the second echo is called the third, and the other way round."""
    second, third = scan.image("phase", 2), scan.image("phase", 3)
    kept = second.with_name("kept")
    second.rename(kept)
    third.rename(second)
    kept.rename(third)


def shifted_t1w(scan: Scan) -> None:
    """T1w image and labels on its grid lie 40 mm from where the gradient echo has the head."""
    step = np.eye(4)
    step[:3, 3] = (10.0, -25.0, 30.0)
    image = nib.load(scan.t1w_file)
    target = scan.anat / f"sub-{scan.name}_T1w.nii.gz"
    _with_affine(image, step @ image.affine).to_filename(target)
    shutil.copy(
        scan.t1w_file.with_name(scan.t1w_file.name[:-7] + ".json"), target.with_name(target.name[:-7] + ".json")
    )
    scan.save_labels(scan.labels[:, :, 1:], _cut(step @ scan.affine))


def failed_segmentation(scan: Scan) -> None:
    """Labels 16 mm above the nuclei, and the left putamen lost."""
    moved = shift(scan.labels, (0, 0, 16 / 2.3), order=0)
    scan.save_labels(np.where(moved == 13, 0, moved), scan.affine)


def _with_affine(image: nib.Nifti1Image, affine: np.ndarray) -> nib.Nifti1Image:
    """The same voxels elsewhere in the scanner, their scaling kept."""
    result = nib.Nifti1Image(np.asarray(image.dataobj.get_unscaled()), affine, image.header)
    result.set_qform(affine, 1)
    result.set_sform(affine, 1)
    result.header.set_slope_inter(image.dataobj.slope, image.dataobj.inter)
    return result


def _cut(affine: np.ndarray) -> np.ndarray:
    """Affine without the first slice."""
    result = affine.copy()
    result[:3, 3] += affine[:3, 2]
    return result


FAULTS: dict[str, tuple[Callable[[Scan], None], tuple[str, ...]]] = {
    "clean1": (clean, ()),
    "clean2": (clean, ()),
    "shiftedmask": (shifted_mask, ("Share of the mask's border within tissue",)),
    "halfmask": (half_mask, ("Share of the mask's border within tissue",)),
    "fringes": (open_fringes, ("Residual wraps for each voxel",)),
    "wrongb0": (wrong_b0, ("B0 of the field against B0 of the header",)),
    "motion": (motion, ("Ghosts in the air beside the head",)),
    "swappedecho": (swapped_echo, ("the phase images of echoes 2 and 3",)),
    "shiftedt1w": (shifted_t1w, ("Shift of the T1w image",)),
    "failedseg": (
        failed_segmentation,
        ("Caudate, putamen and pallidum above their surroundings", "Regions without a voxel"),
    ),
}
"""What is done, and which metrics must say so."""


def write_faulty_cohort(root: Path) -> tuple[Path, Path]:
    """The raw data set and the derivatives, one subject a fault."""
    for name, (put_in, _) in FAULTS.items():
        put_in(Scan(root, name, "02" if name == "clean2" else "01"))
    for folder, kind in (("raw", "raw"), ("given", "derivative")):
        description = {"Name": "faults", "BIDSVersion": "1.10.0", "DatasetType": kind}
        (root / folder / "dataset_description.json").write_text(json.dumps(description))
    shutil.copy(EXAMPLE / "MEGRE.json", root / "raw" / "MEGRE.json")
    (root / "raw" / "README").write_text("Example scans with faults, made by the tests of qsmprep.\n" * 3)
    (root / "given" / "seg-true_dseg.tsv").write_text(LABELS)
    return root / "raw", root / "given"
