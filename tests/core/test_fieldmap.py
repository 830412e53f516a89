"""Field maps: the field that was put in, its noise, its residual."""

from __future__ import annotations

import numpy as np
import pytest
from echo_cases import ORIENTATIONS, romeo_crop, simulate, turn

from qsmprep.core.fieldmap import count_residual_wraps, nonlinear, robust, weighted
from qsmprep.core.noise import noise_from_air, noise_from_detail, noise_from_fit
from qsmprep.core.offset import remove_offset
from qsmprep.core.parameters import NonlinearParams, RobustParams, WeightedParams
from qsmprep.core.phase import scale_phase, wrap
from qsmprep.core.unwrap import romeo
from qsmprep.errors import DataError

FIVE = [0.004, 0.008, 0.012, 0.016, 0.020]
WITH_OFFSET = NonlinearParams(fit_offset=True)
FITS = {
    "weighted": (weighted, WeightedParams(), False),
    "weighted, offset": (weighted, WeightedParams(fit_offset=True), True),
    "nonlinear": (nonlinear, NonlinearParams(), False),
    "nonlinear, offset": (nonlinear, WITH_OFFSET, True),
    "robust": (robust, RobustParams(), False),
    "robust, offset": (robust, RobustParams(fit_offset=True), True),
}


def right_branch(case):
    """The wrapped phase, with the wraps that the truth has."""
    turns = np.rint((case.true_rad - case.phase_rad) / (2 * np.pi))
    return (case.phase_rad + 2 * np.pi * turns).astype(np.float32)


@pytest.mark.parametrize("name", FITS)
@pytest.mark.parametrize("te_s", [FIVE, FIVE[:3], [0.0045, 0.012], [0.005, 0.007, 0.013], [0.015]])
def test_field_without_noise(name, te_s):
    function, params, with_offset = FITS[name]
    case = simulate(te_s, offset=with_offset and len(te_s) > 1)
    fit = function(right_branch(case), case.phase_rad, case.magnitude, case.mask, te_s, params)
    assert np.abs(fit.field_hz - case.field_hz)[case.mask].max() < 2e-3
    assert np.abs(np.angle(np.exp(1j * (fit.offset_rad - case.offset_rad))))[case.mask].max() < 1e-3
    assert fit.residual.max() < 1e-6
    for volume in (fit.field_hz, fit.noise_hz, fit.residual, fit.offset_rad):
        assert volume.dtype == np.float32
        assert not volume[~case.mask].any()


@pytest.mark.parametrize("dtype", [">f4", ">i2", "<u2", "<f8"])
def test_magnitudes_in_any_byte_order(dtype):
    case = simulate(FIVE)
    stored = np.rint(1000 * case.magnitude).astype(dtype)
    expected = nonlinear(right_branch(case), case.phase_rad, stored.astype(np.float32), case.mask, FIVE).field_hz
    found = nonlinear(right_branch(case).astype(">f4"), case.phase_rad, stored, case.mask, FIVE).field_hz
    np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize("function", [nonlinear, robust])
def test_parts_do_not_matter(function, monkeypatch):
    """Voxels are fitted some after the others: the same numbers with other parts."""
    case = simulate(FIVE, noise=0.03)
    given = (right_branch(case), case.phase_rad, case.magnitude, case.mask, FIVE)
    whole = function(*given)
    monkeypatch.setattr("qsmprep.core.echofit.PART", 97)
    parts = function(*given)
    for name in ("field_hz", "noise_hz", "residual", "offset_rad"):
        assert np.array_equal(getattr(parts, name), getattr(whole, name)), name
    assert parts.info == whole.info


@pytest.mark.parametrize("name", FITS)
@pytest.mark.parametrize(
    ("te_s", "source"), [(FIVE, "fit residual"), (FIVE[:3], "fit residual"), ([0.0045, 0.012], "air"), ([0.015], "air")]
)
def test_noise_map_is_calibrated(name, te_s, source):
    function, params, with_offset = FITS[name]
    case = simulate(te_s, noise=0.03, offset=with_offset and len(te_s) > 1, shape=(36, 34, 30))
    fit = function(right_branch(case), case.phase_rad, case.magnitude, case.mask, te_s, params)
    z = ((fit.field_hz - case.field_hz) / np.where(case.mask, fit.noise_hz, 1))[case.mask]
    assert fit.info["noise_from"] == source
    assert np.std(z) == pytest.approx(1.0, abs=0.06)
    assert np.mean(z) == pytest.approx(0.0, abs=0.05)
    sigma = fit.info["noise_relative"] * case.magnitude[:, case.mask].max()
    assert sigma == pytest.approx(0.03, rel=0.05)


