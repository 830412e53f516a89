"""The forward field against closed forms, and what must not change it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from dipole_cases import MOVES, move, move_back, move_grid, positions_mm, supersampled
from scipy.ndimage import map_coordinates
from scipy.spatial.transform import Rotation

from qsmprep.core.dipole import dipole_kernel, forward_field, padded_shape
from qsmprep.core.grid import Grid

CHI_PPM = 1.0
DIRECTIONS = {
    "along the third axis": (0.0, 0.0, 1.0),
    "along the first axis": (1.0, 0.0, 0.0),
    "20 degrees": (0.0, math.sin(math.radians(20)), math.cos(math.radians(20))),
    "oblique to all": (0.37, -0.61, 0.70),
}
VOXELS = {"isotropic": (1.0, 1.0, 1.0), "all different": (0.8, 1.1, 1.5)}


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("voxel", VOXELS)
def test_sphere(direction, voxel):
    radius = 8.0
    mm = VOXELS[voxel]
    grid = Grid(tuple(2 * int(20 / v) + odd for v, odd in zip(mm, (0, 1, 0), strict=True)), mm, DIRECTIONS[direction])
    place = positions_mm(grid)
    chi = CHI_PPM * supersampled(grid, lambda p: np.sum(p**2, axis=0) < radius**2)
    field = forward_field(chi, grid)
    r = np.sqrt(np.sum(place**2, axis=0))
    cosine = np.tensordot(grid.b0_dir, place, axes=1) / np.maximum(r, 1e-9)
    outside = CHI_PPM / 3 * (radius / np.maximum(r, 1e-9)) ** 3 * (3 * cosine**2 - 1)
    far, near = r > radius + 2.5 * max(mm), r < radius - 2.5 * max(mm)
    ringing = 1.0 if grid.tilt_deg < 1e-6 else 4.0  # the kernel's cross terms jump at the edge of k-space
    assert np.abs(field - outside)[far].max() < 0.006 * ringing * CHI_PPM
    assert np.sqrt(np.mean((field - outside)[far] ** 2)) < 0.0125 * ringing * np.sqrt(np.mean(outside[far] ** 2))
    assert np.abs(field[near]).max() < 0.01 * ringing * CHI_PPM
    assert abs(field[near].mean()) < 0.005 * CHI_PPM


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("angle_deg", [0, 30, 54.7356, 90])
def test_cylinder(axis, angle_deg):
    radius, half = 4.0, 80.0
    mm = (0.9, 1.2, 1.0)
    shape = tuple(int(2 * half / mm[a]) if a == axis else int(48 / mm[a]) for a in range(3))
    first, second = (a for a in range(3) if a != axis)
    b0 = np.zeros(3)
    b0[axis], b0[first] = math.cos(math.radians(angle_deg)), math.sin(math.radians(angle_deg))
    grid = Grid(shape, mm, tuple(b0))
    middle = [slice(None)] * 3
    middle[axis] = slice(shape[axis] // 2, shape[axis] // 2 + 1)
    slab = Grid(tuple(1 if a == axis else n for a, n in enumerate(shape)), mm)
    share = supersampled(slab, lambda p: p[first] ** 2 + p[second] ** 2 < radius**2)
    chi = CHI_PPM * np.repeat(share, shape[axis], axis=axis)
    field = forward_field(chi, grid)[tuple(middle)]
    place = positions_mm(slab)
    rho2 = place[first] ** 2 + place[second] ** 2
    sine2 = math.sin(math.radians(angle_deg)) ** 2
    turned = (place[first] ** 2 - place[second] ** 2) / np.maximum(rho2, 1e-9)
    outside = CHI_PPM / 2 * sine2 * turned * radius**2 / np.maximum(rho2, 1e-9)
    inside = CHI_PPM / 2 * (math.cos(math.radians(angle_deg)) ** 2 - 1 / 3)
    far, near = rho2 > (radius + 3) ** 2, rho2 < (radius - 2.5) ** 2
    assert np.abs(field - outside)[far].max() < 0.012 * CHI_PPM
    assert np.abs(field[near] - inside).max() < 0.03 * CHI_PPM
    assert field[near].mean() == pytest.approx(inside, abs=0.006)


def test_paramagnetic_sources_raise_the_field_along_b0_and_lower_it_at_the_equator():
    grid = Grid((25, 25, 25), (1, 1, 1))
    chi = np.exp(-0.5 * np.sum(positions_mm(grid) ** 2, axis=0) / 1.2**2)
    field = forward_field(chi, grid)
    assert field[12, 12, 20] > 0 > field[12, 20, 12]
    assert field[12, 12, 20] == pytest.approx(-2 * field[20, 12, 12], rel=0.02)
    assert field[12, 12, 20] == pytest.approx(2 * chi.sum() / (4 * math.pi * 8**3), rel=0.02)


@pytest.mark.parametrize("shape", [(8, 10, 12), (7, 9, 11), (8, 9, 6), (1, 4, 5)])
def test_kernel_is_hermitian_and_in_range(shape):
    kernel = dipole_kernel(Grid(shape, (0.7, 1.0, 1.6), (0.3, -0.5, 0.8)), dtype=torch.float64)
    nx, ny, nz = shape
    assert kernel.shape == (nx, ny, nz // 2 + 1)
    assert kernel[0, 0, 0] == 0
    assert kernel.min() >= -2 / 3 - 1e-12
    assert kernel.max() <= 1 / 3 + 1e-12
    planes = [0] + ([nz // 2] if nz % 2 == 0 else [])
    for plane in planes:
        mirrored = kernel[..., plane].flip((0, 1)).roll((1, 1), (0, 1))
        torch.testing.assert_close(kernel[..., plane], mirrored, rtol=0, atol=1e-14)
    there_and_back = torch.fft.rfftn(torch.fft.irfftn(kernel.to(torch.complex128), s=shape))
    torch.testing.assert_close(there_and_back.real, kernel, rtol=0, atol=1e-12)
    assert there_and_back.imag.abs().max() < 1e-12


@pytest.mark.parametrize("shape", [(10, 12, 8), (9, 7, 11), (6, 9, 10)])
def test_all_48_orders_and_flips_agree(shape):
    grid = Grid(shape, (0.7, 1.0, 1.6), (0.3, -0.5, 0.8))
    chi = np.random.default_rng(0).normal(size=shape)
    expected = forward_field(chi, grid)
    for order, signs in MOVES:
        field = move_back(forward_field(move(chi, order, signs), move_grid(grid, order, signs)), order, signs)
        np.testing.assert_allclose(field, expected, atol=2e-6)


def test_the_sign_of_the_direction_does_not_matter():
    chi = np.random.default_rng(1).normal(size=(8, 9, 10))
    fields = [forward_field(chi, Grid(chi.shape, (1, 2, 3), b0)) for b0 in ((0.3, 0.4, 0.5), (-0.3, -0.4, -0.5))]
    np.testing.assert_array_equal(*fields)


def test_tilting_the_stack_by_20_degrees_gives_the_same_physical_field():
    blobs = [((3.0, -2.0, 4.0), 2.6, 1.0), ((-4.0, 3.0, -2.0), 3.0, -0.7), ((1.0, 5.0, -5.0), 2.5, 0.5)]

    def chi_at(place):
        squares = [np.sum((place - np.reshape(c, (3, 1, 1, 1))) ** 2, axis=0) / w**2 for c, w, _ in blobs]
        return sum(a * np.exp(-0.5 * s) for s, (_, _, a) in zip(squares, blobs, strict=True))

    rotation = Rotation.from_euler("xz", (20, 8), degrees=True).as_matrix()
    straight = Grid((40, 40, 40), (1, 1, 1))
    tilted = Grid((44, 42, 46), (0.95, 1.0, 0.9), tuple(rotation[2]))
    world = np.tensordot(rotation, positions_mm(tilted), axes=1)
    expected = forward_field(chi_at(positions_mm(straight)), straight)
    at_straight = np.stack([p + (n - 1) / 2 for p, n in zip(world, straight.shape, strict=True)])
    expected = map_coordinates(expected, at_straight, order=5, mode="constant", cval=np.nan)
    inside = np.linalg.norm(world, axis=0) < 15
    field = forward_field(chi_at(world), tilted)
    assert np.abs(field - expected)[inside].max() < 0.01 * np.abs(expected[inside]).max()
    wrong = forward_field(chi_at(world), Grid(tilted.shape, tilted.voxel_mm))
    assert np.abs(wrong - expected)[inside].max() > 0.1 * np.abs(expected[inside]).max()


def test_padding_keeps_the_field_from_wrapping_around():
    grid = Grid((24, 24, 24), (1, 1, 1), (0.2, 0.3, 0.9))
    place = positions_mm(grid) + 8.0
    chi = np.exp(-0.5 * np.sum(place**2, axis=0) / 1.5**2)
    wide = forward_field(np.pad(chi, 48), grid.with_shape((120, 120, 120)))[48:-48, 48:-48, 48:-48]
    error = {f: np.abs(forward_field(chi, grid, pad_factor=f) - wide).max() / np.abs(wide).max() for f in (1.0, 2.0)}
    assert error[2.0] < 0.003
    assert error[1.0] > 0.3


@pytest.mark.parametrize("factor", [1.0, 1.25, 2.0])
def test_padded_lengths_are_even_and_long_enough(factor):
    for n in (1, 2, 7, 31, 97, 113, 240):
        (length, *_) = padded_shape((n, n, n), factor)
        assert length % 2 == 0
        assert n * factor <= length <= 1.3 * n * factor + 4
        assert max(p for p in range(2, length + 1) if length % p == 0 and all(p % q for q in range(2, p))) <= 5
