"""The one register of methods (see :mod:`qsmprep.core.registry`). The first of a step is its default."""

from __future__ import annotations

from qsmprep.core.methods import background, echoes, inversion, masks, networks, roi
from qsmprep.core.registry import Registry

METHODS = Registry(
    (
        *echoes.METHODS,
        *masks.METHODS,
        *background.METHODS,
        *networks.METHODS,  # before the other inversions: ConeNet is the default
        *inversion.METHODS,
        *roi.METHODS,
    )
)
