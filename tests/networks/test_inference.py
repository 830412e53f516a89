"""Running a network on a volume: what must not change the map, what is told, and what is refused."""

from __future__ import annotations

import itertools
import logging
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from network_cases import CONFIGS, NAMES, RANGES, card_of, head, lively, nrmse, write_all
from torch import nn

from qsmprep.core.device import is_out_of_memory
from qsmprep.core.grid import Grid
from qsmprep.core.methods import METHODS
from qsmprep.core.parameters import ConeNetParams, LoopNetParams
from qsmprep.errors import DataError, OutOfMemoryError, UsageError
from qsmprep.networks import plan
from qsmprep.networks.card import FOLDER, outside
from qsmprep.networks.conenet import REACH, SLAB
from qsmprep.networks.geometry import Geometry
from qsmprep.networks.inference import Frame, Runner, invert
from qsmprep.networks.tiles import Tiles
from qsmprep.networks.weights import load
from qsmprep.networks.zoo import ARCHITECTURES, SEGMENTERS, build

UNEVEN = Grid((30, 36, 27), (0.9, 1.1, 1.7), (0.15, -0.35, 0.9))
ORDERS = list(itertools.permutations(range(3)))
SHIPPED = sorted(path.stem for path in FOLDER.glob("*.json"))


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return str(write_all(tmp_path_factory.mktemp("weights")))


@pytest.fixture(scope="module")
def uneven():
    return head(UNEVEN)


def run(name, field, mask, grid, weights, device="cpu", **overrides):
    method = METHODS.get("inversion", name)
    return method.load()(field, mask, grid, method.configure({"weights": weights, **overrides}), device=device)


