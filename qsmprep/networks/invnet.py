"""QSMInvNet+: a U-Net with a batch normalisation of its own for each domain."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional

from qsmprep.networks.base import QSMNetwork, upsample

SYNTHETIC, TARGET = 0, 1
"""Domains: labelled simulations, and the unlabelled data that the network is meant for."""


class DomainBatchNorm(nn.Module):
    """Domain-specific batch normalisation: scale, shift and statistics for each domain.

    References
    ----------
    .. [1] Chang et al., CVPR 2019, doi:10.1109/CVPR.2019.00753
    """

    def __init__(self, channels: int, domains: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.BatchNorm3d(channels, momentum=0.2) for _ in range(domains))

    def forward(self, volume: torch.Tensor, domain: int) -> torch.Tensor:
        """Normalise with the statistics of ``domain`` (the last one where there is none of that number)."""
        return self.norms[min(domain, len(self.norms) - 1)](volume)


class Unit(nn.Module):
    """A 3x3x3 convolution, domain-specific batch normalisation and ReLU."""

    def __init__(self, before: int, after: int, domains: int) -> None:
        super().__init__()
        self.conv = nn.Conv3d(before, after, 3, padding=1, bias=False)
        self.norm = DomainBatchNorm(after, domains)
        nn.init.kaiming_normal_(self.conv.weight)

    def forward(self, volume: torch.Tensor, domain: int) -> torch.Tensor:
        """Features of a volume of ``domain``."""
        return functional.relu(self.norm(self.conv(volume), domain), inplace=True)


class QSMInvNet(QSMNetwork):
    """QSMInvNet+ (two domains), or QSMInvNet (one).

    9 convolutions with as many batch normalisations for each domain, 4 poolings, 4 nearest-neighbour
    upsamplings, 4 concatenations, and a linear 1x1x1 output.

    Parameters
    ----------
    base : int
        Channels of the first of five levels; they double with each.
    domains : {2, 1}
        Sets of batch normalisations.
    inputs, shuffle
        See :class:`qsmprep.networks.base.QSMNetwork`.

    References
    ----------
    .. [1] QSMInvNet+, ISMRM 2021
    """

    levels = 5

    def __init__(self, base: int = 24, domains: int = 2, inputs: str = "physics", shuffle: int = 1) -> None:
        super().__init__(inputs, shuffle)
        self.domains = domains
        widths = [base * 2**level for level in range(self.levels)]
        entering = [self.in_channels, *widths[:-1]]
        self.encoder = nn.ModuleList(Unit(a, b, domains) for a, b in zip(entering, widths, strict=True))
        self.decoder = nn.ModuleList(
            Unit(widths[i + 1] + widths[i], widths[i], domains) for i in range(self.levels - 1)
        )
        self.head = nn.Conv3d(base, self.out_channels, 1)
        nn.init.normal_(self.head.weight, std=0.01)
        nn.init.zeros_(self.head.bias)

    def convolve(self, entry: torch.Tensor, domain: int = TARGET, **options: Any) -> list[torch.Tensor]:
        """One output. Option ``domain`` chooses the batch normalisation (default: the target's)."""
        kept, volume = [], entry
        for level, unit in enumerate(self.encoder):
            volume = unit(functional.max_pool3d(volume, 2) if level else volume, domain)
            kept.append(volume)
        for level in reversed(range(self.levels - 1)):
            volume = self.decoder[level](torch.cat([upsample(volume), kept[level]], dim=1), domain)
        return [self.head(volume)]
