"""Random fields and shapes on a patch: what synthetic susceptibility is drawn with."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch.nn import functional

Shape = tuple[int, int, int]


@dataclass(frozen=True)
class Dice:
    """Random numbers on one device, from one seed.

    Parameters
    ----------
    generator : torch.Generator
        Its device is that of every tensor drawn.
    host : torch.Generator
        On the CPU, for single numbers: reading those off a GPU would wait for it every time.
    """

    generator: torch.Generator
    host: torch.Generator

    @classmethod
    def of(cls, seed: int, device: torch.device | str = "cpu") -> Dice:
        """From a seed."""
        generator = torch.Generator(device=device).manual_seed(seed)
        host = generator if generator.device.type == "cpu" else torch.Generator().manual_seed(seed)
        return cls(generator, host)

    @property
    def state(self) -> list[torch.Tensor]:
        """What :meth:`restore` goes on from."""
        return [self.generator.get_state(), self.host.get_state()]

    def restore(self, state: list[torch.Tensor]) -> None:
        """Go on from a state."""
        self.generator.set_state(state[0].cpu())
        self.host.set_state(state[-1].cpu())

    @property
    def device(self) -> torch.device:
        """Where numbers are drawn."""
        return self.generator.device

    def uniform(self, low: float, high: float, size: tuple[int, ...] = ()) -> torch.Tensor:
        """Uniform numbers."""
        return torch.rand(size, generator=self.generator, device=self.device) * (high - low) + low

    def normal(self, size: tuple[int, ...] = ()) -> torch.Tensor:
        """Normal numbers."""
        return torch.randn(size, generator=self.generator, device=self.device)

    def bell(self) -> float:
        """One normal number."""
        return float(torch.randn((), generator=self.host))

    def number(self, low: float, high: float) -> float:
        """One uniform number."""
        return float(torch.rand((), generator=self.host)) * (high - low) + low

    def log_number(self, low: float, high: float) -> float:
        """One number whose logarithm is uniform."""
        return math.exp(self.number(math.log(low), math.log(high)))

    def integer(self, low: int, high: int) -> int:
        """One integer from ``low`` to ``high``, both included."""
        return int(torch.randint(low, high + 1, (), generator=self.host))

    def chance(self, probability: float) -> bool:
        """True with a probability."""
        return self.number(0.0, 1.0) < probability

    def sign(self) -> float:
        """1 or -1."""
        return 1.0 if self.chance(0.5) else -1.0


def smooth_noise(dice: Dice, shape: Shape, scale: tuple[float, float, float], channels: int = 1) -> torch.Tensor:
    """Random fields with unit spread that vary over ``scale`` voxels, ``(channels, nx, ny, nz)``."""
    coarse = [max(2, math.ceil(n / max(s, 1.0)) + 1) for n, s in zip(shape, scale, strict=True)]
    noise = dice.normal((1, channels, *coarse))
    field = functional.interpolate(noise, size=shape, mode="trilinear", align_corners=True)[0]
    return field / field.flatten(1).std(dim=1).clamp_min(1e-6).view(-1, 1, 1, 1)


def gaussian(volume: torch.Tensor, sigma: tuple[float, float, float]) -> torch.Tensor:
    """Separable Gaussian blur of ``(nx, ny, nz)``, ``sigma`` in voxels, zero beyond the edges."""
    result = volume
    for axis, width in enumerate(sigma):
        if width < 0.2:
            continue
        n = volume.shape[axis]
        radius = min(n - 1, max(1, math.ceil(2.5 * width)))
        taps = [math.exp(-0.5 * (offset / width) ** 2) for offset in range(radius + 1)]
        total = taps[0] + 2 * sum(taps[1:])
        blurred = result * (taps[0] / total)
        for offset in range(1, radius + 1):
            tap = taps[offset] / total
            blurred.narrow(axis, offset, n - offset).add_(result.narrow(axis, 0, n - offset), alpha=tap)
            blurred.narrow(axis, 0, n - offset).add_(result.narrow(axis, offset, n - offset), alpha=tap)
        result = blurred
    return result


def erode(mask: torch.Tensor, times: int) -> torch.Tensor:
    """A bool mask without its outermost layers; the edge of the array counts as outside."""
    outside = functional.pad((~mask).float(), (1,) * 6, value=1.0)
    for _ in range(times):
        outside = thicken(outside)
    return outside[1:-1, 1:-1, 1:-1] < 0.5


def thicken(volume: torch.Tensor) -> torch.Tensor:
    """Largest value among the 27 neighbours; axis by axis, several times as fast on a CPU as pooling."""
    for axis in range(3):
        n = volume.shape[axis]
        wide = volume.clone()
        for to, of in ((0, 1), (1, 0)):
            part = wide.narrow(axis, to, n - 1)
            torch.maximum(part, volume.narrow(axis, of, n - 1), out=part)
        volume = wide
    return volume


def coordinates(shape: Shape, voxel_mm: tuple[float, float, float], device: torch.device) -> torch.Tensor:
    """Positions in mm from the centre of the patch, ``(3, nx, ny, nz)``."""
    axes = [
        (torch.arange(n, device=device, dtype=torch.float32) - (n - 1) / 2) * mm
        for n, mm in zip(shape, voxel_mm, strict=True)
    ]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"))


def rotation(dice: Dice, max_deg: float = 180.0) -> torch.Tensor:
    """A rotation about a random axis by a random angle up to ``max_deg``, ``(3, 3)``, on the CPU."""
    axis = torch.randn((3,), generator=dice.host)
    x, y, z = (axis / axis.norm().clamp_min(1e-6)).tolist()
    angle = math.radians(dice.number(-max_deg, max_deg))
    cross = torch.tensor([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])
    return torch.eye(3) + math.sin(angle) * cross + (1 - math.cos(angle)) * (cross @ cross)


def mean_in(volume: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Mean in a mask, without waiting for the device as picking its voxels would."""
    return (volume * mask).sum() / mask.sum().clamp_min(1)


