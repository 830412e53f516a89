"""Who is scanned: everything random about one person, drawn once from a seed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from qsmprep.errors import DataError
from qsmprep.phantom.anatomy import LABELS
from qsmprep.phantom.canvas import PROPERTIES, Volume
from qsmprep.phantom.tissue import CHI_PPM_PER_IRON, R2STAR_HZ_PER_IRON_3T, TISSUES
from qsmprep.phantom.warp import Warp, draw_warp

TEXTURE_MM = 2.0
_TEXTURE_SHAPE = (100, 118, 96)
_HEAD_SIZE = {"M": 0.965, "F": 0.93}


@dataclass(frozen=True)
class Person:
    """What is known about a participant before the scan.

    Parameters
    ----------
    age_years : float
    sex : str
        ``M`` or ``F``; sets the mean size of the head.
    group : str
        ``control`` or ``patient``.
    iron_gain : float
        Factor on the iron of the deep grey nuclei (the effect of group).
    gain_in : tuple of str
        The nuclei that have it, names of ``TISSUES``; all deep grey nuclei by default.
    lesions : tuple of str
        Any of ``calcification`` and ``haemorrhage``.
    """

    age_years: float = 40.0
    sex: str = "F"
    group: str = "control"
    iron_gain: float = 1.0
    lesions: tuple[str, ...] = ()
    gain_in: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.sex not in _HEAD_SIZE or not self.age_years >= 0:
            raise DataError(f"a person of sex {self.sex!r}, {self.age_years} years old", expected="M or F, 0 or older")
        wrong = set(self.lesions) - {"calcification", "haemorrhage"}
        if wrong:
            raise DataError(f"unknown lesions {sorted(wrong)}", expected="calcification or haemorrhage")
        wrong = {name for name in self.gain_in if not (name in TISSUES and TISSUES[name].deep)}
        if wrong:
            deep = ", ".join(name for name, tissue in TISSUES.items() if tissue.deep)
            raise DataError(f"no deep grey nucleus is called {', '.join(sorted(wrong))}", expected=f"some of {deep}")


@dataclass(frozen=True)
class Subject:
    """One drawn head, ready to be built on any grid.

    Parameters
    ----------
    person : Person
    warp : Warp
        Scanner to template.
    texture : (2, ...) float32 array
        Smooth noise of unit variance in template space at ``TEXTURE_MM``: tissue texture, folding.
    factors : dict of str to float
        Random factor of each label's iron, and ``sinus``, the size of the air cavities.
    seed : tuple of int
        What it was drawn from; also seeds the small vessels.
    """

    person: Person
    warp: Warp
    texture: Volume
    factors: dict[str, float]
    seed: tuple[int, ...]

    def properties(self, label: str, tissue: str, b0_t: float) -> dict[str, float]:
        """Properties of a structure in this person at ``b0_t`` tesla (see ``canvas.PROPERTIES``)."""
        base = TISSUES[tissue]
        iron = 0.0
        if base.iron is not None:
            iron = base.iron.at(self.person.age_years) * self.factors.get(label, 1.0)
            gains = base.deep and tissue in (self.person.gain_in or (tissue,))
            iron *= self.person.iron_gain if gains else 1.0
        values = (
            base.chi_ppm + CHI_PPM_PER_IRON * iron,
            base.r2star_hz + R2STAR_HZ_PER_IRON_3T * iron * (b0_t / 3.0),
            base.density,
            base.t1_s * (b0_t / 3.0) ** (1 / 3),
            base.fat,
        )
        return dict(zip(PROPERTIES, values, strict=True))


def draw_subject(person: Person, seed: tuple[int, ...], *, varied: bool = True) -> Subject:
    """Draw everything random about a person's head.

    Parameters
    ----------
    person : Person
    seed : tuple of int
        The same seed gives the same head.
    varied : bool
        False: the template itself, straight and centred, without texture.
    """
    rng = np.random.default_rng([*seed, 1])
    warp = draw_warp(
        rng,
        size=_HEAD_SIZE[person.sex],
        bend_sd_mm=1.6 if varied else 0.0,
        move=1.0 if varied else 0.0,
    )
    texture = np.stack(
        [ndimage.gaussian_filter(rng.standard_normal(_TEXTURE_SHAPE), sd_mm / TEXTURE_MM) for sd_mm in (2.0, 3.5)]
    )
    texture *= float(varied) / texture.std(axis=(1, 2, 3), keepdims=True)
    factors = {label.name: float(np.exp(rng.normal(0.0, 0.05 * varied))) for label in LABELS if label.index < 90}
    factors["sinus"] = float(rng.uniform(0.8, 1.15)) if varied else 1.0
    return Subject(person, warp, texture.astype(np.float32), factors, tuple(seed))
