"""Compiled kernels of path-following unwrapping: edge weights, sorting, the spanning tree."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba
import numpy as np
from numpy.typing import NDArray

TWO_PI = 2.0 * math.pi
FLOOR = 0.1
"""Smallest value of each factor of a weight, so that one bad factor leaves an order among bad edges."""
TIE = 1e-3
"""Largest relative change of a weight by its surroundings."""
INVALID = np.float32(-1.0)
"""Weight of an edge that leaves the array or the mask."""

Function = TypeVar("Function", bound=Callable[..., Any])


def compile_kernel(function: Function) -> Function:
    """``numba.njit`` with a cache on disk, or without one where no folder can be written."""
    try:
        return cast(Function, numba.njit(cache=True, nogil=True)(function))
    except RuntimeError:
        return cast(Function, numba.njit(nogil=True)(function))


@compile_kernel
def _wrapped(angle: float) -> float:
    return angle - TWO_PI * np.rint(angle / TWO_PI)


@compile_kernel
def _bend(phase: NDArray[np.float32], first: int, middle: int, last: int) -> float:
    """Phase linearity of three voxels in a row, from 0 to 1 (the same from either end)."""
    bend = _wrapped((np.float64(phase[first]) + np.float64(phase[last])) - 2.0 * np.float64(phase[middle]))
    return max(0.0, 1.0 - abs(bend) / 2.0)


@compile_kernel
def _phase_weight(
    phase: NDArray[np.float32], other: NDArray[np.float32], te_ratio: float, use_other: bool, i: int, j: int
) -> float:
    """Phase coherence of an edge times its gradient coherence with the other echo."""
    step = _wrapped(np.float64(phase[j]) - np.float64(phase[i]))
    weight = FLOOR + (1.0 - FLOOR) * (1.0 - abs(step) / math.pi)
    if use_other:
        step_other = _wrapped(np.float64(other[j]) - np.float64(other[i]))
        coherence = max(0.0, 1.0 - abs(step - step_other * te_ratio))
        weight *= FLOOR + (1.0 - FLOOR) * coherence
    return weight


@compile_kernel
def _linearity(
    phase: NDArray[np.float32], mask: NDArray[np.bool_], i: int, j: int, stride: int, before: bool, after: bool
) -> float:
    """Linearity of the phase on both sides of an edge; one side counts twice where the other is missing."""
    has_before = before and mask[i - stride]
    has_after = after and mask[j + stride]
    left = _bend(phase, i - stride, i, j) if has_before else 1.0
    right = _bend(phase, i, j, j + stride) if has_after else 1.0
    if has_before and not has_after:
        right = left
    if has_after and not has_before:
        left = right
    return FLOOR + (1.0 - FLOOR) * (left * right)


@compile_kernel
def _magnitude_weight(magnitude: NDArray[np.float32], i: int, j: int) -> float:
    low = np.float64(min(magnitude[i], magnitude[j]))
    high = np.float64(max(magnitude[i], magnitude[j]))
    coherence = (low / high) ** 2 if high > 0.0 else 0.0
    return FLOOR + (1.0 - FLOOR) * coherence


@compile_kernel
def edge_weights(
    phase: NDArray[np.float32],
    other: NDArray[np.float32],
    te_ratio: float,
    use_other: bool,
    magnitude: NDArray[np.float32],
    use_magnitude: bool,
    mask: NDArray[np.bool_],
    shape: NDArray[np.int64],
) -> NDArray[np.float32]:
    """Weight of the edge from every voxel to its neighbour ahead along each axis.

    All arrays are flat in C order; the result is (3, n), ``INVALID`` where there is no edge.
    """
    n = phase.size
    strides = np.array([shape[1] * shape[2], shape[2], 1])
    weights = np.full((3, n), INVALID, np.float32)
    for axis in range(3):
        stride = strides[axis]
        for i in range(n):
            position = (i // stride) % shape[axis]
            j = i + stride
            if position + 1 >= shape[axis] or not mask[i] or not mask[j]:
                continue
            weight = _phase_weight(phase, other, te_ratio, use_other, i, j)
            weight *= _linearity(phase, mask, i, j, stride, position > 0, position + 2 < shape[axis])
            if use_magnitude:
                weight *= _magnitude_weight(magnitude, i, j)
            weights[axis, i] = weight
    return weights


@compile_kernel
def break_ties(weights: NDArray[np.float32], shape: NDArray[np.int64]) -> None:
    """Order edges of equal weight by the weights around their two ends, in place.

    Without it stored phase of few levels leaves ties, and the order of the array would decide.
    """
    n = weights.shape[1]
    strides = np.array([shape[1] * shape[2], shape[2], 1])
    around = np.zeros(n, np.float64)
    for axis in range(3):
        stride = strides[axis]
        for i in range(n):
            if weights[axis, i] >= 0.0:
                around[i] += weights[axis, i]
                around[i + stride] += weights[axis, i]
    for axis in range(3):
        stride = strides[axis]
        for i in range(n):
            if weights[axis, i] >= 0.0:
                quality = (around[i] + around[i + stride]) / 12.0
                weights[axis, i] = np.float32(np.float64(weights[axis, i]) * (1.0 - TIE + TIE * quality))


@compile_kernel
def descending(weights: NDArray[np.float32]) -> NDArray[np.int64]:
    """Indices of the valid edges of a flat array of weights in [0, 1], the largest weight first.

    A stable radix sort on the bits: non-negative floats sort as their bits do.
    """
    valid = 0
    for w in weights:
        if w >= 0.0:
            valid += 1
    keys = np.empty(valid, np.uint32)
    order = np.empty(valid, np.int64)
    bits = weights.view(np.uint32)
    k = 0
    for i in range(weights.size):
        if weights[i] >= 0.0:
            keys[k] = np.uint32(0x7FFFFFFF) - bits[i]
            order[k] = i
            k += 1
    keys_to, order_to = np.empty_like(keys), np.empty_like(order)
    for shift in (0, 11, 22):
        start = np.zeros(2049, np.int64)
        for k in range(valid):
            start[((keys[k] >> np.uint32(shift)) & np.uint32(2047)) + 1] += 1
        for b in range(2048):
            start[b + 1] += start[b]
        for k in range(valid):
            b = (keys[k] >> np.uint32(shift)) & np.uint32(2047)
            keys_to[start[b]] = keys[k]
            order_to[start[b]] = order[k]
            start[b] += 1
        keys, keys_to = keys_to, keys
        order, order_to = order_to, order
    return order


@compile_kernel
def _find(parent: NDArray[np.int32], wraps: NDArray[np.int32], voxel: int) -> int:
    """Root of a voxel; afterwards ``wraps[voxel]`` counts relative to it."""
    root, total = voxel, 0
    while parent[root] != root:
        total += wraps[root]
        root = parent[root]
    while parent[voxel] != voxel:
        ahead, own = parent[voxel], wraps[voxel]
        parent[voxel] = root
        wraps[voxel] = total
        total -= own
        voxel = ahead
    return root


@compile_kernel
def spanning_tree(
    phase: NDArray[np.float32], order: NDArray[np.int64], shape: NDArray[np.int64]
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Unwrap along the maximum spanning tree: join voxels edge by edge, the best edge first.

    Returns the root of every voxel and its number of wraps relative to that root.
    """
    n = phase.size
    strides = np.array([shape[1] * shape[2], shape[2], 1])
    parent = np.arange(n).astype(np.int32)
    wraps = np.zeros(n, np.int32)
    members = np.ones(n, np.int32)
    for edge in order:
        i = edge % n
        j = i + strides[edge // n]
        root_i, root_j = _find(parent, wraps, i), _find(parent, wraps, j)
        if root_i == root_j:
            continue
        own_i = wraps[i] if root_i != i else 0
        own_j = wraps[j] if root_j != j else 0
        jump = -int(np.rint((np.float64(phase[j]) - np.float64(phase[i])) / TWO_PI))
        shift = own_i + jump - own_j
        if members[root_i] < members[root_j]:
            root_i, root_j, shift = root_j, root_i, -shift
        parent[root_j] = root_i
        wraps[root_j] = shift
        members[root_i] += members[root_j]
    for i in range(n):
        _find(parent, wraps, i)
    return parent, wraps
