"""Whole heads that were scanned and went through this pipeline's own steps, for training on what those leave.

A field that comes from phase holds errors that no simple model of noise has: voxels whose phase is a mean over
strong gradients, unreliable voxels at the rim and in lesions, what background removal leaves. Here a label map is
painted, magnetised together with the air and bone around it on a fine grid, scanned, and reconstructed by the very
functions that a run uses. Kept is the map and the *error* of the field; a patch is given the field of its own part of
the map and that error.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from qsmprep.core.dipole import forward_field
from qsmprep.core.grid import Grid, bounding_box
from qsmprep.core.kspace import box_average
from qsmprep.core.methods import METHODS
from qsmprep.core.simulate import AIR_PPM, acquire, centred_mm, head_field, shim_field
from qsmprep.core.units import hz_per_ppm
from qsmprep.core.unwrap.romeo import voxel_quality
from qsmprep.core.weights import reliability
from qsmprep.networks.geometry import Geometry
from qsmprep.training.anatomy import Anatomy
from qsmprep.training.draw import Dice, Shape, coordinates, erode, gaussian, rotation, shape_mask, smooth_noise, vessels
from qsmprep.training.heads import BONE, FAT, TISSUE_COUNT, TISSUES, HeadMap, PoseParams, class_of_tissue, pose
from qsmprep.training.susceptibility import ChiParams, fibres, paint, somewhere

HEAD_MM = (176.0, 220.0, 196.0)
"""Field of view around the middle of the brain."""

AIRWAYS = (len(TISSUES) + 9, len(TISSUES) + 14)
"""Tissues with codes 509 (nose and sinuses) and 514 (ears)."""

OVERSAMPLING, FINE_MM = 1.3, 1.3
"""Fine voxels for each voxel of the scan along each axis, at least, and their largest edge."""

POSE = PoseParams(scale=(0.85, 1.08), stretch=0.06, turn_deg=15.0, bend_mm=(0.5, 3.0), shift_mm=4.0)

VOLUMES = ("chi", "error", "mask", "weights", "magnitude")
"""What is kept of a scan beside its grid."""


@dataclass(frozen=True)
class ScanParams:
    """Scans of whole heads that training patches are cut from.

    Parameters
    ----------
    count : int
        Number of scans; 0 for none.
    chance : float
        Probability that a batch is cut from one.
    voxel_mm : (2,) tuple of float
        Range of the edge of a cube of a voxel's volume.
    slice_ratio : float
        Largest ratio of the slice to the edge in the plane.
    tilt_deg : float
        Largest tilt of B0.
    tfi : float
        Probability of the default background removal; else one of the others.
    """

    count: int = 0
    chance: float = 0.5
    voxel_mm: tuple[float, float] = (1.0, 2.3)
    slice_ratio: float = 3.0
    tilt_deg: float = 35.0
    tfi: float = 0.75


@dataclass(frozen=True)
class Scan:
    """A head that went through the pipeline.

    Parameters
    ----------
    chi, error, mask, weights, magnitude : (nx, ny, nz) float16 array
        Map in ppm (zero outside the mask, mean zero inside), measured less true local field in ppm (that of the
        map), mask, reliability from 0 to 1, and magnitude, its median in the mask one.
    voxel_mm, b0_dir : (3,) tuple of float
    """

    chi: NDArray[np.float16]
    error: NDArray[np.float16]
    mask: NDArray[np.float16]
    weights: NDArray[np.float16]
    magnitude: NDArray[np.float16]
    voxel_mm: tuple[float, float, float]
    b0_dir: tuple[float, float, float]
    origin: str = ""
    """What it was made of and how, see :func:`qsmprep.training.scan_store.origin_of`."""


def draw_grids(dice: Dice, params: ScanParams) -> tuple[Grid, Shape]:
    """The grid of a scan, and the shape of the finer one that it is simulated on."""
    edge, ratio = dice.log_number(*params.voxel_mm), 1.0
    if dice.chance(0.6):
        ratio = dice.log_number(1.2, params.slice_ratio)
    plane = edge / ratio ** (1 / 3)
    voxel = (plane, plane * dice.number(0.95, 1.05), plane * ratio)
    tilt = math.radians(0.0 if dice.chance(0.3) else dice.number(0.0, params.tilt_deg))
    turn = dice.number(0, 2 * math.pi)
    b0 = (math.sin(tilt) * math.cos(turn), math.sin(tilt) * math.sin(turn), math.cos(tilt))
    shape: Shape = tuple(2 * math.ceil(mm / v / 2) for mm, v in zip(HEAD_MM, voxel, strict=True))  # type: ignore[assignment]
    fine: Shape = tuple(  # type: ignore[assignment]
        max(math.ceil(n * OVERSAMPLING), math.ceil(n * v / FINE_MM)) for n, v in zip(shape, voxel, strict=True)
    )
    return Grid(shape, voxel, b0), fine


def draw_scan(dice: Dice, head: HeadMap, params: ScanParams, chi_params: ChiParams) -> Scan:
    """Paint, magnetise, scan and reconstruct a head.

    Parameters
    ----------
    dice : Dice
        On the CPU.
    head : HeadMap
    params : ScanParams
    chi_params : ChiParams
        How susceptibility is drawn.
    """
    grid, shape = draw_grids(dice, params)
    edges = tuple(n * v / m for n, v, m in zip(grid.shape, grid.voxel_mm, shape, strict=True))
    fine = Grid(shape, edges, grid.b0_dir)  # type: ignore[arg-type]
    tissues, brain = pose(dice, head, head.centre_mm, shape, fine.voxel_mm, POSE)
    chi = painted(dice, tissues, brain, fine, chi_params)
    air, whole = surroundings(dice, tissues, brain, chi, fine)
    inside = brain.numpy()
    field = head_field(whole.numpy(), fine)
    if dice.chance(0.9):
        field -= shim_field(field, inside, fine, order=dice.integer(1, 2))
    field += anisotropy(dice, tissues, brain, chi, fine)
    scanned = scan(dice, tissues, brain, air, chi, field, fine, grid)
    share = box_average(inside.astype(np.float32), grid.shape)
    true = box_average(np.where(inside, chi.numpy(), np.float32(0)), grid.shape) / np.maximum(share, 0.5)
    return reconstruct(dice, scanned, share >= 0.5, true.astype(np.float32), grid, params)


def painted(dice: Dice, tissues: torch.Tensor, brain: torch.Tensor, grid: Grid, params: ChiParams) -> torch.Tensor:
    """Susceptibility of the brain in ppm, zero outside it."""
    classes = torch.tensor(class_of_tissue())[tissues.int()]
    chi = paint(dice, Anatomy(classes, brain), grid.voxel_mm, params)
    tubes = vessels(dice, grid.shape, grid.voxel_mm, dice.integer(20, 120))
    return (chi + (dice.number(0.08, 0.4) - chi) * tubes) * brain


def surroundings(
    dice: Dice, tissues: torch.Tensor, brain: torch.Tensor, chi: torch.Tensor, grid: Grid
) -> tuple[torch.Tensor, torch.Tensor]:
    """Where there is air, and the susceptibility of the whole head in ppm relative to water."""
    level = 0.3 * dice.normal((TISSUE_COUNT,))
    level[BONE] = dice.number(-2.6, -1.2)
    level[list(FAT)] = dice.number(0.0, 0.8)
    air = tissues == 0
    for tissue in AIRWAYS:
        if dice.chance(0.75):
            air = air | (tissues == tissue)
    where = coordinates(grid.shape, grid.voxel_mm, tissues.device)
    shell = ~brain & ~erode(~brain, max(2, round(9.0 / min(grid.voxel_mm))))
    for _ in range(dice.integer(0, 5)):
        air = air | shape_mask(dice, where, somewhere(dice, where, shell), (2.0, 9.0))
    air = air & ~brain
    whole = torch.where(brain, chi, level[tissues.int()])
    return air, torch.where(air, torch.full_like(whole, AIR_PPM), whole)


def anisotropy(dice: Dice, tissues: torch.Tensor, brain: torch.Tensor, chi: torch.Tensor, grid: Grid) -> NDArray[Any]:
    """The field of white matter that depends on direction, in ppm."""
    if not dice.chance(0.8):
        return np.zeros(grid.shape, np.float32)
    classes = torch.tensor(class_of_tissue())[tissues.int()]
    turned = rotation(dice, 50.0) @ torch.tensor(grid.b0_dir, dtype=torch.float32)
    source = fibres(dice, Anatomy(classes, brain), grid.voxel_mm, turned)
    other = Grid(grid.shape, grid.voxel_mm, tuple(turned.tolist()))  # type: ignore[arg-type]
    part = forward_field(source.numpy(), other, pad_factor=1.25)
    local = forward_field(chi.numpy(), grid, pad_factor=1.25)
    inside = brain.numpy()
    size = dice.number(0.0, 0.5) * float(local[inside].std()) / max(1e-9, float(part[inside].std()))
    return np.asarray(part * np.float32(size), np.float32)


@dataclass(frozen=True)
class Echoes:
    """Images of a scan, its echo times and field strength."""

    images: NDArray[np.complex64]
    te_s: tuple[float, ...]
    b0_t: float


def scan(
    dice: Dice,
    tissues: torch.Tensor,
    brain: torch.Tensor,
    air: torch.Tensor,
    chi: torch.Tensor,
    field: NDArray[np.float32],
    fine: Grid,
    grid: Grid,
) -> Echoes:
    """Multi-echo images: random contrast, decay that goes with susceptibility, coil, noise."""
    b0_t = (1.5, 3.0, 3.0, 7.0)[dice.integer(0, 3)]
    number = dice.integer(3, 6)
    last = dice.number(0.9, 1.5) * {1.5: 0.040, 3.0: 0.024, 7.0: 0.018}[b0_t]
    first = dice.number(0.08, 0.3) * last
    te_s = tuple(first + (last - first) * i / (number - 1) for i in range(number))
    level = 1 + dice.number(0.02, 0.25) * dice.normal((TISSUE_COUNT,))
    level[BONE] = dice.number(0.0, 0.3)
    index = tissues.int()
    m0 = level.clamp_min(0.1)[index] * ~air
    m0 = gaussian(m0, (0.4, 0.4, 0.4)) * (1 + 0.05 * smooth_noise(dice, fine.shape, (3.0, 3.0, 3.0))[0])
    m0 = m0 * torch.exp(0.2 * smooth_noise(dice, fine.shape, tuple(60.0 / mm for mm in fine.voxel_mm))[0])  # type: ignore[arg-type]
    decay = (dice.number(10.0, 18.0) + dice.number(60.0, 180.0) * chi.abs()) * (0.4 + 0.2 * b0_t)
    decay = torch.where(brain, decay, dice.number(15.0, 50.0)).clamp_max(600.0)
    x, y, z = (c / 100 for c in centred_mm(fine))
    terms = (x, y, z, x * y, x * z, y * z, x * x, y * y, z * z)
    offset = dice.number(-math.pi, math.pi) + sum(0.8 * dice.bell() * term for term in terms)
    acquired = acquire(
        m0.clamp_min(0.0).numpy(),
        decay.numpy(),
        field,
        fine,
        shape=grid.shape,
        te_s=te_s,
        b0_t=b0_t,
        snr=dice.log_number(40.0, 250.0),
        reference=brain.numpy(),
        rng=np.random.default_rng(dice.integer(0, 2**31 - 2)),
        offset_rad=np.asarray(np.broadcast_to(offset, fine.shape), dtype=np.float32),
    )
    return Echoes(acquired.images, te_s, b0_t)


def reconstruct(
    dice: Dice, echoes: Echoes, brain: NDArray[np.bool_], chi: NDArray[np.float32], grid: Grid, params: ScanParams
) -> Scan:
    """From phase to local field by the defaults of a run, and what that has of error."""
    for _ in range(dice.integer(0, 2)):
        brain = erode(torch.from_numpy(brain), 1).numpy() if dice.chance(0.5) else brain
    found = measure(echoes, brain, grid)
    names = [name for name in METHODS.names("background") if name not in ("tfi", "sharp")]
    name = "tfi" if dice.chance(params.tfi) else names[dice.integer(0, len(names) - 1)]
    step, options = configured("background", name)
    local = step(found.field_ppm, found.mask, grid, options, weights=found.weights)
    mask = local.mask
    chi = np.where(mask, chi - chi[mask].mean(), 0).astype(np.float32)
    error = np.where(mask, local.field_ppm - forward_field(chi, grid), 0)
    error = np.where(mask, error - np.median(error[mask]), 0)
    image = np.where(mask, found.magnitude / np.median(found.magnitude[mask]), 0)
    kept = (chi, error.clip(-10, 10), mask, found.weights * mask, image.clip(0, 100))
    volumes = [volume[bounding_box(mask)].astype(np.float16) for volume in kept]
    return Scan(*volumes, grid.voxel_mm, grid.b0_dir)


@dataclass(frozen=True)
class Measured:
    """What echoes tell: total field in ppm, mask, reliability from 0 to 1, root mean square magnitude."""

    field_ppm: NDArray[np.float32]
    mask: NDArray[np.bool_]
    weights: NDArray[np.float32]
    magnitude: NDArray[np.float32]


def measure(echoes: Echoes, brain: NDArray[np.bool_], grid: Grid) -> Measured:
    """From the echoes to the total field by the default steps of a run, in a brain that is known."""
    te_s = list(echoes.te_s)
    magnitude, phase = np.abs(echoes.images).astype(np.float32), np.angle(echoes.images).astype(np.float32)
    step, options = configured("offset")
    phase = step(phase, magnitude, brain, te_s, grid, options).phase_rad
    step, options = configured("unwrap")
    unwrapped = step(phase, magnitude, brain, te_s, grid, options).phase_rad
    step, options = configured("combine")
    fit = step(unwrapped, phase, magnitude, brain, te_s, options)
    step, options = configured("quality")
    mask = step(brain, voxel_quality(phase, magnitude, te_s), grid, options)
    return Measured(
        fit.field_hz / np.float32(hz_per_ppm(echoes.b0_t)),
        mask,
        reliability(fit.noise_hz, fit.residual, mask),
        np.sqrt(np.mean(magnitude**2, axis=0)),
    )


def configured(step: str, name: str = "", **changes: Any) -> tuple[Callable[..., Any], Any]:
    """A registered method, by default the first of its step, and its parameters with changes."""
    method = METHODS.get(step, name or METHODS.names(step)[0])
    return method.load(), method.configure(changes)


def cut(dice: Dice, scan: Scan, shape: Shape, least: float) -> tuple[torch.Tensor, ...]:
    """Field, map, mask, weights and magnitude of a random patch of a scan, ``(nx, ny, nz)`` each, and none of the
    field of what lies beyond it.

    ``least`` is the part of the patch that the mask should fill; the fullest of some is taken where none does.
    """
    reach = [max(0, n - m) for n, m in zip(scan.chi.shape, shape, strict=True)]
    best, filled = None, -1.0
    for _ in range(12):
        begin = [dice.integer(0, n) for n in reach]
        box = tuple(slice(b, b + n) for b, n in zip(begin, shape, strict=True))
        share = float(np.count_nonzero(scan.mask[box])) / math.prod(shape)
        if share > filled:
            best, filled = box, share
        if share > least:
            break
    chi, error, mask, weights, image = (_placed(getattr(scan, name)[best], shape) for name in VOLUMES)
    grid = Grid(shape, scan.voxel_mm, scan.b0_dir)
    field = (Geometry(grid, 2.0).field(chi) + error) * mask
    return field, chi, mask, weights, image


def _placed(part: NDArray[np.float16], shape: Shape) -> torch.Tensor:
    """A volume in the middle of a patch, as float32."""
    result = torch.zeros(shape)
    begin = [(n - m) // 2 for n, m in zip(shape, part.shape, strict=True)]
    result[tuple(slice(b, b + n) for b, n in zip(begin, part.shape, strict=True))] = torch.from_numpy(
        part.astype(np.float32)
    )
    return result
