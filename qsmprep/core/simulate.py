"""From susceptibility to multi-echo gradient-echo images: field, signal, acquisition, noise.

The images are computed on a grid finer than the one acquired and reduced to it in k-space, so that
a reconstruction never sees the discretisation it inverts.

Signal convention: ``S = M0 exp(-TE R2*) exp(i (offset + 2 pi gamma B0 TE field))``, so the phase of
a spin grows with time where the field is higher (paramagnetic susceptibility positive).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from qsmprep.core.dipole import forward_field, padded_shape, spatial_lines
from qsmprep.core.grid import Grid
from qsmprep.core.kspace import box_average, crop_kspace
from qsmprep.core.units import hz_per_ppm
from qsmprep.errors import DataError

AIR_PPM = 9.4
"""Susceptibility of air relative to water (0.36 against -9.05 ppm in absolute terms) in ppm."""

Volume = NDArray[np.float32]
ComplexVolume = NDArray[np.complex64]


@dataclass(frozen=True)
class Acquired:
    """Images of one acquisition, with what is true about them.

    Parameters
    ----------
    images : (n_echo, nx, ny, nz) complex64 array
        Signal of every echo, with noise.
    grid : Grid
        Grid of ``images``.
    field_ppm : (nx, ny, nz) float32 array
        Total field after shimming, relative to B0, averaged over each acquired voxel.
    noise_sd : float
        Standard deviation of the noise in the real and in the imaginary part, in the unit of M0.
    """

    images: ComplexVolume
    grid: Grid
    field_ppm: Volume
    noise_sd: float


def spoiled_signal(
    density: NDArray[np.floating], t1_s: NDArray[np.floating], *, tr_s: float, flip_deg: float
) -> Volume:
    """Steady-state signal of a spoiled gradient echo at echo time zero.

    Parameters
    ----------
    density : array
        Proton density in any unit.
    t1_s : array of the same shape
        Longitudinal relaxation time in s.
    tr_s, flip_deg : float
        Repetition time in s and flip angle in degrees.

    Returns
    -------
    float32 array
        M0 in the unit of ``density``.

    References
    ----------
    .. [1] Ernst and Anderson, Rev. Sci. Instrum. 37:93 (1966), doi:10.1063/1.1719961
    """
    _same_shape(density=density, t1_s=t1_s)
    if not (tr_s > 0 and np.all(np.asarray(t1_s) > 0)):
        raise DataError("a repetition time or T1 is not positive", expected="times in seconds")
    e1 = np.exp(-tr_s / np.asarray(t1_s, dtype=np.float64))
    flip = np.deg2rad(flip_deg)
    return np.asarray(density * np.sin(flip) * (1 - e1) / (1 - np.cos(flip) * e1), dtype=np.float32)


def head_field(
    chi_ppm: NDArray[np.floating], grid: Grid, *, outside_ppm: float = AIR_PPM, device: str = "cpu"
) -> Volume:
    """Field of a whole object that lies in a medium of constant susceptibility.

    Parameters
    ----------
    chi_ppm : (nx, ny, nz) array
        Susceptibility in ppm, relative to any constant.
    grid : Grid
        Its grid.
    outside_ppm : float
        Susceptibility, relative to the same constant, of all space beyond the grid.
    device : str
        Torch device.

    Returns
    -------
    (nx, ny, nz) float32 array
        Field offset in ppm of B0.
    """
    _check_volume("chi_ppm", chi_ppm, grid)
    return forward_field(np.asarray(chi_ppm, dtype=np.float32) - np.float32(outside_ppm), grid, device=device)


def local_field(
    chi_ppm: NDArray[np.floating], brain: NDArray[np.bool_], grid: Grid, *, device: str = "cpu"
) -> tuple[Volume, Volume]:
    """The true local field and the susceptibility that makes it.

    The sources of the local field are the voxels of ``brain``, with their susceptibility taken
    relative to its mean over ``brain``; everything else is set to zero. (Another constant would
    add the field of a homogeneous body of the brain's shape, which is harmonic inside it and
    therefore background.)

    Parameters
    ----------
    chi_ppm : (nx, ny, nz) array
        Susceptibility in ppm, relative to any constant.
    brain : (nx, ny, nz) bool array
        The brain.
    grid : Grid
        Grid of both.
    device : str
        Torch device.

    Returns
    -------
    field_ppm : (nx, ny, nz) float32 array
        Local field in ppm of B0, zero outside ``brain``.
    referenced_ppm : (nx, ny, nz) float32 array
        Susceptibility relative to the mean over ``brain``, zero outside it.
    """
    _check_volume("chi_ppm", chi_ppm, grid)
    _same_shape(chi_ppm=chi_ppm, brain=brain)
    if not np.any(brain):
        raise DataError("the brain mask is empty", expected="at least one voxel")
    referenced = np.where(brain, chi_ppm - np.mean(chi_ppm[brain], dtype=np.float64), 0.0).astype(np.float32)
    field = forward_field(referenced, grid, device=device)
    return np.where(brain, field, np.float32(0)), referenced


def anisotropic_field(
    anisotropy_ppm: NDArray[np.floating], fibres: NDArray[np.floating], grid: Grid, *, device: str = "cpu"
) -> Volume:
    r"""Field of fibres whose susceptibility along them is not that across them.

    The susceptibility tensor :math:`\Delta\chi\,(n n^T - I/3)` has no isotropic part, so that no map of
    susceptibility is right for this field: :math:`f = F^{-1}[b\cdot\hat v/3 - (k\cdot b)(k\cdot\hat v)/k^2]` with
    :math:`v = \Delta\chi\,(n n^T - I/3)\,b`.

    Parameters
    ----------
    anisotropy_ppm : (nx, ny, nz) array
        :math:`\Delta\chi`, the susceptibility along the fibres less that across them, in ppm.
    fibres : (3, nx, ny, nz) array
        Unit vectors :math:`n` along the array axes; either sense.
    grid : Grid
        Grid of both.
    device : str
        Torch device.

    Returns
    -------
    (nx, ny, nz) float32 array
        Field offset in ppm of B0.

    References
    ----------
    .. [1] Liu, Magn. Reson. Med. 63:1471 (2010), doi:10.1002/mrm.22482
    """
    _check_volume("anisotropy_ppm", anisotropy_ppm, grid)
    if fibres.shape != (3, *grid.shape):
        raise DataError(f"fibres have the shape {fibres.shape}", expected=f"{(3, *grid.shape)}, three components first")
    b0, strength = np.array(grid.b0_dir, dtype=np.float32), np.asarray(anisotropy_ppm, dtype=np.float32)
    along = strength * np.tensordot(b0, np.asarray(fibres, dtype=np.float32), axes=1)
    padded = padded_shape(grid.shape)
    squares, odds = spatial_lines(grid.with_shape(padded), device=device)
    k2 = (squares[0] + squares[1] + squares[2]).float()
    k2[0, 0, 0] = 1.0
    total = torch.zeros(k2.shape, dtype=torch.complex64, device=device)
    for axis in range(3):
        part = _tensor(along * fibres[axis] - strength * (b0[axis] / 3), device)
        cross = sum(float(b0[other]) * odds[other] for other in range(3) if other != axis)
        towards = (float(b0[axis]) * squares[axis] + cross * odds[axis]).float() / k2
        total += torch.fft.rfftn(part, s=padded) * (float(b0[axis]) / 3 - towards)
    total[0, 0, 0] = 0.0
    nx, ny, nz = grid.shape
    return torch.fft.irfftn(total, s=padded)[:nx, :ny, :nz].cpu().numpy()


def shim_field(field_ppm: NDArray[np.floating], brain: NDArray[np.bool_], grid: Grid, *, order: int = 2) -> Volume:
    """The field that the shim coils of that order fit best to ``field_ppm`` inside ``brain``.

    Parameters
    ----------
    field_ppm : (nx, ny, nz) array
        Field in ppm.
    brain : (nx, ny, nz) bool array
        Where to fit (least squares).
    grid : Grid
        Grid of both.
    order : int
        0: centre frequency; 1: also the three gradients; 2: also the five harmonics of second order.

    Returns
    -------
    (nx, ny, nz) float32 array
        The fit in ppm, everywhere on the grid; subtract it to shim.
    """
    _check_volume("field_ppm", field_ppm, grid)
    _same_shape(field_ppm=field_ppm, brain=brain)
    if not np.any(brain):
        raise DataError("the brain mask is empty", expected="at least one voxel")
    x, y, z = centred_mm(grid)
    inside = [np.broadcast_to(c, grid.shape)[brain].astype(np.float64) for c in (x, y, z)]
    terms = _harmonics(inside[0], inside[1], inside[2], order)
    design = np.stack([np.broadcast_to(term, inside[0].shape) for term in terms], axis=1)
    normal = design.T @ design
    weights = np.linalg.solve(normal, design.T @ field_ppm[brain].astype(np.float64))
    fit = sum(w * h for w, h in zip(weights, _harmonics(x, y, z, order), strict=True))
    return np.ascontiguousarray(np.broadcast_to(fit, grid.shape), dtype=np.float32)


def _harmonics(
    x: NDArray[np.float64], y: NDArray[np.float64], z: NDArray[np.float64], order: int
) -> list[NDArray[np.float64]]:
    """Solid harmonics up to ``order`` 2, in units of decimetres to keep the fit well conditioned."""
    if order not in (0, 1, 2):
        raise DataError(f"the shim order is {order}", expected="0, 1 or 2")
    x, y, z = x / 100, y / 100, z / 100
    terms = [np.ones((1,) * x.ndim), x, y, z, x * y, x * z, y * z, x * x - y * y, 2 * z * z - x * x - y * y]
    return terms[: (1, 4, 9)[order]]


def centred_mm(grid: Grid) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Voxel-axis coordinates in mm from the centre of the volume, as three broadcastable arrays."""
    coordinates = []
    for axis, (n, mm) in enumerate(zip(grid.shape, grid.voxel_mm, strict=True)):
        view = [1, 1, 1]
        view[axis] = n
        coordinates.append(((np.arange(n) - (n - 1) / 2) * mm).reshape(view))
    return tuple(coordinates)  # type: ignore[return-value]


