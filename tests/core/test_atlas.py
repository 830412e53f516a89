"""Labels of the atlas on a head: moved to its contrast with susceptibility, the most probable ones without."""

from __future__ import annotations

from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

from qsmprep.bids.tables import read_label_table
from qsmprep.core.atlas import Probabilities, Sighting, refine_labels
from qsmprep.core.parameters import NormalisationParams
from qsmprep.core.refine import WIDEST, Model, _distributions, refine
from qsmprep.core.registration import Volume, overlap
from qsmprep.core.template import write_matrix
from qsmprep.errors import DataError
from qsmprep.interfaces.refinement import judge, load_probabilities
from qsmprep.workflows.segment import atlas_files, probability_files

SHAPE = (44, 36, 32)
AFFINE = np.diag([2.0, 2.0, 2.0, 1.0])
AFFINE[:3, 3] = (-43.0, -35.0, -31.0)
TISSUE = (0, 1, 0, 1, 2, 3, 4)
INDEX = (11, 13, 50, 52, 0, 0, 0)
T1W = (80.0, 102.0, 110.0, 70.0, 20.0)
CHI_PPM = (0.05, 0.13, -0.03, 0.02, 0.0)
PARAMS = NormalisationParams(refine_mm=2.0)


def world() -> np.ndarray:
    """Scanner coordinates of every voxel, (3, nx, ny, nz)."""
    return np.stack(np.meshgrid(*(AFFINE[i, 3] + 2.0 * np.arange(n) for i, n in enumerate(SHAPE)), indexing="ij"))


def head(shift_mm: tuple[float, float, float], radius: float) -> np.ndarray:
    """Classes of a drawn brain: two ellipsoids a side in white matter, cortex around, fluid in the middle."""
    x, y, z = world()
    classes = np.full(SHAPE, 4)
    classes[np.sqrt((x / 42) ** 2 + (y / 34) ** 2 + (z / 30) ** 2) > 0.85] = 5
    classes[np.abs(x) < 3] = 6
    for number, (centre, size) in enumerate((((12, 6, 4), 7 * radius), ((24, -8, -4), 6 * radius))):
        for side, sign in ((0, -1), (2, 1)):
            far = (x - sign * (centre[0] + shift_mm[0])) ** 2 + (y - centre[1] - shift_mm[1]) ** 2
            classes[far + (z - centre[2] - shift_mm[2]) ** 2 < size**2] = number + side
    return classes


