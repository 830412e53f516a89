"""Build a subject's head on any grid in the scanner."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from qsmprep.core.grid import Grid
from qsmprep.errors import DataError
from qsmprep.phantom import anatomy
from qsmprep.phantom.anatomy import Label
from qsmprep.phantom.canvas import Canvas, Slices, Volume, soft_step
from qsmprep.phantom.draw import draw_cavities, draw_face, draw_lesions, draw_nuclei, draw_veins
from qsmprep.phantom.subject import TEXTURE_MM, Subject
from qsmprep.phantom.template import Template, load_template
from qsmprep.phantom.tissue import FAT_SHIFT_PPM

_TEXTURE_CENTRE_MM = np.array([0.0, -18.0, 10.0])


@dataclass(frozen=True)
class HeadModel:
    """A head on a grid: what it is made of, and what is where.

    Parameters
    ----------
    labels : (nx, ny, nz) int16 array
        Indices of ``label_table``; 0 is the air around the head.
    chi_ppm : (nx, ny, nz) float32 array
        Susceptibility relative to water in ppm.
    r2star_hz : (nx, ny, nz) float32 array
        R2* in 1/s.
    density : (nx, ny, nz) float32 array
        Proton density relative to cerebrospinal fluid.
    t1_s : (nx, ny, nz) float32 array
        T1 in s.
    shift_ppm : (nx, ny, nz) float32 array
        Chemical shift (fat) in ppm.
    brain_mask : (nx, ny, nz) bool array
        Within the envelope of the brain, with sulci and ventricles.
    label_table : tuple of Label
    affine : (4, 4) float array
        Voxel indices to scanner coordinates in mm (RAS+); B0 is along the scanner's z axis.
    b0_t : float
        Field strength in T for which R2* and T1 hold.
    """

    labels: NDArray[np.int16]
    chi_ppm: Volume
    r2star_hz: Volume
    density: Volume
    t1_s: Volume
    shift_ppm: Volume
    brain_mask: NDArray[np.bool_]
    label_table: tuple[Label, ...]
    affine: NDArray[np.float64]
    b0_t: float

    @property
    def grid(self) -> Grid:
        """Grid of the volumes."""
        return Grid.from_affine(self.labels.shape, self.affine)

    def part(self, at: Slices) -> HeadModel:
        """The head within ``at``, with the affine to match."""
        affine = self.affine.copy()
        affine[:3, 3] += affine[:3, :3] @ np.array([s.start for s in at], dtype=float)
        names = ("labels", "chi_ppm", "r2star_hz", "density", "t1_s", "shift_ppm", "brain_mask")
        volumes: dict[str, Any] = {name: np.ascontiguousarray(getattr(self, name)[at]) for name in names}
        return dataclasses.replace(self, affine=affine, **volumes)


def build_head(
    subject: Subject, shape: tuple[int, int, int], affine: NDArray[np.float64], *, b0_t: float = 3.0
) -> HeadModel:
    """Build the head of a subject on a grid, which may be tilted or flipped in any way.

    Nothing is resampled from a ready head: every voxel is taken to template space and looked up
    there, so a tilted grid costs no resolution.

    Parameters
    ----------
    subject : Subject
    shape : (3,) tuple of int
    affine : (4, 4) array
        Voxel indices to scanner coordinates in mm (RAS+).
    b0_t : float
        Field strength in T.

    Returns
    -------
    HeadModel

    Raises
    ------
    DataError
        When the affine is not orthogonal or the brain lies outside the grid.
    """
    affine = np.asarray(affine, dtype=float)
    grid = Grid.from_affine(shape, affine)
    template = load_template()
    canvas = Canvas(subject.warp.to_template(grid.shape, affine), soft_mm=min(max(grid.voxel_mm), 1.5))
    distance = _look_up(template.distance_mm, template.distance_affine, canvas.where_mm, mode="nearest")
    _lay_head(canvas, subject, distance, b0_t)
    draw_cavities(canvas, subject, distance, b0_t)
    _lay_brain(canvas, subject, template, distance, b0_t)
    draw_nuclei(canvas, subject, distance, b0_t)
    draw_veins(canvas, subject, distance, b0_t)
    draw_lesions(canvas, subject, b0_t)
    brain = distance <= 0
    if not brain.any():
        raise DataError("the brain lies outside the grid", expected="a field of view around the scanner's isocentre")
    values = canvas.values
    shift = values["fat"] * np.float32(FAT_SHIFT_PPM)
    return HeadModel(
        canvas.labels,
        values["chi_ppm"],
        values["r2star_hz"],
        values["density"],
        values["t1_s"],
        shift,
        brain,
        anatomy.LABELS,
        affine,
        float(b0_t),
    )


def _lay_head(canvas: Canvas, subject: Subject, distance: Volume, b0_t: float) -> None:
    """Outside air, face and neck, scalp, skull and the fluid around the brain."""
    canvas.fill(subject.properties("air", "air", b0_t), anatomy.OUTSIDE)
    draw_face(canvas, subject, b0_t)
    z = canvas.where_mm[2]
    soft = canvas.soft_mm

    def shell(low: float, high: float) -> Volume:
        return soft_step(np.maximum(low - distance, distance - high), soft)

    scalp = soft_step(np.maximum(distance - 14.0, -75.0 - z), soft)
    canvas.paint(scalp, subject.properties("scalp", "skin", b0_t), anatomy.SCALP)
    vault = soft_step(-30.0 - z, 10.0)
    canvas.paint(shell(9.0, 12.5) * vault, subject.properties("scalp", "fat", b0_t), anatomy.SCALP)
    canvas.paint(shell(2.5, 9.0) * soft_step(-72.0 - z, soft), subject.properties("skull", "bone", b0_t), anatomy.SKULL)
    canvas.paint(
        shell(4.4, 6.8) * soft_step(-10.0 - z, 20.0), subject.properties("skull", "marrow", b0_t), anatomy.SKULL
    )
    canvas.paint(soft_step(distance - 2.2, soft), subject.properties("csf", "csf", b0_t), anatomy.CSF)


def _lay_brain(canvas: Canvas, subject: Subject, template: Template, distance: Volume, b0_t: float) -> None:
    """Grey and white matter and fluid from the template's shares, sharpened and folded a little at random."""
    inside = distance <= 1.0
    where = canvas.where_mm[:, inside]
    shares = np.stack([_look_up(v, template.affine, where) for v in (template.grey, template.white)])
    to_texture = np.eye(4)
    to_texture[:3, :3] *= TEXTURE_MM
    to_texture[:3, 3] = _TEXTURE_CENTRE_MM - TEXTURE_MM * (np.array(subject.texture.shape[1:]) - 1) / 2
    grain, fold = (_look_up(v, to_texture, where, mode="nearest") for v in subject.texture)
    fluid = np.clip(1.0 - shares.sum(axis=0), 0.0, 1.0)
    stack = np.stack([shares[0] + 0.06 * fold, shares[1] - 0.06 * fold, fluid])
    stack = np.clip(stack, 1e-3, None) ** 3
    stack /= stack.sum(axis=0)
    right = where[0] > 0
    tissues = [
        subject.properties("left grey matter", "grey", b0_t),
        subject.properties("left white matter", "white", b0_t),
        subject.properties("csf", "csf", b0_t),
    ]
    for name in canvas.values:
        mixed = sum(share * np.float32(tissue[name]) for share, tissue in zip(stack, tissues, strict=True))
        canvas.values[name][inside] = mixed
    solid = 1.0 - stack[2]
    canvas.values["chi_ppm"][inside] += 0.006 * grain * solid
    canvas.values["r2star_hz"][inside] *= 1.0 + 0.05 * grain * solid
    canvas.values["density"][inside] *= 1.0 + 0.015 * grain * solid
    codes = np.array([anatomy.label_index("grey", False), anatomy.label_index("white", False)])
    winner = stack.argmax(axis=0)
    index = np.where(winner == 2, anatomy.CSF, codes[np.minimum(winner, 1)] + right)
    canvas.labels[inside] = index.astype(np.int16)


def _look_up(volume: Volume, affine: NDArray[np.float64], where_mm: Volume, mode: str = "constant") -> Volume:
    """Linear interpolation of a volume at template coordinates (3, ...)."""
    inverse = np.linalg.inv(affine)
    scaled = np.diag(inverse[:3, :3]).astype(np.float32).reshape(3, *([1] * (where_mm.ndim - 1)))
    offset = inverse[:3, 3].astype(np.float32).reshape(scaled.shape)
    return ndimage.map_coordinates(volume, where_mm * scaled + offset, order=1, mode=mode, output=np.float32)
