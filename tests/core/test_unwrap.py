"""Unwrapping: exactness, orientation, regions, echoes, and real data."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import nibabel as nib
import numpy as np
import pytest
from echo_cases import DATA, ORIENTATIONS, romeo_crop, simulate, turn, turn_grid
from scipy import ndimage
from skimage.restoration import unwrap_phase

from qsmprep.core.fieldmap import count_residual_wraps
from qsmprep.core.grid import Grid
from qsmprep.core.parameters import LaplacianUnwrapParams, RomeoParams
from qsmprep.core.phase import scale_phase, wrap
from qsmprep.core.unwrap import bestpath, laplacian, romeo
from qsmprep.errors import DataError

TE_S = [0.004, 0.008, 0.013]
EXACT = {
    "romeo": (romeo.unwrap, None),
    "romeo individual": (romeo.unwrap, RomeoParams(individual=True)),
    "romeo template 2": (romeo.unwrap, RomeoParams(template_echo=2)),
    "best path": (bestpath.unwrap, None),
    "Laplacian, snapped": (laplacian.unwrap, LaplacianUnwrapParams(snap=True)),
}


def assert_exact(result, phase_rad, mask):
    """Wrapped phase plus 2 pi wraps to the last bit of float32, zero outside."""
    assert result.exact
    assert result.wraps.dtype == np.int16
    expected = (phase_rad.astype(np.float64) + 2 * np.pi * result.wraps).astype(np.float32)
    np.testing.assert_array_equal(result.phase_rad[:, mask], expected[:, mask])
    assert not result.phase_rad[:, ~mask].any()
    assert not result.wraps[:, ~mask].any()


def rough(shape=(17, 20, 14), seed=3):
    """A noisy signal with open-ended fringe lines, where the path matters."""
    rng = np.random.default_rng(seed)
    noise = rng.normal(size=(2, *shape)) + 1j * rng.normal(size=(2, *shape))
    smooth = np.stack([ndimage.gaussian_filter(part, 1.2) for part in (*noise.real, *noise.imag)])
    signal = smooth[:2] + 1j * smooth[2:]
    return np.angle(signal).astype(np.float32), np.abs(signal).astype(np.float32)


@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize("with_magnitude", [True, False])
def test_smooth_field_is_recovered_with_its_global_multiple(name, with_magnitude):
    case = simulate(TE_S, offset=False, noise=0.02)
    function, params = EXACT[name]
    magnitude = case.magnitude if with_magnitude else None
    result = function(case.phase_rad, magnitude, case.mask, case.te_s, case.grid, params)
    assert_exact(result, case.phase_rad, case.mask)
    assert np.ptp(case.true_rad[0][case.mask]) > 4
    assert np.abs(result.phase_rad - case.true_rad)[:, case.mask].max() < 1.0


@pytest.mark.parametrize("name", ["romeo", "Laplacian, snapped"])
@pytest.mark.parametrize(("order", "flips"), ORIENTATIONS)
def test_rough_phase_gives_the_same_in_all_48_orientations(name, order, flips):
    phase, magnitude = rough()
    grid, te_s = Grid(phase.shape[1:], (1.0, 1.5, 2.5)), [0.004, 0.009]
    function, params = EXACT[name]
    here = function(phase, magnitude, None, te_s, grid, params)
    assert count_residual_wraps(here.phase_rad, np.ones(grid.shape, bool)) > 20
    there = function(
        turn(phase, order, flips), turn(magnitude, order, flips), None, te_s, turn_grid(grid, order), params
    )
    np.testing.assert_array_equal(there.wraps, turn(here.wraps, order, flips))


@pytest.mark.parametrize(("order", "flips"), ORIENTATIONS[::5])
def test_ties_of_coarsely_stored_phase_are_broken_alike(order, flips):
    phase = rough(seed=5)[0][:1]
    phase = (np.rint(phase * 64 / np.pi) * np.pi / 64).astype(np.float32)
    grid = Grid(phase.shape[1:], (1, 1, 1))
    here = romeo.unwrap(phase, None, None, [0.02], grid)
    there = romeo.unwrap(turn(phase, order, flips), None, None, [0.02], turn_grid(grid, order))
    mismatch = np.count_nonzero(there.wraps != turn(here.wraps, order, flips))
    assert mismatch <= 0.001 * phase.size


def test_the_path_goes_around_noise():
    """A noisy wall with one clean gap: the wraps behind it are right."""
    x, y, _ = np.meshgrid(*[np.arange(n, dtype=float) for n in (30, 30, 3)], indexing="ij")
    true = 0.9 * x + 0.4 * y
    phase = wrap(true)
    wall = (x == 15) & (y > 4)
    phase[wall] = np.random.default_rng(1).uniform(-np.pi, np.pi, wall.sum())
    magnitude = np.where(wall, 0.1, 1.0)
    result = romeo.unwrap(phase[None], magnitude[None], None, [0.02], Grid(phase.shape, (1, 1, 1)))
    turns = (result.phase_rad[0] - true)[~wall] / (2 * np.pi)
    assert np.ptp(np.rint(turns)) == 0
    assert np.abs(turns - np.rint(turns)).max() < 1e-5


@pytest.mark.parametrize("name", ["romeo", "romeo individual", "best path"])
@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 2, 0)])
def test_disconnected_regions_are_brought_into_line(name, order):
    case = simulate(TE_S, offset=False, noise=0.02)
    mask = case.mask.copy()
    mask[:, 12:14] = False
    mask[5:7] = False
    function, params = EXACT[name]
    phase, magnitude, inside = (turn(a, order, (True, False, True)) for a in (case.phase_rad, case.magnitude, mask))
    result = function(phase, magnitude, inside, case.te_s, turn_grid(case.grid, order), params)
    assert result.info["regions"] == ndimage.label(mask)[1] == 4
    assert_exact(result, phase, inside)
    assert np.abs(result.phase_rad - turn(case.true_rad, order, (True, False, True)))[:, inside].max() < 1.0


@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize("shape", [(24, 25, 1), (1, 24, 25), (40, 1, 1), (2, 3, 2), (1, 1, 1)])
def test_flat_and_tiny_volumes(name, shape):
    grid = Grid(shape, (1, 1, 1))
    x, y, z = np.meshgrid(*[np.arange(n, dtype=float) for n in shape], indexing="ij")
    ramp = 0.5 * x - 0.3 * y + 0.7 * z
    ramp -= np.median(ramp)
    function, params = EXACT[name]
    result = function(wrap(np.stack([ramp, 2 * ramp])), None, None, [0.01, 0.02], grid, params)
    assert np.abs(result.phase_rad - np.stack([ramp, 2 * ramp])).max() < 1e-4


@pytest.mark.parametrize("name", EXACT)
def test_constant_phase_and_one_voxel_masks(name):
    grid = Grid((5, 6, 7), (1, 1, 1))
    phase = np.full((1, 5, 6, 7), 1.5, np.float32)
    function, params = EXACT[name]
    np.testing.assert_allclose(function(phase, None, None, [0.01], grid, params).phase_rad, 1.5, rtol=1e-6)
    mask = np.zeros(grid.shape, bool)
    mask[2, 3, 4] = True
    lonely = function(phase, None, mask, [0.01], grid, params)
    assert lonely.phase_rad.sum() == pytest.approx(1.5)


def test_laplacian_solves_smooth_phase_and_says_it_is_not_exact():
    case = simulate(TE_S, offset=False)
    phase = wrap(case.true_rad)
    result = laplacian.unwrap(phase, None, None, case.te_s, case.grid)
    assert not result.exact
    assert result.wraps is None
    turns = (result.phase_rad - case.true_rad) / (2 * np.pi)
    assert np.abs(turns - np.rint(np.median(turns))).max() < 1e-3
    masked = laplacian.unwrap(phase, None, case.mask, case.te_s, case.grid)
    assert np.abs(masked.phase_rad - case.true_rad)[:, case.mask].max() < 0.03
    assert not masked.phase_rad[:, ~case.mask].any()


def test_agrees_with_scikit_image_on_smooth_phase():
    case = simulate([0.012], offset=True)
    phase = wrap(case.true_rad)
    mine = romeo.unwrap(phase, None, None, case.te_s, case.grid).phase_rad[0]
    theirs = unwrap_phase(phase[0].astype(float), rng=0)
    turns = (mine - theirs) / (2 * np.pi)
    assert np.ptp(np.rint(turns)) == 0
    assert np.abs(turns - np.rint(turns)).max() < 1e-5


@pytest.mark.parametrize("individual", [False, True])
def test_real_crop_gives_one_field_over_all_echoes(individual):
    stored, header, magnitude, te_s, grid = romeo_crop()
    phase = scale_phase(stored, units=None, **header)[0]
    # only the evolution since the first echo is proportional to time
    phase = wrap(phase[1:] - phase[:1])
    mask = magnitude[0] > 0.3 * np.median(magnitude[0])
    times = [te - te_s[0] for te in te_s[1:]]
    result = romeo.unwrap(phase, magnitude[1:], mask, times, grid, RomeoParams(individual=individual))
    assert_exact(result, phase, mask)
    field = result.phase_rad / (2 * np.pi * np.array(times)[:, None, None, None])
    difference = np.abs(field[1] - field[0])[mask]
    assert np.median(difference) < 2.0
    assert np.mean(difference > 0.5 / times[1]) < 0.005
    pairs = sum(np.count_nonzero(np.minimum(m[1:], m[:-1])) for m in (np.moveaxis(mask, a, 0) for a in range(3)))
    assert count_residual_wraps(result.phase_rad[0], mask) < 0.002 * pairs
    assert count_residual_wraps(result.phase_rad[0], mask) < 0.2 * count_residual_wraps(phase[0], mask)


def test_real_single_echo_crop():
    path = DATA / "romeo-crop/small2_Phase.nii.gz"
    if not path.exists():
        pytest.skip("the shared test data are not here")
    image = nib.load(path)
    phase, _ = scale_phase(image.get_fdata(), units="rad")
    magnitude = nib.load(str(path).replace("Phase", "Mag")).get_fdata(dtype=np.float32)
    grid, everywhere = Grid.from_affine(image.shape, image.affine), np.ones(image.shape, bool)
    result = romeo.unwrap(phase[None], magnitude[None], None, [0.02], grid)
    assert_exact(result, phase[None], everywhere)
    assert count_residual_wraps(result.phase_rad, everywhere) < 0.5 * count_residual_wraps(phase, everywhere)


def test_real_phase_with_nan_unwraps_where_it_is_finite():
    path = DATA / "romeo-crop/phase_with_nan.nii.gz"
    if not path.exists():
        pytest.skip("the shared test data are not here")
    stored = np.moveaxis(nib.load(path).get_fdata(), -1, 0)
    phase, _ = scale_phase(stored, units="rad")
    finite = np.isfinite(stored).all(axis=0)
    # most of it is air
    mask = romeo.voxel_quality(phase[1:], None, [0.02], finite) > 0.5
    assert mask.sum() > 10000
    result = romeo.unwrap(phase[1:], None, mask, [0.02], Grid(mask.shape, (1, 1, 1)))
    assert_exact(result, phase[1:], mask)
    assert count_residual_wraps(result.phase_rad, mask) < 0.5 * count_residual_wraps(phase[1:], mask)


def test_quality_separates_signal_from_noise():
    case = simulate([0.005, 0.010], noise=0.03)
    quality = romeo.voxel_quality(case.phase_rad, case.magnitude, case.te_s)
    assert quality.dtype == np.float32
    assert quality.min() >= 0
    assert quality.max() <= 1
    deep = ndimage.binary_erosion(case.mask, iterations=2)
    air = ~ndimage.binary_dilation(case.mask, iterations=2)
    assert np.percentile(quality[deep], 2) > np.percentile(quality[air], 98)
    inside = romeo.voxel_quality(case.phase_rad, case.magnitude, case.te_s, case.mask)
    assert not inside[~case.mask].any()
    assert romeo.voxel_quality(case.phase_rad[:1], None, case.te_s[:1])[deep].min() > 0.4


@pytest.mark.parametrize(("order", "flips"), ORIENTATIONS[::6])
def test_quality_turns_with_the_volume(order, flips):
    phase, magnitude = rough()
    here = romeo.voxel_quality(phase, magnitude, [0.01, 0.02])
    there = romeo.voxel_quality(turn(phase, order, flips), turn(magnitude, order, flips), [0.01, 0.02])
    np.testing.assert_allclose(there, turn(here, order, flips), atol=1e-6)


@pytest.mark.parametrize("name", EXACT)
def test_bad_input_is_refused(name):
    function, params = EXACT[name]
    grid, good = Grid((4, 5, 6), (1, 1, 1)), np.zeros((2, 4, 5, 6), np.float32)
    bad = good.copy()
    bad[0, 0, 0, 0] = np.nan
    cases = [
        (good[0], None, None, [0.1]),
        (good, good[:1], None, [0.1, 0.2]),
        (good, -1 - good, None, [0.1, 0.2]),
        (bad, None, None, [0.1, 0.2]),
        (good, bad, None, [0.1, 0.2]),
        (good, None, np.zeros((4, 5, 6), bool), [0.1, 0.2]),
        (good, None, np.ones((4, 5, 5), bool), [0.1, 0.2]),
        (good, None, None, [0.2, 0.1]),
        (good, None, None, [0.1]),
        (good, None, None, [0.0, 0.1]),
    ]
    for phase, magnitude, mask, te_s in cases:
        with pytest.raises(DataError):
            function(phase, magnitude, mask, te_s, grid, params)


def test_kernels_compile_where_no_cache_can_be_written():
    """With every place for a cache taken away, numba refuses to cache; the kernels still run."""
    code = (
        "from numba.core import caching\n"
        "caching.CacheImpl._locator_classes = []\n"
        "import numpy as np\n"
        "from qsmprep.core.unwrap.compiled import descending\n"
        "print(descending(np.array([0.2, -1, 0.9, 0.5], np.float32)).tolist())\n"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert done.stdout.strip() == "[2, 3, 0]"


def test_a_million_voxels_take_seconds():
    case = simulate(TE_S, shape=(96, 104, 100), noise=0.05, offset=False)
    romeo.unwrap(case.phase_rad[:, :4], None, None, TE_S, case.grid.with_shape((4, 104, 100)))
    start = time.process_time()
    result = romeo.unwrap(case.phase_rad, case.magnitude, None, TE_S, case.grid)
    assert time.process_time() - start < 8
    deep = ndimage.binary_erosion(case.mask, iterations=2)
    assert np.mean(np.abs(result.phase_rad - case.true_rad)[:, deep] > np.pi) < 1e-4
