"""Every registered inversion: what it gains, what must not change it, and what it refuses."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch
from dipole_cases import MOVES, head, move, move_back, move_grid, nrmse

from qsmprep.core.dipole import forward_field
from qsmprep.core.grid import Grid
from qsmprep.core.inversion import problem as problems
from qsmprep.core.inversion.admm import TotalVariation
from qsmprep.core.inversion.dataconsistency import data_consistency
from qsmprep.core.inversion.lsqr import lsqr
from qsmprep.core.inversion.problem import Spectral, add_adjoint, difference, prepare
from qsmprep.core.inversion.tkd import tkd, truncated_inverse
from qsmprep.core.methods import METHODS
from qsmprep.errors import DataError, UsageError

NAMES = tuple(name for name in METHODS.names("inversion") if not METHODS.get("inversion", name).learned)
LINEAR = ("tkd", "l2", "tsvd")
WEIGHTED = ("tv", "rts", "ilsqr", "medi", "ndi", "nltv", "nltgv", "whqsm")
QUICK = {"tgv": {"max_iter": 8}, "whqsm": {"max_iter": 15}, "nltv": {"max_iter": 20}, "nltgv": {"max_iter": 8}}
"""Fewer iterations where a test repeats a slow method many times."""
GRID = Grid((44, 50, 38), (1.0, 1.0, 1.0), (0.0, 0.0, 1.0))
UNEVEN = Grid((44, 34, 25), (1.0, 1.3, 1.8), (0.1, -0.35, 0.9))
SMALL = Grid((15, 18, 20), (1.0, 1.2, 0.8), (0.2, -0.3, 0.9))
WEIGHTS = {"tv": 2e-4, "rts": 3e-3, "l2": 0.02, "medi": 4e-4, "nltv": 2e-4, "nltgv": 2e-4, "whqsm": 2e-4}
"""A weight by hand for every method that can choose it from the data."""
BOUNDS = {
    "tkd": 1.0,
    "l2": 1.05,
    "tv": 0.7,
    "rts": 0.85,
    "ilsqr": 1.0,
    "medi": 0.7,
    "tsvd": 1.3,
    "ndi": 1.3,
    "nltv": 0.7,
    "nltgv": 0.75,
}
"""Largest error allowed, relative to that of TKD at its defaults."""


def invert(name, field, mask, grid, overrides=None, **inputs):
    method = METHODS.get("inversion", name)
    return method.load()(field, mask, grid, method.configure(overrides), **inputs)


@functools.cache
def errors(name, grid):
    field, mask, chi, magnitude = head(grid, noise_ppm=0.003)
    result = invert(name, field, mask, grid, magnitude=magnitude)
    return nrmse(result.chi_ppm, chi, mask), result, mask, chi


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("grid", [GRID, UNEVEN], ids=["isotropic", "uneven and tilted"])
def test_recovers_a_head(name, grid):
    error, result, mask, chi = errors(name, grid)
    assert result.chi_ppm.shape == grid.shape
    assert result.chi_ppm.dtype == np.float32
    assert np.all(np.isfinite(result.chi_ppm))
    assert not result.chi_ppm[~mask].any()
    assert error < 0.75
    assert error < 1.02 * BOUNDS.get(name, 1.0) * errors("tkd", grid)[0]
    assert np.corrcoef(result.chi_ppm[mask], chi[mask])[0, 1] > 0.7


@pytest.mark.parametrize("name", NAMES)
def test_a_wrong_direction_is_worse(name):
    field, mask, chi, magnitude = head(UNEVEN)
    straight = Grid(UNEVEN.shape, UNEVEN.voxel_mm)
    wrong = invert(name, field, mask, straight, magnitude=magnitude).chi_ppm
    assert nrmse(wrong, chi, mask) > 1.15 * errors(name, UNEVEN)[0]


@pytest.mark.parametrize("name", NAMES)
def test_all_48_orders_and_flips_agree(name):
    field, mask, _, magnitude = head(SMALL, seed=1)
    quick = QUICK.get(name)
    expected = invert(name, field, mask, SMALL, quick, magnitude=magnitude).chi_ppm
    size = np.abs(expected).max()
    for order, signs in MOVES:
        moved = (move(v, order, signs) for v in (field, mask))
        moved_grid, image = move_grid(SMALL, order, signs), move(magnitude, order, signs)
        chi = invert(name, *moved, moved_grid, quick, magnitude=image).chi_ppm
        np.testing.assert_allclose(move_back(chi, order, signs), expected, atol=5e-3 * size)


@pytest.mark.parametrize("name", NAMES)
def test_odd_in_the_field_and_zero_without_one(name):
    field, mask, _, magnitude = head(SMALL, seed=2)
    plus = invert(name, field, mask, SMALL, magnitude=magnitude).chi_ppm
    minus = invert(name, -field, mask, SMALL, magnitude=magnitude).chi_ppm
    np.testing.assert_allclose(minus, -plus, atol=1e-4 * np.abs(plus).max())
    nothing = invert(name, 0 * field, mask, SMALL, magnitude=magnitude)
    assert not nothing.chi_ppm.any()
    assert nothing.converged
    assert name == "ndi" or nothing.iterations <= 2


@pytest.mark.parametrize("name", [n for n in LINEAR if n in NAMES])
def test_linear_methods_are_linear(name):
    first, mask, _, _ = head(SMALL, seed=3)
    second = head(SMALL, seed=4)[0]
    fixed = {"l2": {"weight": 0.02}}.get(name)
    one, two, both = (invert(name, f, mask, SMALL, fixed).chi_ppm for f in (first, second, 2 * first - 3 * second))
    np.testing.assert_allclose(both, 2 * one - 3 * two, atol=2e-5 * np.abs(both).max())


@pytest.mark.parametrize(("name", "power"), [("tv", 1), ("rts", 1), ("l2", 2), ("nltv", 1)])
def test_weights_mean_the_same_at_any_voxel_size(name, power):
    """A grid twice as coarse in mm with the weight scaled along is the same problem."""
    field, mask, _, _ = head(SMALL, seed=5)
    default = WEIGHTS[name]
    wide = Grid(SMALL.shape, tuple(2 * v for v in SMALL.voxel_mm), SMALL.b0_dir)
    fine = invert(name, field, mask, SMALL, {"weight": default}).chi_ppm
    coarse = invert(name, field, mask, wide, {"weight": default * 2**power}).chi_ppm
    np.testing.assert_allclose(coarse, fine, atol=2e-3 * np.abs(fine).max())


@pytest.mark.parametrize("name", NAMES)
def test_weights_of_one_are_no_weights_and_only_their_ratios_count(name):
    field, mask, _, magnitude = head(SMALL, seed=6)
    plain = invert(name, field, mask, SMALL, magnitude=magnitude).chi_ppm
    ones = invert(name, field, mask, SMALL, magnitude=magnitude, weights=np.ones(SMALL.shape)).chi_ppm
    np.testing.assert_array_equal(ones, plain)
    half = invert(name, field, mask, SMALL, magnitude=magnitude, weights=np.full(SMALL.shape, 0.5)).chi_ppm
    np.testing.assert_allclose(half, plain, atol=1e-4 * np.abs(plain).max())


@pytest.mark.parametrize("name", [n for n in WEIGHTED if n in NAMES])
def test_weights_keep_spoilt_voxels_out(name):
    field, mask, chi, magnitude = head(GRID, seed=7)
    rng = np.random.default_rng(8)
    spoilt = mask & (rng.random(GRID.shape) < 0.05)
    field = np.where(spoilt, field + rng.normal(0, 0.1, GRID.shape), field)
    weights = np.where(spoilt, 0.0, 1.0)
    plain, weighted = (
        nrmse(invert(name, field, mask, GRID, magnitude=magnitude, weights=w).chi_ppm, chi, mask)
        for w in (None, weights)
    )
    assert weighted < 0.8 * plain


@pytest.mark.parametrize("name", NAMES)
def test_what_lies_outside_the_mask_is_ignored(name):
    field, mask, _, magnitude = head(SMALL, seed=9)
    plain = invert(name, field, mask, SMALL, magnitude=magnitude).chi_ppm
    dirty = np.where(mask, field, np.nan)
    weights = np.where(mask, 1.0, np.nan)
    other = invert(name, dirty, mask, SMALL, magnitude=np.where(mask, magnitude, np.inf), weights=weights).chi_ppm
    np.testing.assert_array_equal(other, plain)
    wide = Grid(tuple(n + 6 for n in SMALL.shape), SMALL.voxel_mm, SMALL.b0_dir)
    padded = invert(name, np.pad(field, 3), np.pad(mask, 3), wide, magnitude=np.pad(magnitude, 3)).chi_ppm
    np.testing.assert_array_equal(padded[3:-3, 3:-3, 3:-3], plain)


@pytest.mark.parametrize("name", NAMES)
def test_a_mask_of_one_voxel_does_not_break_it(name):
    mask = np.zeros(SMALL.shape, bool)
    mask[7, 8, 9] = True
    if name == "tgv":
        with pytest.raises(DataError, match="no ball fits"):
            invert(name, 0.01 * np.ones(SMALL.shape), mask, SMALL)
        return
    chi = invert(name, 0.01 * np.ones(SMALL.shape), mask, SMALL, magnitude=np.ones(SMALL.shape)).chi_ppm
    assert np.all(np.isfinite(chi))
    assert not chi[~mask].any()


@pytest.mark.parametrize("name", NAMES)
def test_bad_input_is_refused(name):
    field, mask, _, _ = head(SMALL)
    with pytest.raises(DataError, match="empty"):
        invert(name, field, np.zeros(SMALL.shape, bool), SMALL)
    with pytest.raises(DataError, match="shape"):
        invert(name, field[1:], mask, SMALL)
    with pytest.raises(DataError, match="shape"):
        invert(name, field, mask[1:], SMALL)
    with pytest.raises(DataError, match="non-finite"):
        invert(name, np.full(SMALL.shape, np.nan), mask, SMALL)
    with pytest.raises(DataError, match="complex"):
        invert(name, field + 1j, mask, SMALL)
    with pytest.raises(DataError, match="`weights`"):
        invert(name, field, mask, SMALL, weights=-np.ones(SMALL.shape))
    with pytest.raises(DataError, match="`weights`"):
        invert(name, field, mask, SMALL, weights=np.zeros(SMALL.shape))
    with pytest.raises(DataError, match="`magnitude`"):
        invert(name, field, mask, SMALL, magnitude=np.ones((3, 3, 3)))
    with pytest.raises(UsageError, match="rad_per_ppm"):
        invert(name, field, mask, SMALL, rad_per_ppm=-1.0)


@pytest.mark.parametrize("name", [n for n in ("tv", "rts", "medi", "nltv", "nltgv") if n in NAMES])
def test_more_penalty_gives_less_variation(name):
    field, mask, _, _ = head(SMALL, seed=10)
    variation = []
    for factor in (0.3, 1.0, 5.0):
        weight = factor * WEIGHTS[name]
        chi = invert(name, field, mask, SMALL, {"weight": weight}).chi_ppm
        variation.append(sum(np.abs(np.diff(chi, axis=a)).sum() for a in range(3)))
    assert variation[0] > 1.05 * variation[1] > 1.1 * variation[2]


def test_tv_stops_at_the_minimum_of_its_objective():
    field, mask, _, _ = head(SMALL, seed=11)
    loose = invert("tv", field, mask, SMALL, {"tolerance": 1e-3}).chi_ppm
    tight = invert("tv", field, mask, SMALL, {"tolerance": 1e-6, "max_iter": 3000, "rho": 0.02})
    assert np.abs(loose - tight.chi_ppm).max() < 0.05 * np.abs(tight.chi_ppm).max()


def test_admm_solves_a_denoising_problem_known_in_closed_form():
    """Two plateaus of 8 voxels, periodic: each moves by two jumps' penalty over its length."""
    grid = Grid((16, 4, 4), (0.5, 1.0, 2.0))
    space = Spectral(grid, 1.0, "cpu")
    step = torch.ones(grid.shape)
    step[8:] = -1.0
    split = TotalVariation(space, torch.ones_like(space.dipole), weight=0.3, rho=1.0)
    chi = split.solve(space.fft(step + 0.7))
    for _ in range(500):
        split.shrink(chi)
        chi = split.solve(space.fft(step + 0.7))
    expected = 0.7 + step * (1.0 - 2 * 0.3 / 0.5 / 8)
    torch.testing.assert_close(chi, expected, atol=2e-4, rtol=0)


