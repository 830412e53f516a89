"""What a scan sees of the heads of ``network_heads.py``: field, mask, magnitude and truth on its grid."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from network_heads import (
    B0_T,
    BACKGROUND,
    BLOCK_MM,
    COIL,
    EROSION_MM,
    FIBRE_MM,
    FINE_MM,
    GREY_NUCLEI,
    LESION_DARK,
    LESION_DEPTH_MM,
    LESION_GAP_MM,
    LESION_MM,
    LESION_PPM,
    LESIONS,
    MISMATCH,
    NOISE_LIMIT,
    NOISE_PPM,
    RIM,
    ROUGH_MM,
    SCANS,
    TE_S,
    TILT_DEG,
    Block,
    Head,
    Mask,
    Scan,
    Volume,
    offsets,
    smooth,
)
from numpy.typing import NDArray
from scipy import ndimage

from qsmprep.core.dipole import forward_field
from qsmprep.core.grid import Grid
from qsmprep.core.kspace import box_average
from qsmprep.core.simulate import anisotropic_field
from qsmprep.core.units import rad_per_ppm
from qsmprep.phantom.anatomy import label_index

TRIES = 1000
"""Places that are tried for lesions; a small block has room for fewer."""

RAD_PER_PPM = rad_per_ppm(B0_T, TE_S)


@dataclass(frozen=True)
class Case:
    """One head under one scan.

    Parameters
    ----------
    head, scan : str
        Names.
    grid : Grid
    field_ppm, chi_ppm, magnitude, noise_ppm : (nx, ny, nz) float32 array
        Local field and truth in ppm, magnitude (with the noise that the field has, and the shade of a
        coil), standard deviation of the white noise in the field;
        zero outside the mask.
    mask : (nx, ny, nz) bool array
    nuclei : (nx, ny, nz) int16 array
        Labels of deep grey nuclei.
    lesions : (nx, ny, nz) int16 array
        1, 2, … where a lesion fills at least half of a voxel.
    """

    head: str
    scan: str
    grid: Grid
    field_ppm: Volume
    chi_ppm: Volume
    magnitude: Volume
    noise_ppm: Volume
    mask: Mask
    nuclei: NDArray[np.int16]
    lesions: NDArray[np.int16]

    @property
    def weights(self) -> Volume:
        """Relative reliability of the field, as the pipeline gives it."""
        inverse = np.divide(1.0, self.noise_ppm, where=self.mask, out=np.zeros_like(self.noise_ppm))
        return (inverse / inverse.max()).astype(np.float32)

    def save(self, path: Path) -> None:
        """Write to an ``.npz`` file, whole or not at all."""
        arrays = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "grid"}
        beside = path.with_suffix(".part.npz")
        np.savez(beside, voxel_mm=self.grid.voxel_mm, b0_dir=self.grid.b0_dir, **arrays)
        beside.replace(path)

    @classmethod
    def load(cls, path: Path) -> Case:
        """Read what :meth:`save` wrote."""
        with np.load(path) as held:
            arrays = {name: held[name] for name in held.files}
        voxel, b0 = arrays.pop("voxel_mm"), arrays.pop("b0_dir")
        names = {name: str(arrays.pop(name)) for name in ("head", "scan")}
        return cls(grid=Grid(arrays["mask"].shape, tuple(voxel), tuple(b0)), **names, **arrays)


def cases(head: Head, scans: tuple[Scan, ...] = SCANS, block_mm: Block = BLOCK_MM) -> Iterator[Case]:
    """Every scan of a head."""
    fine = Grid(head.brain.shape, (FINE_MM,) * 3)
    inside = eroded(head, block_mm)
    known = inside + np.float32(RIM) * (head.brain & ~inside)
    b0_dirs = {False: fine.b0_dir, True: tilted(head.seed)}
    fields = {
        tilt: forward_field(head.chi_ppm * known, Grid(fine.shape, fine.voxel_mm, b0_dirs[tilt]))
        for tilt in {scan.tilted for scan in scans}
    }
    extra, dark, marks = np.zeros_like(head.chi_ppm), head.magnitude, np.zeros_like(head.labels)
    if any(scan.lesions for scan in scans):
        extra, marks = lesions(head, inside)
        dark = np.where(marks > 0, LESION_DARK * head.magnitude, head.magnitude).astype(np.float32)
        extra_field = forward_field(extra, fine)
    for scan in scans:
        seen = head
        field = fields[scan.tilted]
        if scan.lesions:
            seen = dataclasses.replace(head, chi_ppm=head.chi_ppm + extra, magnitude=dark)
            field = field + extra_field
        marked = marks if scan.lesions else np.zeros_like(marks)
        yield acquired(seen, scan, block_mm, inside, field, fields[scan.tilted], b0_dirs[scan.tilted], marked)


def tilted(seed: int) -> tuple[float, float, float]:
    """B0 at `TILT_DEG` to the third axis, in a random direction."""
    turn, tilt = np.random.default_rng([seed, 1]).uniform(0, 2 * np.pi), np.deg2rad(TILT_DEG)
    x, y, z = np.sin(tilt) * np.cos(turn), np.sin(tilt) * np.sin(turn), np.cos(tilt)
    return float(x), float(y), float(z)


def eroded(head: Head, block_mm: Block) -> Mask:
    """The mask on the fine grid: a layer less than the brain, with a rough edge."""
    rng = np.random.default_rng([head.seed, 2])
    depth = ndimage.distance_transform_edt(np.pad(head.brain, 1))[1:-1, 1:-1, 1:-1] * FINE_MM
    rough = ROUGH_MM * smooth(rng, block_mm, 2.5, head.brain.shape)
    inside = depth > rng.uniform(*EROSION_MM) + np.maximum(rough, -0.5)
    return largest(inside)


def largest(mask: Mask) -> Mask:
    """The largest connected part."""
    parts, _ = ndimage.label(mask)
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0
    result: Mask = parts == sizes.argmax()
    return result


def lesions(head: Head, inside: Mask) -> tuple[Volume, NDArray[np.int16]]:
    """What lesions add to the susceptibility in ppm, and where each of them is."""
    rng = np.random.default_rng([head.seed, 3])
    depth = ndimage.distance_transform_edt(np.pad(inside, 1))[1:-1, 1:-1, 1:-1] * FINE_MM
    places = np.argwhere(depth > min(LESION_DEPTH_MM, 0.8 * depth.max()))
    where = offsets(tuple(n * FINE_MM for n in inside.shape), inside.shape)  # type: ignore[arg-type]
    chi, marks = head.chi_ppm.copy(), np.zeros_like(head.labels)
    centres: list[NDArray[np.float32]] = []
    for _ in range(TRIES):
        if len(centres) == LESIONS:
            break
        centre = where[(slice(None), *places[rng.integers(len(places))])]
        if any(np.linalg.norm(centre - other) < LESION_GAP_MM for other in centres):
            continue
        centres.append(centre)
        size = np.exp(rng.uniform(*np.log(LESION_PPM))) * (1 if rng.random() < 0.5 else -1)
        axes, _ = np.linalg.qr(rng.standard_normal((3, 3)))
        local = np.tensordot(axes.astype(np.float32), where - centre.reshape(3, 1, 1, 1), axes=1)
        radii = (rng.uniform(*LESION_MM, 3) / 2).astype(np.float32).reshape(3, 1, 1, 1)
        radius = np.sqrt(((local / radii) ** 2).sum(axis=0))
        share = np.clip(0.5 - (radius - 1) * radii.min() / 0.7, 0, 1) * inside
        chi += share * (np.float32(size) - chi)
        marks[share >= 0.5] = len(centres)
    return chi - head.chi_ppm, marks


def acquired(
    head: Head,
    scan: Scan,
    block_mm: Block,
    inside: Mask,
    field_ppm: Volume,
    plain_ppm: Volume,
    b0_dir: tuple[float, float, float],
    marks: NDArray[np.int16],
) -> Case:
    """Average over the voxels of a scan and add what no map explains.

    Parameters
    ----------
    head : Head
        With its lesions.
    field_ppm, plain_ppm : array
        Field on the fine grid with and without lesions; the latter sets the size of what is added.
    """
    shape = tuple(max(1, round(mm / edge)) for mm, edge in zip(block_mm, scan.voxel_mm, strict=True))
    grid = Grid(shape, tuple(mm / n for mm, n in zip(block_mm, shape, strict=True)), b0_dir)  # type: ignore[arg-type]
    signal = head.magnitude + np.float32(1e-3)
    magnitude = box_average(signal, grid.shape)
    mask = largest(box_average(inside.astype(np.float32), grid.shape) > 0.6)
    field = box_average(field_ppm * signal, grid.shape) / magnitude
    spread = float(box_average(plain_ppm, grid.shape)[mask].std())
    for part, share in (
        (anisotropy(head, grid, block_mm), MISMATCH * scan.mismatch),
        (outside(head, grid, mask, block_mm), BACKGROUND),
    ):
        field += (part * (share * spread / part[mask].std())).astype(np.float32)
    level = np.minimum(np.median(magnitude[mask]) / magnitude, NOISE_LIMIT)
    noise = (NOISE_PPM * scan.noise * level * mask).astype(np.float32)
    rng = np.random.default_rng([head.seed, 4, *grid.shape, int(scan.tilted), int(scan.lesions)])
    field += noise * rng.standard_normal(grid.shape).astype(np.float32)
    # The magnitude has the noise that gives this noise of the field.
    grey = np.float32(NOISE_PPM * scan.noise * RAD_PER_PPM * np.median(magnitude[mask]))
    coil = np.exp(np.float32(COIL) * smooth(rng, block_mm, 50.0, grid.shape))
    magnitude = coil * np.abs(magnitude + grey * rng.standard_normal(grid.shape).astype(np.float32))
    lookup = np.ix_(
        *[((np.arange(n) + 0.5) * m / n).astype(int) for n, m in zip(grid.shape, inside.shape, strict=True)]
    )
    wanted = [label_index(name, side) for name in GREY_NUCLEI for side in (False, True)]
    found = head.labels[lookup]
    return Case(
        head.name,
        scan.name,
        grid,
        field_ppm=(field * mask).astype(np.float32),
        chi_ppm=box_average(head.chi_ppm, grid.shape) * mask,
        magnitude=magnitude * mask,
        noise_ppm=noise,
        mask=mask,
        nuclei=np.where(np.isin(found, wanted) & mask, found, 0).astype(np.int16),
        lesions=(marks[lookup] * mask).astype(np.int16),
    )


def anisotropy(head: Head, grid: Grid, block_mm: Block) -> Volume:
    """Field of white matter whose susceptibility is a tensor along smooth random fibres, at any scale."""
    rng = np.random.default_rng([head.seed, 5])
    fibres = np.stack([smooth(rng, block_mm, FIBRE_MM, grid.shape) for _ in range(3)])
    fibres /= np.maximum(np.linalg.norm(fibres, axis=0), 1e-6)
    return anisotropic_field(box_average(head.white, grid.shape), fibres, grid)


def outside(head: Head, grid: Grid, mask: Mask, block_mm: Block) -> Volume:
    """Field of random sources outside the mask, at any scale."""
    rng = np.random.default_rng([head.seed, 6])
    margin = tuple(max(2, round(14.0 / mm)) for mm in grid.voxel_mm)
    far = np.pad(mask, [(m, m) for m in margin])
    wide = tuple(mm + 2 * m * edge for mm, m, edge in zip(block_mm, margin, grid.voxel_mm, strict=True))
    away = ndimage.distance_transform_edt(~far, sampling=grid.voxel_mm)
    sources = smooth(rng, wide, 9.0, far.shape) * ((away > 3) & (away < 12))  # type: ignore[arg-type]
    part = tuple(slice(m, m + n) for m, n in zip(margin, grid.shape, strict=True))
    return forward_field(sources.astype(np.float32), grid.with_shape(far.shape))[part]