@pytest.mark.parametrize("name", NAMES)
class TestEveryNetwork:
    def test_odd_in_the_field(self, name, weights, uneven):
        field, mask, _ = uneven
        plus, minus = (run(name, sign * field, mask, UNEVEN, weights).chi_ppm for sign in (1, -1))
        assert np.array_equal(plus, -minus)
        assert not plus[~mask].any()
        assert plus.std() > 0
        once, back = (run(name, sign * field, mask, UNEVEN, weights, ensemble="none").chi_ppm for sign in (1, -1))
        assert np.abs(once + back).max() > 0.01 * plus.std(), "the network itself is not odd"

    def test_twice_the_field_gives_twice_the_map(self, name, weights, uneven):
        """But for rounding, which edges that are spared magnify in a few voxels."""
        field, mask, _ = uneven
        one = run(name, field, mask, UNEVEN, weights).chi_ppm
        for gain in (3.7, 1e-4):
            more = run(name, np.float32(gain) * field, mask, UNEVEN, weights).chi_ppm
            apart = np.abs(more / gain - one)[mask] / np.abs(one).max()
            assert np.quantile(apart, 0.99) < 2e-5
            assert apart.max() < 1e-3

    @pytest.mark.parametrize("order", ORDERS[1:])
    def test_order_of_the_axes_does_not_matter(self, name, weights, uneven, order):
        field, mask, _ = uneven
        expected = run(name, field, mask, UNEVEN, weights).chi_ppm
        shape, voxel, b0 = (tuple(part[a] for a in order) for part in (UNEVEN.shape, UNEVEN.voxel_mm, UNEVEN.b0_dir))
        moved = run(name, field.transpose(order), mask.transpose(order), Grid(shape, voxel, b0), weights).chi_ppm
        np.testing.assert_allclose(moved.transpose(np.argsort(order)), expected, atol=1e-5 * np.abs(expected).max())

    @pytest.mark.parametrize("shape", [(13, 9, 17), (1, 1, 1), (20, 22, 1), (3, 40, 2)])
    def test_any_matrix(self, name, weights, shape):
        field = np.random.default_rng(3).normal(0, 0.02, shape).astype(np.float32)
        mask = np.ones(shape, bool)
        result = run(name, field, mask, Grid(shape, (1.0, 1.0, 2.0), (0.1, 0.2, 0.97)), weights)
        assert result.chi_ppm.shape == shape
        assert result.chi_ppm.dtype == np.float32
        assert np.isfinite(result.chi_ppm).all()

    def test_what_lies_outside_the_mask_does_not_matter(self, name, weights, uneven):
        field, mask, _ = uneven
        other = np.where(mask, field, np.nan)
        wide = [np.pad(v, ((2, 5), (0, 3), (4, 1))) for v in (field, mask)]
        expected = run(name, field, mask, UNEVEN, weights).chi_ppm
        assert np.array_equal(run(name, other, mask, UNEVEN, weights).chi_ppm, expected)
        padded = run(name, *wide, UNEVEN.with_shape(wide[0].shape), weights).chi_ppm
        assert np.array_equal(padded[2:-5, :-3, 4:-1], expected)

    def test_tiles_give_the_same_map(self, name, weights):
        grid = Grid((70, 84, 66), (1.0, 1.0, 1.2), (0.1, 0.3, 0.95))
        field, mask, _ = head(grid, seed=2)
        whole = run(name, field, mask, grid, weights, ensemble="none")
        tiled = run(name, field, mask, grid, weights, ensemble="none", tile=64)
        assert whole.info["tiles"] == 1
        assert tiled.info["tiles"] >= 4
        difference = (tiled.chi_ppm - whole.chi_ppm)[mask]
        assert difference.any(), "the tiles were not used"
        assert difference.std() < 0.05 * whole.chi_ppm[mask].std()

    def test_no_field_no_map(self, name, weights, uneven):
        field, mask, _ = uneven
        for ensemble in ("odd", "none"):
            result = run(name, 0 * field, mask, UNEVEN, weights, ensemble=ensemble)
            assert not result.chi_ppm.any()
        constant = run(name, mask.astype(np.float32), mask, UNEVEN, weights).chi_ppm
        assert np.isfinite(constant).all()

    def test_empty_mask_and_bad_values(self, name, weights, uneven):
        field, mask, _ = uneven
        with pytest.raises(DataError, match="empty"):
            run(name, field, 0 * mask, UNEVEN, weights)
        spoilt = field.copy()
        spoilt[tuple(np.argwhere(mask)[0])] = np.nan
        with pytest.raises(DataError, match="non-finite"):
            run(name, spoilt, mask, UNEVEN, weights)
        with pytest.raises(DataError, match="shape"):
            run(name, field[:-1], mask, UNEVEN, weights)

    def test_what_is_told(self, name, weights, uneven):
        field, mask, _ = uneven
        result = run(name, field, mask, UNEVEN, weights)
        _, card = load(name, weights)
        assert result.info["network_weights"] == card.sha256[:12]
        assert result.info["trained_steps"] == 7
        assert result.info["outside_card"] == result.info["warnings"] == []
        assert result.info["device"] == "cpu"
        assert 0.003 <= result.info["consistency_weight"] <= 3.01
        assert result.iterations == CONFIGS[name].get("iterations", 1)
        assert result.converged

    @pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
    def test_cpu_and_gpu_agree(self, name, weights, uneven):
        field, mask, _ = uneven
        here, there = (run(name, field, mask, UNEVEN, weights, device=d).chi_ppm for d in ("cpu", "cuda"))
        np.testing.assert_allclose(there, here, atol=1e-3 * np.abs(here).max())


def test_the_frame_has_b0_along_its_last_axis():
    frame = Frame.of(Grid((5, 40, 33), (2.0, 1.0, 1.0), (0.9, -0.3, 0.2)), 16)
    assert frame.order == (2, 1, 0)
    assert frame.grid.shape == (64, 64, 32)
    assert np.all(np.diff(np.abs(frame.grid.b0_dir)) >= 0)
    assert frame.grid.voxel_mm == (1.0, 1.0, 2.0)
    assert all(b >= 8 and b + n + 8 <= f for b, n, f in zip(frame.begin, frame.inner, frame.grid.shape, strict=True))
    volume = torch.rand(5, 40, 33)
    assert torch.equal(frame.leave(frame.enter(volume)), volume)
    assert float(frame.enter(volume).sum()) == pytest.approx(float(volume.sum()), rel=1e-5)


