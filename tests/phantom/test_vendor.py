"""Integers of the vendors, and files that repeat byte for byte."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest

from qsmprep.errors import DataError
from qsmprep.phantom.nifti import write_nifti
from qsmprep.phantom.vendor import decode_phase, encode_magnitude, encode_map, encode_phase


@pytest.mark.parametrize("vendor, low, high", [("siemens", -4096, 4094), ("philips", -np.pi, np.pi)])
def test_phase_survives_the_round_trip(vendor, low, high):
    phase = np.concatenate([np.random.default_rng(0).uniform(-20, 20, 5000), [-np.pi, np.pi, 0.0, 3 * np.pi]])
    stored = encode_phase(phase, vendor)
    assert stored.stored.dtype == np.int16 and stored.stored.min() >= 0 and stored.stored.max() <= 4095
    assert low - 1e-3 <= stored.values.min() and stored.values.max() <= high + 1e-3
    back = decode_phase(stored.values, stored.units)
    np.testing.assert_allclose(np.angle(np.exp(1j * (back - phase))), 0.0, atol=np.pi / 4095 * 1.01)


def test_phase_just_below_pi_does_not_overflow_the_siemens_range():
    assert encode_phase(np.array([np.pi - 1e-6]), "siemens").values[0] == -4096
    assert encode_phase(np.array([0.0]), "siemens").values[0] == 0


def test_header_scaling_reaches_the_reader(tmp_path):
    stored = encode_phase(np.linspace(-3, 3, 24).reshape(2, 3, 4), "siemens")
    affine = np.array([[-1.5, 0, 0, 9], [0, 1.4, -0.5, 2], [0, 0.6, 1.2, -4], [0, 0, 0, 1.0]])
    affine[:3, :3] = np.array([[-1, 0, 0], [0, 0.8, -0.6], [0, 0.6, 0.8]]) * [1.5, 1.4, 2.0]
    write_nifti(tmp_path / "a.nii.gz", stored, affine)
    image = nib.load(tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(image.get_fdata(), stored.values)
    np.testing.assert_allclose(image.affine, affine, atol=1e-6)
    np.testing.assert_allclose(image.get_qform(), affine, atol=1e-5)
    assert (image.dataobj.slope, image.dataobj.inter) == (2, -4096)
    assert image.header.get_xyzt_units()[0] == "mm"
    first = (tmp_path / "a.nii.gz").read_bytes()
    write_nifti(tmp_path / "b.nii.gz", stored, affine)
    assert (tmp_path / "b.nii.gz").read_bytes() == first
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.nii.gz", "b.nii.gz"]


def test_maps_and_magnitudes_are_stored_to_half_a_step():
    volume = np.random.default_rng(1).normal(0, 0.1, (6, 7, 8))
    np.testing.assert_allclose(encode_map(volume, 1e-4, "ppm").values, volume, atol=0.51e-4)
    large = encode_map(volume * 1e3, 1e-4, "ppm")
    np.testing.assert_allclose(large.values, volume * 1e3, atol=large.slope * 0.51)
    stored = encode_magnitude(np.array([0.0, 1.0, 1e9]), 0.5)
    np.testing.assert_array_equal(stored.stored, [0, 2, 4095])


def test_wrong_input_is_named():
    with pytest.raises(DataError, match="vendor"):
        encode_phase(np.zeros(3), "acme")
    with pytest.raises(DataError, match="finite"):
        encode_phase(np.array([np.nan]))
    with pytest.raises(DataError, match="unit"):
        encode_magnitude(np.zeros(3), 0.0)
