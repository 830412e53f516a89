"""The metrics against slow restatements of their definitions, and closed forms."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from dipole_cases import MOVES, move
from hypothesis import given, settings
from hypothesis import strategies as st

from qsmprep.core import metrics
from qsmprep.errors import DataError

SHAPE = (12, 11, 13)


def case(seed: int = 0, shape: tuple[int, ...] = SHAPE):
    rng = np.random.default_rng(seed)
    truth = rng.normal(0.01, 0.05, shape)
    chi = 0.8 * truth + rng.normal(0.0, 0.02, shape) + 0.013
    mask = np.zeros(shape, bool)
    mask[2:-2, 1:-3, 3:-1] = True
    mask[3, 3, 4] = False
    return chi, truth, mask


def zero_outside(volume, mask):
    return [
        [[float(volume[i, j, k]) if mask[i, j, k] else 0.0 for k in range(mask.shape[2])] for j in range(mask.shape[1])]
        for i in range(mask.shape[0])
    ]


def neighbours(volume, at, half):
    """Offset and value of every voxel within ``half`` of ``at``, zero beyond the volume."""
    for step in itertools.product(range(-half, half + 1), repeat=3):
        place = [a + s for a, s in zip(at, step, strict=True)]
        inside = all(0 <= p < n for p, n in zip(place, SHAPE, strict=True))
        yield step, volume[place[0]][place[1]][place[2]] if inside else 0.0


def window(half, sigma):
    weights = {
        s: math.exp(-sum(c * c for c in s) / (2 * sigma**2))
        for s in itertools.product(range(-half, half + 1), repeat=3)
    }
    total = sum(weights.values())
    return {s: w / total for s, w in weights.items()}


def slow_similarity(x, t, at, half, c1, c2):
    w = window(half, 1.5)
    px, pt = dict(neighbours(x, at, half)), dict(neighbours(t, at, half))
    mx, mt = sum(w[s] * px[s] for s in w), sum(w[s] * pt[s] for s in w)
    vx = sum(w[s] * px[s] ** 2 for s in w) - mx**2
    vt = sum(w[s] * pt[s] ** 2 for s in w) - mt**2
    cov = sum(w[s] * px[s] * pt[s] for s in w) - mx * mt
    return (2 * mx * mt + c1) * (2 * cov + c2) / ((mx**2 + mt**2 + c1) * (vx + vt + c2))


def test_rmse_and_nrmse_by_loops():
    chi, truth, mask = case()
    pairs = [(float(x), float(t)) for x, t, m in zip(chi.flat, truth.flat, mask.flat, strict=True) if m]
    error, size = sum((x - t) ** 2 for x, t in pairs), sum(t * t for _, t in pairs)
    assert metrics.rmse(chi, truth, mask) == pytest.approx(100 * math.sqrt(error / size))
    mean_x, mean_t = (sum(p[i] for p in pairs) / len(pairs) for i in (0, 1))
    error = sum((x - mean_x - t + mean_t) ** 2 for x, t in pairs)
    size = sum((t - mean_t) ** 2 for _, t in pairs)
    assert metrics.nrmse(chi, truth, mask) == pytest.approx(100 * math.sqrt(error / size))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.2, 3.0), st.floats(-0.2, 0.2))
def test_detrended_nrmse_is_a_function_of_the_correlation(seed, gain, offset):
    chi, truth, mask = case(seed, (6, 7, 8))
    r = np.corrcoef(chi[mask], truth[mask])[0, 1]
    expected = 100 * math.sqrt(1 / r**2 - 1)
    assert metrics.detrended_nrmse(chi, truth, mask) == pytest.approx(expected, rel=1e-9)
    assert metrics.detrended_nrmse(gain * chi + offset, truth, mask) == pytest.approx(expected, rel=1e-6)
    assert metrics.correlation(chi, truth, mask) == pytest.approx(r, rel=1e-9)


def test_linear_fit_agrees_with_polyfit_and_finds_an_exact_line():
    chi, truth, mask = case()
    slope, intercept = np.polyfit(truth[mask], chi[mask], 1)
    assert metrics.linear_fit(chi, truth, mask) == pytest.approx((slope, intercept))
    assert metrics.linear_fit(0.7 * truth - 0.02, truth, mask) == pytest.approx((0.7, -0.02))
    assert metrics.detrended_nrmse(0.7 * truth - 0.02, truth, mask) == pytest.approx(0, abs=1e-9)


def test_hfen_by_direct_summation():
    chi, truth, mask = case()
    size, sigma = 15, 1.5
    steps = list(itertools.product(range(-7, 8), repeat=3))
    gauss = window(7, sigma)
    kernel = {s: (sum(c * c for c in s) / sigma**4 - 3 / sigma**2) * gauss[s] for s in steps}
    mean = sum(kernel.values()) / size**3
    kernel = {s: v - mean for s, v in kernel.items()}
    sums = []
    for volume in ((chi - truth) * mask, truth * mask):
        padded = np.pad(volume, 7)
        total = np.zeros(SHAPE)
        for s, v in kernel.items():
            total += v * padded[tuple(slice(7 - c, 7 - c + n) for c, n in zip(s, SHAPE, strict=True))]
        sums.append(math.sqrt(float((total**2).sum())))
    assert metrics.hfen(chi, truth, mask) == pytest.approx(100 * sums[0] / sums[1], rel=1e-9)
    full = metrics.laplacian_of_gaussian()
    assert full.sum() == pytest.approx(0, abs=1e-12)
    assert full[7, 7, 7] == pytest.approx(kernel[0, 0, 0])
    assert full[3, 9, 7] == pytest.approx(kernel[-4, 2, 0])


def test_xsim_by_loops():
    chi, truth, mask = case()
    x, t = zero_outside(chi, mask), zero_outside(truth, mask)
    values = [slow_similarity(x, t, at, 3, 1e-4, 1e-6) for at in np.argwhere(mask)[::17]]
    picked = np.zeros(SHAPE, bool)
    picked[tuple(np.argwhere(mask)[::17].T)] = True
    fast = metrics._similarity(np.where(mask, chi, 0), np.where(mask, truth, 0), 7, 1.5, 1e-4, 1e-6)
    np.testing.assert_allclose(fast[picked], values, rtol=1e-9)
    assert metrics.xsim(chi, truth, mask) == pytest.approx(fast[mask].mean())


def test_ssim_and_psnr_by_loops():
    chi, truth, mask = case()
    chi[5, 5, 6] = 0.0  # a zero inside the mask is no tissue to the challenge's script
    low = min(min(float(v[m]) for m in map(tuple, np.argwhere(mask))) for v in (chi, truth))
    low = min(low, 0.0)
    grey = [
        [[[0.0 if v == 0 else v - low for v in line] for line in plane] for plane in zero_outside(volume, mask)]
        for volume in (chi, truth)
    ]
    high = max(v for volume in grey for plane in volume for line in plane for v in line)
    x, t = ([[[255 * v / high for v in line] for line in plane] for plane in volume] for volume in grey)
    places = [at for at in itertools.product(*map(range, SHAPE)) if x[at[0]][at[1]][at[2]] != 0]
    values = [slow_similarity(x, t, at, 2, 2.55**2, 7.65**2) for at in places]
    assert metrics.ssim(chi, truth, mask) == pytest.approx(sum(values) / len(values), rel=1e-9)
    error = np.mean([(x[i][j][k] - t[i][j][k]) ** 2 for i, j, k in itertools.product(*map(range, SHAPE))])
    assert metrics.psnr(chi, truth, mask) == pytest.approx(10 * math.log10(255**2 / error), rel=1e-9)


def test_slope_deviation_uses_regional_means():
    truth, labels = np.zeros((8, 4, 4)), np.zeros((8, 4, 4), int)
    chi = np.zeros((8, 4, 4))
    for label, value in ((1, 0.05), (2, 0.10), (3, 0.20), (4, 0.9)):
        labels[2 * label - 2 : 2 * label] = label
        truth[labels == label] = value
        chi[labels == label] = 0.85 * value + 0.01
    chi[0] += 0.03
    chi[1] -= 0.03
    chi[labels == 4] = -5.0
    assert metrics.slope_deviation(chi, truth, labels, (1, 2, 3, 99)) == pytest.approx(0.15)
    with pytest.raises(DataError):
        metrics.slope_deviation(chi, truth, labels, (1, 99))


def test_calcification_by_hand():
    shape = (30, 31, 32)
    lesion = np.zeros(shape, bool)
    lesion[14:17, 13:16, 15:18] = True
    rng = np.random.default_rng(3)
    truth = np.where(lesion, -0.4, 0.02 * rng.normal(size=shape))
    chi = np.where(lesion, -0.3, 0.9 * truth)
    chi[9, 13, 15] = -0.107  # a streak in the rim: the threshold becomes -0.11
    chi[13, 13, 15] = -0.2  # blur: shown as lesion
    chi[12, 13, 15] = -0.108  # in the lesion's box, but above the threshold
    deviation, streak = metrics.calcification(chi, truth, lesion)
    assert deviation == pytest.approx(abs(27 * -0.4 - (27 * -0.3 - 0.2)))
    rim = [
        at
        for at in itertools.product(*map(range, shape))
        if 7 <= at[0] <= 23
        and 6 <= at[1] <= 22
        and 8 <= at[2] <= 24
        and not (11 <= at[0] <= 19 and 10 <= at[1] <= 18 and 12 <= at[2] <= 20)
    ]
    x, t = (np.array([v[at] for at in rim]) for v in (chi, truth))
    slope, intercept = np.polyfit(t, x, 1)
    left = np.std(x - slope * t - intercept)
    assert streak == pytest.approx(left / abs((27 * -0.3 - 0.2) / 28), rel=1e-9)
    far = chi.copy()
    far[0, 0, 0] = -3.0  # outside the outer box: of no effect
    assert metrics.calcification(far, truth, lesion) == pytest.approx((deviation, streak))
    assert metrics.calcification(np.zeros(shape), truth, lesion)[0] == pytest.approx(27 * 0.4)
    assert math.isnan(metrics.calcification(np.zeros(shape), truth, lesion)[1])


def test_a_perfect_map_scores_perfectly():
    _, truth, mask = case()
    scores = metrics.evaluate(truth, truth, mask)
    for name in ("rmse", "nrmse", "dnrmse", "hfen"):
        assert scores[name] == pytest.approx(0, abs=1e-6)
    for name in ("ssim", "xsim", "cc", "slope"):
        assert scores[name] == pytest.approx(1)
    assert scores["psnr_db"] == math.inf


def test_more_noise_scores_worse():
    rng = np.random.default_rng(5)
    _, truth, mask = case()
    noise = rng.normal(size=SHAPE)
    scores = [metrics.evaluate(truth + sd * noise, truth, mask) for sd in (0.005, 0.02, 0.08)]
    for name in ("rmse", "nrmse", "dnrmse", "hfen"):
        assert scores[0][name] < scores[1][name] < scores[2][name]
    for name in ("ssim", "xsim", "cc", "psnr_db"):
        assert scores[0][name] > scores[1][name] > scores[2][name]


def test_scores_do_not_depend_on_orientation_or_on_what_lies_outside():
    chi, truth, mask = case()
    expected = metrics.evaluate(chi, truth, mask)
    for order, signs in MOVES[::5]:
        moved = metrics.evaluate(*(move(v, order, signs) for v in (chi, truth, mask)))
        assert moved == pytest.approx(expected, rel=1e-9)
    dirty = [np.where(mask, v, np.nan) for v in (chi, truth)]
    assert metrics.evaluate(*dirty, mask) == pytest.approx(expected)


def test_degenerate_maps_give_nan_not_nonsense():
    chi, truth, mask = case()
    flat = np.zeros(SHAPE)
    assert math.isnan(metrics.nrmse(chi, flat, mask))
    assert math.isnan(metrics.correlation(flat, truth, mask))
    assert math.isnan(metrics.detrended_nrmse(chi, flat, mask))
    assert metrics.detrended_nrmse(flat, truth, mask) == math.inf


def test_bad_input_is_refused():
    chi, truth, mask = case()
    with pytest.raises(DataError, match="shape"):
        metrics.rmse(chi[1:], truth, mask)
    with pytest.raises(DataError, match="empty"):
        metrics.rmse(chi, truth, np.zeros(SHAPE, bool))
    with pytest.raises(DataError, match="finite"):
        metrics.evaluate(np.full(SHAPE, np.nan), truth, mask)
    with pytest.raises(DataError, match="empty"):
        metrics.calcification(chi, truth, np.zeros(SHAPE, bool))
