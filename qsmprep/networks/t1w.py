"""The deep grey nuclei on a T1-weighted image, or on one of another contrast, by the trained UNETR."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import torch
from numpy.typing import NDArray

from qsmprep.core.atlas import Sighting
from qsmprep.core.grid import Grid, bounding_box
from qsmprep.core.masking.resample import isotropic_grid, resample
from qsmprep.core.registration import Volume
from qsmprep.errors import DataError, NotSeenError
from qsmprep.networks.card import Card
from qsmprep.networks.segmentation import CODES, found_by, normalised
from qsmprep.networks.weights import load

LEAST = 0.01
"""Probability of any nucleus from which on a voxel is kept."""

LEAST_MM3 = 2000.0
"""All nuclei together have at least this volume in mm^3; those of a newborn have several times as much."""

ROOM = 40
"""Voxels that the window may move from where it begins."""

MARGIN = 4
"""Voxels that are kept around them."""


def sight(
    head: Volume,
    brain: NDArray[np.bool_],
    near: NDArray[np.bool_],
    *,
    weights: str = "",
    device: str = "cpu",
) -> tuple[Sighting, Card]:
    """Probabilities of caudate, putamen, pallidum and thalamus, left and right, on an image of a head.

    Parameters
    ----------
    head : Volume
        T1-weighted image, or one of another contrast; not negative.
    brain : (nx, ny, nz) bool array
        Its brain; intensities are divided by their 99th percentile in it.
    near : (nx, ny, nz) bool array
        Where nuclei may be: the window of the network begins at the middle of it.
    weights : str
        Folder of the weights; empty for those shipped.
    device : str
        Torch device.

    Returns
    -------
    Sighting
        In the scanner space of the head, on cubes of the network's voxel size around what was found.
    Card
        Of the weights.

    Raises
    ------
    DataError
        When shapes differ, ``brain`` or ``near`` is empty, or no nucleus is found.
    MissingFileError
        When the weights are not there.
    OutOfMemoryError
        When memory does not suffice.
    """
    if not head.data.shape == brain.shape == near.shape:
        raise DataError(f"head {head.data.shape}, brain {brain.shape}, place {near.shape} differ", expected="one shape")
    if not brain.any() or not near.any():
        raise DataError("there is no brain, or no place to look at", expected="masks that are not empty")
    network, card = load("subcortical_t1w", weights, device)
    turn = nib.orientations.io_orientation(head.affine)
    image, inside, place = (
        np.ascontiguousarray(nib.orientations.apply_orientation(v, turn)) for v in (head.data, brain, near)
    )
    affine = head.affine @ nib.orientations.inv_ornt_aff(turn, head.data.shape)
    grid = Grid.from_affine(image.shape, affine)
    work = isotropic_grid(grid, network.voxel_mm)
    seen, share, about = (
        torch.from_numpy(resample(np.asarray(v, np.float32), grid, work)) for v in (np.maximum(image, 0), inside, place)
    )
    about = about >= about.max() / 2
    reach = network.window // 2 + ROOM  # more than the window will move over
    part = tuple(
        slice(max(0, round(float(i.float().mean())) - reach), round(float(i.float().mean())) + reach)
        for i in about.nonzero(as_tuple=True)
    )
    seen, about = normalised(seen, share > 0.5)[part].to(device), about[part].to(device)
    shares = torch.softmax(found_by(network, seen[None], about, search=False), dim=0).cpu().numpy()
    if np.count_nonzero(shares.argmax(axis=0)) * work.voxel_volume_mm3 < LEAST_MM3:
        raise NotSeenError(
            "no deep grey nuclei were found on the image", expected="a head that holds the basal ganglia"
        )
    box = bounding_box(shares[0] < 1 - LEAST)
    at = tuple(slice(max(0, s.start - MARGIN), s.stop + MARGIN) for s in box)
    corner = np.array([p.start + s.start for p, s in zip(part, at, strict=True)])
    scale = np.asarray(work.voxel_mm) / np.asarray(grid.voxel_mm)
    to_grid = np.diag([*scale, 1.0])  # both grids have one centre
    to_grid[:3, 3] = (np.asarray(grid.shape) - 1) / 2 - scale * (np.asarray(work.shape) - 1) / 2
    to_grid[:3, 3] += scale * corner
    return Sighting(shares[(slice(None), *at)], affine @ to_grid, CODES), card
