"""The physics of the simulator against closed forms."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from qsmprep.core.dipole import forward_field
from qsmprep.core.grid import Grid
from qsmprep.core.kspace import box_average, crop_kspace
from qsmprep.core.simulate import (
    acquire,
    anisotropic_field,
    centred_mm,
    head_field,
    local_field,
    shim_field,
    signal,
    spoiled_signal,
)
from qsmprep.errors import DataError

B0_T = 3.0
GAMMA_MHZ = 42.577478461


def sphere(grid: Grid, radius_mm: float) -> np.ndarray:
    x, y, z = centred_mm(grid)
    return x * x + y * y + z * z <= radius_mm**2


def smooth(shape: tuple[int, ...], seed: int) -> np.ndarray:
    """A smooth volume without any symmetry."""
    rng = np.random.default_rng(seed)
    axes = np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing="ij")
    return sum(rng.normal() * a**p for a in axes for p in (1, 2, 3)).astype(np.float32)


def test_phase_of_a_known_field_at_a_known_echo_time():
    shape = (4, 5, 6)
    result = signal(
        np.full(shape, 2.0),
        np.full(shape, 30.0),
        np.full(shape, 0.1),
        te_s=0.02,
        b0_t=B0_T,
        offset_rad=0.5,
    ).numpy()
    expected = 2 * np.pi * GAMMA_MHZ * B0_T * 0.02 * 0.1 + 0.5
    np.testing.assert_allclose(np.angle(result * np.exp(-1j * expected)), 0.0, atol=2e-6)
    np.testing.assert_allclose(np.abs(result), 2.0 * np.exp(-0.6), rtol=1e-6)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_paramagnetic_sphere_gains_phase_at_its_poles(axis):
    direction = np.eye(3)[axis]
    grid = Grid((48, 48, 48), (1.0, 1.0, 1.0), tuple(direction))
    ball = sphere(grid, 8.0)
    field = head_field(ball * 0.3, grid, outside_ppm=0.0)
    ones = np.ones(grid.shape, dtype=np.float32)
    phase = np.angle(signal(ones, 0 * ones, field, te_s=0.01, b0_t=B0_T).numpy())
    pole, equator = [24, 24, 24], [24, 24, 24]
    pole[axis] += 12
    equator[(axis + 1) % 3] += 12
    radius3 = (3 * ball.sum() / (4 * np.pi)) / np.linalg.norm([12.5, 0.5, 0.5]) ** 3
    cos2 = 12.5**2 / (12.5**2 + 0.5)
    rad_per_ppm = 2 * np.pi * GAMMA_MHZ * B0_T * 0.01
    assert phase[tuple(pole)] == pytest.approx(rad_per_ppm * 0.1 * radius3 * (3 * cos2 - 1), rel=0.03)
    assert phase[tuple(equator)] == pytest.approx(rad_per_ppm * 0.1 * radius3 * (3 * 0.25 / 156.75 - 1), rel=0.03)


def test_dephasing_is_the_mean_over_the_voxel():
    shape = (6, 5, 4)
    gradient = (0.15, -0.1, 0.2)
    te_s = 0.01
    i, j, k = np.indices(shape)
    field = gradient[0] * i + gradient[1] * j + gradient[2] * k
    ones = np.ones(shape)
    got = signal(ones, 0 * ones, field, te_s=te_s, b0_t=B0_T).numpy()
    n = 40
    inside = (np.arange(n) + 0.5) / n - 0.5
    expected = 1.0
    for g in gradient:
        expected *= np.exp(2j * np.pi * GAMMA_MHZ * B0_T * te_s * g * inside).mean()
    assert abs(expected) < 0.85
    np.testing.assert_allclose(np.abs(got), abs(expected), rtol=1e-3)
    np.testing.assert_allclose(
        np.abs(signal(ones, 0 * ones, field, te_s=te_s, b0_t=B0_T, dephase=False).numpy()), 1.0, rtol=1e-6
    )


@pytest.mark.parametrize("n_fine, n_coarse", [(24, 12), (25, 12), (24, 11), (25, 11), (24, 17)])
def test_crop_keeps_low_frequencies_exactly_and_removes_high_ones(n_fine, n_coarse):
    fine, coarse = (np.arange(n_fine) + 0.5) / n_fine, (np.arange(n_coarse) + 0.5) / n_coarse

    def wave(u, k):
        return np.exp(2j * np.pi * k * u).reshape(-1, 1, 1) * np.ones((1, 2, 3))

    for k in range(-((n_coarse - 1) // 2), (n_coarse - 1) // 2 + 1):
        got = crop_kspace(torch.from_numpy(wave(fine, k)), (n_coarse, 2, 3)).numpy()
        np.testing.assert_allclose(got, wave(coarse, k), atol=1e-12)
    for k in range(n_coarse // 2 + 1, (n_fine - 1) // 2 + 1):
        got = crop_kspace(torch.from_numpy(wave(fine, k)), (n_coarse, 2, 3)).numpy()
        np.testing.assert_allclose(got, 0.0, atol=1e-12)


def test_crop_keeps_the_mean_and_an_equal_shape_is_untouched():
    rng = np.random.default_rng(0)
    volume = torch.from_numpy(rng.normal(size=(14, 15, 16)) + 1j * rng.normal(size=(14, 15, 16)))
    assert complex(crop_kspace(volume, (7, 8, 9)).mean()) == pytest.approx(complex(volume.mean()), abs=1e-12)
    assert torch.equal(crop_kspace(volume, (14, 15, 16)), volume)


def test_box_average_is_the_block_mean_and_weights_split_voxels():
    rng = np.random.default_rng(1)
    volume = rng.normal(size=(8, 9, 10)).astype(np.float32)
    blocks = volume.reshape(4, 2, 3, 3, 5, 2).mean(axis=(1, 3, 5))
    np.testing.assert_allclose(box_average(volume, (4, 3, 5)), blocks, atol=1e-6)
    np.testing.assert_allclose(box_average(volume, (5, 4, 7)).mean(), volume.mean(), atol=1e-6)
    step = np.zeros((3, 1, 1), dtype=np.float32)
    step[1] = 1.0
    np.testing.assert_allclose(box_average(step, (2, 1, 1))[:, 0, 0], [1 / 3, 1 / 3], atol=1e-6)


def test_shim_removes_every_second_order_harmonic_and_nothing_else():
    grid = Grid((20, 21, 16), (2.0, 1.5, 3.0))
    ball = sphere(grid, 14.0)
    x, y, z = centred_mm(grid)
    harmonic = 0.3 + 0.01 * x - 0.02 * z + 1e-3 * (x * y - 2 * x * z) + 2e-3 * (x * x - z * z)
    np.testing.assert_allclose(shim_field(harmonic, ball, grid), harmonic, atol=2e-5)
    source = np.broadcast_to(1e-3 * (x * x + y * y + z * z), grid.shape)
    left = source - shim_field(source, ball, grid)
    assert left[ball].std() > 0.9 * source[ball].std()
    assert np.abs(shim_field(harmonic, ball, grid, order=0) - harmonic[ball].mean()).max() < 1e-6


def test_an_object_like_its_surroundings_makes_no_field():
    grid = Grid((16, 17, 18), (1.0, 2.0, 1.5), (0.0, 0.6, 0.8))
    np.testing.assert_array_equal(head_field(np.full(grid.shape, 9.4), grid, outside_ppm=9.4), 0.0)


def test_local_field_comes_from_the_brain_alone():
    grid = Grid((24, 20, 22), (1.0, 1.5, 2.0), (0.0, 0.3, 0.95))
    rng = np.random.default_rng(2)
    chi = rng.normal(0.0, 0.05, grid.shape).astype(np.float32)
    brain = sphere(grid, 9.0)
    field, referenced = local_field(chi, brain, grid)
    assert abs(referenced[brain].mean()) < 1e-7
    assert not field[~brain].any() and not referenced[~brain].any()
    np.testing.assert_allclose(field[brain], forward_field(referenced, grid)[brain], atol=1e-7)
    outside = chi + np.where(brain, 0.7, 5.0).astype(np.float32)
    np.testing.assert_allclose(local_field(outside, brain, grid)[0], field, atol=1e-6)


def test_noise_has_the_standard_deviation_that_the_snr_says():
    grid = Grid((40, 40, 40), (1.0, 1.0, 1.0))
    ones = np.ones(grid.shape, dtype=np.float32)
    got = acquire(
        5 * ones,
        20 * ones,
        0 * ones,
        grid,
        shape=(30, 30, 30),
        te_s=(0.01, 0.03),
        b0_t=B0_T,
        snr=25.0,
        reference=ones > 0,
        rng=np.random.default_rng(3),
    )
    sd = 5 * np.exp(-0.2) / 25
    assert got.noise_sd == pytest.approx(sd, rel=1e-5)
    for echo, te_s in enumerate((0.01, 0.03)):
        noise = got.images[echo] - 5 * np.exp(-20 * te_s)
        assert noise.real.std() == pytest.approx(sd, rel=0.02)
        assert noise.imag.std() == pytest.approx(sd, rel=0.02)
        assert abs(noise.mean()) < 5 * sd / np.sqrt(27000)
        assert abs(np.corrcoef(noise.real.ravel(), noise.imag.ravel())[0, 1]) < 0.03
    assert got.grid.voxel_mm == pytest.approx((4 / 3, 4 / 3, 4 / 3))


@pytest.mark.parametrize("cycles_per_voxel, kept", [(0.25, True), (0.8, False)])
def test_a_gradient_shifts_the_echo_within_or_out_of_the_acquired_kspace(cycles_per_voxel, kept):
    grid = Grid((64, 8, 8), (1.0, 1.0, 1.0))
    ones = np.ones(grid.shape, dtype=np.float32)
    per_fine = cycles_per_voxel / 2
    field = np.broadcast_to(per_fine / (GAMMA_MHZ * B0_T * 0.02) * np.abs(centred_mm(grid)[0]), grid.shape)
    image = acquire(
        ones,
        0 * ones,
        field,
        grid,
        shape=(32, 8, 8),
        te_s=(0.02,),
        b0_t=B0_T,
        snr=np.inf,
        reference=ones > 0,
        rng=np.random.default_rng(0),
    ).images[0]
    expected = np.sinc(per_fine) if kept else 0.0
    assert np.abs(image[5:11]).mean() == pytest.approx(expected, abs=0.06)


def test_the_acquisition_turns_with_the_axes():
    shape, target = (12, 15, 10), (8, 9, 7)
    grid = Grid(shape, (1.0, 1.2, 2.0), (0.2, -0.4, 0.9))
    chi = np.where(sphere(grid, 5.0), smooth(shape, 5), np.float32(2.0))
    m0, r2 = 1 + 0.2 * smooth(shape, 6), np.full(shape, 20.0, dtype=np.float32)
    reference = sphere(grid, 5.0)

    def run(order, flips):
        turned = [np.flip(np.transpose(v, order), [a for a in range(3) if flips[a]]) for v in (chi, m0, r2, reference)]
        direction = [grid.b0_dir[o] * (-1 if f else 1) for o, f in zip(order, flips, strict=True)]
        place = Grid([shape[o] for o in order], [grid.voxel_mm[o] for o in order], direction)
        field = head_field(turned[0], place, outside_ppm=2.0)
        field -= shim_field(field, turned[3], place)
        return acquire(
            turned[1],
            turned[2],
            field,
            place,
            shape=tuple(target[o] for o in order),
            te_s=(0.004,),
            b0_t=B0_T,
            snr=np.inf,
            reference=turned[3],
            rng=np.random.default_rng(0),
        ).images[0]

    straight = run((0, 1, 2), (0, 0, 0))
    for order in itertools.permutations(range(3)):
        for flips in itertools.product((0, 1), repeat=3):
            expected = np.flip(np.transpose(straight, order), [a for a in range(3) if flips[a]])
            np.testing.assert_allclose(run(order, flips), expected, atol=2e-4)


def test_spoiled_signal_peaks_at_the_ernst_angle():
    t1_s, tr_s = np.array([0.9]), 0.03
    ernst = np.rad2deg(np.arccos(np.exp(-tr_s / t1_s[0])))
    best = spoiled_signal(np.ones(1), t1_s, tr_s=tr_s, flip_deg=ernst)
    for flip in (ernst - 3, ernst + 3):
        assert spoiled_signal(np.ones(1), t1_s, tr_s=tr_s, flip_deg=flip)[0] < best[0]
    assert spoiled_signal(np.full(1, 7.0), t1_s, tr_s=100.0, flip_deg=90.0)[0] == pytest.approx(7.0)


def test_wrong_input_is_named():
    grid = Grid((8, 8, 8), (1.0, 1.0, 1.0))
    ones = np.ones(grid.shape)
    with pytest.raises(DataError, match="empty"):
        local_field(ones, ones < 0, grid)
    with pytest.raises(DataError, match="shape"):
        head_field(ones[1:], grid)
    with pytest.raises(DataError, match="finite"):
        head_field(ones * np.nan, grid)
    with pytest.raises(DataError, match="finer"):
        box_average(ones, (9, 8, 8))
    with pytest.raises(DataError, match="finer"):
        crop_kspace(torch.ones(8, 8, 8), (9, 8, 8))
    with pytest.raises(DataError, match="shim order"):
        shim_field(ones, ones > 0, grid, order=3)


@pytest.mark.parametrize("along, share", [(True, 2 / 3), (False, -1 / 3)])
def test_fibres_along_or_across_b0_are_a_dipole_field(along, share):
    """The tensor is then a multiple of the identity for B0: 2/3 or -1/3 of an isotropic source."""
    grid = Grid((24, 20, 16), (1.0, 1.2, 2.0), (0.6, 0.0, 0.8))
    strength = smooth(grid.shape, 3)
    direction = np.array(grid.b0_dir) if along else np.array([0.8, 0.0, -0.6])
    fibres = np.broadcast_to(-direction.reshape(3, 1, 1, 1), (3, *grid.shape))
    np.testing.assert_allclose(
        anisotropic_field(strength, fibres, grid), share * forward_field(strength, grid), atol=3e-6 * strength.max()
    )


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
@pytest.mark.parametrize("flipped", [(), (0,), (1, 2)])
def test_an_anisotropic_field_turns_with_the_axes(order, flipped):
    rng = np.random.default_rng(4)
    shape, voxel_mm, b0 = np.array([12, 14, 16]), np.array([1.0, 1.5, 2.0]), np.array([0.36, 0.48, 0.8])
    fibres = rng.standard_normal((3, *shape))
    fibres /= np.linalg.norm(fibres, axis=0)
    strength = smooth(tuple(shape), 5)
    field = anisotropic_field(strength, fibres, Grid(tuple(shape), tuple(voxel_mm), tuple(b0)))
    order = list(order)
    sign = np.where(np.isin(range(3), flipped), -1.0, 1.0)

    def turn(volume: np.ndarray) -> np.ndarray:
        return np.flip(volume.transpose(order), flipped)

    turned = anisotropic_field(
        turn(strength),
        np.stack([sign[i] * turn(fibres[axis]) for i, axis in enumerate(order)]),
        Grid(tuple(shape[order]), tuple(voxel_mm[order]), tuple(sign * b0[order])),
    )
    np.testing.assert_allclose(turned, turn(field), atol=1e-5 * np.abs(field).max())


def test_fibres_of_another_shape_are_refused():
    with pytest.raises(DataError, match="three components first"):
        anisotropic_field(np.ones((4, 4, 4)), np.ones((4, 4, 4, 3)), Grid((4, 4, 4), (1.0, 1.0, 1.0)))
