"""Group multi-axis Hadamard product attention (GHPA) in three dimensions."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

PLANE = 8
"""Edge of the learned attention planes, interpolated to the size of the volume."""


class ChannelNorm(nn.Module):
    """Layer normalisation over the channels of ``(batch, channels, …)``."""

    def __init__(self, channels: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.eps = eps

    def forward(self, volume: torch.Tensor) -> torch.Tensor:
        """Normalised volume, same shape."""
        centred = volume - volume.mean(dim=1, keepdim=True)
        view = (1, -1) + (1,) * (volume.dim() - 2)
        if torch.is_grad_enabled():
            scaled = centred * torch.rsqrt(centred.square().mean(dim=1, keepdim=True) + self.eps)
            return scaled * self.weight.view(view) + self.bias.view(view)
        size = torch.linalg.vector_norm(centred, dim=1, keepdim=True).square_().div_(volume.shape[1])
        return centred.mul_(size.add_(self.eps).rsqrt_()).mul_(self.weight.view(view)).add_(self.bias.view(view))


class PlaneAttention(nn.Module):
    """Hadamard product with a learned plane, interpolated to two axes and constant along the third."""

    def __init__(self, channels: int, along: int) -> None:
        super().__init__()
        self.along = along
        self.plane = nn.Parameter(torch.ones(1, channels, PLANE, PLANE))
        self.mix = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1, groups=channels), nn.GELU(), nn.Conv2d(channels, channels, 1)
        )

    def forward(self, volume: torch.Tensor) -> torch.Tensor:
        """``(batch, channels, nx, ny, nz)``, same shape; without gradients ``volume`` itself, overwritten."""
        size = [n for axis, n in enumerate(volume.shape[2:]) if axis != self.along]
        plane = functional.interpolate(self.plane, size=size, mode="bilinear", align_corners=True)
        factor = self.mix(plane).unsqueeze(2 + self.along)
        return volume * factor if torch.is_grad_enabled() else volume.mul_(factor)


class DepthwiseConv(nn.Conv3d):
    """A 3x3x3 convolution of each channel by itself.

    Trained on a CPU it is computed as a dense convolution with a diagonal kernel, which there is an
    order of magnitude faster backwards than a grouped one (measured in bfloat16 at 16 channels: 5 to 98 ms).
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels, 3, padding=1, groups=channels)

    def forward(self, volume: torch.Tensor) -> torch.Tensor:
        """``(batch, channels, nx, ny, nz)``, same shape."""
        if volume.is_cuda or not torch.is_grad_enabled():
            return super().forward(volume)
        dense = torch.diag_embed(self.weight.flatten(1).T).permute(1, 2, 0).reshape(2 * volume.shape[1:2] + (3, 3, 3))
        return functional.conv3d(volume, dense, self.bias, padding=1)


class GHPA(nn.Module):
    """GHPA of EGE-UNet, lifted to 3-D.

    The channels are split into four groups: three are multiplied with learned planes across the
    xy, xz and yz axes, the fourth passes a depthwise convolution; all are mixed and, with
    ``residual``, added to the input.

    Parameters
    ----------
    channels : int
        A multiple of four.
    residual : bool
        Add the input.

    References
    ----------
    .. [1] Ruan et al., EGE-UNet, MICCAI 2023, doi:10.1007/978-3-031-43901-8_46
    """

    def __init__(self, channels: int, *, residual: bool = True) -> None:
        super().__init__()
        group = channels // 4
        self.residual = residual
        self.before = ChannelNorm(channels)
        self.planes = nn.ModuleList([PlaneAttention(group, along) for along in (2, 1, 0)])
        self.depth = nn.Sequential(nn.Conv3d(group, group, 1), nn.GELU(), DepthwiseConv(group))
        self.after = ChannelNorm(channels)
        self.mix = nn.Sequential(DepthwiseConv(channels), nn.GELU(), nn.Conv3d(channels, channels, 1))

    def forward(self, volume: torch.Tensor) -> torch.Tensor:
        """``(batch, channels, nx, ny, nz)``, same shape."""
        normed = self.before(volume)
        *groups, last = normed.chunk(4, dim=1)
        parts = [plane(part) for plane, part in zip(self.planes, groups, strict=True)]
        if torch.is_grad_enabled():
            normed = torch.cat([*parts, self.depth(last)], dim=1)
        else:  # all of it where it stands: memory decides how fast this is, and how large tiles may be
            last.copy_(self.depth(last))
        del groups, last, parts
        mixed: torch.Tensor = self.after(normed)
        del normed
        for layer in self.mix:
            mixed = layer(mixed)
        if not self.residual:
            return mixed
        return volume + mixed if torch.is_grad_enabled() else mixed.add_(volume)
