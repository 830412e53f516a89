"""UNETR: a transformer over patches with a convolutional decoder, for masks and segmentations."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional

from qsmprep.networks.base import to_depth, to_space

PATCH = 8
"""Edge of a token's patch in voxels of the transformer's input."""


class LayoutNorm(nn.InstanceNorm3d):
    """Instance normalisation that keeps the layout of a single volume in memory.

    torch's own turns channels-last volumes back, which the next convolution has to undo; for a batch of
    one, batch normalisation by the statistics of the batch is the same thing and does not.
    """

    def forward(self, volume: torch.Tensor) -> torch.Tensor:
        """Normalised volume."""
        if volume.shape[2:].numel() == 1:  # nothing to take statistics of: a voxel is its own mean
            shift = 0.0 if self.bias is None else self.bias.view(1, -1, 1, 1, 1)
            return torch.zeros_like(volume) + shift
        if volume.shape[0] != 1 or self.track_running_stats:
            return super().forward(volume)
        return functional.batch_norm(volume, None, None, self.weight, self.bias, training=True, eps=self.eps)


def keep_layout(network: nn.Module) -> nn.Module:
    """Let every instance normalisation of a network be a :class:`LayoutNorm`."""
    for module in network.modules():
        if type(module) is nn.InstanceNorm3d:
            module.__class__ = LayoutNorm
    return network


class UNETR(nn.Module):
    """A vision transformer over patches whose tokens a convolutional decoder turns into a volume; MONAI's blocks.

    Three levels of convolutions over patches of eight voxels. After space to depth by two those are the
    patches of 16 voxels of the paper. With ``bridges`` strided convolutions also carry the features of the
    image down to the lower levels, which in the paper only the tokens reach; training then takes
    far fewer steps.

    Parameters
    ----------
    channels, outputs, edge : int
        Of the volume: channels before and after, and its edge in voxels, a multiple of eight.
    feature, hidden, mlp, heads, layers : int
        Channels of the first level, of the tokens, of the layers between them; heads of attention; layers.
    bridges : bool
        See above.

    References
    ----------
    .. [1] Hatamizadeh et al., WACV 2022, doi:10.1109/WACV51458.2022.00181
    """

    def __init__(
        self, channels: int, outputs: int, edge: int, feature: int, hidden: int, mlp: int, heads: int, layers: int,
        bridges: bool,
    ) -> None:  # fmt: skip
        super().__init__()
        from monai.networks.blocks import UnetrBasicBlock, UnetrPrUpBlock, UnetrUpBlock
        from monai.networks.nets import ViT

        self.hidden, self.grid = hidden, edge // PATCH
        self.taken = (layers // 3 - 1, 2 * layers // 3 - 1)
        # a linear layer: a convolution of stride 8 is wrong in bfloat16 on CPUs (torch 2.13, relative error 1.1)
        self.vit = ViT(channels, (edge,) * 3, (PATCH,) * 3, hidden, mlp, layers, heads, proj_type="perceptron")
        style: dict[str, Any] = {"norm_name": "instance", "res_block": True}
        up: dict[str, Any] = {**style, "upsample_kernel_size": 2, "kernel_size": 3}
        wide, wider = 2 * feature, 4 * feature
        self.entry = UnetrBasicBlock(3, channels, feature, 3, 1, **style)
        self.middle = UnetrPrUpBlock(3, hidden, wide, 1, 3, 1, 2, "instance", True, True)
        self.deep = UnetrPrUpBlock(3, hidden, wider, 0, 3, 1, 2, "instance", True, True)
        self.bridges = nn.ModuleList([UnetrBasicBlock(3, feature, wide, 3, 2, **style),
                                      UnetrBasicBlock(3, wide, wider, 3, 2, **style)]) if bridges else None  # fmt: skip
        self.rise = nn.ModuleList([UnetrUpBlock(3, hidden, wider, **up), UnetrUpBlock(3, wider, wide, **up),
                                   UnetrUpBlock(3, wide, feature, **up)])  # fmt: skip
        self.head = nn.Conv3d(feature, outputs, 1)

    def forward(self, volume: torch.Tensor) -> torch.Tensor:
        """``(batch, channels, edge, edge, edge)`` to as many outputs."""
        tokens, between = self.vit(volume)
        shallow, middle = (self.spread(between[index]) for index in self.taken)
        first = self.entry(volume)
        second, third = self.middle(shallow), self.deep(middle)
        if self.bridges is not None:
            second = second + self.bridges[0](first)
            third = third + self.bridges[1](second)
        risen = self.rise[0](self.spread(tokens), third)
        return self.head(self.rise[2](self.rise[1](risen, second), first))  # type: ignore[no-any-return]

    def spread(self, tokens: torch.Tensor) -> torch.Tensor:
        """Tokens as a volume."""
        shape = (tokens.shape[0], self.grid, self.grid, self.grid, self.hidden)
        return tokens.view(shape).permute(0, 4, 1, 2, 3)


class Segmenter(nn.Module):
    """A UNETR between space to depth and depth to space, on windows of one size.

    Parameters
    ----------
    classes : int
        With the background.
    channels : int
        Volumes that it sees.
    window : int
        Edge of its windows in voxels; a multiple of `stride`.
    voxel_mm : float
        Edge of the voxels that it works on; volumes are brought to them first.
    feature, hidden, mlp, heads, layers, bridges
        See :class:`UNETR`.
    shuffle : {1, 2}
        As in :class:`qsmprep.networks.base.QSMNetwork`: 2 has half-resolution features at an eighth of the cost.
    """

    def __init__(
        self,
        classes: int = 2,
        channels: int = 1,
        window: int = 96,
        voxel_mm: float = 2.0,
        feature: int = 32,
        hidden: int = 144,
        mlp: int = 432,
        heads: int = 6,
        layers: int = 9,
        bridges: bool = True,
        shuffle: int = 2,
    ) -> None:
        super().__init__()
        self.classes, self.channels, self.window, self.voxel_mm = classes, channels, window, voxel_mm
        self.shuffle = shuffle
        block = shuffle**3
        outputs = 1 if classes == 2 else classes
        self.unetr = keep_layout(
            UNETR(channels * block, outputs * block, window // shuffle, feature, hidden, mlp, heads, layers, bridges)
        )

    @property
    def stride(self) -> int:
        """What the edge of a window must be a multiple of."""
        return self.shuffle * PATCH

    def forward(self, volumes: torch.Tensor) -> torch.Tensor:
        """Logits of windows ``(batch, channels, window, window, window)``: one channel (the object) for two
        classes, else one a class."""
        return to_space(self.unetr(to_depth(volumes, self.shuffle)).float(), self.shuffle)
