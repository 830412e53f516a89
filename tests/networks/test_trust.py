"""What a network is given of a field that cannot be trusted everywhere."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from network_cases import head, lively, nrmse, write_all

from qsmprep.core.grid import Grid
from qsmprep.core.inversion.whqsm import without_remainder
from qsmprep.core.parameters import ConeNetParams, WhqsmParams
from qsmprep.networks.geometry import Geometry
from qsmprep.networks.inference import invert
from qsmprep.networks.trust import repaired, surer, trusted
from qsmprep.networks.variation import variation_maps

GRID = Grid((40, 44, 36), (0.9, 1.0, 1.2), (0.2, 0.1, 0.97))


@pytest.fixture(scope="module")
def scene():
    """Field with wild voxels, mask, map, and weights that know the wild voxels."""
    field, mask, chi = head(GRID)
    rng = np.random.default_rng(1)
    wild = mask & (rng.random(mask.shape) < 0.03)
    broken = np.where(wild, rng.uniform(-2, 2, mask.shape), field).astype(np.float32)
    weights = np.where(wild, 0.002, 1.0).astype(np.float32) * mask
    return field, broken, mask, chi, weights


def batch(*volumes: np.ndarray) -> list[torch.Tensor]:
    return [torch.from_numpy(np.ascontiguousarray(v, dtype=np.float32))[None, None] for v in volumes]


def test_trusted_voxels_keep_their_field_and_others_get_that_of_the_map(scene):
    field, broken, mask, chi, weights = scene
    known, inside, truth, weight = batch(broken + 0.5 * mask, mask, chi, weights)
    found = repaired(known, inside, weight, Geometry(GRID), truth)[0, 0].numpy()
    assert np.abs(found - field - 0.5)[mask].max() < 0.05  # the constant stays, 2 ppm of error become 0.004
    assert not found[~mask].any()
    whole = repaired(known, inside, inside, Geometry(GRID), truth)
    torch.testing.assert_close(whole, known * inside, atol=1e-5, rtol=1e-5)


def test_a_map_that_follows_the_weights(scene):
    field, broken, mask, chi, weights = scene
    known, inside, weight = batch(broken, mask, weights)
    plain, wise = (variation_maps(known, inside, Geometry(GRID), None, w)[0, 1].numpy() for w in (None, weight))
    clean = variation_maps(*batch(field), inside, Geometry(GRID))[0, 1].numpy()
    assert nrmse(wise, chi, mask) < 1.3 * nrmse(clean, chi, mask) < 0.7 * nrmse(plain, chi, mask)


@pytest.mark.parametrize("name", ["conenet", "metaqsm"])
@torch.no_grad()
def test_without_weights_nothing_changes(scene, name):
    known, inside, weight = batch(scene[1], scene[2], scene[4])
    network = lively(name)
    field, prepared = trusted(network, known, inside, Geometry(GRID))
    assert field is known
    other, also = trusted(network, known, inside, Geometry(GRID), None, weight)
    assert (prepared is None) == (also is None) == (name == "metaqsm")
    assert (other - known).abs().max() > 1


def test_the_method_uses_the_weights(scene, tmp_path):
    field, broken, mask, _, weights = scene
    params = ConeNetParams(weights=str(write_all(tmp_path)))
    clean, wild, wise = (
        invert("conenet", f, mask, GRID, params, weights=w).chi_ppm
        for f, w in ((field, None), (broken, None), (broken, weights))
    )
    size = np.linalg.norm(clean[mask])
    assert np.linalg.norm((wise - clean)[mask]) < 0.35 * np.linalg.norm((wild - clean)[mask])
    assert np.linalg.norm((wise - clean)[mask]) < 0.5 * size
    scaled = invert("conenet", broken, mask, GRID, params, weights=7 * weights).chi_ppm
    assert np.allclose(scaled, wise, atol=1e-4)


@pytest.fixture(scope="module")
def remainder(scene):
    """A harmonic field about as large as the local one: that of sources well outside the mask."""
    axes = [(np.arange(n) - n / 2) * mm for n, mm in zip(GRID.shape, GRID.voxel_mm, strict=True)]
    where = np.stack(np.meshgrid(*axes, indexing="ij"))
    mask = scene[2]
    x, y, z = where / 20.0
    field = x**2 - y**2 + 2 * x * z + 0.5 * y
    field = field - field[mask].mean()
    return (field * (scene[0][mask].std() / field[mask].std()) * mask).astype(np.float32)


def test_what_background_removal_left_is_taken_off_first(scene, remainder, tmp_path):
    """As a run does it: a network of the field less what weak-harmonic regularisation finds in it."""
    field, _, mask, _, _ = scene
    params = ConeNetParams(weights=str(write_all(tmp_path)))
    left = without_remainder(field + remainder, mask, GRID, WhqsmParams(harmonic="yes"))
    maps = [invert("conenet", f, mask, GRID, params).chi_ppm for f in (field, field + remainder, left.field_ppm)]
    kept, off = (float(np.std((one - maps[0])[mask])) for one in maps[1:])
    assert off < 0.5 * kept
    assert left.info["harmonic_ppm"] > 0.5 * remainder[mask].std()


def test_wild_voxels_do_not_decide_the_unit(scene, tmp_path):
    """However far off voxels without a weight are, the map stays, but for a little around them: it begins there with
    what they say, no further than the fields around them go (which is worth it in lesions)."""
    field, _, mask, _, _ = scene
    rng = np.random.default_rng(2)
    wild = mask & (rng.random(mask.shape) < 0.01)
    weights = np.where(wild, 0.0, 1.0).astype(np.float32) * mask
    params = ConeNetParams(weights=str(write_all(tmp_path)))
    found = [
        invert("conenet", np.where(wild, size, field).astype(np.float32), mask, GRID, params, weights=weights)
        for size in (0.0, 10.0, 1000.0)
    ]
    maps = [one.chi_ppm[mask] for one in found]
    assert np.allclose(maps[1], maps[2], atol=1e-6)
    assert np.std(maps[1] - maps[0]) < 4e-3 * np.std(maps[0])
    assert np.abs(maps[1] - maps[0]).max() < 0.04 * np.abs(maps[0]).max()
    assert found[0].info["consistency_weight"] == pytest.approx(found[1].info["consistency_weight"], rel=0.02)


def test_the_unit_is_that_of_the_mask_where_nothing_can_be_trusted():
    mask = torch.ones(2, 1, 3, 3, 3)
    weights = torch.stack([torch.full((1, 3, 3, 3), 0.2), torch.ones(1, 3, 3, 3)])
    weights[1, 0, 0] = 0.1
    found = surer(mask, weights)
    assert found[0].all() and found[1].sum() == 18
    assert surer(mask, None) is mask
