"""Best-path phase unwrapping through scikit-image."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.restoration import unwrap_phase

from qsmprep.core.grid import Grid
from qsmprep.core.parameters import BestPathParams
from qsmprep.core.results import Unwrapped
from qsmprep.core.unwrap import common

FloatArray = NDArray[np.floating]


def unwrap(
    phase_rad: FloatArray,
    magnitude: FloatArray | None,
    mask: NDArray[np.bool_] | None,
    te_s: Sequence[float],
    grid: Grid,
    params: BestPathParams | None = None,
) -> Unwrapped:
    """Unwrap every echo in space along the path of best reliability (second differences).

    Magnitude and the other echoes play no part in the path; the multiple of 2 pi of every region and
    echo is chosen as in :func:`qsmprep.core.unwrap.romeo.unwrap`. In noise the path depends on the
    order of the voxels in the array.

    Parameters
    ----------
    phase_rad : (n_echo, nx, ny, nz) array
        Wrapped phase.
    magnitude : (n_echo, nx, ny, nz) array or None
        Checked only.
    mask : (nx, ny, nz) bool array or None
    te_s : sequence of float
        Echo times in s, increasing.
    grid : Grid
    params : BestPathParams, optional

    Returns
    -------
    Unwrapped
        Exact.

    Raises
    ------
    DataError
        As :func:`qsmprep.core.unwrap.romeo.unwrap`.

    References
    ----------
    Abdul-Rahman et al., Appl Opt 2007;46:6623-6635. doi:10.1364/AO.46.006623
    """
    phase, _, inside = common.check_inputs(phase_rad, magnitude, mask, te_s, grid)
    labels = common.relabel(ndimage.label(inside)[0], inside)
    wraps = np.stack([_in_space(echo, inside) for echo in phase])
    wraps[0] = common.align_regions(phase[0], wraps[0], labels, grid)
    first = common.unwrapped_volume(phase[0], wraps[0], inside)
    shift = common.global_wraps(first, 0, phase, labels == 1, te_s)
    wraps[0][inside] += shift
    full = phase.astype(np.float64) + common.TWO_PI * wraps
    wraps = (wraps + common.align_echoes(full, labels, 0, te_s)).astype(np.int32)
    info = {"regions": int(labels.max()), "template_echo": 1, "global_wraps": shift}
    return common.exact_result(phase, wraps, inside, info)


def _in_space(echo: common.Volume, mask: common.Mask) -> NDArray[np.int32]:
    """Wraps of one echo; axes of length one are dropped, which scikit-image cannot unwrap."""
    flat, keep = np.squeeze(echo).astype(np.float64), np.squeeze(mask)
    if flat.ndim == 0 or not keep.any():
        return np.zeros(echo.shape, np.int32)
    if flat.ndim == 1:
        wraps = _line(flat, keep)
    else:
        # the masked branch of scikit-image wants a true masked array, even if nothing is masked
        solved = unwrap_phase(np.ma.array(flat, mask=~keep), rng=0)
        wraps = np.rint((np.ma.getdata(solved) - flat) / common.TWO_PI)
    return np.where(keep, wraps, 0).astype(np.int32).reshape(echo.shape)


def _line(flat: NDArray[np.float64], keep: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Wraps along a single line of voxels, run by run."""
    wraps = np.zeros(flat.shape)
    for (run,) in ndimage.find_objects(ndimage.label(keep)[0]):
        wraps[run] = np.rint((np.unwrap(flat[run]) - flat[run]) / common.TWO_PI)
    return wraps
