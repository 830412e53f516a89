"""How large the tiles may be that a network is run in."""

from __future__ import annotations

import math
from itertools import product

import torch

from qsmprep.networks.base import QSMNetwork
from qsmprep.networks.ghpa import GHPA
from qsmprep.networks.metaqsm import WPConv
from qsmprep.networks.tiles import Tiles
from qsmprep.settings import usable_memory_gb

OVERLAP = 32
"""Overlap of neighbouring tiles in voxels, at least.

On a head of 130 x 150 x 110 voxels, tiles of 64 and 96 voxels changed the maps of half-trained networks by
3.7 and 2.4 % of their spread (LoopNet, whose attention planes span the tile), 3.0 and 1.6 % (Meta-QSM) and
0.01 % (ConeNet).
"""

PHYSICS_BYTES = 270
"""Memory of the transforms per voxel of the volume: 94 to 123 measured, 230 to 259 by the start
from total variation alone; networks of
``inputs: variation`` hold up to nine volumes more, which is added and not measured."""

WORKING_BYTES = 45
"""Memory of the convolutions per voxel and channel of the first level: 35 to 42 measured."""

ATTENTION_BYTES = 54
"""The same with GHPA: 51 to 57 measured where freed memory is kept, 47 else. With the memory of the transforms, which
is not needed at the same time, that is more than the 1055 bytes a voxel that LoopNet took in all."""

FINE_BYTES = 25
"""Memory of ConeNet's stage on the full grid per voxel of a slab of that grid and channel: 21 measured."""

SHARE = 0.8
"""Part of the free memory that is planned with."""

CPU_LIMIT = 5.5e9
"""Most that is planned with on a CPU, where other steps run beside this one."""


def plan_tiles(network: QSMNetwork, shape: tuple[int, ...], tile: int, device: torch.device) -> Tiles:
    """Tiles of ``tile`` voxels, or (0) the whole volume where memory allows it, else those that fit with least work.

    Parameters
    ----------
    network : QSMNetwork
        To be run.
    shape : (3,) tuple of int
        Lengths of its input channels, after space to depth.
    tile : int
        Edge in voxels of the image; rounded up to what the network can take.
    device : torch.device
        Whose memory counts.
    """
    align, overlap = _steps(network)
    if tile > 0:
        edge = -(-tile // network.shuffle // align) * align
        return Tiles(max(edge, overlap + align), overlap, align)
    voxels = math.prod(shape)
    full = voxels * network.shuffle**3
    free = SHARE * free_bytes(device) - PHYSICS_BYTES * full - fine_bytes(network, shape)
    need = working_bytes(network)
    if need * voxels <= free:
        return Tiles(0, overlap, align)
    return Tiles(_cheapest(shape, free / need, align, overlap), overlap, align)


def _cheapest(shape: tuple[int, ...], most: float, align: int, overlap: int) -> tuple[int, int, int]:
    """Edges of tiles of at most so many voxels that cover a volume with the fewest voxels in all; else the least."""
    least = overlap + align
    axes: list[list[tuple[int, int]]] = []  # of every axis: the edge, and the voxels of its row of tiles
    for n in shape:
        choices = [(n, n)]
        for count in range(2, n // align + 1):
            edge = -(-(n + (count - 1) * overlap) // count // align) * align
            if edge < least:
                break
            choices.append((edge, count * edge))
            if edge == least:
                break
        axes.append(choices)
    fitting = [tiles for tiles in product(*axes) if math.prod(edge for edge, _ in tiles) <= most]
    if not fitting:
        return (least, least, least)
    best = min(fitting, key=lambda tiles: (math.prod(row for _, row in tiles), -min(edge for edge, _ in tiles)))
    x, y, z = (edge for edge, _ in best)
    return x, y, z


def smaller(network: QSMNetwork, tiles: Tiles, shape: tuple[int, ...]) -> Tiles | None:
    """Tiles of about half the edge; None when there are none."""
    align, overlap = _steps(network)
    now = max(tiles.edges(shape))
    edge = max(now // 2 // align * align, overlap + align)
    return Tiles(edge, overlap, align) if edge < now else None


def _steps(network: QSMNetwork) -> tuple[int, int]:
    """What tile edges are multiples of, and the overlap, in voxels of the input channels."""
    align = network.stride // network.shuffle
    return align, max(align, -(-OVERLAP // network.shuffle // align) * align)


def working_bytes(network: QSMNetwork) -> float:
    """Memory in bytes per voxel of the input channels that the convolutions need."""
    head = network.head
    width = head.shape[1] if isinstance(head, WPConv) else head.in_channels
    attention = any(isinstance(module, GHPA) for module in network.modules())
    return width * (ATTENTION_BYTES if attention else WORKING_BYTES)


def fine_bytes(network: QSMNetwork, shape: tuple[int, ...]) -> float:
    """Memory in bytes that a stage on the full grid needs for input channels of such lengths; 0 without one."""
    fine = getattr(network, "fine", None)
    return 0 if fine is None else FINE_BYTES * fine.entry.out_channels * fine.most_voxels(shape)


def free_bytes(device: torch.device) -> float:
    """Memory in bytes that may still be used on a device."""
    if device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[0])
    return min(1e9 * usable_memory_gb(), CPU_LIMIT / SHARE)
