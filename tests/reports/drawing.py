"""A drawn head (not a simulation): smooth enough to look at, with faults that can be put in."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from qsmprep.core.dipole import forward_field
from qsmprep.core.grid import Grid
from qsmprep.core.units import hz_per_ppm


@dataclass(frozen=True)
class Head:
    """Arrays of one drawn head along RAS axes, and what was put in."""

    affine: np.ndarray
    grid: Grid
    brain: np.ndarray
    qsm: np.ndarray
    magnitude: np.ndarray
    chi_ppm: np.ndarray
    local_ppm: np.ndarray
    total_hz: np.ndarray
    r2star_hz: np.ndarray
    te_s: tuple[float, ...]

    def phase_rad(self, te_s: float) -> np.ndarray:
        """Unwrapped phase at an echo time."""
        return (2 * np.pi * self.total_hz * te_s).astype(np.float32)


def ball(x, y, z, centre, radii):
    """Ellipsoid in mm."""
    return sum(((a - c) / r) ** 2 for a, c, r in zip((x, y, z), centre, radii, strict=True)) < 1


def draw_head(shape=(40, 48, 36), voxel_mm=(4.4, 4.2, 4.6), b0_t=3.0, seed=0) -> Head:
    """Draw a head on any grid; the default is coarse, for tests."""
    rng = np.random.default_rng(seed)
    voxel = np.asarray(voxel_mm, float)
    origin = -voxel * (np.asarray(shape) - 1) / 2
    affine = np.diag([*voxel, 1.0])
    affine[:3, 3] = origin
    x, y, z = (
        np.broadcast_to(
            (origin[a] + voxel[a] * np.arange(shape[a])).reshape([-1 if b == a else 1 for b in range(3)]), shape
        )
        for a in range(3)
    )
    head = ball(x, y, z, (0, 0, -4), (78, 92, 76))
    brain = ball(x, y, z, (0, 0, 4), (66, 82, 60)) & (z > -48)
    qsm = ball(x, y, z, (0, 0, 4), (62, 78, 56)) & (z > -44)
    folds = np.sin(x / 7) * np.cos(y / 8) * np.sin(z / 7.5 + 1)
    cortex = brain & ~ball(x, y, z, (0, 0, 4), (52, 68, 48)) | (brain & (folds > 0.45))
    chi = np.where(brain, np.where(cortex, 0.02, -0.02), 0.0)
    m0, r2star = np.where(head, 0.35, 0.0), np.where(head, 25.0, 0.0)
    m0 = np.where(brain, np.where(cortex, 1.0, 0.8), m0)
    r2star = np.where(brain, np.where(cortex, 17.0, 22.0), r2star)
    for side in (-1, 1):
        for centre, radii, value, rate in (
            ((9, 8, 14), (6, 22, 9), 0.0, 4.0),
            ((15, 18, 12), (5, 14, 9), 0.06, 27.0),
            ((26, 8, 4), (6, 14, 9), 0.06, 27.0),
            ((19, 4, 0), (5, 9, 6), 0.15, 42.0),
            ((5, -14, -12), (4, 4, 4), 0.12, 40.0),
            ((16, -52, -30), (7, 6, 5), 0.1, 36.0),
        ):
            where = ball(x, y, z, (side * centre[0], *centre[1:]), radii) & brain
            chi, r2star = np.where(where, value, chi), np.where(where, rate, r2star)
            m0 = np.where(where & (rate < 10), 1.3, m0)
    chi = np.where(brain, chi - chi[qsm].mean(), 0).astype(np.float32)
    grid = Grid.from_affine(shape, affine)
    local = forward_field(chi, grid)
    air = np.where(ball(x, y, z, (0, 62, -44), (16, 14, 12)), 9.4, 0.0)
    total = (local + forward_field(air, grid) + 2e-3 * z + 1e-5 * (x**2 - y**2)) * hz_per_ppm(b0_t)
    te_s = (0.004, 0.012, 0.020)
    magnitude = m0 * np.exp(-te_s[0] * r2star) * (1 - 0.25 * (y - 20) / 100) * 800
    magnitude = np.abs(magnitude + rng.normal(0, 10, shape) + 1j * rng.normal(0, 10, shape))
    return Head(
        affine,
        grid,
        brain,
        qsm & brain,
        magnitude.astype(np.float32),
        chi,
        local.astype(np.float32),
        total.astype(np.float32),
        r2star.astype(np.float32),
        te_s,
    )
