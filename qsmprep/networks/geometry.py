"""The physics that every network works with: the dipole of one grid, applied to batches of volumes."""

from __future__ import annotations

import math

import torch

from qsmprep.core.dipole import dipole_kernel, padded_shape
from qsmprep.core.grid import Grid

CONE = 0.15
"""Kernel magnitude below which k-space counts as the ill-conditioned magic-angle cone."""


class Geometry:
    """Dipole operators of a grid, on zero-padded batches; float32 whatever the network computes in.

    Parameters
    ----------
    grid : Grid
        Shape, voxel size and B0 direction of the volumes.
    pad_factor : float
        Zero padding of the Fourier transforms, see :func:`qsmprep.core.dipole.padded_shape`.
    device : torch.device or str
        Of the volumes.
    """

    def __init__(self, grid: Grid, pad_factor: float = 1.5, device: torch.device | str = "cpu") -> None:
        self.grid = grid
        self.device = torch.device(device)
        self.padded = padded_shape(grid.shape, pad_factor)
        self.dipole = dipole_kernel(grid.with_shape(self.padded), device=self.device)

    def fft(self, volume: torch.Tensor) -> torch.Tensor:
        """Half spectrum of zero-padded volumes ``(..., nx, ny, nz)``."""
        return torch.fft.rfftn(volume.float(), s=self.padded, dim=(-3, -2, -1))

    def ifft(self, spectrum: torch.Tensor) -> torch.Tensor:
        """Volumes of half spectra, cropped to the grid."""
        nx, ny, nz = self.grid.shape
        return torch.fft.irfftn(spectrum, s=self.padded, dim=(-3, -2, -1))[..., :nx, :ny, :nz]

    def field(self, chi: torch.Tensor) -> torch.Tensor:
        """Dipole field of susceptibility volumes, in the same unit."""
        return self.ifft(self.fft(chi) * self.dipole)

    def blur(self, volume: torch.Tensor, sigma_mm: float) -> torch.Tensor:
        """Convolution with a Gaussian of this standard deviation; zero outside the volume."""
        spectrum = self.fft(volume)
        last = len(self.padded) - 1
        for axis, (n, mm) in enumerate(zip(self.padded, self.grid.voxel_mm, strict=True)):
            frequency = (torch.fft.rfftfreq if axis == last else torch.fft.fftfreq)(n, mm, device=self.device)
            taps = torch.exp(-2 * (math.pi * sigma_mm * frequency) ** 2)
            spectrum = spectrum * taps.view([-1 if axis == place else 1 for place in range(3)])
        return self.ifft(spectrum)

    def closed_form(self, field: torch.Tensor, weight: float | torch.Tensor) -> torch.Tensor:
        r"""Tikhonov solution :math:`F^{-1}[D F f / (D^2 + \lambda)]`."""
        return self.ifft(self.fft(field) * (self.dipole / (self.dipole**2 + weight)))

    def cone_part(self, chi: torch.Tensor) -> torch.Tensor:
        """What a volume holds inside the magic-angle cone (:math:`|D| < 0.15`, with a soft edge)."""
        return self.ifft(self.fft(chi) * torch.exp(-((self.dipole / CONE) ** 2)))

    def consistent(
        self, chi: torch.Tensor, field: torch.Tensor, mask: torch.Tensor, weight: float | torch.Tensor
    ) -> torch.Tensor:
        r"""Closed-form data consistency, :math:`\chi + F^{-1}[D\,F\,M(f - D\chi) / (D^2 + \lambda)]`.

        The minimiser of :math:`\|D x - f'\|^2 + \lambda \|x - \chi\|^2`, where :math:`f'` is the field
        inside the mask and that of :math:`\chi` itself outside, where none was measured.
        """
        residual = (field - self.field(chi)) * mask
        return chi + self.ifft(self.fft(residual) * (self.dipole / (self.dipole**2 + weight)))

    def side(self, *, direction: bool = True) -> torch.Tensor:
        """What the geometry tells a network: the logarithm of the voxel edges in mm and, with
        ``direction``, the six products of the components of B0 (which know no sign)."""
        edges = [math.log(edge) for edge in self.grid.voxel_mm]
        bx, by, bz = self.grid.b0_dir
        products = [bx * bx, by * by, bz * bz, bx * by, bx * bz, by * bz] if direction else []
        return torch.tensor(edges + products, dtype=torch.float32, device=self.device)


def field_scale(field: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Robust spread of a field inside the mask, ``(batch, 1, 1, 1, 1)``: the unit that networks work in.

    Half the distance between the 16th and the 84th percentile (one standard deviation of normal
    values), not smaller than a tenth of the root mean square.
    """
    scales = []
    for one, inside in zip(field, mask > 0, strict=True):
        values = one[inside].float()
        if values.numel() > 200_000:
            values = values[:: values.numel() // 200_000]
        values, _ = torch.sort(values)
        low = values[int(0.16 * (values.numel() - 1))]
        high = values[int(0.84 * (values.numel() - 1))]
        scales.append(torch.maximum(0.5 * (high - low), 0.1 * values.square().mean().sqrt()))
    return torch.stack(scales).clamp_min(torch.finfo(torch.float32).tiny).view(-1, 1, 1, 1, 1)


def noise_ratio(field: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Logarithm of the fine-grained part of a field over its spread, ``(batch,)``.

    Median absolute second difference along the array axes, over voxels whose neighbours lie in the
    mask, scaled to the standard deviation that white noise would have. Structure adds to it, so that
    it bounds the noise from above. It does not depend on the unit of the field.
    """
    ratios = []
    inside_all = mask > 0
    for one, inside in zip(field[:, 0], inside_all[:, 0], strict=True):
        spread = field_scale(one[None, None], inside[None, None]).flatten()[0]
        sizes = []
        for axis in range(3):
            n = one.shape[axis]
            if n < 3:
                continue
            middle, left, right = one.narrow(axis, 1, n - 2), one.narrow(axis, 0, n - 2), one.narrow(axis, 2, n - 2)
            held = inside.narrow(axis, 1, n - 2) & inside.narrow(axis, 0, n - 2) & inside.narrow(axis, 2, n - 2)
            values = (2 * middle - left - right)[held].abs()
            if values.numel():
                sizes.append(values[:: max(1, values.numel() // 200_000)].median() * (1.4826 / math.sqrt(6.0)))
        ratio = torch.stack(sizes).min() / spread if sizes else torch.ones((), device=field.device)
        ratios.append(ratio.clamp(1e-3, 10.0).log())
    return torch.stack(ratios)
