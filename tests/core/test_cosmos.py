"""Several orientations: recovery, agreement with dense least squares, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from dipole_cases import MOVES, head, move, move_back, move_grid, nrmse

from qsmprep.core.dipole import forward_field
from qsmprep.core.grid import Grid
from qsmprep.core.inversion import cosmos as room
from qsmprep.core.inversion.cosmos import cosmos
from qsmprep.core.inversion.problem import Spectral
from qsmprep.core.inversion.tkd import tkd
from qsmprep.core.parameters import CosmosParams
from qsmprep.errors import DataError

GRID = Grid((26, 24, 22), (1.0, 1.2, 1.1))
DIRS = [(0.0, 0.0, 1.0), (0.5, 0.0, 0.87), (0.0, -0.5, 0.87)]


def fields_of(chi, mask, dirs=DIRS, noise_ppm=0.0, seed=0, grid=GRID):
    rng = np.random.default_rng(seed)
    seen = [forward_field(chi, Grid(grid.shape, grid.voxel_mm, b0)) for b0 in dirs]
    return [(mask * (f + rng.normal(0, noise_ppm, grid.shape))).astype(np.float32) for f in seen]


def test_recovers_what_one_orientation_cannot():
    _, mask, chi, _ = head(GRID, seed=1)
    result = cosmos(fields_of(chi, mask, noise_ppm=0.002), mask, GRID, DIRS)
    assert result.converged
    assert result.chi_ppm.dtype == np.float32
    assert not result.chi_ppm[~mask].any()
    error = nrmse(result.chi_ppm, chi, mask)
    single = nrmse(tkd(fields_of(chi, mask, noise_ppm=0.002)[0], mask, GRID).chi_ppm, chi, mask)
    assert error < 0.2
    assert error < 0.5 * single
    assert 0.001 < result.info["residual_ppm"] < 0.002
    exact = cosmos(fields_of(chi, mask), mask, GRID, DIRS, CosmosParams(0.0, tolerance=1e-5, max_iter=300)).chi_ppm
    assert nrmse(exact, chi, mask) < 0.05


def test_wrong_directions_are_worse():
    _, mask, chi, _ = head(GRID, seed=2)
    fields = fields_of(chi, mask, noise_ppm=0.002)
    right = nrmse(cosmos(fields, mask, GRID, DIRS).chi_ppm, chi, mask)
    wrong = nrmse(cosmos(fields, mask, GRID, [DIRS[0], DIRS[2], DIRS[1]]).chi_ppm, chi, mask)
    assert wrong > 2 * right


def test_agrees_with_dense_weighted_least_squares():
    """The operators as matrices, column by column, and the normal equations solved directly."""
    grid = Grid((4, 6, 4), (1.0, 1.3, 0.9))
    rng = np.random.default_rng(3)
    mask = np.ones(grid.shape, bool)
    fields = [rng.normal(size=grid.shape).astype(np.float32) for _ in DIRS]
    weights = [rng.uniform(0.5, 1.5, grid.shape) for _ in DIRS]
    params = CosmosParams(tikhonov=0.05, tolerance=1e-6, max_iter=500)
    got = cosmos(fields, mask, grid, DIRS, params, weights=weights).chi_ppm
    wide = Spectral(grid, room.ITERATIVE_PAD, "cpu").shape
    n = int(np.prod(wide))
    inside = np.zeros(wide, bool)
    inside[tuple(slice(0, m) for m in grid.shape)] = True
    left, right = params.tikhonov * np.eye(n), np.zeros(n)
    scale = np.sqrt(np.mean(np.square(weights)))
    for field, weight, b0 in zip(fields, weights, DIRS, strict=True):
        k = np.meshgrid(*[np.fft.fftfreq(m, mm) for m, mm in zip(wide, grid.voxel_mm, strict=True)], indexing="ij")
        odd = [np.where(np.isclose(np.abs(axis * mm), 0.5), 0, axis) for axis, mm in zip(k, grid.voxel_mm, strict=True)]
        b = np.array(b0) / np.linalg.norm(b0)
        k2 = sum(axis**2 for axis in k)
        k2[0, 0, 0] = 1.0
        along = sum(b[i] * b[j] * (k[i] ** 2 if i == j else odd[i] * odd[j]) for i in range(3) for j in range(3))
        kernel = 1 / 3 - along / k2
        kernel[0, 0, 0] = 0.0
        columns = np.eye(n).reshape(n, *wide)
        operator = np.fft.ifftn(kernel * np.fft.fftn(columns, axes=(1, 2, 3)), axes=(1, 2, 3)).real
        rows = operator.reshape(n, n).T[inside.ravel()]
        trust = (weight.ravel() / scale) ** 2
        left += rows.T @ (trust[:, None] * rows)
        right += rows.T @ (trust * field.ravel())
    expected = np.linalg.solve(left, right).reshape(wide)[tuple(slice(0, m) for m in grid.shape)]
    got, expected = got - got.mean(), expected - expected.mean()
    assert np.linalg.norm(got - expected) < 2e-3 * np.linalg.norm(expected)


def test_weights_keep_a_spoilt_orientation_out():
    _, mask, chi, _ = head(GRID, seed=4)
    fields = fields_of(chi, mask, noise_ppm=0.001)
    fields[2] = fields[2] + mask * np.random.default_rng(4).normal(0, 0.05, GRID.shape).astype(np.float32)
    plain, weighted = (
        nrmse(cosmos(fields, mask, GRID, DIRS, weights=w).chi_ppm, chi, mask)
        for w in (None, [np.ones(GRID.shape), np.ones(GRID.shape), np.full(GRID.shape, 0.02)])
    )
    assert weighted < 0.4 * plain


def test_orders_and_flips_agree():
    _, mask, chi, _ = head(GRID, seed=5)
    fields = fields_of(chi, mask, noise_ppm=0.002)
    expected = cosmos(fields, mask, GRID, DIRS).chi_ppm
    for order, signs in MOVES[::5]:
        moved = [move_grid(Grid(GRID.shape, GRID.voxel_mm, b0), order, signs) for b0 in DIRS]
        parts = [move(f, order, signs) for f in fields]
        chi = cosmos(parts, move(mask, order, signs), moved[0], [g.b0_dir for g in moved]).chi_ppm
        np.testing.assert_allclose(move_back(chi, order, signs), expected, atol=5e-3 * np.abs(expected).max())


def test_more_orientations_are_better_conditioned():
    _, mask, chi, _ = head(GRID, seed=6)
    two, three = (cosmos(fields_of(chi, mask, dirs), mask, GRID, dirs).info for dirs in (DIRS[:2], DIRS))
    assert three["worst_kernel"] > two["worst_kernel"]


def test_bad_input_is_refused():
    _, mask, chi, _ = head(GRID, seed=7)
    fields = fields_of(chi, mask)
    with pytest.raises(DataError, match="1 fields"):
        cosmos(fields[:1], mask, GRID, DIRS[:1])
    with pytest.raises(DataError, match="2 directions"):
        cosmos(fields, mask, GRID, DIRS[:2])
    with pytest.raises(DataError, match="differ by"):
        cosmos(fields, mask, GRID, [DIRS[0], (0, 0, -1), (0, 0.03, 1)])
    with pytest.raises(DataError, match="shape"):
        cosmos([*fields[:2], fields[2][1:]], mask, GRID, DIRS)
    with pytest.raises(DataError, match="2 weights"):
        cosmos(fields, mask, GRID, DIRS, weights=[np.ones(GRID.shape)] * 2)
