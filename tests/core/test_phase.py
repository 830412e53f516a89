"""Phase scaling, wrapping, and the artefacts of scanners."""

from __future__ import annotations

import dataclasses
import json
import math

import nibabel as nib
import numpy as np
import pytest
from echo_cases import DATA, ORIENTATIONS, romeo_crop, simulate, turn, turn_grid
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from qsmprep.core.grid import Grid
from qsmprep.core.phase import (
    complex_from_parts,
    correct_bipolar,
    correct_slice_alternation,
    looks_filtered,
    scale_phase,
    wrap,
)
from qsmprep.errors import DataError

RNG = np.random.default_rng(7)
TRUE = wrap(RNG.uniform(-math.pi, math.pi, (2, 20, 21, 22)))
TRUE[0, 0, 0, :2] = -math.pi, math.pi * (1 - 1e-6)


def apart(a, b):
    """Largest distance on the circle."""
    return float(np.abs(np.angle(np.exp(1j * (np.asarray(a, float) - b)))).max())


@pytest.mark.parametrize(
    ("stored", "units", "name", "step"),
    [
        (TRUE, None, "-pi to pi", 0),
        (TRUE, "rad", "as stated", 0),
        (TRUE, "arbitrary", "-pi to pi", 0),
        (np.mod(TRUE, 2 * np.pi), None, "0 to 2 pi", 0),
        (np.floor((TRUE + np.pi) * 2048 / np.pi).clip(0, 4095), "arbitrary", "0 to 4095", np.pi / 2048),
        (2 * np.floor(TRUE * 2048 / np.pi).clip(-2048, 2047), "arbitrary", "-4096 to 4095", np.pi / 2048),
        (np.floor(TRUE * 4096 / np.pi).clip(-4096, 4095), None, "-4096 to 4095", np.pi / 4096),
        (np.floor(TRUE * 2048 / np.pi).clip(-2048, 2047), None, "-2048 to 2047", np.pi / 2048),
        (np.rint(TRUE * 1000), "arbitrary", "-3142 to 3142 (mrad)", 1e-3),
    ],
)
def test_known_ranges(stored, units, name, step):
    phase, found = scale_phase(stored, units=units)
    assert phase.dtype == np.float32
    assert np.abs(phase).max() <= np.float32(np.pi)
    assert found.range_name == name
    assert apart(phase, TRUE) <= step + 1e-5
    assert apart(phase, found.factor * stored + found.offset_rad) < 1e-5
    assert found.range_in == (stored.min(), stored.max())
    assert json.loads(json.dumps(dataclasses.asdict(found)))["rule"] == found.rule


def test_sign_negates():
    plus, _ = scale_phase(TRUE, units="rad")
    minus, found = scale_phase(TRUE, units="rad", sign=-1)
    assert apart(plus, -minus) < 1e-6
    assert found.sign == -1


def test_stated_radians_that_do_not_fill_the_range_are_not_stretched():
    small = np.float32(0.2) * TRUE
    phase, found = scale_phase(small, units="rad")
    np.testing.assert_array_equal(phase, small)
    assert (found.rule, found.factor) == ("units", 1.0)


def test_stated_radians_beyond_the_range_are_rewrapped():
    phase, found = scale_phase(3 * TRUE, units="rad")
    assert found.rule == "units, rewrapped"
    assert apart(phase, 3 * TRUE) < 1e-5


def test_a_vendor_range_stated_as_radians_is_noticed():
    stored = np.floor(TRUE * 4096 / np.pi).clip(-4096, 4095)
    phase, found = scale_phase(stored, units="rad")
    assert "rad" in found.note
    assert apart(phase, TRUE) < 2e-3
    with pytest.raises(DataError, match="correct `Units`"):
        scale_phase(stored / 3, units="rad")


def test_slope_and_intercept_give_the_period_even_of_a_narrow_phase():
    raw = np.rint(RNG.uniform(1500, 2500, (5, 5, 5)))
    for slope, inter, factor in ((1.53455, -3142.0, 1e-3), (2.0, -4096.0, np.pi / 4096)):
        stored = slope * raw + inter
        phase, found = scale_phase(
            stored, units="arbitrary", raw_range=(raw.min(), raw.max()), slope=slope, inter=inter, dtype="int16"
        )
        assert found.rule == "header"
        assert apart(phase, stored * factor) < 1e-5


def test_a_known_vendor_needs_less_of_its_range():
    stored = np.rint(0.7 * TRUE * 4096 / np.pi)
    phase, found = scale_phase(stored, units="arbitrary", manufacturer="SIEMENS")
    assert found.rule == "vendor"
    assert apart(phase, 0.7 * TRUE) < 1e-3
    for manufacturer in (None, "Canon"):
        with pytest.raises(DataError, match="Units"):
            scale_phase(stored, units="arbitrary", manufacturer=manufacturer)


