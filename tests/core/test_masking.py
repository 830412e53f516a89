"""Masks on heads whose brain is known, in every orientation and on real scans."""

from __future__ import annotations

import importlib
import itertools
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

from qsmprep.core.grid import Grid
from qsmprep.core.masking import bet, consensus_mask, threshold_mask
from qsmprep.core.masking.mesh import Mesh, fill, refine, sphere
from qsmprep.core.masking.morphology import close, dilate, erode, largest_component, open_
from qsmprep.core.masking.resample import average, centre_shift_mm, coarse_grid, interpolate
from qsmprep.core.parameters import BetParams, QualityMaskParams, ThresholdMaskParams
from qsmprep.errors import DataError

SHARED = Path(__file__).parents[2] / ".." / "shared" / "data"
VOXEL_MM = (3.0, 3.5, 4.0)
SHAPE = (64, 66, 44)


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return 2 * np.count_nonzero(a & b) / (np.count_nonzero(a) + np.count_nonzero(b))


def head(shading: float = 0.0, noise: float = 2.0) -> tuple[np.ndarray, np.ndarray]:
    """Magnitude and brain of an ellipsoid head with dark skull and bright scalp."""
    rng = np.random.default_rng(0)
    offset = [(axis - (n - 1) / 2) * mm for axis, n, mm in zip(np.indices(SHAPE), SHAPE, VOXEL_MM, strict=True)]
    radius = np.sqrt((offset[0] / 62) ** 2 + (offset[1] / 78) ** 2 + (offset[2] / 58) ** 2)
    image = np.select([radius < 1, radius < 1.13, radius < 1.25], [100.0, 6.0, 90.0], 0.0)
    image[(offset[0] ** 2 + offset[1] ** 2 + offset[2] ** 2) < 12**2] = 80.0
    image *= np.exp(shading * (offset[0] / 62 + 0.5 * offset[1] / 78))
    return np.abs(image + rng.normal(0, noise, SHAPE)).astype(np.float32), radius < 1


@pytest.mark.parametrize(
    ("folded", "taken"),
    [([0.06, 0.045, 0.03, 0.04, 0.06], 2), ([0.06, 0.01], 1), ([0.01], 0), ([0.06, 0.05, 0.07, 0.08, 0.06], None)],
)
def test_bet_takes_the_least_folded_surface_where_none_is_sound(monkeypatch, folded, taken):
    """Attempts end with the first sound one; of unsound ones the least folded counts, and none beyond all bounds."""
    module, real, masks = importlib.import_module("qsmprep.core.masking.bet"), fill, []

    def told(vertices, mesh, grid):
        mask, own = real(vertices, mesh, grid)
        if grid.shape != SHAPE:  # the coarse one in the middle of an attempt
            return mask, own
        masks.append(mask)
        return mask, folded[len(masks) - 1]

    monkeypatch.setattr(module, "fill", told)
    image, _ = head()
    grid = Grid(SHAPE, VOXEL_MM)
    if taken is None:
        with pytest.raises(DataError, match="no brain was found"):
            bet(image, grid)
    else:
        found = bet(image, grid)
        assert [np.array_equal(found, largest_component(mask)) for mask in masks].index(True) == taken
    assert len(masks) == len(folded)


@pytest.mark.parametrize("shading", [0.0, 0.4])
@pytest.mark.parametrize("noise", [2.0, 8.0])
def test_bet_finds_the_brain(shading, noise):
    image, brain = head(shading, noise)
    mask = bet(image, Grid(SHAPE, VOXEL_MM))
    assert dice(mask, brain) > 0.95


def test_bet_is_larger_with_a_smaller_fraction():
    image, _ = head()
    grid = Grid(SHAPE, VOXEL_MM)
    assert bet(image, grid, BetParams(fraction=0.3)).sum() >= bet(image, grid, BetParams(fraction=0.5)).sum()


@pytest.mark.parametrize("axes", list(itertools.permutations(range(3))))
@pytest.mark.parametrize("flips", [(0,), (1, 2)])
def test_bet_hardly_depends_on_the_order_of_the_axes(axes, flips):
    image, _ = head()
    mask = bet(image, Grid(SHAPE, VOXEL_MM))
    turned = np.flip(image.transpose(axes), flips)
    grid = Grid(turned.shape, tuple(VOXEL_MM[a] for a in axes))
    back = np.flip(bet(turned, grid), flips).transpose(np.argsort(axes))
    assert dice(mask, back) > 0.97


def test_bet_survives_a_brain_cut_by_the_edge():
    image, brain = head()
    cut = (slice(None), slice(None), slice(12, None))
    mask = bet(image[cut], Grid(image[cut].shape, VOXEL_MM))
    assert dice(mask, brain[cut]) > 0.93


@pytest.mark.parametrize("image", [np.zeros(SHAPE), np.full(SHAPE, 7.0)])
def test_bet_refuses_an_image_without_a_head(image):
    with pytest.raises(DataError):
        bet(image, Grid(SHAPE, VOXEL_MM))


