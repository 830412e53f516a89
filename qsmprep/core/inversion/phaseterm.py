"""Data terms that are split off: fields are compared through the phase that they make, or as they are."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from types import EllipsisType

import torch

from qsmprep.core.inversion.problem import Problem

NEWTON_STEPS = 6
"""Of the proximal map in every voxel; the steps converge quadratically from one side."""


def chord(misfit_ppm: torch.Tensor, rad_per_ppm: float) -> torch.Tensor:
    """How far apart on the circle phases are whose fields differ by so much, in ppm."""
    return torch.sin(misfit_ppm * (0.5 * rad_per_ppm)) * (2.0 / rad_per_ppm)


def phase_cost(misfit_ppm: torch.Tensor, weights2: torch.Tensor, rad_per_ppm: float) -> float:
    r"""The data term :math:`\frac{1}{2s^2}\|W(e^{\mathrm{i}sz} - e^{\mathrm{i}sf})\|^2` for :math:`z - f` in ppm and
    squared weights."""
    return 0.5 * float((weights2 * chord(misfit_ppm, rad_per_ppm) ** 2).sum(dtype=torch.float64))


def folds(field_ppm: torch.Tensor, weights2: torch.Tensor, rad_per_ppm: float) -> bool:
    """Whether the phase of a field is anywhere more than half a turn, so that its sine points the wrong way.

    A descent from zero is led astray there, see :func:`qsmprep.core.inversion.medi.medi`.
    """
    return bool(((field_ppm.abs() * rad_per_ppm > math.pi) & (weights2 > 0)).any())


class DataTerm(ABC):
    """What a data term that is split off can do; fields over a problem's box, all in one unit."""

    field_ppm: torch.Tensor
    weights: torch.Tensor

    @abstractmethod
    def proximal(self, v: torch.Tensor) -> torch.Tensor:
        """The field that minimises the data term plus a quadratic that ties it to ``v``."""

    @abstractmethod
    def misfit(self, field: torch.Tensor) -> torch.Tensor:
        """How far a field is from the measured one."""

    def residual(self, field: torch.Tensor, mask: torch.Tensor) -> float:
        """Weighted root mean square of the misfit."""
        return math.sqrt(float((self.misfit(field) ** 2 * self.weights**2).sum()) / float(mask.sum()))


class DataSplit:
    """The split of a data term on the padded grid, with its multiplier.

    Parameters
    ----------
    term : DataTerm
    start : torch.Tensor
        Field on the padded grid to begin with, in the unit of the term's.
    part : tuple of slice
        Where the problem's box lies in it; with an Ellipsis before for batches.
    relaxation : float
        Over-relaxation from 1 (none) to below 2.
    """

    def __init__(
        self, term: DataTerm, start: torch.Tensor, part: tuple[slice | EllipsisType, ...], relaxation: float
    ) -> None:
        self.term, self.part, self.relaxation = term, part, relaxation
        self.close = start.clone()
        self.dual = torch.zeros_like(term.field_ppm)

    def meet(self, field: torch.Tensor) -> None:
        """Take the map's field up."""
        self.close.lerp_(field, self.relaxation)

    def pulled(self) -> torch.Tensor:
        """Renew the split and its multiplier, after :meth:`meet`: the field that the map is to have."""
        seen = self.close[self.part] + self.dual
        self.close[self.part] = self.term.proximal(seen)
        self.dual = seen - self.close[self.part]
        target = self.close.clone()
        target[self.part] -= self.dual
        return target


class PhaseTerm(DataTerm):
    r"""The data term :math:`\frac{1}{2s^2}\|W(e^{\mathrm{i}sz} - e^{\mathrm{i}sf})\|^2` and its split.

    For phases that are not wrapped and small misfits it is :math:`\frac{1}{2}\|W(z - f)\|^2`.

    Parameters
    ----------
    problem : Problem
        Field :math:`f` in ppm and weights :math:`W`, zero outside the mask.
    rad_per_ppm : float
        Phase :math:`s` of 1 ppm.
    penalty : float
        :math:`\mu` of the quadratic that ties :math:`z` to the field of the map.
    """

    def __init__(self, problem: Problem, rad_per_ppm: float, penalty: float) -> None:
        self.field_ppm = problem.field_ppm
        self.weights = problem.weights
        self.scale = rad_per_ppm
        self.penalty = penalty
        self._seen = problem.mask.reshape(-1).nonzero().squeeze(1)
        self._seen_field = self.field_ppm.reshape(-1)[self._seen]
        self._seen_weights2 = self.weights.reshape(-1)[self._seen] ** 2

    def proximal(self, v: torch.Tensor) -> torch.Tensor:
        r"""The :math:`z` that minimises the data term plus :math:`\frac{\mu}{2}\|z - v\|^2`, voxel by voxel.

        The nearest copy of the measured phase counts. Between it and ``v`` the derivative is concave,
        so that Newton's method from the copy never overshoots. Outside the mask it is ``v`` itself.
        """
        weights2, penalty = self._seen_weights2, self.penalty
        away = (v.reshape(-1)[self._seen] - self._seen_field).mul_(self.scale)
        away.sub_(torch.round(away / (2.0 * math.pi)), alpha=2.0 * math.pi)
        y = away * penalty / (weights2 + penalty)
        value, slope = torch.empty_like(y), torch.empty_like(y)
        for _ in range(NEWTON_STEPS - 1):
            torch.cos(y, out=slope).mul_(weights2).add_(penalty).clamp_(min=0.05 * penalty)
            torch.sin(y, out=value).mul_(weights2)
            value.add_(y, alpha=penalty).sub_(away, alpha=penalty)
            y.addcdiv_(value, slope, value=-1.0)
        result = v.clone().reshape(-1)
        result[self._seen] += y.sub_(away).div_(self.scale)
        return result.reshape(v.shape)

    def misfit(self, field: torch.Tensor) -> torch.Tensor:
        """How far the phase of a field is from the measured one, in ppm (the chord of the circle)."""
        return chord(field - self.field_ppm, self.scale)


class FieldTerm(DataTerm):
    r"""The data term :math:`\frac{1}{2}\|W(z - f)\|^2` and its split.

    Parameters
    ----------
    field_ppm, weights : torch.Tensor
        Field :math:`f` (in any unit) and weights :math:`W`, zero outside the mask; batches are welcome.
    penalty : float
        :math:`\mu` of the quadratic that ties :math:`z` to the field of the map.
    """

    def __init__(self, field_ppm: torch.Tensor, weights: torch.Tensor, penalty: float) -> None:
        self.field_ppm = field_ppm
        self.weights = weights
        weights2 = weights**2
        self.share = weights2 / (weights2 + penalty)

    def proximal(self, v: torch.Tensor) -> torch.Tensor:
        r"""The :math:`z` that minimises the data term plus :math:`\frac{\mu}{2}\|z - v\|^2`."""
        return torch.lerp(v, self.field_ppm, self.share)

    def misfit(self, field: torch.Tensor) -> torch.Tensor:
        """How far a field is from the measured one, in its unit."""
        return field - self.field_ppm
