"""Closed-form inversion with a quadratic gradient penalty."""

from __future__ import annotations

import math

import numpy as np
import torch
from scipy.optimize import minimize_scalar

from qsmprep.core.grid import Grid
from qsmprep.core.inversion.problem import FULL_PAD, Spectral, Volume, prepare
from qsmprep.core.parameters import L2Params
from qsmprep.core.results import Susceptibility

LIKELY_TO_BEST = 3.0
"""Weight over the likeliest one; measured on four heads (see `L2Params`)."""

LIMITS = (1e-6, 1e4)
"""Of the weight that is chosen from the data, in mm^2."""

SAMPLES = 300_000
"""Points of k-space, about, that the weight is chosen from."""


def l2(
    field_ppm: Volume,
    mask: Volume,
    grid: Grid,
    params: L2Params | None = None,
    *,
    weights: Volume | None = None,
    magnitude: Volume | None = None,
    rad_per_ppm: float | None = None,
    device: str = "cpu",
) -> Susceptibility:
    r"""Susceptibility with a quadratic penalty on its gradient, in closed form.

    Minimises :math:`\|D\chi - f\|^2 + \beta \|\nabla\chi\|^2`, with the gradient per mm, so that
    :math:`\beta` (mm\ :sup:`2`) means the same at any voxel size. With :math:`\beta = 0` it is chosen from the
    data: the penalty is a normal prior of the gradient and :math:`\beta` the ratio of the noise's
    variance to the prior's, so that the spectrum of the field has a likeliest one (type-II maximum
    likelihood); a fixed factor follows.

    Parameters
    ----------
    field_ppm : (nx, ny, nz) array
        Local field in ppm of B0; ignored outside ``mask``.
    mask : (nx, ny, nz) bool array
        Where the field is valid.
    grid : Grid
        Voxel size and B0 direction along the array axes.
    params : L2Params, optional
        Weight :math:`\beta` (0 to choose it from the data).
    weights, magnitude, rad_per_ppm : optional
        Checked, but of no use to this method.
    device : str
        Torch device.

    Returns
    -------
    Susceptibility
        In ppm, zero outside the mask; ``info["weight"]`` is :math:`\beta`.

    Raises
    ------
    DataError, UsageError
        See :func:`qsmprep.core.inversion.problem.prepare`.

    References
    ----------
    .. [1] Bilgic et al., J. Magn. Reson. Imaging 40:181 (2014), doi:10.1002/jmri.24365
    """
    params = params or L2Params()
    problem = prepare(
        field_ppm, mask, grid, weights=weights, magnitude=magnitude, rad_per_ppm=rad_per_ppm, device=device
    )
    space = Spectral(problem.grid, FULL_PAD, problem.device)
    spectrum = space.fft(problem.field_ppm)
    weight = params.weight or LIKELY_TO_BEST * likeliest_weight(space, spectrum)
    penalty = space.dipole**2 + weight * space.laplacian()
    penalty[0, 0, 0] = 1.0
    penalty.clamp_(min=1e-12)
    chi = space.ifft(spectrum * (space.dipole / penalty))
    return Susceptibility(problem.paste(chi), info={"weight": weight})


def likeliest_weight(space: Spectral, spectrum: torch.Tensor) -> float:
    """Ratio of the variances of noise (ppm^2) and gradient (ppm^2/mm^2) under which a field's spectrum is likeliest.

    The power at every point of k-space has the expectation ``gradient * D^2 / k^2 + noise``.

    Parameters
    ----------
    space : Spectral
        Padded grid.
    spectrum : torch.Tensor
        Of the field.

    Returns
    -------
    float
        In mm^2, within `LIMITS`.
    """
    chosen, twice = _thinned(space)
    power = spectrum[chosen].abs().square().to(torch.float64)
    prior = space.dipole[chosen].to(torch.float64) ** 2 / space.laplacian()[chosen].to(torch.float64)
    if not bool((power > 0).any()):
        return 1.0

    def unlikely(log_weight: float) -> float:
        expected = prior + math.exp(log_weight)
        scale = float((twice * power / expected).sum() / twice.sum())
        return math.log(scale) + float((twice * expected.log()).sum() / twice.sum())

    low, high = (math.log(limit) for limit in LIMITS)
    return math.exp(minimize_scalar(unlikely, bounds=(low, high), method="bounded", options={"xatol": 1e-3}).x)


def _thinned(space: Spectral) -> tuple[torch.Tensor, torch.Tensor]:
    """Points of the half spectrum in even distances, without the centre, and how often each one counts."""
    step = max(1, round((math.prod(space.shape) / SAMPLES) ** (1.0 / 3.0)))
    chosen = torch.ones(space.dipole.shape, dtype=torch.bool)
    for axis, n in enumerate(space.shape):
        cycles = np.fft.rfftfreq(n, 1.0 / n) if axis == 2 else np.fft.fftfreq(n, 1.0 / n)
        view = [1, 1, 1]
        view[axis] = -1
        chosen &= torch.from_numpy(np.abs(np.rint(cycles)) % step == 0).view(view)
    chosen[0, 0, 0] = False
    twice = torch.full(chosen.shape, 2.0, dtype=torch.float64)
    twice[..., 0] = 1.0
    if space.shape[2] % 2 == 0:
        twice[..., -1] = 1.0
    return chosen.to(space.device), twice[chosen].to(space.device)