def signal(
    m0: NDArray[np.floating],
    r2star_hz: NDArray[np.floating],
    field_ppm: NDArray[np.floating],
    *,
    te_s: float,
    b0_t: float,
    offset_rad: NDArray[np.floating] | float = 0.0,
    dephase: bool = True,
    device: str = "cpu",
) -> torch.Tensor:
    """Complex signal of one echo on the grid of the inputs.

    Parameters
    ----------
    m0 : (nx, ny, nz) array
        Signal at echo time zero.
    r2star_hz : (nx, ny, nz) array
        R2* in 1/s, without the dephasing by ``field_ppm`` itself.
    field_ppm : (nx, ny, nz) array
        Field (and chemical shift) in ppm of B0.
    te_s, b0_t : float
        Echo time in s and field strength in T.
    offset_rad : array or float
        Phase at echo time zero.
    dephase : bool
        Multiply by the mean over a voxel of the phase that varies linearly across it, a sinc
        along each axis; what lies between the samples then dephases too.
    device : str
        Torch device.

    Returns
    -------
    (nx, ny, nz) complex64 torch.Tensor
    """
    _same_shape(m0=m0, r2star_hz=r2star_hz, field_ppm=field_ppm)
    if not (te_s >= 0 and b0_t > 0):
        raise DataError(f"echo time {te_s} s at {b0_t} T", expected="seconds, at least 0, and tesla, above 0")
    cycles = _tensor(field_ppm, device) * (hz_per_ppm(b0_t) * te_s)
    size = _tensor(m0, device) * torch.exp(-te_s * _tensor(r2star_hz, device))
    if dephase:
        for axis in range(3):
            if cycles.shape[axis] > 1:
                size = size * torch.sinc(torch.gradient(cycles, dim=axis)[0])
    phase = 2 * torch.pi * (cycles - torch.round(cycles)) + _tensor(offset_rad, device)
    return torch.polar(torch.ones_like(phase), phase) * size


