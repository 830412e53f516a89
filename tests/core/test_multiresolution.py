"""Larger voxels and back, and what starts on them: total field inversion and Laplace's equation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from dipole_cases import nrmse
from scipy.fft import next_fast_len
from scipy.ndimage import gaussian_filter

from qsmprep.core.background.cg import conjugate_gradients
from qsmprep.core.background.multigrid import Multigrid
from qsmprep.core.dipole import forward_field
from qsmprep.core.grid import Grid
from qsmprep.core.methods import METHODS
from qsmprep.core.multiresolution import block_mean, divisible_shape, interpolate, join, joined

FINE = Grid((72, 80, 66), (1.0, 1.0, 1.0), (0.1, -0.2, 1.0))


@pytest.mark.parametrize(
    ("shape", "voxel_mm", "expected"),
    [
        ((64, 64, 64), (1.0, 1.0, 1.0), (2, 2, 2)),
        ((64, 64, 64), (1.3, 1.3, 1.3), (1, 1, 1)),
        ((64, 64, 64), (0.5, 0.5, 2.0), (2, 2, 1)),
        ((64, 31, 64), (1.0, 1.0, 1.0), (2, 1, 2)),
        ((64, 64, 64), (1.2500001, 1.25, 1.0), (2, 2, 2)),
    ],
)
def test_voxels_are_joined_up_to_an_edge(shape, voxel_mm, expected):
    assert joined(Grid(shape, voxel_mm), 2.5) == expected


def test_the_grid_of_joined_voxels():
    grid = join(Grid((65, 40, 30), (0.5, 1.0, 3.0), (0.0, 0.6, 0.8)), (2, 2, 1))
    assert grid.shape == (33, 20, 30)
    assert grid.voxel_mm == (1.0, 2.0, 3.0)
    assert grid.b0_dir == pytest.approx((0.0, 0.6, 0.8))


def test_lengths_stay_fast_and_even_at_every_step():
    grid = Grid((143, 177, 50), (0.5, 0.5, 2.0))
    shape = divisible_shape(grid, (180, 223, 63), 2.5)
    assert all(n >= needed for n, needed in zip(shape, (180, 223, 63), strict=True))
    for halved in range(3):
        for n in (shape[0] >> halved, shape[1] >> halved):
            assert n % 2 == 0
            assert next_fast_len(n, real=True) == n
    assert (shape[0] % 8, shape[1] % 8) == (0, 0), "two steps, and even after them"


def test_means_and_interpolation():
    volume = torch.arange(5 * 4 * 3, dtype=torch.float32).reshape(5, 4, 3)
    means = block_mean(volume, (2, 2, 1))
    assert means.shape == (3, 2, 3)
    torch.testing.assert_close(means[0, 0], volume[:2, :2].mean(dim=(0, 1)))
    torch.testing.assert_close(means[2, 0], volume[4, :2].mean(dim=0) / 2, msg="beyond the volume counts as zero")

    coarse = torch.from_numpy(np.random.default_rng(0).standard_normal((6, 5, 4)).astype(np.float32))
    fine = interpolate(coarse, (2, 2, 1))
    assert fine.shape == (12, 10, 4)
    torch.testing.assert_close(interpolate(coarse.flip(0, 2), (2, 2, 1)), fine.flip(0, 2))
    torch.testing.assert_close(interpolate(coarse.roll(1, 0), (2, 2, 1)), fine.roll(2, 0), msg="periodic")
    torch.testing.assert_close(fine.mean(), coarse.mean())


def test_smooth_volumes_survive_the_way_back():
    smooth = gaussian_filter(np.random.default_rng(1).standard_normal((32, 32, 32)), 4.0, mode="wrap")
    volume = torch.from_numpy(smooth.astype(np.float32))
    means = block_mean(volume, (2, 2, 2))
    blocks = means.repeat_interleave(2, 0).repeat_interleave(2, 1).repeat_interleave(2, 2)
    error, error_of_blocks = (float((one - volume).norm()) for one in (interpolate(means, (2, 2, 2)), blocks))
    assert error < 0.1 * float(volume.norm())
    assert error < 0.5 * error_of_blocks


@pytest.mark.parametrize("voxel_mm", [(1.0, 1.0, 1.0), (0.5, 0.7, 2.0)], ids=["isotropic", "anisotropic"])
def test_multigrid_is_symmetric_positive_and_quick(voxel_mm):
    rng = np.random.default_rng(2)
    keep = torch.from_numpy((gaussian_filter(rng.standard_normal((60, 50, 41)), 6.0) > 0.01).astype(np.float32))
    grid = Multigrid(keep, voxel_mm)
    a, b = (torch.from_numpy(rng.standard_normal(keep.shape).astype(np.float32)) * keep for _ in range(2))
    assert float((a * grid(b)).sum()) == pytest.approx(float((b * grid(a)).sum()), rel=1e-4, abs=1e-3)
    assert float((a * grid(a)).sum()) > 0
    rhs = grid.operator(a)
    quick, slow = (
        conjugate_gradients(grid.operator, rhs, tolerance=1e-5, max_iter=500, precondition=one) for one in (grid, None)
    )
    torch.testing.assert_close(quick.x, a, atol=2e-3, rtol=1e-3)
    assert quick.iterations <= 25
    assert quick.iterations < slow.iterations / 2


@pytest.mark.parametrize(
    ("shape", "voxel_mm"), [((154, 154, 3), 1.0), ((290, 290, 6), 0.6), ((3, 200, 200), 1.0)], ids=str
)
def test_thin_slabs(shape, voxel_mm):
    """Where the short axis is joined to one voxel the others go on being joined."""
    grid = Grid(shape, (voxel_mm,) * 3)
    x, y, z = np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing="ij")
    harmonic = x * y if min(shape) == shape[2] else y * z
    method = METHODS.get("background", "lbv")
    result = method.load()(harmonic, np.ones(shape, bool), grid, method.configure({}))
    assert np.abs(result.field_ppm).max() < 1e-4
    assert result.info["iterations"] < 30


def smooth_head():
    """An ellipsoid of 1 mm voxels, full of edges, and a source beside it: mask, local field, noisy total field."""
    rng = np.random.default_rng(3)
    x, y, z = np.meshgrid(*[np.arange(n) - (n - 1) / 2 for n in FINE.shape], indexing="ij")
    mask = (x / 30) ** 2 + (y / 34) ** 2 + (z / 27) ** 2 < 1
    chi = 0.1 * np.sign(gaussian_filter(rng.standard_normal(FINE.shape), 4.0)) * mask
    air = 3.0 * ((x**2 + (y - 20) ** 2 + (z + 33) ** 2) < 25) * ~mask
    inside = forward_field(np.where(mask, chi - chi[mask].mean(), 0), FINE)
    noise = 0.003 * rng.standard_normal(FINE.shape)
    return mask, inside, forward_field(air, FINE) + inside + noise


def test_total_field_inversion_starts_on_joined_voxels():
    """Three passes after that start do nearly what twelve do; three alone do not."""
    mask, local, total = smooth_head()
    method = METHODS.get("background", "tfi")
    quick, direct, short = (
        nrmse(method.load()(total, mask, FINE, method.configure(one)).field_ppm, local, mask)
        for one in ({}, {"coarse_mm": 0.0}, {"coarse_mm": 0.0, "passes": 3})
    )
    assert quick < 1.2 * direct
    assert quick < 0.85 * short


def test_a_mask_that_is_nothing_on_voxels_joined_twice():
    """Two crosses of seven voxels: one voxel each when joined, none when joined again."""
    grid = Grid((64, 64, 64), (0.5, 0.5, 0.5))
    mask = np.zeros(grid.shape, bool)
    for centre in ((1, 1, 1), (61, 61, 61)):
        mask[centre] = True
        for axis in range(3):
            mask[tuple(np.add(centre, np.eye(3, dtype=int)[axis]))] = True
            mask[tuple(np.subtract(centre, np.eye(3, dtype=int)[axis]))] = True
    field = np.random.default_rng(0).standard_normal(grid.shape)
    method = METHODS.get("background", "tfi")
    result = method.load()(field, mask, grid, method.configure({"passes": 2, "padding_mm": 2.0}))
    assert np.isfinite(result.field_ppm).all()
    assert np.array_equal(result.mask, mask)
