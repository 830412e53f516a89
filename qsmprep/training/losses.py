"""What training minimises."""

from __future__ import annotations

import torch

from qsmprep.networks.physics import gradients
from qsmprep.networks.physics import physics as physics


def centred(chi: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """A map minus its mean over the mask: susceptibility is defined up to a constant."""
    axes = (-3, -2, -1)
    mean = (chi * mask).sum(dim=axes, keepdim=True) / mask.sum(dim=axes, keepdim=True).clamp_min(1.0)
    return (chi - mean) * mask


def relative_errors(chi: torch.Tensor, truth: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Error relative to the truth, as means over a batch: L2 norm (NRMSE), L1 norm, L1 norm of the gradient.

    Parameters
    ----------
    chi, truth, mask : (batch, 1, nx, ny, nz) torch.Tensor
        In any one unit.
    """
    axes = (-4, -3, -2, -1)
    true, error = centred(truth, mask), centred(chi, mask) - centred(truth, mask)
    tiny = 1e-6
    l2 = (error.square().sum(dim=axes) + tiny).sqrt() / (true.square().sum(dim=axes) + tiny).sqrt()
    l1 = error.abs().sum(dim=axes) / (true.abs().sum(dim=axes) + tiny)
    steps = zip(gradients(error), gradients(true), strict=True)
    above, below = zip(*((e.abs().sum(dim=axes), t.abs().sum(dim=axes)) for e, t in steps), strict=True)
    gradient = sum(above) / (sum(below) + tiny)
    return l2.mean(), l1.mean(), gradient.mean()


def supervised(
    outputs: list[torch.Tensor],
    truth: torch.Tensor,
    mask: torch.Tensor,
    weights: tuple[float, float, float],
    decay: float,
) -> torch.Tensor:
    """Weighted relative errors of all iterations, earlier ones counting less by ``decay`` each."""
    total = truth.new_zeros(())
    shares = [decay ** (len(outputs) - 1 - index) for index in range(len(outputs))]
    for output, share in zip(outputs, shares, strict=True):
        errors = relative_errors(output, truth, mask)
        total = total + (share / sum(shares)) * sum(w * e for w, e in zip(weights, errors, strict=True))
    return total
