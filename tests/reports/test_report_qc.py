"""Quality metrics: the analytic value where there is one, and a number that rises with the fault."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from qsmprep.core.dipole import dipole_kernel, forward_field
from qsmprep.core.grid import Grid
from qsmprep.core.kspace import spatial_frequency
from qsmprep.errors import DataError
from qsmprep.reports import qc

TILT = (0.0, math.sin(math.radians(20)), math.cos(math.radians(20)))


def ball(shape, radius, voxel_mm=(1.0, 1.0, 1.0)):
    axes = [(np.arange(n) - (n - 1) / 2) * mm for n, mm in zip(shape, voxel_mm, strict=True)]
    return sum(a.reshape([-1 if b == i else 1 for b in range(3)]) ** 2 for i, a in enumerate(axes)) <= radius**2


def moved(volume, grid, order, flips):
    """The volume and its grid with the axes in another order and direction."""
    result = np.transpose(volume, order)[tuple(slice(None, None, f) for f in flips)]
    b0 = tuple(grid.b0_dir[a] * f for a, f in zip(order, flips, strict=True))
    return result, Grid(result.shape, tuple(grid.voxel_mm[a] for a in order), b0)


def test_volume_and_excluded_fraction():
    mask = np.zeros((10, 12, 14), bool)
    mask[2:6, 2:7, 2:12] = True
    grid = Grid(mask.shape, (0.5, 2.0, 3.0))
    assert qc.mask_volume_ml(mask, grid) == pytest.approx(4 * 5 * 10 * 3.0 / 1000)
    inner = mask.copy()
    inner[2] = False
    assert qc.excluded_fraction(mask, inner) == pytest.approx(0.25)
    assert qc.excluded_fraction(mask, mask) == 0
    assert qc.excluded_fraction(mask, ~mask) == 1


@pytest.mark.parametrize("sd", [2.0, 10.0])
def test_noise_and_snr_of_a_smooth_image_with_known_noise(sd):
    rng = np.random.default_rng(1)
    mask = ball((40, 44, 48), 18)
    x, y, _ = np.indices(mask.shape)
    image = 500 + 3 * x + 0.05 * (y - 20) ** 2 + np.where(mask & (x > 25), 120, 0) + rng.normal(0, sd, mask.shape)
    assert qc.noise_sd(image, mask) == pytest.approx(sd, rel=0.04)
    assert qc.snr(image, mask) == pytest.approx(np.median(image[mask]) / sd, rel=0.04)


@pytest.mark.parametrize("contrast", [1.0, 3.0])
def test_contrast_to_noise_of_blocks_with_known_noise(contrast):
    rng = np.random.default_rng(5)
    blocks = np.kron(rng.choice([-1.0, 1.0], (5, 5, 5)), np.ones((8, 8, 8))) * contrast * 0.02
    mask = np.ones(blocks.shape, bool)
    chi = blocks + rng.normal(0, 0.02, blocks.shape)
    assert qc.contrast_to_noise(chi, mask) == pytest.approx(contrast, rel=0.08)
    assert qc.contrast_to_noise(np.zeros(mask.shape), mask) == math.inf


def test_snr_without_noise_is_infinite_and_zero_outside_does_not_matter():
    mask = ball((20, 20, 20), 8)
    assert qc.snr(np.full(mask.shape, 7.0), mask) == math.inf
    rng = np.random.default_rng(0)
    image = 100 + rng.normal(0, 1, mask.shape)
    assert qc.noise_sd(np.where(mask, image, 0), mask) == qc.noise_sd(image, mask)


def test_residual_wraps_counts_the_faces_of_a_block_that_is_off_by_a_turn():
    mask = np.ones((12, 13, 14), bool)
    phase = 0.3 * np.indices(mask.shape)[1]
    assert qc.residual_wraps(phase, mask) == 0
    phase[4:6, 5:8, 6:10] += 2 * math.pi
    faces = 2 * (2 * 3 + 3 * 4 + 2 * 4)
    assert qc.residual_wraps(phase, mask) == faces
    mask[3] = False
    assert qc.residual_wraps(phase, mask) == faces - 3 * 4


def test_residual_metrics_count_what_is_not_finite():
    mask = np.ones((4, 5, 10), bool)
    residual = np.full(mask.shape, 0.05)
    assert qc.residual_median(residual, mask) == pytest.approx(0.05)
    assert qc.residual_fraction_above(residual, mask) == 0
    residual[0] = 0.5
    residual[1] = np.nan
    assert qc.residual_fraction_above(residual, mask) == pytest.approx(0.5)


def test_spread_metrics():
    mask = ball((16, 16, 16), 7)
    ramp = 2.0 * np.indices(mask.shape)[2]
    assert qc.field_inhomogeneity_hz(ramp, mask) == pytest.approx(ramp[mask].std())
    assert qc.chi_sd_ppm(ramp + 5, mask) == pytest.approx(ramp[mask].std())
    assert qc.r2star_median_hz(ramp, mask) == pytest.approx(np.median(ramp[mask]))


def spectrum_scaled(chi, grid, inside_factor, cone=0.1):
    """Multiply the spectrum of chi near the magic-angle cone."""
    kernel = dipole_kernel(grid).numpy()
    spectrum = np.fft.rfftn(chi) * np.where(np.abs(kernel) < cone, inside_factor, 1.0)
    return np.fft.irfftn(spectrum, s=chi.shape, axes=(0, 1, 2))


@pytest.mark.parametrize("b0_dir", [(0.0, 0.0, 1.0), TILT])
def test_streaking_index_rises_with_streaks_and_falls_with_an_empty_cone(b0_dir):
    rng = np.random.default_rng(0)
    grid = Grid((40, 44, 38), (1.0, 1.2, 1.5), b0_dir)
    mask = np.ones(grid.shape, bool)
    white = rng.normal(0, 0.03, grid.shape)
    assert qc.streaking_index(white, mask, grid) == pytest.approx(1, abs=0.1)
    streaks = [qc.streaking_index(spectrum_scaled(white, grid, f), mask, grid) for f in (0.2, 1.0, 2.0, 4.0)]
    assert streaks == sorted(streaks)
    assert streaks[0] < 0.1
    assert streaks[3] == pytest.approx(16 * streaks[1], rel=0.05)
    upright = Grid(grid.shape, grid.voxel_mm, (1.0, 0.0, 0.0))
    assert qc.streaking_index(spectrum_scaled(white, grid, 4.0), mask, upright) < 0.5 * streaks[3]


def test_streaking_index_rises_when_a_noisy_field_is_divided_by_a_small_kernel():
    rng = np.random.default_rng(2)
    grid = Grid((48, 48, 48), (1.0, 1.0, 1.0), TILT)
    mask = ball(grid.shape, 18)
    chi = np.where(mask, rng.normal(0, 0.02, grid.shape), 0)
    field = forward_field(chi, grid, pad_factor=1) + rng.normal(0, 0.004, grid.shape)
    kernel = dipole_kernel(grid).numpy()
    found = {}
    for threshold in (0.02, 0.3):
        safe = np.where(np.abs(kernel) < threshold, np.where(kernel < 0, -threshold, threshold), kernel)
        estimate = np.fft.irfftn(np.fft.rfftn(field) / safe, s=grid.shape, axes=(0, 1, 2)) * mask
        found[threshold] = qc.streaking_index(estimate, mask, grid)
    assert found[0.02] > 3 > 1 > found[0.3]


def test_metrics_do_not_depend_on_the_order_of_the_axes():
    rng = np.random.default_rng(3)
    grid = Grid((18, 21, 16), (1.0, 1.3, 1.7), TILT)
    mask = ball(grid.shape, 11, grid.voxel_mm)
    mask[2] = False
    chi = rng.normal(0, 0.05, grid.shape)
    field = forward_field(np.where(mask, chi, 0), grid) + rng.normal(0, 0.01, grid.shape)

    def numbers(chi, mask, field, grid):
        consistency = qc.data_consistency(chi, field, mask, grid)
        profile = qc.rim_profile(chi, mask, grid)
        return [
            qc.noise_sd(chi, mask),
            qc.residual_wraps(60 * chi, mask),
            qc.streaking_index(chi, mask, grid),
            qc.rim_ratio(chi, mask, grid, rim_mm=3, deep_mm=6),
            consistency.nrmse,
            consistency.shift_ppm,
            *profile.mean_ppm,
            *profile.n_voxels,
        ]

    expected = numbers(chi, mask, field, grid)
    for order in itertools.permutations(range(3)):
        for flips in itertools.product((1, -1), repeat=3):
            (a, there), (b, _), (c, _) = (moved(v, grid, order, flips) for v in (chi, mask, field))
            np.testing.assert_allclose(numbers(a, b, c, there), expected, rtol=2e-5, atol=1e-7)


def test_edge_distance_of_a_slab_is_exact_with_unequal_voxels():
    mask = np.ones((3, 40, 3), bool)
    mask = np.pad(mask, ((20, 20), (0, 0), (20, 20)), constant_values=True)
    grid = Grid(mask.shape, (2.0, 0.5, 2.0))
    distance = qc.edge_distance_mm(mask, grid)[21, :, 21]
    steps = np.minimum(np.arange(1, 41), np.arange(40, 0, -1)) * 0.5 - 0.25
    np.testing.assert_allclose(distance, steps)


def test_rim_profile_and_ratio_rise_with_a_rim():
    rng = np.random.default_rng(4)
    grid = Grid((48, 48, 48), (1.0, 1.0, 1.0))
    mask = ball(grid.shape, 20)
    chi = np.where(mask, rng.normal(0, 0.02, grid.shape), 0)
    depth = qc.edge_distance_mm(mask, grid)
    clean = qc.rim_ratio(chi, mask, grid)
    assert clean == pytest.approx(1, abs=0.05)
    rim = chi + np.where(mask & (depth < 2), 0.1, 0)
    assert qc.rim_ratio(rim, mask, grid) > 3 * clean
    assert qc.rim_ratio(rim + 0.3, mask, grid) == pytest.approx(qc.rim_ratio(rim, mask, grid))
    profile = qc.rim_profile(rim, mask, grid)
    assert profile.mean_ppm[0] == pytest.approx(0.1, abs=0.005)
    assert profile.mean_ppm[5] == pytest.approx(0.0, abs=0.005)
    assert sum(profile.n_voxels) <= mask.sum()


@pytest.mark.parametrize("b0_dir", [(0.0, 0.0, 1.0), TILT])
def test_data_consistency(b0_dir):
    rng = np.random.default_rng(5)
    grid = Grid((24, 26, 22), (1.0, 1.2, 1.6), b0_dir)
    mask = ball(grid.shape, 11, grid.voxel_mm)
    mask[:10, :, 12:] = False
    chi = np.where(mask, rng.normal(0, 0.05, grid.shape), 0).astype(np.float32)
    field = forward_field(chi, grid)
    exact = qc.data_consistency(chi, field, mask, grid)
    assert exact.nrmse < 1e-5
    assert exact.shift_ppm == pytest.approx(0, abs=1e-6)
    shifted = qc.data_consistency(chi + 0.07, field, mask, grid)
    assert shifted.nrmse < 1e-5
    assert shifted.shift_ppm == pytest.approx(-0.07, rel=1e-4)
    np.testing.assert_allclose(shifted.predicted_ppm[mask], field[mask], atol=1e-6)
    assert np.all(shifted.predicted_ppm[~mask] == 0)
    assert qc.data_consistency(0 * chi, field, mask, grid).nrmse == pytest.approx(1, abs=0.03)
    half = qc.data_consistency(0.5 * chi, field, mask, grid).nrmse
    assert half == pytest.approx(0.5, abs=0.02)
    noisy = field + rng.normal(0, field[mask].std(), grid.shape)
    assert qc.data_consistency(chi, noisy, mask, grid).nrmse == pytest.approx(math.sqrt(0.5), abs=0.05)
    wrong = Grid(grid.shape, grid.voxel_mm, (1.0, 0.0, 0.0))
    assert qc.data_consistency(chi, field, mask, wrong).nrmse > 0.7


def test_what_has_no_meaning_is_nan_and_not_a_crash():
    mask = ball((12, 12, 12), 5)
    grid = Grid(mask.shape, (1.0, 1.0, 1.0))
    chi = np.zeros(mask.shape)
    flat = np.zeros_like(mask)
    flat[4] = True
    assert math.isnan(qc.noise_sd(chi, flat)) and math.isnan(qc.snr(chi + 1, flat))
    assert math.isnan(qc.streaking_index(chi, mask, grid))
    assert math.isnan(qc.rim_ratio(chi + np.indices(mask.shape)[0], mask, grid))
    assert math.isnan(qc.data_consistency(chi, chi, mask, grid).nrmse)


def test_bad_input_is_refused():
    mask = ball((12, 12, 12), 5)
    grid = Grid(mask.shape, (1.0, 1.0, 1.0))
    chi = np.zeros(mask.shape)
    with pytest.raises(DataError, match="grid"):
        qc.data_consistency(chi, chi + 1, mask, grid.with_shape((12, 12, 13)))
    with pytest.raises(DataError, match="finite"):
        qc.data_consistency(np.where(mask, np.nan, 0), chi + 1, mask, grid)
    with pytest.raises(DataError, match="empty"):
        qc.chi_sd_ppm(chi, np.zeros_like(mask))
    with pytest.raises(DataError, match="shape"):
        qc.snr(chi[1:], mask)


def test_the_kernel_is_the_one_of_the_pipeline():
    grid = Grid((8, 8, 8), (1.0, 1.0, 1.0))
    assert isinstance(dipole_kernel(grid), torch.Tensor)
    np.testing.assert_allclose(spatial_frequency(grid)[1, 0, 0], 1 / 8)
