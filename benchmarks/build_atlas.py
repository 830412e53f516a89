"""Make the embedded subcortical atlas (``qsmprep/data/atlas``) from public label maps.

Two sources, brought to nilearn's MNI152 template with antspyx:

- whole-head label maps with FreeSurfer codes (the training label maps of SynthSeg, Apache-2.0): thalamus, caudate,
  putamen, pallidum, accumbens, hippocampus, amygdala, lateral ventricles, and the tissues around them. Each map is
  painted with the grey values of a T1-weighted image and registered: an affine map at 4 mm, then SyN with local
  correlation at 2 mm around the nuclei. The share of heads, and of their mirror images (the template is symmetric),
  is the probability of a structure; the label map has the most probable one.
- CIT168 (Pauli et al. 2018, doi:10.1038/sdata.2018.63, CC BY 4.0): red nucleus, substantia nigra, subthalamic nucleus.
  Its T1w template is registered to the whole brain by affine and SyN at ``--mm``, its labels are carried over.

::

    python benchmarks/build_atlas.py HEAD_LABELS CIT168 --heads 10 --keep-cit168 --out qsmprep/data/atlas

The lateral ventricles beyond the box of the probabilities are those of the label map that is there already.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import ants
import nibabel as nib
import numpy as np
from nilearn.datasets import load_mni152_brain_mask, load_mni152_template
from nilearn.image import resample_img

from qsmprep.core.registration import ants_seed

T1 = {2: 110, 3: 72, 4: 25, 5: 25, 7: 105, 8: 75, 10: 95, 11: 78, 12: 85, 13: 102, 14: 25, 15: 25, 16: 98}
T1 |= {17: 75, 18: 72, 24: 22, 26: 76, 28: 95, 30: 40, 31: 45, 85: 95}
MIRROR = {2: 41, 3: 42, 4: 43, 5: 44, 7: 46, 8: 47, 10: 49, 11: 50, 12: 51, 13: 52, 17: 53, 18: 54, 26: 58, 28: 60}
MIRROR |= {30: 62, 31: 63}
T1 |= {right: T1[left] for left, right in MIRROR.items()}
"""Grey values of a T1-weighted image by FreeSurfer code; what is not here is outside the brain."""

SIDED = {"fluid": (4, 43), "thalamus": (10, 49), "caudate": (11, 50), "putamen": (12, 51), "pallidum": (13, 52)}
SIDED |= {"hippocampus": (17, 53), "amygdala": (18, 54), "accumbens": (26, 58)}
AROUND = {"fluid": (5, 44, 14, 15, 24, 31, 63), "white": (2, 41, 85), "cortex": (3, 42), "stem": (16, 28, 60)}
AROUND |= {"cerebellum": (7, 8, 46, 47)}
CLASSES = [(pair[side], tissue, (pair[side],)) for side in (0, 1) for tissue, pair in SIDED.items()]
CLASSES += [(0, tissue, codes) for tissue, codes in AROUND.items()]
"""Label (0 for none), tissue, and codes of the label maps of every class."""

MIRRORED = [*range(8, 16), *range(8), *range(16, len(CLASSES))]
"""The class that each becomes in a mirror."""

BOX_MM = ((-56, 56), (-56, 40), (-44, 46))
WIDE_MM = ((-66, 66), (-72, 52), (-56, 58))
"""Where probabilities are kept, and where heads are registered, in template space."""

CIT = {"Substantia Nigra pars compacta": 1, "Red Nucleus": 2, "Substantia-Nigra-pars-reticulata": 3}
CIT |= {"Subthalamic Nucleus": 4}
CIT_CODES = {1: (131, 132), 2: (133, 134), 3: (131, 132), 4: (135, 136)}
"""Codes of CIT168's nuclei, left and right; both parts of the substantia nigra take one."""


def to_ants(data: Any, affine: Any) -> ants.ANTsImage:
    """An image of ANTs on the grid of a NIfTI affine."""
    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ np.asarray(affine, float)
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    return ants.from_numpy(
        np.asarray(data, np.float32), origin=tuple(lps[:3, 3]), spacing=tuple(spacing), direction=lps[:3, :3] / spacing
    )


