"""Multi-echo signals with a known field, and the 48 ways to store a volume."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from qsmprep.core.grid import Grid

DATA = Path(__file__).parents[2] / "../shared/data"
ORIENTATIONS = [
    (order, flips) for order in itertools.permutations(range(3)) for flips in itertools.product((False, True), repeat=3)
]


def turn(array, order, flips):
    """Permute and flip the last three axes."""
    lead = array.ndim - 3
    turned = np.transpose(array, [*range(lead), *(lead + axis for axis in order)])
    return np.ascontiguousarray(np.flip(turned, [lead + axis for axis, flip in enumerate(flips) if flip]))


def turn_grid(grid, order):
    return Grid(tuple(grid.shape[axis] for axis in order), tuple(grid.voxel_mm[axis] for axis in order))


@dataclass(frozen=True)
class Echoes:
    """What was put in, and the images that came of it."""

    field_hz: np.ndarray
    offset_rad: np.ndarray
    r2star_hz: np.ndarray
    true_rad: np.ndarray
    phase_rad: np.ndarray
    magnitude: np.ndarray
    mask: np.ndarray
    te_s: list[float]
    grid: Grid


def simulate(te_s, *, shape=(22, 25, 19), noise=0.0, offset=True, seed=0):
    """A ball with a smooth field of some wraps, a linear offset and decay; air around it."""
    x, y, z = np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing="ij")
    field_hz = 90 * x * x - 105 * y + 45 * z * x
    offset_rad = (0.9 * x - 0.6 * y + 0.4) * offset
    r2star_hz = 30 + 15 * z
    mask = x**2 + y**2 + z**2 < 0.95
    t = np.asarray(te_s)[:, None, None, None]
    true_rad = 2 * np.pi * field_hz * t + offset_rad
    rng = np.random.default_rng(seed)
    complex_noise = rng.normal(size=true_rad.shape) + 1j * rng.normal(size=true_rad.shape)
    signal = np.where(mask, 1 + 0.3 * x, 0) * np.exp(-t * r2star_hz + 1j * true_rad) + noise * complex_noise
    return Echoes(
        field_hz, offset_rad, r2star_hz, true_rad,
        np.angle(signal).astype(np.float32), np.abs(signal).astype(np.float32),
        mask, list(te_s), Grid(shape, (2.0, 2.5, 3.0)),
    )  # fmt: skip


def romeo_crop():
    """The real three-echo crop as stored, with what its header says, or a skip."""
    phase_file, magnitude_file = DATA / "romeo-crop/Phase.nii.gz", DATA / "romeo-crop/Mag.nii.gz"
    if not phase_file.exists():
        pytest.skip("the shared test data are not here")
    image = nib.load(phase_file)
    raw = np.asarray(image.dataobj.get_unscaled())
    header = {
        "raw_range": (float(raw.min()), float(raw.max())),
        "slope": float(image.dataobj.slope),
        "inter": float(image.dataobj.inter),
        "dtype": str(raw.dtype),
    }
    stored = np.moveaxis(image.get_fdata(), -1, 0)
    magnitude = np.moveaxis(nib.load(magnitude_file).get_fdata(dtype=np.float32), -1, 0)
    return stored, header, magnitude, [0.004, 0.008, 0.012], Grid.from_affine(image.shape, image.affine)