@pytest.mark.parametrize("given", [False, True])
@pytest.mark.parametrize("batch", [(), (2,)])
@pytest.mark.parametrize("relaxation", [1.0, 1.7])
def test_a_new_weight_leaves_the_multipliers(relaxation, batch, given):
    """Against the split written out with the multiplier kept by itself; over-relaxation, and a weight that changes as a
    whole, and for each voxel beside faces that were given."""
    grid = Grid((6, 5, 4), (0.5, 1.0, 2.0))
    space = Spectral(grid, 1.0, "cpu")
    rng = np.random.default_rng(0)
    fixed = [rng.uniform(0.2, 1, space.shape) if given else np.ones(space.shape) for _ in range(3)]
    faces = [torch.from_numpy(face.astype(np.float32)) for face in fixed] if given else None
    hessian = torch.ones_like(space.dipole)
    split = TotalVariation(space, hessian, 0.3, 1.0, faces, batch, relaxation)
    multipliers, splits = np.zeros((2, 3, *batch, *space.shape))
    shares = np.ones(space.shape)
    for weight, follows in ((0.3, False), (0.3, True), (0.05, False), (0.05, True), (0.2, True), (0.2, False)):
        split.set_weight(weight)
        if follows:
            shares = rng.uniform(0.1, 1, space.shape)
            split.share(torch.from_numpy(shares.astype(np.float32)))
        chi = rng.standard_normal((*batch, *space.shape)).astype(np.float32)
        split.shrink(torch.from_numpy(chi))
        pull = np.zeros(chi.shape)
        for axis, mm in enumerate(grid.voxel_mm):
            most = weight / split.rho * fixed[axis] * np.minimum(shares, np.roll(shares, -1, axis))
            gradient = (np.roll(chi, -1, axis - 3) - chi) / mm
            total = relaxation * gradient + (1 - relaxation) * splits[axis] + multipliers[axis]
            multipliers[axis] = np.clip(total, -most, most)
            splits[axis] = total - multipliers[axis]
            step = splits[axis] - multipliers[axis]
            pull += split.rho / mm * (np.roll(step, 1, axis - 3) - step)
        np.testing.assert_allclose(split.pull.numpy(), pull, atol=1e-4)