def test_iterations_and_native_output(weights, uneven):
    field, mask, _ = uneven
    for name in ("loopnet", "conenet"):
        one, two, default = (run(name, field, mask, UNEVEN, weights, iterations=count) for count in (1, 2, 0))
        assert (one.iterations, two.iterations, default.iterations) == (1, 2, 2)
        assert np.array_equal(two.chi_ppm, default.chi_ppm)
        assert not np.array_equal(one.chi_ppm, two.chi_ppm)
    with pytest.raises(UsageError, match=r"conenet\.iterations` is 3"):
        run("conenet", field, mask, UNEVEN, weights, iterations=3)
    assert run("loopnet", field, mask, UNEVEN, weights, iterations=3).iterations == 3
    for name in ("loopnet", "metaqsm", "qsminvnet"):
        refined, native = (run(name, field, mask, UNEVEN, weights, consistency=c) for c in (True, False))
        space = Geometry(UNEVEN)
        misfit = [
            float(((space.field(torch.from_numpy(r.chi_ppm)) - torch.from_numpy(field))[mask]).norm())
            for r in (refined, native)
        ]
        assert misfit[0] < misfit[1], "data consistency explains more of the field"


def test_adaptation_to_a_subject(weights, uneven):
    field, mask, _ = uneven
    plain = run("qsminvnet", field, mask, UNEVEN, weights).chi_ppm
    other = run("qsminvnet", field, mask, UNEVEN, weights, domain="target").chi_ppm
    assert not np.allclose(plain, other, atol=1e-3 * plain.std())
    statistics = run("qsminvnet", field, mask, UNEVEN, weights, adapt="statistics")
    assert statistics.info["adapted_on_patches"] >= 2
    assert not np.allclose(statistics.chi_ppm, plain, atol=1e-3 * plain.std())
    physics = run("qsminvnet", field, mask, UNEVEN, weights, adapt="physics", adapt_steps=4)
    assert physics.info["adapt_loss_after"] < physics.info["adapt_loss_before"]
    for how in ("statistics", "physics"):
        both = [run("qsminvnet", s * field, mask, UNEVEN, weights, adapt=how, adapt_steps=2).chi_ppm for s in (1, -1)]
        assert np.array_equal(both[0], -both[1]), how
    again = run("qsminvnet", field, mask, UNEVEN, weights).chi_ppm
    assert np.array_equal(again, plain), "adaptation leaves nothing behind"


def test_only_qsminvnet_is_adapted(weights, uneven):
    field, mask, _ = uneven
    params = METHODS.get("inversion", "qsminvnet").configure({"weights": weights, "adapt": "statistics"})
    with pytest.raises(UsageError, match="not adapted"):
        invert("loopnet", field, mask, UNEVEN, params)


@pytest.mark.parametrize(
    ("grid", "noise", "told"),
    [
        (Grid((9, 9, 9), (1.0, 1.0, 1.0)), 0.002, []),
        (Grid((9, 9, 9), (0.5, 3.9, 0.5), (0.8, 0.6, 0.0)), 0.0001, []),
        (Grid((9, 9, 9), (1.3005, 1.3, 1.3)), 0.002, []),
        (Grid((9, 9, 9), (1.6, 1.0, 1.6)), 0.002, ["the in-plane voxel edge of 1.6 mm is outside"]),
        (Grid((9, 9, 9), (0.15, 1.0, 1.0)), 0.002, ["the in-plane voxel edge of 0.15 mm is far outside"]),
        (
            Grid((9, 9, 9), (1.0, 3.0, 9.0)),
            0.002,
            ["in-plane voxel edge of 3 mm is far outside", "longest voxel edge of 9 mm is far outside"],
        ),
        (Grid((9, 9, 9), (1.0, 1.0, 1.0)), 0.02, ["noise of the field, up to 0.02 ppm"]),
    ],
)
def test_outside_the_card(grid, noise, told):
    found = outside(card_of("loopnet"), grid, noise)
    assert len(found) == len(told)
    for sentence, part in zip(found, told, strict=True):
        assert part in sentence


