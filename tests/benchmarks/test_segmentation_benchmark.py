"""Measures of the benchmarks of masks, segmentations and children's heads, against what they must be."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module", autouse=True)
def path():
    sys.path.insert(0, str(ROOT / "benchmarks"))
    yield
    sys.path.remove(str(ROOT / "benchmarks"))


def test_surface_distance_is_in_millimetres():
    from segmentation import dice, distance_95_mm

    cube = np.zeros((30, 30, 30), dtype=bool)
    cube[8:20, 8:20, 8:20] = True
    assert distance_95_mm(cube, cube, (1.0, 1.0, 2.0)) == 0
    assert dice(cube, cube) == 1
    moved = np.roll(cube, 3, axis=2)
    assert distance_95_mm(cube, moved, (1.0, 1.0, 2.0)) == pytest.approx(6.0)
    assert dice(cube, moved) == pytest.approx(9 / 12)
    assert distance_95_mm(cube, cube & False, (1.0,) * 3) == float("inf")


def test_sharpness_of_maps():
    from network_scans import Case
    from pediatric import sharpness

    from qsmprep.core.dipole import forward_field
    from qsmprep.core.grid import Grid

    grid = Grid((36, 36, 36), (1.0, 1.0, 1.5))
    place = np.indices(grid.shape) - 17.5
    mask = (place**2).sum(axis=0) < 15**2
    nucleus = (place**2).sum(axis=0) < 6**2
    chi = (ndimage.gaussian_filter(nucleus.astype(np.float32), 0.7) * 0.1 * mask).astype(np.float32)
    field = (forward_field(chi, grid) * mask).astype(np.float32)
    none = np.zeros(grid.shape, np.int16)
    ones = np.ones(grid.shape, np.float32)
    case = Case("h", "s", grid, field, chi, ones, ones, mask, nucleus.astype(np.int16), none)
    assert sharpness(chi, case) == pytest.approx(1)
    assert sharpness(0.5 * chi, case) == pytest.approx(0.5)
    blurred = ndimage.gaussian_filter(chi, 2.0)
    assert sharpness(blurred, case) < 0.6
    noise = np.random.default_rng(0).normal(0, 0.05, grid.shape)
    assert sharpness(chi + noise, case) == pytest.approx(1, abs=0.1)
