"""The head: where its parts are, on any grid, and the field it makes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from qsmprep.core.grid import Grid
from qsmprep.core.simulate import AIR_PPM, head_field
from qsmprep.errors import DataError
from qsmprep.phantom.anatomy import LABELS
from qsmprep.phantom.canvas import ellipsoid, rotation, tube
from qsmprep.phantom.head import build_head
from qsmprep.phantom.scan import Protocol, extend, fibres, fine_grid, scan
from qsmprep.phantom.subject import Person, draw_subject

COARSE = Protocol(voxel_mm=(4.0, 4.0, 4.0), te_s=(0.01,), fine_mm=3.0, snr=np.inf)


@pytest.fixture(scope="module")
def subject():
    return draw_subject(Person(50, "M"), (7, 1))


def head_on(subject, orientation, tilt_deg=0.0, voxel_mm=(2.5, 3.0, 3.0)):
    plan = Protocol(voxel_mm=voxel_mm, orientation=orientation, tilt_deg=tilt_deg)
    shape, affine = plan.acquired_grid()
    return build_head(subject, shape, affine)


@pytest.mark.parametrize("orientation, tilt_deg", [("RAS", 0.0), ("LAS", 20.0), ("PSR", -15.0), ("ILP", 30.0)])
def test_left_is_left_whatever_the_grid(subject, orientation, tilt_deg):
    head = head_on(subject, orientation, tilt_deg)
    for label in LABELS:
        at = np.argwhere(head.labels == label.index)
        if label.hemisphere == "B" or label.index >= 90:
            continue
        assert len(at) > 0, label
        x_mm = (at @ head.affine[:3, :3].T + head.affine[:3, 3])[:, 0].mean()
        assert (x_mm < -2) if label.hemisphere == "L" else (x_mm > 2), label


def test_the_same_head_on_another_grid(subject):
    straight, turned = head_on(subject, "RAS"), head_on(subject, "PSR")
    np.testing.assert_array_equal(np.transpose(turned.labels[::-1, :, :], (2, 0, 1)), straight.labels)
    np.testing.assert_allclose(np.transpose(turned.chi_ppm[::-1], (2, 0, 1)), straight.chi_ppm, atol=1e-4)


def test_a_head_is_made_of_what_a_head_is_made_of(subject):
    head = head_on(subject, "RAS", voxel_mm=(2.5, 2.5, 2.5))
    mm3 = head.grid.voxel_volume_mm3
    assert 1.2e6 < head.brain_mask.sum() * mm3 < 1.9e6
    volumes = {label.name: (head.labels == label.index).sum() * mm3 / 1000 for label in LABELS}
    for name, low, high in (
        ("putamen", 2, 7),
        ("caudate nucleus", 2, 6),
        ("globus pallidus", 0.8, 3),
        ("thalamus", 3, 9),
        ("red nucleus", 0.08, 0.5),
        ("dentate nucleus", 0.4, 2.5),
    ):
        for side in ("left", "right"):
            assert low < volumes[f"{side} {name}"] < high, (side, name, volumes)
    chi = {label.name: head.chi_ppm[head.labels == label.index] for label in LABELS if volumes[label.name]}
    order = ["left white matter", "left grey matter", "left putamen", "left globus pallidus", "vein"]
    medians = [float(np.median(chi[name])) for name in order]
    assert medians == sorted(medians) and medians[0] < -0.02 and medians[-1] > 0.15
    assert head.chi_ppm[0, 0, -1] == pytest.approx(AIR_PPM) and head.density[0, 0, -1] == 0
    assert np.median(chi["skull"]) < -1.5
    assert np.all(np.isin(np.unique(head.labels), [0] + [label.index for label in LABELS]))
    cavities = head.labels == 90
    assert cavities.any() and not (cavities & head.brain_mask).any()


def test_iron_grows_with_age_and_group():
    young, old = (draw_subject(Person(age, "F"), (1, 1)).properties("x", "putamen", 3.0) for age in (25, 75))
    ill = draw_subject(Person(25, "F", "patient", 1.2), (1, 1)).properties("x", "putamen", 3.0)
    assert old["chi_ppm"] > young["chi_ppm"] + 0.02 and old["r2star_hz"] > young["r2star_hz"] + 2
    assert ill["chi_ppm"] > young["chi_ppm"] and ill["r2star_hz"] > young["r2star_hz"]
    stronger = draw_subject(Person(25, "F"), (1, 1)).properties("x", "putamen", 7.0)
    assert stronger["r2star_hz"] > young["r2star_hz"]


def test_the_effect_may_be_in_some_nuclei_only():
    healthy, ill = Person(25, "F"), Person(25, "F", "patient", 1.2, gain_in=("pallidum",))
    for nucleus, differs in (("pallidum", True), ("putamen", False)):
        values = [draw_subject(person, (1, 1)).properties("x", nucleus, 3.0)["chi_ppm"] for person in (healthy, ill)]
        assert (values[1] > values[0]) == differs
    with pytest.raises(DataError, match="palidum"):
        Person(gain_in=("palidum",))
    with pytest.raises(DataError, match="white"):
        Person(gain_in=("white",))


def test_lesions_are_drawn_where_asked():
    person = Person(60, "F", "patient", 1.0, ("calcification", "haemorrhage"))
    head = head_on(draw_subject(person, (3, 1)), "RAS", voxel_mm=(2.0, 2.0, 2.0))
    assert head.chi_ppm[head.labels == 7].min() < -1.0
    assert head.chi_ppm[head.labels == 8].max() > 0.5
    with pytest.raises(DataError, match="lesions"):
        Person(lesions=("cyst",))


def test_seeds_repeat_and_differ():
    one, again, other = (draw_subject(Person(), seed) for seed in ((1, 1), (1, 1), (1, 2)))
    shape, affine = COARSE.acquired_grid()
    heads = [build_head(s, shape, affine) for s in (one, again, other)]
    np.testing.assert_array_equal(heads[0].chi_ppm, heads[1].chi_ppm)
    assert (heads[0].labels != heads[2].labels).mean() > 0.02


def test_tilt_and_orientation_are_in_the_affine():
    for orientation in ("RAS", "LAS", "PIR"):
        plan = Protocol(voxel_mm=(1.5, 1.5, 3.0), tilt_deg=20.0, orientation=orientation)
        shape, affine = plan.acquired_grid()
        assert Grid.from_affine(shape, affine).tilt_deg == pytest.approx(20.0)
        centre = affine[:3, :3] @ ((np.array(shape) - 1) / 2) + affine[:3, 3]
        np.testing.assert_allclose(centre, plan.centre_mm, atol=1e-9)
    b0 = Grid.from_affine(*Protocol(tilt_deg=20.0, orientation="RAS").acquired_grid()).b0_dir
    np.testing.assert_allclose(b0, [0, np.sin(np.deg2rad(20)), np.cos(np.deg2rad(20))], atol=1e-9)


def test_fine_and_extended_grids_cover_the_same_space():
    shape, affine = Protocol(voxel_mm=(1.5, 2.0, 3.0), tilt_deg=20.0).acquired_grid()
    fine_shape, fine = fine_grid(shape, affine, 1.15)
    for corner in np.ndindex(2, 2, 2):
        low = np.array(corner) * shape - 0.5
        high = np.array(corner) * fine_shape - 0.5
        np.testing.assert_allclose(affine @ [*low, 1], fine @ [*high, 1], atol=1e-9)
    whole_shape, whole, at = extend(fine_shape, fine)
    np.testing.assert_allclose(whole @ [*(s.start for s in at), 1], fine[:, 3], atol=1e-9)
    index = np.linalg.solve(whole, [0, 0, -129.0, 1])[:3]
    assert np.all(index > -0.5) and np.all(index < np.array(whole_shape) - 0.5)


def test_a_tilted_stack_sees_the_same_field(subject):
    """Field and local field of a tilted, anisotropic stack agree with the straight one at the same points."""
    straight = scan(subject, COARSE)
    tilted = scan(subject, Protocol((4.0, 4.0, 5.0), tilt_deg=20.0, orientation="PSR", te_s=(0.01,), fine_mm=3.0))
    assert tilted.acquired.grid.tilt_deg == pytest.approx(20.0)
    assert straight.acquired.grid.tilt_deg == 0.0
    back = np.linalg.inv(straight.affine) @ tilted.affine
    index = np.stack(np.indices(tilted.brain.shape)).reshape(3, -1)
    points = (back[:3, :3] @ index + back[:3, 3:]).reshape(3, *tilted.brain.shape)
    deep = ndimage.binary_erosion(tilted.brain, iterations=3)
    for name, floor in (("total_ppm", 0.98), ("local_ppm", 0.85)):
        expected = ndimage.map_coordinates(getattr(straight, name), points, order=1)[deep]
        got = getattr(tilted, name)[deep]
        assert np.corrcoef(got, expected)[0, 1] > floor, name
        assert got.std() == pytest.approx(expected.std(), rel=0.2), name


def test_anisotropic_white_matter_adds_a_field_of_known_spread(subject):
    plan = replace(COARSE, shim_order=-1)
    plain, more = scan(subject, plan), scan(subject, replace(plan, anisotropy=0.5))
    added = (more.total_ppm - plain.total_ppm)[plain.brain]
    assert added.std() == pytest.approx(0.5 * plain.local_ppm[plain.brain].std(), rel=0.15)
    for name in ("chi_ppm", "local_ppm", "r2star_hz"):
        np.testing.assert_array_equal(getattr(more, name), getattr(plain, name))


def test_fibres_are_the_same_in_every_stack():
    """At the same points of the scanner, in scanner axes, whatever the order and tilt of the stack."""
    plans = [replace(COARSE, orientation=name, tilt_deg=tilt) for name, tilt in (("RAS", 0.0), ("PSR", 20.0))]
    grids = [plan.acquired_grid() for plan in plans]
    found = [fibres(*grid, (7, 1)) for grid in grids]
    world = [np.tensordot(affine[:3, :3] / 4.0, f, axes=1) for f, (_, affine) in zip(found, grids, strict=True)]
    middle = np.argwhere(np.ones((6, 6, 6))) + 15
    other = (middle @ grids[0][1][:3, :3].T + grids[0][1][:3, 3] - grids[1][1][:3, 3]) @ np.linalg.inv(
        grids[1][1][:3, :3]
    ).T
    there = np.stack([ndimage.map_coordinates(w, other.T, order=1) for w in world[1]])
    here = world[0][(slice(None), *middle.T)]
    assert np.median((here * there).sum(axis=0)) > 0.97


def test_a_frontal_sinus_raises_the_field_below_the_frontal_lobe(subject):
    """Air below the brain: higher field above it along B0, as in every gradient-echo image."""
    shape, affine, _ = extend(*fine_grid(*COARSE.acquired_grid(), 3.0))
    head = build_head(subject, shape, affine)
    full = head.chi_ppm.copy()
    full[head.labels == 90] = 0.0
    change = head_field(head.chi_ppm, head.grid) - head_field(full, head.grid)
    x, y, z = np.array([1.0, 28.0, -24.0]) - [0, -17, 12]
    at = tuple(np.rint(np.linalg.solve(head.affine, [x, y, z, 1])[:3]).astype(int))
    assert head.brain_mask[at[0] - 3 : at[0] + 4, at[1] - 3 : at[1] + 4, at[2] - 2 : at[2] + 4].any()
    assert change[at] > 0.3


def test_shapes_have_their_surfaces_where_they_should():
    ball = ellipsoid((1, 2, 3), (4, 4, 4))
    points = np.array([[1, 2, 3], [5, 2, 3], [1, 2, 9]], dtype=np.float32).T.reshape(3, 3, 1, 1)
    np.testing.assert_allclose(ball(points)[1:, 0, 0], [0, 2], atol=1e-5)
    assert ball(points)[0, 0, 0] == -4
    turned = ellipsoid((0, 0, 0), (10, 1, 1), (0, 0, 90))
    ends = np.array([[0, 9, 0], [9, 0, 0]], dtype=np.float32).T.reshape(3, 2, 1, 1)
    assert turned(ends)[0, 0, 0] < 0 < turned(ends)[1, 0, 0]
    pipe = tube(np.array([[0, 0, 0], [10, 0, 0]]), np.array([1.0, 3.0]))
    where = np.array([[5, 4, 0], [-2, 0, 0], [10, 0, 0]], dtype=np.float32).T.reshape(3, 3, 1, 1)
    np.testing.assert_allclose(pipe(where)[:, 0, 0], [2, 1, -3], atol=1e-5)
    np.testing.assert_allclose(rotation((0, 0, 90)) @ [1, 0, 0], [0, 1, 0], atol=1e-12)


def test_wrong_protocols_are_named(subject):
    with pytest.raises(DataError, match="voxels"):
        Protocol(voxel_mm=(0.0, 1.0, 1.0))
    with pytest.raises(DataError, match="echo times"):
        Protocol(te_s=(0.04,))
    with pytest.raises(DataError, match="anisotropic"):
        Protocol(anisotropy=-0.1)
    with pytest.raises(DataError, match="outside the grid"):
        build_head(subject, (8, 8, 8), np.diag([1.0, 1.0, 1.0, 1.0]) + np.eye(4, k=3) * 400)
