"""The grid: what it reads off an affine, whatever the orientation, and what it refuses."""

from __future__ import annotations

import math

import nibabel as nib
import numpy as np
import pytest
from dipole_cases import MOVES
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from qsmprep.core.grid import Grid
from qsmprep.errors import DataError

SHAPE = (5, 7, 9)
VOXEL = np.array([0.8, 1.3, 2.1])
TILTS = {
    "straight": Rotation.identity(),
    "oblique": Rotation.from_euler("x", 20, degrees=True),
    "double oblique": Rotation.from_euler("xyz", (17, -28, 40), degrees=True),
}


def affine_of(rotation: Rotation) -> np.ndarray:
    affine = np.eye(4)
    affine[:3, :3] = rotation.as_matrix() * VOXEL
    affine[:3, 3] = (-31.0, 12.0, 7.0)
    return affine


@pytest.mark.parametrize("tilt", TILTS)
@pytest.mark.parametrize(("order", "signs"), MOVES)
def test_every_orientation_sees_the_scanner_axis(tilt, order, signs):
    image = nib.Nifti1Image(np.zeros(SHAPE, np.float32), affine_of(TILTS[tilt]))
    target = np.stack([np.argsort(order), np.array(signs)[np.argsort(order)]], axis=1)
    moved = image.as_reoriented(target)
    grid = Grid.from_affine(moved.shape, moved.affine)
    assert grid.shape == moved.shape == tuple(SHAPE[a] for a in order)
    np.testing.assert_allclose(grid.voxel_mm, VOXEL[list(order)], rtol=1e-12)
    axes = moved.affine[:3, :3] / grid.voxel_mm
    np.testing.assert_allclose(axes @ grid.b0_dir, (0, 0, 1), atol=1e-12)
    original = TILTS[tilt].as_matrix()[2]
    np.testing.assert_allclose(grid.b0_dir, np.array(signs) * original[list(order)], atol=1e-9)


def test_tilt_is_the_angle_to_the_nearest_axis():
    assert Grid.from_affine(SHAPE, affine_of(TILTS["oblique"])).tilt_deg == pytest.approx(20.0)
    assert Grid(SHAPE, (1, 1, 1), (1, 1, 1)).tilt_deg == pytest.approx(math.degrees(math.acos(3**-0.5)))
    assert Grid(SHAPE, (1, 1, 1), (0, -2, 0)).tilt_deg == 0.0


@given(st.lists(st.floats(-1e3, 1e3), min_size=3, max_size=3).filter(lambda v: np.linalg.norm(v) > 1e-3))
def test_direction_is_normalised(direction):
    grid = Grid(SHAPE, (1, 1, 1), direction)
    assert math.isclose(np.linalg.norm(grid.b0_dir), 1.0, rel_tol=1e-12)
    assert np.dot(grid.b0_dir, direction) > 0.999 * np.linalg.norm(direction)


def test_a_fourth_dimension_is_ignored_and_the_volume_is_in_mm3():
    grid = Grid.from_affine((*SHAPE, 4), affine_of(TILTS["straight"]))
    assert grid.shape == SHAPE
    assert grid.voxel_volume_mm3 == pytest.approx(0.8 * 1.3 * 2.1)
    assert grid.with_shape((2, 2, 2)) == Grid((2, 2, 2), grid.voxel_mm, grid.b0_dir)


def test_rounding_of_a_stored_affine_is_no_shear():
    affine = affine_of(TILTS["double oblique"]).astype(np.float32)
    grid = Grid.from_affine(SHAPE, affine)
    np.testing.assert_allclose(grid.b0_dir, TILTS["double oblique"].as_matrix()[2], atol=1e-6)


@pytest.mark.parametrize(
    "affine",
    [
        np.zeros((4, 4)),
        np.diag([1, 1, np.nan, 1]),
        np.array([[1, 0.2, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]),
    ],
)
def test_bad_affines_are_refused(affine):
    with pytest.raises(DataError):
        Grid.from_affine(SHAPE, affine)


@pytest.mark.parametrize(
    ("shape", "voxel", "b0"),
    [
        ((4, 4), (1, 1, 1), (0, 0, 1)),
        ((4, 4, 0), (1, 1, 1), (0, 0, 1)),
        ((4, 4, 4), (1, 1, 0), (0, 0, 1)),
        ((4, 4, 4), (1, 1, np.inf), (0, 0, 1)),
        ((4, 4, 4), (1, 1, 1), (0, 0, 0)),
        ((4, 4, 4), (1, 1, 1), (0, np.nan, 1)),
        ((4, 4, 4), (1, 1, 1), (0, 1)),
    ],
)
def test_bad_grids_are_refused(shape, voxel, b0):
    with pytest.raises(DataError):
        Grid(shape, voxel, b0)
