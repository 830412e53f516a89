"""How scanners store images in integers, and back."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qsmprep.errors import DataError

LEVELS = 4096
"""Values that 12 bits can hold."""


@dataclass(frozen=True)
class Stored:
    """Integers and the header scaling that belongs to them: value = ``stored * slope + intercept``.

    Parameters
    ----------
    stored : int16 array
    slope, intercept : float
        As in the NIfTI header.
    units : str
        ``arbitrary`` or ``rad``, the BIDS ``Units``.
    """

    stored: NDArray[np.int16]
    slope: float
    intercept: float
    units: str

    @property
    def values(self) -> NDArray[np.float64]:
        """What a reader that honours the header sees."""
        return self.stored.astype(np.float64) * self.slope + self.intercept


VENDORS = ("siemens", "philips")


def encode_phase(phase_rad: NDArray[np.floating], vendor: str = "siemens") -> Stored:
    """Wrapped phase in 12 bits, as a vendor stores it.

    Parameters
    ----------
    phase_rad : array
        Phase in rad, of any range.
    vendor : str
        ``siemens``: values -4096 to 4094 in steps of 2, where 4096 would be pi. ``philips``:
        values -pi to pi in rad, both ends included.

    Raises
    ------
    DataError
        For another vendor or phase that is not finite.
    """
    phase = np.asarray(phase_rad, dtype=np.float64)
    if vendor not in VENDORS:
        raise DataError(f"no vendor is called {vendor!r}", expected=f"one of {', '.join(VENDORS)}")
    if not np.all(np.isfinite(phase)):
        raise DataError("the phase is not finite everywhere", expected="radians")
    turns = phase / (2 * np.pi)
    turns = turns - np.floor(turns + 0.5)
    if vendor == "siemens":
        stored = np.rint((turns + 0.5) * LEVELS).astype(np.int64) % LEVELS
        return Stored(stored.astype(np.int16), 2.0, -float(LEVELS), "arbitrary")
    stored = np.rint((turns + 0.5) * (LEVELS - 1)).astype(np.int64)
    slope = float(np.float32(2 * np.pi / (LEVELS - 1)))
    return Stored(stored.astype(np.int16), slope, -slope * (LEVELS - 1) / 2, "rad")


def decode_phase(values: NDArray[np.floating], units: str) -> NDArray[np.float64]:
    """Phase in rad from the values of :func:`encode_phase`."""
    return np.asarray(values, dtype=np.float64) * (np.pi / LEVELS if units == "arbitrary" else 1.0)


def encode_magnitude(magnitude: NDArray[np.floating], unit: float) -> Stored:
    """Magnitude as non-negative 12-bit integers; ``unit`` is stored as 1, and what is too bright is clipped."""
    if not unit > 0:
        raise DataError(f"the unit of the magnitude is {unit}", expected="a positive number")
    stored = np.clip(np.rint(np.asarray(magnitude) / unit), 0, LEVELS - 1)
    return Stored(stored.astype(np.int16), 1.0, 0.0, "arbitrary")


def encode_map(volume: NDArray[np.floating], step: float, units: str) -> Stored:
    """A map in int16 with a resolution of ``step`` (coarser only where the range asks for it)."""
    top = float(np.abs(volume).max(initial=0.0))
    step = float(np.float32(max(step, top / 32767)))
    return Stored(np.rint(np.asarray(volume) / step).astype(np.int16), step, 0.0, units)