def spread_in(volume: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Standard deviation in a mask, without waiting for the device."""
    return mean_in((volume - mean_in(volume, mask)).square(), mask).sqrt()


def shape_mask(dice: Dice, where_mm: torch.Tensor, centre: torch.Tensor, radii_mm: tuple[float, float]) -> torch.Tensor:
    """A rotated ellipsoid, cuboid or cylinder with random half-axes, bool ``(nx, ny, nz)``."""
    half = torch.tensor([dice.number(*radii_mm) for _ in range(3)])
    turn = (rotation(dice) / half.view(3, 1)).to(where_mm.device)
    offset = where_mm.flatten(1) - centre.view(3, 1)
    scaled = (turn @ offset).abs_()
    kind = dice.integer(0, 3)
    if kind <= 1:
        inside = scaled.square_().sum(dim=0) < 1
    elif kind == 2:
        inside = scaled.amax(dim=0) < 0.8
    else:
        inside = (scaled[:2].square_().sum(dim=0) < 1) & (scaled[2] < 1)
    return inside.view(where_mm.shape[1:])


def vessels(dice: Dice, shape: Shape, voxel_mm: tuple[float, float, float], count: int) -> torch.Tensor:
    """Tubes along smooth random walks, from 0 (outside) to 1 (filled), ``(nx, ny, nz)``."""
    length, step_mm = 160, 0.5
    device = dice.device
    extent = torch.tensor([n * mm for n, mm in zip(shape, voxel_mm, strict=True)], device=device)
    heading = torch.cumsum(dice.normal((count, length, 3)) * 0.25, dim=1) + 1.2 * dice.normal((count, 1, 3))
    heading = heading / heading.norm(dim=2, keepdim=True).clamp_min(1e-6)
    path = torch.cumsum(heading * step_mm, dim=1) + dice.uniform(0, 1, (count, 1, 3)) * extent
    edges = torch.tensor(voxel_mm, device=device)
    index = torch.floor(path / edges).long().view(-1, 3)
    limits = torch.tensor(shape, device=device)
    held = ((index >= 0) & (index < limits)).all(dim=1)
    x, y, z = index.clamp_min(0).minimum(limits - 1).unbind(1)
    volume = torch.zeros(shape, device=device)
    volume.view(-1).scatter_reduce_(0, (x * shape[1] + y) * shape[2] + z, held.float(), "amax")
    radius_mm = dice.number(0.3, 1.2)
    sigma = tuple(max(0.3, radius_mm / mm) for mm in voxel_mm)
    return (gaussian(volume, sigma) * dice.number(3.0, 8.0)).clamp_max(1.0)  # type: ignore[arg-type]
