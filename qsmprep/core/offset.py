"""Phase offset (phase at echo time zero) of single-channel multi-echo data: MCPC-3D-S."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from qsmprep.core.grid import Grid
from qsmprep.core.multiresolution import block_mean, interpolate, join, joined
from qsmprep.core.parameters import OffsetParams
from qsmprep.core.phase import wrap
from qsmprep.core.phase_artefacts import fit_plane, plane, smooth_complex
from qsmprep.core.unwrap.common import check_inputs
from qsmprep.core.unwrap.romeo import unwrap_volume

FloatArray = NDArray[np.floating]
JOINED = 0.35
"""Largest edge of joined voxels over the standard deviation of the Gaussian that smooths them."""

MOST_TURNS = 3
"""Between the first two echoes, of the field's mean."""

UNEVEN = 0.02
"""Part of an echo spacing by which echoes are unevenly spaced."""

AS_GOOD = 0.1
"""Difference between mean cosines up to which fewer turns are preferred."""

MAX_VOXELS = 100_000


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

    The phase difference of the first two echoes is unwrapped, moved by whole turns where the later of unevenly
    spaced echoes say so, and extrapolated to the first echo time; what the first echo holds beyond that is the
    offset. It is smoothed as a complex number, weighted
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
    scale = float(pair[inside].max()) or 1.0
    share = np.where(inside, pair / scale, 0).astype(np.float32)
    turns = _turns(phase, evolution, share, te_s)
    evolution += np.float32(2 * np.pi * turns)
    raw = phase[0] - evolution * np.float32(te_s[0] / (te_s[1] - te_s[0]))
    offset = _smooth_phase(share * _turn(raw), grid, params)
    corrected = np.empty_like(phase)
    for echo, before in zip(corrected, phase, strict=True):
        echo[...] = wrap(before - offset)
    return OffsetRemoval(corrected, offset, True, {"offset": "MCPC-3D-S", "turns": turns, **asdict(params)})


def _turns(
    phase: NDArray[np.float32], evolution: NDArray[np.float32], share: NDArray[np.float32], te_s: Sequence[float]
) -> int:
    """Whole turns to add to the phase between the first two echoes, so that the later ones follow from it.

    Between evenly spaced echoes every number is as good, and nothing is added.

    Parameters
    ----------
    phase : (n_echo, nx, ny, nz) array
    evolution : (nx, ny, nz) array
        Unwrapped phase between the first two echoes.
    share : (nx, ny, nz) array
        Weight of each voxel, zero outside the mask.
    te_s : sequence of float
    """
    later = [(te - te_s[0]) / (te_s[1] - te_s[0]) for te in te_s[2:]]
    if all(abs(times - round(times)) < UNEVEN for times in later):
        return 0
    voxels = np.flatnonzero(share)
    if not voxels.size:
        return 0
    voxels = voxels[:: len(voxels) // MAX_VOXELS + 1]
    first, step, weight = (volume.ravel()[voxels] for volume in (phase[0], evolution, share))
    left = [echo.ravel()[voxels] - first - step * times for echo, times in zip(phase[2:], later, strict=True)]
    scores = {
        turns: np.mean(
            [
                np.average(np.cos(one - 2 * np.pi * turns * times), weights=weight)
                for one, times in zip(left, later, strict=True)
            ]
        )
        for turns in sorted(range(-MOST_TURNS, MOST_TURNS + 1), key=abs)
    }
    best = max(scores.values())
    return next(turns for turns, score in scores.items() if score > best - AS_GOOD)


def _smooth_phase(signal: NDArray[np.complexfloating], grid: Grid, params: OffsetParams) -> NDArray[np.float32]:
    """Phase of a complex volume (zero outside the mask) after repeated smoothing, in [-pi, pi]; zero out of reach.

    Without its plane it is smoothed on joined voxels, where these are small beside the Gaussian.
    """
    flat = plane(grid, *fit_plane(signal, grid)).astype(np.float32)
    factors = joined(grid, params.sigma_mm * JOINED)
    coarse, wide = _through(block_mean, signal * _turn(-flat), factors), join(grid, factors)
    phase = np.zeros(wide.shape, np.float32)
    for _ in range(params.passes):
        smooth = smooth_complex(coarse * _turn(-phase), wide, params.sigma_mm)
        phase += np.angle(smooth)
    reached = np.where(smooth == 0, 0, _turn(phase))
    fine = _through(partial(interpolate, periodic=False), reached, factors)[tuple(map(slice, grid.shape))]
    return np.where(fine == 0, 0, wrap(flat + np.angle(fine))).astype(np.float32)


def _turn(phase: NDArray[np.float32]) -> NDArray[np.complex64]:
    """The complex number of modulus 1 and a phase."""
    result = np.empty(phase.shape, np.complex64)
    result.real, result.imag = np.cos(phase), np.sin(phase)
    return result


def _through(
    function: Callable[[torch.Tensor, Sequence[int]], torch.Tensor],
    volume: NDArray[np.complexfloating],
    factors: Sequence[int],
) -> NDArray[np.complex64]:
    """Real and imaginary part of a volume through a function of real ones."""
    real, imag = (
        function(torch.from_numpy(np.ascontiguousarray(part, np.float32)), factors).numpy()
        for part in (volume.real, volume.imag)
    )
    return np.asarray(real + np.complex64(1j) * imag, np.complex64)
