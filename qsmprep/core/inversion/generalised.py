"""The alternating direction method for a quadratic data term and the total generalised variation."""

from __future__ import annotations

import numpy as np
import torch

from qsmprep.core.inversion.problem import Spectral, add_adjoint, difference


class GeneralisedVariation:
    r"""One split of a quadratic data term plus the total generalised variation of second order.

    .. math:: \min_v \lambda_1\|\nabla\chi - v\|_1 + \lambda_0\|\mathcal{E}v\|_1

    The gradient and :math:`v` live on the faces between voxels; the symmetrised gradient
    :math:`\mathcal{E}v` has its diagonal at the voxels and the rest, counted twice, on the edges. So
    nothing depends on how the axes are ordered or flipped. Map and :math:`v` are solved for together,
    in closed form at every point of k-space.

    Parameters
    ----------
    space : Spectral
        The padded grid.
    hessian : torch.Tensor
        Of the data term on the half spectrum, not negative.
    first : float
        :math:`\lambda_1` in ppm mm.
    second : float
        :math:`\lambda_0` in ppm mm^2.
    rho : float
        Penalty of the splits relative to a grid of 1 mm; it changes the speed, not the solution.
    relaxation : float
        Over-relaxation from 1 (none) to below 2, see :class:`qsmprep.core.inversion.admm.TotalVariation`.
    """

    def __init__(
        self,
        space: Spectral,
        hessian: torch.Tensor,
        first: float,
        second: float,
        rho: float,
        relaxation: float = 1.0,
    ) -> None:
        self.space, self.relaxation = space, relaxation
        edge2 = float(space.grid.voxel_volume_mm3) ** (2.0 / 3.0)
        self.rho1, self.rho0 = rho * edge2, 2.0 * rho * edge2**2
        self.ratio = second / first if first > 0 else 0.0
        self.set_weight(first)
        self._limited1, self._limited0 = self.limit1, self.limit0
        self.steps = _symbols(space)
        laplacian = space.laplacian()
        self.tie = self.rho1 / (self.rho1 + self.rho0 * laplacian)
        self.inverse = hessian + self.rho0 * laplacian**2 * self.tie
        self.inverse[0, 0, 0] = 1.0
        self.inverse.clamp_(min=1e-12).reciprocal_()
        self.inverse[0, 0, 0] = 0.0
        self.single = 1.0 / (self.rho1 + 0.5 * self.rho0 * laplacian)

        def zeros() -> torch.Tensor:
            return torch.zeros(space.shape, device=space.device)

        self.slopes = [zeros() for _ in range(3)]
        self.sums1 = [zeros() for _ in range(3)]
        self.sums0 = {(i, j): zeros() for i in range(3) for j in range(i, 3)}
        self.pull = zeros()
        self.pulls = [zeros() for _ in range(3)]

    def set_weight(self, weight: float) -> None:
        r"""Go on with another :math:`\lambda_1`; the ratio of the two weights stays."""
        self.limit1, self.limit0 = weight / self.rho1, self.ratio * weight / self.rho0

    def spectrum(self, data: torch.Tensor) -> torch.Tensor:
        """The map in k-space that minimises data term plus split; the slopes are renewed on the way."""
        pulls = [torch.fft.rfftn(pull) for pull in self.pulls]
        along = sum(torch.conj(g) * pull for g, pull in zip(self.steps, pulls, strict=True))
        chi = torch.fft.rfftn(self.pull)
        chi += data
        chi += self.tie * along
        chi *= self.inverse
        # (a + b g g^H)^-1 = (1 - b/(a + b |g|^2) g g^H) / a, and the map's part lies along g.
        common = self.tie * chi - self.single * (0.5 * self.rho0 / self.rho1) * self.tie * along
        for axis, g in enumerate(self.steps):
            self.slopes[axis] = self.space.ifft(self.single * pulls[axis] + g * common)
        return chi

    def solve(self, data: torch.Tensor) -> torch.Tensor:
        """The map that minimises data term plus split."""
        return self.space.ifft(self.spectrum(data))

    def shrink(self, chi: torch.Tensor) -> None:
        """Soft-threshold both orders, update the multipliers and what they pull map and slopes to.

        Kept is the sum of split and multiplier: the multiplier is that sum, limited as it was then.
        """
        voxel = self.space.grid.voxel_mm
        self.pull.zero_()
        for axis, mm in enumerate(voxel):
            faces = difference(chi, axis, mm)
            faces -= self.slopes[axis]
            self._split(faces, self.sums1[axis], self._limited1, self.limit1)
            add_adjoint(self.pull, faces, axis, self.rho1 / mm)
            self.pulls[axis] = faces.mul_(-self.rho1)
        for (i, j), kept in self.sums0.items():
            if i == j:
                bend = torch.zeros_like(chi)
                add_adjoint(bend, self.slopes[i], i, -1.0 / voxel[i])
            else:
                bend = difference(self.slopes[j], i, voxel[i])
                bend += difference(self.slopes[i], j, voxel[j])
                bend *= 0.5
            self._split(bend, kept, self._limited0, self.limit0)
            if i == j:
                self.pulls[i].sub_(difference(bend, i, voxel[i]), alpha=self.rho0)
            else:
                add_adjoint(self.pulls[j], bend, i, self.rho0 / voxel[i])
                add_adjoint(self.pulls[i], bend, j, self.rho0 / voxel[j])
        self._limited1, self._limited0 = self.limit1, self.limit0

    def _split(self, value: torch.Tensor, kept: torch.Tensor, before: float, limit: float) -> None:
        """Renew what is kept, and overwrite the value with split less multiplier."""
        multiplier = kept.clamp(-before, before)
        total = kept.lerp_(value, self.relaxation).add_(multiplier, alpha=self.relaxation)
        torch.clamp(total, -limit, limit, out=multiplier)
        torch.sub(total, multiplier, alpha=2.0, out=value)


def _symbols(space: Spectral) -> list[torch.Tensor]:
    """What the difference to the next voxel per mm multiplies k-space with, along each axis."""
    result = []
    for axis, (n, mm) in enumerate(zip(space.shape, space.grid.voxel_mm, strict=True)):
        cycles = np.fft.rfftfreq(n) if axis == 2 else np.fft.fftfreq(n)
        view = [1, 1, 1]
        view[axis] = -1
        symbol = (np.exp(2j * np.pi * cycles) - 1.0) / mm
        result.append(torch.from_numpy(symbol.astype(np.complex64)).view(view).to(space.device))
    return result