def acquire(
    m0: NDArray[np.floating],
    r2star_hz: NDArray[np.floating],
    field_ppm: NDArray[np.floating],
    grid: Grid,
    *,
    shape: tuple[int, int, int],
    te_s: Sequence[float],
    b0_t: float,
    snr: float,
    reference: NDArray[np.bool_],
    rng: np.random.Generator,
    offset_rad: NDArray[np.floating] | float = 0.0,
    shift_ppm: NDArray[np.floating] | float = 0.0,
    device: str = "cpu",
) -> Acquired:
    """Multi-echo images as a scanner of lower resolution would acquire them.

    Parameters
    ----------
    m0, r2star_hz, field_ppm : (nx, ny, nz) array
        Signal at echo time zero, R2* in 1/s and (shimmed) field in ppm, on the fine ``grid``.
    grid : Grid
        The fine grid.
    shape : (3,) tuple of int
        Number of acquired voxels along each axis, over the same field of view.
    te_s, b0_t : sequence of float, float
        Echo times in s and field strength in T.
    snr : float
        Mean noise-free magnitude of the first echo over ``reference``, divided by the standard
        deviation of the noise in the real (and in the imaginary) part. Infinity adds no noise.
    reference : (nx, ny, nz) bool array
        Fine voxels whose signal defines ``snr``, for example white matter.
    rng : numpy.random.Generator
    offset_rad, shift_ppm : array or float
        Phase at echo time zero, and chemical shift in ppm (changes the phase, not ``field_ppm``).
    device : str
        Torch device.

    Raises
    ------
    DataError
        For shapes that do not agree, a fine grid coarser than the acquired one, or no reference.
    """
    _check_volume("field_ppm", field_ppm, grid)
    _same_shape(field_ppm=field_ppm, reference=reference)
    if len(te_s) == 0 or not snr > 0 or not np.any(reference):
        raise DataError(
            "no echo, no signal-to-noise ratio or no reference voxel", expected="at least one echo, snr > 0"
        )
    seen = np.asarray(field_ppm, dtype=np.float32) + np.asarray(shift_ppm, dtype=np.float32)
    echoes = [
        crop_kspace(signal(m0, r2star_hz, seen, te_s=te, b0_t=b0_t, offset_rad=offset_rad, device=device), shape)
        for te in te_s
    ]
    images = torch.stack(echoes).cpu().numpy().astype(np.complex64)
    weight = box_average(reference.astype(np.float32), shape)
    noise_sd = float((np.abs(images[0]) * weight).sum() / weight.sum()) / snr
    field = box_average(np.asarray(field_ppm, dtype=np.float32), shape)
    return Acquired(_add_noise(images, noise_sd, rng), _coarser(grid, shape), field, noise_sd)