@pytest.mark.parametrize(
    ("stored", "units"),
    [
        (0.5 * TRUE, None),
        (0.5 * TRUE, "arbitrary"),
        (17.3 * TRUE, None),
        (np.full((4, 4, 4), 2.0), "rad"),
        (np.full((4, 4, 4), np.nan), "rad"),
        (TRUE, "Hz"),
    ],
)
def test_what_cannot_be_decided_is_refused(stored, units):
    with pytest.raises(DataError):
        scale_phase(stored, units=units)


def test_non_finite_voxels_are_zero_and_counted():
    stored = TRUE.copy()
    stored[0, 1, 1, :3] = np.nan, np.inf, -np.inf
    phase, found = scale_phase(stored, units="rad")
    assert found.n_nonfinite == 3
    assert np.all(phase[0, 1, 1, :3] == 0)
    stored[0, 1, 1, :3] = TRUE[0, 1, 1, :3]
    keep = np.isfinite(stored)
    keep[0, 1, 1, :3] = False
    assert apart(phase[keep], TRUE[keep]) < 1e-6


def test_real_crop_with_a_stray_slope():
    stored, header, _, _, _ = romeo_crop()
    assert stored.max() < 0.004
    phase, found = scale_phase(stored, units=None, **header)
    assert found.rule == "stray slope"
    assert apart(phase, stored / header["slope"]) < 1e-5
    assert phase.max() > 3.14
    assert phase.min() < -3.14
    with pytest.raises(DataError):
        scale_phase(stored, units=None)


def test_real_phase_with_nan():
    path = DATA / "romeo-crop/phase_with_nan.nii.gz"
    if not path.exists():
        pytest.skip("the shared test data are not here")
    stored = np.moveaxis(nib.load(path).get_fdata(), -1, 0)
    phase, found = scale_phase(stored, units="rad")
    assert found.n_nonfinite == np.isnan(stored).sum() == 1280
    assert np.isfinite(phase).all()
    assert apart(phase[np.isfinite(stored)], stored[np.isfinite(stored)]) < 1e-5


@given(hnp.arrays(np.float64, (7,), elements=st.floats(-1e3, 1e3)))
def test_wrap(values):
    wrapped = wrap(values)
    assert np.abs(wrapped).max() <= np.float32(np.pi)
    turns = (values - wrapped) / (2 * np.pi)
    np.testing.assert_allclose(turns, np.rint(turns), atol=1e-5)


def test_complex_parts():
    magnitude = RNG.uniform(0.1, 5, TRUE.shape)
    signal = magnitude * np.exp(1j * TRUE)
    real, imag = signal.real.copy(), signal.imag.copy()
    real[0, 2, 2, 2] = np.nan
    size, phase = complex_from_parts(real, imag)
    assert size[0, 2, 2, 2] == phase[0, 2, 2, 2] == 0
    keep = np.isfinite(real)
    np.testing.assert_allclose(size[keep], magnitude[keep], rtol=1e-5)
    assert apart(phase[keep], TRUE[keep]) < 1e-5
    with pytest.raises(DataError):
        complex_from_parts(real, imag[:1])
    with pytest.raises(DataError):
        complex_from_parts(np.zeros(3), np.zeros(3))


