"""Make the embedded subcortical atlas (``qsmprep/data/atlas``) from public label maps.

Two sources, brought to nilearn's MNI152 template by affine and SyN registration (antspyx):

- whole-head label maps with FreeSurfer codes (the training label maps of SynthSeg, Apache-2.0): thalamus, caudate,
  putamen, pallidum, accumbens, hippocampus, amygdala, lateral ventricles. Each map is painted with the grey values of a
  T1-weighted image, registered, and its labels are carried over; a voxel takes the label that most heads agree on.
- CIT168 (Pauli et al. 2018, doi:10.1038/sdata.2018.63, CC BY 4.0): red nucleus, substantia nigra, subthalamic nucleus.
  Its T1w template is registered, its labels are carried over.

::

    python benchmarks/build_atlas.py HEAD_LABELS CIT168 --heads 8 --out qsmprep/data/atlas
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

T1 = {2: 110, 3: 72, 4: 25, 5: 25, 7: 105, 8: 75, 10: 95, 11: 78, 12: 85, 13: 102, 14: 25, 15: 25, 16: 98}
T1 |= {17: 75, 18: 72, 24: 22, 26: 76, 28: 95, 30: 40, 31: 45, 85: 95}
MIRROR = {2: 41, 3: 42, 4: 43, 5: 44, 7: 46, 8: 47, 10: 49, 11: 50, 12: 51, 13: 52, 17: 53, 18: 54, 26: 58, 28: 60}
MIRROR |= {30: 62, 31: 63}
T1 |= {right: T1[left] for left, right in MIRROR.items()}
"""Grey values of a T1-weighted image by FreeSurfer code; what is not here is outside the brain."""

KEPT = (4, 10, 11, 12, 13, 17, 18, 26, 43, 49, 50, 51, 52, 53, 54, 58)
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
        random_seed=1,
        aff_random_sampling_rate=0.2,
    )
    return found["fwdtransforms"]


def main() -> None:
    """Build the atlas."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("head_labels", type=Path)
    parser.add_argument("cit168", type=Path)
    parser.add_argument("--heads", type=int, default=15)
    parser.add_argument("--mm", type=float, default=2.0, help="voxel size of the registration")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    template, mask = load_mni152_template(resolution=1), load_mni152_brain_mask(resolution=1)
    brain = nib.Nifti1Image(template.get_fdata() * (mask.get_fdata() > 0), template.affine)
    small = coarse(brain, args.mm, "continuous")
    fixed, full = to_ants(small.get_fdata(), small.affine), to_ants(brain.get_fdata(), brain.affine)
    votes = np.zeros((len(KEPT), *brain.shape), np.float32)
    files = sorted(args.head_labels.glob("*.nii.gz"))[: args.heads]
    for number, file in enumerate(files, start=1):
        started = time.time()
        labels = nib.as_closest_canonical(nib.load(file))
        codes = np.asarray(labels.dataobj).astype(int)
        table = np.zeros(max(codes.max(), max(T1)) + 1, np.float32)
        for code, grey in T1.items():
            table[code] = grey
        head = coarse(nib.Nifti1Image(table[codes], labels.affine), args.mm, "continuous")
        transforms = register(fixed, to_ants(head.get_fdata(), head.affine), (40, 30, 15))
        carried = ants.apply_transforms(full, to_ants(codes, labels.affine), transforms, "nearestNeighbor").numpy()
        for place, code in enumerate(KEPT):
            votes[place] += carried == code
        print(f"{number}/{len(files)} {file.name} {time.time() - started:.0f} s", flush=True)
    votes /= len(files)
    outside = 1 - votes.sum(axis=0)
    best = votes.argmax(axis=0)
    atlas = np.where(votes.max(axis=0) > outside, np.array(KEPT)[best], 0)
    names = json.loads((args.cit168 / "CIT168.json").read_text())["labels"]
    whole = nib.load(args.cit168 / "CIT168toMNI152-2009c_T1w_brain.nii.gz")
    head = coarse(whole, args.mm, "continuous")
    transforms = register(fixed, to_ants(head.get_fdata(), head.affine), (40, 30, 15))
    nuclei = nib.load(args.cit168 / "CIT168_det_gt50.nii.gz")
    for index, name in enumerate(names):
        kind = CIT.get(name[2:].strip())
        if kind is None:
            continue
        share = to_ants(np.asarray(nuclei.dataobj) == index, nuclei.affine)
        there = ants.apply_transforms(full, share, transforms, "linear").numpy() > 0.4
        atlas[there & (atlas == 0)] = CIT_CODES[kind][0 if name.startswith("L ") else 1]
    args.out.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image(atlas.astype(np.uint8), brain.affine)
    image.header.set_xyzt_units("mm")
    image.set_sform(brain.affine, 4)
    image.set_qform(brain.affine, 4)
    image.to_filename(args.out / "subcortical_dseg.nii.gz")
    print({int(c): int(n) for c, n in zip(*np.unique(atlas, return_counts=True), strict=True)})


if __name__ == "__main__":
    main()