def images(classes: np.ndarray, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """T1w with noise and a shading of a quarter, and susceptibility with noise and a rim without values."""
    rng = np.random.default_rng(seed)
    tissue = np.array(TISSUE)[classes]
    shade = np.exp(0.12 * world()[1] / 34)
    t1w = np.array(T1W)[tissue] * shade + rng.normal(0, 3, SHAPE)
    chi = np.array(CHI_PPM)[tissue] + rng.normal(0, 0.02, SHAPE)
    chi[:2] = np.nan
    return t1w.astype(np.float32), chi.astype(np.float32)


def shares_of(classes: np.ndarray) -> np.ndarray:
    """Probabilities as many heads would give them: edges smoothed."""
    return np.stack([ndimage.gaussian_filter((classes == k).astype(np.float32), 1.0) for k in range(len(TISSUE))])


TRUTH = head((1.5, -2.0, 1.5), 0.85)
ATLAS = head((0.0, 0.0, 0.0), 1.0)


def dice(classes: np.ndarray) -> list[float]:
    return [overlap(classes == k, k == TRUTH) for k in range(4)]


def test_classes_move_to_the_contrast_of_the_head():
    t1w, chi = images(TRUTH)
    inside = np.ones(SHAPE, bool)
    found = refine([t1w, chi], inside, shares_of(ATLAS), TISSUE, (2, 3, 4), (2.0, 2.0, 2.0), PARAMS)
    np.testing.assert_allclose(found.sum(axis=0), 1, atol=1e-3)
    assert max(dice(ATLAS)) < 0.8
    assert min(dice(found.argmax(axis=0))) > 0.93


def test_no_tissue_has_a_susceptibility_much_wider_than_the_others():
    """Else it takes the outliers of its neighbours; grey values of the head itself may be as wide as they are."""
    rng = np.random.default_rng(0)
    spread = np.array([0.01, 0.012, 0.008, 0.08])
    which = np.repeat(np.arange(4), 5000)
    values = rng.normal(0, spread[which]).astype(np.float32)
    weight = np.stack([(which == t).astype(np.float32) for t in range(4)])
    model = _distributions(np.stack([values, values]), weight, Model(np.zeros((4, 2)), np.full((4, 2), 1.0)))
    grey, chi = np.sqrt(model.variance).T
    np.testing.assert_allclose(grey, spread, rtol=0.05)
    np.testing.assert_allclose(chi[:3], spread[:3], rtol=0.05)
    np.testing.assert_allclose(chi[3], WIDEST * np.sqrt((0.01**2 + 0.012**2) / 2), rtol=0.05)


def test_tissues_without_any_spread_do_not_narrow_the_others():
    """Susceptibility that is zero in most tissues, as in the holes of a mask that nobody gave."""
    rng = np.random.default_rng(0)
    which = np.repeat(np.arange(5), 4000)
    chi = np.where(which == 4, rng.normal(0.1, 0.02, which.size), 0.0).astype(np.float32)
    weight = np.stack([(which == t).astype(np.float32) for t in range(5)])
    model = None
    for _ in range(3):
        model = _distributions(np.stack([chi, chi]), weight, model)
    assert np.sqrt(model.variance[4, 1]) > 0.01


def test_nothing_is_said_outside_the_brain():
    t1w, chi = images(TRUTH)
    inside = np.zeros(SHAPE, bool)
    inside[4:40, 4:32, 4:28] = True
    found = refine([t1w, chi], inside, shares_of(ATLAS), TISSUE, (2, 3, 4), (2.0, 2.0, 2.0), PARAMS)
    assert not found[:, ~inside].any()


@pytest.mark.parametrize("flip", [(1, 1, 1), (-1, 1, 1), (-1, -1, 1)])
def test_labels_keep_their_side_however_the_head_is_stored(tmp_path, flip):
    """Susceptibility lies in a moved scanner space; the labels come out where the structures are, left on the left."""
    t1w, chi = images(TRUTH)
    atlas = Probabilities(shares_of(ATLAS), AFFINE, INDEX, TISSUE, (2, 3, 4))
    code = np.array(INDEX)
    turn = nib.orientations.axcodes2ornt(tuple(p if f > 0 else m for f, p, m in zip(flip, "RAS", "LPI", strict=True)))

    def stored(volume: np.ndarray) -> Volume:
        image = nib.Nifti1Image(volume, AFFINE).as_reoriented(turn)
        return Volume(np.asarray(image.dataobj), image.affine)

    image, registered = stored(t1w), stored(code[ATLAS].astype(np.int32)).data
    registered = np.where(registered == 0, 131 * (stored(TRUTH.astype(np.int32)).data == 6), registered).astype(
        np.int32
    )
    move = np.eye(4)
    move[:3, 3] = (3.0, -2.0, 5.0)
    still = [write_matrix(np.eye(4), tmp_path / "still.mat")]
    moved = Volume(chi, np.linalg.inv(move) @ AFFINE)
    brain = np.ones(image.data.shape, bool)
    found = refine_labels(image, brain, registered, atlas, still, PARAMS, chi=moved, matrix=move)
    truth = stored(code[TRUTH].astype(np.int32)).data
    for label in (11, 13, 50, 52):
        assert overlap(found.labels == label, truth == label) > 0.93
        assert found.overlaps[label] == overlap(found.labels == label, registered == label) < 0.8
    assert (found.labels == 131).sum() > 0.95 * (registered == 131).sum(), "what the probabilities lack stays"
    alone = refine_labels(image, brain, registered, atlas, still, PARAMS)
    assert all(alone.overlaps[k] > found.overlaps[k] + 0.1 for k in (11, 13, 50, 52)), "then the atlas is believed"
    with pytest.raises(DataError, match="no label"):
        refine_labels(image, brain, np.zeros_like(registered), atlas, still, PARAMS)


def test_probabilities_are_interpolated_on_finer_heads(tmp_path):
    """A head of 1 mm, looked at on voxels of 2 mm: the labels have edges at 1 mm."""
    classes = np.kron(TRUTH, np.ones((2, 2, 2), int))
    affine = AFFINE @ np.diag([0.5, 0.5, 0.5, 1.0])
    affine[:3, 3] -= 0.5
    t1w, chi = images(TRUTH)
    atlas = Probabilities(shares_of(ATLAS), AFFINE, INDEX, TISSUE, (2, 3, 4))
    image = Volume(np.kron(t1w, np.ones((2, 2, 2), np.float32)), affine)
    registered = np.array(INDEX, np.int32)[np.kron(ATLAS, np.ones((2, 2, 2), int))]
    still = [write_matrix(np.eye(4), tmp_path / "still.mat")]
    brain = np.ones(image.data.shape, bool)
    found = refine_labels(image, brain, registered, atlas, still, PARAMS, chi=Volume(chi, AFFINE))
    for label, k in ((11, 0), (13, 1), (50, 2), (52, 3)):
        assert overlap(found.labels == label, classes == k) > 0.9


def test_a_network_brings_labels_where_registration_did_not(tmp_path):
    """It sees the structures on a grid of its own; beyond it, and in what it does not know, the atlas is believed."""
    t1w, _ = images(TRUTH)
    atlas = Probabilities(shares_of(ATLAS), AFFINE, INDEX, TISSUE, (2, 3, 4))
    still = [write_matrix(np.eye(4), tmp_path / "still.mat")]
    image, brain = Volume(t1w, AFFINE), np.ones(SHAPE, bool)
    registered = np.array(INDEX, np.int32)[ATLAS]
    fine = AFFINE @ np.diag([0.5, 0.5, 0.5, 1.0])
    fine[:3, 3] += AFFINE[:3, :3] @ (2.25, 3.25, 4.25) - 0.5 * np.diag(AFFINE)[:3]
    inner = TRUTH[2:-2, 3:-3, 4:-4]
    known = np.stack([~np.isin(inner, (0, 1, 2)), *(inner == k for k in (2, 0, 1))]).astype(np.float32)
    sighting = Sighting(known.repeat(2, 1).repeat(2, 2).repeat(2, 3), fine, (0, 50, 11, 13))

    def labels(share: float) -> np.ndarray:
        return refine_labels(image, brain, registered, atlas, still, PARAMS, sighting=sighting, share=share).labels

    alone = refine_labels(image, brain, registered, atlas, still, PARAMS)
    assert np.array_equal(labels(0.0), alone.labels)
    found = labels(0.9)
    for label, k in ((11, 0), (13, 1), (50, 2)):
        assert overlap(found == label, k == TRUTH) > 0.97 > 0.8 > overlap(alone.labels == label, k == TRUTH)
    assert overlap(found == 52, ATLAS == 3) > 0.5, "what the network does not know is the atlas'"
    assert overlap(found == 52, alone.labels == 52) > 0.5
    moved = sighting.affine.copy()
    moved[:3, 3] += (0.0, 16.0, 0.0)
    lost = replace(sighting, affine=moved)
    wrong = refine_labels(image, brain, registered, atlas, still, PARAMS, sighting=lost, share=0.9)
    assert min(wrong.kept.values()) == 1.0 > 0.1 > wrong.overlaps[11]
    assert judge(wrong, True)[0].startswith("labels lie nowhere near")
    assert judge(refine_labels(image, brain, registered, atlas, still, PARAMS, sighting=sighting), True) == []


def test_embedded_probabilities():
    """They are those of the label map, the same on both sides, and never more than 1 together."""
    atlas = load_probabilities(*probability_files())
    assert atlas.shares.sum(axis=0).max() < 1.03
    file, table = atlas_files_of()
    labels = nib.load(file)
    assert {i for i in atlas.index if i} <= set(read_label_table(table))
    codes = np.asarray(labels.dataobj)
    assert atlas.tissue[atlas.index.index(17)] == atlas.tissue[atlas.index.index(53)]
    for place, index in enumerate(atlas.index):
        if index not in (10, 11, 12, 13):
            continue
        twin = atlas.index.index(index + 39)
        assert atlas.tissue[place] != atlas.tissue[twin], "iron may differ between the sides"
        np.testing.assert_allclose(atlas.shares[place], atlas.shares[twin][::-1], atol=0.05)
        mm3 = atlas.shares[place].sum() * abs(np.linalg.det(atlas.affine))
        assert abs(mm3 / (codes == index).sum() - 1) < 0.2
        x_mm = atlas.affine[0, :3] @ np.argwhere(atlas.shares[place] > 0.5).T + atlas.affine[0, 3]
        assert x_mm.max() < 3, "left is where x is negative"


def atlas_files_of():
    """The embedded label map and its table."""

    class NoAtlas:
        atlas = None

    return atlas_files(NoAtlas())


def test_where_the_atlas_ends_the_network_does_not_win_by_nothing(tmp_path):
    """Its probability of a structure is never quite zero, and the atlas has a border within the head."""
    t1w, _ = images(TRUTH)
    cut = shares_of(ATLAS)
    cut[:, :, :6] = 0
    atlas = Probabilities(cut, AFFINE, INDEX, TISSUE, (2, 3, 4))
    still = [write_matrix(np.eye(4), tmp_path / "still.mat")]
    seen = np.full((5, *SHAPE), 0.002, np.float32)
    seen[0] = 0.992
    registered = np.array(INDEX, np.int32)[ATLAS]
    registered[5, 1, 5] = 11  # so that the border is looked at
    sighting = Sighting(seen, AFFINE, (0, 11, 13, 50, 52))
    brain = np.ones(SHAPE, bool)
    found = refine_labels(Volume(t1w, AFFINE), brain, registered, atlas, still, PARAMS, sighting=sighting, share=1.0)
    assert not found.labels[:, :6].any()
