"""Physical constants and the conversions between field units."""

from __future__ import annotations

import math

GAMMA_HZ_PER_T = 42.577478461e6
"""Proton gyromagnetic ratio over 2 pi in Hz/T (CODATA 2022)."""


def hz_per_ppm(b0_t: float) -> float:
    """Frequency offset in Hz of a relative field offset of 1 ppm at ``b0_t`` tesla."""
    return GAMMA_HZ_PER_T * b0_t * 1e-6


def rad_per_ppm(b0_t: float, te_s: float) -> float:
    """Phase in radians that 1 ppm of field offset accrues in ``te_s`` seconds at ``b0_t`` tesla."""
    return 2.0 * math.pi * hz_per_ppm(b0_t) * te_s
