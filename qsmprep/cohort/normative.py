"""Normative context: the published growth of iron with age, brought to susceptibility by one line for all nuclei.

Susceptibility is known up to a constant, and its slope against iron depends on temperature, on the inversion and on
what is averaged. So neither is taken from elsewhere: the published curves give the shape over age and the proportions
between nuclei, and one offset and one slope, the same for all nuclei, are fitted to the cohort.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from qsmprep.cohort.tables import unit_of
from qsmprep.core.iron import HALLGREN_SOURANDER

MIN_N = 6
"""Fewer measurements than this give no line."""

SPREADS = frozenset({"sd", "mad", "iqr"})
"""Statistics in the unit of the map that say how far its values are apart, not where they lie."""


@dataclass(frozen=True)
class IronLine:
    """``chi = offset + slope iron(age)``, one for all nuclei.

    Parameters
    ----------
    offset_ppm : float
        Susceptibility of tissue without iron, relative to the reference of the maps.
    slope_ppm_per_mg_kg : float
        Susceptibility of one mg of iron in a kg of wet tissue.
    r2 : float
        Share of the variance between nuclei and ages that the line explains.
    n : int
        Measurements.
    """

    offset_ppm: float
    slope_ppm_per_mg_kg: float
    r2: float
    n: int

    def chi_ppm(self, structure: str, age_years: np.ndarray) -> np.ndarray:
        """The curve of a nucleus over age."""
        return self.offset_ppm + self.slope_ppm_per_mg_kg * HALLGREN_SOURANDER[structure].mg_per_kg(age_years)


def is_of_map(statistic: str) -> bool:
    """Whether a statistic has the unit of the map; volumes, counts and coverage have not."""
    return unit_of(statistic, "map") == "map"


def fit_iron_line(rows: pd.DataFrame, statistic: str) -> IronLine | None:
    """Fit the line to one map of a cohort.

    None where ages, nuclei or measurements are too few, or the statistic is no level of the map.

    Parameters
    ----------
    rows : DataFrame
        Rows of the long table of one map in ppm, with a column ``age`` in years.
    statistic : str
        Statistic of the regions.
    """
    if "age" not in rows or rows["age"].dtype.kind != "f" or not is_of_map(statistic) or statistic in SPREADS:
        return None
    used = rows[rows["structure"].isin(list(HALLGREN_SOURANDER)) & rows["age"].between(0, 110)]
    used = used[np.isfinite(used[statistic])]
    if len(used) < MIN_N or used["structure"].nunique() < 2:
        return None
    iron = np.concatenate(
        [
            HALLGREN_SOURANDER[s].mg_per_kg(used.loc[used["structure"] == s, "age"].to_numpy(float))
            for s in HALLGREN_SOURANDER
        ]
    )
    chi = np.concatenate([used.loc[used["structure"] == s, statistic].to_numpy(float) for s in HALLGREN_SOURANDER])
    design = np.column_stack([np.ones_like(iron), iron])
    (offset, slope), *_ = np.linalg.lstsq(design, chi, rcond=None)
    spread = float(np.sum((chi - chi.mean()) ** 2))
    left = float(np.sum((chi - design @ (offset, slope)) ** 2))
    return IronLine(float(offset), float(slope), 1 - left / spread if spread else 0.0, len(chi))
