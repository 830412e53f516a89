"""Adapting QSMInvNet+ to one subject: the statistics of its batch normalisation, or its weights by the physics.

Both work in place on a network that was loaded for this subject alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from qsmprep.networks.geometry import Geometry
from qsmprep.networks.invnet import DomainBatchNorm, QSMInvNet
from qsmprep.networks.physics import physics
from qsmprep.networks.tiles import Tiles

PATCH = 64
"""Edge in voxels of the patches that statistics are taken of, about that of the training."""

MIN_MASK = 0.25
"""Smallest part of such a patch that the mask fills, as in training."""

LEARNING_RATE = 1e-4
"""Of Adam, when weights are adapted."""


@dataclass(frozen=True)
class Subject:
    """One volume in the frame of the network.

    Parameters
    ----------
    field, mask, weight : (1, 1, nx, ny, nz) torch.Tensor
        Field divided by ``scale``, mask, and relative reliability of the field (zero outside the mask).
    scale : float
        Spread of the field in ppm.
    geometry : Geometry
        Of the volume.
    domain : int
        Of the batch normalisation that is used, and adapted.
    prepared, magnitude : (1, ..., nx, ny, nz) torch.Tensor, optional
        What the network prepares for the field, and the magnitude that guided it.
    """

    field: torch.Tensor
    mask: torch.Tensor
    weight: torch.Tensor
    scale: float
    geometry: Geometry
    domain: int
    prepared: torch.Tensor | None = None
    magnitude: torch.Tensor | None = None

    @property
    def sign(self) -> int:
        """The sign that makes the third moment of the field positive, so that the sign of the data does
        not change what is adapted."""
        return 1 if float(self.field.double().pow(3).sum()) >= 0 else -1

    def given(self, sign: int) -> dict[str, torch.Tensor | None]:
        """What the network is given beside a field of that sign."""
        prepared = None if self.prepared is None else sign * self.prepared
        return {"prepared": prepared, "magnitude": self.magnitude}


@torch.no_grad()
def adapt_statistics(network: QSMInvNet, subject: Subject) -> int:
    """Re-estimate means and variances of the batch normalisation on the subject (AdaBN).

    Returns
    -------
    int
        The number of patches they are the average of.
    """
    norms = [
        m.norms[min(subject.domain, len(m.norms) - 1)] for m in network.modules() if isinstance(m, DomainBatchNorm)
    ]
    kept = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
        norm.train()
    align = network.stride // network.shuffle
    edge = max(align, PATCH // network.shuffle // align * align)
    small = torch.nn.functional.avg_pool3d(subject.mask, network.shuffle)
    places = [where for where, _ in Tiles(edge, 0, align).places(small.shape)]
    places = [where for where in places if float(small[where].mean()) >= MIN_MASK] or [(...,)]
    for sign in (subject.sign, -subject.sign):
        entry, _ = network.start(sign * subject.field, subject.mask, subject.geometry, **subject.given(sign))
        for where in places:
            network.convolve(entry[where], domain=subject.domain)
    for norm, momentum in zip(norms, kept, strict=True):
        norm.momentum = momentum
        norm.eval()
    return 2 * len(places)


def adapt_physics(network: QSMInvNet, subject: Subject, steps: int) -> tuple[float, float]:
    """A few steps of Adam on the consistency of the network's own map with the field.

    The loss is that of the unlabelled domain in training, see :func:`qsmprep.networks.physics.physics`.
    Statistics of the batch normalisation stay as they are.

    Returns
    -------
    (float, float)
        The loss before the first and before the last step.
    """
    trained = [p for name, p in network.named_parameters() if not name.startswith("consistency.")]
    for parameter in trained:
        parameter.requires_grad_(True)
    optimiser = torch.optim.Adam(trained, LEARNING_RATE)
    sign = subject.sign
    field, given = sign * subject.field, subject.given(sign)
    losses = []
    with torch.enable_grad():
        for _ in range(steps):
            maps = network.estimate(field, subject.mask, subject.geometry, domain=subject.domain, **given)
            chi = maps[-1] * subject.mask
            loss = physics(chi * subject.scale, field * subject.scale, subject.weight, subject.geometry)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
            losses.append(float(loss.detach()))
    network.requires_grad_(False)
    return losses[0], losses[-1]