def test_noise_map_without_air_or_a_third_echo():
    case = simulate([0.005, 0.010], noise=0.03, shape=(40, 38, 36))
    inner = tuple(slice(n // 4, -(n // 4)) for n in case.grid.shape)
    crop = (slice(None), *inner)
    assert case.mask[inner].all()
    fit = nonlinear(
        right_branch(case)[crop], case.phase_rad[crop], case.magnitude[crop], case.mask[inner], case.te_s, WITH_OFFSET
    )
    z = (fit.field_hz - case.field_hz[inner]) / fit.noise_hz
    assert fit.info["noise_from"] == "image detail"
    assert np.std(z) == pytest.approx(1.0, abs=0.08)


@pytest.mark.parametrize("te_s", [[0.010], [0.005, 0.010]])
@pytest.mark.parametrize("given", [None, "ones"])
def test_noise_map_without_a_magnitude(te_s, given):
    """Phase alone has noise in one direction: along the circle."""
    case = simulate(te_s, shape=(40, 38, 36), offset=False)
    rng = np.random.default_rng(3)
    phase = case.true_rad + rng.normal(0, 0.05, case.true_rad.shape)
    ones = None if given is None else np.ones_like(phase)
    fit = nonlinear(phase, phase, ones, case.mask, te_s)
    z = ((fit.field_hz - case.field_hz) / np.where(case.mask, fit.noise_hz, 1))[case.mask]
    assert np.std(z) == pytest.approx(1.0, abs=0.1)


def test_nonlinear_survives_a_wrongly_unwrapped_echo_where_the_line_does_not():
    case = simulate(FIVE, noise=0.01)
    wrong = right_branch(case)
    wrong[3] += np.float32(2 * np.pi)
    line = weighted(wrong, case.phase_rad, case.magnitude, case.mask, FIVE, WeightedParams(fit_offset=True))
    fit = nonlinear(wrong, case.phase_rad, case.magnitude, case.mask, FIVE, WITH_OFFSET)
    assert np.abs(line.field_hz - case.field_hz)[case.mask].min() > 20
    assert np.abs(fit.field_hz - case.field_hz)[case.mask].max() < 10


def test_the_choice_of_unwrapping_is_kept():
    """Evenly spaced echoes cannot tell f from f + 1 / spacing; whichever comes in comes out."""
    case = simulate(FIVE, noise=0.01)
    t = np.array(FIVE, np.float32)[:, None, None, None]
    for alias in (-1, 1, 2):
        shifted = right_branch(case) + np.float32(2 * np.pi * alias / 0.004) * t
        fit = nonlinear(shifted, case.phase_rad, case.magnitude, case.mask, FIVE, WITH_OFFSET)
        assert np.abs(fit.field_hz - case.field_hz - alias / 0.004)[case.mask].max() < 10


def test_nonlinear_beats_the_line_where_noise_wraps():
    case = simulate(FIVE, noise=0.25)
    assert np.mean(np.abs(case.phase_rad - wrap(case.true_rad))[:, case.mask] > np.pi) > 0.02
    unwrapped = romeo.unwrap(
        wrap(case.phase_rad - case.offset_rad), case.magnitude, case.mask, FIVE, case.grid
    ).phase_rad
    errors = {}
    for name in ("weighted, offset", "nonlinear, offset"):
        function, params, _ = FITS[name]
        fit = function(unwrapped, wrap(case.phase_rad - case.offset_rad), case.magnitude, case.mask, FIVE, params)
        errors[name] = np.sqrt(np.mean((fit.field_hz - case.field_hz)[case.mask] ** 2))
    assert errors["nonlinear, offset"] < errors["weighted, offset"]


def test_residual_marks_what_one_field_cannot_explain():
    case = simulate(FIVE, noise=0.01)
    rng = np.random.default_rng(5)
    bad = case.mask & (np.abs(np.indices(case.mask.shape)[0] - 11) < 2)
    phase = case.phase_rad.copy()
    phase[:, bad] = rng.uniform(-np.pi, np.pi, (5, int(bad.sum())))
    fit = nonlinear(right_branch(case), phase, case.magnitude, case.mask, FIVE, WITH_OFFSET)
    assert np.median(fit.residual[bad]) > 0.3
    assert fit.residual[case.mask & ~bad].max() < 0.05
    assert fit.residual.max() <= 1
    decay = case.magnitude.copy()
    decay[2] *= 0.2
    odd = nonlinear(right_branch(case), case.phase_rad, decay, case.mask, FIVE, WITH_OFFSET)
    assert np.median(odd.residual[case.mask]) > 0.05


def test_leaving_the_offset_out_lowers_the_noise():
    case = simulate(FIVE, noise=0.03, offset=False)
    arguments = (right_branch(case), case.phase_rad, case.magnitude, case.mask, FIVE)
    free, fixed = nonlinear(*arguments, WITH_OFFSET), nonlinear(*arguments)
    error = [np.std((fit.field_hz - case.field_hz)[case.mask]) for fit in (free, fixed)]
    assert error[1] < 0.7 * error[0]


@pytest.mark.parametrize("name", FITS)
def test_the_whole_way_from_images_to_field(name):
    function, params, _ = FITS[name]
    case = simulate([0.004, 0.009, 0.014], noise=0.03)
    clean = remove_offset(case.phase_rad, case.magnitude, case.mask, case.te_s, case.grid)
    unwrapped = romeo.unwrap(clean.phase_rad, case.magnitude, case.mask, case.te_s, case.grid)
    fit = function(unwrapped.phase_rad, clean.phase_rad, case.magnitude, case.mask, case.te_s, params)
    assert count_residual_wraps(unwrapped.phase_rad, case.mask) == 0
    error = (fit.field_hz - case.field_hz)[case.mask]
    assert np.sqrt(np.mean(error**2)) < 1.6 * np.sqrt(np.mean(fit.noise_hz[case.mask] ** 2))


@pytest.mark.parametrize("name", FITS)
def test_dead_voxels_and_missing_magnitude(name):
    function, params, with_offset = FITS[name]
    case = simulate(FIVE[:3], noise=0.02, offset=with_offset)
    magnitude = case.magnitude.copy()
    magnitude[:, 11, 12, 9] = 0
    magnitude[1:, 11, 12, 10] = 0
    fit = function(right_branch(case), case.phase_rad, magnitude, case.mask, case.te_s, params)
    for volume in (fit.field_hz, fit.noise_hz, fit.residual, fit.offset_rad):
        assert np.isfinite(volume).all()
    assert fit.noise_hz[11, 12, 9] == fit.noise_hz.max()
    unweighted = function(right_branch(case), case.phase_rad, None, case.mask, case.te_s, params)
    assert np.abs(unweighted.field_hz - case.field_hz)[case.mask].mean() < 3


@pytest.mark.parametrize(("order", "flips"), ORIENTATIONS[::9])
def test_it_turns_with_the_volume(order, flips):
    case = simulate([0.005, 0.010], noise=0.03)
    here = nonlinear(right_branch(case), case.phase_rad, case.magnitude, case.mask, case.te_s, WITH_OFFSET)
    turned = [turn(a, order, flips) for a in (right_branch(case), case.phase_rad, case.magnitude, case.mask)]
    there = nonlinear(*turned, case.te_s, WITH_OFFSET)
    for name in ("field_hz", "noise_hz", "residual", "offset_rad"):
        np.testing.assert_allclose(getattr(there, name), turn(getattr(here, name), order, flips), rtol=1e-5, atol=1e-5)


def test_real_crop():
    stored, header, magnitude, te_s, grid = romeo_crop()
    phase = scale_phase(stored, units=None, **header)[0]
    mask = magnitude[0] > 0.5 * np.median(magnitude[0])
    clean = remove_offset(phase, magnitude, mask, te_s, grid).phase_rad
    unwrapped = romeo.unwrap(clean, magnitude, mask, te_s, grid).phase_rad
    line = weighted(unwrapped, clean, magnitude, mask, te_s)
    free = nonlinear(unwrapped, clean, magnitude, mask, te_s, WITH_OFFSET)
    noise = np.sqrt(np.median(line.noise_hz[mask]) ** 2 + np.median(free.noise_hz[mask]) ** 2)
    assert np.median(np.abs(line.field_hz - free.field_hz)[mask]) < 2 * noise
    assert np.median(free.residual[mask]) < 0.02
    assert count_residual_wraps(free.field_hz * 2 * np.pi * te_s[0], mask) < 0.002 * mask.sum()


def test_count_residual_wraps():
    volume = np.zeros((5, 6, 7))
    volume[2, 3, 4] = 2 * np.pi
    everywhere = np.ones(volume.shape, bool)
    assert count_residual_wraps(volume, everywhere) == 6
    assert count_residual_wraps(np.stack([volume, 0 * volume, volume]), everywhere) == 12
    everywhere[2, 3, 5] = False
    assert count_residual_wraps(volume, everywhere) == 5
    with pytest.raises(DataError):
        count_residual_wraps(volume, everywhere[:4])


def test_noise_estimators_on_pure_noise():
    rng = np.random.default_rng(0)
    noise = 0.7 * (rng.normal(size=(30, 31, 32)) + 1j * rng.normal(size=(30, 31, 32)))
    mask = np.zeros(noise.shape, bool)
    mask[10:20, 10:20, 10:20] = True
    image = np.abs(noise + 40 * mask)
    image[:3] = 0
    image[25:] += 15
    assert noise_from_air(image, mask) == pytest.approx(0.7, rel=0.03)
    assert noise_from_air(image * mask, mask) is None
    assert noise_from_air(40 + 0 * image, mask) is None
    x = np.indices(noise.shape)[0]
    assert noise_from_detail(noise + 5 * np.sin(x / 4), np.ones(noise.shape, bool)) == pytest.approx(0.7, rel=0.03)
    assert noise_from_detail(noise[:2, :2, :2], np.ones((2, 2, 2), bool)) == 0
    for freedom in (1, 3, 6):
        draws = rng.normal(scale=0.2, size=(freedom, 20000))
        assert noise_from_fit(draws, freedom) == pytest.approx(0.2, rel=0.03)
    with pytest.raises(DataError):
        noise_from_fit(np.zeros((2, 5)), 0)


@pytest.mark.parametrize("function", [weighted, nonlinear, robust])
def test_bad_input_is_refused(function):
    case = simulate([0.004, 0.008])
    good = right_branch(case)
    bad = good.copy()
    bad[0, 0, 0, 0] = np.inf
    for arguments in (
        (good[:1], case.phase_rad, case.magnitude, case.mask, case.te_s),
        (good, bad, case.magnitude, case.mask, case.te_s),
        (good, case.phase_rad, -case.magnitude - 1, case.mask, case.te_s),
        (good, case.phase_rad, 0 * case.magnitude, case.mask, case.te_s),
        (good, case.phase_rad, case.magnitude, 0 * case.mask, case.te_s),
        (good, case.phase_rad, case.magnitude, case.mask, [0.008, 0.004]),
    ):
        with pytest.raises(DataError):
            function(*arguments)


def test_robust_leaves_out_late_echoes_that_disagree():
    """Later echoes of some voxels hold another phase each: the first ones decide, and the noise map knows."""
    case = simulate(FIVE, noise=0.01, offset=False)
    rng = np.random.default_rng(3)
    spoilt = case.mask & (rng.random(case.mask.shape) < 0.2)
    phase, unwrapped = case.phase_rad.copy(), right_branch(case)
    for echo in (2, 3, 4):
        off = rng.uniform(1.5, 4.7, size=case.mask.shape).astype(np.float32) * spoilt
        phase[echo], unwrapped[echo] = wrap(phase[echo] + off), unwrapped[echo] + off
    given = (unwrapped, phase, case.magnitude, case.mask, FIVE)
    errors = {
        function.__name__: np.sqrt(np.mean((function(*given).field_hz - case.field_hz)[spoilt] ** 2))
        for function in (weighted, nonlinear, robust)
    }
    assert errors["robust"] < 0.2 * errors["nonlinear"] < 0.2 * errors["weighted"]
    fit = robust(*given)
    clean = case.mask & ~spoilt
    assert np.median(fit.noise_hz[spoilt]) > 2 * np.median(fit.noise_hz[clean])


@pytest.mark.parametrize(
    ("te_s", "noise"),
    [(FIVE, 0.15), ([0.004, 0.009, 0.014], 0.15), ([0.0045, 0.012], 0.15), ([0.003, 0.015], 0.05), (FIVE, 0.01)],
)
def test_robust_loses_little_where_all_echoes_agree(te_s, noise):
    """White noise alone, phases of 0.15 rad and more: hardly worse than least squares, which are best then."""
    case = simulate(te_s, noise=noise, offset=False)
    given = (right_branch(case), case.phase_rad, case.magnitude, case.mask, te_s)
    error = [np.std((function(*given).field_hz - case.field_hz)[case.mask]) for function in (robust, nonlinear)]
    assert error[0] < 1.05 * error[1]


@pytest.mark.parametrize("te_s", [FIVE, [0.0012 * k for k in range(1, 13)]], ids=["five", "twelve"])
@pytest.mark.parametrize("noise", [0.2, 0.3, 0.5])
def test_robust_is_as_nonlinear_where_the_first_echoes_say_too_little(te_s, noise):
    """Dim voxels: what two echoes predict for the third is then worth nothing."""
    case = simulate(te_s, noise=noise, offset=False)
    given = (right_branch(case), case.phase_rad, case.magnitude, case.mask, te_s)
    error = [
        np.sqrt(np.mean((function(*given).field_hz - case.field_hz)[case.mask] ** 2))
        for function in (robust, nonlinear)
    ]
    assert error[0] < 1.08 * error[1]


def test_the_noise_map_knows_how_much_echoes_counted():
    """Phases of 0.15 rad and more, so that many echoes count less although nothing is wrong with them."""
    case = simulate(FIVE, noise=0.12, offset=False, shape=(36, 34, 30))
    fit = robust(right_branch(case), case.phase_rad, case.magnitude, case.mask, FIVE, RobustParams(limit_rad=0.05))
    z = ((fit.field_hz - case.field_hz) / np.where(case.mask, fit.noise_hz, 1))[case.mask]
    assert np.std(z) == pytest.approx(1.0, abs=0.05)


def test_robust_is_not_fooled_by_late_echoes_that_are_spoilt_nearly_everywhere():
    """Their residual is no measure of the noise then."""
    te_s = [*FIVE, 0.024]
    case = simulate(te_s, noise=0.01, offset=False)
    rng = np.random.default_rng(5)
    phase, unwrapped = case.phase_rad.copy(), right_branch(case)
    for echo in (3, 4, 5):
        off = np.where(rng.random(case.mask.shape) < 0.8, rng.uniform(1.0, 2.5, case.mask.shape), 0).astype(np.float32)
        phase[echo], unwrapped[echo] = wrap(phase[echo] + off), unwrapped[echo] + off
    fit = robust(unwrapped, phase, case.magnitude, case.mask, te_s)
    assert np.sqrt(np.mean((fit.field_hz - case.field_hz)[case.mask] ** 2)) < 1.0


def test_robust_takes_the_turn_of_the_first_two_echoes():
    """Later echoes may be unwrapped wrongly; a field that is a turn off in the first two is another one."""
    case = simulate([0.004, 0.009, 0.014], noise=0.01, offset=False)
    unwrapped, some = right_branch(case), np.indices(case.mask.shape).sum(0) % 7 == 0
    given = (case.phase_rad, case.magnitude, case.mask, case.te_s)
    expected = robust(unwrapped, *given).field_hz
    unwrapped[2] += np.float32(2 * np.pi) * some
    np.testing.assert_allclose(robust(unwrapped, *given).field_hz, expected, atol=0.02)
    unwrapped[0] += np.float32(2 * np.pi) * some
    unwrapped[1] += np.float32(4 * np.pi) * some
    assert np.median(np.abs(robust(unwrapped, *given).field_hz - expected)[case.mask & some]) > 100
