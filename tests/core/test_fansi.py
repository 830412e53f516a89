"""NDI, TSVD and FANSI against slow restatements of the published iterations and objectives, in numpy."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from dipole_cases import head, nrmse
from scipy import sparse
from scipy.sparse.linalg import svds

from qsmprep.core.grid import Grid
from qsmprep.core.inversion.admm import TotalVariation
from qsmprep.core.inversion.auto import Weight
from qsmprep.core.inversion.fansi import solve
from qsmprep.core.inversion.generalised import GeneralisedVariation
from qsmprep.core.inversion.ndi import descend
from qsmprep.core.inversion.phaseterm import PhaseTerm
from qsmprep.core.inversion.problem import Spectral, prepare
from qsmprep.core.methods import METHODS
from qsmprep.core.parameters import NdiParams, NltgvParams, NltvParams

RAD_PER_PPM = 16.0
CUBE = Grid((16, 12, 10), (1.0, 1.0, 1.0))


def invert(name, field, mask, grid, overrides=None, **inputs):
    method = METHODS.get("inversion", name)
    return method.load()(field, mask, grid, method.configure(overrides), **inputs)


def full_dipole(grid: Grid) -> np.ndarray:
    """The kernel on the whole spectrum, for B0 along the last axis."""
    k = np.meshgrid(*[np.fft.fftfreq(n, mm) for n, mm in zip(grid.shape, grid.voxel_mm, strict=True)], indexing="ij")
    k2 = sum(axis**2 for axis in k)
    k2[0, 0, 0] = 1.0
    kernel = 1 / 3 - k[2] ** 2 / k2
    kernel[0, 0, 0] = 0.0
    return kernel


def apply(kernel: np.ndarray, volume: np.ndarray) -> np.ndarray:
    return np.fft.ifftn(kernel * np.fft.fftn(volume)).real


def field_case(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Field, weights (zero in a border) and the mask on the periodic cube."""
    field, mask, _, _ = head(CUBE, seed=seed)
    weights = np.random.default_rng(seed).uniform(0.5, 1.0, CUBE.shape)
    mask[:] = True
    mask[0] = mask[:, :2] = mask[..., -1] = False
    return field, np.where(mask, weights, 0.0), mask


def whole(field, weights, mask):
    """The problem on the whole grid with the weights as they are, so that it is that of the restatement."""
    problem = prepare(field, np.ones(CUBE.shape, bool), CUBE)
    problem.weights.copy_(torch.from_numpy(weights.astype(np.float32)))
    return problem, Spectral(CUBE, 1.0, "cpu")


def fansi_nltv(phase, weights2, kernel, alpha1, mu1, mu2, iterations):
    """The published iteration: x, z_d = shrink(grad x + s_d), z_2 by Newton's method, multipliers."""
    axes = range(3)
    symbols = []
    for axis in axes:
        view = [1, 1, 1]
        view[axis] = -1
        symbols.append((np.exp(2j * np.pi * np.fft.fftfreq(phase.shape[axis])) - 1).reshape(view))
    squared = sum(np.abs(e) ** 2 for e in symbols)
    z2, s2 = weights2 * phase / (weights2 + mu2), np.zeros(phase.shape)
    zd, sd = (np.zeros((3, *phase.shape)) for _ in range(2))
    for _ in range(iterations):
        top = mu2 * kernel * np.fft.fftn(z2 - s2)
        top = top + mu1 * sum(np.conj(symbols[a]) * np.fft.fftn(zd[a] - sd[a]) for a in axes)
        below = mu2 * kernel**2 + mu1 * squared
        below[0, 0, 0], top[0, 0, 0] = 1.0, 0.0
        x = np.fft.ifftn(top / below).real
        gradient = np.stack([np.roll(x, -1, a) - x for a in axes])
        zd = np.sign(gradient + sd) * np.maximum(np.abs(gradient + sd) - alpha1 / mu1, 0)
        sd = sd + gradient - zd
        dx = apply(kernel, x)
        right = dx + s2
        z2 = right.copy()
        for _ in range(10):
            step = (weights2 * np.sin(z2 - phase) + mu2 * (z2 - right)) / (weights2 * np.cos(z2 - phase) + mu2)
            z2 = z2 - step
        s2 = right - z2
    return x


def test_nltv_is_fansi_at_the_same_parameters():
    field, weights, mask = field_case(1)
    weight, rho = 4e-4, 0.05
    problem, space = whole(field, weights, mask)
    params = NltvParams(weight=weight, rho=rho, tolerance=0.0, max_iter=40)
    split = TotalVariation(space, space.dipole**2, weight, rho)
    term = PhaseTerm(problem, RAD_PER_PPM, 1.0)
    got = solve(problem, space, split, term, params, Weight(weight, 0.1, problem)).chi_ppm
    settings = {"alpha1": RAD_PER_PPM * weight, "mu1": rho, "mu2": 1.0}
    expected = fansi_nltv(RAD_PER_PPM * field, weights**2, full_dipole(CUBE), **settings, iterations=600) / RAD_PER_PPM
    assert nrmse(got, expected, mask) < 0.05
    params = NltvParams(weight=weight, rho=rho, tolerance=0.0, max_iter=600)
    split = TotalVariation(space, space.dipole**2, weight, rho)
    got = solve(problem, space, split, term, params, Weight(weight, 0.1, problem)).chi_ppm
    assert nrmse(got, expected, np.ones(CUBE.shape, bool)) < 2e-3