def test_bet_refuses_another_grid():
    with pytest.raises(DataError, match="shape"):
        bet(head()[0], Grid((10, 10, 10), VOXEL_MM))


@pytest.mark.parametrize("subject", ["0002", "0003"])
def test_bet_on_real_t1w_heads(subject):
    """Against FreeSurfer's aseg, closed and filled."""
    folder = SHARED / "freesurfer-t1"
    if not folder.exists():
        pytest.skip("shared/data/freesurfer-t1 is not here")
    image = nib.load(folder / f"sub-{subject}_T1.mgz")
    labels = np.asarray(nib.load(folder / f"sub-{subject}_aseg.mgz").dataobj) > 0
    brain = ndimage.binary_fill_holes(ndimage.binary_closing(labels, iterations=5))
    data = np.asarray(image.dataobj, dtype=np.float32)
    mask = bet(data, Grid.from_affine(data.shape, image.affine))
    assert dice(mask, brain) > 0.96


@pytest.mark.parametrize("subject", ["01", "02"])
def test_bet_on_the_examples(subject):
    root = Path(__file__).parents[2] / "bids_examples" / "cohort"
    echoes = sorted((root / f"sub-{subject}" / "anat").glob("*part-mag_MEGRE.nii.gz"))
    magnitude = np.sqrt(np.mean([np.square(nib.load(p).get_fdata(dtype=np.float32)) for p in echoes], axis=0))
    image = nib.load(echoes[0])
    truth = root / "derivatives" / "truth" / f"sub-{subject}" / "anat" / f"sub-{subject}_desc-brain_mask.nii.gz"
    brain = nib.load(truth).get_fdata() > 0
    assert dice(bet(magnitude, Grid.from_affine(image.shape, image.affine)), brain) > 0.98


def test_threshold_mask():
    image, brain = head()
    grid = Grid(SHAPE, VOXEL_MM)
    mask = threshold_mask(image, grid)
    assert dice(mask, brain) > 0.99
    assert threshold_mask(image, grid, ThresholdMaskParams(factor=1.5)).sum() <= mask.sum()
    with pytest.raises(DataError):
        threshold_mask(np.ones(SHAPE), grid)


def test_consensus_keeps_small_spots_and_drops_the_bad_rim():
    _, brain = head()
    grid = Grid(SHAPE, VOXEL_MM)
    quality = np.where(brain, 0.9, 0.05)
    quality[32, 33, 22] = 0.0
    bad = brain & (np.indices(SHAPE)[1] > 50)
    quality[bad] = 0.05
    mask = consensus_mask(brain, quality, grid)
    assert mask[32, 33, 22]
    assert not mask[bad & (np.indices(SHAPE)[1] > 52)].any()
    assert not (mask & ~brain).any()
    assert dice(mask, brain & ~bad) > 0.97
    smaller = consensus_mask(brain, quality, grid, QualityMaskParams(erode_mm=5.0))
    assert 0 < smaller.sum() < mask.sum()


def test_consensus_errors():
    _, brain = head()
    grid = Grid(SHAPE, VOXEL_MM)
    with pytest.raises(DataError, match="empty"):
        consensus_mask(np.zeros(SHAPE, bool), np.ones(SHAPE), grid)
    with pytest.raises(DataError, match="shape"):
        consensus_mask(brain, np.ones((3, 3, 3)), grid)
    with pytest.raises(DataError, match="reliable"):
        consensus_mask(brain, np.zeros(SHAPE), grid, QualityMaskParams(threshold=0.5))


def test_morphology_is_in_millimetres():
    point = np.zeros((21, 21, 21), bool)
    point[10, 10, 10] = True
    ball = dilate(point, 4.0, (1.0, 2.0, 4.0))
    assert ball[14, 10, 10]
    assert not ball[15, 10, 10]
    assert ball[10, 12, 10]
    assert not ball[10, 13, 10]
    assert ball[10, 10, 11]
    assert not ball[10, 10, 12]
    box = np.zeros((21, 21, 21), bool)
    box[5:16, 5:16, 5:16] = True
    assert erode(box, 1.5, (1.0, 1.0, 1.0)).sum() == 9**3
    assert erode(np.ones((5, 5, 5), bool), 1.0, (1.0, 1.0, 1.0)).sum() == 27
    box[10, 10, 10] = False
    assert close(box, 1.5, (1.0, 1.0, 1.0))[10, 10, 10]
    box[0, 0, 0] = True
    assert not open_(box, 1.0, (1.0, 1.0, 1.0))[0, 0, 0]
    assert not largest_component(box)[0, 0, 0]


@pytest.mark.parametrize("voxel_mm", [(1.00000002, 1.0, 0.99999998), (1.00000002,) * 3, (0.99999998,) * 3])
def test_rounding_of_the_voxel_size_does_not_matter(voxel_mm):
    """Headers hold single precision: ties with the radius must fall as for exact edges."""
    cube = np.zeros((20, 20, 20), bool)
    cube[5:15, 5:15, 5:15] = True
    for change, radius_mm in ((erode, 1.0), (erode, 6.0), (dilate, 2.0), (dilate, 5.0)):
        np.testing.assert_array_equal(change(cube, radius_mm, voxel_mm), change(cube, radius_mm, (1.0, 1.0, 1.0)))


