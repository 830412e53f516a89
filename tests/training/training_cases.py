"""Small label maps, susceptibility maps and configurations for the tests of training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import yaml

from qsmprep.training.config import TrainParams, from_mapping

TINY: dict[str, Any] = {
    "network": "metaqsm",
    "model": {"base": 4, "depth": 2, "basis": 2, "shuffle": 2},
    "patches": [[16, 16, 16], [24, 16, 16]],
    "batch": 1,
    "steps": 4,
    "warmup": 2,
    "validate_every": 2,
    "precision": "float32",
    "hold_out": ["head_2"],
}
"""A configuration whose steps take milliseconds."""


def tiny(**changes: Any) -> TrainParams:
    """`TINY` with changes."""
    return from_mapping(TrainParams, {**TINY, **changes})


def write_recipe(path: Path, **changes: Any) -> Path:
    """`TINY` with changes, as a file."""
    path.write_text(yaml.safe_dump({**TINY, **changes}), encoding="utf-8")
    return path


def head_codes(n: int = 40) -> np.ndarray:
    """FreeSurfer codes of a toy head: nested shells, a nucleus on the first axis' positive side only."""
    x, y, z = np.meshgrid(*3 * [np.linspace(-1, 1, n)], indexing="ij")
    radius = np.sqrt(x**2 + y**2 + z**2)
    codes = np.zeros((n, n, n), dtype=np.int16)
    codes[radius < 0.75] = 24
    codes[radius < 0.7] = 3
    codes[radius < 0.5] = 2
    codes[radius < 0.2] = 4
    codes[(x - 0.4) ** 2 + y**2 + z**2 < 0.03] = 12
    return codes


def write_head(path: Path, codes: np.ndarray | None = None, voxel_mm: float = 3.0) -> Path:
    """A label map whose first array axis points to the left."""
    codes = head_codes() if codes is None else codes
    affine = np.diag([-voxel_mm, voxel_mm, voxel_mm, 1.0])
    nib.save(nib.Nifti1Image(codes, affine), path)
    return path


def write_heads(folder: Path, names: tuple[str, ...] = ("head_1", "head_2")) -> Path:
    """A folder of label maps."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        write_head(folder / f"{name}.nii.gz")
    return folder


def write_chi(path: Path, scale: float = 1.0) -> Path:
    """A susceptibility map with two values, 0.1 and 0.2 ppm, in a ball; zero outside."""
    x, y, z = np.meshgrid(*3 * [np.linspace(-1, 1, 48)], indexing="ij")
    chi = np.where(x > 0, 0.2, 0.1) * (x**2 + y**2 + z**2 < 0.9)
    nib.save(nib.Nifti1Image((scale * chi).astype(np.float32), np.diag([2.0, 2.0, 2.0, 1.0])), path)
    return path
