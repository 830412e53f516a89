"""What training minimises."""

from __future__ import annotations

import torch

from qsmprep.networks.geometry import Geometry


def centred(chi: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """A map minus its mean over the mask: susceptibility is defined up to a constant."""
    axes = (-3, -2, -1)
    mean = (chi * mask).sum(dim=axes, keepdim=True) / mask.sum(dim=axes, keepdim=True).clamp_min(1.0)
    return (chi - mean) * mask


def gradients(chi: torch.Tensor) -> list[torch.Tensor]:
    """Differences to the next voxel along each axis."""
    return [chi.diff(dim=axis) for axis in (-3, -2, -1)]


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


def physics(
    chi_ppm: torch.Tensor,
    field_ppm: torch.Tensor,
    weight: torch.Tensor,
    geometry: Geometry,
    *,
    rad_per_ppm: float = 100.0,
    total_variation: float = 0.05,
) -> torch.Tensor:
    r"""Consistency with an unlabelled field, :math:`\|W(e^{jd*\chi} - e^{jf})\|^2`, relative to that of no map.

    Parameters
    ----------
    chi_ppm, field_ppm : (batch, 1, nx, ny, nz) torch.Tensor
        In ppm, zero outside the mask.
    weight : (batch, 1, nx, ny, nz) torch.Tensor
        Reliability of the field, zero outside the mask.
    geometry : Geometry
        Of the patches.
    rad_per_ppm : float
        Phase of 1 ppm; 100 is that of QSMInvNet's generator.
    total_variation : float
        Weight of the mean absolute gradient, relative to the mean absolute susceptibility.

    References
    ----------
    .. [1] Polak et al., NDI, NMR Biomed. 2020, doi:10.1002/nbm.4271
    """
    phase = rad_per_ppm * (geometry.field(chi_ppm) - field_ppm)
    distance = (weight.square() * (2 - 2 * torch.cos(phase))).sum()
    nothing = (weight.square() * (2 - 2 * torch.cos(rad_per_ppm * field_ppm))).sum()
    inside = (weight > 0).float()
    variation = sum(g.abs().sum() for g in gradients(chi_ppm * inside)) / (chi_ppm * inside).abs().sum().clamp_min(1e-6)
    return distance / nothing.clamp_min(1e-9) + total_variation * variation / 3
