"""The figures of volumes. Every function draws arrays into one PNG at ``out_file`` and returns its path.

Arrays come in native orientation with their NIfTI affine; they are shown in the closest canonical
axes (left on the left, superior up), true to scale, with the sides and the direction of B0 marked.
Everything outside the mask is black, except for the magnitude.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qsmprep.core.units import hz_per_ppm
from qsmprep.errors import DataError
from qsmprep.reports.canvas import ORANGE, TEAL, Strip, save_strips
from qsmprep.reports.view import View

DIVERGING = "RdBu_r"
CYCLIC = "twilight"
SEQUENTIAL = "magma"
CHI_WINDOW_PPM = 0.1
R2STAR_WINDOW_HZ = 50.0
RESIDUAL_WINDOW = 0.3
"""Relative residual above which the consensus' example code leaves a voxel out."""

_PI_TICKS = {-math.pi: "−π", 0.0: "0", math.pi: "π"}


def field_windows_hz(b0_t: float) -> tuple[float, float]:
    """Fixed half windows in Hz for the total and the local field at ``b0_t`` tesla: 0.5 and 0.05 ppm of B0."""
    return 0.5 * hz_per_ppm(b0_t), 0.05 * hz_per_ppm(b0_t)


def plot_magnitude(
    magnitude: ArrayLike, affine: ArrayLike, brain_mask: ArrayLike, qsm_mask: ArrayLike | None, out_file: str | Path
) -> Path:
    """Magnitude with the outlines of the brain mask and of the mask in which chi is defined.

    Parameters
    ----------
    magnitude : (nx, ny, nz) array
        Arbitrary units; shown from 0 to 1.1 times the 99th percentile inside the brain.
    affine : (4, 4) array_like
        NIfTI affine, mm.
    brain_mask, qsm_mask : (nx, ny, nz) bool array
        ``qsm_mask`` may be None.
    out_file : str or Path
        PNG to write.

    Raises
    ------
    DataError
        Shapes that differ, an empty mask, no finite voxel inside.
    CannotWriteError
        When the file cannot be written.
    """
    view, mask, (image,) = _prepare(affine, brain_mask, {"magnitude": magnitude}, cover=False)
    contours = [(mask, TEAL, "brain mask")]
    if qsm_mask is not None:
        inner = _checked("qsm_mask", qsm_mask, np.shape(brain_mask)).astype(bool)
        contours.append((view.canonical(inner), ORANGE, "QSM mask"))
    top = 1.1 * float(np.nanpercentile(image[mask], 99)) or 1.0
    rows = {
        "Magnitude, lower half": _slices(view, mask, axial=(7, 0.06, 0.48)),
        "Magnitude, upper half": _slices(view, mask, axial=(7, 0.54, 0.94)),
        "Magnitude, coronal": _slices(view, mask, coronal=(7, 0.1, 0.9)),
        "Magnitude, sagittal": _slices(view, mask, sagittal=(6, 0.12, 0.88)),
    }
    strips = []
    for number, (title, row) in enumerate(rows.items()):
        outlines = tuple((region, colour, "" if number else name) for region, colour, name in contours)
        strips.append(Strip(title, image, row, (0.0, top), "a.u.", contours=outlines))
    return save_strips(view, view.box(mask, 12.0), strips, out_file)


