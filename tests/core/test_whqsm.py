"""Weak-harmonic regularisation against a slow restatement, and on fields with a harmonic part."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from dipole_cases import head, nrmse, positions_mm

from qsmprep.core.grid import Grid
from qsmprep.core.inversion import fansi
from qsmprep.core.inversion.admm import TotalVariation
from qsmprep.core.inversion.auto import Weight
from qsmprep.core.inversion.phaseterm import PhaseTerm
from qsmprep.core.inversion.problem import Spectral, prepare
from qsmprep.core.inversion.whqsm import ALIKE, solve
from qsmprep.core.methods import METHODS
from qsmprep.core.parameters import NltvParams, WhqsmParams

RAD_PER_PPM = 16.0
CUBE = Grid((12, 10, 8), (1.0, 1.0, 1.0))
GRID = Grid((36, 40, 30), (1.0, 1.0, 1.0), (0.0, 0.2, 1.0))


def invert(name, field, mask, grid, overrides=None, **inputs):
    method = METHODS.get("inversion", name)
    return method.load()(field, mask, grid, method.configure(overrides), **inputs)


def alternating(phase, weights2, mask, weight, beta, mu, mu2, muh, iterations):
    """Map, gradient, phase and harmonic field in turn, each with the other held, as first published."""
    shape, axes = phase.shape, range(3)
    k = np.meshgrid(*[np.fft.fftfreq(n) for n in shape], indexing="ij")
    k2 = sum(axis**2 for axis in k)
    k2[0, 0, 0] = 1.0
    kernel = 1 / 3 - k[2] ** 2 / k2
    kernel[0, 0, 0] = 0.0
    symbols = [np.exp(2j * np.pi * axis) - 1 for axis in k]
    squared = sum(np.abs(e) ** 2 for e in symbols)
    zd, sd = (np.zeros((3, *shape)) for _ in range(2))
    z2, s2, h, zh, sh = phase * (weights2 > 0), *(np.zeros(shape) for _ in range(4))
    fft, ifft = np.fft.fftn, lambda spectrum: np.fft.ifftn(spectrum).real
    below = mu2 * kernel**2 + mu * squared
    below[0, 0, 0] = 1.0
    for _ in range(iterations):
        top = mu2 * kernel * fft(z2 - s2 - h) + mu * sum(np.conj(symbols[a]) * fft(zd[a] - sd[a]) for a in axes)
        top[0, 0, 0] = 0.0
        fx = top / below
        x, dx = ifft(fx), ifft(kernel * fx)
        gradient = np.stack([np.roll(x, -1, a) - x for a in axes])
        zd = np.sign(gradient + sd) * np.maximum(np.abs(gradient + sd) - weight / mu, 0)
        sd += gradient - zd
        right = dx + s2 + h
        z2 = right.copy()
        for _ in range(6):
            z2 -= (weights2 * np.sin(z2 - phase) + mu2 * (z2 - right)) / (weights2 * np.cos(z2 - phase) + mu2)
        fh = (muh * squared * fft(zh - sh) + mu2 * fft(z2 - s2) - mu2 * kernel * fx) / (mu2 + muh * squared**2)
        h, bent = ifft(fh), ifft(squared * fh)
        zh = muh * (bent + sh) / (muh + beta * mask)
        s2 += dx - z2 + h
        sh += bent - zh
    return x, h


def test_agrees_with_the_published_alternation():
    """Both converge slowly: they come closer with more iterations, and lie far from nonlinear TV."""
    field, mask, _, _ = head(CUBE, seed=1)
    mask[:] = True
    mask[0] = mask[:, :1] = mask[..., -1] = False
    weights = np.where(mask, np.random.default_rng(1).uniform(0.5, 1.0, CUBE.shape), 0.0)
    problem = prepare(field, np.ones(CUBE.shape, bool), CUBE)
    problem.weights.copy_(torch.from_numpy(weights.astype(np.float32)))
    problem.mask.copy_(torch.from_numpy(mask))
    weight, beta, rho, muh = 4e-4, 20.0, 0.05, 3.0
    settings = {"weight": RAD_PER_PPM * weight, "beta": beta, "mu": rho, "mu2": 1.0, "muh": muh}
    expected, h = alternating(RAD_PER_PPM * field, weights**2, mask, **settings, iterations=600)
    space, errors = Spectral(CUBE, 1.0, "cpu"), []
    for iterations in (30, 400):
        params = WhqsmParams(weight, 1.0, beta, rho, muh, tolerance=0.0, max_iter=iterations)
        errors.append(nrmse(solve(problem, space, params, RAD_PER_PPM).chi_ppm, expected / RAD_PER_PPM, mask))
    split, term = TotalVariation(space, space.dipole**2, weight, rho), PhaseTerm(problem, RAD_PER_PPM, 1.0)
    held = Weight(weight, 0.1, problem)
    without = fansi.solve(problem, space, split, term, NltvParams(tolerance=0.0, max_iter=400), held).chi_ppm
    assert errors[1] < 0.05
    assert errors[1] < 0.5 * errors[0]
    assert errors[1] < 0.2 * nrmse(without, expected / RAD_PER_PPM, mask)
    assert h[mask].std() > 0.02 * (RAD_PER_PPM * field[mask]).std(), "the harmonic field takes a part"


@pytest.mark.parametrize(
    "remnant",
    [
        lambda x, y, z: z**2 - (x**2 + y**2) / 2,
        lambda x, y, z: x**3 - 3 * x * y**2 + x * y * z,
        lambda x, y, z: 1.5 * z,
    ],
    ids=["quadratic", "cubic", "uniform gradient"],
)
def test_takes_a_harmonic_field_off(remnant):
    field, mask, chi, _ = head(GRID, seed=2)
    extra = np.where(mask, 0.02 * remnant(*positions_mm(GRID) / 20), 0).astype(np.float32)
    result = invert("whqsm", field + extra, mask, GRID, {"max_iter": 60, "harmonic": "yes"})
    without = nrmse(invert("nltv", field + extra, mask, GRID, {"max_iter": 60}).chi_ppm, chi, mask)
    assert nrmse(result.chi_ppm, chi, mask) < 0.45 * without
    assert result.info["harmonic_ppm"] == pytest.approx(extra[mask].std(), rel=0.25)
    assert np.std((result.remainder_ppm - extra)[mask]) < 0.3 * extra[mask].std()
    off = METHODS.get("remainder", "weakharmonic")
    params = off.configure({"max_iter": 60, "harmonic": "yes"})
    local = off.load()(field + extra, mask, GRID, params)
    np.testing.assert_allclose(local.field_ppm, (field + extra - result.remainder_ppm) * mask, atol=1e-7)
    kept = METHODS.get("remainder", "keep")
    left = kept.load()(field + extra, mask, GRID, kept.configure())
    assert np.array_equal(left.field_ppm, field + extra) and np.array_equal(left.mask, mask)


def test_voxels_far_off_count_as_remainder_for_methods_that_forgive_nothing():
    field, mask, chi, _ = head(GRID, seed=2)
    wild = mask & (np.random.default_rng(1).random(GRID.shape) < 0.003)
    turned = field + wild * np.float32(2 * np.pi / 16.0)
    off, keep = (
        METHODS.get("remainder", "weakharmonic").configure({"harmonic": "yes", "outliers": limit}) for limit in (8, 0)
    )
    cleaned = METHODS.get("remainder", "weakharmonic").load()(turned, mask, GRID, off, rad_per_ppm=16.0)
    as_is = METHODS.get("remainder", "weakharmonic").load()(turned, mask, GRID, keep, rad_per_ppm=16.0)
    assert cleaned.info["outlier_share"] == pytest.approx(wild.sum() / mask.sum(), rel=0.1)
    assert as_is.info["outlier_share"] == 0.0
    same = mask & ~wild
    np.testing.assert_allclose(cleaned.field_ppm[same], as_is.field_ppm[same], atol=2e-3)
    assert np.abs((cleaned.field_ppm - field)[wild]).mean() < 0.3 * np.abs((as_is.field_ppm - field)[wild]).mean()
    errors = [nrmse(invert("tv", local.field_ppm, mask, GRID).chi_ppm, chi, mask) for local in (cleaned, as_is)]
    assert errors[0] < 0.5 * errors[1]


def test_a_part_of_the_harmonic_field_is_taken_off():
    """The map does not depend on how much of it is remainder."""
    field, mask, _, _ = head(GRID, seed=2)
    x, _, z = positions_mm(GRID)
    field = field + mask * (2e-4 * z + 1e-4 * x).astype(np.float32)
    maps = {part: invert("whqsm", field, mask, GRID, {"harmonic": "yes", "outliers": 0, "taken": part})
            for part in (0.0, 0.6, 1.0)}  # fmt: skip
    for part in (0.6, 1.0):
        assert np.array_equal(maps[part].chi_ppm, maps[0.0].chi_ppm)
        np.testing.assert_allclose(maps[part].remainder_ppm, part * maps[0.0].remainder_ppm, rtol=1e-5, atol=1e-9)
    assert np.abs(maps[1.0].remainder_ppm).max() > 1e-3


def test_without_a_spread_no_voxel_is_an_outlier():
    """Most weights are zero; those voxels say nothing of how far off is far."""
    field, mask, _, _ = head(GRID, seed=2)
    rng = np.random.default_rng(3)
    weights = (mask & (rng.random(GRID.shape) < 0.4)).astype(np.float32)
    found = METHODS.get("inversion", "whqsm").load()(
        field, mask, GRID, WhqsmParams(harmonic="yes", max_iter=20), weights=weights
    )
    assert found.info["outlier_share"] < 0.05
    assert found.info["weight"] > 0


def test_costs_little_where_nothing_is_left():
    field, mask, chi, _ = head(GRID, seed=2)
    clean = invert("whqsm", field, mask, GRID, {"harmonic": "yes"})
    assert nrmse(clean.chi_ppm, chi, mask) < 1.15 * nrmse(invert("nltv", field, mask, GRID).chi_ppm, chi, mask)
    assert clean.info["harmonic_ppm"] < 0.3 * field[mask].std()


def test_a_whole_local_field_is_not_taken_apart():
    """Where nothing was removed, a harmonic field that resembles the map's is given up but for its mean, and nonlinear
    TV is left."""
    field, mask, _, _ = head(GRID, seed=2)
    found = invert("whqsm", field, mask, GRID)
    plain = invert("nltv", field - found.remainder_ppm, mask, GRID)
    np.testing.assert_allclose(found.chi_ppm, plain.chi_ppm, atol=1e-5 * np.abs(plain.chi_ppm).max())
    assert np.ptp(found.remainder_ppm[mask]) == 0 and found.info["harmonic_ppm"] == 0.0
    assert abs(found.info["offset_ppm"]) < 0.1 * field[mask].std()
    assert found.info["harmonic_alike"] > ALIKE
    assert found.iterations > plain.iterations, "both are counted"


@pytest.mark.parametrize("offset_ppm", [0.002, -0.02])
def test_a_shift_of_the_frequency_is_taken_off_a_whole_local_field(offset_ppm):
    """A constant is harmonic, and no part of a map's field: it goes where the harmonic field is given up, too."""
    field, mask, chi, _ = head(GRID, seed=2, noise_ppm=0.001)
    plain = invert("whqsm", field, mask, GRID)
    moved = invert("whqsm", (field + offset_ppm * mask).astype(np.float32), mask, GRID)
    assert moved.info["offset_ppm"] - plain.info["offset_ppm"] == pytest.approx(offset_ppm, rel=0.1)
    assert nrmse(moved.chi_ppm, chi, mask) < 1.05 * nrmse(plain.chi_ppm, chi, mask)


