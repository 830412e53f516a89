"""Brain masks and segmentations by the trained UNETRs on heads that they were never trained on, as Markdown tables.

    python benchmarks/segmentation.py                    all of it
    python benchmarks/segmentation.py --images 2         fewer images a group
    python benchmarks/segmentation.py --update-docs      and put the tables into the page

Masks: images of the label maps that the recipes hold out, on cubes of 1 mm, drawn by the generator of the
training with other seeds; and, made in other ways, the magnitudes of ``bids_examples`` (another simulator) and
real T1w heads (against their closed aseg). Beside the network: BET, which sees the same images,
and the default, which takes BET's mask where both agree.

Nuclei: whole heads of the held-out label maps on the voxels of a scan, their field with noise and mismatch, a
map by RTS, and the labels that the network finds on it.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from accuracy import commit, put_into_page
from numpy.typing import NDArray
from scipy import ndimage

from qsmprep.core.grid import Grid
from qsmprep.core.masking.bet import bet
from qsmprep.core.methods import METHODS
from qsmprep.errors import QSMPrepError
from qsmprep.interfaces import base
from qsmprep.interfaces.masks import combined
from qsmprep.networks.agreed import agreed_mask
from qsmprep.networks.geometry import Geometry
from qsmprep.networks.pedqnet import NUCLEI, SIDES
from qsmprep.networks.segmentation import normalised, unetr_mask, unetr_nuclei
from qsmprep.training.anatomy import Anatomy
from qsmprep.training.draw import Dice, erode, gaussian
from qsmprep.training.heads import HeadMap, PoseParams, class_of_tissue, closed, load_head, pose
from qsmprep.training.magnitudes import ImageParams, draw_head, scanned
from qsmprep.training.nuclei import labels_of
from qsmprep.training.sample import FieldParams, draw_field
from qsmprep.training.susceptibility import ChiParams, draw_magnitude, paint

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared" / "data"
HELD_OUT = (12, 13, 14, 15)
SEED = 70_000
EDGE = 192
FIELD_OF_VIEW_MM = (176.0, 208.0, 160.0)

Mask = NDArray[np.bool_]
Image = tuple[NDArray[np.float32], Grid, Mask]

WHOLE = ImageParams(cut_chance=0.0)
GROUPS: dict[str, ImageParams] = {
    "gradient echo": replace(WHOLE, any_contrast=0.0),
    "any contrast": replace(WHOLE, any_contrast=1.0),
    "cut by the field of view": replace(WHOLE, cut_chance=1.0, any_contrast=0.0),
    "newborn's size": replace(WHOLE, pose=PoseParams(scale=(0.68, 0.75))),
}


@dataclass(frozen=True)
class Scan:
    """A way to scan a head: voxels, tilt of B0 in degrees, factor on the iron of the nuclei."""

    name: str
    voxel_mm: tuple[float, float, float]
    tilt_deg: float = 0.0
    iron: float = 1.0


SCANS = (
    Scan("1 mm", (1.0, 1.0, 1.0)),
    Scan("0.78 × 0.78 × 2 mm, tilted by 20°", (0.78, 0.78, 2.0), 20.0),
    Scan("1 × 1 × 3 mm", (1.0, 1.0, 3.0)),
    Scan("1 mm, infant (iron × 0.3)", (1.0, 1.0, 1.0), 0.0, 0.3),
)


def dice(a: Mask, b: Mask) -> float:
    """Overlap of two masks."""
    return float(2 * (a & b).sum() / max(1, a.sum() + b.sum()))


def distance_95_mm(a: Mask, b: Mask, voxel_mm: tuple[float, ...]) -> float:
    """95th percentile of the distances between the surfaces of two masks, both ways."""
    if not a.any() or not b.any():
        return float("inf")
    rims = [mask & ~ndimage.binary_erosion(mask) for mask in (a, b)]
    far = [ndimage.distance_transform_edt(~rim, voxel_mm) for rim in rims]
    return float(np.percentile(np.concatenate([far[0][rims[1]], far[1][rims[0]]]), 95))


def simulated(heads: list[HeadMap], params: ImageParams, count: int, group: int) -> Iterator[Image]:
    """Images of a group."""
    for number in range(count):
        chance = Dice.of(SEED + 100 * group + number)
        head = heads[number % len(heads)]
        image, share = draw_head(chance, head, EDGE, 1.0, params, finer=1)
        image, share = scanned(chance, image, share, 1.0, params)
        yield normalised(image).numpy(), Grid((EDGE,) * 3, (1.0, 1.0, 1.0)), share.numpy() > 0.5


def examples() -> Iterator[Image]:
    """Magnitudes of bids_examples."""
    for root in (ROOT / "bids_examples" / "cohort", ROOT / "bids_examples" / "oblique"):
        for truth in sorted(root.glob("derivatives/truth/sub-*/anat/*desc-brain_mask.nii.gz")):
            subject = truth.name.split("_")[0]
            files = sorted((root / subject / "anat").glob("*part-mag_*.nii.gz"))
            if not files:
                continue
            echoes = np.stack([nib.load(file).get_fdata(dtype=np.float32) for file in files])
            stored = nib.load(files[0])
            yield as_ras(combined(echoes), nib.load(truth).get_fdata() > 0, stored)


def real_heads() -> Iterator[Image]:
    """T1w heads with an aseg."""
    for file in sorted((SHARED / "freesurfer-t1").glob("*_T1.mgz")):
        image = nib.load(file)
        aseg = np.asarray(nib.load(str(file).replace("_T1", "_aseg")).dataobj) > 0
        zooms = tuple(float(mm) for mm in image.header.get_zooms()[:3])
        yield as_ras(np.asarray(image.dataobj, np.float32), closed(aseg, zooms), image)  # type: ignore[arg-type]


def as_ras(data: NDArray[np.float32], truth: Mask, stored: nib.spatialimages.SpatialImage) -> Image:
    """In the order of axes closest to RAS."""
    (turned, mask), grid, _ = base.as_ras([data, truth], stored)
    return np.ascontiguousarray(turned), grid, mask


METHOD: dict[str, Callable[[NDArray[np.float32], Grid], Mask]] = {
    "auto": lambda image, grid: agreed_mask(image, grid).mask,
    "UNETR": lambda image, grid: unetr_mask(image, grid),
    "BET": lambda image, grid: bet(image, grid),
}


def mask_table(groups: dict[str, Iterator[Image]]) -> list[str]:
    """Dice and surface distance of every method in every group."""
    columns = [f"{name} {what}" for what in ("Dice", "95 % distance, mm", "s") for name in METHOD]
    lines = [f"| images | n | {' | '.join(columns)} |", "|---|" + "--:|" * (1 + len(columns))]
    for name, images in groups.items():
        scores: dict[str, list[tuple[float, float, float]]] = {method: [] for method in METHOD}
        for image, grid, truth in images:
            for method, function in METHOD.items():
                begun = time.perf_counter()
                try:
                    found = function(image, grid)
                except QSMPrepError:
                    found = np.zeros(truth.shape, dtype=bool)
                took = time.perf_counter() - begun
                scores[method].append((dice(found, truth), distance_95_mm(found, truth, grid.voxel_mm), took))
        if scores["UNETR"]:
            lines.append(mask_row(name, scores))
            print(lines[-1], flush=True)
    return lines


def mask_row(name: str, scores: dict[str, list[tuple[float, float, float]]]) -> str:
    """A row: mean and (smallest or largest) over the images."""
    overlap, far, took = [], [], []
    for values in scores.values():
        table = np.array(values)
        overlap.append(f"{table[:, 0].mean():.3f} ({table[:, 0].min():.3f})")
        far.append(f"{np.median(table[:, 1]):.1f} ({table[:, 1].max():.1f})")
        took.append(f"{table[:, 2].mean():.0f}")
    return f"| {name} | {len(next(iter(scores.values())))} | " + " | ".join([*overlap, *far, *took]) + " |"


def scan_of(head: HeadMap, scan: Scan, seed: int) -> tuple[NDArray[np.float32], ...]:
    """Local field, true map, mask, magnitude and labels of a head under a scan."""
    chance = Dice.of(seed)
    shape = tuple(round(mm / edge) for mm, edge in zip(FIELD_OF_VIEW_MM, scan.voxel_mm, strict=True))
    angle = np.deg2rad(scan.tilt_deg)
    grid = Grid(shape, scan.voxel_mm, (0.0, float(np.sin(angle)), float(np.cos(angle))))  # type: ignore[arg-type]
    still = PoseParams(scale=(0.9, 1.05), turn_deg=10.0, bend_mm=(0.5, 2.0), shift_mm=6.0)
    tissues, brain = pose(chance, head, head.centre_mm, grid.shape, grid.voxel_mm, still)
    anatomy = Anatomy(torch.tensor(class_of_tissue())[tissues.int()], brain)
    params = ChiParams(sign_chance=0.0, spread_ppm=0.006, texture_ppm=0.012, lesion_chance=0.0,
                       iron=(scan.iron, scan.iron + 1e-6))  # fmt: skip
    chi = gaussian(paint(chance, anatomy, grid.voxel_mm, params), (0.4, 0.4, 0.4))
    mask = erode(brain, 1)
    image = draw_magnitude(chance, anatomy, chi, grid.voxel_mm)
    noise = FieldParams(noise_ppm=(0.002, 0.0021), mismatch=(0.3, 0.31), mismatch_chance=1.0)
    field, _ = draw_field(chance, chi, anatomy, mask, image, Geometry(grid, 1.25), noise)
    inside = mask.float()
    volumes = (field * inside, chi * inside, mask, image * inside, labels_of(tissues) * mask)
    return (*(volume.numpy() for volume in volumes), grid)  # type: ignore[return-value]


def nuclei_table(heads: list[HeadMap], method: str) -> list[str]:
    """Dice of each nucleus and the error of the mean susceptibility of two of them, by scan."""
    lines = [f"| scan | {' | '.join(NUCLEI)} | mean Dice | pallidum χ, % | putamen χ, % | s |", "|---|" + "--:|" * 8]
    for number, scan in enumerate(SCANS):
        overlaps: dict[str, list[float]] = {name: [] for name in NUCLEI}
        errors: dict[str, list[float]] = {name: [] for name in NUCLEI}
        took = []
        for place, head in enumerate(heads):
            field, _, mask, magnitude, labels, grid = scan_of(head, scan, SEED + 5000 + 10 * number + place)
            inversion = METHODS.get("inversion", method)
            found = inversion.load()(field, mask, grid, inversion.configure(), magnitude=magnitude).chi_ppm
            begun = time.perf_counter()
            result = unetr_nuclei(found, mask, grid).labels
            took.append(time.perf_counter() - begun)
            for index, name in enumerate(NUCLEI):
                both = np.zeros((2, *mask.shape), dtype=bool)
                for side in (0, 1):
                    true, mine = labels == 1 + 2 * index + side, result == SIDES[name][side]
                    overlaps[name].append(dice(true, mine))
                    both |= np.stack([true, mine])
                if both.any(axis=(1, 2, 3)).all():
                    means = [float(found[part].mean() - found[mask].mean()) for part in both]
                    errors[name].append(100 * abs(means[1] / means[0] - 1))
        parts = [f"{np.mean(values):.3f}" for values in overlaps.values()]
        every = np.concatenate(list(overlaps.values()))
        shown = [f"{np.median(errors[name]):.1f}" if errors[name] else "n/a" for name in ("pallidum", "putamen")]
        lines.append(
            f"| {scan.name} | {' | '.join(parts)} | {every.mean():.3f} | {' | '.join(shown)} | {np.mean(took):.0f} |"
        )
        print(lines[-1], flush=True)
    return lines


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=6, help="of each simulated group")
    parser.add_argument("--method", default="rts", help="inversion whose maps are segmented (default: rts)")
    parser.add_argument("--only", choices=("masks", "nuclei"))
    parser.add_argument("--update-docs", action="store_true")
    args = parser.parse_args()
    files = [SHARED / "head-labels" / f"training_seg_{number}.nii.gz" for number in HELD_OUT]
    heads = [load_head(file) for file in files if file.exists()]
    text: list[str] = []
    if args.only != "nuclei":
        groups = {
            name: simulated(heads, p, args.images if heads else 0, g) for g, (name, p) in enumerate(GROUPS.items())
        }
        text += mask_table({**groups, "bids_examples": examples(), "real T1w": real_heads()})
    if args.only != "masks" and heads:
        text += ["", *nuclei_table(heads, args.method)]
    text = [f"Measured at commit {commit()} with {args.images} images a group.", "", *text]
    print("\n".join(text))
    if args.update_docs:
        put_into_page("\n".join(text), "segmentation")


if __name__ == "__main__":
    main()