def plot_phase(
    wrapped_first: ArrayLike,
    wrapped_last: ArrayLike | None,
    unwrapped_first: ArrayLike,
    unwrapped_last: ArrayLike | None,
    affine: ArrayLike,
    mask: ArrayLike,
    te_s: Sequence[float],
    out_file: str | Path,
) -> Path:
    """Wrapped and unwrapped phase of the first and the last echo.

    Parameters
    ----------
    wrapped_first, wrapped_last, unwrapped_first, unwrapped_last : (nx, ny, nz) array
        Phase in radians. Those of the last echo may be None. Wrapped phase is shown with a cyclic
        colour map between -pi and pi, unwrapped phase within a symmetric window that is stated.
    affine : (4, 4) array_like
        NIfTI affine, mm.
    mask : (nx, ny, nz) bool array
    te_s : sequence of float
        Echo times in seconds; the first and the last are named.
    out_file : str or Path
        PNG to write.

    Raises
    ------
    DataError, CannotWriteError
        As for :func:`plot_magnitude`; also when ``te_s`` is empty.
    """
    if len(te_s) == 0:
        raise DataError("no echo time is given", expected="one echo time in seconds for every echo")
    given = {"wrapped_first": wrapped_first, "unwrapped_first": unwrapped_first}
    if wrapped_last is not None and unwrapped_last is not None:
        given |= {"wrapped_last": wrapped_last, "unwrapped_last": unwrapped_last}
    view, inside, volumes = _prepare(affine, mask, given)
    images = dict(zip(given, volumes, strict=True))
    row = _slices(view, inside, axial=(4, 0.2, 0.8), coronal=(1, 0.5, 0.5), sagittal=(1, 0.44, 0.44))
    strips = []
    for kind in ("wrapped", "unwrapped"):
        for which, te in (("first", te_s[0]), ("last", te_s[-1])):
            image = images.get(f"{kind}_{which}")
            if image is None:
                continue
            name = f"{kind.capitalize()} phase, {which} echo, TE {te * 1e3:.2f} ms"
            if kind == "wrapped":
                strip = Strip(name, image, row, (-math.pi, math.pi), "rad", CYCLIC, smooth=False, ticks=_PI_TICKS)
            else:
                half = _round_window(image - np.nanmedian(image), step=math.pi)
                image = image - np.nanmedian(image)
                limit = f"{half / math.pi:g}π".replace("1π", "π") if half < 1.5 * math.pi else f"{half / math.pi:g}π"
                name += f", median removed, window ±{limit}"
                ticks = {-half: f"−{limit}", 0.0: "0", half: limit}
                strip = Strip(name, image, row, (-half, half), "rad", DIVERGING, ticks=ticks)
            strips.append(strip)
    return save_strips(view, view.box(inside), strips, out_file)


def plot_fieldmap(
    total_hz: ArrayLike,
    local_hz: ArrayLike | None,
    affine: ArrayLike,
    masks: tuple[ArrayLike, ArrayLike | None],
    out_file: str | Path,
    *,
    left_hz: ArrayLike | None = None,
    window_hz: tuple[float, float] | None = None,
) -> Path:
    """Total and local field in Hz, each within a symmetric window that is stated, and what the local one holds still.

    Parameters
    ----------
    total_hz, local_hz : (nx, ny, nz) array
        Field offset in Hz; ``local_hz`` may be None.
    affine : (4, 4) array_like
        NIfTI affine, mm.
    masks : (brain mask, QSM mask)
        Bool arrays; the second is that of the local field (None: the first).
    out_file : str or Path
        PNG to write.
    left_hz : (nx, ny, nz) array, optional
        The part of the local field that sources outside were found to have left, in Hz; shown in a fifth of the
        local window.
    window_hz : (float, float), optional
        Half windows of the total and the local field, for example :func:`field_windows_hz`, so that
        subjects can be compared; chosen from the data when left out.

    Raises
    ------
    DataError, CannotWriteError
        As for :func:`plot_magnitude`.
    """
    view, inside, (total,) = _prepare(affine, masks[0], {"total_hz": total_hz})
    fields = [("Total field", total, inside, None if window_hz is None else window_hz[0])]
    if local_hz is not None:
        _, inner, (local,) = _prepare(affine, masks[0] if masks[1] is None else masks[1], {"local_hz": local_hz})
        if inner.shape != inside.shape:
            raise DataError(f"the masks have shapes {inside.shape} and {inner.shape}", expected="one shape")
        fields.append(("Local field", local, inner, None if window_hz is None else window_hz[1]))
    row_a = _slices(view, inside, axial=(7, 0.15, 0.85))
    row_b = _slices(view, inside, coronal=(4, 0.2, 0.8), sagittal=(3, 0.25, 0.75))
    strips = []
    for name, image, region, window in fields:
        half = window or _round_window(image)
        beyond = float(np.mean(np.abs(image[region & np.isfinite(image)]) > half))
        title = f"{name}, window ±{half:.3g} Hz, {100 * beyond:.1f} % of voxels beyond it"
        strips += [
            Strip(title, image, row_a, (-half, half), "Hz", DIVERGING),
            Strip(f"{name}, coronal and sagittal", image, row_b, (-half, half), "Hz", DIVERGING),
        ]
    if left_hz is not None and local_hz is not None:
        _, _, (left,) = _prepare(affine, inner, {"left_hz": left_hz})
        title = f"Part of the local field that was found to be left of the background, window ±{half / 5:.3g} Hz"
        strips.append(Strip(title, left, row_a, (-half / 5, half / 5), "Hz", DIVERGING))
    return save_strips(view, view.box(inside), strips, out_file)


