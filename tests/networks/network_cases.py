"""Small trained-looking networks and heads that the tests of running networks share."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import nn

from qsmprep.core.dipole import forward_field
from qsmprep.core.grid import Grid
from qsmprep.networks.base import QSMNetwork
from qsmprep.networks.card import Card
from qsmprep.networks.weights import save
from qsmprep.networks.zoo import build

RANGES = {
    "in_plane_mm": (0.4, 1.3),
    "slice_mm": (0.4, 4.0),
    "tilt_deg": (0.0, 54.0),
    "noise_ppm": (0.0005, 0.006),
}
CONFIGS = {
    "conenet": {"base": 8, "depth": 2, "iterations": 2, "shuffle": 2, "guided": True},
    "loopnet": {"base": 4, "iterations": 2, "shuffle": 2},
    "metaqsm": {"base": 4, "depth": 3, "basis": 2, "shuffle": 2},
    "qsminvnet": {"base": 4, "inputs": "variation", "shuffle": 2},
    "pedqnet": {"filters": [8, 12, 16], "inputs": "variation", "shuffle": 2},
}
NAMES = tuple(CONFIGS)


def lively(name: str, seed: int = 0, config: dict | None = None) -> QSMNetwork:
    """A network whose random weights all matter: outputs of about the size of a map, statistics not 0 and 1."""
    torch.manual_seed(seed)
    network = build(name, CONFIGS[name] if config is None else config)
    for key, tensor in network.state_dict().items():
        if "running_mean" in key:
            tensor.normal_(0.0, 0.3)
        elif "running_var" in key:
            tensor.uniform_(0.5, 2.0)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm3d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.3)
    head = network.head
    with torch.no_grad():
        (head.kernel.bias if name == "metaqsm" else head.weight).normal_(0.0, 0.1)
        (head.bias.bias if name == "metaqsm" else head.bias).normal_(0.0, 0.1)
    return network.eval()


def card_of(name: str, config: dict | None = None, **values: object) -> Card:
    """A card with the ranges above."""
    return Card(name, name.title(), CONFIGS[name] if config is None else config, RANGES, **values)  # type: ignore[arg-type]


def write_all(folder: Path) -> Path:
    """Weights of all networks in a folder."""
    for name in NAMES:
        save(lively(name), card_of(name, training={"steps": 7}), folder)
    return folder


def head(grid: Grid, seed: int = 0, noise_ppm: float = 0.002) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """An ellipsoid with smaller ones inside, and a lesion: field_ppm, mask, chi_ppm."""
    rng = np.random.default_rng(seed)
    place = np.stack(np.meshgrid(*((np.arange(n) + 0.5) / n - 0.5 for n in grid.shape), indexing="ij"))

    def inside(centre, radii):
        return (((place - np.reshape(centre, (3, 1, 1, 1))) / np.reshape(radii, (3, 1, 1, 1))) ** 2).sum(0) <= 1

    mask = inside((0, 0, 0), (0.47, 0.47, 0.47))
    chi = np.where(inside((0.02, 0, 0), (0.32, 0.3, 0.34)), -0.03, 0.02)
    for _ in range(8):
        chi[inside(rng.uniform(-0.22, 0.22, 3), rng.uniform(0.05, 0.13, 3))] = rng.uniform(0.04, 0.16)
    chi[inside((0.1, -0.1, 0.12), (0.07, 0.06, 0.07))] = -0.2
    chi = (chi * mask).astype(np.float32)
    field = forward_field(chi, grid) + rng.normal(0, noise_ppm, grid.shape)
    return (field * mask).astype(np.float32), mask, chi


def nrmse(chi: np.ndarray, truth: np.ndarray, mask: np.ndarray) -> float:
    """Demeaned error over demeaned truth in the mask."""
    x, t = chi[mask] - chi[mask].mean(), truth[mask] - truth[mask].mean()
    return float(np.linalg.norm(x - t) / np.linalg.norm(t))
