# ruff: noqa: E501
"""Properties over shapes, affines, number types and echo counts, at the borders where files become arrays."""

from __future__ import annotations

import json
import math
import os
import tempfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from builders import json_of, write, write_image
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from qsmprep.bids.headers import read_header
from qsmprep.bids.preflight import preflight
from qsmprep.bids.write import write_nifti
from qsmprep.core.grid import Grid
from qsmprep.core.masking import morphology
from qsmprep.core.masking.consensus import threshold_mask
from qsmprep.core.phase import wrap
from qsmprep.core.unwrap import bestpath, laplacian, romeo
from qsmprep.errors import DataError
from qsmprep.interfaces.phase import Conform

EXAMPLES = int(os.environ.get("QSMPREP_EXAMPLES", "5"))
"""Examples of the properties that write a data set; ``make test-trust`` takes more."""

SLOWLY = settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.too_slow])
TURN = 2 * math.pi

shapes = st.tuples(*[st.integers(4, 9)] * 3)
edges_mm = st.tuples(*[st.floats(0.3, 4.0)] * 3)
angles_deg = st.tuples(st.floats(-180, 180), st.floats(-80, 80), st.floats(-180, 180))
flips = st.tuples(*[st.sampled_from((1, -1))] * 3)
orders = st.permutations((0, 1, 2))
echo_counts = st.integers(1, 5)
seeds = st.integers(0, 2**31)


@st.composite
def affines(draw):
    """Any rotation, order and direction of the axes, voxel size and place."""
    axes = Rotation.from_euler("xyz", draw(angles_deg), degrees=True).as_matrix()[:, list(draw(orders))]
    affine = np.eye(4)
    affine[:3, :3] = axes * np.array(draw(edges_mm)) * draw(flips)
    affine[:3, 3] = draw(st.tuples(*[st.floats(-200, 200)] * 3))
    return affine


def acquisition(folder: Path, shape, affine, te_s, rng, dtype="float32", suffix="MEGRE", extension=".nii.gz"):
    """A data set of one participant; the phase is stored as this type over 4096 or 2 pi. Returns root and phase."""
    raw = folder / "raw"
    anat = raw / "sub-01" / "anat"
    anat.mkdir(parents=True)
    write(raw / "dataset_description.json", {"Name": "x", "BIDSVersion": "1.10.0"})
    phases = rng.uniform(-math.pi, math.pi, (len(te_s), *shape)).astype(np.float32)
    phases[:, 0, 0, 0], phases[:, -1, -1, -1] = -math.pi, math.pi - TURN / 4096
    for number, (te, phase) in enumerate(zip(te_s, phases, strict=True), start=1):
        echo = f"_echo-{number}" if len(te_s) > 1 else ""
        for part in ("mag", "phase"):
            path = anat / f"sub-01{echo}_part-{part}_{suffix}{extension}"
            if part == "mag":
                data, units = rng.uniform(1, 200, shape).astype(dtype), None
            elif dtype.startswith("float"):
                data, units = phase.astype(dtype), "rad"
            else:
                data, units = np.round((phase + math.pi) / TURN * 4096).astype(dtype), "arbitrary"
            write_image(path, data, affine)
            keys = {"EchoTime": te, "MagneticFieldStrength": 3.0, "Units": units, "Manufacturer": "Siemens"}
            write(json_of(path), keys)
    return raw, phases


@SLOWLY
@given(shapes, affines(), echo_counts, seeds, st.sampled_from(("float32", "float64", "int16", "uint16", "int32")),
       st.sampled_from((".nii", ".nii.gz")))  # fmt: skip