def test_a_tilt_outside_the_card():
    card = card_of("loopnet")
    straight = {**card.ranges, "tilt_deg": (0.0, 10.0)}
    tilted = Grid((9, 9, 9), (1.0, 1.0, 1.0), (0.0, math.sin(0.5), math.cos(0.5)))
    assert outside(card, tilted, 0.001) == []
    narrow = type(card)(**{**card.__dict__, "ranges": straight})
    assert "tilt of 29 degrees" in outside(narrow, tilted, 0.001)[0]
    assert set(RANGES) == set(card.ranges)


def test_the_noise_that_is_told_is_that_of_voxels_that_are_trusted(weights, uneven):
    field, mask, _ = uneven
    rng = np.random.default_rng(0)
    bad = mask & (rng.random(mask.shape) < 0.1)
    share = np.where(bad, 0, 1).astype(np.float32)
    params = ConeNetParams(weights=str(weights))
    told = [
        invert("conenet", f.astype(np.float32), mask, UNEVEN, params, weights=share).info["noise_ppm"]
        for f in (field, field + bad * rng.normal(0, 300 * field[mask].std(), mask.shape))
    ]
    assert told[1] == pytest.approx(told[0], rel=0.01)


def test_data_outside_the_card_are_computed_and_told(weights, uneven, caplog):
    field, mask, _ = uneven
    grid = Grid(UNEVEN.shape, (3.0, 3.0, 6.0), UNEVEN.b0_dir)
    with caplog.at_level(logging.WARNING):
        result = run("loopnet", 10 * field, mask, grid, weights)
    assert result.chi_ppm.std() > 0
    assert len(result.info["outside_card"]) == 3
    assert all(text.startswith("Loopnet: the ") for text in result.info["warnings"])
    assert [record.getMessage() for record in caplog.records] == result.info["warnings"]


# --- tiles and memory ---------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(
    shape=st.tuples(*[st.integers(1, 7)] * 3),
    edge=st.tuples(*[st.integers(0, 6)] * 3) | st.integers(2, 6).map(lambda n: (n, n, n)),
    overlap=st.integers(0, 3),
    align=st.sampled_from([1, 2, 4]),
)
def test_tiles_cover_every_voxel_once(shape, edge, overlap, align):
    x, y, z = (align * max(n, overlap + 1) if n > 0 else 0 for n in edge)
    tiles = Tiles(x if x == y == z else (x, y, z), align * overlap, align)
    shape = tuple(align * n for n in shape)
    total = torch.zeros(shape)
    count = 0
    for where, share in tiles.places(shape):
        total[where] += share
        assert all(s.start % align == 0 and s.stop <= n for s, n in zip(where[1:], shape, strict=True))
        count += 1
    assert count == tiles.count(shape)
    torch.testing.assert_close(total, torch.ones(shape), atol=1e-5, rtol=0)
    volume, other = torch.rand(1, 2, *shape), torch.rand(1, 1, *shape)
    torch.testing.assert_close(tiles(lambda a, b, c: a + b + c, volume, other, 2.0), volume + other + 2.0)
    pair = tiles(lambda a: [a, 3 * a], volume)
    torch.testing.assert_close(pair[1], 3 * volume)


class Limited(nn.Module):
    """A layer that has memory for so many voxels only; the error is torch's own."""

    def __init__(self, layer: nn.Module, voxels: int) -> None:
        super().__init__()
        self.layer, self.voxels, self.sizes = layer, voxels, []

    def forward(self, volume: torch.Tensor) -> torch.Tensor:
        self.sizes.append(math.prod(volume.shape[2:]))
        if self.sizes[-1] > self.voxels:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return self.layer(volume)


