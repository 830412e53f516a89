"""Referencing: the constant is fixed where susceptibility is defined, and nowhere else."""

from __future__ import annotations

import numpy as np
import pytest

from qsmprep.core.methods import METHODS
from qsmprep.core.reference import none, reference, wholebrain
from qsmprep.errors import DataError


@pytest.fixture
def case():
    rng = np.random.default_rng(0)
    brain = np.zeros((10, 12, 8), bool)
    brain[1:9, 1:11, 1:7] = True
    valid = np.zeros_like(brain)
    valid[2:8, 2:10, 2:6] = True
    chi = np.where(valid, 0.3 + rng.normal(0, 0.05, brain.shape), 0).astype(np.float32)
    return chi, valid, brain


def test_mean_over_the_valid_mask_only(case):
    chi, valid, brain = case
    result = reference(chi, valid, region=brain)
    assert result.shift_ppm == pytest.approx(chi[valid].mean(), abs=1e-7)
    assert result.n_voxels == valid.sum()
    assert abs(result.chi_ppm[valid].mean(dtype=float)) < 1e-7
    assert not result.chi_ppm[~valid].any()
    assert result.chi_ppm.dtype == np.float32
    assert np.array_equal(result.chi_ppm, reference(chi, valid).chi_ppm)


def test_mean_over_a_region(case):
    chi, valid, _ = case
    region = np.zeros_like(valid)
    region[:4] = True
    chi = chi + np.where(region & valid, 0.2, 0).astype(np.float32)
    result = reference(chi, valid, region)
    assert result.n_voxels == (region & valid).sum()
    assert abs(result.chi_ppm[region & valid].mean(dtype=float)) < 1e-7
    assert np.allclose(np.diff(result.chi_ppm[valid]), np.diff(chi[valid]), atol=1e-6)


def test_what_lies_outside_does_not_matter(case):
    chi, valid, _ = case
    strange = np.where(valid, chi, np.nan)
    assert np.array_equal(reference(strange, valid).chi_ppm, reference(chi, valid).chi_ppm)
    assert np.array_equal(none(strange, valid).chi_ppm, chi)


def test_none_keeps_the_values(case):
    chi, valid, _ = case
    result = none(chi + np.float32(0.1), valid)
    assert (result.shift_ppm, result.n_voxels) == (0.0, 0)
    assert np.allclose(result.chi_ppm[valid], chi[valid] + 0.1)
    assert not result.chi_ppm[~valid].any()


def test_registered_methods_are_these(case):
    chi, valid, _ = case
    assert METHODS.names("reference")[:2] == ("wholebrain", "none")
    assert METHODS.get("reference", "wholebrain").load() is wholebrain
    assert METHODS.get("reference", "none").load() is none
    assert np.array_equal(wholebrain(chi, valid).chi_ppm, reference(chi, valid).chi_ppm)


def test_bad_inputs_are_refused(case):
    chi, valid, _ = case
    nothing = np.zeros_like(valid)
    broken = chi.copy()
    broken[4, 4, 4] = np.inf
    for args, told in (
        ((chi, valid, ~valid), "no voxel in which susceptibility is defined"),
        ((chi, valid, valid[1:]), "the reference region has shape"),
        ((chi, nothing), "is empty"),
        ((chi[1:], valid), "has shape"),
        ((broken, valid), "not finite"),
    ):
        with pytest.raises(DataError, match=told):
            reference(*args)
    for function in (none, wholebrain):
        with pytest.raises(DataError, match="is empty"):
            function(chi, nothing)