def test_the_sphere_is_closed_and_its_volume_right():
    points, mesh = sphere(3)
    assert len(points) == 258
    assert len(mesh.faces) == 512
    np.testing.assert_allclose(np.linalg.norm(points, axis=1), 1)
    a, b, c = np.moveaxis(points[mesh.faces], 1, 0)
    assert np.all(np.einsum("ij,ij->i", np.cross(b - a, c - a), a + b + c) > 0)
    finer = Mesh.from_faces(refine(points, mesh.faces)[1])
    assert len(finer.rings) == 1026
    valence = (finer.rings >= 0).sum(axis=1)
    assert sorted(set(valence.tolist())) == [4, 6]
    assert np.count_nonzero(valence == 4) == 6
    points, mesh = sphere(5)
    grid = Grid((61, 41, 31), (1.0, 1.5, 2.0))
    inside, folded = fill(20 * points + 30, mesh, grid)
    assert inside.sum() * grid.voxel_volume_mm3 == pytest.approx(4 / 3 * np.pi * 20**3, rel=0.02)
    assert folded == 0
    index = np.indices(grid.shape)
    distance = np.sqrt(sum((i * mm - 30) ** 2 for i, mm in zip(index, grid.voxel_mm, strict=True)))
    assert inside[distance < 19.8].all()
    assert not inside[distance > 20].any()
    cut, _ = fill(20 * points + np.array([30, 30, 5]), mesh, grid)
    assert cut[30, 20, 0]


def test_a_surface_that_crosses_itself_is_noticed():
    points, mesh = sphere(4)
    crossed = 20 * points + 30
    crossed[points[:, 0] > 0.5] -= [30.0, 0.0, 0.0]
    assert fill(crossed, mesh, Grid((61, 61, 61), (1.0, 1.0, 1.0)))[1] > 0.02


@pytest.mark.parametrize("axes", list(itertools.permutations(range(3))))
def test_the_sphere_has_the_symmetries_of_the_array(axes):
    points, _ = sphere(3)
    for signs in itertools.product((1, -1), repeat=3):
        turned = points[:, axes] * signs
        assert {tuple(p) for p in np.round(turned, 9) + 0.0} == {tuple(p) for p in np.round(points, 9) + 0.0}


def test_resampling_keeps_means_and_lines():
    grid = Grid((30, 21, 9), (0.7, 1.0, 3.0))
    small = coarse_grid(grid, 2.0)
    assert small.shape == (11, 11, 9)
    assert small.voxel_mm == (2.0, 2.0, 3.0)
    x, y = ((np.arange(n) - (n - 1) / 2) * mm for n, mm in zip(grid.shape[:2], grid.voxel_mm[:2], strict=True))
    line = np.broadcast_to(x[:, None, None] + 2 * y[None, :, None], grid.shape).astype(np.float32)
    coarse = average(line, grid, small)
    np.testing.assert_allclose(average(line[::-1, ::-1], grid, small), coarse[::-1, ::-1], atol=1e-5)
    at = [np.arange(n) * mm for n, mm in zip(small.shape[:2], small.voxel_mm[:2], strict=True)]
    shift = centre_shift_mm(small, grid)
    expected = (at[0] + shift[0] - np.ptp(x) / 2)[:, None]
    expected = expected + 2 * (at[1] + shift[1] - np.ptp(y) / 2)
    np.testing.assert_allclose(coarse[1:-1, 1:-1, 4], expected[1:-1, 1:-1], atol=0.02)
    inner = (slice(5, -5), slice(4, -4), slice(None))
    np.testing.assert_allclose(interpolate(coarse, small, grid)[inner], line[inner], atol=0.05)


@pytest.mark.parametrize("voxel_mm", [(1.0, 1.0, 1.0), (0.5, 0.7, 2.0)], ids=["isotropic", "anisotropic"])
@pytest.mark.parametrize("radius_mm", [0.5, 2.0, 2.3, 5.0])
@pytest.mark.parametrize("shape", [(40, 30, 20), (3, 50, 9)])
def test_shifts_of_a_ball_agree_with_distances(voxel_mm, radius_mm, shape):
    """Few offsets are shifts, many a distance transform: both have to be the same set, volume's edge and all."""
    mask = ndimage.gaussian_filter(np.random.default_rng(0).standard_normal(shape), 2.0) > 0
    far = ndimage.distance_transform_edt(~mask, sampling=voxel_mm)
    deep = ndimage.distance_transform_edt(np.pad(mask, 1), sampling=voxel_mm)[1:-1, 1:-1, 1:-1]
    assert np.array_equal(dilate(mask, radius_mm, voxel_mm), far <= radius_mm)
    assert np.array_equal(erode(mask, radius_mm, voxel_mm), deep > radius_mm)
