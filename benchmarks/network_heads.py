"""The heads that ``networks.py`` validates on: made in another way than those that networks are trained on.

Two makes. *Label heads*: label maps that no recipe trains on, bent and turned a little, with the tissue
values, nuclei and veins of :mod:`qsmprep.phantom`. *Phantom heads*: subjects of that package. Neither
:mod:`qsmprep.training.susceptibility` nor :mod:`qsmprep.training.sample` has a part in them.

A head is a block around the deep grey nuclei, drawn on cubes of half a millimetre. Its field is made on
that grid and then averaged over the voxels of a scan, so that no method inverts the operator that made
the data. Everything that a real field holds beside that of the map is stated in the constants below.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from qsmprep.phantom.anatomy import CSF, LABELS, NUCLEI, label_index
from qsmprep.phantom.canvas import PROPERTIES, Canvas, ellipsoid
from qsmprep.phantom.draw import draw_veins
from qsmprep.phantom.head import build_head
from qsmprep.phantom.subject import Person, Subject, draw_subject
from qsmprep.phantom.warp import ISOCENTRE_MM

Volume = NDArray[np.float32]
Mask = NDArray[np.bool_]
Block = tuple[float, float, float]

RECIPE = 1
"""Raise it when heads or fields change: results that were kept are then measured anew."""

FINE_MM = 0.5
"""Edge of the cubes on which heads and their fields are made."""

BLOCK_MM: Block = (80.0, 96.0, 66.0)
"""Field of view, right to left, back to front, foot to head, around `CENTRE_MM`."""

CENTRE_MM = np.array([0.0, -6.0, 4.0])
"""Centre of the block in template space: between the deep grey nuclei."""

ROUNDNESS, EXTENT = 4.0, 0.97
"""The block is cut to a superellipsoid of this exponent and size."""

BEND_MM, TURN_DEG, SCALE = 1.5, 6.0, 0.05
"""Label heads: spread of the smooth bend, of the turns, and of the size along each axis."""

GRAIN_PPM, CLOUD_PPM = 0.006, 0.004
"""Label heads: spread of the texture at 2 mm and at 8 mm."""

EROSION_MM, ROUGH_MM = (1.0, 2.0), 0.5
"""What the mask loses all around, and the spread of its rough edge."""

RIM = 0.15
"""Share of the susceptibility outside the mask whose field background removal left."""

MISMATCH, BACKGROUND = 0.30, 0.10
"""Spread of the field of anisotropic white matter (a full tensor along smooth random fibres) and of
sources outside the mask, relative to the field of the map."""

FIBRE_MM = 9.0
"""Scale on which fibres turn."""

NOISE_PPM, NOISE_LIMIT = 0.002, 4.0
"""White noise where the magnitude has its median; elsewhere it goes with the inverse of it, up to this factor."""

COIL = 0.2
"""Spread of the logarithm of the coil's sensitivity in the magnitude."""

TE_S, B0_T = 0.020, 3.0
"""Echo time of the magnitude, and the field strength of its relaxation."""

LESIONS, LESION_PPM, LESION_MM = 3, (0.3, 2.0), (2.0, 6.0)
"""Haemorrhages and calcifications of a head: number, susceptibility (either sign), diameters."""

LESION_DEPTH_MM, LESION_GAP_MM, LESION_DARK = 7.0, 14.0, 0.3
"""Least depth in the mask, least distance between centres, and what is left of the magnitude."""

TILT_DEG = 20.0


@dataclass(frozen=True)
class Scan:
    """A way to scan a head.

    Parameters
    ----------
    name : str
    voxel_mm : (3,) tuple of float
        Voxel edges.
    tilted, lesions : bool
        Whether B0 is tilted; whether there are lesions.
    noise, mismatch : float
        Factors on `NOISE_PPM` and `MISMATCH`.
    """

    name: str
    voxel_mm: tuple[float, float, float]
    tilted: bool = False
    lesions: bool = False
    noise: float = 1.0
    mismatch: float = 1.0


SCANS = (
    Scan("1 mm", (1.0, 1.0, 1.0)),
    Scan("0.5 × 0.5 × 2 mm", (0.5, 0.5, 2.0)),
    Scan("0.76 × 0.76 × 3 mm", (16 / 21, 16 / 21, 3.0)),
    Scan("1 mm, tilted by 20°", (1.0, 1.0, 1.0), tilted=True),
    Scan("1 mm, lesions", (1.0, 1.0, 1.0), lesions=True),
)

