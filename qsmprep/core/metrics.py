"""How far a susceptibility map is from a reference: the measures of the two QSM challenges and XSIM.

All take maps in ppm and a bool mask of the same shape; percentages are of the reference's norm.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from qsmprep.errors import DataError

Volume = NDArray[Any]
Real = NDArray[np.float64]

HFEN_SIZE, HFEN_SIGMA = 15, 1.5
XSIM_SIZE, XSIM_SIGMA = 7, 1.5
SSIM_SIZE, SSIM_SIGMA = 5, 1.5
GREY_LEVELS = 255.0


def _checked(chi_ppm: Volume, truth_ppm: Volume, mask: Volume) -> tuple[Real, Real, NDArray[np.bool_]]:
    """Both maps as float64, zero outside the mask, and the mask as bool."""
    inside = np.asarray(mask) != 0
    for name, volume in (("chi_ppm", chi_ppm), ("truth_ppm", truth_ppm)):
        if np.shape(volume) != inside.shape:
            raise DataError(f"`{name}` has shape {np.shape(volume)}", expected=f"the mask's shape {inside.shape}")
        if not np.all(np.isfinite(np.asarray(volume)[inside])):
            raise DataError(f"`{name}` is not finite in the mask", expected="finite values wherever the mask is set")
    if not inside.any():
        raise DataError("`mask` is empty", expected="at least one voxel to compare")
    chi, truth = (np.where(inside, v, 0.0).astype(np.float64) for v in (chi_ppm, truth_ppm))
    return chi, truth, inside


def _percent(difference: Real, reference: Real) -> float:
    """Norm of the difference in percent of the norm of the reference (nan when that is zero)."""
    size = float(np.linalg.norm(reference))
    return 100.0 * float(np.linalg.norm(difference)) / size if size > 0 else float("nan")


def rmse(chi_ppm: Volume, truth_ppm: Volume, mask: Volume) -> float:
    """Root mean square error in percent, without demeaning (2016 challenge [1]_).

    References
    ----------
    .. [1] Langkammer et al., Magn. Reson. Med. 79:1661 (2018), doi:10.1002/mrm.26830
    """
    chi, truth, _ = _checked(chi_ppm, truth_ppm, mask)
    return _percent(chi - truth, truth)


def nrmse(chi_ppm: Volume, truth_ppm: Volume, mask: Volume) -> float:
    """Root mean square error in percent, both maps demeaned in the mask (challenge 2.0 [1]_).

    References
    ----------
    .. [1] QSM Challenge 2.0 Organization Committee, Magn. Reson. Med. 86:1241 (2021), doi:10.1002/mrm.28754
    """
    chi, truth, inside = _checked(chi_ppm, truth_ppm, mask)
    x, t = chi[inside], truth[inside]
    return _percent((x - x.mean()) - (t - t.mean()), t - t.mean())


def linear_fit(chi_ppm: Volume, truth_ppm: Volume, mask: Volume) -> tuple[float, float]:
    """Slope (dimensionless) and intercept (ppm) of the map over the reference, by least squares.

    Both are nan where the reference is constant.
    """
    chi, truth, inside = _checked(chi_ppm, truth_ppm, mask)
    x, t = chi[inside], truth[inside]
    spread = float(np.sum((t - t.mean()) ** 2))
    if spread == 0:
        return float("nan"), float("nan")
    slope = float(np.sum((t - t.mean()) * (x - x.mean()))) / spread
    return slope, float(x.mean()) - slope * float(t.mean())


def detrended_nrmse(chi_ppm: Volume, truth_ppm: Volume, mask: Volume) -> float:
    r"""NRMSE in percent after the linear fit over the reference has been taken out (challenge 2.0).

    The map becomes (map - intercept) / slope first. Equal to :math:`100\sqrt{1/r^2 - 1}` with the
    Pearson correlation :math:`r`; infinite where the slope is zero.
    """
    chi, truth, inside = _checked(chi_ppm, truth_ppm, mask)
    slope, intercept = linear_fit(chi, truth, inside)
    if not np.isfinite(slope):
        return float("nan")
    if slope == 0:
        return float("inf")
    t = truth[inside]
    return _percent((chi[inside] - intercept) / slope - t, t - t.mean())


def correlation(chi_ppm: Volume, truth_ppm: Volume, mask: Volume) -> float:
    """Pearson correlation in the mask (nan when one of the maps is constant)."""
    chi, truth, inside = _checked(chi_ppm, truth_ppm, mask)
    x, t = chi[inside] - chi[inside].mean(), truth[inside] - truth[inside].mean()
    size = float(np.linalg.norm(x) * np.linalg.norm(t))
    return float(np.dot(x, t)) / size if size > 0 else float("nan")


def _offsets2(size: int) -> Real:
    """Squared distance from the centre of a cube, in voxels."""
    line = np.arange(size, dtype=np.float64) - (size - 1) / 2.0
    return line[:, None, None] ** 2 + line[None, :, None] ** 2 + line[None, None, :] ** 2


def laplacian_of_gaussian(size: int = HFEN_SIZE, sigma: float = HFEN_SIGMA) -> Real:
    """Laplacian of a Gaussian on a cube of voxels, with zero sum."""
    r2 = _offsets2(size)
    gauss = np.exp(-r2 / (2.0 * sigma**2))
    gauss /= gauss.sum()
    kernel: Real = (r2 / sigma**4 - 3.0 / sigma**2) * gauss
    return kernel - kernel.mean()


def hfen(chi_ppm: Volume, truth_ppm: Volume, mask: Volume) -> float:
    """High-frequency error norm in percent (2016 challenge).

    RMSE of the masked maps filtered with the Laplacian of a Gaussian of 1.5 voxels on 15 voxels, zero
    beyond the volume, over the whole volume.
    """
    chi, truth, _ = _checked(chi_ppm, truth_ppm, mask)
    return _percent(_log_filter(chi - truth), _log_filter(truth))


def _log_filter(volume: Real) -> Real:
    """Convolution with :func:`laplacian_of_gaussian`, written as separable parts (it is even)."""
    line = np.arange(HFEN_SIZE, dtype=np.float64) - (HFEN_SIZE - 1) / 2.0
    gauss = np.exp(-(line**2) / (2.0 * HFEN_SIGMA**2))
    gauss /= gauss.sum()
    second = (line**2 / HFEN_SIGMA**4 - 1.0 / HFEN_SIGMA**2) * gauss
    mean = 3.0 * float(second.sum()) / HFEN_SIZE**3
    total = np.zeros_like(volume)
    for axis in range(3):
        part = volume
        for other in range(3):
            part = _line_filter(part, second if other == axis else gauss, other)
        total += part
    box = volume
    for axis in range(3):
        box = _line_filter(box, np.ones(HFEN_SIZE), axis)
    return total - mean * box


def _line_filter(volume: Real, line: Real, axis: int) -> Real:
    """Convolution along an axis, zero beyond the volume."""
    return np.asarray(ndimage.convolve1d(volume, line, axis=axis, mode="constant"), dtype=np.float64)


def _gauss_filter(volume: Real, size: int, sigma: float) -> Real:
    """Gaussian window of unit sum on a cube of voxels, zero beyond the volume."""
    line = np.arange(size, dtype=np.float64) - (size - 1) / 2.0
    gauss = np.exp(-(line**2) / (2.0 * sigma**2))
    gauss /= gauss.sum()
    for axis in range(3):
        volume = _line_filter(volume, gauss, axis)
    return volume


def _similarity(x: Real, t: Real, size: int, sigma: float, c1: float, c2: float) -> Real:
    """Map of the structural similarity index."""
    mean_x, mean_t = _gauss_filter(x, size, sigma), _gauss_filter(t, size, sigma)
    var_x = _gauss_filter(x * x, size, sigma) - mean_x**2
    var_t = _gauss_filter(t * t, size, sigma) - mean_t**2
    covariance = _gauss_filter(x * t, size, sigma) - mean_x * mean_t
    upper = (2.0 * mean_x * mean_t + c1) * (2.0 * covariance + c2)
    lower = (mean_x**2 + mean_t**2 + c1) * (var_x + var_t + c2)
    result: Real = upper / lower
    return result


def xsim(chi_ppm: Volume, truth_ppm: Volume, mask: Volume) -> float:
    """Structural similarity tuned to susceptibility maps: native ppm, K = (0.01, 0.001), L = 1, 7 voxels.

    References
    ----------
    .. [1] Milovic et al., Magn. Reson. Med. (2025), doi:10.1002/mrm.30271
    """
    chi, truth, inside = _checked(chi_ppm, truth_ppm, mask)
    return float(_similarity(chi, truth, XSIM_SIZE, XSIM_SIGMA, 0.01**2, 0.001**2)[inside].mean())


def _grey(chi: Real, truth: Real) -> tuple[Real, Real]:
    """Both maps on the common scale of the 2016 challenge: 0 outside, up to 255 inside."""
    low = min(float(chi.min()), float(truth.min()))
    shifted = [np.where(v != 0, v - low, 0.0) for v in (chi, truth)]
    high = max(float(v.max()) for v in shifted)
    scale = GREY_LEVELS / high if high > 0 else 1.0
    return shifted[0] * scale, shifted[1] * scale


def ssim(chi_ppm: Volume, truth_ppm: Volume, mask: Volume) -> float:
    """Structural similarity as in the 2016 challenge.

    The minimum over both maps is taken off their non-zero voxels, the common maximum brought to 255;
    window 5 voxels, sigma 1.5; mean over the voxels where the scaled map is not zero.
    """
    chi, truth, _ = _checked(chi_ppm, truth_ppm, mask)
    x, t = _grey(chi, truth)
    constants = (0.01 * GREY_LEVELS) ** 2, (0.03 * GREY_LEVELS) ** 2
    values = _similarity(x, t, SSIM_SIZE, SSIM_SIGMA, *constants)[x != 0]
    return float(values.mean()) if values.size else float("nan")


def psnr(chi_ppm: Volume, truth_ppm: Volume, mask: Volume) -> float:
    """Peak signal-to-noise ratio in dB on the scale of :func:`ssim`, over the whole volume with its zeros."""
    chi, truth, _ = _checked(chi_ppm, truth_ppm, mask)
    x, t = _grey(chi, truth)
    error = float(np.mean((x - t) ** 2))
    return float("inf") if error == 0 else 10.0 * float(np.log10(GREY_LEVELS**2 / error))


def slope_deviation(chi_ppm: Volume, truth_ppm: Volume, labels: Volume, values: tuple[int, ...]) -> float:
    """Distance from 1 of the slope of regional means over the reference's (deep grey matter, challenge 2.0).

    Parameters
    ----------
    chi_ppm, truth_ppm : (nx, ny, nz) array
        Maps in ppm.
    labels : (nx, ny, nz) array of int
        Segmentation.
    values : tuple of int
        The labels of the regions; those absent are left out.

    Raises
    ------
    DataError
        When fewer than two regions are there.
    """
    segments = np.asarray(labels)
    present = [v for v in values if np.any(segments == v)]
    if len(present) < 2:
        raise DataError(f"{len(present)} of the regions are in the segmentation", expected="two or more")
    chi, truth, _ = _checked(chi_ppm, truth_ppm, np.isin(segments, present))
    x = np.array([chi[segments == v].mean() for v in present])
    t = np.array([truth[segments == v].mean() for v in present])
    return abs(1.0 - linear_fit(x, t, np.ones(len(present), dtype=bool))[0])


def evaluate(chi_ppm: Volume, truth_ppm: Volume, mask: Volume) -> dict[str, float]:
    """All measures that need no segmentation.

    Parameters
    ----------
    chi_ppm, truth_ppm : (nx, ny, nz) array
        Map and reference in ppm; ignored outside ``mask``.
    mask : (nx, ny, nz) bool array
        Where to compare.

    Returns
    -------
    dict
        ``rmse``, ``nrmse``, ``dnrmse``, ``hfen`` in percent; ``ssim``, ``xsim``, ``cc`` and ``slope``
        dimensionless; ``psnr_db`` in dB.

    Raises
    ------
    DataError
        On different shapes, an empty mask or values that are not finite in it.
    """
    chi, truth, inside = _checked(chi_ppm, truth_ppm, mask)
    return {
        "rmse": rmse(chi, truth, inside),
        "nrmse": nrmse(chi, truth, inside),
        "dnrmse": detrended_nrmse(chi, truth, inside),
        "hfen": hfen(chi, truth, inside),
        "ssim": ssim(chi, truth, inside),
        "xsim": xsim(chi, truth, inside),
        "psnr_db": psnr(chi, truth, inside),
        "cc": correlation(chi, truth, inside),
        "slope": linear_fit(chi, truth, inside)[0],
    }


CALCIFICATION_MARGINS = (3, 4, 4)
"""Voxels by which the boxes around a calcification grow: the lesion's, the rim's, the surroundings'."""


