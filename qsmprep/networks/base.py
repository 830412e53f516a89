"""What all networks share: their input channels, their data consistency, the space-to-depth stem."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from qsmprep.networks.geometry import Geometry, noise_ratio
from qsmprep.networks.variation import variation_maps

START_WEIGHT = 0.05
"""Weight of the closed-form solution that networks start from."""

INPUTS = {"field": 2, "physics": 4, "variation": 7}
"""Kinds of input and their number of channels."""


SHADE_MM = 10.0
"""Standard deviation of the Gaussian whose average the magnitude is seen relative to."""


def direct(function: Callable[..., Any], *volumes: Any) -> Any:
    """Call a function with its volumes, all at once."""
    return function(*volumes)


class Consistency(nn.Module):
    r"""Closed-form data consistency whose weight follows the noise: :math:`\log\lambda = a + b \log r`.

    ``r`` is :func:`qsmprep.networks.geometry.noise_ratio`; ``a`` and ``b`` are learned.
    """

    def __init__(self) -> None:
        super().__init__()
        self.offset = nn.Parameter(torch.tensor(-1.2))
        self.slope = nn.Parameter(torch.tensor(0.5))

    def weight(self, log_ratio: torch.Tensor) -> torch.Tensor:
        """The weight for each volume of a batch, ``(batch, 1, 1, 1, 1)``, within 0.003 to 3."""
        value = self.offset + self.slope * (log_ratio + 1.0)
        return value.clamp(-5.8, 1.1).exp().view(-1, 1, 1, 1, 1)

    def forward(
        self, chi: torch.Tensor, field: torch.Tensor, mask: torch.Tensor, geometry: Geometry, log_ratio: torch.Tensor
    ) -> torch.Tensor:
        """Refined susceptibility, zero outside the mask."""
        return geometry.consistent(chi, field, mask, self.weight(log_ratio)) * mask


class QSMNetwork(nn.Module):
    """A network from the local field to susceptibility.

    Parameters
    ----------
    inputs : {"physics", "field", "variation"}
        ``field``: the field and the mask, as in the papers. ``physics``: also the closed-form
        solution and the part of it inside the magic-angle cone, which carry voxel size and B0
        direction into a network that knows neither; the output is then added to the closed form.
        ``variation``: also two total-variation maps (:mod:`qsmprep.networks.variation`) and the local
        contrast of the magnitude; the output is then added to the map of the weaker penalty.
    shuffle : {1, 2}
        Edge of the blocks whose voxels become channels before the first layer (space to depth)
        and voxels again after the last: 2 trades resolution inside for width at an eighth of the cost.
    """

    levels = 1

    def __init__(self, inputs: str = "physics", shuffle: int = 1) -> None:
        super().__init__()
        self.inputs = inputs
        self.shuffle = shuffle
        self.consistency = Consistency()

    @property
    def stride(self) -> int:
        """What every length of a volume must be a multiple of."""
        return self.shuffle * 2 ** (self.levels - 1)

    @property
    def in_channels(self) -> int:
        """Channels after space to depth."""
        return INPUTS[self.inputs] * self.shuffle**3

    @property
    def out_channels(self) -> int:
        """Channels before depth to space."""
        return self.shuffle**3

    def start(
        self,
        field: torch.Tensor,
        mask: torch.Tensor,
        geometry: Geometry,
        prepared: torch.Tensor | None = None,
        magnitude: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Input channels (after space to depth) and the map that the output is added to."""
        if self.inputs == "field":
            return to_depth(torch.cat([field, mask], dim=1), self.shuffle), field
        first = geometry.closed_form(field, START_WEIGHT) * mask
        volumes = [field, first, geometry.cone_part(first) * mask, mask]
        if self.inputs == "variation":
            if prepared is None:
                prepared = self.prepare(field, mask, geometry, magnitude)
            volumes += [prepared, contrast(magnitude, mask, geometry)]
            first = prepared[:, 1:]
        return to_depth(torch.cat(volumes, dim=1), self.shuffle), first

    def forward(
        self, field: torch.Tensor, mask: torch.Tensor, geometry: Geometry, **options: Any
    ) -> list[torch.Tensor]:
        """Susceptibility after every iteration, then the one with data consistency as the last.

        Parameters
        ----------
        field : (batch, 1, nx, ny, nz) torch.Tensor
            Local field divided by its spread (:func:`qsmprep.networks.geometry.field_scale`), zero
            outside the mask. Every length is a multiple of `stride`.
        mask : (batch, 1, nx, ny, nz) torch.Tensor
            1 where the field is valid.
        geometry : Geometry
            Of all volumes of the batch.
        **options
            Of the network, see its class; ``over`` as in :meth:`estimate`.

        Returns
        -------
        list of (batch, 1, nx, ny, nz) torch.Tensor
            In the unit of ``field``, zero outside the mask.
        """
        outputs = [chi * mask for chi in self.estimate(field, mask, geometry, **options)]
        refined = self.consistency(outputs[-1], field, mask, geometry, noise_ratio(field, mask))
        return [*outputs, refined]

    def estimate(
        self,
        field: torch.Tensor,
        mask: torch.Tensor,
        geometry: Geometry,
        over: Callable[..., Any] = direct,
        prepared: torch.Tensor | None = None,
        magnitude: torch.Tensor | None = None,
        **options: Any,
    ) -> list[torch.Tensor]:
        """What the network itself says, one map an iteration.

        ``over`` calls the convolutional part with its input volumes: at once, or in tiles
        (:class:`qsmprep.networks.tiles.Tiles`). The physics always sees the whole volume. ``prepared``
        takes the maps of :meth:`prepare`, ``magnitude`` (in any unit) what those were guided by.
        """
        entry, skip = self.start(field, mask, geometry, prepared, magnitude)
        outputs = over(partial(self.convolve, **options), entry)
        return [to_space(output, self.shuffle).float() + skip for output in outputs]

    def prepare(
        self,
        field: torch.Tensor,
        mask: torch.Tensor,
        geometry: Geometry,
        magnitude: torch.Tensor | None = None,
        weights: torch.Tensor | None = None,
    ) -> torch.Tensor | None:
        """Slow input without parameters, handed to ``forward`` as option ``prepared``; odd in the field."""
        return variation_maps(field, mask, geometry, magnitude, weights) if self.inputs == "variation" else None

    def convolve(self, entry: torch.Tensor, **options: Any) -> list[torch.Tensor]:
        """The convolutional part: from the input channels to the output before depth to space, one an iteration."""
        raise NotImplementedError