SHIFTED = Scan("1 mm, noisier", (1.0, 1.0, 1.0), noise=3.0, mismatch=2.0)
"""Only for the ablations: further from the dipole model than most of the labelled training domain."""

CODES: dict[tuple[str, int], tuple[int, ...]] = {
    ("white", 0): (2, 7, 251, 252, 253, 254, 255),
    ("white", 1): (41, 46, 16, 28, 60, 85),
    ("grey", 0): (3, 8, 17, 18, 26),
    ("grey", 1): (42, 47, 53, 54, 58),
    ("csf", 0): (4, 43, 5, 44, 14, 15, 24, 72, 30, 62, 31, 63),
    **{
        (name, side): (code + 39 * side,)
        for name, code in (("thalamus", 10), ("putamen", 12), ("pallidum", 13))
        for side in (0, 1)
    },
    ("caudate", 0): (11,),
    ("caudate", 1): (50,),
}
"""FreeSurfer codes of each tissue, left (0) and right (1); any other below 500 counts as grey matter."""

OUTER_CODE = 500
"""From here on, the codes of the label maps lie outside the brain."""

LANDMARKS = ("thalamus", "caudate", "putamen", "pallidum")
GREY_NUCLEI = ("caudate", "putamen", "pallidum", "thalamus", "rednucleus", "nigra")
_NAMES = {label.index: label.name for label in LABELS}


@dataclass(frozen=True)
class Head:
    """A block of brain on the fine grid.

    Parameters
    ----------
    name : str
    seed : int
        Of its scans.
    chi_ppm, magnitude, white : (nx, ny, nz) float32 array
        Susceptibility in ppm, magnitude at `TE_S`, share of white matter; zero outside ``brain``.
    labels : (nx, ny, nz) int16 array
        As in :mod:`qsmprep.phantom.anatomy`.
    brain : (nx, ny, nz) bool array
        What there is of the head.
    """

    name: str
    seed: int
    chi_ppm: Volume
    magnitude: Volume
    white: Volume
    labels: NDArray[np.int16]
    brain: Mask


def fine_shape(block_mm: Block) -> tuple[int, int, int]:
    """Lengths of the fine grid."""
    x, y, z = (round(mm / FINE_MM) for mm in block_mm)
    return x, y, z


def smooth(rng: np.random.Generator, block_mm: Block, scale_mm: float, shape: tuple[int, ...]) -> Volume:
    """Normal random field of unit spread over a block, correlated over ``scale_mm``, on any grid."""
    step = scale_mm / 1.5
    coarse = [max(4, math.ceil(mm / step) + 6) for mm in block_mm]
    noise = ndimage.gaussian_filter(rng.standard_normal(coarse), 1.0, mode="wrap")
    noise = (noise / noise.std()).astype(np.float32)
    at = np.meshgrid(
        *[((np.arange(n) + 0.5) / n * mm / step + 2).astype(np.float32) for n, mm in zip(shape, block_mm, strict=True)],
        indexing="ij",
    )
    return ndimage.map_coordinates(noise, at, order=3, mode="nearest", output=np.float32)


def offsets(block_mm: Block, shape: tuple[int, ...]) -> Volume:
    """Distance of every voxel from the middle of the block in mm, (3, nx, ny, nz)."""
    axes = [((np.arange(n) + 0.5) / n - 0.5) * mm for n, mm in zip(shape, block_mm, strict=True)]
    return np.stack(np.meshgrid(*axes, indexing="ij")).astype(np.float32)


def rounded(block_mm: Block, shape: tuple[int, ...]) -> Mask:
    """The superellipsoid that a block is cut to."""
    half = np.array(block_mm, dtype=np.float32).reshape(3, 1, 1, 1) / 2 * EXTENT
    inside: Mask = (np.abs(offsets(block_mm, shape) / half) ** ROUNDNESS).sum(axis=0) < 1
    return inside


def person(rng: np.random.Generator) -> Person:
    """Someone grown-up."""
    return Person(age_years=float(rng.uniform(25, 75)), sex="MF"[int(rng.integers(2))])


