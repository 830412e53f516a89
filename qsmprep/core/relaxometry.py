"""Effective transverse relaxation from the magnitude of several echoes: R2*, T2*, S0."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from qsmprep.core.parameters import ArloParams, LogLinearParams, R2StarParams
from qsmprep.errors import DataError

FloatArray = NDArray[np.floating]
MAX_T2STAR_S = 1.0
"""Longest T2* that is reported; slower decay cannot be told from none."""
BLOCK = 1 << 16
"""Voxels that are fitted at a time."""

EVEN = 0.01
"""Relative difference between echo spacings up to which they count as even."""


@dataclass(frozen=True)
class R2StarFit:
    """Mono-exponential decay, each map zero outside the mask and where there is no signal.

    Parameters
    ----------
    r2star_hz : (nx, ny, nz) float32 array
        R2* in 1/s, zero or more.
    t2star_s : (nx, ny, nz) float32 array
        T2* in s, at most 1 s.
    s0 : (nx, ny, nz) float32 array
        Signal at echo time zero in the unit of the magnitude.
    """

    r2star_hz: NDArray[np.float32]
    t2star_s: NDArray[np.float32]
    s0: NDArray[np.float32]
    info: dict[str, Any] = field(default_factory=dict)


def fit_r2star(
    magnitude: FloatArray,
    te_s: Sequence[float],
    mask: NDArray[np.bool_],
    params: R2StarParams | None = None,
    *,
    device: str = "cpu",
) -> R2StarFit:
    """Fit the decay by nonlinear least squares, started from the weighted log-linear fit.

    Two echoes are solved in closed form. Gauss-Newton steps are taken in the decay rate alone, with
    the amplitude that is best for it (variable projection), and halved where they do not lower the
    residual.

    Parameters
    ----------
    magnitude : (n_echo, nx, ny, nz) array
        Arbitrary unit.
    te_s : sequence of float
        Echo times in s, increasing; at least two.
    mask : (nx, ny, nz) bool array
    params : R2StarParams, optional
    device : str
        Torch device.

    Returns
    -------
    R2StarFit

    Raises
    ------
    DataError
        For fewer than two echoes, shapes that do not fit, numbers that are not finite, or an empty mask.
    """
    params = params or R2StarParams()
    signal, times, inside = _prepare(magnitude, te_s, mask, device)
    rate = _log_linear(signal, times)[0].clamp(0, params.max_hz)
    if len(times) > 2:
        rate = _gauss_newton(signal, times, rate, params)
    return _result(rate, _amplitude(signal, times, rate), inside, {"method": "nonlinear least squares"})


def log_linear(
    magnitude: FloatArray,
    te_s: Sequence[float],
    mask: NDArray[np.bool_],
    params: LogLinearParams | None = None,
    *,
    device: str = "cpu",
) -> R2StarFit:
    """Fit a line to the logarithm of the magnitude, weighted with the squared magnitude.

    Parameters, result and errors as for :func:`fit_r2star`.
    """
    params = params or LogLinearParams()
    signal, times, inside = _prepare(magnitude, te_s, mask, device)
    rate, s0 = _log_linear(signal, times)
    clamped = rate.clamp(0, params.max_hz)
    s0 = torch.where(rate == clamped, s0, _amplitude(signal, times, clamped))
    return _result(clamped, s0, inside, {"method": "weighted log-linear"})


def arlo(
    magnitude: FloatArray,
    te_s: Sequence[float],
    mask: NDArray[np.bool_],
    params: ArloParams | None = None,
    *,
    device: str = "cpu",
) -> R2StarFit:
    """Auto-regression on linear operations: closed form for three or more evenly spaced echoes.

    The integral of the decay over two echo spacings (Simpson's rule) equals T2* times the fall of the
    signal over them; T2* follows by least squares over all such triples.
    Parameters and result as for :func:`fit_r2star`.

    Raises
    ------
    DataError
        As for :func:`fit_r2star`, and for fewer than three echoes or uneven spacing.

    References
    ----------
    Pei et al., Magn Reson Med 2015;73:843-850. doi:10.1002/mrm.25137
    """
    params = params or ArloParams()
    signal, times, inside = _prepare(magnitude, te_s, mask, device)
    spacing = torch.diff(times)
    if len(times) < 3 or float(spacing.max() - spacing.min()) > EVEN * float(spacing.mean()):
        raise DataError(
            f"ARLO cannot fit the echo times {list(te_s)} s",
            expected="three or more evenly spaced echoes",
            remedy="use the nonlinear fit",
        )
    step = spacing.mean()
    area = (signal[:-2] + 4 * signal[1:-1] + signal[2:]) * (step / 3)
    fall = signal[:-2] - signal[2:]
    above = (area**2).sum(0) + (step / 3) * (area * fall).sum(0)
    below = (step / 3) * (fall**2).sum(0) + (area * fall).sum(0)
    rate = torch.where(above > 0, below / above.clamp_min(torch.finfo(above.dtype).tiny), torch.zeros_like(above))
    rate = rate.clamp(0, params.max_hz)
    return _result(rate, _amplitude(signal, times, rate), inside, {"method": "ARLO"})


def _prepare(
    magnitude: FloatArray, te_s: Sequence[float], mask: NDArray[np.bool_], device: str
) -> tuple[torch.Tensor, torch.Tensor, NDArray[np.bool_]]:
    """Signal (n_echo, n_voxel) and echo times in float64, and the mask; or the error."""
    data, inside = np.asarray(magnitude), np.asarray(mask, dtype=bool)
    times = np.asarray(te_s, dtype=float)
    if len(times) < 2:
        raise DataError("R2* needs two echoes or more", expected="a multi-echo acquisition")
    if data.ndim != 4 or len(data) != len(times) or data.shape[1:] != inside.shape:
        raise DataError(
            f"magnitude {data.shape}, mask {inside.shape}, {len(times)} echo times", expected="(n_echo, nx, ny, nz)"
        )
    if not np.all(np.isfinite(times)) or np.any(times <= 0) or np.any(np.diff(times) <= 0):
        raise DataError(f"the echo times are {list(te_s)} s", expected="positive, increasing numbers")
    if not inside.any():
        raise DataError("the mask is empty", expected="at least one voxel")
    signal = data[:, inside].astype(np.float64)
    if not np.all(np.isfinite(signal)) or np.any(signal < 0):
        raise DataError("the magnitude has negative or non-finite values", expected="zero or more")
    return torch.from_numpy(signal).to(device), torch.from_numpy(times).to(device), inside


def _log_linear(signal: torch.Tensor, times: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Decay rate and amplitude of the line through the logarithm.

    Zeros weigh nothing, but where there is no more than the first echo the decay is as quick as can be.
    """
    positive = signal > 0
    log = torch.where(positive, signal, torch.ones_like(signal)).log()
    weight = signal**2
    total = weight.sum(0).clamp_min(torch.finfo(weight.dtype).tiny)
    centre = (weight * times[:, None]).sum(0) / total
    apart = times[:, None] - centre
    spread = (weight * apart**2).sum(0)
    slope = (weight * apart * log).sum(0) / spread.clamp_min(torch.finfo(weight.dtype).tiny)
    gone = positive[0] & (positive.sum(0) == 1)
    rate = torch.where(positive.sum(0) > 1, -slope, torch.where(gone, torch.inf, 0.0))
    level = (weight * log).sum(0) / total + rate * centre
    s0 = torch.where(positive.any(0), level.clamp(max=700.0).exp(), torch.zeros_like(level))
    return rate, s0


def _amplitude(signal: torch.Tensor, times: torch.Tensor, rate: torch.Tensor) -> torch.Tensor:
    """The amplitude that fits best for a given decay rate."""
    decay = torch.exp(-rate * times[:, None])
    return (signal * decay).sum(0) / (decay**2).sum(0).clamp_min(torch.finfo(decay.dtype).tiny)


def _cost(signal: torch.Tensor, times: torch.Tensor, rate: torch.Tensor) -> torch.Tensor:
    decay = torch.exp(-rate * times[:, None])
    return ((signal - _amplitude(signal, times, rate) * decay) ** 2).sum(0)


def _gauss_newton(signal: torch.Tensor, times: torch.Tensor, rate: torch.Tensor, params: R2StarParams) -> torch.Tensor:
    """Improve the rates, in blocks that stay in the cache, each voxel until it moves less than the tolerance."""
    parts = zip(signal.split(BLOCK, dim=1), rate.split(BLOCK), strict=True)
    return torch.cat([_improve(part, times, start.clone(), params) for part, start in parts])


def _improve(signal: torch.Tensor, times: torch.Tensor, rate: torch.Tensor, params: R2StarParams) -> torch.Tensor:
    """One block of :func:`_gauss_newton`; voxels that are done drop out of the work."""
    t = times[:, None]
    at = torch.arange(rate.numel(), device=rate.device)
    now, cost, scale = rate, _cost(signal, times, rate), torch.ones_like(rate)
    for _ in range(params.max_iter):
        decay = torch.exp(-now * t)
        norm = (decay**2).sum(0)
        s0 = (signal * decay).sum(0) / norm
        tangent = -s0 * t * decay
        tangent = tangent - decay * ((tangent * decay).sum(0) / norm)
        curvature = (tangent**2).sum(0).clamp_min(torch.finfo(rate.dtype).tiny)
        step = (tangent * (signal - s0 * decay)).sum(0) / curvature
        trial = (now + scale * step).clamp(0, params.max_hz)
        trial_cost = _cost(signal, times, trial)
        better = trial_cost < cost
        moved = torch.where(better, (trial - now).abs(), (scale * step).abs())
        now, cost = torch.where(better, trial, now), torch.where(better, trial_cost, cost)
        scale = torch.where(better, torch.ones_like(scale), scale / 2)
        rate[at] = now
        going = moved >= params.tolerance_hz
        if not bool(going.any()):
            break
        at, now, cost, scale, signal = at[going], now[going], cost[going], scale[going], signal[:, going]
    return rate


def _result(rate: torch.Tensor, s0: torch.Tensor, mask: NDArray[np.bool_], info: dict[str, Any]) -> R2StarFit:
    r2star, t2star, amplitude = (np.zeros(mask.shape, np.float32) for _ in range(3))
    there = s0 > 0
    t2 = torch.where(there, 1.0 / rate.clamp_min(1.0 / MAX_T2STAR_S), torch.zeros_like(rate))
    r2star[mask] = torch.where(there, rate, torch.zeros_like(rate)).cpu().numpy()
    t2star[mask] = t2.cpu().numpy()
    amplitude[mask] = s0.clamp(max=torch.finfo(torch.float32).max).cpu().numpy()
    return R2StarFit(r2star, t2star, amplitude, info)