def test_medi_is_blind_to_whole_turns_and_uses_the_edges():
    field, mask, chi, magnitude = head(GRID, seed=12)
    rad_per_ppm = 30.0
    plain = invert("medi", field, mask, GRID, magnitude=magnitude, rad_per_ppm=rad_per_ppm).chi_ppm
    turned = field + (np.random.default_rng(0).random(GRID.shape) < 0.01) * np.float32(2 * np.pi / rad_per_ppm)
    other = invert("medi", turned, mask, GRID, magnitude=magnitude, rad_per_ppm=rad_per_ppm).chi_ppm
    np.testing.assert_allclose(other, plain, atol=0.05 * np.abs(plain).max())
    assert nrmse(other, plain, mask) < 0.02
    assert nrmse(invert("tv", turned, mask, GRID).chi_ppm, chi, mask) > 1.3 * nrmse(plain, chi, mask)
    blind = invert("medi", field, mask, GRID, rad_per_ppm=rad_per_ppm).chi_ppm
    assert nrmse(plain, chi, mask) < 0.95 * nrmse(blind, chi, mask)


def test_a_strong_source_does_not_lead_nonlinear_descents_to_another_turn():
    """The peak of its phase is 5.6 rad; the descent from the sine alone ends at errors of 0.99 and 0.80."""
    _, mask, chi, magnitude = head(GRID, seed=12)
    chi = chi.copy()
    chi[20:24, 22:26, 16:20] = 1.0
    field = np.where(mask, forward_field(chi, GRID), 0).astype(np.float32)
    rad_per_ppm = 16.0
    assert np.abs(field[mask]).max() * rad_per_ppm > np.pi
    for method, most in (("medi", 0.05), ("ndi", 0.5)):
        got = invert(method, field, mask, GRID, magnitude=magnitude, rad_per_ppm=rad_per_ppm).chi_ppm
        unfolded = invert(method, field, mask, GRID, magnitude=magnitude, rad_per_ppm=0.1).chi_ppm
        assert nrmse(got, chi, mask) < min(most, 1.3 * nrmse(unfolded, chi, mask))


