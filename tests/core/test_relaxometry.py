"""R2*, T2* and S0."""

from __future__ import annotations

import numpy as np
import pytest
from echo_cases import romeo_crop

from qsmprep.core.parameters import R2StarParams
from qsmprep.core.relaxometry import MAX_T2STAR_S, arlo, fit_r2star, log_linear
from qsmprep.errors import DataError

SIX = [0.004, 0.009, 0.014, 0.019, 0.024, 0.029]
FITS = {"nonlinear": fit_r2star, "log-linear": log_linear, "ARLO": arlo}
SHAPE = (12, 13, 14)
RATE = np.linspace(8, 90, np.prod(SHAPE)).reshape(SHAPE)
AMPLITUDE = np.linspace(50, 400, np.prod(SHAPE)).reshape(SHAPE[::-1]).transpose()
MASK = np.ones(SHAPE, bool)
MASK[0] = False


def decay(te_s, rate=RATE, amplitude=AMPLITUDE, noise=0.0, seed=0):
    t = np.asarray(te_s)[:, None, None, None]
    rng = np.random.default_rng(seed)
    signal = amplitude * np.exp(-t * rate)
    return np.abs(signal + noise * (rng.normal(size=signal.shape) + 1j * rng.normal(size=signal.shape)))


@pytest.mark.parametrize("name", FITS)
@pytest.mark.parametrize("te_s", [SIX, SIX[:3], SIX[:2], [0.003, 0.010, 0.012, 0.03]])
def test_decay_without_noise(name, te_s):
    uneven_or_short = len(te_s) < 3 or np.ptp(np.diff(te_s)) > 1e-6
    if name == "ARLO" and uneven_or_short:
        with pytest.raises(DataError, match="ARLO"):
            FITS[name](decay(te_s), te_s, MASK)
        return
    fit = FITS[name](decay(te_s), te_s, MASK)
    # Simpson's rule in ARLO errs with the fourth power of the decay between two echoes
    tolerance = 0.002 if name == "ARLO" else 1e-5
    np.testing.assert_allclose(fit.r2star_hz[MASK], RATE[MASK], rtol=tolerance)
    np.testing.assert_allclose(fit.t2star_s[MASK], 1 / RATE[MASK], rtol=tolerance)
    np.testing.assert_allclose(fit.s0[MASK], AMPLITUDE[MASK], rtol=tolerance)
    for volume in (fit.r2star_hz, fit.t2star_s, fit.s0):
        assert volume.dtype == np.float32
        assert not volume[~MASK].any()


def test_nonlinear_fit_is_efficient_and_unbiased():
    """Against the Cramer-Rao bound of amplitude and rate under Gaussian noise."""
    rate, amplitude, sigma = np.full((20, 20, 20), 40.0), 100.0, 1.0
    fit = fit_r2star(decay(SIX, rate, amplitude, sigma), SIX, np.ones(rate.shape, bool))
    t = np.array(SIX)
    shape = np.exp(-40 * t)
    jacobian = np.stack([shape, -amplitude * t * shape])
    bound = np.sqrt(np.linalg.inv(jacobian @ jacobian.T)[1, 1]) * sigma
    assert np.std(fit.r2star_hz) == pytest.approx(bound, rel=0.05)
    assert np.mean(fit.r2star_hz) == pytest.approx(40, abs=0.2)


def test_nonlinear_fit_has_the_smallest_residual():
    signal = decay(SIX, noise=6.0)
    t = np.array(SIX)[:, None, None, None]
    cost = {
        name: np.sum((signal - fit.s0 * np.exp(-t * fit.r2star_hz)) ** 2, axis=0)[MASK]
        for name, fit in ((name, function(signal, SIX, MASK)) for name, function in FITS.items())
    }
    for other in ("log-linear", "ARLO"):
        assert np.all(cost["nonlinear"] <= cost[other] * (1 + 1e-4) + 1e-3)
        assert cost["nonlinear"].mean() < cost[other].mean()


