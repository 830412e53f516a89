"""All echoes to one field map, with its noise, its residual and the phase offset."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from qsmprep.core.noise import noise_from_air, noise_from_detail, noise_from_fit
from qsmprep.core.parameters import NonlinearParams, WeightedParams
from qsmprep.core.results import FieldMap
from qsmprep.errors import DataError

FloatArray = NDArray[np.floating]
TWO_PI = 2.0 * math.pi
TINY = 1e-30
PART = 2**17
"""Voxels that are fitted at once: in double precision, but only so many."""


@dataclass(frozen=True)
class _Echoes:
    """The voxels of the mask: (n_echo, n_voxel) tensors, and what the magnitude is divided by to be about 1."""

    unwrapped: torch.Tensor
    phase: torch.Tensor
    magnitude: torch.Tensor
    scale: float
    times: torch.Tensor

    def parts(self) -> Iterator[_Echoes]:
        """Some voxels after the others, in float64 and scaled."""
        volumes = (self.unwrapped, self.phase, self.magnitude)
        for unwrapped, phase, magnitude in zip(*(volume.split(PART, dim=1) for volume in volumes), strict=True):
            size = magnitude.to(torch.float64) / self.scale
            yield _Echoes(unwrapped.to(torch.float64), phase.to(torch.float64), size, 1.0, self.times)


@dataclass(frozen=True)
class _Fit:
    """What a method makes of some voxels: phase offset in rad, rate in rad/s, iterations."""

    offset: torch.Tensor
    rate: torch.Tensor
    iterations: int = 0


@dataclass(frozen=True)
class _Given:
    """Checked inputs, and the noise of the images."""

    echoes: _Echoes
    mask: NDArray[np.bool_]
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
    given = _prepare(unwrapped_rad, phase_rad, magnitude, mask, te_s)
    with_offset = params.fit_offset and len(te_s) > 1

    def fit(echoes: _Echoes) -> _Fit:
        return _Fit(*_line(echoes.unwrapped, echoes.magnitude**2, echoes.times, with_offset))

    return _result(given, fit, with_offset, {"method": "weighted"})


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
    given = _prepare(unwrapped_rad, phase_rad, magnitude, mask, te_s)
    with_offset = params.fit_offset and len(te_s) > 1

    def fit(echoes: _Echoes) -> _Fit:
        start = _Fit(*_line(echoes.unwrapped, echoes.magnitude**2, echoes.times, with_offset))
        return _gauss_newton(echoes, start, with_offset, params) if len(te_s) > 1 else start

    return _result(given, fit, with_offset, {"method": "nonlinear"})


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
    echoes = _Echoes(unwrapped, phase, size, scale, torch.from_numpy(times))
    return _Given(echoes, inside, *_noise(echoes, weight, np.asarray(phase_rad), inside))


def _voxels(echoes: FloatArray, mask: NDArray[np.bool_]) -> torch.Tensor:
    """The voxels of the mask in their own precision and the byte order of the machine."""
    volumes = np.asarray(echoes)
    return torch.from_numpy(volumes.astype(volumes.dtype.newbyteorder("="), copy=False)[:, mask])


def _noise(echoes: _Echoes, magnitude: FloatArray, wrapped: FloatArray, mask: NDArray[np.bool_]) -> tuple[float, str]:
    """Noise of the images in the scaled unit, and where it was read off."""
    if len(echoes.times) >= 3:
        left = []
        for part in echoes.parts():
            offset, rate = _line(part.unwrapped, part.magnitude**2, part.times, True)
            left.append(part.magnitude * torch.sin(part.phase - offset - rate * part.times[:, None]))
        return noise_from_fit(torch.cat(left, dim=1).cpu().numpy(), len(echoes.times) - 2), "fit residual"
    air = noise_from_air(magnitude[0], mask)
    if air is not None:
        return air / echoes.scale, "air"
    signal = magnitude[0].astype(np.float64) * np.exp(1j * wrapped[0].astype(np.float64))
    return noise_from_detail(signal, mask) / echoes.scale, "image detail"


def _line(
    phase: torch.Tensor, weight: torch.Tensor, times: torch.Tensor, with_offset: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Weighted least squares line: offset (rad) and rate (rad/s) of every voxel."""
    t = times[:, None]
    weight = torch.where(weight.sum(0) > 0, weight, torch.ones_like(weight))
    if not with_offset:
        rate = (weight * t * phase).sum(0) / (weight * t**2).sum(0).clamp_min(TINY)
        return torch.zeros_like(rate), rate
    total = weight.sum(0).clamp_min(TINY)
    centre, mean = (weight * t).sum(0) / total, (weight * phase).sum(0) / total
    rate = (weight * (t - centre) * (phase - mean)).sum(0) / (weight * (t - centre) ** 2).sum(0).clamp_min(TINY)
    return mean - rate * centre, rate