def coarse(image: nib.Nifti1Image, mm: float, how: str) -> nib.Nifti1Image:
    """An image on voxels of ``mm``."""
    canonical = nib.as_closest_canonical(image)
    return resample_img(
        canonical, target_affine=np.diag([mm] * 3), interpolation=how, force_resample=True, copy_header=True
    )


def register(fixed: ants.ANTsImage, moving: ants.ANTsImage, iterations: tuple[int, ...]) -> list[str]:
    """Affine and SyN of ``moving`` to ``fixed``; the transforms that carry labels over."""
    found = ants.registration(
        fixed,
        moving,
        "SyN",
        aff_metric="mattes",
        syn_metric="mattes",
        reg_iterations=iterations,
        aff_random_sampling_rate=0.2,
    )
    return found["fwdtransforms"]


def heads(files: list[Path], brain: nib.Nifti1Image) -> tuple[np.ndarray, np.ndarray]:
    """Probability of every class in ``BOX_MM`` at 1 mm, (k, nx, ny, nz), and its affine."""
    from qsmprep.core.registration import Volume, at_spacing

    template = Volume(brain.get_fdata(), brain.affine)
    (wide, wide_affine), (shape, affine) = grid(WIDE_MM, 2.0), grid(BOX_MM, 1.0)
    four, two = at_spacing(template, 4.0), at_spacing(template, 2.0)
    around, onto = to_ants(np.zeros(wide), wide_affine), to_ants(np.zeros(shape), affine)
    fixed = ants.resample_image_to_target(to_ants(two.data, two.affine), around)
    total = np.zeros((len(CLASSES), *shape), np.float32)
    for number, file in enumerate(files, start=1):
        started = time.time()
        labels = nib.as_closest_canonical(nib.load(file))
        codes = np.asarray(labels.dataobj).astype(int)
        codes[codes >= 500] = 0
        table = np.zeros(500, np.float32)
        for code, grey in T1.items():
            table[code] = grey
        head = Volume(table[codes], labels.affine)
        small = [to_ants(v.data, v.affine) for v in (at_spacing(head, 4.0), at_spacing(head, 2.0))]
        options: dict[str, Any] = {}
        first = ants.registration(
            to_ants(four.data, four.affine),
            small[0],
            "Affine",
            aff_metric="mattes",
            aff_random_sampling_rate=0.3,
            **options,
        )["fwdtransforms"]
        moved = ants.apply_transforms(around, small[1], first, "linear")
        options |= {"initial_transform": "identity", "syn_metric": "CC", "syn_sampling": 2}
        second = ants.registration(fixed, moved, "SyNOnly", reg_iterations=(50, 40, 15), **options)["fwdtransforms"]
        names = [second[0], *first]
        there = ants.apply_transforms(onto, to_ants(codes, labels.affine), names, "nearestNeighbor").numpy()
        shares = np.stack([np.isin(there, codes_of) for _, _, codes_of in CLASSES]).astype(np.float32)
        total += shares + shares[MIRRORED, ::-1]
        print(f"{number}/{len(files)} {file.name} {time.time() - started:.0f} s", flush=True)
    return total / (2 * len(files)), affine


def grid(box_mm: tuple[tuple[float, float], ...], mm: float) -> tuple[tuple[int, ...], np.ndarray]:
    """Shape and affine of a grid over a box of template space."""
    affine = np.diag([mm, mm, mm, 1.0])
    affine[:3, 3] = [low for low, _ in box_mm]
    return tuple(round((high - low) / mm) + 1 for low, high in box_mm), affine