def phantom_head(seed: int, block_mm: Block = BLOCK_MM, someone: Person | None = None) -> Head:
    """A subject of :mod:`qsmprep.phantom`; someone grown-up where it is not said who."""
    rng = np.random.default_rng([77, seed])
    subject = draw_subject(someone or person(rng), (77, seed))
    warp = subject.warp
    centre = np.linalg.solve(warp.linear, CENTRE_MM - ISOCENTRE_MM) + warp.shift_mm
    shape = fine_shape(block_mm)
    affine = np.diag([FINE_MM, FINE_MM, FINE_MM, 1.0])
    affine[:3, 3] = centre - (np.array(shape) - 1) / 2 * FINE_MM
    model = build_head(subject, shape, affine, b0_t=B0_T)
    magnitude = model.density * np.exp(-TE_S * model.r2star_hz)
    name = f"phantom {seed}" if someone is None else f"phantom {seed}, {someone.age_years:g} years"
    return _head(name, 1000 + seed, block_mm, model.chi_ppm, magnitude, model.labels, model.brain_mask)


def _head(
    name: str, seed: int, block_mm: Block, chi: Volume, magnitude: Volume, labels: NDArray[np.int16], brain: Mask
) -> Head:
    """Cut to the superellipsoid."""
    brain = brain & rounded(block_mm, brain.shape)
    white = np.isin(labels, [label_index("white", side) for side in (False, True)]).astype(np.float32)
    white = ndimage.gaussian_filter(white, 1.0)
    chi, magnitude, white = (np.where(brain, v, 0).astype(np.float32) for v in (chi, magnitude, white))
    return Head(name, seed, chi, magnitude, white, np.where(brain, labels, 0).astype(np.int16), brain)


def label_head(path: Path, seed: int, block_mm: Block = BLOCK_MM) -> Head:
    """A label map with the tissues of :mod:`qsmprep.phantom`.

    Red nucleus, substantia nigra and veins, which label maps lack, are placed by the affine map to
    template space that fits the centres of the other nuclei.
    """
    image = nibabel.as_closest_canonical(nibabel.load(path))
    codes = np.rint(np.asarray(image.dataobj, dtype=np.float32)).astype(np.int16).squeeze()
    number = int("".join(c for c in path.name.split(".")[0] if c.isdigit()) or 0)
    rng = np.random.default_rng([88, number, seed])
    subject = draw_subject(person(rng), (88, number, seed))
    to_template = _template_fit(codes, image.affine)
    centre = np.linalg.solve(to_template[:3, :3], CENTRE_MM - to_template[:3, 3])
    shape = fine_shape(block_mm)
    matrix = _turn(rng) @ np.diag(np.exp(rng.normal(0, SCALE, 3)))
    where = np.tensordot(matrix.astype(np.float32), offsets(block_mm, shape), axes=1)
    for axis in range(3):
        where[axis] += np.float32(centre[axis]) + np.float32(BEND_MM) * smooth(rng, block_mm, 20.0, shape)
    canvas, brain = _lay(codes, image.affine, where, to_template, subject)
    values = canvas.values
    solid = canvas.labels != CSF
    grain = GRAIN_PPM * smooth(rng, block_mm, 2.0, shape) + CLOUD_PPM * smooth(rng, block_mm, 8.0, shape)
    chi = values["chi_ppm"] + grain * solid
    magnitude = values["density"] * np.exp(-TE_S * values["r2star_hz"])
    return _head(f"label map {number}", 2000 + 10 * number + seed, block_mm, chi, magnitude, canvas.labels, brain)


def _turn(rng: np.random.Generator) -> NDArray[np.float64]:
    """A small random rotation."""
    a, b, c = np.deg2rad(rng.normal(0, TURN_DEG, 3))
    skew = np.array([[0, -c, b], [c, 0, -a], [-b, a, 0]])
    left, _, right = np.linalg.svd(np.eye(3) + skew)
    turn: NDArray[np.float64] = left @ right
    return turn


def _template_fit(codes: NDArray[np.int16], affine: NDArray[np.float64]) -> NDArray[np.float64]:
    """Affine map from the label map's mm to template space, by the centres of the paired nuclei."""
    centres = {blob.tissue: np.array(blob.centre_mm, dtype=float) for blob in NUCLEI}
    found, wanted = [], []
    for name in LANDMARKS:
        for side in (0, 1):
            index = np.argwhere(np.isin(codes, CODES[name, side])).mean(axis=0)
            found.append(np.append((affine @ np.append(index, 1.0))[:3], 1.0))
            wanted.append(centres[name] * np.array([1.0 if side else -1.0, 1.0, 1.0]))
    solution, *_ = np.linalg.lstsq(np.array(found), np.array(wanted), rcond=None)
    result = np.eye(4)
    result[:3] = solution.T
    return result


