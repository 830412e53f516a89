"""LSQR for operators on torch volumes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

Operator = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Solution:
    """A least-squares solution, with the iterations it took and its relative residuals."""

    x: torch.Tensor
    iterations: int
    residual: float
    normal_residual: float
    converged: bool


def _unit(vector: torch.Tensor) -> tuple[torch.Tensor, float]:
    """The vector over its norm (in place), and the norm."""
    norm = float(torch.linalg.vector_norm(vector))
    if norm > 0:
        vector /= norm
    return vector, norm


def lsqr(forward: Operator, adjoint: Operator, data: torch.Tensor, *, tolerance: float, max_iter: int) -> Solution:
    """Minimise the norm of ``forward(x) - data`` from zero on, by Golub-Kahan bidiagonalisation.

    Parameters
    ----------
    forward, adjoint : callable
        A linear operator and its adjoint.
    data : torch.Tensor
        Right-hand side.
    tolerance : float
        Stop when the residual, or the residual of the normal equations, falls below this fraction
        of its first value.
    max_iter : int
        Largest number of iterations.

    References
    ----------
    .. [1] Paige and Saunders, ACM Trans. Math. Softw. 8:43 (1982), doi:10.1145/355984.355989
    """
    u, beta = _unit(data.clone())
    v, alpha = _unit(adjoint(u))
    x, w = torch.zeros_like(v), v.clone()
    phi, rho_bar = beta, alpha
    first, gradient = beta, alpha * beta
    if gradient == 0:
        return Solution(x, 0, 0.0, 0.0, True)
    residual = normal = 1.0
    done = 0
    while done < max_iter and min(residual, normal) >= tolerance:
        u, beta = _unit(forward(v).sub_(u, alpha=alpha))
        v, alpha = _unit(adjoint(u).sub_(v, alpha=beta))
        rho = (rho_bar**2 + beta**2) ** 0.5
        cosine, sine = rho_bar / rho, beta / rho
        theta, rho_bar = sine * alpha, -cosine * alpha
        step, phi = cosine * phi, sine * phi
        x.add_(w, alpha=step / rho)
        w.mul_(-theta / rho).add_(v)
        residual, normal = abs(phi) / first, abs(phi * alpha * cosine) / gradient
        done += 1
    return Solution(x, done, residual, normal, min(residual, normal) < tolerance)