def test_any_good_data_set_is_ready_and_read_as_it_is(shape, affine, n_echoes, seed, dtype, extension):
    """Geometry, order of echoes and phase come back whatever the shape, orientation, number type and file kind."""
    rng = np.random.default_rng(seed)
    te_s = [float(te) for te in rng.permutation(0.003 + 0.005 * np.arange(n_echoes))]
    suffix = "MEGRE" if n_echoes > 1 else "T2starw"
    with tempfile.TemporaryDirectory() as name:
        raw, phases = acquisition(Path(name), shape, affine, te_s, rng, dtype, suffix, extension)
        (verdict,) = preflight(raw).verdicts
        assert not verdict.problems
        found = verdict.acquisition
        assert found.te_s == tuple(sorted(te_s))
        header = read_header(found.files[0])
        assert header.shape == shape
        np.testing.assert_allclose(header.affine, affine, atol=1e-4 + 1e-6 * np.abs(affine).max())
        grid = Grid.from_affine(header.shape, header.affine)
        np.testing.assert_allclose(grid.voxel_mm, np.linalg.norm(affine[:3, :3], axis=0), rtol=1e-4)
        stacked = Conform(
            magnitude=[str(e.magnitude) for e in found.echoes],
            phase=[str(e.phase) for e in found.echoes],
            units=found.phase_units,
            manufacturer="Siemens",
        ).compute(Path(name))
        got = np.moveaxis(nib.load(stacked["phase"]).get_fdata(), -1, 0) if n_echoes > 1 else None
        if got is None:
            got = nib.load(stacked["phase"]).get_fdata().reshape(1, *shape)
        off = wrap(got - phases[np.argsort(te_s)])
        assert np.abs(off).max() < (1e-5 if dtype.startswith("float") else TURN / 4096)


@SLOWLY
@given(shapes, affines(), st.integers(0, 2), st.floats(1.0, 50.0))
def test_any_moved_echo_is_refused_by_name(shape, affine, axis, by_mm):
    """One image of which the affine is another, by more than its voxels."""
    with tempfile.TemporaryDirectory() as name:
        raw, _ = acquisition(Path(name), shape, affine, [0.004, 0.009], np.random.default_rng(0), extension=".nii")
        path = raw / "sub-01" / "anat" / "sub-01_echo-2_part-mag_MEGRE.nii"
        moved = affine.copy()
        moved[axis, 3] += by_mm * 4
        write_image(path, np.ones(shape, np.float32), moved)
        (verdict,) = preflight(raw).verdicts
        (problem,) = verdict.problems
        assert problem.exit_code == 65
        assert problem.file == str(path)


@given(st.integers(0, 6), seeds, st.sampled_from(("f2", "f4", "f8", "i1", "u1", "i2", "u2", "i4", "?")), affines())
@settings(max_examples=60, deadline=None)
def test_written_volumes_read_back(extra, seed, dtype, affine):
    """Values, affine and bytes: what is written twice is the same file."""
    rng = np.random.default_rng(seed)
    array = (100 * rng.standard_normal((4 + extra, 5, 6))).astype(dtype)
    with tempfile.TemporaryDirectory() as name:
        first = write_nifti(array, affine, None, Path(name) / "a.nii.gz")
        again = write_nifti(array, affine, None, Path(name) / "b.nii.gz")
        assert first.read_bytes() == again.read_bytes()
        image = nib.load(first)
        np.testing.assert_array_equal(np.asanyarray(image.dataobj), array.astype(np.float32))
        np.testing.assert_allclose(image.affine, affine, atol=1e-3)


@given(seeds, st.sampled_from((np.nan, np.inf, -np.inf)))
@settings(max_examples=10, deadline=None)
def test_no_volume_with_a_value_that_is_no_number_is_written(seed, value):
    array = np.ones((4, 5, 6), np.float32)
    array.ravel()[seed % array.size] = value
    with tempfile.TemporaryDirectory() as name:
        with pytest.raises(DataError, match="1 voxels"):
            write_nifti(array, np.eye(4), None, Path(name) / "a.nii.gz")
        assert not list(Path(name).iterdir())


@settings(deadline=None)
@given(st.lists(st.floats(-1e4, 1e4, width=32), min_size=1, max_size=50))
def test_wrapped_phase_lies_within_a_turn_and_differs_by_whole_turns(values):
    phase = np.asarray(values, np.float32)
    wrapped = wrap(phase)
    assert np.abs(wrapped).max() <= math.pi + 1e-6
    turns = (phase.astype(float) - wrapped) / TURN
    assert np.abs(turns - np.round(turns)).max() < 1e-3
    np.testing.assert_allclose(np.exp(1j * wrap(wrapped)), np.exp(1j * wrapped), atol=1e-6)


@st.composite
def smooth_phases(draw):
    """Phase (n, nx, ny, nz) of a linear field whose steps between voxels stay below half a turn, and its mask."""
    shape, n_echoes = draw(shapes), draw(st.integers(1, 3))
    slope = np.array(draw(st.tuples(*[st.floats(-0.9, 0.9)] * 3)))
    ramp = np.tensordot(slope, np.indices(shape) - (np.array(shape) - 1).reshape(3, 1, 1, 1) / 2, axes=1)
    te_s = [0.004 * (n + 1) for n in range(n_echoes)]
    phase = np.stack([ramp * (n + 1) for n in range(n_echoes)]).astype(np.float32)
    return phase, te_s, Grid(shape, draw(edges_mm))


