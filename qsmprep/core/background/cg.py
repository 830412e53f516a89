"""Conjugate gradients on volumes."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch


class Solution(NamedTuple):
    """What conjugate gradients found."""

    x: torch.Tensor
    iterations: int
    relative_residual: float

    def info(self, tolerance: float) -> dict[str, float | int | bool]:
        """For the sidecar."""
        return {
            "iterations": self.iterations,
            "relative_residual": self.relative_residual,
            "converged": self.relative_residual <= tolerance,
        }


def _dot(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(torch.dot(a.reshape(-1), b.reshape(-1)))


def conjugate_gradients(
    operator: Callable[[torch.Tensor], torch.Tensor],
    rhs: torch.Tensor,
    *,
    tolerance: float,
    max_iter: int,
    precondition: Callable[[torch.Tensor], torch.Tensor] | None = None,
    inner: Callable[[torch.Tensor, torch.Tensor], float] = _dot,
) -> Solution:
    """Solve ``operator(x) = rhs`` for a symmetric positive (semi)definite operator, from zero.

    Parameters
    ----------
    operator : callable
        Tensor to tensor; must not change its argument.
    rhs : torch.Tensor
    tolerance : float
        Stop when the norm of the residual falls to this fraction of the norm of ``rhs``.
    max_iter : int
    precondition : callable, optional
        Symmetric positive definite approximation of the inverse.
    inner : callable, optional
        Inner product; of half spectra it is not that of their values.

    Returns
    -------
    Solution
    """
    x = torch.zeros_like(rhs)
    residual = rhs.clone()
    norm0 = inner(rhs, rhs) ** 0.5
    if norm0 == 0:
        return Solution(x, 0, 0.0)
    z = residual if precondition is None else precondition(residual)
    direction = z.clone()
    rho = inner(residual, z)
    norm = norm0
    for step in range(1, max_iter + 1):
        image = operator(direction)
        curvature = inner(direction, image)
        if curvature <= 0:
            return Solution(x, step - 1, norm / norm0)
        alpha = rho / curvature
        x.add_(direction, alpha=alpha)
        residual.add_(image, alpha=-alpha)
        norm = inner(residual, residual) ** 0.5
        if norm <= tolerance * norm0:
            return Solution(x, step, norm / norm0)
        z = residual if precondition is None else precondition(residual)
        rho, previous = inner(residual, z), rho
        direction.mul_(rho / previous).add_(z)
    return Solution(x, max_iter, norm / norm0)