def test_medi_without_edges_agrees_with_tv():
    """The same objective to second order in the phase, minimised in two unlike ways."""
    field, mask, _, _ = head(GRID, seed=13)
    settings = {"weight": 4e-4, "max_iter": 30, "cg_iter": 100, "tolerance": 1e-3}
    first = invert("medi", field, mask, GRID, settings, rad_per_ppm=0.1).chi_ppm
    second = invert("tv", field, mask, GRID, {"weight": 4e-4, "tolerance": 1e-5, "max_iter": 2000}).chi_ppm
    assert nrmse(first, second, mask) < 0.08


@pytest.mark.parametrize("name", ["tv", "medi", "nltv", "nltgv", "whqsm"])
def test_slabs_are_not_next_to_their_images(name):
    """A few slices with B0 across them: periodic copies of the slab must keep away."""
    whole = Grid((48, 50, 44), (1.0, 1.0, 1.0))
    _, mask, chi, magnitude = head(whole, seed=4, noise_ppm=0.001)
    slab = np.zeros_like(mask)
    slab[:, :, 16:26] = mask[:, :, 16:26]
    local = (forward_field((chi * slab).astype(np.float32), whole) * slab).astype(np.float32)
    noise = np.random.default_rng(4).normal(0, 0.001, slab.shape).astype(np.float32)
    found = invert(name, local + noise * slab, slab, whole, magnitude=magnitude).chi_ppm
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(problems, "LEAST_ROOM", 0.0)
        close = invert(name, local + noise * slab, slab, whole, magnitude=magnitude).chi_ppm
    assert nrmse(found, chi, slab) < 0.9 * nrmse(close, chi, slab)