def plot_residual(
    noise_hz: ArrayLike, residual: ArrayLike | None, affine: ArrayLike, mask: ArrayLike, out_file: str | Path
) -> Path:
    """Noise of the field map (Hz) and relative residual of the fit over the echoes (dimensionless).

    Parameters
    ----------
    noise_hz, residual : (nx, ny, nz) array
        The noise is shown up to its 98th percentile rounded up, the residual up to 0.3. ``residual`` is
        None where one or two echoes leave none.
    affine : (4, 4) array_like
        NIfTI affine, mm.
    mask : (nx, ny, nz) bool array
    out_file : str or Path
        PNG to write.

    Raises
    ------
    DataError, CannotWriteError
        As for :func:`plot_magnitude`.
    """
    view, inside, (noise,) = _prepare(affine, mask, {"noise_hz": noise_hz})
    row = _slices(view, inside, axial=(5, 0.12, 0.88), coronal=(1, 0.5, 0.5), sagittal=(1, 0.44, 0.44))
    top = _round_window(noise)
    title = f"Noise of the field (standard deviation), 0 to {top:g} Hz"
    strips = [Strip(title, noise, row, (0.0, top), "Hz", SEQUENTIAL)]
    if residual is not None:
        _, _, (misfit,) = _prepare(affine, mask, {"residual": residual})
        above = float(np.mean(misfit[inside & np.isfinite(misfit)] > RESIDUAL_WINDOW))
        title = f"Relative residual of the fit, {100 * above:.1f} % of voxels above {RESIDUAL_WINDOW:g}"
        strips.append(Strip(title, misfit, row, (0.0, RESIDUAL_WINDOW), "", SEQUENTIAL))
    return save_strips(view, view.box(inside), strips, out_file)


def plot_chi(
    chi_ppm: ArrayLike,
    affine: ArrayLike,
    mask: ArrayLike,
    out_file: str | Path,
    name: str,
    window_ppm: float = CHI_WINDOW_PPM,
) -> Path:
    """A susceptibility map: three planes and an axial mosaic, grey, in the same window for everyone.

    Parameters
    ----------
    chi_ppm : (nx, ny, nz) array
        Susceptibility in ppm; paramagnetic is bright.
    affine : (4, 4) array_like
        NIfTI affine, mm.
    mask : (nx, ny, nz) bool array
        Where chi is defined.
    out_file : str or Path
        PNG to write.
    name : str
        Name of the inversion.
    window_ppm : float
        Half window.

    Raises
    ------
    DataError, CannotWriteError
        As for :func:`plot_magnitude`.
    """
    view, inside, (chi,) = _prepare(affine, mask, {"chi_ppm": chi_ppm})
    window = (-window_ppm, window_ppm)
    planes = _slices(view, inside, axial=(1, 0.5, 0.5), coronal=(1, 0.5, 0.5), sagittal=(1, 0.44, 0.44))
    title = f"Susceptibility, {name}, window ±{window_ppm:g} ppm"
    strips = [
        Strip(title, chi, planes, window, "ppm"),
        Strip("Axial, lower half", chi, _slices(view, inside, axial=(7, 0.1, 0.5)), window, "ppm"),
        Strip("Axial, upper half", chi, _slices(view, inside, axial=(7, 0.55, 0.92)), window, "ppm"),
    ]
    return save_strips(view, view.box(inside), strips, out_file)


def plot_r2star(r2star_hz: ArrayLike, affine: ArrayLike, mask: ArrayLike, out_file: str | Path) -> Path:
    """R2* in 1/s, from 0 to 50 for everyone.

    Parameters
    ----------
    r2star_hz : (nx, ny, nz) array
        Relaxation rate in 1/s.
    affine : (4, 4) array_like
        NIfTI affine, mm.
    mask : (nx, ny, nz) bool array
    out_file : str or Path
        PNG to write.

    Raises
    ------
    DataError, CannotWriteError
        As for :func:`plot_magnitude`.
    """
    view, inside, (rate,) = _prepare(affine, mask, {"r2star_hz": r2star_hz})
    window = (0.0, R2STAR_WINDOW_HZ)
    rows = {
        f"R2*, window 0 to {R2STAR_WINDOW_HZ:g} 1/s": _slices(view, inside, axial=(7, 0.15, 0.85)),
        "R2*, coronal and sagittal": _slices(view, inside, coronal=(4, 0.2, 0.8), sagittal=(3, 0.25, 0.75)),
    }
    strips = [Strip(title, rate, row, window, "1/s", SEQUENTIAL) for title, row in rows.items()]
    return save_strips(view, view.box(inside), strips, out_file)


