"""Weights chosen from the data: what they follow, what they must not depend on, how near the best they come."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from dipole_cases import MOVES, head, move, move_grid, nrmse

from qsmprep.core.grid import Grid
from qsmprep.core.inversion.auto import Weight, robust_sd
from qsmprep.core.inversion.l2 import likeliest_weight
from qsmprep.core.inversion.problem import Spectral, prepare
from qsmprep.core.methods import METHODS

GRID = Grid((28, 32, 26), (1.0, 1.0, 1.0), (0.0, 0.2, 1.0))
SMALL = Grid((16, 18, 20), (1.0, 1.2, 0.8), (0.2, -0.3, 0.9))
FOLLOWING = ("tv", "nltv", "nltgv", "whqsm", "rts", "medi")
ALL = (*FOLLOWING, "l2")
QUICK = {"nltgv": {"max_iter": 30}, "whqsm": {"max_iter": 30}, "nltv": {"max_iter": 40}}
BEST = {"tv": (5e-5, 8e-4), "l2": (1e-3, 0.3), "rts": (1e-3, 2e-2), "medi": (1e-4, 1.6e-3)}
"""Range in which the best fixed weight of a head is searched."""


def invert(name, field, mask, grid, weight, **inputs):
    method = METHODS.get("inversion", name)
    settings = method.configure({"weight": weight, **QUICK.get(name, {})})
    return method.load()(field, mask, grid, settings, **inputs)


@pytest.mark.parametrize("name", sorted(BEST))
@pytest.mark.parametrize("noise_ppm", [0.001, 0.004])
def test_comes_near_the_best_fixed_weight(name, noise_ppm):
    field, mask, chi, magnitude = head(GRID, seed=1, noise_ppm=noise_ppm)
    chosen = nrmse(invert(name, field, mask, GRID, 0.0, magnitude=magnitude).chi_ppm, chi, mask)
    fixed = [
        nrmse(invert(name, field, mask, GRID, w, magnitude=magnitude).chi_ppm, chi, mask)
        for w in np.geomspace(*BEST[name], 4)
    ]
    assert chosen < min(fixed) + 0.04
    assert chosen < 0.95 * max(fixed)


@pytest.mark.parametrize("name", ALL)
def test_follows_the_noise_and_scales_with_the_field(name):
    field, mask, _, magnitude = head(SMALL, seed=2, noise_ppm=0.001)
    noisy = (field + mask * np.random.default_rng(2).normal(0, 0.008, SMALL.shape)).astype(np.float32)
    small = {"rad_per_ppm": 0.1} if name != "l2" else {}
    quiet, loud, double = (
        invert(name, f, mask, SMALL, 0.0, magnitude=magnitude, **small) for f in (field, noisy, 2 * field)
    )
    assert loud.info["weight"] > 1.5 * quiet.info["weight"] > 0
    power = 0 if name == "l2" else 1
    near = 0.1 if name == "medi" else 0.02  # its total variation is rounded off at a fixed gradient
    assert double.info["weight"] == pytest.approx(2**power * quiet.info["weight"], rel=near)
    np.testing.assert_allclose(double.chi_ppm, 2 * quiet.chi_ppm, atol=0.5 * near * np.abs(double.chi_ppm).max())


@pytest.mark.parametrize("name", ["tv", "l2"])
def test_a_coarser_grid_has_a_larger_weight(name):
    """The same numbers on voxels twice as wide are the same problem."""
    field, mask, _, _ = head(SMALL, seed=3)
    wide = dataclasses.replace(SMALL, voxel_mm=tuple(2 * v for v in SMALL.voxel_mm))
    fine, coarse = (invert(name, field, mask, grid, 0.0) for grid in (SMALL, wide))
    assert coarse.info["weight"] == pytest.approx((4 if name == "l2" else 2) * fine.info["weight"], rel=0.02)
    np.testing.assert_allclose(coarse.chi_ppm, fine.chi_ppm, atol=5e-3 * np.abs(fine.chi_ppm).max())


def test_single_spoilt_voxels_do_not_decide():
    field, mask, _, _ = head(SMALL, seed=4)
    spoilt = field.copy()
    spoilt[tuple(np.argwhere(mask)[::397].T)] += 0.5
    clean, dirty = (invert("tv", f, mask, SMALL, 0.0).info for f in (field, spoilt))
    assert dirty["residual_ppm"] > 4 * clean["residual_ppm"]
    assert dirty["weight"] < 3 * clean["weight"]


def test_a_given_weight_is_kept():
    field, mask, _, _ = head(SMALL, seed=5)
    weight = Weight(3e-4, 0.1, prepare(field, mask, SMALL))
    assert (weight.follows, weight.value, weight.due(10)) == (False, 3e-4, False)
    for name in FOLLOWING:
        assert invert(name, field, mask, SMALL, 3e-4).info["weight"] == 3e-4


def test_robust_sd_of_normal_numbers():
    volume = torch.from_numpy(np.random.default_rng(6).normal(0, 2.5, (40, 40, 40)))
    mask = torch.ones(volume.shape, dtype=torch.bool)
    mask[:5] = False
    volume[:5] = 1e6
    assert robust_sd(volume, mask) == pytest.approx(2.5, rel=0.02)


def test_likeliest_weight_of_a_field_drawn_from_the_prior():
    """Noise plus the field of a map whose gradient is normal: the ratio of the variances is known."""
    grid = Grid((48, 40, 36), (1.0, 1.0, 1.5), (0.0, 0.3, 1.0))
    space = Spectral(grid, 1.0, "cpu")
    rng = torch.Generator().manual_seed(7)
    white, noise = (torch.randn(space.shape, generator=rng) for _ in range(2))
    root = space.laplacian().sqrt()
    root[0, 0, 0] = 1.0
    for ratio in (0.02, 0.3):
        spectrum = space.fft(white) * (space.dipole / root) + np.sqrt(ratio) * space.fft(noise)
        assert likeliest_weight(space, spectrum) == pytest.approx(ratio, rel=0.15)
    assert likeliest_weight(space, 0 * spectrum) > 0


def test_likeliest_weight_does_not_depend_on_the_order_of_the_axes():
    field, mask, _, _ = head(SMALL, seed=8)
    found = []
    for order, signs in MOVES[::7]:
        problem = prepare(move(field, order, signs), move(mask, order, signs), move_grid(SMALL, order, signs))
        space = Spectral(problem.grid, 2.0, "cpu")
        found.append(likeliest_weight(space, space.fft(problem.field_ppm)))
    assert max(found) == pytest.approx(min(found), rel=5e-3)


def test_the_methods_text_tells_how_the_weight_was_chosen():
    method = METHODS.get("inversion", "tv")
    told = method.describe(method.configure({"weight": 0}))
    assert "(weight chosen from the residual, of which the steepest edges kept 0.5)" in told
    assert "(weight 0.0003 ppm mm, of which" in method.describe(method.configure({"weight": 3e-4}))