def test_room_of_a_head_and_of_a_slab():
    head_shape = problems.roomy_shape(Grid((150, 180, 150), (1.0, 1.0, 1.0)), 1.25)
    assert head_shape == problems.padded_shape((150, 180, 150), 1.25)
    slab = problems.roomy_shape(Grid((180, 200, 8), (1.0, 1.0, 2.0)), 1.25)
    assert slab == problems.padded_shape((225, 250, 28), 1.0)
    flat = (60, 60, 8)
    for factor in (1.0, 2.0):
        assert problems.roomy_shape(Grid(flat, (1.0, 1.0, 1.0)), factor) == problems.padded_shape(flat, factor)


def test_a_weight_follows_the_residual_before_a_map_counts_as_settled():
    field, mask, _, _ = head(GRID, seed=3, noise_ppm=0.002)
    for name, loose in (("nltgv", {"tolerance": 0.03}), ("tv", {"tolerance": 0.03, "edge_weight": 1.0})):
        found = invert(name, field, mask, GRID, loose)
        assert found.iterations >= 11
        best = invert(name, field, mask, GRID, {**loose, "tolerance": 3e-3})
        assert found.info["weight"] == pytest.approx(best.info["weight"], rel=0.3)
    assert invert("nltgv", field, mask, GRID, {"tolerance": 0.5, "weight": 2e-4}).iterations < 11


def test_the_weight_of_medi_is_that_of_the_voxels_that_take_part():
    field, mask, _, magnitude = head(GRID, seed=14, noise_ppm=0.002)
    source = np.zeros(GRID.shape)
    source[22, 25, -1] = 600.0
    loud = field + np.where(mask, forward_field(source, GRID), 0).astype(np.float32)
    weights = [
        invert("medi", f, mask, GRID, {"smv_radius_mm": 4.0}, magnitude=magnitude).info["weight"] for f in (field, loud)
    ]
    assert weights[1] == pytest.approx(weights[0], rel=0.25)


def test_medi_spherical_mean_takes_off_harmonic_fields():
    field, mask, chi, magnitude = head(GRID, seed=14, noise_ppm=0.001)
    source = np.zeros(GRID.shape)
    source[22, 25, -1] = 600.0
    field = field + np.where(mask, forward_field(source, GRID), 0).astype(np.float32)
    place = np.indices(GRID.shape) - np.reshape([21.5, 24.5, 18.5], (3, 1, 1, 1))
    core = np.sum((place / np.reshape([12, 14, 10], (3, 1, 1, 1))) ** 2, axis=0) < 1
    got = invert("medi", field, mask, GRID, {"smv_radius_mm": 3.0}, magnitude=magnitude).chi_ppm
    assert nrmse(got, chi, core) < 0.6 < nrmse(tkd(field, mask, GRID).chi_ppm, chi, core)
    with pytest.raises(DataError, match="surface"):
        invert("medi", field, mask, GRID, {"smv_radius_mm": 40.0})


def test_tkd_inverts_the_kernel_and_can_lift_its_bias():
    kernel = torch.tensor([-2 / 3, -0.1, 0.0, 0.05, 0.2, 1 / 3])
    expected = torch.tensor([-1.5, -1 / 0.15, 0.0, 1 / 0.15, 5.0, 3.0])
    torch.testing.assert_close(truncated_inverse(kernel, 0.15), expected)
    field, mask, chi, _ = head(GRID, noise_ppm=0.0)
    slopes = []
    for correct in (False, True):
        result = invert("tkd", field, mask, GRID, {"threshold": 0.2, "correct_bias": correct})
        slopes.append(np.polyfit(chi[mask], result.chi_ppm[mask], 1)[0])
    assert 0.6 < result.info["psf_centre"] < 0.95
    assert slopes[0] < 0.9
    assert abs(slopes[1] - 1) < abs(slopes[0] - 1)