def plot_difference(
    chi_a_ppm: ArrayLike,
    chi_b_ppm: ArrayLike,
    affine: ArrayLike,
    mask: ArrayLike,
    out_file: str | Path,
    names: tuple[str, str] = ("A", "B"),
    window_ppm: float = CHI_WINDOW_PPM / 2,
) -> Path:
    """Two susceptibility maps and their difference, in ppm.

    Parameters
    ----------
    chi_a_ppm, chi_b_ppm : (nx, ny, nz) array
        Susceptibility in ppm.
    affine : (4, 4) array_like
        NIfTI affine, mm.
    mask : (nx, ny, nz) bool array
    out_file : str or Path
        PNG to write.
    names : (str, str)
        Names of the inversions.
    window_ppm : float
        Half window of the difference.

    Raises
    ------
    DataError, CannotWriteError
        As for :func:`plot_magnitude`.
    """
    view, inside, (a, b) = _prepare(affine, mask, {"chi_a_ppm": chi_a_ppm, "chi_b_ppm": chi_b_ppm})
    row = _slices(view, inside, axial=(5, 0.2, 0.8), coronal=(1, 0.5, 0.5), sagittal=(1, 0.44, 0.44))
    rms = float(np.sqrt(np.nanmean((a - b) ** 2)))
    grey = (-CHI_WINDOW_PPM, CHI_WINDOW_PPM)
    title = f"{names[0]} − {names[1]}, window ±{window_ppm:g} ppm, root mean square {rms:.4f} ppm"
    strips = [
        Strip(f"{names[0]}, window ±{CHI_WINDOW_PPM:g} ppm", a, row, grey, "ppm"),
        Strip(f"{names[1]}, window ±{CHI_WINDOW_PPM:g} ppm", b, row, grey, "ppm"),
        Strip(title, a - b, row, (-window_ppm, window_ppm), "ppm", DIVERGING),
    ]
    return save_strips(view, view.box(inside), strips, out_file)


def _prepare(
    affine: ArrayLike, mask: ArrayLike, volumes: dict[str, ArrayLike], *, cover: bool = True
) -> tuple[View, NDArray[np.bool_], tuple[NDArray[np.float32], ...]]:
    """Check, reorient, and (with ``cover``) blank what lies outside the mask."""
    region = np.asarray(mask).astype(bool)
    view = View.from_affine(region.shape, affine)
    if not region.any():
        raise DataError(
            "the mask is empty, there is nothing to show",
            expected="at least one voxel inside",
            remedy="check the brain extraction, or give a mask",
        )
    inside = view.canonical(region)
    images = []
    for name, volume in volumes.items():
        image = view.canonical(_checked(name, volume, region.shape)).astype(np.float32)
        if not np.isfinite(image[inside]).any():
            raise DataError(f"`{name}` has no finite value inside the mask", expected="a finite volume")
        images.append(np.where(inside, image, np.float32(np.nan)) if cover else image)
    return view, inside, tuple(images)


def _checked(name: str, volume: ArrayLike, shape: tuple[int, ...]) -> NDArray:
    array = np.asarray(volume)
    if array.shape != shape:
        raise DataError(f"`{name}` has shape {array.shape}", expected=f"{shape}, the shape of the mask")
    return array


def _slices(view: View, mask: NDArray[np.bool_], **planes: tuple[int, float, float]) -> tuple[tuple[str, int], ...]:
    """``plane=(n, from, to)`` as slices; the two fractions are of the extent of the mask."""
    return tuple(
        (plane, index)
        for plane, (n, low, high) in planes.items()
        for index in view.indices(mask, plane, n, (low, high))
    )


def _round_window(values: NDArray, step: float | None = None) -> float:
    """The 98th percentile of the absolute values, up to the next multiple of ``step`` or 1, 2, 5 x 10^n."""
    spread = float(np.nanpercentile(np.abs(values), 98))
    if step is not None:
        return step * max(1, math.ceil(spread / step))
    if spread <= 0:
        return 1.0
    decade = 10.0 ** math.floor(math.log10(spread))
    return next((decade * m for m in (1, 2, 5) if spread <= decade * m), 10 * decade)