def _gauss_newton(echoes: _Echoes, start: _Fit, with_offset: bool, params: NonlinearParams) -> _Fit:
    """Fit the complex signal; voxels that have come to rest are left alone."""
    offset, rate = start.offset.clone(), start.rate.clone()
    weight = echoes.magnitude**2
    weight = torch.where(weight.sum(0) > 0, weight, torch.ones_like(weight))
    t = echoes.times[:, None]
    last = float(echoes.times[-1])
    active = torch.arange(offset.numel(), device=offset.device)
    iterations = 0
    for _ in range(params.max_iter):
        iterations += 1
        apart = torch.sin(echoes.phase[:, active] - offset[active] - rate[active] * t)
        d_offset, d_rate = _line(apart, weight[:, active], echoes.times, with_offset)
        offset[active] += d_offset
        rate[active] += d_rate
        active = active[(d_offset.abs() + d_rate.abs() * last) > params.tolerance]
        if active.numel() == 0:
            break
    return _Fit(offset, rate, iterations)


def _result(given: _Given, fit: Callable[[_Echoes], _Fit], with_offset: bool, info: dict[str, Any]) -> FieldMap:
    """Fit all voxels, some after the others, and put them where they belong."""
    found: list[tuple[torch.Tensor, ...]] = []
    iterations = 0
    for echoes in given.echoes.parts():
        line = fit(echoes)
        iterations = max(iterations, line.iterations)
        wrapped = line.offset - TWO_PI * torch.round(line.offset / TWO_PI)
        residual = _relative_residual(echoes, line.offset, line.rate)
        noise = _field_noise(echoes, given.sigma, with_offset)
        found.append(tuple(v.to(torch.float32) for v in (line.rate / TWO_PI, noise, residual, wrapped)))
    volumes = []
    for values in zip(*found, strict=True):
        volume = np.zeros(given.mask.shape, np.float32)
        volume[given.mask] = torch.cat(values).cpu().numpy()
        volumes.append(volume)
    if info["method"] == "nonlinear":
        info = {**info, "iterations": iterations}
    info |= {"fit_offset": with_offset, "noise_from": given.sigma_from, "noise_relative": given.sigma}
    return FieldMap(volumes[0], volumes[1], volumes[2], volumes[3], info)


def _field_noise(echoes: _Echoes, sigma: float, with_offset: bool) -> torch.Tensor:
    """Noise of the field in Hz that noise of the images makes."""
    t, weight = echoes.times[:, None], echoes.magnitude**2
    total = weight.sum(0).clamp_min(TINY)
    centre = (weight * t).sum(0) / total if with_offset else torch.zeros_like(total)
    spread = (weight * (t - centre) ** 2).sum(0)
    noise = sigma / (TWO_PI * spread.clamp_min(TINY).sqrt())
    # a field of which nothing is known is uniform over one period of the shortest interval
    interval = float(torch.diff(echoes.times).min()) if with_offset else float(echoes.times[0])
    return noise.clamp(max=1.0 / (interval * math.sqrt(12.0)))


def _relative_residual(echoes: _Echoes, offset: torch.Tensor, rate: torch.Tensor) -> torch.Tensor:
    """Energy of the signal that one field and mono-exponential decay leave unexplained, from 0 to 1."""
    t, size = echoes.times[:, None], echoes.magnitude
    if len(echoes.times) < 2:
        return torch.zeros_like(rate)
    log = size.clamp_min(TINY).log()
    level, slope = _line(log, size**2, echoes.times, True)
    model = torch.exp((level + slope * t).clamp(max=50.0))
    apart = echoes.phase - offset - rate * t
    # the amplitude that fits best, so that phase errors do not hide in it
    along = (size * model * torch.cos(apart)).sum(0).clamp_min(0) / (model**2).sum(0).clamp_min(TINY)
    energy = (size**2).sum(0)
    missing = energy - 2 * along * (size * model * torch.cos(apart)).sum(0) + along**2 * (model**2).sum(0)
    return torch.where(energy > 0, missing / energy.clamp_min(TINY), torch.ones_like(energy)).clamp(0, 1)
