"""Phase offset (phase at echo time zero) of single-channel multi-echo data: MCPC-3D-S."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qsmprep.core.grid import Grid
from qsmprep.core.parameters import OffsetParams
from qsmprep.core.phase import wrap
from qsmprep.core.phase_artefacts import fit_plane, plane, smooth_complex
from qsmprep.core.unwrap.common import check_inputs
from qsmprep.core.unwrap.romeo import unwrap_volume

FloatArray = NDArray[np.floating]


@dataclass(frozen=True)
class OffsetRemoval:
    """Phase without its offset.

    Parameters
    ----------
    phase_rad : (n_echo, nx, ny, nz) float32 array
        Corrected, wrapped phase.
    offset_rad : (nx, ny, nz) float32 array
        What was subtracted, in [-pi, pi].
    applied : bool
        False for a single echo: the phase is returned as it came and the offset is zero.
    """

    phase_rad: NDArray[np.float32]
    offset_rad: NDArray[np.float32]
    applied: bool
    info: dict[str, Any] = field(default_factory=dict)


def remove_offset(
    phase_rad: FloatArray,
    magnitude: FloatArray | None,
    mask: NDArray[np.bool_] | None,
    te_s: Sequence[float],
    grid: Grid,
    params: OffsetParams | None = None,
) -> OffsetRemoval:
    """Estimate the phase offset from the first two echoes and remove it from all.

    The phase difference of the first two echoes is unwrapped and extrapolated to the first echo time;
    what the first echo holds beyond that is the offset. It is smoothed as a complex number, weighted
    by the magnitude, so the noise of the extrapolation does not enter the corrected phase. Near the edge
    of the mask a Gaussian sees one side only and flattens what is not constant. A plane is therefore taken
    out before and put back after, and what one smoothing leaves is smoothed again and added
    (``params.passes`` times in all); otherwise that error, which is not harmonic, ends up in the local field.

    Parameters
    ----------
    phase_rad : (n_echo, nx, ny, nz) array
        Wrapped phase.
    magnitude : (n_echo, nx, ny, nz) array or None
        Arbitrary unit.
    mask : (nx, ny, nz) bool array or None
        Where the offset is estimated; outside it is extended as far as the smoothing reaches.
    te_s : sequence of float
        Echo times in s.
    grid : Grid
    params : OffsetParams, optional
        Width and number of the smoothings.

    Returns
    -------
    OffsetRemoval

    Raises
    ------
    DataError
        For shapes that do not fit, numbers that are not finite, an empty mask or bad echo times.

    References
    ----------
    Eckstein et al., Magn Reson Med 2018;79:2996-3006. doi:10.1002/mrm.26963
    """
    params = params or OffsetParams()
    phase, weight, inside = check_inputs(phase_rad, magnitude, mask, te_s, grid)
    if len(phase) < 2:
        return OffsetRemoval(phase, np.zeros(grid.shape, np.float32), False, {"offset": "not removed: one echo"})
    weights = np.ones_like(phase[:2]) if weight is None else weight[:2]
    difference = wrap(phase[1] - phase[0])
    pair = np.sqrt(weights[0] * weights[1])
    evolution = unwrap_volume(difference, None if weight is None else pair, inside, grid).phase_rad[0]
    raw = phase[0] - evolution * np.float32(te_s[0] / (te_s[1] - te_s[0]))
    scale = float(pair[inside].max()) or 1.0
    signal = (np.where(inside, pair / scale, 0) * np.exp(1j * raw)).astype(np.complex64)
    offset = _smooth_phase(signal, grid, params)
    corrected = np.stack([wrap(echo - offset) for echo in phase])
    return OffsetRemoval(corrected, offset, True, {"offset": "MCPC-3D-S", **asdict(params)})


def _smooth_phase(signal: NDArray[np.complexfloating], grid: Grid, params: OffsetParams) -> NDArray[np.float32]:
    """Phase of a complex volume (zero outside the mask) after repeated smoothing, in [-pi, pi]; zero out of reach."""
    phase = plane(grid, *fit_plane(signal, grid)).astype(np.float32)
    for _ in range(params.passes):
        smooth = smooth_complex(signal * np.exp(-1j * phase), grid, params.sigma_mm)
        phase += np.angle(smooth).astype(np.float32)
    return np.where(smooth == 0, 0, wrap(phase)).astype(np.float32)
