"""Running the segmenters: the brain on a magnitude, the deep grey nuclei on a susceptibility map.

Both see a volume in the order of axes closest to RAS, brought to the voxels they were trained on, through
windows of one size. The window is moved to where the object was found, and seen once more in the mirror.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from qsmprep.core.device import is_out_of_memory
from qsmprep.core.grid import Grid
from qsmprep.core.masking.morphology import fill_holes, largest_component
from qsmprep.core.masking.resample import isotropic_grid, resample
from qsmprep.core.parameters import UnetrParams
from qsmprep.core.results import FloatVolume, Mask
from qsmprep.errors import DataError, NotSeenError, OutOfMemoryError
from qsmprep.networks.pedqnet import NUCLEI, OTHER_SIDE, SIDES
from qsmprep.networks.weights import load

CODES = (0, *(code for name in NUCLEI for code in SIDES[name]))
"""Code of each class of the segmentation."""

OVERLAP = 0.5
"""Of neighbouring windows in the search for the object."""

MOVES = 3
"""Times that the window is moved at most."""

STILL_MM = 4.0
"""A shorter move than this is the last."""

MIN_BRAIN_ML = 50.0
"""Less is no brain."""

MIN_COHERENCE = 0.2
"""Correlation of neighbouring voxels below which an image is noise, in which a network would still find a head."""

MIN_NUCLEUS_MM3 = 30.0
"""Less is no nucleus."""


@dataclass(frozen=True)
class Labelled:
    """Labels of the nuclei.

    Parameters
    ----------
    labels : (nx, ny, nz) int16 array
        FreeSurfer codes, see `CODES`; zero elsewhere.
    info : dict
        Which weights, where the nuclei were found, volumes in mm^3, and ``warnings``.
    """

    labels: NDArray[np.int16]
    info: dict[str, Any] = field(default_factory=dict)


def normalised(image: torch.Tensor, inside: torch.Tensor | None = None) -> torch.Tensor:
    """An image divided by the 99th percentile of what is not empty (and ``inside`` a mask), at most two."""
    values = image[image > 0] if inside is None else image[(image > 0) & inside]
    if not values.numel():
        return image
    values, _ = torch.sort(values[:: max(1, values.numel() // 200_000)])
    top = values[int(0.99 * (values.numel() - 1))]
    return (image / top.clamp_min(torch.finfo(torch.float32).tiny)).clamp_max(2.0)


def standardised(chi: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Susceptibility less its median and divided by its robust spread inside a mask, within -6 to 6; zero outside.

    The spread is half the distance between the 16th and the 84th percentile, as of the field that
    inversions are given, so that neither the unit nor the iron of an age matters.
    """
    inside = mask > 0
    values = chi[inside]
    if not values.numel():
        return torch.zeros_like(chi)
    values, _ = torch.sort(values[:: max(1, values.numel() // 200_000)])
    low, middle, high = (values[int(share * (values.numel() - 1))] for share in (0.16, 0.5, 0.84))
    spread = (0.5 * (high - low)).clamp_min(torch.finfo(torch.float32).tiny)
    return ((chi - middle) / spread).clamp(-6.0, 6.0) * inside


def unetr_mask(
    magnitude: NDArray[np.floating], grid: Grid, params: UnetrParams | None = None, *, device: str | None = None
) -> Mask:
    """Brain mask of a magnitude by the trained UNETR.

    Parameters
    ----------
    magnitude : (nx, ny, nz) array
        Image of the head in any contrast, axes closest to right, anterior, superior.
    grid : Grid
        Gives the voxel size.
    params : UnetrParams
        Threshold of the probability.
    device : str, optional
        Torch device; default: the CPU.

    Returns
    -------
    (nx, ny, nz) bool array
        One piece without holes, ventricles and sulci within.

    Raises
    ------
    DataError
        When the image has another shape than the grid, is the same everywhere, is noise, or holds no brain.
    MissingFileError
        When the weights are not there.
    OutOfMemoryError
        When memory does not suffice.
    """
    params, device = params or UnetrParams(), device or "cpu"
    image = checked(magnitude, grid)
    network, _ = load("brainmask", params.weights, device)
    work = isotropic_grid(grid, network.voxel_mm)
    volume = normalised(torch.from_numpy(resample(np.maximum(image, 0), grid, work)).to(device))
    probability = torch.sigmoid(found_by(network, volume[None], volume.new_ones(volume.shape, dtype=torch.bool)))[0]
    brain = resample(probability.cpu().numpy(), work, grid) > params.threshold
    if brain.any():
        brain = fill_holes(largest_component(brain))
    volume_ml = float(brain.sum()) * grid.voxel_volume_mm3 / 1e3
    if volume_ml < MIN_BRAIN_ML:
        raise NotSeenError(
            f"no brain was found in the magnitude ({volume_ml:.0f} mL)",
            expected="an image of a head, with its brain mostly inside the field of view",
            remedy="look at the image; try --mask bet or --mask threshold, or give a mask with --derivatives",
        )
    return brain


def checked(magnitude: NDArray[np.floating], grid: Grid) -> FloatVolume:
    """An image as float32, zero where it is not finite; refused where no head can be in it.

    Raises
    ------
    DataError
        When it has another shape than the grid, is the same everywhere, or is nothing but noise.
    """
    image = np.where(np.isfinite(magnitude), magnitude, 0).astype(np.float32)
    if image.shape != grid.shape:
        raise DataError(f"the magnitude has shape {image.shape}", expected=f"{grid.shape}, that of the grid")
    if image.min() == image.max():
        raise DataError("the image is the same everywhere", expected="a magnitude image of the head")
    if coherence(image) < MIN_COHERENCE:
        raise DataError(
            "the magnitude is nothing but noise: neighbouring voxels have nothing in common",
            expected="a magnitude image of the head",
            remedy="look at the image; add the right part-mag images, or give a mask with --derivatives",
        )
    return image


def coherence(image: NDArray[np.floating]) -> float:
    """Largest correlation between neighbouring voxels over the three axes; 0 where it is not defined."""
    found = [0.0]
    for axis in range(3):
        line = np.moveaxis(image, axis, 0)
        if len(line) > 2 and line.min() < line.max():
            first, second = line[:-1].ravel(), line[1:].ravel()
            step = max(1, first.size // 500_000)
            pair = np.corrcoef(first[::step], second[::step])[0, 1]
            found.append(float(np.nan_to_num(pair)))
    return max(found)


def unetr_nuclei(
    chi_ppm: FloatVolume, mask: Mask, grid: Grid, params: UnetrParams | None = None, *, device: str = "cpu"
) -> Labelled:
    """Caudate, putamen, pallidum and thalamus, left and right, on a susceptibility map.

    Parameters
    ----------
    chi_ppm : (nx, ny, nz) array
        Susceptibility; any unit and any reference will do. Axes closest to right, anterior, superior.
    mask : (nx, ny, nz) bool array
        Where it is defined.
    grid : Grid
        Gives the voxel size.
    params : UnetrParams
        Threshold of the probability of any nucleus; folder of the weights.
    device : str
        Torch device.

    Raises
    ------
    DataError
        When shapes differ, the map is the same everywhere, or no nucleus is found.
    MissingFileError
        When the weights are not there.
    OutOfMemoryError
        When memory does not suffice.
    """
    params = params or UnetrParams()
    if chi_ppm.shape != grid.shape or mask.shape != grid.shape:
        raise DataError(f"map {chi_ppm.shape}, mask {mask.shape} and grid {grid.shape} differ", expected="one shape")
    chi = np.where(mask & np.isfinite(chi_ppm), chi_ppm, 0).astype(np.float32)
    if not mask.any() or chi[mask].min() == chi[mask].max():
        raise DataError("the map is the same everywhere in its mask", expected="a susceptibility map of the head")
    network, card = load("subcortical", params.weights, device)
    work = isotropic_grid(grid, network.voxel_mm)
    share = resample(mask.astype(np.float32), grid, work)
    inside = share > 0.5
    filled = np.where(inside, resample(chi, grid, work) / np.maximum(share, 0.5), 0)
    seen = standardised(torch.from_numpy(filled).to(device), torch.from_numpy(inside).to(device))
    logits = found_by(network, seen[None], torch.from_numpy(inside).to(device), search=False)
    shares = torch.softmax(logits, dim=0).cpu().numpy()
    fine = np.stack([resample(one, work, grid) for one in shares])
    classes = np.where(mask & (1 - fine[0] >= params.threshold), 1 + fine[1:].argmax(axis=0), 0)
    labels, volumes = cleaned(classes, grid)
    if not volumes:
        raise NotSeenError(
            "no deep grey nuclei were found on the map",
            expected="a susceptibility map of a head that holds the basal ganglia",
            remedy="look at the map; take --segmentation atlas, or give labels with --derivatives",
        )
    lost = [f"{side} {name}" for name in NUCLEI for side, code in zip(("left", "right"), SIDES[name], strict=True)
            if code not in volumes]  # fmt: skip
    warnings = [f"the segmentation network found no {', no '.join(lost)}"] if lost else []
    info = {"network": card.network, "network_weights": card.code, "trained_steps": card.steps, "device": device,
            "volumes_mm3": {str(code): round(mm3, 1) for code, mm3 in volumes.items()}}  # fmt: skip
    return Labelled(labels, {**info, "warnings": warnings})


def cleaned(classes: NDArray[np.integer], grid: Grid) -> tuple[NDArray[np.int16], dict[int, float]]:
    """The largest piece of every class under its code, and the volumes in mm^3 of those that are large enough."""
    labels = np.zeros(classes.shape, dtype=np.int16)
    volumes = {}
    for index, code in enumerate(CODES):
        part = classes == index
        if code == 0 or not part.any():
            continue
        pieces, count = ndimage.label(part, np.ones((3, 3, 3)))
        if count > 1:
            part = pieces == 1 + int(np.bincount(pieces.ravel())[1:].argmax())
        volume = float(part.sum()) * grid.voxel_volume_mm3
        if volume >= MIN_NUCLEUS_MM3:
            labels[part] = code
            volumes[code] = volume
    return labels, volumes


@torch.no_grad()
def found_by(network: Any, volume: torch.Tensor, inside: torch.Tensor, *, search: bool = True) -> torch.Tensor:
    """Logits ``(outputs, nx, ny, nz)`` of a volume ``(channels, nx, ny, nz)``; -20 or less (background) where no
    window was.

    With ``search`` windows over the whole volume say where the object lies, else the first window is
    at the middle of ``inside``; then one window follows what it finds.
    """
    try:
        logits = searched(network, volume) if search else empty(network, volume)
        middle = centre_of(object_in(logits) & inside) if search else None
        middle = centre_of(inside) if middle is None else middle
        for move in range(MOVES):
            part = at_window(network, volume, middle)
            found = centre_of(object_in(part))
            if found is None:
                break
            step = max(abs(a - b) for a, b in zip(found, middle, strict=True)) * network.voxel_mm
            if step < STILL_MM or move == MOVES - 1:
                break
            middle = found
        mirrored = at_window(network, volume.flip(1), mirror(middle, volume.shape[1])).flip(1)
        both = 0.5 * (part + swapped(mirrored))
        return torch.where(both > FAR, both, logits) if search else both
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise OutOfMemoryError(
            "there is not enough memory for the segmentation network", remedy="run again with more memory"
        ) from error


FAR = -15.0
"""Logits below this mean that no window saw the voxel."""


def empty(network: Any, volume: torch.Tensor) -> torch.Tensor:
    """Logits of nothing but background."""
    outputs = 1 if network.classes == 2 else network.classes
    logits = torch.full((outputs, *volume.shape[1:]), -20.0, device=volume.device)
    if outputs > 1:
        logits[0] = 20.0
    return logits


def searched(network: Any, volume: torch.Tensor) -> torch.Tensor:
    """Logits from overlapping windows over the whole volume (MONAI's sliding window)."""
    from monai.inferers import sliding_window_inference

    edge = (network.window,) * 3
    return sliding_window_inference(volume[None], edge, 1, network, overlap=OVERLAP, mode="gaussian")[0]  # type: ignore[no-any-return,index,return-value]


def at_window(network: Any, volume: torch.Tensor, middle: tuple[float, ...]) -> torch.Tensor:
    """Logits from one window around a voxel; nothing but background elsewhere."""
    edge = network.window
    begin = [round(m - (edge - 1) / 2) for m in middle]
    window = volume.new_zeros((volume.shape[0], edge, edge, edge))
    there, here = [], []
    for start, n in zip(begin, volume.shape[1:], strict=True):
        low, high = max(0, start), min(n, start + edge)
        there.append(slice(low, max(low, high)))
        here.append(slice(low - start, max(low, high) - start))
    window[(slice(None), *here)] = volume[(slice(None), *there)]
    logits = empty(network, volume)
    logits[(slice(None), *there)] = network(window[None])[0][(slice(None), *here)].clamp(-14.0, 14.0)
    return logits


def object_in(logits: torch.Tensor) -> torch.Tensor:
    """Where something else than background is most likely."""
    return logits[0] > 0 if logits.shape[0] == 1 else logits.argmax(dim=0) > 0


def centre_of(part: torch.Tensor) -> tuple[float, ...] | None:
    """Middle of a part in voxels; None where it is empty."""
    if not bool(part.any()):
        return None
    return tuple(float(index.float().mean()) for index in part.nonzero(as_tuple=True))


def mirror(middle: tuple[float, ...], n: int) -> tuple[float, ...]:
    """A place in the volume that is mirrored along the first axis."""
    return (n - 1 - middle[0], *middle[1:])


def swapped(logits: torch.Tensor) -> torch.Tensor:
    """Logits with left and right classes changed."""
    return logits if logits.shape[0] == 1 else logits[list(OTHER_SIDE)]