def add_nuclei_of_cit168(atlas: np.ndarray, brain: nib.Nifti1Image, folder: Path, mm: float) -> None:
    """Write the nuclei of CIT168 where the label map has nothing else."""
    small = coarse(brain, mm, "continuous")
    fixed, full = to_ants(small.get_fdata(), small.affine), to_ants(brain.get_fdata(), brain.affine)
    names = json.loads((folder / "CIT168.json").read_text())["labels"]
    head = coarse(nib.load(folder / "CIT168toMNI152-2009c_T1w_brain.nii.gz"), mm, "continuous")
    transforms = register(fixed, to_ants(head.get_fdata(), head.affine), (40, 30, 15))
    nuclei = nib.load(folder / "CIT168_det_gt50.nii.gz")
    for index, name in enumerate(names):
        kind = CIT.get(name[2:].strip())
        if kind is None:
            continue
        share = to_ants(np.asarray(nuclei.dataobj) == index, nuclei.affine)
        there = ants.apply_transforms(full, share, transforms, "linear").numpy() > 0.4
        atlas[there & (atlas == 0)] = CIT_CODES[kind][0 if name.startswith("L ") else 1]


def put_in(atlas: np.ndarray, affine: np.ndarray, shares: np.ndarray, box_affine: np.ndarray) -> None:
    """Replace the labels of the probabilities' box by the most probable ones; what they lack stays."""
    start = np.rint(np.linalg.inv(affine) @ box_affine[:, 3])[:3].astype(int)
    at = tuple(slice(i, i + n) for i, n in zip(start, shares.shape[1:], strict=True))
    index = np.array([code for code, _, _ in CLASSES])
    new = np.where(shares.sum(axis=0) > 0.1, index[shares.argmax(axis=0)], 0)
    kept = np.where(np.isin(atlas[at], index), 0, atlas[at])
    atlas[at] = np.where(new > 0, new, kept)


def save_shares(shares: np.ndarray, affine: np.ndarray, out: Path) -> None:
    """Write the probabilities on voxels of 2 mm (255 is 1) and the table of their classes."""
    from qsmprep.core.registration import Volume, at_spacing

    small = [at_spacing(Volume(share, affine), 2.0) for share in shares]
    data = np.rint(255 * np.stack([v.data for v in small], axis=-1)).astype(np.uint8)
    image = nib.Nifti1Image(data, small[0].affine)
    image.header.set_xyzt_units("mm")
    image.set_sform(small[0].affine, 4)
    image.set_qform(small[0].affine, 4)
    image.to_filename(out / "subcortical_probseg.nii.gz")
    rows = [f"{place}\t{code}\t{tissue}" for place, (code, tissue, _) in enumerate(CLASSES)]
    (out / "subcortical_probseg.tsv").write_text("\n".join(["volume\tindex\ttissue", *rows]) + "\n")


def main() -> None:
    """Build the atlas."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("head_labels", type=Path)
    parser.add_argument("cit168", type=Path)
    parser.add_argument("--heads", type=int, default=10)
    parser.add_argument("--mm", type=float, default=2.0, help="voxel size of the registration of CIT168")
    parser.add_argument("--keep-cit168", action="store_true", help="take its nuclei from the label map in OUT")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    template, mask = load_mni152_template(resolution=1), load_mni152_brain_mask(resolution=1)
    brain = nib.Nifti1Image(template.get_fdata() * (mask.get_fdata() > 0), template.affine)
    before = nib.load(args.out / "subcortical_dseg.nii.gz")
    atlas = np.asarray(before.dataobj).astype(np.uint8)
    with ants_seed(0):
        shares, affine = heads(sorted(args.head_labels.glob("*.nii.gz"))[: args.heads], brain)
    if not args.keep_cit168:
        atlas[np.isin(atlas, [code for pair in CIT_CODES.values() for code in pair])] = 0
    put_in(atlas, brain.affine, shares, affine)
    if not args.keep_cit168:
        with ants_seed(0):
            add_nuclei_of_cit168(atlas, brain, args.cit168, args.mm)
    image = nib.Nifti1Image(atlas, brain.affine)
    image.header.set_xyzt_units("mm")
    image.set_sform(brain.affine, 4)
    image.set_qform(brain.affine, 4)
    image.to_filename(args.out / "subcortical_dseg.nii.gz")
    save_shares(shares, affine, args.out)
    print({int(c): int(n) for c, n in zip(*np.unique(atlas, return_counts=True), strict=True)})


if __name__ == "__main__":
    main()
