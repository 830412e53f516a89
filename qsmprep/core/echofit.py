"""Field and phase offset of single voxels from their echoes: lines, nonlinear and robust fits."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from qsmprep.core.parameters import NonlinearParams, RobustParams

TINY = 1e-30
PART = 2**17
"""Voxels that are fitted at once: in double precision, but only so many."""

NOISE_SDS = 3.0
"""Standard deviations of the noise that a phase may be off by, beside ``RobustParams.limit_rad``."""

STEPS = 2
"""Steps of the robust fit after every further echo."""

MOST_UNCERTAIN_RAD = 0.3
"""Standard deviation of the phase that the first echoes predict for the next, above which all are fitted at once.

With white noise alone the robust fit of five echoes had up to twice, and of twelve close ones five times the error
of the nonlinear one there: what is predicted so badly may come out a turn off.
"""


@dataclass(frozen=True)
class Echoes:
    """The voxels of the mask: (n_echo, n_voxel) tensors, and what the magnitude is divided by to be about 1."""

    unwrapped: torch.Tensor
    phase: torch.Tensor
    magnitude: torch.Tensor
    scale: float
    times: torch.Tensor

    def parts(self) -> Iterator[Echoes]:
        """Some voxels after the others, in float64 and scaled."""
        volumes = (self.unwrapped, self.phase, self.magnitude)
        for unwrapped, phase, magnitude in zip(*(volume.split(PART, dim=1) for volume in volumes), strict=True):
            size = magnitude.to(torch.float64) / self.scale
            yield Echoes(unwrapped.to(torch.float64), phase.to(torch.float64), size, 1.0, self.times)


@dataclass(frozen=True)
class Fit:
    """What a method makes of some voxels: phase offset in rad, rate in rad/s, iterations, and by how much less
    than in least squares each echo counted, from 0 to 1 (None: not less)."""

    offset: torch.Tensor
    rate: torch.Tensor
    iterations: int = 0
    share: torch.Tensor | None = None


def line(
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


def least_squares(echoes: Echoes, with_offset: bool) -> Fit:
    """The line through the unwrapped phase of all echoes, weighted with the squared magnitude."""
    return Fit(*line(echoes.unwrapped, echoes.magnitude**2, echoes.times, with_offset))


def gauss_newton(echoes: Echoes, start: Fit, with_offset: bool, params: NonlinearParams) -> Fit:
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
        d_offset, d_rate = line(apart, weight[:, active], echoes.times, with_offset)
        offset[active] += d_offset
        rate[active] += d_rate
        active = active[(d_offset.abs() + d_rate.abs() * last) > params.tolerance]
        if active.numel() == 0:
            break
    return Fit(offset, rate, iterations)


def robust_line(echoes: Echoes, sigma: float, with_offset: bool, params: RobustParams) -> Fit:
    """Fit echo after echo, each with a weight that falls off with what it is away from the fit so far.

    ``sigma`` is the noise of the images in the unit of the magnitude. The fit begins with the first two echoes (three
    with an offset), so that late ones, which turn the most and are spoilt first, have to agree with early ones; the
    first one alone will not do, since what flows has another phase there. Where the first ones predict too little
    (:data:`MOST_UNCERTAIN_RAD`), the fit is the nonlinear one.
    """
    signal = echoes.magnitude**2
    signal = torch.where(signal.sum(0) > 0, signal, torch.ones_like(signal))
    allowed = params.limit_rad**2 + (NOISE_SDS * sigma) ** 2 / signal.clamp_min(TINY)
    first, last = min(2 + with_offset, len(echoes.times)), len(echoes.times)
    offset, rate = line(echoes.unwrapped[:first], signal[:first], echoes.times[:first], with_offset)
    everywhere, iterations = torch.arange(offset.numel(), device=offset.device), 0
    for count in range(first, last + 1):
        active = everywhere
        for step in range(params.max_iter if count == last else STEPS):
            apart, share = _agreement(echoes, offset, rate, allowed, active, count)
            d_offset, d_rate = line(apart, share * signal[:count, active], echoes.times[:count], with_offset)
            offset[active] += d_offset
            rate[active] += d_rate
            iterations = step + 1
            active = active[(d_offset.abs() + d_rate.abs() * float(echoes.times[count - 1])) > params.tolerance]
            if active.numel() == 0:
                break
    share = _agreement(echoes, offset, rate, allowed, everywhere, last)[1]
    if first < last:
        guess = sigma * _uncertain(signal, echoes.times, first, with_offset).sqrt() > MOST_UNCERTAIN_RAD
        plain = _plain(echoes, guess, with_offset)
        offset[guess], rate[guess], share[:, guess] = plain.offset, plain.rate, 1.0
    return Fit(offset, rate, iterations, share)


def _plain(echoes: Echoes, voxels: torch.Tensor, with_offset: bool) -> Fit:
    """The nonlinear fit of some voxels."""
    unwrapped, phase, magnitude = (volume[:, voxels] for volume in (echoes.unwrapped, echoes.phase, echoes.magnitude))
    some = Echoes(unwrapped, phase, magnitude, echoes.scale, echoes.times)
    return gauss_newton(some, least_squares(some, with_offset), with_offset, NonlinearParams())


def _uncertain(weight: torch.Tensor, times: torch.Tensor, count: int, with_offset: bool) -> torch.Tensor:
    """Variance of the phase that a line through the first echoes predicts for the next, over that of the noise."""
    w, t, ahead = weight[:count], times[:count, None], float(times[count])
    total = w.sum(0).clamp_min(TINY)
    centre = (w * t).sum(0) / total if with_offset else torch.zeros_like(total)
    slope = (ahead - centre) ** 2 / (w * (t - centre) ** 2).sum(0).clamp_min(TINY)
    return slope + 1 / total if with_offset else slope


def _agreement(
    echoes: Echoes, offset: torch.Tensor, rate: torch.Tensor, limit2: torch.Tensor, voxels: torch.Tensor, count: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """What the first echoes of some voxels are away from a fit, in [-pi, pi], and how much they count (Geman-McClure).

    ``limit2`` holds the squares of what they may be off by.
    """
    apart = echoes.phase[:count, voxels] - offset[voxels] - rate[voxels] * echoes.times[:count, None]
    apart -= 2 * math.pi * torch.round(apart / (2 * math.pi))
    return apart, (1 + apart**2 / limit2[:count, voxels]) ** -2
