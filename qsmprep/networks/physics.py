"""How well a map explains a measured field: the loss for fields without a known map."""

from __future__ import annotations

import torch

from qsmprep.networks.geometry import Geometry


def gradients(chi: torch.Tensor) -> list[torch.Tensor]:
    """Differences to the next voxel along each axis."""
    return [chi.diff(dim=axis) for axis in (-3, -2, -1)]


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


def phase_distance(
    chi: torch.Tensor, field: torch.Tensor, weight: torch.Tensor, geometry: Geometry, total_variation: float
) -> torch.Tensor:
    r"""Loss without labels, :math:`\|W(e^{jd*\chi} - e^{jf})\|_1` plus total variation.

    Relative to the same norm without any map, so that neither noise nor patch size scales it.

    Parameters
    ----------
    chi, field : (batch, 1, nx, ny, nz) torch.Tensor
        Divided by the spread of the field, whose phase thus has a spread of 1 rad.
    weight : (batch, 1, nx, ny, nz) torch.Tensor
        Reliability of the field, zero outside the mask.
    geometry : Geometry
        Of the patches.
    total_variation : float
        Weight of the mean absolute difference of neighbours in the mask; a difference across a longer
        voxel edge counts less, by the edge over the geometric mean of the edges.

    References
    ----------
    .. [1] PedQ-NET, ISMRM 2022, abstract 1984
    .. [2] Polak et al., NDI, NMR Biomed. 2020, doi:10.1002/nbm.4271
    """
    distance = (weight * 2 * torch.sin(0.5 * (geometry.field(chi) - field)).abs()).sum()
    nothing = (weight * 2 * torch.sin(0.5 * field).abs()).sum()
    inside = (weight > 0).float()
    mean = geometry.grid.voxel_volume_mm3 ** (1 / 3)
    variation = torch.zeros((), device=chi.device)
    for axis, edge in zip((-3, -2, -1), geometry.grid.voxel_mm, strict=True):
        n = chi.shape[axis]
        both = inside.narrow(axis, 1, n - 1) * inside.narrow(axis, 0, n - 1)
        variation = variation + (chi.diff(dim=axis).abs() * both).sum() / both.sum().clamp_min(1) * (mean / edge)
    return distance / nothing.clamp_min(1e-9) + total_variation * variation
