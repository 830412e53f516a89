"""Single-step TGV: a slow restatement of its objective, and total fields whose background is strong."""

from __future__ import annotations

import numpy as np
from dipole_cases import head, nrmse, positions_mm
from scipy import sparse
from scipy.sparse.linalg import svds
from test_fansi import apply, full_dipole, periodic_differences

from qsmprep.core.background.smv import ball_weights
from qsmprep.core.dipole import forward_field
from qsmprep.core.grid import Grid
from qsmprep.core.inversion.problem import ITERATIVE_PAD, Spectral
from qsmprep.core.methods import METHODS

GRID = Grid((32, 36, 30), (1.0, 1.0, 1.0), (0.0, 0.2, 1.0))
QUICK = {"max_iter": 30}
SMALL = Grid((8, 6, 6), (1.0, 1.0, 1.0))


def invert(name, field, mask, grid, overrides=None, **inputs):
    method = METHODS.get("inversion", name)
    return method.load()(field, mask, grid, method.configure(overrides), **inputs)


def means(offsets, weights, volume):
    """Weighted means over a ball around every voxel, by shifts."""
    total = np.zeros(volume.shape)
    for offset, weight in zip(offsets, weights, strict=True):
        total += weight * np.roll(volume, -offset, axis=(0, 1, 2))
    return total


def primal_dual(terms, wide, first, second, iterations):
    """Map, slopes and duals of the data terms (matrix, data) and both orders of the penalty, step by step."""
    forward = periodic_differences(wide, (1.0, 1.0, 1.0))
    n = int(np.prod(wide))
    one, rows, limits = sparse.eye_array(n), [], []
    for i in range(3):
        rows.append([forward[i], *(-one if j == i else None for j in range(3))])
        limits.append(first)
    for i in range(3):
        for j in range(i, 3):
            row = [sparse.csr_array((n, n)), None, None, None]
            if i == j:
                row[1 + i] = -forward[i].T
            else:
                row[1 + j], row[1 + i] = forward[i] / 2, forward[j] / 2
            rows.append(row)
            limits.append(second if i == j else 2 * second)
    penalty = sparse.csr_array(sparse.block_array(rows))
    bound = np.repeat(limits, n)
    matrix, data = np.concatenate([a for a, _ in terms]), np.concatenate([b for _, b in terms])
    x, y, z = np.zeros(4 * n), np.zeros(len(bound)), np.zeros(len(data))
    most = svds(penalty, k=1, return_singular_vectors=False)[0]
    step, ahead = 0.99 / np.sqrt(np.linalg.norm(matrix, 2) ** 2 + most**2), x
    for _ in range(iterations):
        z = (z + step * (matrix @ ahead[:n] - data)) / (1 + step)
        y = np.clip(y + step * (penalty @ ahead), -bound, bound)
        new = x - step * (penalty.T @ y)
        new[:n] -= step * (matrix.T @ z)
        ahead, x = 2 * new - x, new
    return x[:n].reshape(wide)


def test_agrees_with_a_slow_primal_dual_solver():
    field = forward_field(np.random.default_rng(1).normal(size=SMALL.shape), SMALL)
    mask = np.ones(SMALL.shape, bool)
    settings = {"weight": 0.003, "radius_mm": 1.0, "radius_max_mm": 2.0, "tolerance": 0.0, "max_iter": 1000}
    got = invert("tgv", field, mask, SMALL, settings).chi_ppm
    wide = Spectral(SMALL, ITERATIVE_PAD, "cpu").shape
    inside, padded = np.zeros(wide), np.zeros(wide)
    part = tuple(slice(0, n) for n in SMALL.shape)
    inside[part], padded[part] = 1.0, field
    kernel, n = full_dipole(SMALL.with_shape(wide)), int(np.prod(wide))
    fields = [apply(kernel, column.reshape(wide)) for column in np.eye(n)]
    free, terms = inside > 0, []
    for radius in (2.0, 1.0):
        ball = ball_weights(radius, SMALL.voxel_mm)
        chosen = free & (means(*ball, inside) > 1 - 1e-6)
        free &= ~chosen
        columns = [(f - means(*ball, f))[chosen] for f in fields]
        terms.append((np.stack(columns, axis=1), (padded - means(*ball, padded))[chosen]))
    assert [len(data) for _, data in terms] == [4 * 2 * 2, 6 * 4 * 4 - 4 * 2 * 2]
    expected = primal_dual(terms, wide, 0.003, 0.006, iterations=4000)[part]
    assert nrmse(got, expected, mask) < 0.05


def test_background_of_far_and_near_sources_does_not_reach_the_map():
    field, mask, chi, _ = head(GRID, seed=2)
    x, y, z = positions_mm(GRID) / 18
    air = np.zeros(GRID.shape)
    air[12:20, 33:, 8:18] = 9.0
    background = forward_field(air, GRID) + 0.5 * z + 0.3 * (x**2 - y**2)
    assert (background * mask)[mask].std() > 10 * field[mask].std()
    total = np.where(mask, field + background, 0).astype(np.float32)
    core = mask & ((positions_mm(GRID) / np.reshape((10, 11, 9), (3, 1, 1, 1))) ** 2).sum(0).__lt__(1)
    error = nrmse(invert("tgv", total, mask, GRID, QUICK).chi_ppm, chi, core)
    assert error < 0.5
    assert error < 0.2 * nrmse(invert("nltgv", total, mask, GRID, QUICK).chi_ppm, chi, core)
    assert error < 1.5 * nrmse(invert("tgv", field, mask, GRID, QUICK).chi_ppm, chi, core)


def test_says_how_much_of_the_mask_it_sees():
    field, mask, _, _ = head(GRID, seed=3)
    seen = [invert("tgv", field, mask, GRID, {"radius_mm": r, "max_iter": 1}).info["seen"] for r in (1.0, 3.0, 5.0)]
    assert 1 > seen[0] > seen[1] > seen[2] > 0.2
