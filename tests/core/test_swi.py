"""Susceptibility-weighted images: parts against closed forms, the whole against a known vein and all orientations."""

from __future__ import annotations

import math

import numpy as np
import pytest
from echo_cases import ORIENTATIONS, turn

from qsmprep.core.grid import Grid
from qsmprep.core.parameters import ClearSwiParams
from qsmprep.core.swi import clearswi, high_pass, minimum_projection, phase_mask, sensitivity, softplus
from qsmprep.errors import DataError

SHAPE, VOXEL_MM = (30, 34, 20), (1.2, 1.0, 2.0)
GRID = Grid(SHAPE, VOXEL_MM, (0.0, 0.2, 0.98))
TE_S = [0.006, 0.013, 0.025]  # unevenly spaced
VEIN_HZ = 12.0


def ball():
    index = np.indices(SHAPE).astype(float)
    mm = (index - (np.reshape(SHAPE, (3, 1, 1, 1)) - 1) / 2) * np.reshape(VOXEL_MM, (3, 1, 1, 1))
    return mm, np.sqrt((mm**2).sum(0)) < 15


def scan(noise=0.0, te_s=TE_S):
    """A ball with a background of many wraps, a coil, and two threads along B0: a vein and a diamagnetic one."""
    mm, mask = ball()
    vein, other = (np.hypot(mm[0] - x, mm[1] - 1) < 1.3 for x in (-5, 5))
    frequency = 4 * mm[1] + 0.25 * mm[0] ** 2 + VEIN_HZ * vein - VEIN_HZ * other
    coil = np.exp(0.04 * mm[0] - 0.03 * mm[2])
    t = np.asarray(te_s)[:, None, None, None]
    rng = np.random.default_rng(0)
    signal = np.where(mask, 100 * coil, 0) * np.exp(-20 * t + 2j * np.pi * frequency * t + 0.7j)
    signal = signal + noise * (rng.normal(size=signal.shape) + 1j * rng.normal(size=signal.shape))
    return np.angle(signal).astype(np.float32), np.abs(signal).astype(np.float32), mask, vein & mask, other & mask


def test_veins_are_dark_and_nothing_else():
    phase, magnitude, mask, vein, other = scan(noise=1.0)
    result = clearswi(phase, magnitude, mask, TE_S, GRID)
    mm, _ = ball()
    inner = np.sqrt((mm**2).sum(0)) < 9
    tissue = np.median(result.swi[inner & ~vein & ~other])
    assert np.median(result.swi[inner & vein]) < 0.6 * tissue
    assert np.median(result.swi[inner & other]) > 0.9 * tissue, "diamagnetic sources are not darkened"
    assert not result.swi[~mask].any()
    assert not result.minip[~mask].any()
    assert np.all(result.minip <= result.swi)
    contrast = np.median(result.frequency_hz[inner & vein]) - np.median(result.frequency_hz[inner & ~vein & ~other])
    assert 0.5 * VEIN_HZ < contrast < 1.05 * VEIN_HZ


def test_the_sign_of_the_phase_matters():
    phase, magnitude, mask, vein, other = scan()
    plus, minus = (clearswi(sign * phase, magnitude, mask, TE_S, GRID) for sign in (1, -1))
    np.testing.assert_allclose(minus.frequency_hz, -plus.frequency_hz, atol=1e-3)
    assert np.median(minus.phase_mask[other]) < 0.6 < 0.95 < np.median(minus.phase_mask[vein])


def test_one_echo_and_several_give_one_frequency():
    """Echo times are used as they are: the frequency does not depend on their number or spacing."""
    maps = []
    for te_s in ([0.010], [0.010, 0.012], TE_S):
        phase, magnitude, mask, _, _ = scan(te_s=te_s)
        maps.append(clearswi(phase, magnitude, mask, te_s, GRID).frequency_hz)
    deep = np.sqrt((ball()[0] ** 2).sum(0)) < 11
    for other in maps[1:]:
        assert np.abs(other - maps[0])[deep].max() < 0.05 * VEIN_HZ


def test_the_48_orientations():
    phase, magnitude, mask, _, _ = scan(noise=1.0)
    plain = clearswi(phase, magnitude, mask, TE_S, GRID)
    for order, flips in ORIENTATIONS:
        sign = [-1 if flip else 1 for flip in flips]
        direction = tuple(s * GRID.b0_dir[axis] for s, axis in zip(sign, order, strict=True))
        grid = Grid(tuple(SHAPE[a] for a in order), tuple(VOXEL_MM[a] for a in order), direction)
        moved = clearswi(*(turn(v, order, flips) for v in (phase, magnitude, mask)), TE_S, grid)
        assert order[moved.info["minip_axis"]] == plain.info["minip_axis"] == 2
        for name in ("swi", "minip"):
            expected = turn(getattr(plain, name), order, flips)
            assert np.abs(getattr(moved, name) - expected).max() < 2e-3 * expected.max()


