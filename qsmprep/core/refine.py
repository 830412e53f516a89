"""Labels of an atlas moved to the contrast of the head: probabilities of the atlas, grey values and susceptibility.

Registration brings the probability of every structure to a head, and cannot follow its edges everywhere. Here every
voxel is assigned by Bayes' rule: the atlas says what is likely there, and each tissue has a normal distribution of
values in every channel (T1w or magnitude; susceptibility where there is a map), estimated from the head itself by
expectation maximisation [1]_. Classes of one tissue share their distributions; the side of a voxel is that of the
atlas. Neighbours pull at each other (mean field of a Potts model), and a slow shading of the first channel is
estimated along the way [2]_.

References
----------
.. [1] Van Leemput et al., IEEE Trans. Med. Imaging 18:897 (1999), doi:10.1109/42.811270
.. [2] Ashburner and Friston, NeuroImage 26:839 (2005), doi:10.1016/j.neuroimage.2005.02.018
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from qsmprep.core.parameters import NormalisationParams

Shares = NDArray[np.float32]
Array = NDArray[np.floating]

ITERATIONS = 15
SHADING_AT = (2, 5, 9)
"""Iterations after which the shading is estimated again."""

LEAST = 2e-3
"""Where the probability of a structure is less, it is not looked for."""

FAR_SD = 3.5
"""Values further from the mean of a tissue do not count for its distribution."""

PRIOR_VOXELS = 50.0
"""A tissue's spread is held by as many voxels of ``PRIOR_SPREAD`` of the spread of all values."""
PRIOR_SPREAD = 0.3

WIDEST = 1.5
"""No tissue's susceptibility spreads more than this many times the spread of the median tissue: a pallidum with a wide
distribution takes the outliers of its narrower neighbours."""


@dataclass(frozen=True)
class Model:
    """Distributions of the tissues.

    Parameters
    ----------
    mean, variance : (tissues, channels) array
    """

    mean: NDArray[np.float64]
    variance: NDArray[np.float64]


def refine(
    channels: Sequence[Array],
    inside: NDArray[np.bool_],
    shares: Shares,
    tissue: Sequence[int],
    anywhere: Sequence[int],
    voxel_mm: Sequence[float],
    params: NormalisationParams,
) -> Shares:
    """Probability of every class after the head itself was looked at.

    Parameters
    ----------
    channels : sequence of (nx, ny, nz) arrays
        Images of the head, not finite where one is not defined. The first is positive and may be shaded.
    inside : (nx, ny, nz) bool array
        The brain.
    shares : (k, nx, ny, nz) float32 array
        Probability of each class by the atlas.
    tissue : (k,) sequence of int
        Classes of one number (from 0) share their distribution: left and right of a structure.
    anywhere : sequence of int
        Tissues that may lie where the atlas has a structure: white matter, cortex, fluid.
    voxel_mm : (3,) sequence of float
    params : NormalisationParams

    Returns
    -------
    (k, nx, ny, nz) float32 array
        Probabilities; their sum is 1 in ``inside`` and 0 elsewhere.
    """
    of = np.asarray(tissue)
    sides = np.stack([ndimage.gaussian_filter(s, params.soft_mm / np.asarray(voxel_mm), truncate=3.0) for s in shares])
    known = np.stack([sides[of == t].sum(axis=0) for t in range(int(of.max()) + 1)])
    weight = known.reshape(len(known), -1)[:, inside.ravel()] ** 2
    known *= 1 - params.doubt
    known[list(anywhere)] += params.doubt / len(anywhere)
    values = np.stack([np.asarray(c, np.float32) for c in channels])
    values[0] = np.log(np.maximum(values[0], np.percentile(values[0][inside], 1)))
    at = np.flatnonzero(inside)
    seen = values.reshape(len(values), -1)[:, at]
    there = known.reshape(len(known), -1)[:, at]
    log_prior = np.where(there < LEAST, -50.0, params.trust * np.log(np.maximum(there, LEAST))).astype(np.float32)
    basis = _polynomials(inside.shape).reshape(-1, inside.size)[:, at]
    shading = np.zeros(len(at), np.float32)
    nearness = 1.0 / np.asarray(voxel_mm, float)
    nearness *= 3.0 / nearness.sum()
    posterior = known * inside
    model: Model | None = None
    for iteration in range(ITERATIONS):
        flat = seen.copy()
        flat[0] -= shading
        model = _distributions(flat, weight, model)
        score = log_prior + _log_likelihood(flat, model, params.outliers)
        if params.pull:
            score += params.pull * np.stack([_neighbours(p, nearness).reshape(-1)[at] for p in posterior])
        weight = np.exp(score - score.max(axis=0))
        weight /= weight.sum(axis=0)
        posterior.reshape(len(known), -1)[:, at] = weight
        if iteration in SHADING_AT:
            shading = _shading(seen[0], weight, model, basis)
    sides += np.float32(1e-9)
    whole = np.stack([sides[of == t].sum(axis=0) for t in range(len(known))])
    return np.asarray(sides / whole[of] * posterior[of], np.float32)


