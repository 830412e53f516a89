"""What the tissues of the head are made of.

Susceptibility is in ppm relative to water, at 3 T. Deep grey nuclei take theirs from iron, which
follows saturating growth curves with age, rounded from Hallgren and Sourander [1]_. The other
numbers are typical of the literature on QSM; they make a plausible head, not a normative one.

References
----------
.. [1] Hallgren and Sourander, J. Neurochem. 3:41 (1958), doi:10.1111/j.1471-4159.1958.tb12607.x
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from qsmprep.core.simulate import AIR_PPM

CHI_PPM_PER_IRON = 0.0009
"""Susceptibility in ppm of 1 mg of iron in a kg of wet tissue."""

R2STAR_HZ_PER_IRON_3T = 0.12
"""R2* in 1/s of 1 mg of iron in a kg of wet tissue at 3 T; it grows with the field strength."""

FAT_SHIFT_PPM = -3.4
"""Chemical shift of the main peak of fat against water."""


@dataclass(frozen=True)
class Iron:
    """Iron over age in mg per kg wet tissue: ``at_birth + gain (1 - exp(-age / time_years))``."""

    at_birth: float
    gain: float
    time_years: float

    def at(self, age_years: float) -> float:
        """Iron in mg/kg at that age."""
        return self.at_birth + self.gain * (1.0 - math.exp(-age_years / self.time_years))


@dataclass(frozen=True)
class Tissue:
    """One tissue without its iron.

    Parameters
    ----------
    chi_ppm : float
        Susceptibility relative to water, iron excluded.
    r2star_hz : float
        R2* at 3 T, iron excluded.
    density : float
        Proton density relative to cerebrospinal fluid.
    t1_s : float
        T1 at 3 T.
    fat : float
        Share of the signal that comes from fat.
    iron : Iron, optional
        Its iron.
    deep : bool
        Whether the effect of group acts on it.
    """

    chi_ppm: float
    r2star_hz: float
    density: float
    t1_s: float
    fat: float = 0.0
    iron: Iron | None = None
    deep: bool = False


TISSUES: dict[str, Tissue] = {
    "air": Tissue(AIR_PPM, 0.0, 0.0, 1.0),
    "bone": Tissue(-2.0, 300.0, 0.05, 0.4),
    "marrow": Tissue(-0.6, 80.0, 0.5, 0.45, fat=1.0),
    "fat": Tissue(0.65, 30.0, 0.85, 0.38, fat=1.0),
    "muscle": Tissue(0.0, 33.0, 0.75, 1.3),
    "skin": Tissue(0.0, 40.0, 0.6, 1.0),
    "eye": Tissue(0.0, 4.0, 1.0, 3.5),
    "csf": Tissue(0.0, 1.5, 1.0, 4.0),
    "grey": Tissue(-0.012, 13.0, 0.84, 1.35, iron=Iron(5, 32, 20)),
    "white": Tissue(-0.070, 17.0, 0.72, 0.86, iron=Iron(3, 40, 10)),
    "vein": Tissue(0.30, 42.0, 0.85, 1.7),
    "caudate": Tissue(-0.033, 14.0, 0.82, 1.25, iron=Iron(3, 97, 20), deep=True),
    "putamen": Tissue(-0.055, 14.0, 0.82, 1.20, iron=Iron(5, 146, 25), deep=True),
    "pallidum": Tissue(-0.060, 16.0, 0.76, 1.00, iron=Iron(4, 214, 11), deep=True),
    "thalamus": Tissue(-0.040, 15.0, 0.79, 1.15, iron=Iron(5, 45, 15), deep=True),
    "rednucleus": Tissue(-0.060, 16.0, 0.76, 1.00, iron=Iron(5, 195, 15), deep=True),
    "nigra": Tissue(-0.040, 16.0, 0.77, 1.05, iron=Iron(5, 185, 15), deep=True),
    "dentate": Tissue(-0.005, 15.0, 0.78, 1.10, iron=Iron(3, 105, 15), deep=True),
    "calcification": Tissue(-2.5, 90.0, 0.35, 0.8),
    "haemorrhage": Tissue(1.2, 120.0, 0.7, 1.0),
}
