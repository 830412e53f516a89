"""The networks are built as their papers say, and what is special to each of them does something."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import nn
from torch.nn import functional

from qsmprep.core.grid import Grid
from qsmprep.core.inversion.dataconsistency import data_consistency
from qsmprep.core.inversion.problem import FULL_PAD
from qsmprep.errors import UsageError
from qsmprep.networks import conenet
from qsmprep.networks.base import QSMNetwork, to_depth, to_space
from qsmprep.networks.conenet import ConeNet, contrast
from qsmprep.networks.geometry import Geometry, field_scale, noise_ratio
from qsmprep.networks.ghpa import GHPA, DepthwiseConv, PlaneAttention
from qsmprep.networks.invnet import DomainBatchNorm
from qsmprep.networks.loopnet import LoopBatchNorm, LoopNet
from qsmprep.networks.metaqsm import MetaQSM, WPConv
from qsmprep.networks.zoo import ARCHITECTURES, build

NAMES = [one.name for one in ARCHITECTURES]
SMALL: dict[str, dict[str, object]] = {
    name: {"filters": [4, 6, 8, 8]} if name in ("pedqnet", "nnunet") else {"base": 4} for name in NAMES
}
TILTED = (math.sin(0.3), 0.0, math.cos(0.3))


def geometry_of(shape=(16, 16, 16), voxel_mm=(1.0, 1.0, 1.0), b0_dir=(0.0, 0.0, 1.0), pad=1.5) -> Geometry:
    return Geometry(Grid(shape, voxel_mm, b0_dir), pad)


def ball(shape, radius=0.9) -> torch.Tensor:
    axes = [torch.linspace(-1, 1, n) for n in shape]
    x, y, z = torch.meshgrid(*axes, indexing="ij")
    return (x.square() + y.square() + z.square() < radius**2).float()[None, None]


def case(shape=(16, 16, 16), seed=0, batch=1) -> tuple[torch.Tensor, torch.Tensor]:
    """A field of unit spread and its mask."""
    mask = ball(shape).expand(batch, -1, -1, -1, -1)
    return torch.randn((batch, 1, *shape), generator=torch.Generator().manual_seed(seed)) * mask, mask


def small(name: str, **config: object) -> QSMNetwork:
    torch.manual_seed(0)
    network = build(name, {**SMALL[name], **config}).eval()
    with torch.no_grad():
        network.head.weight.normal_(std=0.3) if hasattr(network.head, "weight") else None
    return network


def kinds_of(network: nn.Module) -> Counter[type]:
    """Modules by type, those inside GHPA not counted."""
    within = {inner for module in network.modules() if isinstance(module, GHPA) for inner in module.modules()}
    within -= {module for module in network.modules() if isinstance(module, GHPA)}
    return Counter(type(module) for module in network.modules() if module not in within)


def calls_of(monkeypatch, target, name, condition=lambda *args, **kwargs: True) -> list[None]:
    """A list that grows with every call of a function."""
    made: list[None] = []
    original = getattr(target, name)

    def counted(*args, **kwargs):
        if condition(*args, **kwargs):
            made.append(None)
        return original(*args, **kwargs)

    monkeypatch.setattr(target, name, counted)
    return made


def learned(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


@pytest.mark.parametrize("name", NAMES)
def test_every_network_maps_a_field_to_susceptibility(name):
    network = small(name)
    field, mask = case(batch=2)
    with torch.no_grad():
        outputs = network(field, mask, geometry_of())
    for chi in outputs:
        assert chi.shape == field.shape
        assert chi.dtype == torch.float32
        assert torch.isfinite(chi).all()
        assert not (chi * (1 - mask)).any()
    assert outputs[-1].abs().sum() > 0


@pytest.mark.parametrize("name", NAMES)
def test_lengths_need_only_be_multiples_of_the_stride(name):
    network = small(name, shuffle=2)
    shape = (network.stride, 2 * network.stride, network.stride)
    field, mask = case(shape)
    with torch.no_grad():
        assert network(field, mask, geometry_of(shape))[-1].shape == field.shape


def test_unknown_networks_and_settings_are_refused():
    with pytest.raises(UsageError, match="no network is called 'unknown'"):
        build("unknown")
    with pytest.raises(UsageError, match="has no setting width"):
        build("loopnet", {"width": 3})
    with pytest.raises(UsageError, match="has no setting iterations"):
        build("unet", {"iterations": 2})  # fixed: that makes it the U-Net


def test_space_to_depth_and_back():
    volume = torch.randn(2, 3, 8, 4, 6)
    deep = to_depth(volume, 2)
    assert deep.shape == (2, 24, 4, 2, 3)
    assert torch.equal(deep[0, 8:16, 1, 0, 2], volume[0, 1, 2:4, 0:2, 4:6].flatten())
    assert torch.equal(to_space(deep, 2), volume)


# LoopNet


def test_loopnet_has_the_layers_of_the_paper():
    network = LoopNet()
    kinds = kinds_of(network)
    assert kinds[nn.Conv3d] == 19
    assert kinds[LoopBatchNorm] == 18
    assert kinds[nn.ConvTranspose3d] == 4
    assert kinds[GHPA] == 8
    convolutions = [m for m in network.modules() if isinstance(m, nn.Conv3d) and not m.groups > 1]
    assert network.head in convolutions
    assert network.head.kernel_size == (1, 1, 1)
    blocks = [*network.encoder, network.middle, *network.decoder]
    assert all(conv.kernel_size == (3, 3, 3) for block in blocks for conv in (block.conv1, block.conv2))


def test_loopnet_pools_and_concatenates_in_every_pass(monkeypatch):
    network = small("loopnet")
    pools = calls_of(monkeypatch, functional, "max_pool3d")
    joins = calls_of(monkeypatch, torch, "cat", lambda volumes, dim=0: len(volumes) == 2)
    entry = torch.randn(1, 4, 16, 16, 16)
    returned = [torch.zeros(1, width, 16 >> i, 16 >> i, 16 >> i) for i, width in enumerate(network.handed)]
    with torch.no_grad():
        network.cycle(entry, returned, 0)
    assert len(pools) == 4
    assert len(joins) == 4 + 4  # forward, reverse


def test_the_unet_is_loopnet_without_loop_and_attention(monkeypatch):
    network = small("unet")
    kinds = kinds_of(network)
    assert (kinds[nn.Conv3d], kinds[LoopBatchNorm], kinds[nn.ConvTranspose3d], kinds[GHPA]) == (19, 18, 4, 0)
    joins = calls_of(monkeypatch, torch, "cat", lambda volumes, dim=0: len(volumes) == 2)
    with torch.no_grad():
        outputs = network.convolve(torch.randn(1, 4, 16, 16, 16))
    assert len(outputs) == 1
    assert len(joins) == 4


def test_loopnet_shares_its_weights_over_the_iterations():
    counts = [learned(LoopNet(base=4, iterations=count)) for count in (1, 2, 4)]
    assert len(set(counts)) == 1
    statistics = {n: b.shape[0] for n, b in LoopNet(base=4, iterations=4).named_buffers()}
    assert statistics
    assert set(statistics.values()) == {4}


def test_loopnet_iterates_as_often_as_it_is_told_at_run_time():
    network = small("loopnet", iterations=2)
    field, mask = case()
    with torch.no_grad():
        two, five = (network(field, mask, geometry_of(), iterations=n) for n in (0, 5))
    assert (len(two), len(five)) == (2 + 1, 5 + 1)
    assert torch.equal(two[0], five[0])
    assert torch.equal(two[1], five[1])
    assert not torch.allclose(five[3], five[4])


def test_reverse_connections_change_the_second_pass():
    network = small("loopnet")
    entry = torch.randn(1, 4, 16, 16, 16)
    nothing = [torch.zeros(1, width, 16 >> i, 16 >> i, 16 >> i) for i, width in enumerate(network.handed)]
    with torch.no_grad():
        first, handed = network.cycle(entry, nothing, 0)
        second, _ = network.cycle(entry, handed, 1)
        without, _ = network.cycle(entry, nothing, 1)
        assert [h.shape for h in handed] == [n.shape for n in nothing]
        assert torch.equal(first, without)  # untrained statistics are the same in both iterations
        assert (second - without).abs().max() > 1e-3 * without.abs().max()
        for level in range(4):  # each of the four
            one = [h if i == level else n for i, (h, n) in enumerate(zip(handed, nothing, strict=True))]
            assert not torch.equal(network.cycle(entry, one, 1)[0], without)


def test_every_iteration_keeps_its_own_statistics():
    norm = LoopBatchNorm(2, 2).train()
    norm(torch.randn(4, 2, 4, 4, 4) + 5, 1)
    assert norm.running_mean[0].abs().max() == 0
    assert norm.running_mean[1].min() > 0.3
    norm.eval()
    volume = torch.randn(1, 2, 4, 4, 4)
    assert torch.equal(norm(volume, 1), norm(volume, 7))  # beyond the last: the last
    assert not torch.allclose(norm(volume, 0), norm(volume, 1))


@pytest.mark.parametrize("along", [0, 1, 2])
def test_an_attention_plane_is_constant_along_its_axis(along):
    torch.manual_seed(0)
    attention = PlaneAttention(2, along)
    nn.init.normal_(attention.plane)
    with torch.no_grad():
        gain = attention(torch.ones(1, 2, 6, 7, 8))
    assert gain.shape == (1, 2, 6, 7, 8)
    spread = [float(gain.std(dim=2 + axis).max()) for axis in range(3)]
    assert spread[along] < 1e-6
    assert min(spread[axis] for axis in range(3) if axis != along) > 1e-4


def test_ghpa_covers_all_three_planes_and_adds_to_its_input():
    torch.manual_seed(0)
    attention = GHPA(8)
    assert sorted(plane.along for plane in attention.planes) == [0, 1, 2]
    volume = torch.randn(1, 8, 5, 6, 7)
    bare = GHPA(8, residual=False)
    bare.load_state_dict(attention.state_dict())
    with torch.no_grad():
        assert torch.allclose(attention(volume), volume + bare(volume))
        assert bare(volume).abs().max() > 0


@pytest.mark.parametrize("residual", [True, False])
def test_ghpa_is_the_same_without_gradients_and_leaves_its_input(residual):
    """Without them it works in place, which must neither reach its input nor change what it gives."""
    torch.manual_seed(0)
    attention = GHPA(8, residual=residual)
    with torch.no_grad():
        for parameter in attention.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    volume = torch.randn(2, 8, 5, 6, 7)
    kept = volume.clone()
    trained = attention(volume).detach()
    with torch.no_grad():
        run = attention(volume)
    assert torch.equal(volume, kept)
    assert (run - trained).abs().max() <= 1e-5 * trained.abs().max()


# Meta-QSM


def predicted_weights(network: MetaQSM, geometry: Geometry) -> torch.Tensor:
    with torch.no_grad():
        return torch.cat([kernel.flatten() for kernel, _ in network.predict(geometry).values()])


def test_all_convolutions_of_metaqsm_are_predicted():
    network = MetaQSM()
    kinds = kinds_of(network)
    assert kinds[nn.Conv3d] == 0
    assert kinds[WPConv] == len(network.predict(geometry_of())) == 8
    shapes = [tuple(kernel.shape[2:]) for kernel, _ in network.predict(geometry_of()).values()]
    assert set(shapes) == {(3, 3, 3)}


@pytest.mark.parametrize("basis", [1, 4])
def test_a_predicted_kernel_is_made_of_basis_kernels(basis):
    conv = WPConv((3, 5), 3, 9, basis)
    assert learned(conv.kernel) == (basis + 1) * 5 * 3 * 27
    assert learned(conv.bias) == (basis + 1) * 5


def test_predicted_weights_follow_voxel_size_and_direction():
    network = small("metaqsm")
    here = predicted_weights(network, geometry_of())
    size = here.abs().max()
    assert torch.equal(here, predicted_weights(network, geometry_of()))
    assert (here - predicted_weights(network, geometry_of(voxel_mm=(0.5, 0.5, 2.0)))).abs().max() > 1e-3 * size
    tilted = predicted_weights(network, geometry_of(b0_dir=TILTED))
    assert (here - tilted).abs().max() > 1e-3 * size
    flipped = tuple(-b for b in TILTED)
    assert torch.equal(tilted, predicted_weights(network, geometry_of(b0_dir=flipped)))  # B0 has no sign


def test_direction_is_an_option_of_metaqsm():
    network = small("metaqsm", direction=False)
    assert torch.equal(
        predicted_weights(network, geometry_of()), predicted_weights(network, geometry_of(b0_dir=TILTED))
    )
    other = predicted_weights(network, geometry_of(voxel_mm=(0.5, 0.5, 2.0)))
    assert not torch.equal(predicted_weights(network, geometry_of()), other)


def test_weights_predicted_once_serve_many_calls(monkeypatch):
    network = small("metaqsm")
    field, mask = case()
    geometry = geometry_of(voxel_mm=(0.8, 0.8, 1.6))
    with torch.no_grad():
        anew = network(field, mask, geometry)
        once = network.predict(geometry)
        calls = calls_of(monkeypatch, WPConv, "predict")
        kept = network(field, mask, geometry, predicted=once)
        assert not calls
        assert all(torch.equal(a, b) for a, b in zip(anew, kept, strict=True))


@pytest.mark.parametrize(("name", "follows"), [("metaqsm", True), ("mesaqsm", False)])
def test_only_the_meta_network_follows_the_voxel_size(name, follows):
    network = small(name, inputs="field")  # the physics channels would carry it into any network
    field, mask = case()
    with torch.no_grad():
        one, other = (network(field, mask, geometry_of(voxel_mm=v))[0] for v in ((1, 1, 1), (0.5, 0.5, 2)))
    assert torch.equal(one, other) != follows


# QSMInvNet+


def test_qsminvnet_has_the_layers_of_the_paper(monkeypatch):
    network = small("qsminvnet")
    kinds = kinds_of(network)
    assert kinds[DomainBatchNorm] == 9
    assert kinds[nn.BatchNorm3d] == 9 * 2
    kernels = [m.kernel_size for m in network.modules() if isinstance(m, nn.Conv3d)]
    assert sorted(kernels) == [(1, 1, 1)] + 9 * [(3, 3, 3)]
    assert network.head.kernel_size == (1, 1, 1)
    pools = calls_of(monkeypatch, functional, "max_pool3d")
    ups = calls_of(monkeypatch, functional, "interpolate", lambda *a, **k: k.get("mode") == "nearest")
    joins = calls_of(monkeypatch, torch, "cat")
    activations = calls_of(monkeypatch, functional, "relu")
    with torch.no_grad():
        network.convolve(torch.randn(1, 4, 16, 16, 16))
    assert (len(pools), len(ups), len(joins), len(activations)) == (4, 4, 4, 9)
    assert kinds_of(small("qsminvnet1"))[nn.BatchNorm3d] == 9


def test_domains_keep_their_statistics_apart():
    network = small("qsminvnet").train()
    entry = torch.randn(2, 4, 16, 16, 16) * 3 + 1

    def statistics(domain):
        norms = [m.norms[domain] for m in network.modules() if isinstance(m, DomainBatchNorm)]
        return torch.cat([torch.cat([n.running_mean, n.running_var]) for n in norms])

    before = statistics(0), statistics(1)
    with torch.no_grad():
        network.convolve(entry, domain=0)
    assert not torch.equal(statistics(0), before[0])
    assert torch.equal(statistics(1), before[1])
    with torch.no_grad():
        network.convolve(entry, domain=1)
        network.eval()
        alike = [network.convolve(entry, domain=d)[0] for d in (0, 1)]
        network.train().convolve(5 * entry, domain=1)
        network.eval()
        apart = [network.convolve(entry, domain=d)[0] for d in (0, 1)]
    assert torch.equal(alike[0], alike[1])
    assert not torch.allclose(apart[0], apart[1])
    assert torch.equal(alike[0], apart[0])


def test_the_target_domain_is_the_default():
    network = small("qsminvnet")
    for module in network.modules():
        if isinstance(module, DomainBatchNorm):
            nn.init.constant_(module.norms[1].bias, 0.5)
    field, mask = case()
    with torch.no_grad():
        default, synthetic, target = (
            network(field, mask, geometry_of(), **o)[0] for o in ({}, {"domain": 0}, {"domain": 1})
        )
    assert torch.equal(default, target)
    assert not torch.equal(default, synthetic)


# ConeNet


def entering(network: ConeNet) -> int:
    """Channels that a step is given beside the features of the step before."""
    return network.entry.in_channels - network.head.in_channels


def trust_data(network: QSMNetwork, log_weight: float) -> None:
    with torch.no_grad():
        network.consistency.slope.zero_()
        network.consistency.offset.fill_(log_weight)


def test_conenet_is_consistent_with_the_data():
    network = small("conenet")
    field, mask = case((32, 32, 32))
    geometry = geometry_of((32, 32, 32))
    field = geometry.field(field) * mask

    def misfit(log_weight: float) -> float:
        trust_data(network, log_weight)
        with torch.no_grad():
            chi = network(field, mask, geometry)[-1]
        return float(((geometry.field(chi) - field) * mask).norm() / field.norm())

    assert misfit(-5.8) < 0.5 * misfit(1.1)


def test_conenet_iterates_as_often_as_it_is_told():
    network = small("conenet", iterations=2)
    field, mask = case()
    with torch.no_grad():
        two, four = (network(field, mask, geometry_of(), iterations=n) for n in (0, 4))
    assert (len(two), len(four)) == (2, 4)
    assert all(torch.equal(a, b) for a, b in zip(two, four[:2], strict=True))
    assert not torch.allclose(four[2], four[3])
    assert learned(small("conenet", iterations=1)) == learned(small("conenet", iterations=5))


def test_the_geometry_shapes_the_layers_of_conenet():
    network = small("conenet")
    for name, parameter in network.named_parameters():
        if "modulation.weight" in name:
            nn.init.normal_(parameter, std=0.2)
    entry = torch.randn(1, entering(network), 8, 8, 8)
    sides = [torch.cat([geometry_of(voxel_mm=v, b0_dir=b).side(), torch.tensor([-1.0, 0.0])])[None]
             for v, b in (((1, 1, 1), (0, 0, 1)), ((0.5, 0.5, 2), (0, 0, 1)), ((1, 1, 1), TILTED))]  # fmt: skip
    with torch.no_grad():
        plain, thick, tilted = (network.step(entry, None, network.embed(side)) for side in sides)
    for other in (thick, tilted):
        assert (other - plain).abs().max() > 1e-3 * plain.abs().max()


def test_conenet_hands_its_features_to_the_next_step():
    network = small("conenet")
    entry, code = torch.randn(1, entering(network), 8, 8, 8), torch.zeros(1, 32)
    with torch.no_grad():
        first = network.step(entry, None, code)
        features = first[:, : network.head.in_channels]
        assert not torch.allclose(network.step(entry, features, code), first)
        assert torch.equal(network.step(entry, torch.zeros_like(features), code), first)
    given, made = [], []

    def watched(step, entry, features, code):
        given.append(features)
        made.append(step(entry, features, code))
        return made[-1]

    field, mask = case()
    with torch.no_grad():
        network(field, mask, geometry_of(), iterations=3, over=watched)
    assert given[0] is None
    assert torch.equal(given[1], made[0][:, : network.head.in_channels])
    assert torch.equal(given[2], made[1][:, : network.head.in_channels])


def separating() -> tuple[QSMNetwork, QSMNetwork]:
    """A ConeNet, and one with the same weights that also separates."""
    plain, network = small("conenet", iterations=2), small("conenet", iterations=2, separate=True)
    given = network.load_state_dict(plain.state_dict(), strict=False)
    assert (given.missing_keys, given.unexpected_keys) == (["leftover.weight", "leftover.bias"], [])
    return plain, network


def test_a_separating_conenet_starts_out_as_one_that_does_not():
    plain, network = separating()
    field, mask = case()
    with torch.no_grad():
        expected, found = plain(field, mask, geometry_of()), network(field, mask, geometry_of())
        assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))
        network.leftover.weight.normal_(std=0.1)
        for a, b in zip(expected, network(field, mask, geometry_of()), strict=True):
            assert (a - b).abs().max() > 1e-3 * a.abs().max()


def test_a_separating_conenet_learns_from_the_start():
    _, network = separating()
    field, mask = case()
    network(field, mask, geometry_of())[-1].square().mean().backward()
    assert network.leftover.weight.grad.abs().max() > 0
    assert network.leftover.bias.grad.abs().max() > 0


def test_what_is_separated_is_not_inverted():
    """Every step takes its part off the field that the data consistency and the next step are given."""
    _, network = separating()
    field, mask = case()
    consistent, entered = [], []
    network.consistency.register_forward_pre_hook(lambda module, given: consistent.append(given[1]))

    def watched(step, entry, features, code):
        entered.append(to_space(entry, network.shuffle)[:, :1])
        return step(entry, features, code)

    with torch.no_grad():
        network.leftover.bias.fill_(0.25)
        network(field, mask, geometry_of(), over=watched)
    for given, times in ((consistent, (1, 2)), (entered, (0, 1))):
        for one, n in zip(given, times, strict=True):
            torch.testing.assert_close(one, field - 0.25 * n * mask)


@pytest.mark.parametrize("shuffle", [1, 2])
@pytest.mark.parametrize("shape", [(12, 40, 16), (44, 12, 12)])
def test_a_fine_stage_in_slabs_gives_the_same(monkeypatch, shuffle, shape):
    network = small("conenet", separate=True, shuffle=shuffle, fine=4)
    torch.manual_seed(1)
    with torch.no_grad():
        network.fine.head.weight.normal_()
        entry = torch.randn(2, network.fine.entry.in_channels * shuffle**3, *shape)
        features, code = torch.randn(2, network.fine.lower.in_channels, *shape), torch.randn(2, 32)
        whole = network.fine(entry, features, code)
        monkeypatch.setattr(conenet, "SLAB", math.prod(shape) * shuffle**3 // 2)
        assert len(network.fine.slabs(entry.shape[2:])) > 1
        torch.testing.assert_close(network.fine(entry, features, code), whole, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shuffle", [1, 2])
def test_a_fine_stage_starts_out_as_none_learns_and_sees_single_voxels(shuffle):
    plain = small("conenet", separate=True, shuffle=shuffle)
    network = small("conenet", separate=True, shuffle=shuffle, fine=4)
    given = network.load_state_dict(plain.state_dict(), strict=False)
    assert given.unexpected_keys == []
    assert {key.split(".")[0] for key in given.missing_keys} == {"fine"}
    field, mask = case()
    with torch.no_grad():
        expected, found = plain(field, mask, geometry_of()), network(field, mask, geometry_of())
    assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))
    network(field, mask, geometry_of())[-1].square().mean().backward()
    assert network.fine.head.weight.grad.abs().amax(dim=(1, 2, 3, 4)).min() > 0  # of the map and of the leftover

    with torch.no_grad():
        network.fine.head.weight.normal_(std=0.1)
        changed = network(field, mask, geometry_of())
        entry = torch.zeros(1, network.fine.entry.in_channels * shuffle**3, *(n // shuffle for n in field.shape[2:]))
        features, code = torch.zeros(1, network.head.in_channels, *entry.shape[2:]), torch.zeros(1, 32)
        one = to_space(entry, shuffle).clone()
        one[0, 0, 5, 6, 7] = 1.0
        answer = to_space(network.fine(to_depth(one, shuffle), features, code), shuffle)
        answer = answer - to_space(network.fine(entry, features, code), shuffle)
    assert all((a - b).abs().max() > 1e-3 * a.abs().max() for a, b in zip(expected, changed, strict=True))
    near = answer[0, :, 4:7, 5:8, 6:9].abs()
    assert near.min() > 0
    assert answer[0, :, 11:].abs().max() == 0  # five convolutions of three voxels reach no further


def test_a_guided_conenet_sees_the_contrast_of_the_magnitude():
    network = small("conenet", guided=True)
    nn.init.normal_(network.head.weight, std=0.1)
    field, mask = case()
    geometry = geometry_of()
    generator = torch.Generator().manual_seed(5)
    image = 1 + 0.3 * torch.rand(field.shape, generator=generator)
    with torch.no_grad():
        blind, flat, seen, scaled = (
            network(field, mask, geometry, magnitude=one)[-1]
            for one in (None, torch.full_like(field, 700.0), image, 700 * image)
        )
    change = (seen - blind).abs().max()
    assert change > 3e-4 * blind.abs().max()
    assert (flat - blind).abs().max() < 0.05 * change
    assert (scaled - seen).abs().max() < 0.05 * change


def test_the_contrast_of_a_magnitude_knows_neither_shade_nor_what_lies_outside():
    grid = Grid((40, 36, 32), (3.0, 3.6, 4.5))
    geometry, mask = Geometry(grid), ball(grid.shape)
    where = torch.linspace(-1, 1, 40).view(1, 1, 40, 1, 1)
    image = torch.ones(1, 1, *grid.shape)
    image[..., 19:21, 17:19, 15:17] = 0.5
    plain = contrast(image, mask, geometry)
    assert plain[mask == 0].abs().max() == 0
    assert float(plain[..., 20, 18, 16]) == pytest.approx(-0.5, abs=0.1)
    assert plain[..., 5:15, :, :].abs().max() < 0.1
    shaded = contrast(image * (1 + 0.3 * where), mask, geometry)
    inner = ball(grid.shape, 0.5) > 0
    assert (shaded - plain)[inner].abs().max() < 0.03
    outside = torch.where(mask > 0, image, torch.full_like(image, torch.nan))
    assert torch.equal(contrast(outside, mask, geometry), plain)


def test_depthwise_convolutions_are_grouped_ones():
    conv = DepthwiseConv(6)
    volume = torch.randn(2, 6, 5, 7, 4, generator=torch.Generator().manual_seed(0))
    made = conv(volume)
    grouped = functional.conv3d(volume, conv.weight, conv.bias, padding=1, groups=6)
    assert torch.allclose(made, grouped, atol=1e-5)
    for one, other in zip(*(torch.autograd.grad(v.square().sum(), conv.weight) for v in (made, grouped)), strict=True):
        assert torch.allclose(one, other, rtol=1e-4, atol=1e-4)
    with torch.no_grad():
        assert torch.allclose(conv(volume), grouped, atol=1e-5)


# Geometry


def test_blurring_is_that_of_a_gaussian_in_mm():
    grid = Grid((30, 26, 22), (1.0, 1.5, 2.0))
    volume = torch.zeros(1, 1, *grid.shape)
    volume[0, 0, 14, 12, 10] = 1.0
    ours = Geometry(grid, 2.0).blur(volume, 3.0)[0, 0].numpy()
    theirs = ndimage.gaussian_filter(volume[0, 0].numpy(), [3.0, 2.0, 1.5], mode="constant", truncate=6.0)
    assert np.abs(ours - theirs).max() < 0.01 * theirs.max()


@pytest.mark.parametrize(("voxel_mm", "b0_dir"), [((1, 1, 1), (0, 0, 1)), ((0.7, 0.8, 2.5), TILTED)])
@pytest.mark.parametrize("weight", [0.003, 0.1])
def test_closed_forms_are_those_of_the_core(voxel_mm, b0_dir, weight):
    grid = Grid((20, 18, 16), voxel_mm, b0_dir)
    field, mask = case(grid.shape)
    chi = torch.randn(field.shape, generator=torch.Generator().manual_seed(3)) * mask
    geometry = Geometry(grid, FULL_PAD)
    arrays = [one[0, 0].numpy() for one in (chi, field, mask)]
    inside = arrays[2] > 0
    core = data_consistency(np.zeros_like(arrays[0]), arrays[1], inside, grid, weight)
    ours = (geometry.closed_form(field, weight) * mask)[0, 0].numpy()
    # the core cuts to the mask's box before it pads: the copies of the sources lie elsewhere
    assert np.linalg.norm(ours - core) < 0.02 * np.linalg.norm(core)
    core = data_consistency(arrays[0], arrays[1], inside, grid, weight, fill_outside=True)
    ours = (geometry.consistent(chi, field, mask, weight) * mask)[0, 0].numpy()
    assert np.linalg.norm(ours - core) < 0.02 * np.linalg.norm(core)


def test_consistency_decides_where_the_kernel_is_large():
    geometry = geometry_of((24, 20, 16), (1.0, 1.2, 2.0), TILTED, pad=1.0)
    true, other = (torch.randn(1, 1, 24, 20, 16, generator=torch.Generator().manual_seed(s)) for s in (0, 1))
    weight = 0.01
    result = geometry.consistent(other, geometry.field(true), torch.ones_like(true), weight)
    before, after = (geometry.fft(chi - true).abs() for chi in (other, result))
    share = weight / (geometry.dipole**2 + weight)
    assert torch.allclose(after, share * before, atol=2e-3 * float(before.max()))
    held = geometry.dipole.abs() > 0.2
    assert (after[:, :, held].norm() / before[:, :, held].norm()) < 0.2


def test_consistency_minimises_what_it_says():
    geometry = geometry_of((16, 12, 10), (1.0, 0.8, 1.5), TILTED, pad=1.0)
    field, mask = case((16, 12, 10))
    start = torch.randn(field.shape, generator=torch.Generator().manual_seed(3))
    weight = 0.05
    data = field * mask + geometry.field(start) * (1 - mask)

    def gradient(chi: torch.Tensor) -> float:
        chi = chi.detach().requires_grad_()
        cost = (geometry.field(chi) - data).square().sum() + weight * (chi - start).square().sum()
        return float(torch.autograd.grad(cost, chi)[0].norm())

    assert gradient(geometry.consistent(start, field, mask, weight)) < 1e-4 * gradient(start)


def test_weights_of_a_batch_are_its_volumes_own():
    geometry = geometry_of()
    field, mask = case(batch=2)
    weights = torch.tensor([0.01, 0.5]).view(-1, 1, 1, 1, 1)
    both = geometry.consistent(torch.zeros_like(field), field, mask, weights)
    for index, weight in enumerate((0.01, 0.5)):
        one = geometry.consistent(torch.zeros_like(field[:1]), field[index : index + 1], mask[:1], weight)
        assert torch.allclose(both[index], one[0], atol=1e-5)


def test_the_cone_part_is_what_the_field_does_not_show():
    geometry = geometry_of((24, 24, 24), pad=1.0)
    chi = torch.randn(1, 1, 24, 24, 24, generator=torch.Generator().manual_seed(0))
    cone = geometry.cone_part(chi)
    assert 0.2 < cone.norm() / chi.norm() < 0.7
    assert geometry.field(cone).norm() / cone.norm() < 0.3 * geometry.field(chi).norm() / chi.norm()


@pytest.mark.parametrize("share", [0.1, 0.3, 1.0])
def test_white_noise_is_recovered(share):
    shape = (40, 40, 32)
    axes = torch.meshgrid(*(torch.linspace(-1, 1, n) for n in shape), indexing="ij")
    smooth = (torch.sin(3 * axes[0]) + axes[1] * axes[2])[None, None]
    mask = ball(shape)
    noise = share * torch.randn(smooth.shape, generator=torch.Generator().manual_seed(1))
    field = (smooth + noise) * mask
    found = float(noise_ratio(field, mask).exp() * field_scale(field, mask).flatten())
    assert found == pytest.approx(share, rel=0.2)


def test_field_scale_and_noise_ratio_do_not_know_the_unit():
    field, mask = case(batch=2)
    field = field + 2 * ball((16, 16, 16), 0.4)
    for unit in (1e-4, 300.0):
        assert torch.allclose(field_scale(unit * field, mask), unit * field_scale(field, mask), rtol=1e-5)
        assert torch.allclose(noise_ratio(unit * field, mask), noise_ratio(field, mask), atol=1e-4)
    assert torch.allclose(field_scale(-field, mask), field_scale(field, mask), rtol=0.02)


def test_geometry_has_no_up_and_down():
    up, down = geometry_of(b0_dir=TILTED).side(), geometry_of(b0_dir=tuple(-b for b in TILTED)).side()
    assert torch.equal(up, down)
    assert geometry_of().side(direction=False).shape == (3,)
