"""Meta-QSM: a U-Net all of whose convolution weights are predicted from the geometry; and its fixed twin."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from qsmprep.networks.base import QSMNetwork, upsample
from qsmprep.networks.geometry import Geometry


class WPConv(nn.Module):
    """A convolution whose kernel and bias are predicted from the geometry (weight-prediction convolution).

    A small perceptron turns the side information into ``basis`` numbers; the kernel is the sum of a
    fixed one and of as many learned ones weighted with them, which is what its last, linear layer does.

    Parameters
    ----------
    channels : (int, int)
        In and out.
    kernel : int
        Edge of the kernel, odd.
    side : int
        How many numbers describe the geometry.
    basis : int
        Width of the perceptron's last hidden layer. The layer holds ``basis + 1`` times the weights
        of a plain convolution.
    """

    def __init__(self, channels: tuple[int, int], kernel: int, side: int, basis: int) -> None:
        super().__init__()
        before, after = channels
        self.shape = (after, before, kernel, kernel, kernel)
        self.embed = nn.Sequential(
            nn.Linear(side, 32), nn.SiLU(), nn.Linear(32, 32), nn.SiLU(), nn.Linear(32, basis), nn.Tanh()
        )
        size, fan_in = math.prod(self.shape), before * kernel**3
        self.kernel = nn.Linear(basis, size)
        self.bias = nn.Linear(basis, after)
        nn.init.normal_(self.kernel.bias, std=math.sqrt(2 / fan_in))
        nn.init.normal_(self.kernel.weight, std=0.3 * math.sqrt(2 / fan_in))
        nn.init.zeros_(self.bias.weight)
        nn.init.zeros_(self.bias.bias)

    def predict(self, side: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Kernel ``(out, in, k, k, k)`` and bias ``(out,)`` for one geometry."""
        code = self.embed(side)
        return self.kernel(code).view(self.shape), self.bias(code)

    def forward(self, volume: torch.Tensor, predicted: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        """Convolve with what :meth:`predict` gave."""
        kernel, bias = predicted
        return functional.conv3d(volume, kernel, bias, padding=kernel.shape[-1] // 2)


class PlainConv(nn.Conv3d):
    """A convolution with fixed weights behind the interface of :class:`WPConv`."""

    def __init__(self, channels: tuple[int, int], kernel: int, side: int = 0, basis: int = 0) -> None:
        super().__init__(*channels, kernel, padding=kernel // 2)
        nn.init.kaiming_normal_(self.weight)

    def predict(self, side: torch.Tensor) -> None:
        """Nothing depends on the geometry."""

    def forward(self, volume: torch.Tensor, predicted: None = None) -> torch.Tensor:
        """Convolve."""
        return super().forward(volume)


class MetaQSM(QSMNetwork):
    """Meta-QSM: one network for any voxel size.

    A U-Net with one convolution, batch normalisation and ReLU a level, nearest-neighbour
    upsampling, and a linear 3x3x3 output, after the group's published generator code.

    Parameters
    ----------
    base : int
        Channels of the first level; they double with each level.
    depth : int
        Number of levels.
    basis : int
        See :class:`WPConv`; 0 gives Mesa-QSM, the twin whose weights are fixed.
    direction : bool
        Predict from the B0 direction as well as from the voxel size.
    inputs, shuffle
        See :class:`qsmprep.networks.base.QSMNetwork`.

    References
    ----------
    .. [1] Zhang et al., Meta-QSM, 2019, arXiv:1908.00206
    """

    def __init__(
        self,
        base: int = 16,
        depth: int = 4,
        basis: int = 4,
        direction: bool = True,
        inputs: str = "physics",
        shuffle: int = 1,
    ) -> None:
        super().__init__(inputs, shuffle)
        self.levels, self.direction = depth, direction
        side = 9 if direction else 3
        widths = [base * 2**level for level in range(depth)]

        def make(before: int, after: int) -> nn.Module:
            return WPConv((before, after), 3, side, basis) if basis else PlainConv((before, after), 3)

        entering = [self.in_channels, *widths[:-1]]
        self.encoder = nn.ModuleList(make(a, b) for a, b in zip(entering, widths, strict=True))
        self.decoder = nn.ModuleList(make(widths[i + 1] + widths[i], widths[i]) for i in range(depth - 1))
        self.encoder_norm = nn.ModuleList(nn.BatchNorm3d(width) for width in widths)
        self.decoder_norm = nn.ModuleList(nn.BatchNorm3d(width) for width in widths[:-1])
        self.head = make(base, self.out_channels)
        with torch.no_grad():
            for parameter in self.head.kernel.parameters() if basis else [self.head.weight]:
                parameter.mul_(0.1)

    def predict(self, geometry: Geometry) -> dict[nn.Module, tuple[torch.Tensor, torch.Tensor] | None]:
        """Kernels and biases of all convolutions for one geometry; compute once a volume."""
        side = geometry.side(direction=self.direction)
        return {conv: conv.predict(side) for conv in (*self.encoder, *self.decoder, self.head)}

    def estimate(
        self, field: torch.Tensor, mask: torch.Tensor, geometry: Geometry, **options: Any
    ) -> list[torch.Tensor]:
        """One map. Option ``predicted`` takes what :meth:`predict` gave, for several calls on one volume."""
        options["predicted"] = options.get("predicted") or self.predict(geometry)
        return super().estimate(field, mask, geometry, **options)

    def convolve(self, entry: torch.Tensor, predicted: Any = None, **options: Any) -> list[torch.Tensor]:
        """One output, with the kernels of :meth:`predict`."""
        kept, volume = [], entry
        for level, (conv, norm) in enumerate(zip(self.encoder, self.encoder_norm, strict=True)):
            volume = functional.max_pool3d(volume, 2) if level else volume
            volume = functional.relu(norm(conv(volume, predicted[conv])), inplace=True)
            kept.append(volume)
        for level in reversed(range(self.levels - 1)):
            conv, norm = self.decoder[level], self.decoder_norm[level]
            volume = torch.cat([upsample(volume), kept[level]], dim=1)
            volume = functional.relu(norm(conv(volume, predicted[conv])), inplace=True)
        return [self.head(volume, predicted[self.head])]
