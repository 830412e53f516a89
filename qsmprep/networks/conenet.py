"""ConeNet, our own: the physics unrolled around a learned step that fills the magic-angle cone."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from qsmprep.networks.base import START_WEIGHT, QSMNetwork, contrast, direct, to_depth, to_space, upsample
from qsmprep.networks.geometry import Geometry, noise_ratio
from qsmprep.networks.variation import variation_maps

SIDE = 10
"""Numbers that describe geometry (9) and noise (1) to the network."""

CHANNELS = 6
"""Field, closed-form solution, strong total variation, present map, what it leaves of the field, mask."""


REACH = 5
"""Voxels along each axis that a voxel of the stage on the full grid depends on: five convolutions of 3 x 3 x 3."""

SLAB = 2**21
"""Voxels of the full grid that this stage is run on together where no gradient is wanted, to bound the memory."""


class Modulated(nn.Module):
    """Two 3x3x3 convolutions around a residual, their middle scaled and shifted by the side information."""

    def __init__(self, before: int, after: int, code: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv3d(before, after, 3, padding=1)
        self.conv2 = nn.Conv3d(after, after, 3, padding=1)
        self.modulation = nn.Linear(code, 2 * after)
        self.gain = nn.Parameter(torch.full((1, after, 1, 1, 1), 0.2))
        for conv in (self.conv1, self.conv2):
            nn.init.kaiming_normal_(conv.weight, a=0.1)
            nn.init.zeros_(conv.bias)
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)

    def forward(self, volume: torch.Tensor, code: torch.Tensor) -> torch.Tensor:
        """Features for a batch whose side information is ``code``."""
        first = self.conv1(volume)
        scale, shift = self.modulation(code).view(code.shape[0], -1, 1, 1, 1).chunk(2, dim=1)
        inner = functional.leaky_relu(first * (1 + scale) + shift, 0.1)
        return functional.leaky_relu(first + self.gain * self.conv2(inner), 0.1)


class Fine(nn.Module):
    """What the U-Net behind a space-to-depth stem cannot do: convolutions between neighbouring voxels.

    Starts out as no correction at all.

    Parameters
    ----------
    channels : int
        Volumes given.
    coarse : int
        Features of the U-Net, on a grid coarser by ``shuffle``.
    width, outputs : int
        Channels inside, and of the correction.
    code : int
        Length of the side information.
    shuffle : int
        See :class:`qsmprep.networks.base.QSMNetwork`.
    """

    def __init__(self, channels: int, coarse: int, width: int, outputs: int, code: int, shuffle: int) -> None:
        super().__init__()
        self.shuffle = shuffle
        self.entry = nn.Conv3d(channels, width, 3, padding=1)
        self.lower = nn.Conv3d(coarse, width, 1)
        self.blocks = nn.ModuleList(Modulated(width, width, code) for _ in range(2))
        self.head = nn.Conv3d(width, outputs, 1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, entry: torch.Tensor, features: torch.Tensor, code: torch.Tensor) -> torch.Tensor:
        """The correction, after space to depth as both volumes are; for inference in slabs, with the same result."""
        lower = self.lower(features)
        slabs = [(slice(None), slice(None))] if torch.is_grad_enabled() else self.slabs(entry.shape[2:])
        axis = 2 + _longest(entry.shape[2:])
        parts = []
        for seen, kept in slabs:
            at = (slice(None),) * axis
            part = self.correct(entry[(*at, seen)], lower[(*at, seen)], code)
            parts.append(part[(*at, kept)])
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=axis)

    def slabs(self, shape: tuple[int, ...]) -> list[tuple[slice, slice]]:
        """Along the longest axis of input channels of such lengths: what is put in, and what of the result is right."""
        n = shape[_longest(shape)]
        margin = -(-REACH // self.shuffle)
        layer = math.prod(shape) // n * self.shuffle**3
        thickness = max(SLAB // max(layer, 1) - 2 * margin, 2 * margin)
        found = []
        for begin in range(0, n, thickness):
            end = min(begin + thickness, n)
            first, last = max(begin - margin, 0), min(end + margin, n)
            found.append((slice(first, last), slice(begin - first, end - first)))
        return found

    def most_voxels(self, shape: tuple[int, ...]) -> int:
        """Voxels of the full grid in the largest slab of input channels of such lengths."""
        thickest = max(seen.stop - seen.start for seen, _ in self.slabs(shape))
        return math.prod(shape) // shape[_longest(shape)] * thickest * self.shuffle**3

    def correct(self, entry: torch.Tensor, lower: torch.Tensor, code: torch.Tensor) -> torch.Tensor:
        """The correction of a volume or a slab of it."""
        volume = self.entry(to_space(entry, self.shuffle))
        volume = functional.leaky_relu(volume + (upsample(lower) if self.shuffle == 2 else lower), 0.1)
        for block in self.blocks:
            volume = block(volume, code)
        return to_depth(self.head(volume), self.shuffle)


def _longest(shape: tuple[int, ...]) -> int:
    """The axis along which ``(nx, ny, nz)`` is longest: 0, 1 or 2."""
    return max(range(3), key=shape.__getitem__)


class ConeNet(QSMNetwork):
    r"""Our own network: learned proximal steps, each a small U-Net followed by closed-form data consistency.

    It starts from two total-variation maps, of a strong and a weak penalty that spares its own edges and
    those of the magnitude where there is one, and also sees the closed-form
    solution (which keeps what total variation takes for noise), what the present map leaves of the field
    and, where it is ``guided``, the local contrast of the magnitude: where tissues meet, and where the
    field is noisy.
    From LoopNet it has the loop with shared weights, whose features are handed back to the next
    pass; from Meta-QSM that voxel size and B0 direction shape its layers (as a scale and a shift
    of the features rather than as whole kernels); from QSMInvNet+ and LPCNN that the physics decides
    wherever it can. The weight of the data in every step follows the noise found in the field.

    Parameters
    ----------
    base : int
        Channels of the first level, after space to depth; they double with each level.
    depth : int
        Levels of the U-Net.
    iterations : int
        Steps in training, and by default at run time (option ``iterations``).
    guided : bool
        Whether the magnitude is an input of the network.
    separate : bool
        Whether every step also finds what background removal left in the field; data consistency is
        then with the field less that, so that it is not inverted.
    fine : int
        Channels of a stage on the full grid that corrects each step (:class:`Fine`); 0 for none.
    shuffle
        See :class:`qsmprep.networks.base.QSMNetwork`.

    References
    ----------
    .. [1] Lai et al., LPCNN, MICCAI 2020, doi:10.1007/978-3-030-59713-9_13
    """

    def __init__(
        self, base: int = 32, depth: int = 3, iterations: int = 2, shuffle: int = 2, guided: bool = False,
        separate: bool = False, fine: int = 0,
    ) -> None:  # fmt: skip
        super().__init__("physics", shuffle)
        self.guided = guided
        self.consistency.offset.data.fill_(0.0)
        self.levels, self.iterations = depth, iterations
        widths = [base * 2**level for level in range(depth)]
        self.embed = nn.Sequential(nn.Linear(SIDE + 1, 32), nn.SiLU(), nn.Linear(32, 32), nn.SiLU())
        self.entry = nn.Conv3d((CHANNELS + guided) * shuffle**3 + base, base, 1)
        entering = [base, *widths[:-1]]
        self.encoder = nn.ModuleList(Modulated(a, b, 32) for a, b in zip(entering, widths, strict=True))
        self.rise = nn.ModuleList(nn.Conv3d(widths[i + 1], widths[i], 1) for i in range(depth - 1))
        self.decoder = nn.ModuleList(Modulated(width, width, 32) for width in widths[:-1])
        self.head = nn.Conv3d(base, self.out_channels, 1)
        nn.init.normal_(self.head.weight, std=0.01)
        nn.init.zeros_(self.head.bias)
        self.leftover = nn.Conv3d(base, self.out_channels, 1) if separate else None
        if self.leftover is not None:
            nn.init.zeros_(self.leftover.weight)
            nn.init.zeros_(self.leftover.bias)
        self.fine = Fine(CHANNELS + guided, base, fine, 1 + separate, 32, shuffle) if fine else None

    def forward(
        self, field: torch.Tensor, mask: torch.Tensor, geometry: Geometry, **options: Any
    ) -> list[torch.Tensor]:
        """Susceptibility after each step; data consistency is part of every one of them."""
        return self.estimate(field, mask, geometry, **options)

    def estimate(
        self,
        field: torch.Tensor,
        mask: torch.Tensor,
        geometry: Geometry,
        over: Callable[..., Any] = direct,
        iterations: int = 0,
        prepared: torch.Tensor | None = None,
        magnitude: torch.Tensor | None = None,
        **options: Any,
    ) -> list[torch.Tensor]:
        """One map a step; option ``iterations`` overrides their number, ``prepared`` takes :meth:`prepare`'s
        maps, ``magnitude`` (in any unit) guides a network that is trained to be."""
        log_ratio = noise_ratio(field, mask)
        side = torch.cat([geometry.side().expand(field.shape[0], -1), log_ratio[:, None]], dim=1)
        closed = geometry.closed_form(field, START_WEIGHT) * mask
        strong, chi = (self.prepare(field, mask, geometry) if prepared is None else prepared).split(1, dim=1)
        seen = [mask]
        if self.guided:
            seen.append(contrast(magnitude, mask, geometry))
        features: torch.Tensor | None = None
        outputs = []
        for iteration in range(iterations or self.iterations):
            code = self.embed(torch.cat([side, side.new_full((side.shape[0], 1), min(iteration, 3))], dim=1))
            left = (field - geometry.field(chi)) * mask
            stack = torch.cat([field, closed, strong, chi, left, *seen], dim=1)
            told = over(self.step, to_depth(stack, self.shuffle), features, code)
            features, change = told.split([self.head.in_channels, told.shape[1] - self.head.in_channels], dim=1)
            change = to_space(change, self.shuffle).float() * mask
            chi = chi + change[:, :1]
            if self.leftover is not None:
                field = field - change[:, 1:]
            chi = self.consistency(chi, field, mask, geometry, log_ratio)
            outputs.append(chi)
        return outputs

    def prepare(
        self,
        field: torch.Tensor,
        mask: torch.Tensor,
        geometry: Geometry,
        magnitude: torch.Tensor | None = None,
        weights: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """The maps to start from, ``(batch, 2, nx, ny, nz)``; they change sign with the field."""
        return variation_maps(field, mask, geometry, magnitude, weights)

    def step(self, entry: torch.Tensor, features: torch.Tensor | None, code: torch.Tensor) -> torch.Tensor:
        """Features of one step from the channels and the features of the step before, then (before depth to
        space) what is added to the map and taken off the field."""
        if features is None:
            shape = (entry.shape[0], self.head.in_channels, *entry.shape[2:])
            features = entry.new_zeros(shape)
        kept: list[torch.Tensor] = []
        volume = self.entry(torch.cat([entry, features], dim=1))
        for level, block in enumerate(self.encoder):
            volume = block(functional.avg_pool3d(volume, 2) if level else volume, code)
            kept.append(volume)
        for level in reversed(range(self.levels - 1)):
            volume = self.decoder[level](upsample(self.rise[level](volume)) + kept[level], code)
        change = self.head(volume)
        if self.leftover is not None:
            change = torch.cat([change, self.leftover(volume)], dim=1)
        if self.fine is not None:
            change = change + self.fine(entry, volume, code)
        return torch.cat([volume, change], dim=1)
