"""Total-variation regularised inversion by ADMM, with data weights."""

from __future__ import annotations

from qsmprep.core.grid import Grid
from qsmprep.core.inversion.fansi import total_variation
from qsmprep.core.inversion.phaseterm import FieldTerm
from qsmprep.core.inversion.problem import ITERATIVE_PAD, Spectral, Volume, prepare
from qsmprep.core.parameters import TvParams
from qsmprep.core.results import Susceptibility


def tv(
    field_ppm: Volume,
    mask: Volume,
    grid: Grid,
    params: TvParams | None = None,
    *,
    weights: Volume | None = None,
    magnitude: Volume | None = None,
    rad_per_ppm: float | None = None,
    device: str = "cpu",
) -> Susceptibility:
    r"""Susceptibility with a total-variation penalty.

    Minimises :math:`\frac{1}{2}\|W(D\chi - f)\|^2 + \lambda\|P\nabla\chi\|_1` with the gradient per mm,
    where the weights :math:`W` are zero outside the mask: the field there is not taken to be zero, it
    is unknown, and sources outside the mask may explain what background removal left.
    Both the gradient and the field are split off, and over-relaxed: every step is of closed form, in k-space or in
    every voxel.

    :math:`P` is 1 where the map is flat and falls to ``params.edge_weight`` where it is steepest
    (:func:`qsmprep.core.inversion.edges.flatness`): it follows the map a few times while that is found [4]_. Veins,
    nuclei and lesions, which the penalty would otherwise make weaker, keep their strength.

    Parameters
    ----------
    field_ppm : (nx, ny, nz) array
        Local field in ppm of B0; ignored outside ``mask``.
    mask : (nx, ny, nz) bool array
        Where the field is valid.
    grid : Grid
        Voxel size and B0 direction along the array axes.
    params : TvParams, optional
        Weight :math:`\lambda` (ppm mm; 0 to follow the residual), what edges keep, penalties of splits, when to stop.
    weights : (nx, ny, nz) array, optional
        Relative reliability of the field, from 0 to 1.
    magnitude, rad_per_ppm : optional
        Checked, but of no use to this method.
    device : str
        Torch device.

    Returns
    -------
    Susceptibility
        In ppm, zero outside the mask. ``info`` holds the weighted root mean square residual
        ``residual_ppm``, the ``weight`` in ppm mm, and the relative change of the last iteration.

    Raises
    ------
    DataError, UsageError
        See :func:`qsmprep.core.inversion.problem.prepare`.

    References
    ----------
    .. [1] Bilgic et al., Magn. Reson. Med. 72:1444 (2014), doi:10.1002/mrm.25029
    .. [2] Milovic et al., Magn. Reson. Med. 80:814 (2018), doi:10.1002/mrm.27073
    .. [3] Boyd et al., Found. Trends Mach. Learn. 3:1 (2011), section 3.4.3 (over-relaxation),
       doi:10.1561/2200000016
    .. [4] Candès et al., J. Fourier Anal. Appl. 14:877 (2008), doi:10.1007/s00041-008-9045-x
    """
    params = params or TvParams()
    problem = prepare(
        field_ppm, mask, grid, weights=weights, magnitude=magnitude, rad_per_ppm=rad_per_ppm, device=device
    )
    space = Spectral(problem.grid, ITERATIVE_PAD, problem.device)
    return total_variation(problem, space, params, FieldTerm(problem.field_ppm, problem.weights, params.fidelity))
