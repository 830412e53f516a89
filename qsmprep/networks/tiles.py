"""Calling a function of volumes in overlapping tiles whose results are blended."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch


@dataclass(frozen=True)
class Tiles:
    """Calls a function of ``(batch, channels, nx, ny, nz)`` volumes in tiles.

    Tiles begin at multiples of ``align``, so that poolings fall on the same voxels as in the whole
    volume. Over the outer quarters of an overlap the deeper tile counts alone, over its middle half
    two tiles are blended. Convolutions see zeros beyond their tile, which is what the difference
    to the whole volume comes from; attention planes that span the volume (GHPA) span the tile.

    Parameters
    ----------
    edge : int or (3,) tuple of int
        Of a tile with its overlap, in voxels of the volumes, along all axes or each; multiples of ``align``. 0 means
        no tiles.
    overlap : int
        Of neighbouring tiles, less than ``edge``; a multiple of ``align``.
    align : int
        See above.
    """

    edge: int | tuple[int, int, int] = 0
    overlap: int = 0
    align: int = 1

    def edges(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Lengths of a tile of a volume along each axis."""
        wanted = (self.edge,) * 3 if isinstance(self.edge, int) else self.edge
        return tuple(min(edge, n) if edge > 0 else n for edge, n in zip(wanted, shape[-3:], strict=True))

    def count(self, shape: tuple[int, ...]) -> int:
        """How many tiles a volume is cut into."""
        return math.prod(len(self._starts(*pair)) for pair in zip(shape[-3:], self.edges(shape), strict=True))

    def _starts(self, n: int, edge: int) -> list[int]:
        return [0] if edge >= n else [*range(0, n - edge, edge - self.overlap), n - edge]

    def _shares(self, n: int, edge: int) -> list[torch.Tensor]:
        """How much each tile along an axis counts at each of its voxels; the shares of a voxel add up to one."""
        starts = self._starts(n, edge)
        total, windows = torch.zeros(n), []
        for start in starts:
            place = torch.arange(edge) + 0.5
            left = place if start > 0 else torch.full_like(place, n)
            right = edge - place if start + edge < n else torch.full_like(place, n)
            depth = (torch.minimum(left, right) - 0.25 * self.overlap) / max(0.5 * self.overlap, 1.0)
            depth = depth.clamp(0, 1)
            window = depth * depth * (3 - 2 * depth) + 1e-6
            total[start : start + edge] += window
            windows.append(window)
        return [w / total[s : s + edge] for s, w in zip(starts, windows, strict=True)]

    def places(self, shape: tuple[int, ...]) -> Iterator[tuple[tuple[slice, ...], torch.Tensor]]:
        """Where each tile lies, and its share ``(nx, ny, nz)``."""
        pairs = zip(shape[-3:], self.edges(shape), strict=True)
        axes = [list(zip(self._starts(*pair), self._shares(*pair), strict=True)) for pair in pairs]
        for (x, sx), (y, sy), (z, sz) in product(*axes):
            where = (slice(x, x + len(sx)), slice(y, y + len(sy)), slice(z, z + len(sz)))
            yield (..., *where), sx[:, None, None] * sy[:, None] * sz  # type: ignore[misc]

    def __call__(self, function: Callable[..., Any], *inputs: Any) -> Any:
        """What ``function`` gives for the volumes among ``inputs``; the rest of them it gets as they are.

        Parameters
        ----------
        function : callable
            Its result is a volume, or a list of volumes, of the same lengths as its first input.
        *inputs
            The first is a volume.
        """
        shape = inputs[0].shape[-3:]
        if self.count(shape) == 1:
            return function(*inputs)
        totals: list[torch.Tensor] = []
        single = False
        for where, share in self.places(shape):
            cut = [i[where] if torch.is_tensor(i) and i.dim() == 5 else i for i in inputs]
            results = function(*cut)
            single = torch.is_tensor(results)
            results = [results] if single else results
            if not totals:
                totals = [r.new_zeros(*r.shape[:2], *shape) for r in results]
            for total, result in zip(totals, results, strict=True):
                total[where] += result * share.to(result)
        return totals[0] if single else totals