def runner_of(name, share, params):
    """A network that has memory for that share of the volume, and its limited layer."""
    network = lively(name)
    shape = (96, 96, 64) if name == "loopnet" else (48, 48, 40)
    voxels = share * math.prod(shape) // 8
    if name == "loopnet":
        limited = network.encoder[0].conv1 = Limited(network.encoder[0].conv1, voxels)
    else:
        limited = network.entry = Limited(network.entry, voxels)
    grid = Grid(shape, (1.0, 1.0, 1.0), (0.1, 0.2, 0.97))
    field, mask, _ = (torch.from_numpy(v).float()[None, None] for v in head(grid))
    return Runner(network, field / field.std(), mask, None, Geometry(grid), params), limited


@pytest.mark.parametrize(("name", "params"), [("loopnet", LoopNetParams()), ("conenet", ConeNetParams())])
@torch.no_grad()
def test_smaller_tiles_when_memory_runs_out(name, params):
    whole, count = runner_of(name, 1.0, params)[0].run()
    assert count == 1
    runner, limited = runner_of(name, 0.6, params)
    tiled, count = runner.run()
    assert count > 1
    assert limited.sizes[0] > limited.voxels >= limited.sizes[-1]
    inside = runner.mask > 0
    assert (tiled - whole)[inside].std() < 0.05 * whole[inside].std()


@torch.no_grad()
def test_no_memory_at_all():
    runner, limited = runner_of("loopnet", 0.0, LoopNetParams())
    with pytest.raises(OutOfMemoryError, match="smallest tiles") as caught:
        runner.run()
    assert caught.value.exit_code == 75
    assert caught.value.remedy
    assert len(limited.sizes) > 1


@torch.no_grad()
def test_other_errors_are_not_taken_for_lack_of_memory():
    runner, _ = runner_of("loopnet", 1.0, LoopNetParams())
    runner.network.encoder[0].conv1 = nn.Conv3d(3, 4, 3)
    with pytest.raises(RuntimeError, match="channels"):
        runner.run()


def test_what_lack_of_memory_looks_like():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**50)
    assert is_out_of_memory(caught.value)
    assert is_out_of_memory(MemoryError())
    assert not is_out_of_memory(RuntimeError("size mismatch"))
    assert not is_out_of_memory(ValueError("out of memory"))


def test_tiles_are_planned_by_memory(monkeypatch):
    network, device = lively("loopnet"), torch.device("cpu")
    shape = (128, 128, 96)
    assert plan.plan_tiles(network, shape, 0, device).count(shape) == 1
    monkeypatch.setattr(plan, "free_bytes", lambda device: 3.2e9)
    tiles = plan.plan_tiles(network, shape, 0, device)
    assert tiles.count(shape) > 1
    assert all(edge % 16 == 0 for edge in tiles.edges(shape))
    assert math.prod(tiles.edges(shape)) * plan.working_bytes(network) < 3.2e9
    monkeypatch.setattr(plan, "free_bytes", lambda device: 0.0)
    least = plan.plan_tiles(network, shape, 0, device)
    assert plan.smaller(network, least, shape) is None
    assert plan.plan_tiles(network, shape, 1, device).edges(shape) == least.edges(shape)


