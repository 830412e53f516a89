"""PedQ-NET and the UNETRs: their structure, and what training may see."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from qsmprep.core.grid import Grid
from qsmprep.networks.geometry import Geometry
from qsmprep.networks.pedqnet import CLASSES, NUCLEI, PedQNet
from qsmprep.networks.physics import phase_distance
from qsmprep.networks.unetr import LayoutNorm, Segmenter, keep_layout
from qsmprep.networks.zoo import build

SMALL = {"window": 32, "feature": 8, "hidden": 24, "mlp": 48, "heads": 2, "layers": 6}


def test_layout_norm_is_instance_norm():
    torch.manual_seed(0)
    plain = nn.Sequential(nn.InstanceNorm3d(5, affine=True))
    nn.init.normal_(plain[0].weight)
    nn.init.normal_(plain[0].bias)
    volumes = [torch.randn(n, 5, 6, 7, 8).contiguous(memory_format=torch.channels_last_3d) for n in (1, 3)]
    before = [plain(volume) for volume in volumes]
    kept = keep_layout(plain)
    assert type(kept[0]) is LayoutNorm
    for volume, expected in zip(volumes, before, strict=True):
        torch.testing.assert_close(kept(volume), expected)
    assert kept(volumes[0]).is_contiguous(memory_format=torch.channels_last_3d)
    assert not kept.eval()(volumes[0] * 3 + 1).isnan().any()
    torch.testing.assert_close(kept.eval()(volumes[0] * 3 + 1), before[0], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("name", "outputs"), [("brainmask", 1), ("subcortical", CLASSES)])
def test_a_segmenter_gives_logits_of_its_classes(name, outputs):
    network = build(name, SMALL)
    assert network(torch.randn(1, 1, 32, 32, 32)).shape == (1, outputs, 32, 32, 32)
    assert network.stride == 16
    assert outputs in (1, 1 + 2 * len(NUCLEI))


def test_unetr_has_its_parts():
    unetr = Segmenter(CLASSES, layers=9, window=96, feature=8, hidden=24, mlp=48, heads=2).unetr
    attention = [module for module in unetr.modules() if type(module).__name__ == "SABlock"]
    assert len(attention) == 9
    assert unetr.vit.patch_embedding.n_patches == (96 // 2 // 8) ** 3  # patches of 16 voxels of the image
    assert unetr.taken == (2, 5)
    assert len(unetr.rise) == 3


def test_tokens_and_bridges_both_reach_the_output():
    """Each part that the output should depend on changes it."""
    torch.manual_seed(1)
    network = Segmenter(CLASSES, **SMALL).eval()
    volume = torch.randn(1, 1, 32, 32, 32)
    first = network(volume)
    for part in (network.unetr.vit.patch_embedding, network.unetr.bridges[1], network.unetr.middle, network.unetr.deep):
        kept = {key: value.clone() for key, value in part.state_dict().items()}
        with torch.no_grad():
            for parameter in part.parameters():
                parameter.mul_(-0.5).add_(0.01)
        assert not torch.allclose(network(volume), first)
        part.load_state_dict(kept)
    torch.testing.assert_close(network(volume), first)
    assert Segmenter(CLASSES, **SMALL, bridges=False).unetr.bridges is None


def test_pedqnet_is_an_nnunet():
    network = PedQNet(filters=(8, 16, 24), shuffle=2)
    convolutions = [m for m in network.unet.modules() if isinstance(m, nn.Conv3d)]
    assert [tuple(m.stride) for m in convolutions if m.stride != (1, 1, 1)] == [(2, 2, 2)] * 2
    assert sum(isinstance(m, nn.ConvTranspose3d) for m in network.modules()) == 2
    assert sum(isinstance(m, nn.InstanceNorm3d) for m in network.modules()) == 2 * (3 + 2)
    assert len({m.negative_slope for m in network.modules() if isinstance(m, nn.LeakyReLU)}) == 1
    assert network.stride == 8
    assert network.segmentation is None
    assert build("nnunet", {"filters": [8, 16, 24]}).segmentation is None


def test_the_loss_is_zero_for_the_true_map_and_one_for_none():
    grid = Grid((20, 18, 16), (1.0, 1.0, 2.0), (0.0, 0.3, 0.95))
    geometry = Geometry(grid, 2.0)
    torch.manual_seed(2)
    weight = torch.rand(1, 1, *grid.shape)
    chi = torch.randn(1, 1, *grid.shape)
    field = geometry.field(chi)
    assert float(phase_distance(chi, field, weight, geometry, 0.0)) == pytest.approx(0, abs=1e-5)
    assert float(phase_distance(0 * chi, field, weight, geometry, 0.0)) == pytest.approx(1, abs=1e-5)
    turned = field + 2 * math.pi  # a wrap that was missed costs nothing
    assert float(phase_distance(chi, turned, weight, geometry, 0.0)) == pytest.approx(0, abs=1e-4)
    off = field.clone()
    off[..., :4] += 1.0
    assert float(phase_distance(chi, off, weight * (torch.arange(16) >= 4), geometry, 0.0)) == pytest.approx(
        0, abs=1e-5
    )


def test_total_variation_counts_longer_edges_less():
    """A step across a face costs its height, times the mean edge over the one that is crossed."""
    grid = Grid((12, 12, 12), (1.0, 1.0, 4.0))
    geometry, field = Geometry(grid, 1.5), torch.ones(1, 1, 12, 12, 12)
    mean = 4 ** (1 / 3)
    for axis, edge in ((-3, 1.0), (-1, 4.0)):
        step = torch.zeros_like(field)
        step.narrow(axis, 6, 6).fill_(0.5)
        costs = [float(phase_distance(step, field, torch.ones_like(field), geometry, tv)) for tv in (0.0, 1.0)]
        assert costs[1] - costs[0] == pytest.approx(0.5 / 11 * mean / edge, rel=1e-3)