@pytest.mark.parametrize("method", [romeo, bestpath])
@SLOWLY
@given(smooth_phases())
def test_unwrapping_is_exact_whatever_the_shape(method, case):
    """The true phase comes back up to whole turns of all echoes' common offset; wrapping it gives what went in."""
    phase, te_s, grid = case
    wrapped = wrap(phase)
    mask = np.ones(grid.shape, bool)
    mask[0, 0, 0] = False
    result = method.unwrap(wrapped, np.ones_like(wrapped), mask, te_s, grid)
    assert result.exact
    assert result.phase_rad.shape == phase.shape
    assert not result.phase_rad[:, ~mask].any()
    first = (result.phase_rad[0] - phase[0])[mask]
    assert np.ptp(first) < 1e-3
    np.testing.assert_allclose(wrap(result.phase_rad - wrapped)[:, mask], 0, atol=1e-4)


@SLOWLY
@given(smooth_phases())
def test_laplacian_unwrapping_is_finite_whatever_the_shape(case):
    phase, te_s, grid = case
    result = laplacian.unwrap(wrap(phase), np.ones_like(phase), np.ones(grid.shape, bool), te_s, grid)
    assert np.isfinite(result.phase_rad).all()
    assert not result.exact


@given(shapes, edges_mm, seeds, st.floats(0.3, 6.0))
@settings(max_examples=40, deadline=None)
def test_masks_grow_and_shrink_in_order(shape, voxel_mm, seed, radius_mm):
    """Eroded within the mask within dilated; a hole filled stays filled; the flipped mask gives the flipped result."""
    mask = np.random.default_rng(seed).random(shape) < 0.7
    eroded, dilated = (f(mask, radius_mm, voxel_mm) for f in (morphology.erode, morphology.dilate))
    filled = morphology.fill_holes(mask)
    assert not (eroded & ~mask).any()
    assert not (mask & ~dilated).any()
    assert not (mask & ~filled).any()
    np.testing.assert_array_equal(morphology.fill_holes(filled), filled)
    np.testing.assert_array_equal(morphology.erode(mask[::-1, :, ::-1], radius_mm, voxel_mm), eroded[::-1, :, ::-1])
    if mask.any():
        largest = morphology.largest_component(mask)
        assert largest.any()
        assert not (largest & ~mask).any()


@given(shapes, edges_mm, seeds, st.floats(1e-3, 1e6))
@settings(max_examples=20, deadline=None)
def test_threshold_mask_does_not_depend_on_the_unit_of_the_magnitude(shape, voxel_mm, seed, unit):
    rng = np.random.default_rng(seed)
    magnitude = np.where(np.indices(shape)[0] >= shape[0] // 2, 100.0, 1.0) + rng.random(shape)
    masks = []
    for scale in (1.0, unit):
        try:
            masks.append(threshold_mask((magnitude * scale).astype(np.float32), Grid(shape, voxel_mm)))
        except DataError:
            masks.append(np.zeros(shape, bool))
    np.testing.assert_array_equal(*masks)


@given(st.recursive(st.none() | st.booleans() | st.floats() | st.text(max_size=5), lambda x: st.lists(x, max_size=3), max_leaves=6),
       st.sampled_from(("EchoTime", "MagneticFieldStrength", "Units", "Manufacturer", "FlipAngle")))  # fmt: skip
@settings(max_examples=2 * EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_value_of_a_sidecar_ends_in_a_verdict(good, value, key):
    """Ready, or refused with a message that names the file."""
    path = good / "sub-01" / "anat" / "sub-01_part-phase_T2starw.json"
    kept = path.read_bytes()
    try:
        path.write_text(json.dumps({**json.loads(kept), key: value}))
        (verdict,) = preflight(good).verdicts
    finally:
        path.write_bytes(kept)
    assert bool(verdict.acquisition) != bool(verdict.problems)
    assert all(problem.file and problem.exit_code == 65 for problem in verdict.problems)


@pytest.fixture(scope="module")
def good(tmp_path_factory) -> Path:
    """A good data set of one echo."""
    rng = np.random.default_rng(0)
    return acquisition(tmp_path_factory.mktemp("good"), (5, 6, 7), np.eye(4), [0.004], rng, suffix="T2starw")[0]
