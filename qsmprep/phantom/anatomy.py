"""Where the structures of the head lie in template space (MNI152, mm, right is positive x)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Label:
    """One row of the label table: ``hemisphere`` is L, R or B (both or neither)."""

    index: int
    name: str
    hemisphere: str
    tissue: str


@dataclass(frozen=True)
class Blob:
    """An ellipsoid on the right side; the left one is its mirror image.

    ``hollow`` moves an inner copy by that many mm and cuts it out, which leaves a crescent.
    """

    tissue: str
    centre_mm: tuple[float, float, float]
    radii_mm: tuple[float, float, float]
    turn_deg: tuple[float, float, float] = (0.0, 0.0, 0.0)
    hollow: tuple[float, float, float] | None = None


@dataclass(frozen=True)
class Path:
    """A tube along points of the right side, with a radius at each point."""

    tissue: str
    points_mm: tuple[tuple[float, float, float], ...]
    radii_mm: tuple[float, ...]
    paired: bool = True


OUTSIDE, AIR, SCALP, SKULL, SOFT, EYE = 0, 90, 91, 92, 93, 94
CSF, VEIN, CALCIFICATION, HAEMORRHAGE = 5, 6, 7, 8

_PAIRED = ("white", "grey", "caudate", "putamen", "pallidum", "thalamus", "rednucleus", "nigra", "dentate")
_NAMES = {
    "white": "white matter",
    "grey": "grey matter",
    "caudate": "caudate nucleus",
    "putamen": "putamen",
    "pallidum": "globus pallidus",
    "thalamus": "thalamus",
    "rednucleus": "red nucleus",
    "nigra": "substantia nigra",
    "dentate": "dentate nucleus",
}
_FIRST = {"white": 1, "grey": 3, **{name: 11 + 2 * i for i, name in enumerate(_PAIRED[2:])}}

LABELS: tuple[Label, ...] = (
    *(
        Label(_FIRST[name] + side, f"{('left', 'right')[side]} {_NAMES[name]}", "LR"[side], name)
        for name in _PAIRED
        for side in (0, 1)
    ),
    Label(CSF, "cerebrospinal fluid", "B", "csf"),
    Label(VEIN, "vein", "B", "vein"),
    Label(CALCIFICATION, "calcification", "B", "calcification"),
    Label(HAEMORRHAGE, "haemorrhage", "B", "haemorrhage"),
    Label(AIR, "air cavity", "B", "air"),
    Label(SCALP, "scalp", "B", "fat"),
    Label(SKULL, "skull", "B", "bone"),
    Label(SOFT, "soft tissue", "B", "muscle"),
    Label(EYE, "eye", "B", "eye"),
)
"""All labels; those below 90 lie in the brain."""


def label_index(tissue: str, right: bool) -> int:
    """Index of a paired structure."""
    return _FIRST[tissue] + int(right)


NUCLEI: tuple[Blob, ...] = (
    Blob("thalamus", (12, -19, 8), (9, 16, 9), (0, 0, 28)),
    Blob("caudate", (12.5, 13, 6), (5, 9, 9), (-25, 0, 0)),
    Blob("putamen", (26, 3, 1), (5.6, 17, 11.5), (0, 0, 17)),
    Blob("pallidum", (19, -4, -0.5), (4.6, 10.5, 7.2), (0, 0, 27)),
    Blob("rednucleus", (5.2, -20, -8.5), (3.2, 3.6, 4.2)),
    Blob("nigra", (10.5, -17, -12), (2.6, 7.5, 3.6), (0, 25, 40)),
    Blob("dentate", (15.5, -57, -36), (7, 9, 6), (0, 0, -20), hollow=(-2.0, 3.5, 0.0)),
)

CAUDATE_TAIL = Path(
    "caudate",
    ((12, 8, 12), (14, -1, 18), (17, -12, 21), (21, -24, 21), (27, -35, 15), (32, -34, 4), (33, -22, -6)),
    (5.0, 4.2, 3.2, 2.4, 2.0, 1.7, 1.5),
)

VEINS: tuple[Path, ...] = (
    Path("vein", ((2.2, 6, 15), (2.0, -8, 17), (2.0, -22, 14), (1.5, -34, 9)), (1.0, 1.2, 1.4, 1.6)),
    Path("vein", ((3, 26, 4), (3, 18, 10), (2.2, 6, 15)), (0.7, 0.9, 1.1)),
    Path("vein", ((24, -14, 24), (19, -6, 22), (12, 2, 18), (2.2, 6, 15)), (0.8, 1.0, 1.0, 1.0)),
    Path("vein", ((20, 2, -20), (17, -16, -16), (14, -28, -8), (6, -38, 2), (1.0, -40, 6)), (0.9, 1.1, 1.2, 1.4, 1.6)),
    Path("vein", ((0, -34, 9), (0, -42, 8), (0, -50, 10), (0, -75, 2), (0, -98, -10)), (2, 2.4, 2.4, 2.6, 3), False),
    Path("vein", ((0, -100, -10), (28, -95, -20), (50, -72, -24), (56, -55, -30)), (3.5, 3.5, 3.5, 3.5)),
    Path("vein", ((56, -55, -30), (50, -44, -44), (40, -36, -58), (32, -30, -70)), (3.5, 4, 4, 4)),
)

CAVITIES: tuple[Blob, ...] = (
    Blob("air", (11, 76, -14), (9, 6, 14), (-15, 0, 0)),
    Blob("air", (22, 71, -22), (8, 6, 8)),
    Blob("air", (7, 52, -40), (5.5, 15, 9)),
    Blob("air", (6, 18, -42), (8, 12, 9)),
    Blob("air", (28, 50, -66), (13, 16, 15)),
    Blob("air", (6, 52, -66), (4, 26, 17)),
    Blob("air", (54, -38, -46), (7, 9, 12)),
    Blob("air", (47, -24, -40), (5, 6, 6)),
)
EAR_CANAL = Path("air", ((50, -23, -41), (62, -24, -41), (100, -25, -42)), (3.0, 3.5, 4.0))
THROAT = Path("air", ((0, 30, -68), (0, 8, -72), (0, -2, -95), (0, -2, -200)), (8, 9, 8, 9), False)
MOUTH = Blob("air", (8, 48, -100), (16, 22, 3))

FACE: tuple[Blob, ...] = (
    Blob("muscle", (20, -5, -28), (56, 72, 52)),
    Blob("muscle", (14, 32, -62), (52, 58, 66)),
    Blob("muscle", (4, 96, -66), (9, 17, 20)),
)
NECK = Path("muscle", ((0, -22, -60), (0, -30, -120), (0, -36, -175)), (62, 58, 60), False)
SHOULDERS = Path("muscle", ((0, -40, -215), (160, -45, -235)), (70, 60))
EYES = Blob("eye", (32, 62, -42), (12, 12, 12))
ORBITS = Blob("fat", (30, 52, -42), (16, 24, 16))
CORD = Path("csf", ((0, -42, -66), (0, -46, -90), (0, -52, -190)), (9, 8, 7.5), False)
