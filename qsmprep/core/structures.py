"""Regions of interest: what a label means, in one vocabulary for all segmentations.

The group level joins tables by structure and hemisphere, whatever the segmentation called them; so every name is
brought to a canonical structure here. The side of a region is that of its label. It is never taken from the order of
the array or from coordinates, so no affine can swap left and right (see :func:`qsmprep.core.labels.swapped_pairs`
for the check).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

HEMISPHERES = ("L", "R", "B")
"""Left, right, and both sides or the midline."""


@dataclass(frozen=True)
class Region:
    """One label of a segmentation.

    Parameters
    ----------
    index : int
        Value of its voxels.
    name : str
        As the segmentation calls it.
    structure : str
        Canonical name without the side (see :data:`STRUCTURES`), or a plain form of ``name``.
    hemisphere : str
        ``L``, ``R`` or ``B``.
    """

    index: int
    name: str
    structure: str
    hemisphere: str


STRUCTURES: dict[str, tuple[str, ...]] = {
    "thalamus": ("thalamus", "thalamusproper", "thal"),
    "caudate": ("caudate", "caudatenucleus", "caud", "ca"),
    "putamen": ("putamen", "puta", "pu"),
    "pallidum": ("pallidum", "globuspallidus", "pall", "gp"),
    "pallidum external": ("globuspallidusexternal", "globuspallidusexterna", "externalglobuspallidus", "gpe"),
    "pallidum internal": ("globuspallidusinternal", "globuspallidusinterna", "internalglobuspallidus", "gpi"),
    "accumbens": ("accumbens", "accumbensarea", "nucleusaccumbens", "accu", "nac"),
    "hippocampus": ("hippocampus", "hipp"),
    "amygdala": ("amygdala", "amyg"),
    "red nucleus": ("rednucleus", "rn"),
    "substantia nigra": ("substantianigra", "nigra", "sn"),
    "substantia nigra compacta": ("substantianigraparscompacta", "snc"),
    "substantia nigra reticulata": ("substantianigraparsreticulata", "snr"),
    "subthalamic nucleus": ("subthalamicnucleus", "stn", "sth"),
    "dentate nucleus": ("dentatenucleus", "dentate", "dn"),
    "ventral pallidum": ("ventralpallidum", "vep"),
    "white matter": ("whitematter", "cerebralwhitematter", "wm"),
    "cortex": ("cortex", "cerebralcortex", "greymatter", "graymatter"),
    "cerebellar cortex": ("cerebellumcortex", "cerebellarcortex"),
    "cerebellar white matter": ("cerebellumwhitematter", "cerebellarwhitematter"),
    "lateral ventricle": ("lateralventricle",),
    "inferior lateral ventricle": ("inflatvent", "inferiorlateralventricle"),
    "third ventricle": ("3rdventricle", "thirdventricle"),
    "fourth ventricle": ("4thventricle", "fourthventricle"),
    "cerebrospinal fluid": ("csf", "cerebrospinalfluid"),
    "brainstem": ("brainstem", "stem"),
    "ventral diencephalon": ("ventraldc", "ventraldiencephalon"),
    "choroid plexus": ("choroidplexus",),
}
"""Canonical structures and the names, in small letters without marks, by which segmentations call them."""

_CANONICAL = {alias: structure for structure, aliases in STRUCTURES.items() for alias in aliases}

REFERENCE_STRUCTURES: dict[str, tuple[str, ...]] = {
    "csf": ("lateral ventricle", "cerebrospinal fluid"),
    "whitematter": ("white matter",),
}
"""What the reference regions are made of: the first structure of each that a segmentation has."""

_SIDES = {"l": "L", "left": "L", "lh": "L", "r": "R", "right": "R", "rh": "R"}


def make_region(index: int, name: str, hemisphere: str | None = None, structure: str | None = None) -> Region:
    """A region from what a table says of it; the side and the structure are read from the name where not given.

    Parameters
    ----------
    index : int
        Value of its voxels.
    name : str
        Such as ``Left-Putamen``, ``ctx_lh_insula``, ``GPe_R`` or ``right red nucleus``.
    hemisphere : str, optional
        ``L``, ``R`` or ``B``, in any spelling that the name may use.
    structure : str, optional
        Replaces the structure that the name says.
    """
    words = [word for word in re.split(r"[^A-Za-z0-9]+", name) if word]
    sides = [_SIDES[word.lower()] for word in words if word.lower() in _SIDES]
    rest = [word for word in words if word.lower() not in _SIDES]
    side = _SIDES.get((hemisphere or "").strip().lower())
    if side is None:
        given = (hemisphere or "").strip().upper()
        side = given if given in HEMISPHERES else (sides[0] if len(set(sides)) == 1 else "B")
    plain = "".join(rest).lower()
    known = structure or _CANONICAL.get(plain) or " ".join(rest).lower() or f"label {index}"
    return Region(int(index), name, known, side)


_FREESURFER = """
2 Left-Cerebral-White-Matter;3 Left-Cerebral-Cortex;4 Left-Lateral-Ventricle;5 Left-Inf-Lat-Vent
7 Left-Cerebellum-White-Matter;8 Left-Cerebellum-Cortex;10 Left-Thalamus;11 Left-Caudate;12 Left-Putamen
13 Left-Pallidum;14 3rd-Ventricle;15 4th-Ventricle;16 Brain-Stem;17 Left-Hippocampus;18 Left-Amygdala;24 CSF
26 Left-Accumbens-area;28 Left-VentralDC;30 Left-vessel;31 Left-choroid-plexus
41 Right-Cerebral-White-Matter;42 Right-Cerebral-Cortex;43 Right-Lateral-Ventricle;44 Right-Inf-Lat-Vent
46 Right-Cerebellum-White-Matter;47 Right-Cerebellum-Cortex;49 Right-Thalamus;50 Right-Caudate;51 Right-Putamen
52 Right-Pallidum;53 Right-Hippocampus;54 Right-Amygdala;58 Right-Accumbens-area;60 Right-VentralDC
62 Right-vessel;63 Right-choroid-plexus;72 5th-Ventricle;77 WM-hypointensities;78 Left-WM-hypointensities
79 Right-WM-hypointensities;80 non-WM-hypointensities;85 Optic-Chiasm
251 CC_Posterior;252 CC_Mid_Posterior;253 CC_Central;254 CC_Mid_Anterior;255 CC_Anterior
"""

FREESURFER: dict[int, Region] = {
    int(code): make_region(int(code), name)
    for code, name in (entry.split(" ", 1) for entry in re.split(r"[;\n]", _FREESURFER.strip()))
}
"""Codes of FreeSurfer's aseg, which FastSurfer and SynthSeg share."""

_DEEP_GREY = ("thalamus", "caudate", "putamen", "pallidum", "accumbens", "hippocampus", "amygdala")

FIRST: dict[int, Region] = {
    code: region for code, region in FREESURFER.items() if region.structure in (*_DEEP_GREY, "brainstem")
}
"""Codes that FSL FIRST writes, which are those of FreeSurfer."""
