"""Whether echoes are in the order that their echo times say."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.floating]

MIN_DISAGREEMENT = 0.02
"""Disagreement of the phase steps below which no order is better than another: the field is too small."""

SHARE_LEFT = 0.4
"""A swap is believed that leaves less than this share of the disagreement."""

TIE = 0.1
"""Difference, in units of the disagreement as it is, up to which two swaps are as good as each other."""

MAX_VOXELS = 100_000


def swapped_echoes(
    phase_rad: FloatArray,
    magnitude: FloatArray | None,
    mask: NDArray[np.bool_],
    te_s: Sequence[float],
    otherwise_rad: FloatArray | None = None,
) -> tuple[tuple[int, int], ...]:
    r"""Pairs of echoes that seem to have been swapped: none, one, or several that explain the phase alike.

    Between evenly spaced echoes the phase of a voxel makes the same step each time, wraps or not.
    How much the steps :math:`d_k` disagree, :math:`1 - |\operatorname{mean}_k e^{i d_k}|`, is averaged
    over the mask for the order as it is and with every pair of echoes swapped; a swap that leaves
    less than 40 % of the disagreement is believed. The reverse order is as good as any, with the
    opposite field: so the first and the last of three echoes cannot be told, and of four the inner
    two and the outer two are both returned. The definition is ours.

    Parameters
    ----------
    phase_rad : (n_echo, nx, ny, nz) array
        Wrapped phase.
    magnitude : (n_echo, nx, ny, nz) array or None
        Arbitrary unit; its square weights the voxels.
    mask : (nx, ny, nz) bool array
    te_s : sequence of float
        Echo times in s; three or more, evenly spaced, or nothing is returned.
    otherwise_rad : (n_echo, nx, ny, nz) array, optional
        Phase corrected for something else that makes steps disagree: a swap is believed only where it leaves less.

    Returns
    -------
    tuple of tuple of int
        Numbers of both echoes of each pair, from 0.
    """
    steps = np.diff(np.asarray(te_s, float))
    if len(steps) < 2 or np.ptp(steps) > 0.01 * float(steps.mean()):
        return ()
    voxels = np.flatnonzero(mask)
    voxels = voxels[:: len(voxels) // MAX_VOXELS + 1]
    weight = np.ones(voxels.size)
    if magnitude is not None:
        weight = np.square(np.asarray(magnitude, float).reshape(len(phase_rad), -1)[:, voxels]).mean(axis=0)
    if not weight.sum() > 0:
        return ()

    turned = _turned(phase_rad, voxels)
    as_it_is = _disagreement(turned, weight)
    if as_it_is < MIN_DISAGREEMENT:
        return ()
    found = {}
    for pair in combinations(range(len(turned)), 2):
        order = list(range(len(turned)))
        order[pair[0]], order[pair[1]] = pair[1], pair[0]
        found[pair] = _disagreement(turned[order], weight)
    best = min(found.values())
    if best >= SHARE_LEFT * as_it_is:
        return ()
    if otherwise_rad is not None and best >= _disagreement(_turned(otherwise_rad, voxels), weight):
        return ()
    return tuple(pair for pair, value in found.items() if value < best + TIE * as_it_is)


def _turned(phase_rad: FloatArray, voxels: NDArray[np.intp]) -> NDArray[np.complex128]:
    """Complex numbers of modulus 1, ``(n_echo, n)``."""
    return np.exp(1j * np.asarray(phase_rad).reshape(len(phase_rad), -1)[:, voxels])


def _disagreement(turned: NDArray[np.complex128], weight: NDArray[np.floating]) -> float:
    """How much the steps between echoes disagree, mean over the voxels."""
    agreed = np.abs(np.mean(turned[1:] * np.conj(turned[:-1]), axis=0))
    return float(1 - np.average(agreed, weights=weight))
