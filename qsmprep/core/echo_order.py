"""Whether echoes are in the order that their echo times say."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from qsmprep.core.grid import Grid
from qsmprep.core.phase_artefacts import fit_bipolar, remove_bipolar

FloatArray = NDArray[np.floating]

MIN_DISAGREEMENT = 0.02
"""Disagreement of the phase steps below which no order is better than another: the field is too small."""

MIN_BESIDE_BIPOLAR = 0.001
"""The same where the phase of a bipolar readout was taken off, and most of a swap's with it."""

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
    grid: Grid | None = None,
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
    grid : Grid, optional
        With it, the phase between odd and even echoes of a bipolar readout, which makes steps disagree as well, is
        fitted and taken off in every order before orders are compared (of some voxels only).

    Returns
    -------
    tuple of tuple of int
        Numbers of both echoes of each pair, from 0.
    """
    steps = np.diff(np.asarray(te_s, float))
    if len(steps) < 2 or np.ptp(steps) > 0.01 * float(steps.mean()):
        return ()
    phase_rad, magnitude, mask = np.asarray(phase_rad), None if magnitude is None else np.asarray(magnitude), mask > 0
    if grid is not None:
        phase_rad, magnitude, mask, grid = _thinned(phase_rad, magnitude, mask, grid)
    voxels = np.flatnonzero(mask)
    voxels = voxels[:: len(voxels) // MAX_VOXELS + 1]
    weight = np.ones(voxels.size)
    if magnitude is not None:
        weight = np.square(np.asarray(magnitude, float).reshape(len(phase_rad), -1)[:, voxels]).mean(axis=0)
    if not weight.sum() > 0:
        return ()

    def left(order: Sequence[int]) -> float:
        ordered = phase_rad[list(order)]
        if grid is not None:
            ordered = remove_bipolar(ordered, fit_bipolar(ordered, magnitude, mask, te_s, grid), grid)
        return _disagreement(_turned(ordered, voxels), weight)

    as_it_is = _disagreement(_turned(phase_rad, voxels), weight)
    if as_it_is < MIN_DISAGREEMENT:
        return ()
    if grid is not None:
        as_it_is = left(range(len(phase_rad)))
        if as_it_is < MIN_BESIDE_BIPOLAR:
            return ()
    found = {}
    for pair in combinations(range(len(phase_rad)), 2):
        order = list(range(len(phase_rad)))
        order[pair[0]], order[pair[1]] = pair[1], pair[0]
        found[pair] = left(order)
    best = min(found.values())
    if best >= SHARE_LEFT * as_it_is:
        return ()
    return tuple(pair for pair, value in found.items() if value < best + TIE * as_it_is)


def _thinned(
    phase_rad: FloatArray, magnitude: FloatArray | None, mask: NDArray[np.bool_], grid: Grid
) -> tuple[FloatArray, FloatArray | None, NDArray[np.bool_], Grid]:
    """Every so many voxels along each axis, so that there are about :data:`MAX_VOXELS` in the mask."""
    step = max(1, round((np.count_nonzero(mask) / MAX_VOXELS) ** (1 / 3)))
    part = (..., *(slice(None, None, step),) * 3)
    x, y, z = mask[part].shape
    return (
        phase_rad[part],
        None if magnitude is None else magnitude[part],
        mask[part],
        Grid((x, y, z), tuple(step * mm for mm in grid.voxel_mm)),  # type: ignore[arg-type]
    )


def _turned(phase_rad: FloatArray, voxels: NDArray[np.intp]) -> NDArray[np.complex128]:
    """Complex numbers of modulus 1, ``(n_echo, n)``."""
    return np.exp(1j * np.asarray(phase_rad).reshape(len(phase_rad), -1)[:, voxels])


def _disagreement(turned: NDArray[np.complex128], weight: NDArray[np.floating]) -> float:
    """How much the steps between echoes disagree, mean over the voxels."""
    agreed = np.abs(np.mean(turned[1:] * np.conj(turned[:-1]), axis=0))
    return float(1 - np.average(agreed, weights=weight))
