"""The brain of the template and the distance to its surface, in template space."""

from __future__ import annotations

import functools
import warnings
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

PAD_MM = 48
"""How far the distance map reaches beyond the template's box."""


@dataclass(frozen=True)
class Template:
    """Tissue shares of the template brain and the signed distance to its envelope.

    Parameters
    ----------
    grey, white, t1 : (nx, ny, nz) float32 array
        Shares of grey and white matter and the T1-weighted brain, all 0 to 1.
    affine : (4, 4) float array
        Voxels of these to MNI152 coordinates in mm (RAS+).
    distance_mm : (mx, my, mz) float32 array
        Distance to the envelope of the brain (sulci and ventricles inside it), negative inside.
    distance_affine : (4, 4) float array
        Voxels of ``distance_mm`` to MNI152 coordinates.

    References
    ----------
    .. [1] Fonov et al., NeuroImage 54:313 (2011), doi:10.1016/j.neuroimage.2010.07.033
    """

    grey: NDArray[np.float32]
    white: NDArray[np.float32]
    t1: NDArray[np.float32]
    affine: NDArray[np.float64]
    distance_mm: NDArray[np.float32]
    distance_affine: NDArray[np.float64]


@functools.lru_cache(maxsize=1)
def load_template() -> Template:
    """The symmetric ICBM 2009a template that nilearn carries; nothing is fetched."""
    from nilearn import datasets

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        t1 = datasets.load_mni152_template(resolution=1)
        grey = datasets.load_mni152_gm_template(resolution=1)
        white = datasets.load_mni152_wm_template(resolution=1)
    maps = [np.asarray(image.dataobj, dtype=np.float32) for image in (grey, white, t1)]
    distance, affine = _envelope_distance(maps[2], t1.affine)
    return Template(maps[0], maps[1], maps[2], np.asarray(t1.affine, dtype=float), distance, affine)


def _envelope_distance(
    t1: NDArray[np.float32], affine: NDArray[np.float64], step: int = 2
) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Signed distance in mm to the closed surface of the brain, at ``step`` mm, and its affine."""
    brain = ndimage.uniform_filter(np.pad(t1, PAD_MM), step)[::step, ::step, ::step] > 0.2
    ball = ndimage.distance_transform_edt(~brain) * step
    closed = ndimage.distance_transform_edt(ball <= 8.0) * step > 8.0
    closed = ndimage.binary_fill_holes(closed | brain)
    distance = ndimage.distance_transform_edt(~closed) - ndimage.distance_transform_edt(closed)
    distance = ndimage.gaussian_filter(distance.astype(np.float32), 1.0) * step
    shifted = affine.copy()
    shifted[:3, :3] = affine[:3, :3] * step
    # uniform_filter of an even size is centred half a voxel before its index
    shifted[:3, 3] = affine[:3, 3] - affine[:3, :3] @ np.full(3, PAD_MM + 0.5 * (step == 2))
    return distance, shifted