@pytest.mark.parametrize("shape", [(176, 224, 128), (256, 256, 128), (64, 320, 48), (96, 96, 96)])
@pytest.mark.parametrize("room", [0.95, 0.5, 0.2])
def test_tiles_take_little_more_work_than_the_whole(monkeypatch, shape, room):
    """Memory for a part of a volume: tiles that fit, cut where it costs least, and no more than cubes would."""
    network = lively("loopnet")
    voxels, need = math.prod(shape), plan.working_bytes(network)
    physics = plan.PHYSICS_BYTES * network.shuffle**3
    monkeypatch.setattr(plan, "free_bytes", lambda device: (need * room + physics) * voxels / plan.SHARE)
    tiles = plan.plan_tiles(network, shape, 0, torch.device("cpu"))
    assert math.prod(tiles.edges(shape)) <= room * voxels * (1 + 1e-9)
    work = tiles.count(shape) * math.prod(tiles.edges(shape))
    cube = Tiles(int((room * voxels) ** (1 / 3)) // 16 * 16, tiles.overlap, tiles.align)
    assert work <= cube.count(shape) * math.prod(cube.edges(shape))
    assert work < {0.95: 1.35, 0.5: 1.6, 0.2: 2.6}[room] * voxels


@pytest.mark.parametrize("name", [one.name for one in ARCHITECTURES])
def test_memory_of_every_network_is_known(name):
    widths = [{"filters": [n, 2 * n, 2 * n]} if name in ("pedqnet", "nnunet") else {"base": n} for n in (4, 8)]
    narrow, wide = (plan.working_bytes(build(name, config)) for config in widths)
    assert 0 < 2 * narrow == wide


def test_memory_of_the_stage_on_the_full_grid_is_counted():
    """By its channels and the voxels of its largest slab; a network without it needs none."""
    bare, thin, thick = (build("conenet", {"base": 4, "fine": fine}) for fine in (0, 4, 8))
    small, long, wide = (10, 10, 10), (64, 64, 5000), (600, 600, 700)
    assert plan.working_bytes(bare) == plan.working_bytes(thin)
    assert plan.fine_bytes(bare, small) == 0
    assert plan.fine_bytes(thick, small) == 2 * plan.fine_bytes(thin, small) == 2 * plan.FINE_BYTES * 4 * 8 * 1000
    of_a_slab = plan.FINE_BYTES * 4 * SLAB
    assert 0.9 * of_a_slab < plan.fine_bytes(thin, long) <= of_a_slab
    margin = -(-REACH // 2)  # of layers so large that a slab is mostly margins
    assert plan.fine_bytes(thin, wide) == plan.FINE_BYTES * 4 * 8 * 600 * 600 * 4 * margin > of_a_slab


def test_tiles_leave_room_for_the_stage_on_the_full_grid(monkeypatch):
    """With just enough for everything else, the whole volume does not fit."""
    shape, device = (64, 64, 64), torch.device("cpu")
    counts = []
    for fine in (0, 8):
        network = build("conenet", {"base": 8, "fine": fine})
        need = (plan.working_bytes(network) + 8 * plan.PHYSICS_BYTES) * math.prod(shape)
        monkeypatch.setattr(plan, "free_bytes", lambda device, need=need: 1.001 * need / plan.SHARE)
        counts.append(plan.plan_tiles(network, shape, 0, device).count(shape))
    assert counts[0] == 1 < counts[1]


# --- what is shipped ----------------------------------------------------------------------------


@pytest.mark.skipif(not SHIPPED, reason="no weights are shipped")
@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_weights(name):
    """They load, fit their card, and beat the crudest inversion on a head they never saw."""
    network, card = load(name)
    assert (FOLDER / f"{name}.safetensors").stat().st_size <= 16 * 1024**2
    assert card.parameters == sum(p.numel() for p in network.parameters())
    assert card.steps > 0
    assert card.training["command"]
    assert card.limits
    if name in [one.name for one in SEGMENTERS]:
        return  # what they find is judged in tests/pipeline/test_pediatric.py
    grid = Grid((56, 60, 48), (1.0, 1.0, 1.3), (0.1, -0.2, 0.97))
    field, mask, chi = head(grid, seed=11, noise_ppm=0.003)
    result = invert(name, field, mask, grid, LoopNetParams())
    tkd = METHODS.get("inversion", "tkd")
    assert nrmse(result.chi_ppm, chi, mask) < nrmse(tkd.load()(field, mask, grid, tkd.configure()).chi_ppm, chi, mask)
