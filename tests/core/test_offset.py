"""Phase offset removal (MCPC-3D-S)."""

from __future__ import annotations

import numpy as np
import pytest
from echo_cases import ORIENTATIONS, romeo_crop, simulate, turn, turn_grid

from qsmprep.core import offset
from qsmprep.core.fieldmap import weighted
from qsmprep.core.grid import Grid
from qsmprep.core.offset import remove_offset
from qsmprep.core.parameters import OffsetParams
from qsmprep.core.phase import scale_phase, wrap
from qsmprep.core.unwrap import romeo
from qsmprep.errors import DataError


def on_circle(a, b):
    return np.abs(np.angle(np.exp(1j * (a - b))))


@pytest.mark.parametrize("te_s", [[0.004, 0.008, 0.012], [0.004, 0.009], [0.006, 0.009, 0.015]])
def test_a_smooth_offset_is_found_and_taken_out_of_every_echo(te_s):
    case = simulate(te_s, noise=0.02)
    result = remove_offset(case.phase_rad, case.magnitude, case.mask, te_s, case.grid)
    assert result.applied
    assert on_circle(result.offset_rad, case.offset_rad)[case.mask].max() < 0.12
    assert on_circle(result.offset_rad, case.offset_rad)[case.mask].std() < 0.03
    np.testing.assert_allclose(on_circle(result.phase_rad, case.phase_rad - result.offset_rad), 0, atol=1e-5)


@pytest.mark.parametrize("te_s", [[0.004, 0.012, 0.024], [0.005, 0.012, 0.0225], [0.004, 0.012, 0.022, 0.030]])
@pytest.mark.parametrize("middle_hz", [0, 90, -140])
def test_a_field_whose_mean_turns_the_phase_between_echoes(te_s, middle_hz):
    """Between unevenly spaced echoes the turns matter: the later echoes tell how many there are."""
    case = simulate(te_s)
    t = np.asarray(te_s)[:, None, None, None]
    field_hz = 0.25 * case.field_hz + middle_hz
    rng = np.random.default_rng(0)
    noise = 0.02 * (rng.normal(size=case.phase_rad.shape) + 1j * rng.normal(size=case.phase_rad.shape))
    signal = case.magnitude * np.exp(1j * (2 * np.pi * field_hz * t + case.offset_rad)) + noise
    found = remove_offset(np.angle(signal), np.abs(signal), case.mask, te_s, case.grid)
    unwrapped = romeo.unwrap(found.phase_rad, np.abs(signal), case.mask, te_s, case.grid).phase_rad
    fit = weighted(unwrapped, found.phase_rad, np.abs(signal), case.mask, te_s)
    error = (fit.field_hz - field_hz)[case.mask]
    assert np.abs(error - np.median(error)).max() < 5
    assert np.median(fit.residual[case.mask]) < 0.01


def test_uneven_echoes_without_a_signal_in_one_of_the_first():
    case = simulate([0.004, 0.012, 0.022])
    magnitude = case.magnitude.copy()
    magnitude[1] = 0
    assert remove_offset(case.phase_rad, magnitude, case.mask, case.te_s, case.grid).info["turns"] == 0


def test_even_echoes_need_no_turns():
    case = simulate([0.004, 0.008, 0.012])
    shifted = wrap(case.phase_rad + 2 * np.pi * 200 * np.asarray(case.te_s)[:, None, None, None])
    assert remove_offset(shifted, case.magnitude, case.mask, case.te_s, case.grid).info["turns"] == 0


def test_the_weighted_field_needs_it():
    case = simulate([0.003, 0.0095, 0.016], noise=0.02)
    shifted = wrap(case.phase_rad + 1.5 + case.offset_rad)
    corrected = remove_offset(shifted, case.magnitude, case.mask, case.te_s, case.grid).phase_rad
    error = []
    for phase in (shifted, corrected):
        unwrapped = romeo.unwrap(phase, case.magnitude, case.mask, case.te_s, case.grid).phase_rad
        fit = weighted(unwrapped, phase, case.magnitude, case.mask, case.te_s)
        error.append(np.sqrt(np.mean((fit.field_hz - case.field_hz)[case.mask] ** 2)))
    assert error[0] > 10
    assert error[1] < 1


def test_the_width_is_in_mm():
    case = simulate([0.004, 0.008], noise=0.2)
    spread = {}
    for sigma_mm in (1.0, 4.0, 8.0):
        found = remove_offset(
            case.phase_rad, case.magnitude, case.mask, case.te_s, case.grid, OffsetParams(sigma_mm=sigma_mm)
        )
        spread[sigma_mm] = on_circle(found.offset_rad, case.offset_rad)[case.mask].std()
    assert spread[8.0] < spread[4.0] / 1.5 < spread[1.0] / 3