@pytest.mark.parametrize("name", FITS)
def test_rising_dead_and_constant_signal(name):
    signal = decay(SIX)
    signal[:, 3, 3, 3] = 0
    signal[:, 4, 4, 4] = 100 * np.exp(30 * np.array(SIX))
    signal[:, 5, 5, 5] = 100
    signal[3:, 6, 6, 6] = 0
    fit = FITS[name](signal, SIX, MASK)
    for volume in (fit.r2star_hz, fit.t2star_s, fit.s0):
        assert np.isfinite(volume).all()
        assert volume.min() >= 0
    assert fit.s0[3, 3, 3] == fit.r2star_hz[3, 3, 3] == fit.t2star_s[3, 3, 3] == 0
    assert fit.r2star_hz[4, 4, 4] == 0
    assert fit.r2star_hz[5, 5, 5] == pytest.approx(0, abs=1e-4)
    assert fit.t2star_s[4, 4, 4] == fit.t2star_s[5, 5, 5] == MAX_T2STAR_S
    assert fit.s0[5, 5, 5] == pytest.approx(100, rel=1e-3)


def test_a_signal_that_is_gone_at_once_decays_quickly():
    """Not at a rate of zero, as if it stayed."""
    for fit, te_s in ((fit_r2star, [0.005, 0.010]), (log_linear, [0.005, 0.010]), (log_linear, [0.005, 0.010, 0.015])):
        magnitude = np.zeros((len(te_s), 3, 1, 1))
        magnitude[0], magnitude[1, 0] = 100, 1
        found = fit(magnitude, te_s, np.ones((3, 1, 1), bool))
        np.testing.assert_allclose(found.r2star_hz.ravel()[1:], 1000)
        assert np.isfinite(found.s0).all() and (found.s0 > 0).all()
    dead = fit_r2star(np.zeros((2, 1, 1, 1)), [0.005, 0.010], np.ones((1, 1, 1), bool))
    assert dead.r2star_hz.max() == 0


def test_the_largest_rate_is_a_limit():
    fit = fit_r2star(decay(SIX), SIX, MASK, R2StarParams(max_hz=50.0))
    assert fit.r2star_hz.max() == 50
    assert fit.r2star_hz[MASK & (RATE < 45)].max() < 46


@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_the_unit_of_the_magnitude_does_not_matter(scale):
    signal = decay(SIX, noise=4.0)
    one, other = fit_r2star(signal, SIX, MASK), fit_r2star(scale * signal, SIX, MASK)
    np.testing.assert_allclose(other.r2star_hz, one.r2star_hz, rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(other.s0, scale * one.s0, rtol=1e-4)


def test_real_crop_methods_agree():
    _, _, magnitude, te_s, _ = romeo_crop()
    mask = magnitude[0] > 0.5 * np.median(magnitude[0])
    fits = {name: function(magnitude, te_s, mask).r2star_hz[mask] for name, function in FITS.items()}
    assert 5 < np.median(fits["nonlinear"]) < 100
    for name in ("log-linear", "ARLO"):
        assert np.median(np.abs(fits[name] - fits["nonlinear"])) < 1.5


def test_bad_input_is_refused():
    signal = decay(SIX)
    bad = signal.copy()
    bad[0, 5, 5, 5] = np.nan
    for arguments in (
        (signal[:1], SIX[:1], MASK),
        (signal[:3], SIX, MASK),
        (signal, SIX, MASK[:4]),
        (signal, SIX, 0 * MASK),
        (signal, SIX[::-1], MASK),
        (bad, SIX, MASK),
        (-signal, SIX, MASK),
    ):
        with pytest.raises(DataError):
            fit_r2star(*arguments)


def test_uneven_echoes_with_noise_against_scipy():
    """Unequal spacing: the same minimum as a general least-squares solver, and the same line as polyfit."""
    from scipy.optimize import curve_fit

    te_s = [0.003, 0.0045, 0.011, 0.018, 0.034]
    t = np.array(te_s)
    signal = decay(te_s, noise=1.0, seed=4)
    nonlinear, line = fit_r2star(signal, te_s, MASK), log_linear(signal, te_s, MASK)
    for place in ((3, 4, 5), (8, 2, 9), (11, 12, 13), (1, 0, 0)):
        values = signal[(slice(None), *place)]
        best, _ = curve_fit(lambda x, a, r: a * np.exp(-x * r), t, values, p0=(values[0], 40))
        assert nonlinear.r2star_hz[place] == pytest.approx(best[1], rel=1e-3, abs=0.01)
        assert nonlinear.s0[place] == pytest.approx(best[0], rel=1e-3)
        slope, level = np.polyfit(t, np.log(values), 1, w=values)
        assert line.r2star_hz[place] == pytest.approx(-slope, rel=1e-4)
        assert line.s0[place] == pytest.approx(np.exp(level), rel=1e-4)
