"""What a penalty on the gradient spares: faces by an image, voxels by the map itself."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from dipole_cases import head, nrmse

from qsmprep.core.dipole import forward_field
from qsmprep.core.grid import Grid
from qsmprep.core.inversion.admm import TotalVariation
from qsmprep.core.inversion.edges import Sparing, flatness, share_of
from qsmprep.core.inversion.problem import Spectral, on_faces
from qsmprep.core.methods import METHODS

GRID = Grid((24, 20, 16), (1.0, 1.0, 1.0))


def invert(name, field, mask, grid, overrides):
    method = METHODS.get("inversion", name)
    return method.load()(field, mask, grid, method.configure(overrides))


def rough(seed: int = 0) -> torch.Tensor:
    """Noise with one strong source."""
    chi = torch.from_numpy(np.random.default_rng(seed).normal(0, 1e-3, GRID.shape).astype(np.float32))
    chi[10:13, 9:12, 7:10] = 0.5
    return chi


def test_a_slope_that_is_typical_of_the_map_keeps_nearly_all_and_a_steep_one_the_least():
    mask = torch.ones(GRID.shape, dtype=torch.bool)
    chi = torch.zeros(GRID.shape)
    for axis, n in enumerate(GRID.shape):
        chi += 0.01 * torch.arange(n, dtype=torch.float32).view([-1 if a == axis else 1 for a in range(3)])
    chi[12:] += 6 * 0.01  # one step, once as steep again as half the penalty goes at
    shares = flatness(chi, mask, 0.3)
    assert float(shares[4, 4, 4]) == pytest.approx(1 / (1 + 3 / 6**2), rel=1e-5)
    step = (2 * 0.01 + 6 * 0.01) / 0.02
    assert float(shares[11, 4, 4]) == pytest.approx(1 / (1 + (step**2 + 2) / 6**2), rel=1e-4)
    assert float(shares.min()) == pytest.approx(0.3), "where the array ends, the difference is to its other side"


def test_the_unit_does_not_matter_and_flips_move_along():
    mask = torch.ones(GRID.shape, dtype=torch.bool)
    chi = rough()
    first = flatness(chi, mask, 0.2)
    torch.testing.assert_close(flatness(1e3 * chi, mask, 0.2), first)
    torch.testing.assert_close(flatness(1e-25 * chi, mask, 0.2), first)
    for axis in range(3):
        torch.testing.assert_close(flatness(chi.flip(axis), mask, 0.2), first.flip(axis))
    assert float(first[11, 8, 8]) == float(first[11, 9, 8]) == pytest.approx(0.2), "either side of the edge"
    assert float(first[:8].median()) > 0.9 and float(first[11, 10, 8]) > 0.9


def test_only_the_mask_says_what_is_steep():
    chi = rough()
    mask = torch.zeros(GRID.shape, dtype=torch.bool)
    mask[2:20, 1:16, 3:12] = True
    wild = torch.where(mask, chi, 1e4 * chi + 7)
    shares = flatness(wild, mask, 0.2)
    torch.testing.assert_close(shares, flatness(torch.where(mask, chi, 0), mask, 0.2))
    assert bool((shares[~mask] == 1).all())
    assert float(shares[2, 4, 5]) > 0.5, "the surface of the mask is no edge"
    cut = tuple(slice(0, n) for n in (20, 16, 12))
    torch.testing.assert_close(flatness(wild, mask[cut].contiguous(), 0.2), shares)
    torch.testing.assert_close(flatness(wild[cut].contiguous(), mask[cut], 0.2), shares[cut])


def test_a_face_has_the_smaller_one_of_two():
    shares = torch.tensor([0.2, 1.0, 0.5]).view(1, 3, 1)
    assert on_faces(shares, 1).flatten().tolist() == pytest.approx([0.2, 0.5, 0.2]), "periodic"


def test_a_flat_map_has_no_edges():
    mask = torch.ones(GRID.shape, dtype=torch.bool)
    assert flatness(torch.zeros(GRID.shape), mask, 0.5) is None
    split = TotalVariation(Spectral(GRID, 1.0, "cpu"), torch.ones(GRID.shape)[..., :9], 0.1, 0.1)
    assert not Sparing(split, mask, 0.5, 150).rests(torch.zeros(GRID.shape), 99, False)
    assert Sparing(split, mask, 0.5, 150).rests(torch.zeros(GRID.shape), 99, True)
    assert split.shares is None


def test_no_mask_has_no_edges():
    assert flatness(torch.rand(6, 6, 6), torch.zeros(6, 6, 6, dtype=torch.bool), 0.5) is None


def test_edges_are_followed_a_few_times_and_not_at_all_at_the_full_weight():
    mask, chi = torch.ones(GRID.shape, dtype=torch.bool), rough()
    split = TotalVariation(Spectral(GRID, 1.0, "cpu"), torch.ones(GRID.shape)[..., :9], 0.1, 0.1)
    seen = []
    split.share = lambda shares: seen.append(shares)

    def renewals(sparing, settled, iterations=60):
        """At which iterations it followed the map, and the first one at which one may stop."""
        found, stop = [], None
        for n in range(iterations):
            before = len(seen)
            rests = sparing.rests(chi, n, settled)
            found += [n] * (len(seen) - before)
            stop = n if stop is None and rests else stop
        return found, stop

    assert renewals(Sparing(split, mask, 0.5, 150), False) == ([15, 25, 35], None)
    assert renewals(Sparing(split, mask, 0.5, 30), False) == ([15, 25], None)
    assert renewals(Sparing(split, mask, 0.5, 10), False) == ([5], None), "half way where there are few"
    settled = renewals(Sparing(split, mask, 0.5, 150), True)
    assert settled[0][0] == 0 and len(settled[0]) == 3, "a map that has settled is not waited for"
    assert min(np.diff([*settled[0], settled[1]])) >= 5, "but has to follow in turn"
    assert renewals(Sparing(split, mask, 1.0, 150), True) == ([], 0)
    assert share_of(1.0) == pytest.approx(0.1) and share_of(0.5) == pytest.approx(0.17)


def test_what_is_spared_later_leads_to_the_map_of_faces_that_are_weighed_from_the_start():
    space, weight = Spectral(GRID, 1.0, "cpu"), 0.02
    hessian = torch.ones(GRID.shape)[..., :9]
    data = space.fft(rough(3))
    shares = flatness(rough(), torch.ones(GRID.shape, dtype=torch.bool), 0.1)
    given = TotalVariation(space, hessian, weight, 0.1, [on_faces(shares, axis) for axis in range(3)])
    later, plain = TotalVariation(space, hessian, weight, 0.1), TotalVariation(space, hessian, weight, 0.1)
    for iteration in range(400):
        if iteration == 20:
            later.share(shares)
        for split in (given, later, plain):
            split.shrink(split.solve(data))
    expected, found, without = (split.solve(data) for split in (given, later, plain))
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
    assert float((without - expected).abs().max()) > 0.01


@pytest.mark.parametrize("name", ["tv", "nltv", "whqsm"])
def test_nothing_stops_before_it_has_followed_its_edges(name):
    field, mask, _, _ = head(GRID, seed=2)
    found = invert(name, field, mask, GRID, {"tolerance": 0.9, "weight": 3e-4} | more(name))
    plain = invert(name, field, mask, GRID, {"tolerance": 0.9, "weight": 3e-4, "edge_weight": 1.0} | more(name))
    assert found.iterations >= plain.iterations + 15
    assert found.converged


def more(name):
    return {"harmonic": "yes"} if name == "whqsm" else {}


def test_what_edges_keep_is_handed_on_where_the_harmonic_field_is_given_up():
    field, mask, _, _ = head(Grid((40, 44, 36), (1.0, 1.0, 1.0)), seed=2)
    grid = Grid(field.shape, (1.0, 1.0, 1.0))
    joint = invert("whqsm", field, mask, grid, {"edge_weight": 0.8})
    assert joint.info["harmonic_ppm"] == 0.0
    plain = invert("nltv", field - joint.remainder_ppm, mask, grid, {"edge_weight": 0.8})
    np.testing.assert_allclose(joint.chi_ppm, plain.chi_ppm, atol=1e-5 * np.abs(plain.chi_ppm).max())


def test_every_text_tells_what_edges_keep_and_whose_idea_it_is():
    count = 0
    for step in ("background", "remainder", "inversion"):
        for name in METHODS.names(step):
            method = METHODS.get(step, name)
            if hasattr(method.configure(), "edge_weight"):
                count += 1
                assert "edges kept 0.7" in method.describe(method.configure({"edge_weight": 0.7}))
                assert "candes2008" in method.citations
    assert count == 5


@pytest.mark.parametrize("name", ["tv", "nltv", "whqsm"])
def test_small_strong_sources_keep_their_strength(name):
    """A vein of one voxel and a lesion are weakened less."""
    grid = Grid((48, 52, 40), (1.0, 1.0, 1.0), (0.0, 0.2, 1.0))
    _, mask, chi, _ = head(grid, seed=2)
    strong = np.zeros(grid.shape, bool)
    strong[20, 18:34, 20] = strong[30:33, 26:29, 24:27] = True
    strong &= mask
    chi = np.where(strong, 0.3, chi).astype(np.float32)
    noise = np.random.default_rng(0).normal(0, 0.003, grid.shape)
    field = np.where(mask, forward_field(chi, grid) + noise, 0).astype(np.float32)
    errors, kept = [], []
    for weight in (1e-3, 0.0):
        for other in ({}, {"edge_weight": 1.0}):
            found = invert(name, field, mask, grid, {**more(name), **other, "weight": weight}).chi_ppm
            errors.append(nrmse(found, chi, mask))
            kept.append(found[strong].mean())
    assert 0.3 - kept[0] < 0.85 * (0.3 - kept[1]), "with the same weight"
    assert errors[0] < errors[1]
    assert errors[2] < errors[3], "with the weight that each chooses"


def test_total_field_inversion_leaves_strong_sources_at_the_rim_to_the_local_field():
    grid = Grid((48, 52, 40), (1.0, 1.0, 1.0), (0.0, 0.2, 1.0))
    _, mask, chi, _ = head(grid, seed=2)
    depth = sum(np.roll(mask, s, a).astype(int) for a in range(3) for s in (-1, 1))
    rim = mask & (depth < 6) & (np.arange(grid.shape[1])[None, :, None] > 30)
    chi = np.where(rim, 0.3, chi).astype(np.float32)
    x, y, z = (np.indices(grid.shape) - 20.0) / 20
    true = forward_field(np.where(mask, chi - chi[mask].mean(), 0).astype(np.float32), grid)
    noise = np.random.default_rng(0).normal(0, 0.002, grid.shape)
    total = np.where(mask, true + 0.3 * z + 0.2 * (z**2 - (x**2 + y**2) / 2) + noise, 0).astype(np.float32)
    tfi = METHODS.get("background", "tfi")
    errors = []
    for settings in ({}, {"edge_weight": 1.0, "weight": 0.05}):
        local = tfi.load()(total, mask, grid, tfi.configure(settings)).field_ppm
        errors.append(nrmse(local, true, mask))
    assert errors[0] < 0.95 * errors[1]
