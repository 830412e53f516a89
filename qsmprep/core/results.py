"""What the steps hand back: arrays with what was learnt on the way."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

FloatVolume = NDArray[np.float32]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Unwrapped:
    """Unwrapped phase of all echoes.

    Parameters
    ----------
    phase_rad : (n_echo, nx, ny, nz) float32 array
        Zero outside the mask.
    exact : bool
        Whether every voxel differs from the wrapped phase by a multiple of 2 pi exactly.
    wraps : (n_echo, nx, ny, nz) int16 array or None
        That multiple, zero outside the mask; ``None`` where ``exact`` is False.
    """

    phase_rad: FloatVolume
    exact: bool
    info: dict[str, Any] = field(default_factory=dict)
    wraps: NDArray[np.int16] | None = None


@dataclass(frozen=True)
class FieldMap:
    """One field map from all echoes.

    Parameters
    ----------
    field_hz : (nx, ny, nz) float32 array
        Frequency offset in Hz; positive where the field is higher (paramagnetic convention).
    noise_hz : (nx, ny, nz) float32 array
        Standard deviation of ``field_hz`` expected from the noise of the images.
    residual : (nx, ny, nz) float32 array
        Relative residual of the fit, 0 (perfect) to about 1, dimensionless.
    offset_rad : (nx, ny, nz) float32 array
        Phase at echo time zero.
    """

    field_hz: FloatVolume
    noise_hz: FloatVolume
    residual: FloatVolume
    offset_rad: FloatVolume
    info: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class LocalField:
    """Local (tissue) field and the mask within which it is valid.

    Parameters
    ----------
    field_ppm : (nx, ny, nz) float32 array
        In the unit of the input (ppm in the pipeline); zero outside ``mask``.
    mask : (nx, ny, nz) bool array
        The input mask less what the method had to erode.
    """

    field_ppm: FloatVolume
    mask: Mask
    info: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Susceptibility:
    """A susceptibility map, not yet referenced.

    Parameters
    ----------
    chi_ppm : (nx, ny, nz) float32 array
        In ppm, zero outside the mask.
    iterations : int
        Iterations done (0 for a closed form).
    converged : bool
        Whether the tolerance was met (True for a closed form).
    remainder_ppm : (nx, ny, nz) float32 array or None
        The part of the field that the method took for a field of sources outside, or that is too far from any map's,
        zero outside the mask; ``None`` of a method that does not look for any.
    """

    chi_ppm: FloatVolume
    iterations: int = 0
    converged: bool = True
    info: dict[str, Any] = field(default_factory=dict)
    remainder_ppm: FloatVolume | None = None