def test_more_smoothings_do_not_flatten_a_curved_offset_at_the_edge():
    case = simulate([0.004, 0.008], noise=0.02)
    x, y, z = (np.linspace(-1, 1, n) for n in case.grid.shape)
    curved = (1.5 * x[:, None, None] ** 2 - y[:, None] ** 2 + z**2).astype(np.float32)
    bent = wrap(case.phase_rad + curved)
    error = []
    for passes in (1, 3):
        params = OffsetParams(passes=passes)
        found = remove_offset(bent, case.magnitude, case.mask, case.te_s, case.grid, params)
        error.append(on_circle(found.offset_rad, case.offset_rad + curved)[case.mask])
    assert error[1].std() < 0.6 * error[0].std()
    assert error[1].max() < error[0].max()


@pytest.mark.parametrize(("order", "flips"), ORIENTATIONS[::5])
def test_it_turns_with_the_volume(order, flips):
    case = simulate([0.004, 0.009], noise=0.05)
    here = remove_offset(case.phase_rad, case.magnitude, case.mask, case.te_s, case.grid)
    turned = (turn(a, order, flips) for a in (case.phase_rad, case.magnitude, case.mask))
    there = remove_offset(*turned, case.te_s, turn_grid(case.grid, order))
    assert on_circle(there.offset_rad, turn(here.offset_rad, order, flips)).max() < 1e-4
    assert on_circle(there.phase_rad, turn(here.phase_rad, order, flips)).max() < 1e-4


@pytest.mark.parametrize(("order", "flips"), ORIENTATIONS[:40:13])
def test_smoothing_on_joined_voxels_is_close_to_smoothing_on_all(monkeypatch, order, flips):
    """Voxels of 1 mm are joined; a curved offset, also in odd lengths and with the axes turned."""
    case = simulate([0.004, 0.009], shape=(63, 58, 67), noise=0.05)
    grid = Grid((63, 58, 67), (1.0, 1.0, 1.0))
    x, y, z = (np.linspace(-1, 1, n) for n in grid.shape)
    phase = wrap(case.phase_rad + (2.0 * x[:, None, None] ** 2 - y[:, None] ** 2 + z**2).astype(np.float32))
    turned = [turn(a, order, flips) for a in (phase, case.magnitude, case.mask)]
    joined = remove_offset(*turned, case.te_s, turn_grid(grid, order)).offset_rad
    monkeypatch.setattr(offset, "JOINED", 0.0)
    exact = remove_offset(phase, case.magnitude, case.mask, case.te_s, grid).offset_rad
    apart = on_circle(joined, turn(exact, order, flips))[turned[2]]
    assert apart.max() < 0.02
    assert np.sqrt(np.mean(apart**2)) < 0.003


def test_a_single_echo_is_left_alone():
    case = simulate([0.01], noise=0.02)
    result = remove_offset(case.phase_rad, case.magnitude, case.mask, case.te_s, case.grid)
    assert not result.applied
    assert not result.offset_rad.any()
    np.testing.assert_array_equal(result.phase_rad, case.phase_rad)


def test_without_mask_or_magnitude():
    case = simulate([0.004, 0.008], noise=0.005)
    everywhere = remove_offset(case.phase_rad, case.magnitude, None, case.te_s, case.grid)
    assert np.median(on_circle(everywhere.offset_rad, case.offset_rad)[case.mask]) < 0.1
    unweighted = remove_offset(case.phase_rad, None, case.mask, case.te_s, case.grid)
    assert on_circle(unweighted.offset_rad, case.offset_rad)[case.mask].max() < 0.12


def test_real_crop_becomes_one_field():
    """After removal the phase of the first two echoes is proportional to echo time; the third, unused, follows."""
    stored, header, magnitude, te_s, grid = romeo_crop()
    phase = scale_phase(stored, units=None, **header)[0]
    mask = magnitude[0] > 0.5 * np.median(magnitude[0])
    result = remove_offset(phase, magnitude, mask, te_s, grid)
    assert result.applied
    before = on_circle(2 * phase[0], phase[1])[mask]
    assert np.median(on_circle(2 * result.phase_rad[0], result.phase_rad[1])[mask]) < 0.5 * np.median(before)
    third = romeo.unwrap(result.phase_rad, magnitude, mask, te_s, grid).phase_rad
    assert np.median(np.abs(third[2] - 1.5 * third[1])[mask]) < 0.3


def test_bad_input_is_refused():
    case = simulate([0.004, 0.008])
    with pytest.raises(DataError):
        remove_offset(case.phase_rad, case.magnitude, np.zeros_like(case.mask), case.te_s, case.grid)
    with pytest.raises(DataError):
        remove_offset(case.phase_rad, case.magnitude, case.mask, [0.008, 0.004], case.grid)
