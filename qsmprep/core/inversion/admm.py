"""The alternating direction method for a quadratic data term and the total variation."""

from __future__ import annotations

from typing import Any

import torch

from qsmprep.core.inversion.problem import Spectral, add_adjoint, difference, on_faces

RELAXATION = 1.8
"""Over-relaxation of splits; halves the number of iterations."""


class TotalVariation:
    r"""One split of :math:`\frac{1}{2}\chi^H H\chi - b^H\chi + \lambda\|\nabla\chi\|_1`.

    The gradient is the difference between neighbours per mm, each face counted once, so the sum does
    not depend on how the axes are ordered or flipped. ``H`` is diagonal in k-space.

    Parameters
    ----------
    space : Spectral
        The padded grid.
    hessian : torch.Tensor
        ``H`` on the half spectrum, not negative.
    weight : float
        :math:`\lambda` in ppm mm.
    rho : float
        Penalty of the split relative to a grid of 1 mm; it changes the speed, not the solution.
    faces : list of torch.Tensor, optional
        Relative weight of every face, for each axis on the padded grid; None weighs all alike.
    batch : tuple of int
        Leading lengths of maps that are solved for together, all with one ``H``.
    relaxation : float
        Over-relaxation from 1 (none) to below 2: the gradient goes this far beyond its last split.

    References
    ----------
    .. [1] Boyd et al., Found. Trends Mach. Learn. 3:1 (2011), section 3.4.3, doi:10.1561/2200000016
    """

    def __init__(
        self,
        space: Spectral,
        hessian: torch.Tensor,
        weight: float,
        rho: float,
        faces: list[torch.Tensor | None] | None = None,
        batch: tuple[int, ...] = (),
        relaxation: float = 1.0,
    ) -> None:
        self.space = space
        self.weights = faces or [None, None, None]
        self.relaxation = relaxation
        self.rho = rho * float(space.grid.voxel_volume_mm3) ** (2.0 / 3.0)
        self.limit = self._limited = weight / self.rho
        self.inverse = hessian + self.rho * space.laplacian()
        if float(self.inverse[0, 0, 0]) == 0.0:
            self.inverse[0, 0, 0] = 1.0
        self.inverse.clamp_(min=1e-12).reciprocal_()
        shape = (*batch, *space.shape)
        self.sums = [torch.zeros(shape, device=space.device) for _ in range(3)]
        self.pull: torch.Tensor | None = None
        self._begun = False
        self.shares: torch.Tensor | None = None
        self._shared: torch.Tensor | None = None

    def share(self, shares: torch.Tensor) -> None:
        r"""Go on with a part of :math:`\lambda` in every voxel (padded grid; a face has the smaller of two)."""
        self.shares = shares

    def set_weight(self, weight: float) -> None:
        r"""Go on with another :math:`\lambda`."""
        self.limit = weight / self.rho

    def spectrum(self, data: torch.Tensor) -> torch.Tensor:
        """The map in k-space that minimises data term plus split, for ``data`` = ``b`` in k-space.

        Once after each :meth:`shrink`, whose volume is let go of.
        """
        if self.pull is None:
            if self._begun:
                raise RuntimeError("the splits have not been renewed since the last solution")
            return data * self.inverse
        spectrum = self.space.fft(self.pull)
        self.pull = None
        spectrum += data
        spectrum *= self.inverse
        return spectrum

    def solve(self, data: torch.Tensor) -> torch.Tensor:
        """The map that minimises data term plus split, for ``data`` = ``b`` in k-space."""
        return self.space.ifft(self.spectrum(data))

    def shrink(self, chi: torch.Tensor) -> None:
        """Soft-threshold the gradient, update the multipliers and what they pull the map to.

        Kept is the sum of split and multiplier of every face: the multiplier is that sum, limited as it was then.
        """
        self.pull, self._begun = torch.zeros_like(self.sums[0]), True
        spare = torch.empty_like(self.pull)
        relax = self.relaxation
        for axis, mm in enumerate(self.space.grid.voxel_mm):
            multiplier = self.sums[axis]
            before = most = self._most(self.limit, self.shares, axis)
            if self._limited != self.limit or self._shared is not self.shares:
                before = self._most(self._limited, self._shared, axis)
            total = difference(chi, axis - 3, mm, out=spare)
            if relax != 1.0:
                torch.lerp(multiplier, total, relax, out=total)
            torch.clamp(multiplier, -before, before, out=multiplier)
            total.add_(multiplier, alpha=relax)
            torch.clamp(total, -most, most, out=multiplier)
            torch.add(total, multiplier, alpha=-2.0, out=multiplier)
            add_adjoint(self.pull, multiplier, axis - 3, self.rho / mm)
            self.sums[axis], spare = total, multiplier
        self._limited, self._shared = self.limit, self.shares

    def _most(self, limit: float, shares: torch.Tensor | None, axis: int) -> Any:
        """What the multipliers along an axis are limited to."""
        faces = self.weights[axis]
        if shares is not None:
            spared = on_faces(shares, axis - 3)
            faces = spared if faces is None else spared * faces
        return limit if faces is None else limit * faces


def relative_change(new: torch.Tensor, old: torch.Tensor) -> float:
    """Norm of the change over that of the new volume; of one that is zero, 0 where the old one was so too, else 1."""
    size, change = float(torch.linalg.vector_norm(new)), float(torch.linalg.vector_norm(new - old))
    return change / size if size > 0 else float(change > 0)
