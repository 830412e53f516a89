"""Some of many voxels, for numbers that all of them would not make better."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

ENOUGH = 2**17
"""Voxels that say as much of a whole volume as all of them."""


def some_of(n: int) -> NDArray[np.intp] | slice:
    """Indices of `ENOUGH` of ``n`` voxels, drawn at random but the same every time; all where there are no more."""
    if n <= ENOUGH:
        return slice(None)
    return np.sort(np.random.default_rng(0).choice(n, ENOUGH, replace=False, shuffle=False))
