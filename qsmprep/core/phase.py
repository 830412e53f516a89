"""Phase images: scaling of stored numbers to radians, wrapping, complex parts.

Checks and corrections of scanner artefacts are in :mod:`qsmprep.core.phase_artefacts` and can be
imported from here as well.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qsmprep.core.phase_artefacts import correct_bipolar, correct_slice_alternation, looks_filtered
from qsmprep.errors import DataError

__all__ = [
    "PhaseScaling",
    "complex_from_parts",
    "correct_bipolar",
    "correct_slice_alternation",
    "looks_filtered",
    "scale_phase",
    "wrap",
]

TWO_PI = 2.0 * math.pi
COVERAGE = 0.97
"""Fraction of a known range that the stored values must span for the range to be recognised by itself."""
VENDOR_COVERAGE = 0.5
"""The same where the manufacturer is known and the values are whole numbers, as that vendor stores them."""
SLACK = 1e-3
"""How far, relative to its width, values may lie outside a known range (rounding)."""
MAX_STATED_RAD = 300.0
"""Largest magnitude of a phase stated to be in radians; unwrapped phase of long echo trains stays below."""
REMEDY = "convert the phase to radians and state `Units`: `rad` in its sidecar"


@dataclass(frozen=True)
class _Range:
    """A way to store phase: smallest and largest number, and the line that maps them to radians."""

    name: str
    low: float
    high: float
    factor: float
    offset: float = 0.0
    whole: bool = True
    vendors: tuple[str, ...] = ()


RANGES = (
    _Range("-pi to pi", -math.pi, math.pi, 1.0, whole=False),
    _Range("0 to 2 pi", 0.0, TWO_PI, 1.0, whole=False),
    _Range("0 to 4095", 0, 4095, math.pi / 2048, -math.pi, vendors=("siemens",)),
    _Range("-4096 to 4095", -4096, 4095, math.pi / 4096, vendors=("siemens",)),
    _Range("-2048 to 2047", -2048, 2047, math.pi / 2048),
    _Range("-3142 to 3142 (mrad)", -1000 * math.pi, 1000 * math.pi, 1e-3, whole=False, vendors=("ge", "philips")),
)


@dataclass(frozen=True)
class PhaseScaling:
    """How stored numbers became radians: ``phase_rad = wrap(sign * (factor * stored + offset_rad))``.

    Parameters
    ----------
    rule : str
        ``units``, ``units, rewrapped``, ``stray slope``, ``header``, ``range`` or ``vendor``.
    range_name : str
        The known range that was recognised, or ``as stated``.
    range_in : tuple of float
        Smallest and largest finite value found.
    factor : float
        Radians per stored unit (after the NIfTI slope and intercept).
    offset_rad : float
        Added after the factor.
    sign : int
        1 or -1.
    n_nonfinite : int
        Voxels that were not finite and were set to zero.
    note : str
        A contradiction that was resolved, for the log; empty when there was none.
    """

    rule: str
    range_name: str
    range_in: tuple[float, float]
    factor: float
    offset_rad: float
    sign: int
    n_nonfinite: int
    note: str = ""


@dataclass(frozen=True)
class _Stored:
    """What is known of the stored numbers."""

    low: float
    high: float
    whole: bool
    integers: bool
    raw_low: float
    raw_high: float
    slope: float
    inter: float
    vendor: str


def wrap(phase_rad: ArrayLike) -> NDArray[np.float32]:
    """Wrap phase into [-pi, pi].

    Parameters
    ----------
    phase_rad : array_like
        Phase in radians, any shape.

    Returns
    -------
    float32 array of the same shape
    """
    phase = np.asarray(phase_rad)
    result = np.empty(phase.shape, np.float32)
    places: Iterable[Any] = range(len(phase)) if phase.ndim > 3 else [...]
    for at in places:  # in double precision, one volume after the other
        part = np.asarray(phase[at], np.float64)
        result[at] = part - TWO_PI * np.rint(part / TWO_PI)
    return np.clip(result, np.float32(-np.pi), np.float32(np.pi), out=result)


def complex_from_parts(
    real: NDArray[np.floating], imag: NDArray[np.floating]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Magnitude and phase of a real and an imaginary image.

    Parameters
    ----------
    real, imag : array of one shape
        In the same arbitrary unit. Voxels where either is not finite come out as zero in both results.

    Returns
    -------
    magnitude : float32 array
        In the unit of the input.
    phase_rad : float32 array
        In radians, in [-pi, pi].

    Raises
    ------
    DataError
        When the shapes differ, nothing is finite or there is no signal at all.
    """
    real, imag = np.asarray(real), np.asarray(imag)
    if real.shape != imag.shape or real.size == 0:
        raise DataError(
            f"the real part has shape {real.shape}, the imaginary part {imag.shape}",
            expected="two volumes of one shape",
        )
    finite = np.isfinite(real) & np.isfinite(imag)
    signal = np.where(finite, real, 0).astype(np.complex64)
    signal += 1j * np.where(finite, imag, 0).astype(np.float32)
    magnitude = np.abs(signal).astype(np.float32)
    if not np.any(magnitude > 0):
        raise DataError("the real and imaginary images hold no signal", expected="values other than zero")
    return magnitude, np.angle(signal).astype(np.float32)