def _lay(
    codes: NDArray[np.int16],
    affine: NDArray[np.float64],
    where_mm: Volume,
    to_template: NDArray[np.float64],
    subject: Subject,
) -> tuple[Canvas, Mask]:
    """Tissues, small nuclei and veins at the positions ``where_mm`` of a label map; and the brain there."""
    inverse = np.linalg.inv(affine)

    def moved(matrix: NDArray[np.float64], points: Volume) -> Volume:
        turned = np.tensordot(matrix[:3, :3].astype(np.float32), points, axes=1)
        return turned + matrix[:3, 3].astype(np.float32).reshape(3, 1, 1, 1)

    at = moved(inverse, where_mm)
    low = np.maximum(np.floor(at.min(axis=(1, 2, 3))).astype(int) - 8, 0)
    high = np.ceil(at.max(axis=(1, 2, 3))).astype(int) + 9
    codes = codes[tuple(slice(a, b) for a, b in zip(low, high, strict=True))]
    at -= low.reshape(3, 1, 1, 1).astype(np.float32)
    edges = np.linalg.norm(affine[:3, :3], axis=0)

    def sampled(volume: NDArray[np.floating]) -> Volume:
        return ndimage.map_coordinates(volume.astype(np.float32), at, order=1, mode="nearest", output=np.float32)

    inner = (codes > 0) & (codes < OUTER_CODE)
    brain = ndimage.gaussian_filter(inner.astype(np.float32), 2.0 / edges) > 0.5
    distance = ndimage.distance_transform_edt(~brain, edges) - ndimage.distance_transform_edt(brain, edges)
    canvas = Canvas(moved(to_template, where_mm), soft_mm=1.0)
    _tissues(canvas, codes, inner, sampled, subject, edges)
    depth = sampled(distance)
    for blob in NUCLEI:
        if blob.tissue in ("rednucleus", "nigra"):
            for side in (0, 1):
                _draw_nucleus(canvas, blob.tissue, side, subject)
    draw_veins(canvas, subject, depth, B0_T)
    return canvas, depth <= 0


def _tissues(canvas: Canvas, codes, inner, sampled, subject: Subject, edges) -> None:  # type: ignore[no-untyped-def]
    """Mix the tissues of the labels, each blurred a little and sharpened again."""
    total = np.zeros(canvas.labels.shape, dtype=np.float32)
    best = np.zeros_like(total)
    sums = {name: np.zeros_like(total) for name in PROPERTIES}
    known = np.unique(np.concatenate([np.array(c) for c in CODES.values()]))
    for (tissue, side), members in CODES.items():
        hit = np.isin(codes, members)
        if (tissue, side) == ("grey", 0):
            hit |= inner & ~np.isin(codes, known)
        if (tissue, side) == ("csf", 0):
            hit |= ~inner
        share = sampled(ndimage.gaussian_filter(hit.astype(np.float32), 0.7 / edges)) ** 3
        label = CSF if tissue == "csf" else label_index(tissue, bool(side))
        values = subject.properties(_NAMES[label], tissue, B0_T)
        total += share
        for name in PROPERTIES:
            sums[name] += share * np.float32(values[name])
        won = share > best
        canvas.labels[won] = label
        best[won] = share[won]
    for name in PROPERTIES:
        canvas.values[name][:] = sums[name] / np.maximum(total, 1e-6)


def _draw_nucleus(canvas: Canvas, tissue: str, side: int, subject: Subject) -> None:
    """The ellipsoid of a nucleus that label maps lack."""
    blob = next(one for one in NUCLEI if one.tissue == tissue)
    sign = 1.0 if side else -1.0
    centre = np.array(blob.centre_mm) * np.array([sign, 1.0, 1.0])
    label = label_index(tissue, bool(side))
    shape = ellipsoid(
        centre.tolist(), blob.radii_mm, (blob.turn_deg[0], sign * blob.turn_deg[1], sign * blob.turn_deg[2])
    )
    reach = max(blob.radii_mm)
    values = subject.properties(_NAMES[label], tissue, B0_T)
    canvas.draw(shape, (centre - reach).tolist(), (centre + reach).tolist(), values, label)
