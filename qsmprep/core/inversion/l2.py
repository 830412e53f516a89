"""Closed-form inversion with a quadratic gradient penalty."""

from __future__ import annotations

from qsmprep.core.grid import Grid
from qsmprep.core.inversion.problem import FULL_PAD, Spectral, Volume, prepare
from qsmprep.core.parameters import L2Params
from qsmprep.core.results import Susceptibility


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
    :math:`\beta` (mm\ :sup:`2`) means the same at any voxel size.

    Parameters
    ----------
    field_ppm : (nx, ny, nz) array
        Local field in ppm of B0; ignored outside ``mask``.
    mask : (nx, ny, nz) bool array
        Where the field is valid.
    grid : Grid
        Voxel size and B0 direction along the array axes.
    params : L2Params, optional
        Weight :math:`\beta`.
    weights, magnitude, rad_per_ppm : optional
        Checked, but of no use to this method.
    device : str
        Torch device.

    Returns
    -------
    Susceptibility
        In ppm, zero outside the mask.

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
    penalty = space.dipole**2 + params.weight * space.laplacian()
    penalty[0, 0, 0] = 1.0
    penalty.clamp_(min=1e-12)
    chi = space.ifft(space.fft(problem.field_ppm) * (space.dipole / penalty))
    return Susceptibility(problem.paste(chi))