def test_proximal_map_is_the_lowest_point_of_a_fine_search():
    rng = np.random.default_rng(2)
    field, mask, _ = field_case(2)
    problem, _ = whole(field, rng.uniform(0, 2, CUBE.shape), mask)
    term = PhaseTerm(problem, RAD_PER_PPM, 0.8)
    v = torch.from_numpy(rng.normal(0, 0.3, CUBE.shape).astype(np.float32))
    got = term.proximal(v).numpy().ravel()
    f, w2, v = (np.asarray(t, float).ravel() for t in (problem.field_ppm, problem.weights**2, v))

    def cost(z):
        return w2 * (1 - np.cos(RAD_PER_PPM * (z - f))) / RAD_PER_PPM**2 + 0.4 * (z - v) ** 2

    best = np.min([cost(v + shift) for shift in np.linspace(-0.25, 0.25, 4001)], axis=0)
    assert np.all(cost(got) <= best + 1e-6)


def test_ndi_takes_the_published_steps():
    field, weights, mask = field_case(3)
    problem, space = whole(field, weights, mask)
    chi, misfit = descend(problem, space, NdiParams(step=1.5, tikhonov=1e-3, max_iter=25), RAD_PER_PPM)
    kernel, phase, x = full_dipole(CUBE), RAD_PER_PPM * field, np.zeros(CUBE.shape)
    trust = (weights / weights.max()) ** 2
    for _ in range(25):
        x = x - 1.5 * apply(kernel, trust * np.sin(apply(kernel, x) - phase)) - 1.5 * 1e-3 * x
    x /= RAD_PER_PPM
    np.testing.assert_allclose(space.ifft(chi).numpy(), x, atol=1e-5 * np.abs(x).max())
    np.testing.assert_allclose(misfit.numpy(), apply(kernel, x) - field, atol=1e-4 * np.abs(field).max())


def test_ndi_fits_more_with_every_step():
    field, mask, _, _ = head(CUBE, seed=4)
    residuals = [invert("ndi", field, mask, CUBE, {"max_iter": n}).info["residual_ppm"] for n in (5, 20, 80)]
    assert residuals[0] > 1.1 * residuals[1] > 1.2 * residuals[2]


def test_tsvd_leaves_out_what_is_ill_conditioned():
    grid = Grid((16, 20, 12), (1.0, 1.3, 0.9))
    field, mask, _, _ = head(grid, seed=5)
    got = invert("tsvd", field, mask, grid, {"threshold": 0.2})
    box = tuple(slice(np.nonzero(mask)[a].min(), np.nonzero(mask)[a].max() + 1) for a in range(3))
    wide = Spectral(grid.with_shape(field[box].shape), 2.0, "cpu").grid
    kernel = full_dipole(wide)
    keep = np.abs(kernel) >= 0.2
    padded = np.zeros(wide.shape)
    inner = tuple(slice(0, n) for n in field[box].shape)
    padded[inner] = field[box]
    expected = apply(np.where(keep, 1 / np.where(keep, kernel, 1), 0), padded)[inner] * mask[box]
    np.testing.assert_allclose(got.chi_ppm[box], expected, atol=1e-4 * np.abs(expected).max())
    assert got.info["kept"] == pytest.approx(keep.mean(), abs=1e-3)


@pytest.mark.parametrize("name", ["ndi", "nltv", "nltgv"])
def test_nonlinear_methods_are_blind_to_whole_turns(name):
    field, mask, _, _ = head(CUBE, seed=6)
    turns = np.random.default_rng(6).integers(-1, 2, CUBE.shape) * np.float32(2 * np.pi / RAD_PER_PPM)
    # two stop early by default, and which edges nltv spares depends on the way there
    settings = {"nltv": {"tolerance": 1e-3, "edge_weight": 1.0}, "nltgv": {"tolerance": 1e-3}}.get(name, {})
    plain, turned = (
        invert(name, f, mask, CUBE, settings, rad_per_ppm=RAD_PER_PPM).chi_ppm
        for f in (field, field + turns.astype(np.float32))
    )
    np.testing.assert_allclose(turned, plain, atol=0.01 * np.abs(plain).max())
    if name == "nltv":
        spared = (invert(name, f, mask, CUBE, rad_per_ppm=RAD_PER_PPM).chi_ppm for f in (field, field + turns))
        np.testing.assert_allclose(*spared, atol=0.06 * np.abs(plain).max())


