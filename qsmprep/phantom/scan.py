"""Put a subject into the scanner: gradient-echo images with their truth, and a T1-weighted image."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import nibabel.orientations as nio
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from qsmprep.core.grid import Grid, bounding_box
from qsmprep.core.kspace import box_average
from qsmprep.core.simulate import (
    Acquired,
    acquire,
    anisotropic_field,
    centred_mm,
    head_field,
    local_field,
    shim_field,
    spoiled_signal,
)
from qsmprep.errors import DataError
from qsmprep.phantom.anatomy import label_index
from qsmprep.phantom.canvas import Slices, Volume, rotation
from qsmprep.phantom.head import HeadModel, build_head
from qsmprep.phantom.subject import Subject

HEAD_BOX_MM = ((-92.0, 92.0), (-118.0, 118.0), (-185.0, 94.0))
"""Scanner coordinates of what is magnetised: head and neck, also where the field of view ends before."""

OVERSAMPLING = 1.3
"""Fewest fine voxels per acquired voxel along each axis."""

FIBRE_MM = 9.0
"""Scale on which the fibres of white matter turn."""


@dataclass(frozen=True)
class Protocol:
    """How the stack is placed and sampled, and the gradient-echo sequence.

    Parameters
    ----------
    voxel_mm, fov_mm : (3,) tuple of float
        Along right, anterior, superior of the stack before it is tilted; the field of view is
        rounded to an even number of voxels.
    centre_mm : (3,) tuple of float
        Centre of the field of view in scanner coordinates.
    tilt_deg : float
        Rotation of the stack about the scanner's x axis.
    orientation : str
        Order and direction of the array axes, as in nibabel (``RAS``, ``LAS`` …).
    te_s : tuple of float
        Echo times in s.
    tr_s, flip_deg, b0_t, snr : float
        Repetition time in s, flip angle in degrees, field strength in T, and signal-to-noise ratio
        of white matter at the first echo.
    shim_order : int
        Order of the shim, or -1 for none.
    fine_mm : float
        Largest voxel of the simulation.
    anisotropy : float
        Spread of the field of white matter whose susceptibility depends on the direction of its fibres, relative to
        that of the true local field. No map explains it.
    """

    voxel_mm: tuple[float, float, float] = (2.0, 2.0, 2.0)
    fov_mm: tuple[float, float, float] = (172.0, 212.0, 164.0)
    centre_mm: tuple[float, float, float] = (0.0, -2.0, 1.5)
    tilt_deg: float = 0.0
    orientation: str = "LAS"
    te_s: tuple[float, ...] = (0.006, 0.012, 0.018, 0.024)
    tr_s: float = 0.032
    flip_deg: float = 15.0
    b0_t: float = 3.0
    snr: float = 90.0
    shim_order: int = 2
    fine_mm: float = 1.15
    anisotropy: float = 0.0

    def __post_init__(self) -> None:
        if len(self.voxel_mm) != 3 or not all(0.2 <= v <= 10 for v in self.voxel_mm):
            raise DataError(f"voxels of {self.voxel_mm} mm", expected="three sizes of 0.2 to 10 mm")
        if not 0.2 <= self.fine_mm <= 10 or not self.b0_t > 0:
            raise DataError(f"simulation at {self.fine_mm} mm and {self.b0_t} T", expected="0.2 to 10 mm, above 0 T")
        if not self.snr > 0:
            raise DataError(f"a signal-to-noise ratio of {self.snr}", expected="above 0; inf for no noise")
        if not 0 <= self.anisotropy < math.inf:
            raise DataError(f"an anisotropic field of {self.anisotropy} of the local one", expected="0 or more")
        if sorted(self.orientation) not in (sorted(c) for c in itertools.product("LR", "AP", "IS")):
            raise DataError(f"the orientation is {self.orientation!r}", expected="one each of LR, AP and IS, as in LAS")
        if not self.te_s or any(te <= 0 for te in self.te_s) or max(self.te_s) >= self.tr_s:
            raise DataError(f"echo times {self.te_s} s", expected=f"positive, below the repetition time {self.tr_s} s")

    def acquired_grid(self) -> tuple[tuple[int, int, int], NDArray[np.float64]]:
        """Shape and affine of the images."""
        shape = tuple(2 * math.ceil(f / v / 2 - 1e-6) for f, v in zip(self.fov_mm, self.voxel_mm, strict=True))
        affine = np.eye(4)
        affine[:3, :3] = rotation((self.tilt_deg, 0.0, 0.0)) @ np.diag(self.voxel_mm)
        affine[:3, 3] = np.array(self.centre_mm) - affine[:3, :3] @ ((np.array(shape) - 1) / 2)
        turn = nio.ornt_transform(nio.axcodes2ornt("RAS"), nio.axcodes2ornt(tuple(self.orientation)))
        affine = affine @ nio.inv_ornt_aff(turn, shape)
        order = np.argsort(turn[:, 0])
        return tuple(shape[int(i)] for i in order), affine  # type: ignore[return-value]


@dataclass(frozen=True)
class Scan:
    """The images of one subject and what is true on their grid.

    Parameters
    ----------
    acquired : Acquired
        Complex images and the total field.
    affine : (4, 4) array
    brain : bool array
        Voxels at least half of which is brain.
    labels : int16 array
        Label with the largest share of each brain voxel; 0 elsewhere.
    chi_ppm, local_ppm, total_ppm, r2star_hz : float32 arrays
        Means over the part of each voxel that is brain (see :func:`qsmprep.core.simulate.local_field`);
        0 outside ``brain``.
    """

    acquired: Acquired
    affine: NDArray[np.float64]
    brain: NDArray[np.bool_]
    labels: NDArray[np.int16]
    chi_ppm: Volume
    local_ppm: Volume
    total_ppm: Volume
    r2star_hz: Volume


def scan(subject: Subject, protocol: Protocol, *, device: str = "cpu") -> Scan:
    """Simulate the gradient-echo acquisition of one subject.

    Parameters
    ----------
    subject : Subject
    protocol : Protocol
    device : str
        Torch device.

    Returns
    -------
    Scan
    """
    shape, affine = protocol.acquired_grid()
    fine_shape, fine_affine = fine_grid(shape, affine, protocol.fine_mm)
    whole_shape, whole_affine, at = extend(fine_shape, fine_affine)
    whole = build_head(subject, whole_shape, whole_affine, b0_t=protocol.b0_t)
    field = head_field(whole.chi_ppm, whole.grid, device=device)
    local, chi = local_field(whole.chi_ppm, whole.brain_mask, whole.grid, device=device)
    if protocol.anisotropy:
        add_anisotropy(field, local, whole, whole_affine, protocol.anisotropy, subject.seed, device)
    if protocol.shim_order >= 0:
        field -= shim_field(field, whole.brain_mask, whole.grid, order=protocol.shim_order)
    head = whole.part(at)
    del whole
    rng = np.random.default_rng([*subject.seed, 5])
    bias, offset = coil(head.grid, rng)
    m0 = spoiled_signal(head.density, head.t1_s, tr_s=protocol.tr_s, flip_deg=protocol.flip_deg)
    m0 *= bias * slab_profile(head.grid)
    acquired = acquire(
        m0,
        head.r2star_hz,
        field[at],
        head.grid,
        shape=shape,
        te_s=protocol.te_s,
        b0_t=protocol.b0_t,
        snr=protocol.snr,
        reference=white_matter(head),
        rng=rng,
        offset_rad=offset,
        shift_ppm=head.shift_ppm,
        device=device,
    )
    share = box_average(head.brain_mask.astype(np.float32), shape)
    brain = share >= 0.5
    maps = [brain_average(v, head.brain_mask, share, brain) for v in (chi[at], local[at], field[at], head.r2star_hz)]
    return Scan(acquired, affine, brain, majority(head, shape, brain), *maps)


def add_anisotropy(
    field_ppm: Volume,
    local_ppm: Volume,
    head: HeadModel,
    affine: NDArray[np.float64],
    share: float,
    seed: tuple[int, ...],
    device: str = "cpu",
) -> None:
    """Add the field of anisotropic white matter, where the brain is, in place.

    Parameters
    ----------
    field_ppm, local_ppm : float32 arrays
        Total and local field in ppm on the grid of ``head``.
    head : HeadModel
    affine : (4, 4) array
        Of its grid.
    share : float
        Spread of the added field in the brain relative to that of ``local_ppm``.
    seed : tuple of int
        Of the fibres, which turn smoothly and at random.
    """
    box, brain = bounding_box(head.brain_mask), head.brain_mask
    corner = affine.copy()
    corner[:3, 3] += affine[:3, :3] @ np.array([part.start for part in box], dtype=float)
    white = white_matter(head)[box].astype(np.float32)
    grid = head.grid.with_shape(white.shape)  # type: ignore[arg-type]
    part = anisotropic_field(white, fibres(white.shape, corner, seed), grid, device=device)
    spread = float(part[brain[box]].std())
    if spread > 0:
        field_ppm[box] += part * np.float32(share * float(local_ppm[brain].std()) / spread)


def fibres(shape: tuple[int, ...], affine: NDArray[np.float64], seed: tuple[int, ...]) -> Volume:
    """Unit vectors along the axes of a grid that turn smoothly, the same for every grid in the scanner."""
    step = FIBRE_MM / 1.5
    rng = np.random.default_rng([*seed, 7])
    counts = [math.ceil((high - low) / step) + 1 for low, high in HEAD_BOX_MM]
    coarse = [ndimage.gaussian_filter(rng.standard_normal(counts), 1.5) for _ in range(3)]
    index = np.indices(shape, dtype=np.float32).reshape(3, -1)
    to_lattice = affine[:3, :3] / step
    origin = (affine[:3, 3] - np.array(HEAD_BOX_MM)[:, 0]) / step
    at = (to_lattice @ index + origin[:, None]).astype(np.float32)
    world = np.stack([ndimage.map_coordinates(c.astype(np.float32), at, order=1, mode="nearest") for c in coarse])
    axes = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    found = axes.T @ world
    found /= np.maximum(np.linalg.norm(found, axis=0), 1e-9)
    return found.reshape(3, *shape).astype(np.float32)


def white_matter(head: HeadModel) -> NDArray[np.bool_]:
    """Where white matter is."""
    return (head.labels == label_index("white", False)) | (head.labels == label_index("white", True))


def t1_weighted(subject: Subject, protocol: Protocol, *, voxel_mm: float, snr: float = 60.0) -> tuple[Volume, NDArray]:
    """An inversion-recovery T1-weighted magnitude image of the whole head, and its affine.

    Parameters
    ----------
    subject : Subject
    protocol : Protocol
        Gives the field of view, the orientation and the field strength; the stack is not tilted.
    voxel_mm : float
        Isotropic voxel size.
    snr : float
        White matter signal over the noise in one channel.
    """
    plan = Protocol((voxel_mm,) * 3, Protocol.fov_mm, Protocol.centre_mm, 0.0, protocol.orientation, b0_t=protocol.b0_t)
    shape, affine = plan.acquired_grid()
    head = build_head(subject, *fine_grid(shape, affine, protocol.fine_mm), b0_t=protocol.b0_t)
    rng = np.random.default_rng([*subject.seed, 6])
    bias, _ = coil(head.grid, rng)
    inversion_s, repeat_s = 0.95, 2.3
    recovery = 1 - 2 * np.exp(-inversion_s / head.t1_s) / (1 + np.exp(-repeat_s / head.t1_s))
    image = box_average(head.density * np.maximum(recovery, 0.02) * bias, shape)
    white = box_average((head.labels == label_index("white", True)).astype(np.float32), shape) > 0.5
    sd = float(image[white].mean()) / snr
    noise = sd * rng.standard_normal((2, *shape), dtype=np.float32)
    return np.hypot(image + noise[0], noise[1]).astype(np.float32), affine


def fine_grid(
    shape: tuple[int, int, int], affine: NDArray[np.float64], fine_mm: float
) -> tuple[tuple[int, int, int], NDArray[np.float64]]:
    """A grid over the same field of view, of ``fine_mm`` or finer."""
    size = np.linalg.norm(affine[:3, :3], axis=0)
    counts = [
        max(math.ceil(n * v / fine_mm - 1e-6), math.ceil(n * OVERSAMPLING)) for n, v in zip(shape, size, strict=True)
    ]
    ratio = np.array(shape) / np.array(counts)
    fine = affine.copy()
    fine[:3, :3] = affine[:3, :3] * ratio
    fine[:3, 3] = affine[:3, 3] + affine[:3, :3] @ (ratio / 2 - 0.5)
    return tuple(counts), fine


def extend(
    shape: tuple[int, int, int], affine: NDArray[np.float64]
) -> tuple[tuple[int, int, int], NDArray[np.float64], Slices]:
    """Grow a grid over all of ``HEAD_BOX_MM``; also the slices where the old one lies in it."""
    corners = np.array(np.meshgrid(*HEAD_BOX_MM, indexing="ij")).reshape(3, -1)
    index = np.linalg.solve(affine[:3, :3], corners - affine[:3, 3:])
    before = [max(0, math.ceil(-low)) for low in index.min(axis=1)]
    after = [max(0, math.ceil(high - n + 1)) for high, n in zip(index.max(axis=1), shape, strict=True)]
    grown = affine.copy()
    grown[:3, 3] = affine[:3, 3] - affine[:3, :3] @ np.array(before, dtype=float)
    at = tuple(slice(b, b + n) for b, n in zip(before, shape, strict=True))
    return tuple(b + n + a for b, n, a in zip(before, shape, after, strict=True)), grown, at  # type: ignore[return-value]


def coil(grid: Grid, rng: np.random.Generator) -> tuple[Volume, Volume]:
    """Receive sensitivity (relative) and phase in rad, both smooth: polynomials of second order."""
    x, y, z = (c / 100 for c in centred_mm(grid))
    terms = (x, y, z, x * y, x * z, y * z, x * x, y * y, z * z)
    phase = rng.uniform(-np.pi, np.pi) + sum(c * t for c, t in zip(rng.normal(0, 0.8, 9), terms, strict=True))
    gain = sum(c * t for c, t in zip(rng.normal(0, 0.08, 9), terms, strict=True)) + 0.2 * (x * x + y * y + z * z)
    return np.exp(gain).astype(np.float32), np.asarray(phase, dtype=np.float32)


def slab_profile(grid: Grid, edge_mm: float = 6.0) -> Volume:
    """Excitation along the stack, the array axis nearest to B0: it falls off at both ends."""
    axis = int(np.argmax(np.abs(grid.b0_dir)))
    depth = grid.shape[axis] * grid.voxel_mm[axis] / 2 - np.abs(centred_mm(grid)[axis])
    return (np.sin(np.clip(depth / edge_mm, 0.0, 1.0) * np.pi / 2) ** 2).astype(np.float32)


def brain_average(volume: Volume, inside: NDArray[np.bool_], share: Volume, brain: NDArray[np.bool_]) -> Volume:
    """Mean of a fine volume over the part of every acquired voxel that is brain."""
    total = box_average(np.where(inside, volume, np.float32(0)), share.shape)
    return np.where(brain, total / np.maximum(share, 0.5), 0.0).astype(np.float32)


def majority(head: HeadModel, shape: tuple[int, int, int], brain: NDArray[np.bool_]) -> NDArray[np.int16]:
    """The brain label with the largest share of every acquired voxel."""
    best = np.zeros(shape, dtype=np.float32)
    winner = np.zeros(shape, dtype=np.int16)
    for label in head.label_table:
        if label.index >= 90:
            continue
        share = box_average((head.labels == label.index).astype(np.float32), shape)
        better = share > best
        winner[better], best[better] = label.index, share[better]
    return np.where(brain, winner, 0).astype(np.int16)
