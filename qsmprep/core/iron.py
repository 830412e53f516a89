"""Iron of the deep grey nuclei over age, as published, for the normative context of a cohort.

References
----------
.. [1] Hallgren and Sourander, J. Neurochem. 3:41 (1958), doi:10.1111/j.1471-4159.1958.tb12607.x
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True)
class IronCurve:
    """Non-haem iron over age: ``at_birth + gain (1 - exp(-rate age))``.

    Parameters
    ----------
    gain, at_birth : float
        In mg of iron per 100 g of fresh weight, the unit of the publication.
    rate : float
        In 1/year.
    """

    gain: float
    rate: float
    at_birth: float

    def mg_per_kg(self, age_years: ArrayLike) -> NDArray[np.float64]:
        """Iron in mg per kg of fresh weight at these ages in years."""
        age = np.asarray(age_years, float)
        return 10.0 * (self.at_birth + self.gain * (1.0 - np.exp(-self.rate * age)))


HALLGREN_SOURANDER: dict[str, IronCurve] = {
    "pallidum": IronCurve(21.41, 0.09, 0.37),
    "putamen": IronCurve(14.62, 0.04, 0.46),
    "caudate": IronCurve(9.66, 0.05, 0.33),
}
"""The fits of [1]_ for the nuclei of which it gives one with age, by canonical structure."""
