"""Overlap of the atlas segmentation with FreeSurfer's aseg on real T1w heads.

::

    python benchmarks/atlas_dice.py FOLDER --param voxel_mm=2

``FOLDER`` holds ``<name>_T1.mgz`` and ``<name>_aseg.mgz``. Printed is the Dice coefficient of every structure that both
have, and the mean over left and right thalamus, caudate, putamen and pallidum.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from importlib.resources import files
from pathlib import Path

import nibabel as nib
import numpy as np

from qsmprep.bids.tables import read_label_table
from qsmprep.core.atlas import refine_labels
from qsmprep.core.methods import METHODS
from qsmprep.core.parameters import SightingParams
from qsmprep.core.registration import Volume, normalise, overlap
from qsmprep.core.structures import FREESURFER
from qsmprep.interfaces.refinement import SIGHTED, load_probabilities
from qsmprep.interfaces.registration import BrainOf, template_brain, volume_of
from qsmprep.networks.t1w import sight

JUDGED = ("thalamus", "caudate", "putamen", "pallidum")


def main() -> None:
    """Segment every head and print the overlaps."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--atlas", type=Path, default=Path(str(files("qsmprep.data"))) / "atlas")
    parser.add_argument("--param", nargs="*", default=[])
    parser.add_argument("--share", type=float, default=SightingParams().share, help="of the network; 0 for none")
    parser.add_argument("--weights", default="", help="folder of the network's weights")
    parser.add_argument("--save", type=Path, help="folder to write the labels to")
    args = parser.parse_args()
    params = METHODS.get("segmentation", "atlas").configure(dict(word.split("=") for word in args.param))
    regions = read_label_table(args.atlas / "subcortical_dseg.tsv")
    image = nib.load(args.atlas / "subcortical_dseg.nii.gz")
    atlas = Volume(np.asarray(image.dataobj), image.affine)
    shares = load_probabilities(args.atlas / "subcortical_probseg.nii.gz", args.atlas / "subcortical_probseg.tsv")
    for file in sorted(args.folder.glob("*_T1.mgz")):
        started = time.time()
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder) / "t1w.nii.gz"
            image = nib.load(file)
            nib.Nifti1Image(np.asarray(image.dataobj), image.affine).to_filename(source)
            head, loaded = volume_of(source)
            mask_file = BrainOf(in_file=str(source)).run(cwd=folder).outputs.mask
            brain = np.asarray(nib.load(mask_file).dataobj) > 0
            found = normalise(head, brain, template_brain(), atlas, params, folder=Path(folder))
            near = np.isin(found.labels, SIGHTED)
            sighting = sight(head, brain, near, weights=args.weights)[0] if args.share else None
            labels = refine_labels(
                head, brain, found.labels, shares, found.transforms, params, sighting=sighting, share=args.share
            ).labels
        truth = np.asarray(nib.load(str(file).replace("_T1", "_aseg")).dataobj)
        print(
            f"{file.name}: brains {found.dice:.3f}, grey values {found.correlation:.3f}, {time.time() - started:.0f} s"
        )
        print(f"  brain mask against aseg {overlap(brain, truth > 0):.3f}")
        scores = []
        for region in regions.values():
            code = next(
                (
                    c
                    for c, r in FREESURFER.items()
                    if (r.structure, r.hemisphere) == (region.structure, region.hemisphere)
                ),
                None,
            )
            if code is None:
                continue
            dice = overlap(labels == region.index, truth == code)
            scores += [dice] if region.structure in JUDGED else []
            print(f"  {region.structure} {region.hemisphere}: {dice:.3f}")
        print(f"  mean over {', '.join(JUDGED)}: {np.mean(scores):.3f}, least {min(scores):.3f}", flush=True)
        if args.save:
            nib.Nifti1Image(labels, loaded.affine).to_filename(args.save / file.name.replace("_T1.mgz", ".nii.gz"))


if __name__ == "__main__":
    main()
