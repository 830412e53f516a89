"""All echoes to one field map, with its noise, its residual and the phase offset."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from qsmprep.core.echofit import TINY, Echoes, Fit, gauss_newton, least_squares, line, robust_line
from qsmprep.core.noise import noise_from_air, noise_from_detail, noise_from_fit
from qsmprep.core.parameters import NonlinearParams, RobustParams, WeightedParams
from qsmprep.core.results import FieldMap
from qsmprep.errors import DataError

FloatArray = NDArray[np.floating]
TWO_PI = 2.0 * math.pi


@dataclass(frozen=True)
class _Given:
    """Checked inputs, whether an offset is fitted, and the noise of the images."""

    echoes: Echoes
    mask: NDArray[np.bool_]
    with_offset: bool
    sigma: float
    sigma_from: str


def weighted(
    unwrapped_rad: FloatArray,
    phase_rad: FloatArray,
    magnitude: FloatArray | None,
    mask: NDArray[np.bool_],
    te_s: Sequence[float],
    params: WeightedParams | None = None,
) -> FieldMap:
    r"""Combine unwrapped echoes by a mean weighted with the squared phase signal-to-noise ratio.

    With magnitude :math:`m_e` at echo time :math:`t_e`, the field :math:`\varphi_e / 2\pi t_e` of each echo
    has the weight :math:`(m_e t_e)^2`; that is the least squares line through the origin. With
    ``params.fit_offset`` the line has an intercept.

    Parameters
    ----------
    unwrapped_rad : (n_echo, nx, ny, nz) array
        Unwrapped phase, positive where the field is higher.
    phase_rad : (n_echo, nx, ny, nz) array
        Wrapped phase, for the residual.
    magnitude : (n_echo, nx, ny, nz) array or None
        Arbitrary unit; ``None`` weighs all echoes alike.
    mask : (nx, ny, nz) bool array
    te_s : sequence of float
        Echo times in s, increasing.
    params : WeightedParams, optional

    Returns
    -------
    FieldMap
        Zero outside the mask. ``noise_hz`` follows from the noise of the images, which ``info`` gives
        (relative to the largest magnitude in the mask) with its source: the residuals of a line fit
        (three echoes or more), air, or image detail. An offset that is left in phase fitted without one
        is no part of it.
        ``residual`` is :math:`\sum|S-\hat S|^2 / \sum|S|^2` against one field, one offset and
        mono-exponential decay.

    Raises
    ------
    DataError
        For shapes that do not fit, numbers that are not finite, an empty mask, or bad echo times.
    """
    params = params or WeightedParams()
    given = _prepare(unwrapped_rad, phase_rad, magnitude, mask, te_s, params.fit_offset)

    def fit(echoes: Echoes) -> Fit:
        return least_squares(echoes, given.with_offset)

    return _result(given, fit, "weighted")


def nonlinear(
    unwrapped_rad: FloatArray,
    phase_rad: FloatArray,
    magnitude: FloatArray | None,
    mask: NDArray[np.bool_],
    te_s: Sequence[float],
    params: NonlinearParams | None = None,
) -> FieldMap:
    r"""Fit field and offset to the complex signal of all echoes, voxel by voxel.

    Minimises :math:`\sum_e m_e^2 |e^{i\varphi_e} - e^{i(\varphi_0 + 2\pi f t_e)}|^2` by Gauss-Newton steps,
    none of which can raise it, starting from the weighted line through the unwrapped phase and so with
    its choice among the fields that differ by a multiple of one over the echo spacing. An echo that was
    unwrapped wrongly does not count as an outlier of 2 pi. A single echo is divided by its echo time.

    Parameters
    ----------
    unwrapped_rad, phase_rad, magnitude, mask, te_s
        As for :func:`weighted`.
    params : NonlinearParams, optional

    Returns
    -------
    FieldMap
        As of :func:`weighted`.

    Raises
    ------
    DataError
        As :func:`weighted`.

    References
    ----------
    Liu et al., Magn Reson Med 2013;69:467-476. doi:10.1002/mrm.24272
    """
    params = params or NonlinearParams()
    given = _prepare(unwrapped_rad, phase_rad, magnitude, mask, te_s, params.fit_offset)

    def fit(echoes: Echoes) -> Fit:
        start = least_squares(echoes, given.with_offset)
        return gauss_newton(echoes, start, given.with_offset, params) if len(te_s) > 1 else start

    return _result(given, fit, "nonlinear")


def robust(
    unwrapped_rad: FloatArray,
    phase_rad: FloatArray,
    magnitude: FloatArray | None,
    mask: NDArray[np.bool_],
    te_s: Sequence[float],
    params: RobustParams | None = None,
) -> FieldMap:
    r"""Fit the field to those echoes that agree with each other, voxel by voxel.

    Minimises :math:`\sum_e m_e^2 a_e^2 / (1 + a_e^2/s_e^2)` by least squares whose weights follow the fit, with
    :math:`a_e` the wrapped phase of an echo less that of the fit, in :math:`[-\pi, \pi]`, and
    :math:`s_e^2 = s^2 + (3\,\sigma/m_e)^2`: ``params.limit_rad`` and the noise of its phase. Thermal noise is not
    what spoils a phase near sinuses, vessels and lesions: the field varies within the voxel, the more the later the
    echo, and a weighted mean trusts late echoes most. So the fit starts from the first two echoes (three with an
    offset) and takes in one after the other; of the unwrapped phase it sees the first ones only. Voxels whose first
    echoes say too little for that are fitted as by :func:`nonlinear`. Phase whose offset was not removed needs
    ``params.fit_offset``; an offset of 0.5 rad is still borne.

    Parameters
    ----------
    unwrapped_rad, phase_rad, magnitude, mask, te_s
        As for :func:`weighted`.
    params : RobustParams, optional

    Returns
    -------
    FieldMap
        As of :func:`weighted`; in ``noise_hz`` an echo counts as much as it did in the fit.

    Raises
    ------
    DataError
        As :func:`weighted`.

    References
    ----------
    .. [1] Holland & Welsch, Commun. Stat. 6:813 (1977), doi:10.1080/03610927708827533 (weights that follow the fit)
    """
    params = params or RobustParams()
    given = _prepare(unwrapped_rad, phase_rad, magnitude, mask, te_s, params.fit_offset)
    # late echoes that are spoilt must not pass for noise
    early = _residual_noise(given.echoes, 3) if len(te_s) > 3 else given.sigma
    sigma = min(given.sigma, early)

    def fit(echoes: Echoes) -> Fit:
        return robust_line(echoes, sigma, given.with_offset, params)

    return _result(given, fit, "robust")


def count_residual_wraps(unwrapped_rad: FloatArray, mask: NDArray[np.bool_]) -> int:
    """Count the pairs of neighbours inside the mask whose unwrapped phase differs by more than pi.

    Parameters
    ----------
    unwrapped_rad : (nx, ny, nz) or (n_echo, nx, ny, nz) array
    mask : (nx, ny, nz) bool array

    Returns
    -------
    int
        Over all echoes.

    Raises
    ------
    DataError
        When the shapes differ.
    """
    volume, inside = np.asarray(unwrapped_rad), np.asarray(mask, bool)
    if inside.ndim != 3 or volume.ndim not in (3, 4) or volume.shape[-3:] != inside.shape:
        raise DataError(f"phase {volume.shape}, mask {inside.shape}", expected="volumes of one shape")
    count = 0
    for axis in (-3, -2, -1):
        both = np.moveaxis(inside, axis, -1)
        both = both[..., 1:] & both[..., :-1]
        jumps = np.abs(np.diff(np.moveaxis(volume, axis, -1), axis=-1)) > math.pi
        count += int(np.count_nonzero(jumps & both))
    return count


def _prepare(
    unwrapped_rad: FloatArray,
    phase_rad: FloatArray,
    magnitude: FloatArray | None,
    mask: NDArray[np.bool_],
    te_s: Sequence[float],
    fit_offset: bool,
) -> _Given:
    inside, times = np.asarray(mask, dtype=bool), np.asarray(te_s, dtype=float)
    shape = (len(times), *inside.shape)
    arrays = {"unwrapped phase": unwrapped_rad, "phase": phase_rad}
    if magnitude is not None:
        arrays["magnitude"] = magnitude
    if inside.ndim != 3 or not inside.any():
        raise DataError("the mask is empty or not a volume", expected="three axes and at least one voxel")
    for name, array in arrays.items():
        if np.shape(array) != shape:
            raise DataError(f"the {name} has shape {np.shape(array)}", expected=str(shape))
        if not np.all(np.isfinite(array)):
            raise DataError(f"the {name} is not finite everywhere", expected="finite numbers")
    if not np.all(np.isfinite(times)) or np.any(times <= 0) or np.any(np.diff(times) <= 0):
        raise DataError(f"the echo times are {list(te_s)} s", expected="positive, increasing numbers")
    weight = np.ones(shape, np.float32) if magnitude is None else np.asarray(magnitude)
    if np.any(weight < 0):
        raise DataError("the magnitude has negative values", expected="zero or more")
    scale = float(weight[:, inside].max())
    if scale == 0:
        raise DataError("the magnitude is zero throughout the mask", expected="signal")
    unwrapped, phase, size = (_voxels(a, inside) for a in (unwrapped_rad, phase_rad, weight))
    echoes = Echoes(unwrapped, phase, size, scale, torch.from_numpy(times))
    return _Given(echoes, inside, fit_offset and len(times) > 1, *_noise(echoes, weight, np.asarray(phase_rad), inside))


def _voxels(echoes: FloatArray, mask: NDArray[np.bool_]) -> torch.Tensor:
    """The voxels of the mask in their own precision and the byte order of the machine."""
    volumes = np.asarray(echoes)
    return torch.from_numpy(volumes.astype(volumes.dtype.newbyteorder("="), copy=False)[:, mask])


def _noise(echoes: Echoes, magnitude: FloatArray, wrapped: FloatArray, mask: NDArray[np.bool_]) -> tuple[float, str]:
    """Noise of the images in the scaled unit, and where it was read off."""
    if len(echoes.times) >= 3:
        return _residual_noise(echoes, len(echoes.times)), "fit residual"
    air = noise_from_air(magnitude[0], mask)
    if air is not None:
        return air / echoes.scale, "air"
    signal = magnitude[0].astype(np.float64) * np.exp(1j * wrapped[0].astype(np.float64))
    same = float(np.ptp(magnitude[0][mask])) == 0
    return noise_from_detail(signal, mask, phase_only=same) / echoes.scale, "image detail"


def _residual_noise(echoes: Echoes, count: int) -> float:
    """Noise of the first echoes in the scaled unit, from what a line leaves of their phase."""
    left = []
    for part in echoes.parts():
        phase, size, times = part.unwrapped[:count], part.magnitude[:count], part.times[:count]
        offset, rate = line(phase, size**2, times, True)
        left.append(size * torch.sin(part.phase[:count] - offset - rate * times[:, None]))
    return noise_from_fit(torch.cat(left, dim=1).cpu().numpy(), count - 2)


def _result(given: _Given, fit: Callable[[Echoes], Fit], method: str) -> FieldMap:
    """Fit all voxels, some after the others, and put them where they belong."""
    found: list[tuple[torch.Tensor, ...]] = []
    iterations = 0
    for echoes in given.echoes.parts():
        made = fit(echoes)
        iterations = max(iterations, made.iterations)
        wrapped = made.offset - TWO_PI * torch.round(made.offset / TWO_PI)
        residual = _relative_residual(echoes, made.offset, made.rate)
        noise = _field_noise(echoes, given.sigma, given.with_offset, made.share)
        found.append(tuple(v.to(torch.float32) for v in (made.rate / TWO_PI, noise, residual, wrapped)))
    volumes = []
    for values in zip(*found, strict=True):
        volume = np.zeros(given.mask.shape, np.float32)
        volume[given.mask] = torch.cat(values).cpu().numpy()
        volumes.append(volume)
    info: dict[str, Any] = {"method": method} | ({"iterations": iterations} if iterations else {})
    info |= {"fit_offset": given.with_offset, "noise_from": given.sigma_from, "noise_relative": given.sigma}
    return FieldMap(volumes[0], volumes[1], volumes[2], volumes[3], info)


def _field_noise(echoes: Echoes, sigma: float, with_offset: bool, share: torch.Tensor | None) -> torch.Tensor:
    """Noise of the field in Hz that noise of the images makes, where echoes count by a share of least squares."""
    t, signal = echoes.times[:, None], echoes.magnitude**2
    weight = signal if share is None else signal * share
    total = weight.sum(0).clamp_min(TINY)
    lever = t - (weight * t).sum(0) / total if with_offset else t
    spread = (weight * lever**2).sum(0).clamp_min(TINY)
    noise = sigma / (TWO_PI * spread.sqrt())
    # a field of which nothing is known is uniform over one period of the shortest interval
    interval = float(torch.diff(echoes.times).min()) if with_offset else float(echoes.times[0])
    return torch.where(total > TINY, noise, math.inf).clamp(max=1.0 / (interval * math.sqrt(12.0)))


def _relative_residual(echoes: Echoes, offset: torch.Tensor, rate: torch.Tensor) -> torch.Tensor:
    """Energy of the signal that one field and mono-exponential decay leave unexplained, from 0 to 1."""
    t, size = echoes.times[:, None], echoes.magnitude
    if len(echoes.times) < 2:
        return torch.zeros_like(rate)
    log = size.clamp_min(TINY).log()
    level, slope = line(log, size**2, echoes.times, True)
    model = torch.exp((level + slope * t).clamp(max=50.0))
    apart = echoes.phase - offset - rate * t
    # the amplitude that fits best, so that phase errors do not hide in it
    along = (size * model * torch.cos(apart)).sum(0).clamp_min(0) / (model**2).sum(0).clamp_min(TINY)
    energy = (size**2).sum(0)
    missing = energy - 2 * along * (size * model * torch.cos(apart)).sum(0) + along**2 * (model**2).sum(0)
    return torch.where(energy > 0, missing / energy.clamp_min(TINY), torch.ones_like(energy)).clamp(0, 1)
