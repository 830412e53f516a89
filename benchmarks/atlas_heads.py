"""The atlas segmentation on simulated heads whose nuclei are known: with and without the network, with and without χ.

::

    python benchmarks/atlas_heads.py                    label maps 12 to 15, which nothing was trained on or built of
    python benchmarks/atlas_heads.py --heads 12 15 --update-docs    some of them, five minutes each

A head is a label map, turned, stretched and bent on cubes of half a millimetre and averaged over voxels of 1 mm: a
T1-weighted image with the shading of a coil and noise, and a susceptibility map with texture and with the coloured
error of an inversion. Nothing of the training's own generator is used. Every nucleus has values of its own (spread 3 %
in the image and 15 % in susceptibility), left and right apart. Real T1w heads: ``atlas_dice.py``.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
from accuracy import commit, put_into_page
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial.transform import Rotation

from qsmprep.core.atlas import refine_labels
from qsmprep.core.methods import METHODS
from qsmprep.core.registration import Volume, normalise, overlap
from qsmprep.interfaces.masks import extract_brain
from qsmprep.interfaces.refinement import SIGHTED, load_probabilities
from qsmprep.interfaces.registration import template_brain
from qsmprep.networks.pedqnet import SIDES
from qsmprep.workflows.segment import embedded_atlas, probability_files

LABELS = Path(__file__).resolve().parents[2] / "shared" / "data" / "head-labels"
SEED = 5000
FINE_MM = 0.5
OUTER = 500
NUCLEI = {name: SIDES[name] for name in ("thalamus", "caudate", "putamen", "pallidum")}

OTHER_SIDE = {2: 41, 3: 42, 4: 43, 5: 44, 7: 46, 8: 47, 10: 49, 11: 50, 12: 51, 13: 52, 17: 53, 18: 54, 26: 58, 28: 60}
OTHER_SIDE |= {30: 62, 31: 63}
T1W = {2: 110, 3: 70, 4: 20, 5: 20, 7: 106, 8: 72, 10: 91, 11: 75, 12: 83, 13: 100, 14: 20, 15: 20, 16: 97, 17: 72}
T1W |= {18: 70, 24: 18, 26: 74, 28: 93, 30: 40, 31: 40, 85: 95} | dict.fromkeys(range(251, 256), 112)
CHI_PPM = {2: -0.03, 3: 0.01, 7: -0.02, 8: 0.01, 10: 0.01, 11: 0.045, 12: 0.055, 13: 0.13, 16: -0.01, 17: 0.005}
CHI_PPM |= {18: 0.005, 26: 0.05, 85: -0.03}
T1W |= {right: T1W[left] for left, right in OTHER_SIDE.items()}
CHI_PPM |= {right: CHI_PPM[left] for left, right in OTHER_SIDE.items() if left in CHI_PPM}
"""Values by FreeSurfer code; what is not here is 80 and 0, outside the brain any grey value and 0."""

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Head:
    """A simulated head on voxels of 1 mm: image, map (NaN where it is not defined), true codes."""

    t1w: Array
    chi_ppm: Array
    codes: NDArray[np.int16]
    affine: NDArray[np.float64]


def smooth(rng: np.random.Generator, shape: tuple[int, ...], scale_mm: float) -> Array:
    """A smooth random field of unit spread."""
    coarse = [max(4, int(n * FINE_MM / scale_mm) + 3) for n in shape]
    field = ndimage.zoom(rng.standard_normal(coarse), [n / k for n, k in zip(shape, coarse, strict=True)], order=3)
    return (field / field.std()).astype(np.float32)


def halved(volume: NDArray) -> Array:
    """Mean over the eight cubes of a voxel."""
    x, y, z = (n // 2 for n in volume.shape)
    return volume.reshape(x, 2, y, 2, z, 2).mean(axis=(1, 3, 5), dtype=np.float32)


def posed(codes: NDArray[np.int16], rng: np.random.Generator) -> NDArray[np.int16]:
    """A label map turned, stretched and bent, on cubes of `FINE_MM`, with smooth borders."""
    found = np.argwhere(codes > 0)
    box = tuple(slice(max(0, a - 4), b + 5) for a, b in zip(found.min(axis=0), found.max(axis=0), strict=True))
    codes = codes[box]
    shape = tuple(2 * n for n in codes.shape)
    turn = Rotation.from_euler("xyz", np.deg2rad(rng.normal(0, 5, 3))).as_matrix() @ np.diag(1 + rng.normal(0, 0.05, 3))
    axes = [np.arange(n, dtype=np.float32) / 2 - np.float32(0.25) for n in shape]
    middle = np.array(codes.shape, np.float32).reshape(3, 1, 1, 1) / 2
    at = np.tensordot(turn.astype(np.float32), np.stack(np.meshgrid(*axes, indexing="ij")) - middle, axes=1) + middle
    for axis in range(3):
        at[axis] += np.float32(1.5) * smooth(rng, shape, 25.0)
    best, result = np.zeros(shape, np.float32), np.zeros(shape, np.int16)
    for code in np.unique(codes):
        share = ndimage.gaussian_filter((codes == code).astype(np.float32), 0.6)
        there = ndimage.map_coordinates(share, at, order=1, mode="constant")
        result[there > best] = code
        np.maximum(best, there, out=best)
    return result


def draw(file: Path, seed: int) -> Head:
    """Image and map of a label map."""
    rng = np.random.default_rng(seed)
    image = nib.as_closest_canonical(nib.load(file))
    fine = posed(np.rint(np.asarray(image.dataobj)).astype(np.int16).squeeze(), rng)
    t1w, chi = np.zeros(fine.shape, np.float32), np.zeros(fine.shape, np.float32)
    true = np.zeros([n // 2 for n in fine.shape], np.int16)
    most = np.zeros(true.shape, np.float32)
    for code in np.unique(fine).tolist():
        here = fine == code
        share = halved(here)
        true[share > most] = code
        np.maximum(most, share, out=most)
        if code:
            t1w[here] = rng.uniform(5, 110) if code >= OUTER else T1W.get(code, 80) * (1 + 0.03 * rng.normal())
            chi[here] = CHI_PPM.get(code, 0.0) * (1 + 0.15 * rng.normal())
    brain = (fine > 0) & (fine < OUTER)
    chi += brain * (np.float32(0.008) * smooth(rng, fine.shape, 2.0) + np.float32(0.006) * smooth(rng, fine.shape, 8.0))
    shade = np.exp(0.15 * halved(smooth(rng, fine.shape, 60.0)))
    seen = halved(t1w * (1 + np.float32(0.02) * smooth(rng, fine.shape, 1.5))) * shade
    seen = np.hypot(seen + 3.5 * rng.standard_normal(seen.shape), 3.5 * rng.standard_normal(seen.shape))
    error = ndimage.gaussian_filter(rng.standard_normal(seen.shape), (0.7, 0.7, 1.2))
    defined = ndimage.binary_erosion(halved(brain) > 0.5, iterations=2)
    found = np.where(defined, halved(chi) + 0.02 / error.std() * error, np.nan)
    affine = np.eye(4)
    affine[:3, 3] = -np.array(seen.shape) / 2
    return Head(seen.astype(np.float32), found.astype(np.float32), true, affine)


def scores(labels: NDArray[np.integer], head: Head) -> list[float]:
    """Dice of the eight nuclei, and the ratio of mean susceptibility of putamen and pallidum."""
    dice = [overlap(labels == code, head.codes == code) for pair in NUCLEI.values() for code in pair]

    def mean(marked: NDArray[np.bool_]) -> float:
        return float(np.nanmean(head.chi_ppm[marked])) if marked.any() else float("nan")

    return [
        *dice,
        *(mean(np.isin(labels, NUCLEI[n])) / mean(np.isin(head.codes, NUCLEI[n])) for n in ("putamen", "pallidum")),
    ]


def segment(head: Head, shares: tuple[float, ...]) -> dict[tuple[bool, float], list[float]]:
    """Scores by whether χ was seen and the share of the network."""
    image = Volume(head.t1w, head.affine)
    stored = nib.Nifti1Image(head.t1w, head.affine)
    mask = METHODS.get("mask", "auto")
    brain, _ = extract_brain(head.t1w, stored, mask.load(), mask.configure())
    params = METHODS.get("segmentation", "atlas").configure()
    labels = nib.load(embedded_atlas()[0])
    atlas, result = load_probabilities(*probability_files()), {}
    with tempfile.TemporaryDirectory() as folder:
        given = Volume(np.asarray(labels.dataobj), labels.affine)
        found = normalise(image, brain, template_brain(), given, params, folder=Path(folder))
        sighting, _ = METHODS.get("sighting", "t1wunetr").load()(image, brain, np.isin(found.labels, SIGHTED))
        for chi in (None, Volume(head.chi_ppm, head.affine)):
            for share in shares:
                moved = refine_labels(
                    image, brain, found.labels, atlas, found.transforms, params, chi=chi, sighting=sighting, share=share
                )
                result[chi is not None, share] = scores(moved.labels, head)
    return result


def main() -> None:
    """Draw, segment, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--heads", type=int, nargs="+", default=[12, 13, 14, 15])
    parser.add_argument("--update-docs", action="store_true")
    args = parser.parse_args()
    shares = (0.0, METHODS.get("sighting", "t1wunetr").configure().share)
    every: dict[tuple[bool, float], list[list[float]]] = {}
    for number in args.heads:
        begun = time.time()
        for key, value in segment(draw(LABELS / f"training_seg_{number:02d}.nii.gz", SEED + number), shares).items():
            every.setdefault(key, []).append(value)
            print(number, key, [round(v, 2) for v in value], f"{time.time() - begun:.0f} s", flush=True)
    lines = [
        f"| seen | network | {' | '.join(NUCLEI)} | mean Dice | least | putamen χ, % | pallidum χ, % |",
        "|---|---|" + "--:|" * 8,
    ]
    for (chi, share), values in every.items():
        table = np.array(values)
        by = [f"{table[:, 2 * k : 2 * k + 2].mean():.3f}" for k in range(len(NUCLEI))]
        off = [f"{100 * np.abs(table[:, k] - 1).mean():.1f}" for k in (8, 9)]
        seen = "T1w and χ" if chi else "T1w"
        told = [*by, f"{table[:, :8].mean():.3f}", f"{table[:, :8].min():.3f}", *off]
        lines.append(f"| {seen} | {'yes' if share else 'no'} | {' | '.join(told)} |")
    text = "\n".join([f"Measured at commit {commit()} on {len(args.heads)} heads.", "", *lines])
    print(text)
    if args.update_docs:
        put_into_page(text, "atlas")


if __name__ == "__main__":
    main()
