"""Regularisation weights chosen from the data."""

from __future__ import annotations

import math

import torch

from qsmprep.core.inversion.problem import Problem

START = 0.01
"""First guess of a weight, relative to the spread of the field and the voxel edge."""

TO_SD = 1.4826
"""Standard deviation over the median magnitude of a normal distribution."""

UPDATE = 10
"""Iterations between two updates."""


class Weight:
    r"""The weight of a gradient penalty: as given, or following the misfit of the field.

    A penalty on the gradient's magnitude (ppm mm) has to be in proportion to the errors of the field
    (ppm) and the voxel edge (mm), or else a change of units would change the map. The errors are
    taken from the residual of the fit itself while it goes on. The residual holds what no map
    explains (noise and failures of the model alike), where an estimate from fine detail would see only
    the noise. It grows far more slowly than the weight, so that both settle. The median keeps
    single spoilt voxels from deciding.

    Parameters
    ----------
    given : float
        In ppm mm; 0 to follow the residual.
    share : float
        Weight over residual and voxel edge.
    problem : Problem
        Field, mask and weights.

    Attributes
    ----------
    value : float
        In ppm mm.
    settled : bool
        Whether it was given, has followed a residual, or the field is zero: a map that stands still before is that of
        the first guess.
    """

    def __init__(self, given: float, share: float, problem: Problem) -> None:
        self.follows = given == 0.0
        self.share = share * problem.grid.voxel_volume_mm3 ** (1.0 / 3.0)
        self.problem = problem
        self.value = given
        if self.follows:
            spread = problem.field_ppm * problem.weights
            self.value = START / share * self.share * math.sqrt(float((spread**2).sum() / problem.mask.sum()))
        self.settled = not self.follows or self.value == 0

    def due(self, iteration: int) -> bool:
        """Whether the weight is to be renewed before this iteration."""
        return self.follows and iteration % UPDATE == 0 and iteration > 0

    def renew(self, misfit_ppm: torch.Tensor) -> float:
        """The weight in ppm mm for the misfit of the field over the problem's box."""
        self.value = self.share * robust_sd(misfit_ppm * self.problem.weights, self.problem.weights > 0)
        self.settled = True
        return self.value


def robust_sd(volume: torch.Tensor, mask: torch.Tensor) -> float:
    """Standard deviation in the mask from the median of the magnitude, about zero."""
    return TO_SD * float(volume[mask].abs().median())