def scale_phase(
    stored: NDArray[np.floating],
    *,
    units: str | None,
    manufacturer: str | None = None,
    sign: int = 1,
    raw_range: tuple[float, float] | None = None,
    slope: float = 1.0,
    inter: float = 0.0,
    dtype: str | None = None,
) -> tuple[NDArray[np.float32], PhaseScaling]:
    """Bring stored phase to radians by what is known of it, never by stretching what was found.

    In this order: a header slope that spoils numbers which already span -pi to pi is undone; phase
    stated in radians is taken so, unless it fills a vendor's range; a slope and intercept that map 12-bit
    numbers onto a known range give it; so do values that fill a known range; so do whole numbers of a
    known vendor that span half of one of its ranges. Anything else is refused. One rule for all echoes.

    Parameters
    ----------
    stored : (n_echo, nx, ny, nz) array, or of any other shape
        Values after the NIfTI slope and intercept.
    units, manufacturer : str or None
        ``Units`` (``rad``, ``arbitrary`` or nothing) and ``Manufacturer`` of the BIDS sidecar.
    sign : {1, -1}
        -1 negates the phase.
    raw_range : tuple of float, optional
        Smallest and largest number before slope and intercept, over all echoes together.
    slope, inter : float
        Of the header; NaN and a slope of 0 count as none.
    dtype : str, optional
        Of the numbers in the file.

    Returns
    -------
    phase_rad : float32 array of the shape of ``stored``
        In [-pi, pi]; zero where the stored value is not finite.
    scaling : PhaseScaling
        For the sidecar.

    Raises
    ------
    DataError
        When the scaling cannot be decided, the phase is constant, or nothing is finite.
    """
    values = np.asarray(stored)
    finite = np.isfinite(values)
    if sign not in (1, -1) or not finite.any():
        raise DataError(f"the sign is {sign}, {finite.sum()} values are finite", expected="1 or -1, and a phase image")
    known = _inspect(values[finite], manufacturer, raw_range, slope, inter, dtype)
    if known.low == known.high:
        raise DataError(
            f"the phase is {known.low:g} everywhere", expected="a phase image", remedy="check the conversion"
        )
    rule, found, note = _decide(known, _unit(units))
    phase_rad = np.empty(values.shape, np.float32)
    places: Iterable[Any] = range(len(values)) if values.ndim > 3 else [...]
    for at in places:
        radians = np.where(finite[at], values[at], 0).astype(np.float64)
        radians *= sign * found.factor
        radians += sign * found.offset
        phase_rad[at] = np.where(finite[at], wrap(radians), 0)
    lost, span = int(np.count_nonzero(~finite)), (known.low, known.high)
    return phase_rad, PhaseScaling(rule, found.name, span, found.factor, found.offset, sign, lost, note)