def homodyne(signal, size):
    """Divide by the low-pass of a Hann window of that size in the middle of k-space, as for SWI."""
    spectrum = np.fft.fftshift(np.fft.fft2(signal, axes=(0, 1)), axes=(0, 1))
    window, (cx, cy) = np.zeros(signal.shape[:2]), (n // 2 for n in signal.shape[:2])
    half = size // 2
    window[cx - half : cx + half, cy - half : cy + half] = np.outer(np.hanning(2 * half), np.hanning(2 * half))
    low = np.fft.ifft2(np.fft.ifftshift(spectrum * window[..., None], axes=(0, 1)), axes=(0, 1))
    return np.angle(signal * np.conj(low))


@pytest.mark.parametrize("echo", [0, 1, 2])
def test_filtered_phase_is_recognised_on_real_data(echo):
    stored, header, magnitude, _, grid = romeo_crop()
    phase = scale_phase(stored, units=None, **header)[0][echo]
    mask = np.ones(grid.shape, bool)
    raw = looks_filtered(phase, magnitude[echo], mask, grid)
    filtered = looks_filtered(homodyne(magnitude[echo] * np.exp(1j * phase), 16), magnitude[echo], mask, grid)
    assert not raw.filtered
    assert filtered.filtered
    assert raw.score < 0.1 < 0.8 < filtered.score


@pytest.mark.parametrize("order, flips", ORIENTATIONS[::7])
def test_bipolar_gradient_is_found_and_removed(order, flips):
    case = simulate([0.005, 0.010, 0.015, 0.020], noise=0.03)
    axes = [(np.arange(n) - (n - 1) / 2) * v for n, v in zip(case.grid.shape, case.grid.voxel_mm, strict=True)]
    x, y, z = np.meshgrid(*axes, indexing="ij")
    slope, constant = (0.20, -0.03, 0.015), 0.6
    extra = slope[0] * x + slope[1] * y + slope[2] * z + constant
    odd = np.array([0, 1, 0, 1])[:, None, None, None]
    phase = turn(wrap(case.phase_rad + odd * extra), order, flips)
    grid = turn_grid(case.grid, order)
    result = correct_bipolar(phase, turn(case.magnitude, order, flips), None, case.te_s, grid)
    assert result.applied
    expected = [slope[axis] * (-1 if flip else 1) for axis, flip in zip(order, flips, strict=True)]
    np.testing.assert_allclose(result.gradient_rad_per_mm, expected, atol=1e-3)
    assert result.constant_rad == pytest.approx(constant, abs=0.01)
    inside = turn(case.mask, order, flips)
    assert apart(result.phase_rad[:, inside], turn(wrap(case.phase_rad + extra / 2), order, flips)[:, inside]) < 0.03


def test_bipolar_leaves_alone_what_it_cannot_correct():
    case = simulate([0.005, 0.010, 0.018])
    uneven = correct_bipolar(case.phase_rad, None, case.mask, case.te_s, case.grid)
    two = correct_bipolar(case.phase_rad[:2], None, case.mask, case.te_s[:2], case.grid)
    assert not uneven.applied
    assert "evenly" in uneven.reason
    assert not two.applied
    np.testing.assert_array_equal(two.phase_rad, case.phase_rad[:2])


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_alternating_slices(axis):
    case = simulate([0.005, 0.010], noise=0.02)
    shape = [1, 1, 1, 1]
    shape[axis + 1] = -1
    alternating = np.pi * (np.arange(case.grid.shape[axis]) % 2).reshape(shape)
    fixed, found = correct_slice_alternation(wrap(case.phase_rad + alternating), case.magnitude)
    assert found == (axis,)
    assert apart(fixed[:, case.mask], case.phase_rad[:, case.mask]) < 1e-5
    untouched, none = correct_slice_alternation(case.phase_rad, case.magnitude)
    assert none == ()
    np.testing.assert_array_equal(untouched, case.phase_rad)


def test_alternation_along_several_axes():
    """As a reconstruction leaves it that does not shift k-space before its transform."""
    case = simulate([0.005, 0.010], noise=0.02)
    sign = np.indices(case.grid.shape).sum(axis=0) % 2
    fixed, found = correct_slice_alternation(wrap(case.phase_rad + np.pi * sign), case.magnitude)
    assert found == (0, 1, 2)
    assert apart(fixed[:, case.mask], case.phase_rad[:, case.mask]) < 1e-5


def test_alternation_of_a_small_head_without_a_magnitude():
    """Air has any phase: only the mask tells."""
    case = simulate([0.005, 0.010], shape=(40, 42, 40), noise=0.02)
    x, y, z = np.meshgrid(*[np.linspace(-1, 1, n) for n in case.grid.shape], indexing="ij")
    head = x**2 + y**2 + z**2 < 0.2
    air = np.random.default_rng(1).uniform(-np.pi, np.pi, case.phase_rad.shape)
    phase = np.where(head, case.phase_rad + np.pi * (np.arange(40) % 2), air)
    assert correct_slice_alternation(wrap(phase), None)[1] == ()
    fixed, found = correct_slice_alternation(wrap(phase), None, head)
    assert found == (2,)
    assert apart(fixed[:, head], case.phase_rad[:, head]) < 1e-5


@pytest.mark.parametrize("unit", [1e-12, 1e10, 1e15])
def test_any_unit_of_the_magnitude(unit):
    case = simulate([0.005, 0.010, 0.015], noise=0.02)
    once = correct_bipolar(case.phase_rad, case.magnitude, case.mask, case.te_s, case.grid)
    again = correct_bipolar(case.phase_rad, unit * case.magnitude, case.mask, case.te_s, case.grid)
    assert apart(once.phase_rad, again.phase_rad) < 1e-4
    scores = [looks_filtered(case.phase_rad[-1], k * case.magnitude[-1], case.mask, case.grid).score for k in (1, unit)]
    assert scores[0] == pytest.approx(scores[1], rel=1e-4)


def test_shapes_are_checked():
    grid = Grid((4, 4, 4), (1, 1, 1))
    with pytest.raises(DataError):
        looks_filtered(np.zeros((4, 4, 5)), None, np.ones((4, 4, 4), bool), grid)
    with pytest.raises(DataError):
        looks_filtered(np.zeros((4, 4, 4)), None, np.zeros((4, 4, 4), bool), grid)
    with pytest.raises(DataError):
        correct_bipolar(np.zeros((2, 4, 4, 4)), None, None, [0.1], grid)