@pytest.mark.parametrize(("background", "most"), [("pdf", 0.7), ("resharp", 0.7), ("tfi", 0.85)])
def test_what_background_removal_leaves_is_taken_off(background, most):
    """What these methods remove holds the harmonic part of the local field: the opposite is left to find. TFI leaves
    little, 1 % of the total field where PDF and RESHARP leave 4 and 3 %."""
    grid = Grid((48, 52, 40), (1.0, 1.0, 1.0), (0.0, 0.2, 1.0))
    field, mask, chi, _ = head(grid, seed=2)
    x, y, z = positions_mm(grid) / 20
    total = np.where(mask, field + 0.3 * z + 0.2 * (z**2 - (x**2 + y**2) / 2) + 0.1 * x * y * z, 0)
    method = METHODS.get("background", background)
    local = method.load()(total.astype(np.float32), mask, grid, method.configure())
    found, sure = (invert("whqsm", local.field_ppm, local.mask, grid, {"harmonic": how}) for how in ("auto", "yes"))
    assert np.array_equal(found.chi_ppm, sure.chi_ppm)
    assert np.array_equal(found.remainder_ppm, sure.remainder_ppm)
    inside = local.mask
    left = (local.field_ppm - field)[inside]
    assert np.std(left - found.remainder_ppm[inside]) < most * np.std(left)
    plain = invert("nltv", local.field_ppm, inside, grid).chi_ppm
    assert nrmse(found.chi_ppm, chi, inside) < most * nrmse(plain, chi, inside)


def test_the_weights_carry_lengths():
    """A grid twice as coarse in mm with both weights scaled along is the same problem."""
    grid = Grid((15, 18, 20), (1.0, 1.2, 0.8), (0.2, -0.3, 0.9))
    field, mask, _, _ = head(grid, seed=5)
    wide = Grid(grid.shape, tuple(2 * v for v in grid.voxel_mm), grid.b0_dir)
    fine = invert("whqsm", field, mask, grid, {"weight": 2e-4, "beta": 100.0}).chi_ppm
    coarse = invert("whqsm", field, mask, wide, {"weight": 4e-4, "beta": 1600.0}).chi_ppm
    np.testing.assert_allclose(coarse, fine, atol=2e-3 * np.abs(fine).max())