def _polynomials(shape: tuple[int, ...]) -> Shares:
    """Polynomials up to the second order over a volume, (10, nx, ny, nz); the last is the constant."""
    x, y, z = np.meshgrid(*(np.linspace(-1, 1, n, dtype=np.float32) for n in shape), indexing="ij")
    return np.stack([x, y, z, x * y, x * z, y * z, x * x, y * y, z * z, np.ones_like(x)])


def _shading(values: Array, weight: Array, model: Model, basis: Array) -> Array:
    """The slow part of what the tissues' means do not explain in the first channel, without its constant."""
    precision = 1.0 / model.variance[:, 0]
    w = precision @ weight
    rest = values - (precision * model.mean[:, 0]) @ weight / w
    middle = np.median(rest)
    w = w * (np.abs(rest - middle) < 3.0 * 1.4826 * np.median(np.abs(rest - middle)))
    columns = basis * w
    fit = np.linalg.solve(columns @ basis.T + 1e-6 * w.sum() * np.eye(len(basis)), columns @ rest)
    return np.asarray(fit[:-1] @ basis[:-1], np.float32)


def _distributions(values: Array, weight: Array, before: Model | None) -> Model:
    """Mean and variance of every tissue in every channel; what lies far off (vessels) does not count."""
    mean, variance = np.zeros((len(weight), len(values))), np.zeros((len(weight), len(values)))
    for channel, all_values in enumerate(values):
        ok = np.isfinite(all_values)
        v = all_values[ok]
        low, high = np.percentile(v, [5, 95])
        held = (PRIOR_SPREAD * max(float(high - low) / 3.3, 1e-6)) ** 2
        for t, all_weights in enumerate(weight):
            w = all_weights[ok]
            if before is not None:
                reach = FAR_SD * np.sqrt(before.variance[t, channel])
                w = w * (np.abs(v - before.mean[t, channel]) < reach)
            else:
                mean[t, channel], variance[t, channel] = _robust(v, w, held)
                continue
            total = float(w.sum()) + 1e-9
            mean[t, channel] = float(w @ v) / total
            spread = float(w @ (v - mean[t, channel]) ** 2)
            variance[t, channel] = (spread + held * PRIOR_VOXELS) / (total + PRIOR_VOXELS)
        if channel > 0:
            widest = max(WIDEST**2 * float(np.median(variance[:, channel])), held)
            variance[:, channel] = np.minimum(variance[:, channel], widest)
    return Model(mean, variance)


def _robust(values: Array, weight: Array, held: float) -> tuple[float, float]:
    """Weighted median, and the square of the spread by the median distance from it."""
    if not weight.any():
        return float(np.median(values)), held

    def middle(x: Array) -> float:
        order = np.argsort(x)
        total = np.cumsum(weight[order])
        return float(x[order][np.searchsorted(total, total[-1] / 2)])

    centre = middle(values)
    return centre, max((1.4826 * middle(np.abs(values - centre))) ** 2, 1e-12)


def _log_likelihood(values: Array, model: Model, outliers: float) -> Array:
    """Logarithm of the density of what is seen, for every tissue; beyond the tails a value says nothing."""
    result = np.zeros((len(model.mean), values.shape[1]), np.float32)
    for channel, v in enumerate(values):
        ok = np.isfinite(v)
        for t, (mean, variance) in enumerate(zip(model.mean[:, channel], model.variance[:, channel], strict=True)):
            density = np.exp(-0.5 * (v[ok] - mean) ** 2 / variance) / np.sqrt(variance)
            floor = outliers / np.sqrt(model.variance[:, channel].max())
            result[t, ok] += np.log(density + floor)
    return result


def _neighbours(share: Array, nearness: NDArray[np.float64]) -> Array:
    """Sum over the six neighbours, each weighted by the nearness along its axis."""
    total = np.zeros_like(share)
    for axis in range(3):
        low, high = [slice(None)] * 3, [slice(None)] * 3
        low[axis], high[axis] = slice(None, -1), slice(1, None)
        total[tuple(low)] += np.float32(nearness[axis]) * share[tuple(high)]
        total[tuple(high)] += np.float32(nearness[axis]) * share[tuple(low)]
    return total