def test_data_consistency_repairs_the_well_conditioned_part():
    field, mask, chi, _ = head(GRID, noise_ppm=0.001)
    prior = 0.5 * chi
    for fill in (False, True):
        repaired = data_consistency(prior, field, mask, GRID, 0.05, fill_outside=fill)
        assert nrmse(repaired, chi, mask) < 0.7 * nrmse(prior, chi, mask)
        assert not repaired[~mask].any()
    kept = data_consistency(prior, field, mask, GRID, 1e6)
    np.testing.assert_allclose(kept, prior, atol=1e-5)
    true = data_consistency(chi, forward_field(chi, GRID), mask, GRID, 0.1, fill_outside=True)
    np.testing.assert_allclose(true, chi, atol=0.02 * np.abs(chi).max())
    for weight in (0.0, -1.0, np.nan):
        with pytest.raises(UsageError):
            data_consistency(chi, field, mask, GRID, weight)


def test_lsqr_agrees_with_a_dense_solver():
    rng = np.random.default_rng(15)
    matrix, data = torch.from_numpy(rng.normal(size=(30, 12))), torch.from_numpy(rng.normal(size=30))
    got = lsqr(lambda x: matrix @ x, lambda y: matrix.T @ y, data, tolerance=1e-14, max_iter=100)
    expected = np.linalg.lstsq(matrix.numpy(), data.numpy(), rcond=None)[0]
    np.testing.assert_allclose(got.x.numpy(), expected, atol=1e-9)
    short = lsqr(lambda x: matrix @ x, lambda y: matrix.T @ y, data, tolerance=1e-14, max_iter=5)
    residual = float(torch.linalg.vector_norm(matrix @ short.x - data) / torch.linalg.vector_norm(data))
    normal = matrix.T @ (data - matrix @ short.x)
    assert short.residual == pytest.approx(residual, rel=1e-9)
    assert short.normal_residual == pytest.approx(
        float(torch.linalg.vector_norm(normal) / torch.linalg.vector_norm(matrix.T @ data)), rel=1e-6
    )


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_difference_and_adjoint_match_and_have_the_stated_symbol(axis):
    grid = Grid((6, 8, 10), (0.7, 1.0, 1.9))
    rng = np.random.default_rng(16)
    x, y = (torch.from_numpy(rng.normal(size=grid.shape).astype(np.float32)) for _ in range(2))
    total = torch.zeros(grid.shape)
    add_adjoint(total, y, axis, 1 / grid.voxel_mm[axis])
    assert float((difference(x, axis, grid.voxel_mm[axis]) * y).sum()) == pytest.approx(
        float((x * total).sum()), rel=1e-4
    )
    space = Spectral(grid, 1.0, "cpu")
    total = torch.zeros(grid.shape)
    for a, mm in enumerate(grid.voxel_mm):
        add_adjoint(total, difference(x, a, mm), a, 1 / mm)
    torch.testing.assert_close(total, space.ifft(space.fft(x) * space.laplacian()), atol=2e-5, rtol=1e-4)
    ones = torch.ones_like(space.dipole)
    assert space.mean(ones) == pytest.approx(1.0)
    assert space.mean(space.dipole) == pytest.approx(float(space.ifft(space.dipole + 0j)[0, 0, 0]), abs=1e-6)


def test_the_box_is_that_of_the_mask_and_weights_are_limited():
    mask = np.zeros((9, 10, 11), bool)
    mask[2:5, 3:9, 4:6] = True
    weights = np.full(mask.shape, 0.1)
    weights[2, 3, 4] = 1.0
    problem = prepare(np.ones(mask.shape), mask, Grid(mask.shape, (1, 2, 3)), weights=weights)
    assert problem.grid.shape == (3, 6, 2)
    assert problem.box == (slice(2, 5), slice(3, 9), slice(4, 6))
    inside = problem.weights[problem.mask]
    assert float((inside**2).mean()) == pytest.approx(1.0, rel=1e-5)
    assert float(inside.max() / inside.min()) < 10
