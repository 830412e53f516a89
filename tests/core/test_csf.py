"""Fluid of the ventricles, and what MEDI+0 makes of it."""

from __future__ import annotations

import numpy as np
import pytest
from dipole_cases import MOVES, ellipsoid, head, move, move_back, move_grid, nrmse

from qsmprep.core.csf import ventricles
from qsmprep.core.grid import Grid
from qsmprep.core.methods import METHODS
from qsmprep.errors import DataError

BRAIN = Grid((36, 44, 30), (4.0, 3.6, 4.4))
GRID = Grid((30, 34, 28), (1.0, 1.0, 1.0), (0.0, 0.2, 1.0))


def decay():
    """R2* of a brain with two ventricles, fluid around it and a far pocket of fluid; and what is the truth."""
    mask = ellipsoid(BRAIN, (0, 0, 0), (65, 70, 60))
    inside = ellipsoid(BRAIN, (-12, 5, 8), (7, 20, 8)) | ellipsoid(BRAIN, (12, 5, 8), (7, 20, 8))
    r2star = np.where(mask, 18.0, 0.0)
    r2star[mask & ~ellipsoid(BRAIN, (0, 0, 0), (60, 65, 55))] = 2.0
    r2star[ellipsoid(BRAIN, (0, -45, -10), (7, 7, 7))] = 2.0
    r2star[inside] = 1.5
    return r2star, mask, inside


def test_finds_the_ventricles_and_nothing_else():
    r2star, mask, inside = decay()
    np.testing.assert_array_equal(ventricles(r2star, mask, BRAIN), inside)
    assert not ventricles(np.full(BRAIN.shape, 20.0), mask, BRAIN).any()
    assert not ventricles(r2star, np.zeros(BRAIN.shape, bool), BRAIN).any()
    for order, signs in MOVES[::7]:
        found = ventricles(move(r2star, order, signs), move(mask, order, signs), move_grid(BRAIN, order, signs))
        np.testing.assert_array_equal(move_back(found, order, signs), inside)
    with pytest.raises(DataError, match="shapes"):
        ventricles(r2star[1:], mask, BRAIN)


def medi(field, mask, magnitude, csf, **overrides):
    method = METHODS.get("inversion", "medi")
    settings = method.configure({"weight": 1e-4, **overrides})
    return method.load()(field, mask, GRID, settings, magnitude=magnitude, csf=csf)


def test_fluid_becomes_uniform_and_zero():
    field, mask, chi, magnitude = head(GRID, seed=1, noise_ppm=0.004)
    csf = mask & (chi == np.float32(-0.25))
    assert csf.sum() > 10
    plain = medi(field, mask, magnitude, csf)
    zero = medi(field, mask, magnitude, csf, csf_weight=0.1)
    assert "csf_voxels" not in plain.info
    assert zero.info["csf_voxels"] == csf.sum()
    assert abs(zero.chi_ppm[csf].mean()) < 1e-6
    assert zero.chi_ppm[csf].std() < 0.5 * plain.chi_ppm[csf].std()
    assert nrmse(zero.chi_ppm, chi, mask) < 1.02 * nrmse(plain.chi_ppm, chi, mask)
    np.testing.assert_array_equal(medi(field, mask, magnitude, None).chi_ppm, plain.chi_ppm)


def test_without_fluid_there_is_nothing_to_refer_to():
    field, mask, _, magnitude = head(GRID, seed=2)
    plain = medi(field, mask, magnitude, None)
    none = medi(field, mask, magnitude, np.zeros(GRID.shape), csf_weight=0.1)
    assert none.info["csf_voxels"] == 0
    np.testing.assert_array_equal(none.chi_ppm, plain.chi_ppm)
    with pytest.raises(DataError, match="`csf`"):
        medi(field, mask, magnitude, np.ones((3, 3, 3)), csf_weight=0.1)