def contrast(magnitude: torch.Tensor | None, mask: torch.Tensor, geometry: Geometry) -> torch.Tensor:
    """Magnitude over its average in the neighbourhood less one, within -1 to 1; zero outside the mask.

    Whatever the unit and the shade of the coil; zero everywhere for a magnitude that is the same everywhere,
    and for none.
    """
    if magnitude is None:
        return torch.zeros_like(mask)
    inside = torch.nan_to_num(magnitude.float(), 0.0, 0.0, 0.0) * mask
    mean, weight = geometry.blur(inside, SHADE_MM), geometry.blur(mask, SHADE_MM)
    level = mean / weight.clamp_min(1e-3)
    size = inside.abs().amax(dim=(-3, -2, -1), keepdim=True)
    return (inside / level.clamp_min(1e-3 * size + torch.finfo(torch.float32).tiny) - 1).clamp(-1, 1) * mask


def to_depth(volume: torch.Tensor, block: int) -> torch.Tensor:
    """``(batch, c, nx, ny, nz)`` to ``(batch, c * block^3, nx / block, …)``."""
    if block == 1:
        return volume
    b, c, nx, ny, nz = volume.shape
    cut = volume.reshape(b, c, nx // block, block, ny // block, block, nz // block, block)
    deep = cut.permute(0, 2, 4, 6, 1, 3, 5, 7).reshape(b, nx // block, ny // block, nz // block, c * block**3)
    return deep.permute(0, 4, 1, 2, 3)


def to_space(volume: torch.Tensor, block: int) -> torch.Tensor:
    """The inverse of :func:`to_depth`."""
    if block == 1:
        return volume
    b, channels, nx, ny, nz = volume.shape
    c = channels // block**3
    cut = volume.reshape(b, c, block, block, block, nx, ny, nz).permute(0, 1, 5, 2, 6, 3, 7, 4)
    return cut.reshape(b, c, nx * block, ny * block, nz * block)


def upsample(volume: torch.Tensor) -> torch.Tensor:
    """Nearest-neighbour upsampling by two."""
    return functional.interpolate(volume, scale_factor=2.0, mode="nearest")