def test_phase_mask_is_the_stated_sigmoid():
    frequency = np.array([-3.0, 0.0, 1.0, 2.0, 6.0, 50.0]).reshape(1, 1, 6)
    mask = np.ones(frequency.shape, bool)
    mask[..., -1] = False
    factor, typical = phase_mask(frequency, mask, 2.0)
    assert typical == pytest.approx(3.0)
    expected = [1, 1, *((1 + math.tanh(1 - f / 6)) / (1 + math.tanh(1)) for f in (1, 2, 6)), 1]
    np.testing.assert_allclose(factor.ravel(), expected, rtol=1e-6)
    nothing, typical = phase_mask(-np.abs(frequency), mask, 2.0)
    assert (nothing == 1).all()
    assert typical == 0


@pytest.mark.parametrize(("thickness_mm", "slices"), [(0, 1), (2, 1), (4, 3), (7, 3), (10, 5), (1e4, 5001)])
def test_minimum_projection_is_a_sliding_minimum(thickness_mm, slices):
    """Against a slow restatement that counts the voxels of the mask only."""
    rng = np.random.default_rng(1)
    mask = rng.random((4, 5, 9)) > 0.2
    image = rng.uniform(1, 2, mask.shape).astype(np.float32)
    for axis in range(3):
        direction = [0.1, 0.1, 0.1]
        direction[axis] = -1.0
        grid = Grid(mask.shape, (2.0, 2.0, 2.0), tuple(direction))
        found, used, count = minimum_projection(image, mask, grid, thickness_mm)
        assert used == axis
        assert count == min(slices, mask.shape[axis]), "as many as there are"
        for place in np.ndindex(mask.shape):
            low, high = max(place[axis] - slices // 2, 0), place[axis] + slices // 2 + 1
            line = tuple(slice(low, high) if a == axis else place[a] for a in range(3))
            expected = image[line][mask[line]].min() if mask[place] else 0
            assert found[place] == expected


def test_high_pass_takes_out_what_is_slow_and_keeps_what_is_fine():
    mm, mask = ball()
    assert np.abs(high_pass(np.full(SHAPE, 7.0), mask, GRID, 4.0)).max() < 1e-4
    deep = np.sqrt((mm**2).sum(0)) < 7
    slow = high_pass(np.sin(mm[0] / 30), mask, GRID, 3.0)
    assert np.abs(slow[deep]).max() < 0.05
    wave = np.sin(2 * np.pi * mm[1] / 4)
    assert np.abs(high_pass(wave, mask, GRID, 3.0) - wave)[deep].max() < 0.05
    inside = high_pass(np.where(mask, wave, 1e6), mask, GRID, 3.0)
    np.testing.assert_array_equal(inside, high_pass(wave, mask, GRID, 3.0), "what is outside does not count")


def test_sensitivity_of_a_coil_is_found():
    mm, mask = ball()
    coil = np.exp(0.03 * mm[0] - 0.02 * mm[2])
    image = 100 * coil
    vein = np.hypot(mm[0] + 5, mm[1] - 1) < 1.3
    image[vein] = 20
    found = sensitivity(np.where(mask, image, 0), mask, GRID, 7.0)
    corrected = (image / found)[mask & ~vein]
    assert np.std(coil[mask]) / np.mean(coil[mask]) > 0.2
    assert np.std(corrected) / np.mean(corrected) < 0.15
    deep = (np.sqrt((mm**2).sum(0)) < 9) & ~vein
    assert np.std((image / found)[deep]) < 0.08 * np.mean((image / found)[deep])
    assert (found[~mask] == 1).all()
    assert np.median(found[mask]) == pytest.approx(1, abs=0.01)


def test_softplus_keeps_zero_and_the_bright_end():
    values = np.array([0.0, 0.5, 1.0, 2.0, 50.0, 51.0])
    bent = softplus(values, 1.0, 2.0)
    assert bent[0] == pytest.approx(0, abs=1e-7)
    assert bent[5] - bent[4] == pytest.approx(1, rel=1e-4)
    assert (np.diff(bent) > 0).all()
    assert bent[1] / values[1] < bent[3] / values[3], "the dark end is compressed"
    np.testing.assert_array_equal(softplus(values, 0.0, 2.0), values.astype(np.float32))


def test_switched_off_parts_leave_the_root_of_the_sum_of_squares():
    phase, magnitude, mask, _, _ = scan()
    params = ClearSwiParams(turn=100.0, bias_mm=0.0, softplus=0.0, minip_mm=0.0)
    result = clearswi(phase, magnitude, mask, TE_S, GRID, params)
    expected = np.where(mask, np.sqrt((magnitude**2).sum(0)), 0)
    shade = result.phase_mask
    assert shade[mask].min() > 0.8
    np.testing.assert_allclose(result.swi, expected * shade, rtol=1e-5)
    np.testing.assert_array_equal(result.minip, result.swi)


def test_bad_input_is_refused():
    phase, magnitude, mask, _, _ = scan()
    hole = phase.copy()
    hole[0, 15, 17, 10] = np.nan
    for bad in (
        (hole, magnitude, mask, TE_S),
        (phase, magnitude[:2], mask, TE_S),
        (phase, magnitude, 0 * mask, TE_S),
        (phase, magnitude, mask, TE_S[::-1]),
        (phase, 0 * magnitude, mask, TE_S),
        (phase, None, mask, TE_S),
    ):
        with pytest.raises(DataError):
            clearswi(*bad, GRID)
