"""The network that sees the deep grey nuclei on a T1w image, and what a sighting of it says."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

from qsmprep.cli.parser import parse_settings
from qsmprep.core.labels import sample_labels
from qsmprep.core.registration import Volume, overlap
from qsmprep.errors import DataError, MissingFileError
from qsmprep.interfaces.refinement import SIGHTED, RefineLabels
from qsmprep.networks.card import card_path, check_weights
from qsmprep.networks.segmentation import CODES as CLASSES
from qsmprep.networks.t1w import sight

COHORT = Path(__file__).parents[2] / "bids_examples" / "cohort"
CODES = {11: 11, 12: 50, 13: 12, 14: 51, 15: 13, 16: 52, 17: 10, 18: 49}
"""FreeSurfer code of each nucleus of the phantom."""


def example() -> tuple[Volume, np.ndarray, np.ndarray]:
    """T1w image of an example, its brain and the true nuclei on its grid."""
    image = nib.load(COHORT / "sub-01" / "anat" / "sub-01_T1w.nii.gz")
    truth = COHORT / "derivatives" / "truth" / "sub-01" / "anat"
    labels = nib.load(truth / "sub-01_dseg.nii.gz")
    codes = np.zeros(20, np.int32)
    codes[list(CODES)] = list(CODES.values())
    true = codes[np.clip(np.rint(np.asarray(labels.dataobj)).astype(int), 0, 19)]
    mask = nib.load(truth / "sub-01_desc-brain_mask.nii.gz")
    shape = image.shape
    brain = sample_labels(np.asarray(mask.dataobj).astype(np.int32), mask.affine, shape, image.affine) > 0
    return (
        Volume(np.asarray(image.dataobj, np.float32), image.affine),
        brain,
        sample_labels(true, labels.affine, shape, image.affine),
    )


@pytest.fixture(scope="module")
def head():
    return example()


def labels_of(sighting, head: Volume) -> np.ndarray:
    """The most probable label at the voxels of a head."""
    to_seen = np.linalg.inv(sighting.affine) @ head.affine
    shares = [
        ndimage.affine_transform(s, to_seen[:3, :3], to_seen[:3, 3], head.data.shape, order=1, cval=float(not k))
        for k, s in enumerate(sighting.shares)
    ]
    return np.array(sighting.index)[np.argmax(shares, axis=0)]


@pytest.mark.parametrize("axes", ["RAS", "LPI", "SRA"])
def test_nuclei_are_where_they_are_however_the_head_is_stored(head, axes):
    image, brain, truth = head
    turn = nib.orientations.axcodes2ornt(axes)

    def stored(volume: np.ndarray) -> Volume:
        turned = nib.Nifti1Image(volume, image.affine).as_reoriented(
            nib.orientations.ornt_transform(nib.io_orientation(image.affine), turn)
        )
        return Volume(np.asarray(turned.dataobj), turned.affine)

    there, true = stored(image.data), stored(truth).data
    inside = stored(brain.astype(np.uint8)).data > 0
    sighting, card = sight(there, inside, inside)
    assert card.network == "subcortical_t1w"
    np.testing.assert_allclose(sighting.shares.sum(axis=0), 1, atol=1e-4)
    found = labels_of(sighting, there)
    assert overlap(found > 0, true > 0) > 0.6  # the drawn nuclei are unlike real ones, on which it was trained
    for code in (10, 11, 12):
        assert overlap(found == code, true == code) > 0.4 > 0.05 > overlap(found == code, true == code + 39), code


def test_bad_input(head, tmp_path):
    image, brain, _ = head
    with pytest.raises(DataError, match="differ"):
        sight(image, brain[1:], brain)
    with pytest.raises(DataError, match="no brain"):
        sight(image, brain & False, brain)
    rng = np.random.default_rng(0)
    for nothing in (np.ones_like(image.data), np.zeros_like(image.data), rng.random(image.data.shape)):
        with pytest.raises(DataError, match="no deep grey nuclei"):
            sight(Volume(nothing, image.affine), brain, brain)
    with pytest.raises(MissingFileError, match="subcortical_t1w"):
        sight(image, brain, brain, weights=str(tmp_path))


def test_the_card_says_how_it_was_trained():
    card = json.loads(card_path("subcortical_t1w").read_text())
    assert card["inputs"] == "T1-weighted image"
    assert card["training"]["data"]["held_out"] == [f"training_seg_{n}" for n in (12, 13, 14, 15)]
    assert "labels" in card["training"]["command"]


def test_what_the_network_sees_reaches_the_labels_or_a_warning(head, tmp_path):
    """The step of the graph: with a share of zero the network is left alone; where it sees nothing a word is said."""
    image, brain, truth = head
    assert set(SIGHTED) == set(CLASSES[1:]), "what is looked for is what the network knows"
    near = np.isin(truth, SIGHTED)
    seen, info = RefineLabels(sighting={"share": 0.8})._seen(image, brain, truth)
    assert seen["share"] == 0.8
    assert info["network_weights"] == json.loads(card_path("subcortical_t1w").read_text())["sha256"][:12]
    assert np.array_equal(seen["sighting"].shares, sight(image, brain, near)[0].shares)
    assert RefineLabels(sighting={"share": 0.0})._seen(image, brain, truth) == ({}, {"warnings": []})
    flat = Volume(np.ones_like(image.data), image.affine)
    nothing, info = RefineLabels(sighting={"share": 0.8})._seen(flat, brain, truth)
    assert nothing == {}
    assert "no deep grey nuclei" in info["warnings"][0]
    with pytest.raises(MissingFileError):
        RefineLabels(sighting={"share": 0.8, "weights": str(tmp_path)})._seen(image, brain, truth)


def test_settings_know_the_network_where_the_embedded_atlas_may_run(tmp_path):
    def settings(*words):
        return parse_settings([str(tmp_path), str(tmp_path / "out"), "participant", *words])

    for words, wanted in (
        (("--segmentation", "atlas"), True),
        (("--segmentation", "first"), True),  # without a T1w image the atlas takes its place
        (("--segmentation", "none"), False),
        (("--segmentation", "atlas", "--atlas", "a.nii", "b.tsv"), False),
    ):
        assert (("sighting", "t1wunetr") in settings(*words).chosen()) is wanted, words
    nowhere = ("--segmentation", "atlas", "--param", f"t1wunetr.weights={tmp_path}")
    with pytest.raises(MissingFileError, match="subcortical_t1w"):
        check_weights(settings(*nowhere))
    check_weights(settings(*nowhere, "t1wunetr.share=0"))
