"""LoopNet: a U-Net run in a loop, with reverse connections and GHPA; and the plain U-Net it grew from."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional

from qsmprep.networks.base import QSMNetwork
from qsmprep.networks.ghpa import GHPA


class LoopBatchNorm(nn.Module):
    """Batch normalisation with one scale and shift, and statistics of its own for every iteration.

    Iterations beyond the last that was trained use the last one's statistics.

    Parameters
    ----------
    channels : int
        Of the volumes.
    iterations : int
        How many sets of statistics are kept.
    momentum : float
        Of the running statistics.
    """

    running_mean: torch.Tensor
    running_var: torch.Tensor

    def __init__(self, channels: int, iterations: int, momentum: float = 0.1) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.momentum = momentum
        self.register_buffer("running_mean", torch.zeros(iterations, channels))
        self.register_buffer("running_var", torch.ones(iterations, channels))

    def forward(self, volume: torch.Tensor, iteration: int) -> torch.Tensor:
        """Normalised volume of an iteration counted from 0."""
        row = min(iteration, self.running_mean.shape[0] - 1)
        return functional.batch_norm(
            volume,
            self.running_mean[row],
            self.running_var[row],
            self.weight,
            self.bias,
            training=self.training,
            momentum=self.momentum,
        )


class Block(nn.Module):
    """Two 3x3x3 convolutions with batch normalisation and ReLU, then GHPA when asked for."""

    def __init__(self, channels: tuple[int, int, int], iterations: int, *, attention: bool) -> None:
        super().__init__()
        first, middle, last = channels
        self.conv1 = nn.Conv3d(first, middle, 3, padding=1)
        self.norm1 = LoopBatchNorm(middle, iterations)
        self.conv2 = nn.Conv3d(middle, last, 3, padding=1)
        self.norm2 = LoopBatchNorm(last, iterations)
        self.attention = GHPA(last) if attention else None

    def forward(self, volume: torch.Tensor, iteration: int) -> torch.Tensor:
        """Features of an iteration."""
        volume = functional.relu(self.norm1(self.conv1(volume), iteration), inplace=True)
        volume = functional.relu(self.norm2(self.conv2(volume), iteration), inplace=True)
        return volume if self.attention is None else self.attention(volume)


class LoopNet(QSMNetwork):
    """LoopNet, with weights shared over the iterations.

    19 convolutions, 18 batch normalisations, 4 poolings, 4 unpoolings, 4 forward and 4 reverse
    concatenations, 8 GHPA modules, and a final skip.

    Parameters
    ----------
    base : int
        Channels of the first level, a multiple of four; they double with each of the four levels.
    iterations : int
        Passes through the loop in training, and by default at run time (option ``iterations``).
    attention : bool
        GHPA after each of the four encoding and four decoding blocks.
    reverse : bool
        Feed the decoder's features of the previous pass to the encoder (zeros in the first pass).
        With one iteration and without reverse and attention this is the plain U-Net.
    inputs, shuffle
        See :class:`qsmprep.networks.base.QSMNetwork`.

    References
    ----------
    .. [1] LoopNet, ISMRM 2024, abstract 2621
    .. [2] Xiang et al., BiO-Net, MICCAI 2020, doi:10.1007/978-3-030-59710-8_8
    """

    levels = 5

    def __init__(
        self,
        base: int = 16,
        iterations: int = 3,
        attention: bool = True,
        reverse: bool = True,
        inputs: str = "physics",
        shuffle: int = 1,
    ) -> None:
        super().__init__(inputs, shuffle)
        self.iterations, self.reverse = iterations, reverse
        widths = [base * 2**level for level in range(4)]
        entering = [self.in_channels, *widths[:3]]
        leaving = [widths[0], *widths[:3]]
        self.handed = leaving if reverse else [0, 0, 0, 0]
        self.encoder = nn.ModuleList(
            Block((entering[i] + self.handed[i], widths[i], widths[i]), iterations, attention=attention)
            for i in range(4)
        )
        self.middle = Block((widths[3], 2 * widths[3], widths[3]), iterations, attention=False)
        self.unpool = nn.ModuleList(nn.ConvTranspose3d(width, width, 2, stride=2) for width in widths)
        self.decoder = nn.ModuleList(
            Block((2 * widths[i], widths[i], leaving[i]), iterations, attention=attention) for i in range(4)
        )
        self.head = nn.Conv3d(leaving[0], self.out_channels, 1)
        nn.init.normal_(self.head.weight, std=0.01)
        nn.init.zeros_(self.head.bias)

    def convolve(self, entry: torch.Tensor, iterations: int = 0, **options: Any) -> list[torch.Tensor]:
        """One output for each iteration; option ``iterations`` overrides their number."""
        returned = [
            entry.new_zeros(entry.shape[0], width, *(n // 2**i for n in entry.shape[2:]))
            for i, width in enumerate(self.handed)
        ]
        outputs = []
        for iteration in range(iterations or self.iterations):
            features, returned = self.cycle(entry, returned, iteration)
            outputs.append(self.head(features))
        return outputs

    def cycle(
        self, entry: torch.Tensor, returned: list[torch.Tensor], iteration: int
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """One pass: the finest features, and what every level of the decoder hands back."""
        kept, volume = [], entry
        for level, block in enumerate(self.encoder):
            volume = functional.max_pool3d(volume, 2) if level else volume
            volume = block(torch.cat([volume, returned[level]], dim=1) if self.reverse else volume, iteration)
            kept.append(volume)
        volume = self.middle(functional.max_pool3d(volume, 2), iteration)
        handed: list[torch.Tensor] = []
        for level in (3, 2, 1, 0):
            volume = self.decoder[level](torch.cat([self.unpool[level](volume), kept[level]], dim=1), iteration)
            handed.insert(0, volume)
        return volume, handed
