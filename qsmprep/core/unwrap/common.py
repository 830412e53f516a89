"""What every unwrapping method shares: checks, alignment of regions and echoes, assembly."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from qsmprep.core.grid import Grid
from qsmprep.core.results import Unwrapped
from qsmprep.core.sampling import some_of
from qsmprep.errors import DataError

TWO_PI = 2.0 * math.pi
MAX_GLOBAL_WRAPS = 3
"""Multiples of 2 pi tried when a whole region is fitted to the other echoes."""
PENALTY = 0.02
"""Loss of agreement that one global wrap must make up for."""

Volume = NDArray[np.float32]
Mask = NDArray[np.bool_]


def check_inputs(
    phase_rad: NDArray[np.floating],
    magnitude: NDArray[np.floating] | None,
    mask: NDArray[Any] | None,
    te_s: Sequence[float],
    grid: Grid,
) -> tuple[Volume, Volume | None, Mask]:
    """Bring the inputs of a method to one form: float32 echoes, magnitude and a mask.

    Raises
    ------
    DataError
        When shapes do not fit, numbers are not finite, the mask is empty, or the echo times are not
        positive and increasing.
    """
    phase = np.ascontiguousarray(phase_rad, dtype=np.float32)
    if phase.ndim != 4 or phase.shape[1:] != grid.shape or phase.shape[0] < 1:
        raise DataError(f"the phase has shape {phase.shape}", expected=f"(n_echo, {', '.join(map(str, grid.shape))})")
    times = np.asarray(te_s, dtype=float)
    if (
        times.shape != (len(phase),)
        or not np.all(np.isfinite(times))
        or np.any(times <= 0)
        or np.any(np.diff(times) <= 0)
    ):
        raise DataError(f"the echo times are {list(te_s)} s", expected=f"{len(phase)} positive, increasing numbers")
    inside = np.ones(grid.shape, bool) if mask is None else np.ascontiguousarray(mask, dtype=bool)
    if inside.shape != grid.shape:
        raise DataError(f"the mask has shape {inside.shape}", expected=str(grid.shape))
    if not inside.any():
        raise DataError("the mask is empty", expected="at least one voxel")
    if not np.all(np.isfinite(phase)):
        raise DataError(
            "the phase is not finite everywhere", remedy="scale it with `scale_phase`, which sets such voxels to 0"
        )
    if magnitude is None:
        return phase, None, inside
    weight = np.ascontiguousarray(magnitude, dtype=np.float32)
    if weight.shape != phase.shape:
        raise DataError(f"the magnitude has shape {weight.shape}", expected=f"that of the phase, {phase.shape}")
    if not np.all(np.isfinite(weight)) or np.any(weight < 0):
        raise DataError("the magnitude has negative or non-finite values", expected="zero or more")
    return phase, weight, inside


def unwrapped_volume(phase_rad: Volume, wraps: NDArray[np.integer], mask: Mask) -> Volume:
    """Wrapped phase plus 2 pi times the wraps, zero outside the mask."""
    result = np.zeros(phase_rad.shape, np.float32)
    if phase_rad.ndim > mask.ndim:  # one echo after the other: the sum is made in double precision
        for echo, phase, n in zip(result, phase_rad, wraps, strict=True):
            echo[...] = unwrapped_volume(phase, n, mask)
        return result
    result[mask] = phase_rad[mask].astype(np.float64) + TWO_PI * wraps[mask]
    return result


def align_regions(
    phase_rad: Volume, wraps: NDArray[np.int32], labels: NDArray[np.int64], grid: Grid
) -> NDArray[np.int32]:
    """Choose the multiple of 2 pi of every disconnected region of one echo.

    The largest region gets a median within [-pi, pi]; every other region the multiple that brings its
    voxels nearest to the largest region closest to their nearest neighbours there.

    Parameters
    ----------
    phase_rad : (nx, ny, nz) float32 array
    wraps : (nx, ny, nz) int32 array
        Right within each region.
    labels : (nx, ny, nz) int array
        1 to n, the largest region being 1; 0 outside the mask.
    grid : Grid

    Returns
    -------
    (nx, ny, nz) int32 array
    """
    full = phase_rad.astype(np.float64) + TWO_PI * wraps
    main = labels == 1
    wraps = wraps - np.int32(np.rint(np.median(full[main]) / TWO_PI))
    n_regions = int(labels.max())
    if n_regions == 1:
        return np.where(labels > 0, wraps, 0).astype(np.int32)
    full = phase_rad.astype(np.float64) + TWO_PI * wraps
    distance, nearest = ndimage.distance_transform_edt(~main, sampling=grid.voxel_mm, return_indices=True)
    islands = labels > 1
    label, far = labels[islands], distance[islands]
    jump = full[islands] - full[tuple(axis[islands] for axis in nearest)]
    closest = np.full(n_regions + 1, np.inf)
    np.minimum.at(closest, label, far)
    front = far <= closest[label] + max(grid.voxel_mm)
    offsets = ndimage.median(jump[front], label[front], np.arange(2, n_regions + 1))
    shift = np.zeros(n_regions + 1, np.int32)
    shift[2:] = np.rint(np.asarray(offsets) / TWO_PI)
    return np.where(labels > 0, wraps - shift[labels], 0).astype(np.int32)


def relabel(labels: NDArray[np.integer], mask: Mask) -> NDArray[np.int64]:
    """Number regions from 1 on, the largest first; 0 outside the mask."""
    _, inverse, counts = np.unique(labels[mask], return_inverse=True, return_counts=True)
    rank = np.empty(len(counts), np.int64)
    rank[np.argsort(-counts, kind="stable")] = np.arange(1, len(counts) + 1)
    result = np.zeros(mask.shape, np.int64)
    result[mask] = rank[inverse.ravel()]
    return result


def global_wraps(unwrapped: Volume, template: int, phase_rad: Volume, mask: Mask, te_s: Sequence[float]) -> int:
    """Multiple of 2 pi to add to the template echo so that all echoes agree on one field.

    Phase is taken to be proportional to echo time. Where the echo times carry no information (all are
    multiples of the template's) this is 0. Of a large mask only some voxels are looked at.
    """
    if len(te_s) < 2:
        return 0
    best, best_score = 0, -math.inf
    some = some_of(int(np.count_nonzero(mask)))
    values = unwrapped[mask][some].astype(np.float64)
    others = {e: phase_rad[e][mask][some] for e in range(len(te_s)) if e != template}
    for k in sorted(range(-MAX_GLOBAL_WRAPS, MAX_GLOBAL_WRAPS + 1), key=lambda c: (abs(c), c)):
        score = -PENALTY * abs(k)
        for e, phase in others.items():
            predicted = (values + TWO_PI * k) * (te_s[e] / te_s[template])
            score += float(np.mean(np.cos(phase - predicted))) / len(others)
        if score > best_score + 1e-9:
            best, best_score = k, score
    return best


def follow_template(
    phase_rad: Volume, wraps: NDArray[np.int32], template: int, mask: Mask, te_s: Sequence[float]
) -> NDArray[np.int32]:
    """Unwrap the other echoes in time, each from its neighbour nearer to the template echo.

    Parameters
    ----------
    phase_rad : (n_echo, nx, ny, nz) float32 array
        Wrapped phase.
    wraps : (nx, ny, nz) int32 array
        Of the template echo.
    template : int
        Its index, from 0 on.
    mask : (nx, ny, nz) bool array
    te_s : sequence of float

    Returns
    -------
    (n_echo, nx, ny, nz) int32 array
    """
    n_echo = len(te_s)
    result = np.zeros(phase_rad.shape, np.int32)
    result[template] = np.where(mask, wraps, 0)
    for e in [*range(template + 1, n_echo), *range(template - 1, -1, -1)]:
        near = e - 1 if e > template else e + 1
        known = phase_rad[near][mask].astype(np.float64) + TWO_PI * result[near][mask]
        result[e][mask] = np.rint((known * (te_s[e] / te_s[near]) - phase_rad[e][mask]) / TWO_PI)
    return result


def align_echoes(
    unwrapped: NDArray[np.float64], labels: NDArray[np.int64], template: int, te_s: Sequence[float]
) -> NDArray[np.int32]:
    """Multiples of 2 pi, one a region and echo, that bring separately unwrapped echoes into line.

    Parameters
    ----------
    unwrapped : (n_echo, nx, ny, nz) array
    labels : (nx, ny, nz) int array
        Regions from 1 on; 0 outside the mask.
    template : int
        The echo that stays.
    te_s : sequence of float

    Returns
    -------
    (n_echo, nx, ny, nz) int32 array
        Wraps to add.
    """
    mask = labels > 0
    label = labels[mask]
    index = np.arange(1, int(labels.max()) + 1)
    shift = np.zeros(unwrapped.shape, np.int32)
    for e in [*range(template + 1, len(te_s)), *range(template - 1, -1, -1)]:
        near = e - 1 if e > template else e + 1
        known = unwrapped[near][mask] + TWO_PI * shift[near][mask]
        offset = np.asarray(ndimage.median(known * (te_s[e] / te_s[near]) - unwrapped[e][mask], label, index))
        shift[e][mask] = np.rint(offset / TWO_PI).astype(np.int32)[label - 1]
    return shift


def exact_result(phase_rad: Volume, wraps: NDArray[np.int32], mask: Mask, info: dict[str, Any]) -> Unwrapped:
    """Put wrapped phase and wraps together."""
    return Unwrapped(
        phase_rad=unwrapped_volume(phase_rad, wraps, mask),
        exact=True,
        info=info,
        wraps=np.where(mask, wraps.astype(np.int16), np.int16(0)),
    )