def _add_noise(images: ComplexVolume, sd: float, rng: np.random.Generator) -> ComplexVolume:
    """White noise of standard deviation ``sd`` in the real and in the imaginary part."""
    if sd == 0:
        return images
    noise = rng.standard_normal((2, *images.shape), dtype=np.float32)
    return np.asarray(images + np.float32(sd) * (noise[0] + 1j * noise[1]), dtype=np.complex64)


def _coarser(grid: Grid, shape: tuple[int, int, int]) -> Grid:
    """The grid of ``shape`` over the same field of view."""
    mm = tuple(v * n / m for v, n, m in zip(grid.voxel_mm, grid.shape, shape, strict=True))
    return Grid(shape, mm, grid.b0_dir)  # type: ignore[arg-type]


def _tensor(volume: NDArray[np.floating] | float, device: str) -> torch.Tensor:
    return torch.as_tensor(np.ascontiguousarray(volume, dtype=np.float32), device=device)


def _check_volume(name: str, volume: NDArray[np.floating], grid: Grid) -> None:
    if volume.shape != grid.shape:
        raise DataError(f"`{name}` has the shape {volume.shape}", expected=f"the grid's, {grid.shape}")
    if not np.all(np.isfinite(volume)):
        raise DataError(f"`{name}` is not finite everywhere", expected="finite numbers")


def _same_shape(**volumes: NDArray[np.generic]) -> None:
    shapes = {name: np.shape(volume) for name, volume in volumes.items()}
    if len(set(shapes.values())) > 1:
        raise DataError(f"volumes differ in shape: {shapes}", expected="one shape")
