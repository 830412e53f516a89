"""Path-following phase unwrapping with ROMEO's weights along the maximum spanning tree."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qsmprep.core.grid import Grid
from qsmprep.core.parameters import RomeoParams
from qsmprep.core.results import Unwrapped
from qsmprep.core.unwrap import common, compiled
from qsmprep.errors import DataError

FloatArray = NDArray[np.floating]


def unwrap(
    phase_rad: FloatArray,
    magnitude: FloatArray | None,
    mask: NDArray[np.bool_] | None,
    te_s: Sequence[float],
    grid: Grid,
    params: RomeoParams | None = None,
) -> Unwrapped:
    """Unwrap all echoes exactly.

    Edges between neighbours are weighted by phase coherence, coherence of the phase gradient with
    another echo, phase linearity and magnitude coherence. Voxels are joined edge by edge, the best
    first, which is the maximum spanning tree at full precision: it needs no seed and treats
    disconnected parts of the mask in one pass. The other echoes are unwrapped in time from the
    template echo, or one by one with a global multiple of 2 pi (``params.individual``).
    Remove the phase offset first (:func:`qsmprep.core.offset.remove_offset`): unwrapping in time takes
    phase to be proportional to echo time.

    Parameters
    ----------
    phase_rad : (n_echo, nx, ny, nz) array
        Wrapped phase.
    magnitude : (n_echo, nx, ny, nz) array or None
        Arbitrary unit.
    mask : (nx, ny, nz) bool array or None
        Where to unwrap.
    te_s : sequence of float
        Echo times in s, increasing.
    grid : Grid
    params : RomeoParams, optional

    Returns
    -------
    Unwrapped
        Exact: ``phase_rad`` is the wrapped phase plus 2 pi ``wraps``, and zero outside the mask.
        ``info`` holds the number of regions, the template echo and its global wraps.

    Raises
    ------
    DataError
        For shapes that do not fit, numbers that are not finite, an empty mask or bad echo times.

    References
    ----------
    Dymerska et al., Magn Reson Med 2021. doi:10.1002/mrm.28563
    """
    params = params or RomeoParams()
    phase, weight, inside = common.check_inputs(phase_rad, magnitude, mask, te_s, grid)
    template = template_index(params.template_echo, len(phase))
    wraps, labels = _in_space(phase, weight, inside, te_s, template)
    wraps = common.align_regions(phase[template], wraps, labels, grid)
    main = common.unwrapped_volume(phase[template], wraps, inside)
    shift = common.global_wraps(main, template, phase, labels == 1, te_s)
    wraps[inside] += shift
    info = {"regions": int(labels.max()), "template_echo": template + 1, "global_wraps": shift}
    if params.individual:
        every = _one_by_one(phase, weight, inside, te_s, wraps, labels, template)
    else:
        every = common.follow_template(phase, wraps, template, inside, te_s)
    return common.exact_result(phase, every, inside, info)


def _one_by_one(
    phase: common.Volume,
    magnitude: common.Volume | None,
    mask: common.Mask,
    te_s: Sequence[float],
    wraps: NDArray[np.int32],
    labels: NDArray[np.int64],
    template: int,
) -> NDArray[np.int32]:
    """Unwrap every echo in space and bring it into line with the template echo, region by region."""
    echoes = range(len(phase))
    every = np.stack([wraps if e == template else _in_space(phase, magnitude, mask, te_s, e)[0] for e in echoes])
    full = phase.astype(np.float64) + common.TWO_PI * every
    return (every + common.align_echoes(full, labels, template, te_s)).astype(np.int32)


def template_index(template_echo: int, n_echo: int) -> int:
    """Index from 0 on of the template echo, the last one where there are fewer echoes."""
    return min(template_echo, n_echo) - 1


def unwrap_volume(
    phase_rad: FloatArray, magnitude: FloatArray | None, mask: NDArray[np.bool_] | None, grid: Grid
) -> Unwrapped:
    """Unwrap one volume in space, without any knowledge of echo times.

    Parameters
    ----------
    phase_rad : (nx, ny, nz) array
    magnitude : (nx, ny, nz) array or None
    mask : (nx, ny, nz) bool array or None
    grid : Grid

    Returns
    -------
    Unwrapped
        With one echo.
    """
    magnitudes = None if magnitude is None else np.asarray(magnitude)[None]
    return unwrap(np.asarray(phase_rad)[None], magnitudes, mask, [1.0], grid)


def voxel_quality(
    phase_rad: FloatArray,
    magnitude: FloatArray | None,
    te_s: Sequence[float],
    mask: NDArray[np.bool_] | None = None,
) -> NDArray[np.float32]:
    """Quality of the phase of every voxel, the mean of ROMEO's weights of its edges.

    Parameters
    ----------
    phase_rad : (n_echo, nx, ny, nz) array
        Wrapped phase. The first echo is judged, with the second as the other echo.
    magnitude : (n_echo, nx, ny, nz) array or None
        Arbitrary unit.
    te_s : sequence of float
        Echo times in s.
    mask : (nx, ny, nz) bool array, optional
        Only edges inside it count; zero outside.

    Returns
    -------
    (nx, ny, nz) float32 array
        From 0 (noise) to 1.

    Raises
    ------
    DataError
        As :func:`unwrap`.
    """
    shape = np.shape(phase_rad)[1:]
    if len(shape) != 3:
        raise DataError(f"the phase has shape {np.shape(phase_rad)}", expected="(n_echo, nx, ny, nz)")
    grid = Grid(shape, (1.0, 1.0, 1.0))
    phase, weight, inside = common.check_inputs(phase_rad, magnitude, mask, te_s, grid)
    edges = _weights(phase, weight, inside, te_s, 0).reshape(3, *shape)
    valid = edges >= 0
    total, count = np.zeros(shape, np.float64), np.zeros(shape, np.int32)
    for axis in range(3):
        ahead, behind = [slice(None)] * 3, [slice(None)] * 3
        ahead[axis], behind[axis] = slice(1, None), slice(None, -1)
        value = np.where(valid[axis], edges[axis], 0)
        total += value
        count += valid[axis]
        total[tuple(ahead)] += value[tuple(behind)]
        count[tuple(ahead)] += valid[axis][tuple(behind)]
    return (total / np.maximum(count, 1)).astype(np.float32)


def _in_space(
    phase: common.Volume, magnitude: common.Volume | None, mask: common.Mask, te_s: Sequence[float], echo: int
) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Wraps of one echo, right within each region, and the regions by size."""
    weights = _weights(phase, magnitude, mask, te_s, echo)
    compiled.break_ties(weights, np.array(mask.shape))
    order = compiled.descending(weights.ravel())
    roots, wraps = compiled.spanning_tree(phase[echo].ravel(), order, np.array(mask.shape))
    return wraps.reshape(mask.shape), common.relabel(roots.reshape(mask.shape), mask)


def _weights(
    phase: common.Volume, magnitude: common.Volume | None, mask: common.Mask, te_s: Sequence[float], echo: int
) -> Any:
    """Edge weights (3, n) of one echo, seen together with the next (or, for the last, the previous) one."""
    other = echo + 1 if echo + 1 < len(phase) else max(echo - 1, 0)
    return compiled.edge_weights(
        phase[echo].ravel(),
        phase[other].ravel(),
        te_s[echo] / te_s[other],
        other != echo,
        (phase if magnitude is None else magnitude)[echo].ravel(),
        magnitude is not None,
        mask.ravel(),
        np.array(mask.shape),
    )