def test_nltv_of_small_phases_is_tv():
    field, mask, _, _ = head(CUBE, seed=7)
    settings = {"weight": 3e-4, "tolerance": 1e-5, "max_iter": 1500}
    first = invert("nltv", field, mask, CUBE, settings, rad_per_ppm=0.1).chi_ppm
    second = invert("tv", field, mask, CUBE, settings).chi_ppm
    assert nrmse(first, second, mask) < 0.02


def periodic_differences(shape, voxel_mm):
    """Matrices of the difference to the next voxel along each axis."""
    result = []
    for axis, (n, mm) in enumerate(zip(shape, voxel_mm, strict=True)):
        one = (np.roll(np.eye(n), -1, axis=0).T - np.eye(n)).T / mm
        parts = [np.eye(m) for m in shape]
        parts[axis] = one
        result.append(sparse.csr_array(sparse.kron(sparse.kron(parts[0], parts[1]), parts[2])))
    return result


def slow_tgv(data, shape, voxel_mm, first, second, iterations):
    """Denoising with total generalised variation by a primal-dual iteration on matrices."""
    forward = periodic_differences(shape, voxel_mm)
    n, none, one = data.size, None, sparse.eye_array(data.size)
    rows, limits = [], []
    for i in range(3):
        rows.append([forward[i], *(-one if j == i else none for j in range(3))])
        limits.append(first)
    for i, j in itertools.combinations_with_replacement(range(3), 2):
        row = [none, none, none, none]
        if i == j:
            row[1 + i] = -forward[i].T
        else:
            row[1 + j], row[1 + i] = forward[i] / 2, forward[j] / 2
        rows.append(row)
        limits.append(second if i == j else 2 * second)
    matrix = sparse.csr_array(sparse.block_array(rows))
    bound = np.repeat(limits, n)
    x, y = np.zeros(4 * n), np.zeros(matrix.shape[0])
    step = 0.99 / svds(matrix, k=1, return_singular_vectors=False)[0]
    ahead = x
    for _ in range(iterations):
        y = np.clip(y + step * (matrix @ ahead), -bound, bound)
        new = x - step * (matrix.T @ y)
        new[:n] = (new[:n] + step * data) / (1 + step)
        ahead, x = 2 * new - x, new
    return x[:n]


def test_generalised_variation_denoises_as_a_primal_dual_solver():
    shape, voxel = (6, 4, 4), (0.8, 1.0, 1.3)
    space = Spectral(Grid(shape, voxel), 1.0, "cpu")
    rng = np.random.default_rng(8)
    data = rng.normal(0, 0.2, shape) + np.linspace(-1, 1, 6)[:, None, None]
    data -= data.mean()
    split = GeneralisedVariation(space, torch.ones_like(space.dipole), first=0.15, second=0.1, rho=0.5)
    spectrum = space.fft(torch.from_numpy(data.astype(np.float32)))
    for _ in range(1500):
        chi = split.solve(spectrum)
        split.shrink(chi)
    expected = slow_tgv(data.ravel(), shape, voxel, 0.15, 0.1, iterations=8000).reshape(shape)
    np.testing.assert_allclose(chi.numpy(), expected, atol=2e-3)
    assert np.abs(expected - data).max() > 0.05


def test_generalised_variation_leaves_a_ramp_where_total_variation_makes_steps():
    """On a tent, whose slopes are constant but for two bends, second order has next to nothing to remove."""
    grid = Grid((32, 4, 4), (1.0, 1.0, 1.0))
    space = Spectral(grid, 1.0, "cpu")
    tent = np.abs(np.arange(32) - 15.5)[:, None, None] / 16 * np.ones(grid.shape)
    tent = torch.from_numpy((tent - tent.mean()).astype(np.float32))
    ones, errors = torch.ones_like(space.dipole), []
    for split in (TotalVariation(space, ones, 0.1, 1.0), GeneralisedVariation(space, ones, 0.1, 0.2, 1.0)):
        for _ in range(400):
            chi = split.solve(space.fft(tent))
            split.shrink(chi)
        inside = slice(4, 12)
        slope = float((chi[inside.stop, 0, 0] - chi[inside.start, 0, 0]) / 8)
        errors.append((float((chi - tent).abs().max()), abs(slope + 1 / 16)))
    assert errors[1][1] < 5e-3
    assert errors[1][0] < 0.9 * errors[0][0]


def test_more_of_the_second_order_tends_to_total_variation():
    field, mask, _, _ = head(CUBE, seed=9)
    tv = invert("nltv", field, mask, CUBE, {"tolerance": 1e-4, "max_iter": 400}).chi_ppm
    strong, weak = (
        invert("nltgv", field, mask, CUBE, {"ratio_mm": r, "tolerance": 1e-4, "max_iter": 400}).chi_ppm
        for r in (100.0, 0.02)
    )
    assert nrmse(strong, tv, mask) < 0.1 < nrmse(weak, tv, mask)
    assert METHODS.get("inversion", "nltgv").parameters is NltgvParams
