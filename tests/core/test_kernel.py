"""The kernel that a map and its field imply, against what it must be."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from qsmprep.core.dipole import forward_field
from qsmprep.core.grid import Grid
from qsmprep.core.inversion.tkd import tkd
from qsmprep.core.kernel import check_kernel
from qsmprep.errors import DataError

GRID = Grid((40, 44, 36), (1.0, 0.9, 1.3), (0.25, -0.1, 0.96))


@pytest.fixture(scope="module")
def head():
    """A smooth random map in an ellipsoid, and its field."""
    rng = np.random.default_rng(4)
    place = np.stack(np.meshgrid(*(np.linspace(-1, 1, n) for n in GRID.shape), indexing="ij"))
    mask = (place**2).sum(axis=0) < 0.8
    chi = 0.05 * ndimage.gaussian_filter(rng.standard_normal(GRID.shape), 1.5) / 0.1 * mask
    chi = (chi - chi[mask].mean()) * mask
    return forward_field(chi, GRID).astype(np.float32), chi.astype(np.float32), mask


def test_the_true_map_implies_the_dipole(head):
    field, chi, mask = head
    check = check_kernel(field, chi, mask, GRID)
    assert check.error < 0.02
    assert np.abs(check.true - (1 / 3 - check.cos2)).mean() < 0.1  # the mask alone bends it
    assert np.all(np.diff(check.true[::9]) < 0)


@pytest.mark.parametrize(("factor", "error"), [(0.5, 1.0), (2.0, 0.5)])
def test_a_wrong_scale_is_seen(head, factor, error):
    field, chi, mask = head
    check = check_kernel(field, factor * chi, mask, GRID)
    assert check.error == pytest.approx(error, abs=0.03)


def test_a_wrong_direction_is_seen(head):
    field, chi, mask = head
    turned = Grid(GRID.shape, GRID.voxel_mm, (0.96, 0.0, 0.25))
    assert check_kernel(field, chi, mask, turned).error > 0.5


def test_noise_hardly_matters_and_a_real_inversion_passes(head):
    field, chi, mask = head
    noisy = field + np.random.default_rng(5).normal(0, 0.2 * field[mask].std(), field.shape).astype(np.float32)
    assert check_kernel(noisy, chi, mask, GRID).error < 0.1
    assert check_kernel(field, tkd(field, mask, GRID).chi_ppm, mask, GRID).error < 0.3


def test_unit_offset_and_what_lies_outside_do_not_matter(head):
    field, chi, mask = head
    first = check_kernel(field, chi, mask, GRID)
    outside = np.where(mask, chi + 3, np.nan)
    second = check_kernel(1e3 * field - 7, 1e3 * outside, mask, GRID)
    np.testing.assert_allclose(second.implied, first.implied, atol=2e-3)


def test_what_cannot_be_checked_is_refused(head):
    field, chi, mask = head
    with pytest.raises(DataError, match="differ"):
        check_kernel(field, chi[1:], mask, GRID)
    with pytest.raises(DataError, match="same everywhere"):
        check_kernel(field, 0 * chi, mask, GRID)
    with pytest.raises(DataError, match="same everywhere"):
        check_kernel(field, chi, mask & False, GRID)
