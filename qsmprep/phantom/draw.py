"""Draw the structures of :mod:`qsmprep.phantom.anatomy` on a canvas."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from qsmprep.phantom import anatomy
from qsmprep.phantom.anatomy import Blob, Path
from qsmprep.phantom.canvas import Canvas, Distance, Limit, Slices, Volume, ellipsoid, soft_step, tube
from qsmprep.phantom.subject import Subject
from qsmprep.phantom.template import load_template

_NAMES = {label.index: label.name for label in anatomy.LABELS}


def draw_face(canvas: Canvas, subject: Subject, b0_t: float) -> None:
    """Face, neck, shoulders, eyes and the spinal canal."""
    muscle = subject.properties("soft", "muscle", b0_t)
    for path in (anatomy.SHOULDERS, anatomy.NECK):
        _draw_path(canvas, path, muscle, anatomy.SOFT)
    for blob in anatomy.FACE:
        _draw_blob(canvas, blob, muscle, (anatomy.SOFT, anatomy.SOFT))
    _draw_blob(canvas, anatomy.ORBITS, subject.properties("soft", "fat", b0_t), (anatomy.SOFT, anatomy.SOFT))
    _draw_blob(canvas, anatomy.EYES, subject.properties("eye", "eye", b0_t), (anatomy.EYE, anatomy.EYE))
    _draw_path(canvas, anatomy.CORD, subject.properties("csf", "csf", b0_t), anatomy.SOFT)


def draw_cavities(canvas: Canvas, subject: Subject, distance: Volume, b0_t: float) -> None:
    """Air in the sinuses, nose, mouth, throat and ears, at least 3 mm away from the brain."""
    air = subject.properties("air", "air", b0_t)
    rng = np.random.default_rng([*subject.seed, 3])

    def limit(at: Slices) -> Volume:
        return soft_step(3.0 - distance[at], canvas.soft_mm)

    for blob in (*anatomy.CAVITIES, anatomy.MOUTH):
        size = subject.factors["sinus"] * rng.uniform(0.9, 1.1)
        grown = dataclasses.replace(blob, radii_mm=_scaled(blob.radii_mm, size))
        _draw_blob(canvas, grown, air, (anatomy.AIR, anatomy.AIR), limit)
    _draw_path(canvas, anatomy.EAR_CANAL, air, anatomy.AIR, limit)
    _draw_path(canvas, anatomy.THROAT, air, anatomy.AIR, limit)


def _scaled(radii_mm: tuple[float, float, float], size: float) -> tuple[float, float, float]:
    return (radii_mm[0] * size, radii_mm[1] * size, radii_mm[2] * size)


def draw_nuclei(canvas: Canvas, subject: Subject, distance: Volume, b0_t: float) -> None:
    """The deep grey nuclei of both sides."""

    def limit(at: Slices) -> Volume:
        return (distance[at] <= 0).astype(np.float32)

    for blob in anatomy.NUCLEI:
        for right in (False, True):
            label = anatomy.label_index(blob.tissue, right)
            values = subject.properties(_NAMES[label], blob.tissue, b0_t)
            _draw_side(canvas, blob, right, values, label, limit)
    for right in (False, True):
        label = anatomy.label_index("caudate", right)
        values = subject.properties(_NAMES[label], "caudate", b0_t)
        _draw_tube(canvas, anatomy.CAUDATE_TAIL, right, values, label, limit)


def draw_veins(canvas: Canvas, subject: Subject, distance: Volume, b0_t: float) -> None:
    """Sinuses, deep veins and, at random, small veins of the white matter and the cortex."""
    vein = subject.properties("vein", "vein", b0_t)
    for path in anatomy.VEINS:
        _draw_path(canvas, path, vein, anatomy.VEIN)
    points = _sagittal_sinus()
    if len(points) > 1:
        _draw_points(canvas, points, np.linspace(2.5, 4.0, len(points)), vein, anatomy.VEIN)
    rng = np.random.default_rng([*subject.seed, 2])
    for _ in range(70):
        right = rng.random() < 0.5
        start = np.array([rng.uniform(14, 50), rng.uniform(-85, 50), rng.uniform(5, 55)])
        outward = start - np.array([12.0, np.clip(start[1], -60, 30), 15.0])
        heading = outward / np.linalg.norm(outward)
        trail = [start]
        for _ in range(int(rng.integers(6, 12))):
            heading = heading + rng.normal(0.0, 0.25, 3)
            heading /= np.linalg.norm(heading)
            trail.append(trail[-1] + 3.0 * heading)
        radius = float(rng.uniform(0.45, 0.95))
        side = np.array([1.0 if right else -1.0, 1.0, 1.0])

        def limit(at: Slices) -> Volume:
            return (distance[at] <= -1.0).astype(np.float32)

        radii = np.linspace(0.6 * radius, radius, len(trail))
        _draw_points(canvas, np.array(trail) * side, radii, vein, anatomy.VEIN, limit)


def draw_lesions(canvas: Canvas, subject: Subject, b0_t: float) -> None:
    """The lesions that the person has, each at a random place of the white matter."""
    rng = np.random.default_rng([*subject.seed, 4])
    for name in subject.person.lesions:
        side = 1.0 if rng.random() < 0.5 else -1.0
        centre = (side * rng.uniform(24, 32), rng.uniform(-45, -15), rng.uniform(24, 34))
        radii = rng.uniform(2.2, 4.0, 3)
        label = anatomy.CALCIFICATION if name == "calcification" else anatomy.HAEMORRHAGE
        values = subject.properties(name, name, b0_t)
        low, high = np.array(centre) - radii.max(), np.array(centre) + radii.max()
        canvas.draw(ellipsoid(centre, radii.tolist()), low.tolist(), high.tolist(), values, label)


def _sagittal_sinus() -> NDArray[np.float64]:
    """Points 2 mm above the brain in the midline, from the forehead to the back."""
    template = load_template()
    volume, affine = template.distance_mm, template.distance_affine
    points = []
    for degrees in np.arange(25.0, 196.0, 5.0):
        direction = np.array([0.0, np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))])
        ray = np.array([0.0, -20.0, 5.0]) + np.arange(20.0, 120.0)[:, None] * direction
        index = np.rint((ray - affine[:3, 3]) / np.diag(affine)[:3]).astype(int)
        beyond = volume[tuple(index.T)] > 2.0
        points.append(ray[int(beyond.argmax())])
    return np.array(points)


def _draw_blob(
    canvas: Canvas, blob: Blob, values: dict[str, float], labels: tuple[int, int], limit: Limit | None = None
) -> None:
    for right in (False, True):
        _draw_side(canvas, blob, right, values, labels[int(right)], limit)


def _draw_side(
    canvas: Canvas, blob: Blob, right: bool, values: dict[str, float], label: int, limit: Limit | None = None
) -> None:
    """An ellipsoid, or its mirror image on the left."""
    side = 1.0 if right else -1.0
    mirror = np.array([side, 1.0, 1.0])
    turn = (blob.turn_deg[0], side * blob.turn_deg[1], side * blob.turn_deg[2])
    centre = np.array(blob.centre_mm) * mirror
    shape: Distance = ellipsoid(centre.tolist(), blob.radii_mm, turn)
    if blob.hollow is not None:
        hole = ellipsoid((centre + np.array(blob.hollow) * mirror).tolist(), [0.75 * r for r in blob.radii_mm], turn)
        outer = shape

        def shape(where: Volume) -> Volume:
            return np.maximum(outer(where), -hole(where))

    reach = max(blob.radii_mm)
    canvas.draw(shape, (centre - reach).tolist(), (centre + reach).tolist(), values, label, limit)


def _draw_path(canvas: Canvas, path: Path, values: dict[str, float], label: int, limit: Limit | None = None) -> None:
    for right in (True, False) if path.paired else (True,):
        _draw_tube(canvas, path, right, values, label, limit)


def _draw_tube(
    canvas: Canvas, path: Path, right: bool, values: dict[str, float], label: int, limit: Limit | None = None
) -> None:
    side = np.array([1.0 if right else -1.0, 1.0, 1.0])
    _draw_points(canvas, np.array(path.points_mm) * side, np.array(path.radii_mm), values, label, limit)


def _draw_points(
    canvas: Canvas,
    points: NDArray[np.floating],
    radii: NDArray[np.floating] | Sequence[float],
    values: dict[str, float],
    label: int,
    limit: Limit | None = None,
) -> None:
    """Draw a tube, one segment's box at a time."""
    radii = np.asarray(radii, dtype=float)
    for i in range(len(points) - 1):
        ends, widths = points[i : i + 2], radii[i : i + 2]
        low, high = ends.min(axis=0) - widths.max(), ends.max(axis=0) + widths.max()
        canvas.draw(tube(ends, widths), low.tolist(), high.tolist(), values, label, limit)
