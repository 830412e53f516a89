"""What a network is given of a field whose voxels can be trusted more or less."""

from __future__ import annotations

import torch

from qsmprep.networks.base import QSMNetwork
from qsmprep.networks.geometry import Geometry
from qsmprep.networks.variation import variation_maps


def trusted(
    network: QSMNetwork,
    field: torch.Tensor,
    mask: torch.Tensor,
    geometry: Geometry,
    magnitude: torch.Tensor | None = None,
    weights: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """A field for a network that knows no weights, and what the network prepares for it.

    Parameters
    ----------
    network : QSMNetwork
    field, mask : (batch, 1, nx, ny, nz) torch.Tensor
        Local field divided by its spread, zero outside the mask (1 inside).
    geometry : Geometry
        Of all volumes.
    magnitude : (batch, 1, nx, ny, nz) torch.Tensor, optional
        In any unit.
    weights : (batch, 1, nx, ny, nz) torch.Tensor, optional
        How far each voxel's field can be trusted, 0 to 1; wholly where they are not given.

    Returns
    -------
    field : (batch, 1, nx, ny, nz) torch.Tensor
        See :func:`repaired`; the total-variation map that it is repaired with follows the weights as well.
    prepared : torch.Tensor or None
        See :meth:`qsmprep.networks.base.QSMNetwork.prepare`.
    """
    prepared = network.prepare(field, mask, geometry, magnitude, weights)
    if weights is None:
        return field, prepared
    maps = variation_maps(field, mask, geometry, magnitude, weights) if prepared is None else prepared
    return repaired(field, mask, weights, geometry, maps[:, -1:]), prepared


def surer(mask: torch.Tensor, weights: torch.Tensor | None) -> torch.Tensor:
    """The voxels that the unit of a field is taken from, ``(batch, 1, nx, ny, nz)``, 1 inside: those of a mask whose
    field can be trusted by more than half, where it has any, else all of it."""
    if weights is None:
        return mask
    sure = mask * (weights > 0.5)
    return torch.where(sure.any(dim=-1).any(dim=-1).any(dim=-1)[..., None, None, None], sure, mask)


def repaired(
    field: torch.Tensor, mask: torch.Tensor, weights: torch.Tensor, geometry: Geometry, chi: torch.Tensor
) -> torch.Tensor:
    """The field where it can be trusted, that of a map where not, and a mean of both in between.

    Parameters
    ----------
    field, mask, weights, chi : (batch, 1, nx, ny, nz) torch.Tensor
        Field, mask, weights from 0 to 1, and susceptibility in the unit of the field.
    geometry : Geometry
        Of all volumes.

    Returns
    -------
    (batch, 1, nx, ny, nz) torch.Tensor
        Zero outside the mask. A constant that the field has beside that of the map stays.
    """
    weights = weights * mask
    expected = geometry.field(chi)
    left = field - expected
    axes = (-3, -2, -1)
    constant = (left * weights).sum(dim=axes, keepdim=True) / weights.sum(dim=axes, keepdim=True).clamp_min(1e-6)
    return (expected + constant + weights * (left - constant)) * mask