def calcification(chi_ppm: Volume, truth_ppm: Volume, lesion: Volume) -> tuple[float, float]:
    """Error of the magnetic moment of a calcification, and the streaks around it (challenge 2.0).

    A box of 3 voxels around the lesion holds it; the shell of 4 voxels around that is the rim, of
    4 more the surroundings. The threshold falls from zero in steps of 0.01 ppm until no voxel outside
    the first box is below it; what is below it inside is the lesion as the map shows it.

    Parameters
    ----------
    chi_ppm, truth_ppm : (nx, ny, nz) array
        Map and reference in ppm.
    lesion : (nx, ny, nz) bool array
        The calcification in the reference.

    Returns
    -------
    moment_deviation : float
        Distance of the sums of susceptibility over the lesion, in ppm times voxels.
    streak_level : float
        Standard deviation in the rim of what a linear fit over the reference leaves, over the
        magnitude of the lesion's mean; nan when the map shows no lesion.

    Raises
    ------
    DataError
        On different shapes, an empty lesion or values that are not finite around it.
    """
    inside = np.asarray(lesion) != 0
    if not inside.any():
        raise DataError("the calcification is empty", expected="at least one voxel")
    boxes = [_grown_box(inside, int(margin)) for margin in np.cumsum(CALCIFICATION_MARGINS)]
    chi, truth, _ = _checked(chi_ppm, truth_ppm, boxes[2])
    moment = float(truth[inside].sum())
    lowest = float(chi[boxes[2] & ~boxes[0]].min(initial=0.0))
    threshold = -0.01 * float(np.ceil(max(-lowest, 0.0) / 0.01 - 1e-9))
    shown = chi[boxes[0] & (chi < threshold)]
    if shown.size == 0:
        return abs(moment), float("nan")
    rim = boxes[1] & ~boxes[0]
    if np.count_nonzero(rim) < 2:
        return abs(moment - float(shown.sum())), float("nan")
    slope, intercept = linear_fit(chi, truth, rim)
    if not np.isfinite(slope):
        slope, intercept = 0.0, 0.0
    left = chi[rim] - (slope * truth[rim] + intercept)
    return abs(moment - float(shown.sum())), float(left.std()) / abs(float(shown.mean()))


def _grown_box(inside: NDArray[np.bool_], margin: int) -> NDArray[np.bool_]:
    """Bounding box of a mask, grown by a margin in voxels, as a mask."""
    box = np.zeros(inside.shape, dtype=bool)
    slices = []
    for axis, n in enumerate(inside.shape):
        found = np.flatnonzero(inside.any(axis=tuple(a for a in range(3) if a != axis)))
        slices.append(slice(max(int(found[0]) - margin, 0), min(int(found[-1]) + margin + 1, n)))
    box[tuple(slices)] = True
    return box
