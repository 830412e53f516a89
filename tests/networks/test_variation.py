"""The total-variation maps that networks start from."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from network_cases import CONFIGS, head, lively, write_all

from qsmprep.core.grid import Grid
from qsmprep.core.inversion.tv import tv
from qsmprep.core.parameters import ConeNetParams, LoopNetParams, QSMInvNetParams, TvParams
from qsmprep.networks.base import INPUTS
from qsmprep.networks.geometry import Geometry, field_scale
from qsmprep.networks.inference import invert
from qsmprep.networks.variation import LEAST, WEAK, _begun, _size, variation_maps

GRID = Grid((40, 44, 36), (0.9, 1.0, 1.2), (0.2, 0.1, 0.97))


def nrmse(chi: np.ndarray, truth: np.ndarray, mask: np.ndarray) -> float:
    found, true = (v[mask] - v[mask].mean() for v in (chi, truth))
    return float(np.linalg.norm(found - true) / np.linalg.norm(true))


@pytest.fixture(scope="module")
def scene():
    field, mask, chi = head(GRID)
    image = np.where(mask, 1.0 + 3.0 * chi, 0).astype(np.float32)
    batch = [torch.from_numpy(np.ascontiguousarray(v, dtype=np.float32))[None, None] for v in (field, mask, image)]
    scale = field_scale(batch[0], batch[1])
    return field, mask, chi, batch[0] / scale, batch[1], batch[2], float(scale)


def test_the_weak_map_is_that_of_the_method(scene):
    """Its weight is taken from what it leaves of the field itself."""
    field, mask, _, scaled, inside, _, scale = scene
    weak = variation_maps(scaled, inside, Geometry(GRID))[:, 1:] * scale
    left = (torch.from_numpy(np.ascontiguousarray(field)) - Geometry(GRID).field(weak)[0, 0]).numpy()[mask]
    weight = WEAK * GRID.voxel_volume_mm3 ** (1 / 3) * float(np.sqrt(np.mean(left**2)))
    params = TvParams(weight=weight, edge_weight=LEAST, tolerance=0.0, max_iter=200)
    assert nrmse(weak[0, 0].numpy(), tv(field, mask, GRID, params).chi_ppm, mask) < 0.1


def test_the_weak_penalty_follows_what_is_left_of_the_trusted_field():
    generator = torch.Generator().manual_seed(0)
    left, share = torch.rand(2, 5, 6, 7, generator=generator), torch.rand(2, 5, 6, 7, generator=generator)
    expected = [float(np.sqrt((a**2).sum() / (b**2).sum())) for a, b in zip(left.numpy(), share.numpy(), strict=True)]
    assert _size(left, share).flatten().tolist() == pytest.approx(expected, rel=1e-5)


def test_an_empty_mask_gives_nothing(scene):
    """In a batch beside one that is not empty."""
    *_, scaled, inside, image, _ = scene
    pair = [torch.cat([volume, torch.zeros_like(volume)]) for volume in (scaled, inside, image)]
    maps = variation_maps(pair[0], pair[1], Geometry(GRID), pair[2])
    assert torch.equal(maps[:1], variation_maps(scaled, inside, Geometry(GRID), image))
    assert not maps[1].any()


def test_a_strong_source_that_is_hardly_trusted_is_found():
    """As a haemorrhage: its own field counts little, and comes to its size in the few steps that there are."""
    axes = [(np.arange(n) - n / 2) * mm for n, mm in zip(GRID.shape, GRID.voxel_mm, strict=True)]
    radius = np.sqrt(sum(axis**2 for axis in np.meshgrid(*axes, indexing="ij")))
    chi = torch.from_numpy(np.where(radius < 4, 50.0, 0.0).astype(np.float32))[None, None]
    geometry, mask = Geometry(GRID), torch.ones_like(chi)
    field = geometry.field(chi)
    weights = torch.where(torch.from_numpy(radius < 6), 0.02, 1.0)[None, None].float()
    weak = variation_maps(field, mask, geometry, None, weights)[:, 1:]
    inside = chi > 0
    assert float((weak - chi)[inside].square().mean().sqrt()) < 0.25 * 50


@pytest.mark.parametrize("at_once", [1, 2**17])
def test_fields_begin_as_measured_but_within_those_around_where_they_are_not_trusted(monkeypatch, at_once):
    """Without the two lowest and highest of the 26 in the mask; each volume for itself."""
    monkeypatch.setattr("qsmprep.networks.variation.AT_ONCE", at_once)
    field = torch.arange(2 * 5 * 5 * 5, dtype=torch.float32).view(2, 5, 5, 5).sin()
    mask, share = torch.ones(2, 5, 5, 5), torch.ones(2, 5, 5, 5)
    mask[1, :, :, 3:] = 0
    field[mask == 0] = 7.0
    share[0, 2, 2, 2], share[0, 0, 0, 0], share[1, 4, 4, 2], share[1, 0, 0, 0] = 0.0, 0.1, 0.5, 0.2
    field[0, 2, 2, 2], field[0, 0, 0, 0], field[1, 4, 4, 2] = 1e6, -1e6, 1e6
    mask[1, 0:2, 0:2, 0:2], mask[1, 0, 0, 0] = 0, 1  # nothing around
    begun = _begun(field, share, mask)
    inner, corner = field[0, 1:4, 1:4, 1:4].flatten(), field[0, :2, :2, :2].flatten()
    assert begun[0, 2, 2, 2] == torch.cat([inner[:13], inner[14:]]).sort().values[-3]
    assert begun[0, 0, 0, 0] == corner[1:].sort().values[2]
    edge = field[1, 3:, 3:, 1:3].flatten()
    assert begun[1, 4, 4, 2] == edge[:-1].sort().values[-3]
    assert begun[1, 0, 0, 0] == 0
    trusted = share > 0.5
    assert torch.equal(begun[trusted], field[trusted])


def test_edges_of_the_map_are_spared(scene, monkeypatch):
    """Which of the maps is nearer to the truth where that is steep."""
    _, mask, chi, scaled, inside, _, scale = scene
    steep = mask & (np.linalg.norm(np.gradient(chi), axis=0) > 0.03)
    errors = []
    for least in (LEAST, 1.0):
        monkeypatch.setattr("qsmprep.networks.variation.LEAST", least)
        maps = variation_maps(scaled, inside, Geometry(GRID))[0].numpy() * scale
        errors.append([nrmse(one, chi, steep) for one in maps])
    assert (np.array(errors[0]) < 0.95 * np.array(errors[1])).all(), errors


def test_edges_of_the_magnitude_help(scene):
    _, mask, chi, scaled, inside, image, scale = scene
    geometry = Geometry(GRID)
    plain, guided = (variation_maps(scaled, inside, geometry, m)[0].numpy() * scale for m in (None, image))
    assert nrmse(guided[0], chi, mask) < 0.85 * nrmse(plain[0], chi, mask)


def test_a_flat_magnitude_is_as_good_as_none(scene):
    *_, scaled, inside, _, _ = scene
    plain = variation_maps(scaled, inside, Geometry(GRID))
    flat = variation_maps(scaled, inside, Geometry(GRID), 7.0 * inside)
    assert torch.equal(plain, flat)


def test_volumes_of_a_batch_are_solved_each_for_itself(scene, monkeypatch):
    *_, scaled, inside, image, _ = scene
    turned = [torch.cat([volume, volume.flip(-3), volume.flip(-2)]) for volume in (scaled, inside, image)]
    geometry = Geometry(GRID)
    together = variation_maps(turned[0], turned[1], geometry, turned[2])
    alone = [variation_maps(*(v[i : i + 1] for v in turned[:2]), geometry, turned[2][i : i + 1]) for i in range(3)]
    assert torch.equal(together, torch.cat(alone))
    monkeypatch.setattr("qsmprep.networks.variation.TOGETHER", 1)
    assert torch.equal(together, variation_maps(turned[0], turned[1], geometry, turned[2]))


def test_maps_are_odd(scene):
    """Also where some of the field is hardly trusted, or not at all."""
    *_, scaled, inside, image, _ = scene
    generator = torch.Generator().manual_seed(0)
    drawn = torch.rand(inside.shape, generator=generator)
    weights = torch.where(drawn < 0.2, 0.0, torch.where(drawn < 0.5, 0.1, 1.0))
    for given in (None, weights):
        there, back = (variation_maps(s * scaled, inside, Geometry(GRID), image, given) for s in (1, -1))
        torch.testing.assert_close(there, -back, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["loopnet", "metaqsm", "qsminvnet", "pedqnet"])
def test_other_networks_can_start_from_them(name):
    grid = Grid((32, 32, 32), GRID.voxel_mm, GRID.b0_dir)
    scaled, inside, image = (torch.from_numpy(np.asarray(v, dtype=np.float32))[None, None] for v in head(grid))
    geometry = Geometry(grid)
    network = lively(name, config={**CONFIGS[name], "inputs": "variation"})
    maps = network.prepare(scaled, inside, geometry, image)
    assert torch.equal(maps, variation_maps(scaled, inside, geometry, image))
    entry, first = network.start(scaled, inside, geometry, maps, image)
    assert entry.shape[1] == INPUTS["variation"] * network.shuffle**3
    assert torch.equal(first, maps[:, 1:])
    with torch.no_grad():
        for parameter in network.head.parameters():
            parameter.zero_()
        alone = network(scaled, inside, geometry, prepared=maps, magnitude=image)[0]
    torch.testing.assert_close(alone, maps[:, 1:])


@pytest.mark.parametrize(
    ("name", "params", "guided"),
    [("conenet", ConeNetParams, True), ("loopnet", LoopNetParams, False), ("qsminvnet", QSMInvNetParams, True)],
)
def test_networks_that_look_at_the_magnitude(tmp_path, scene, name, params, guided):
    field, mask, *_ = scene
    image = scene[5][0, 0].numpy()
    chosen = params(weights=str(write_all(tmp_path)))
    without, within = (invert(name, field, mask, GRID, chosen, magnitude=m).chi_ppm for m in (None, image))
    assert (np.abs(within - without).max() > 1e-4) == guided