def _inspect(
    finite: NDArray[np.floating],
    manufacturer: str | None,
    raw_range: tuple[float, float] | None,
    slope: float,
    inter: float,
    dtype: str | None,
) -> _Stored:
    low, high = float(finite.min()), float(finite.max())
    if not math.isfinite(slope) or slope == 0:
        slope, inter = 1.0, 0.0
    raw_low, raw_high = raw_range or (low, high)
    integers = np.dtype(dtype).kind in "iu" if dtype else True
    whole = bool(np.all(finite == np.rint(finite)))
    vendor = (manufacturer or "").strip().lower()
    vendor = next((v for v in ("siemens", "philips", "ge") if vendor.startswith(v)), vendor)
    return _Stored(low, high, whole, integers, float(raw_low), float(raw_high), slope, inter, vendor)


def _unit(units: str | None) -> str:
    """``rad``, ``arbitrary`` or the empty string."""
    text = (units or "").strip().lower()
    if text in ("rad", "radian", "radians"):
        return "rad"
    if text in ("", "arbitrary", "a.u.", "au", "n/a"):
        return "arbitrary" if text else ""
    raise DataError(f"the phase has `Units`: {units!r}", expected="`rad` or `arbitrary`", remedy=REMEDY)


def _decide(known: _Stored, unit: str) -> tuple[str, _Range, str]:
    """The rule, the range and a note, or an error."""
    if _fills(RANGES[0], known.raw_low, known.raw_high) and not _fills(RANGES[0], known.low, known.high):
        undone = _Range("-pi to pi", known.low, known.high, 1 / known.slope, -known.inter / known.slope)
        return "stray slope", undone, f"the header's slope {known.slope:g} was undone: the raw numbers are radians"
    found = next((r for r in RANGES if _fills(r, known.low, known.high) and (known.whole or not r.whole)), None)
    if unit == "rad":
        return _as_stated(known, found)
    header = _from_header(known)
    if header:
        return "header", header, ""
    note = "stated as arbitrary, but in radians" if unit and found and abs(found.high) < 10 else ""
    if found:
        return "range", found, note
    vendor = [r for r in RANGES if known.vendor in r.vendors and known.whole]
    vendor = [r for r in vendor if _fills(r, known.low, known.high, VENDOR_COVERAGE)]
    if vendor:
        return "vendor", min(vendor, key=lambda r: r.high - r.low), ""
    raise DataError(
        f"the phase runs from {known.low:g} to {known.high:g}, which is no known way to store phase",
        expected="; ".join(r.name for r in RANGES),
        remedy=REMEDY,
    )


def _fills(known: _Range, low: float, high: float, coverage: float = COVERAGE) -> bool:
    """Whether ``low`` to ``high`` lies inside a known range and spans enough of it."""
    width = known.high - known.low
    inside = low >= known.low - SLACK * width and high <= known.high + SLACK * width
    return inside and (high - low) >= coverage * width


def _as_stated(known: _Stored, found: _Range | None) -> tuple[str, _Range, str]:
    """Radians as the sidecar says, unless the numbers are plainly a vendor's."""
    if found and found.high > 100:
        return "range", found, f"`Units` says rad, but the values fill {found.name}"
    largest = max(abs(known.low), abs(known.high))
    if largest > MAX_STATED_RAD:
        raise DataError(
            f"`Units` says rad, but the phase runs from {known.low:g} to {known.high:g}",
            expected="radians",
            remedy="correct `Units` in the sidecar, or convert the phase to radians",
        )
    rule = "units" if largest <= math.pi * (1 + SLACK) else "units, rewrapped"
    return rule, _Range("as stated", known.low, known.high, 1.0), ""


def _from_header(known: _Stored) -> _Range | None:
    """The range that slope and intercept give to 12-bit numbers, when it is one of the known ones."""
    plain = (known.slope, known.inter) == (1.0, 0.0)
    if plain or not known.integers or known.raw_low < 0 or known.raw_high > 4095:
        return None
    ends = sorted((known.inter, known.inter + 4095 * known.slope))
    for candidate in RANGES:
        width = candidate.high - candidate.low
        if max(abs(ends[0] - candidate.low), abs(ends[1] - candidate.high)) <= SLACK * width:
            return candidate
    return None
