"""Registration with ANTs: gradient echo to T1w image (rigid), template to either (affine and SyN), and how good it is.

Images are (array, affine) pairs in scanner coordinates (RAS+, mm). ANTs is imported only when it is needed.

References
----------
.. [1] Avants et al., Med. Image Anal. 12:26 (2008), doi:10.1016/j.media.2007.06.004
.. [2] Tustison et al., Sci. Rep. 11:9068 (2021), doi:10.1038/s41598-021-87564-6
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qsmprep.core.labels import Labels
from qsmprep.core.parameters import CoregistrationParams, NormalisationParams
from qsmprep.errors import DataError

LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
"""ANTs' axes run to the left, the back and the top."""

BINS = 32

DOUBTFUL = 0.05
"""Stretch that is looked for once more, at other points: one registration got lost, with 0.09 where others had 0.01."""

Matrix = NDArray[np.float64]


@dataclass(frozen=True)
class Volume:
    """An image in space.

    Parameters
    ----------
    data : (nx, ny, nz) array
    affine : (4, 4) array
        Voxel indices to scanner coordinates in mm (RAS+).
    """

    data: NDArray[Any]
    affine: Matrix

    def moved_by(self, matrix: ArrayLike) -> Volume:
        """The same voxels elsewhere."""
        return Volume(self.data, np.asarray(matrix, float) @ self.affine)


@dataclass(frozen=True)
class Rigid:
    """A rigid registration.

    Parameters
    ----------
    matrix : (4, 4) array
        Scanner coordinates of the fixed image to those of the moving one, RAS+, mm.
    information_before, information_after : float
        Normalised mutual information (1: none, 2: complete) by the headers alone, and after registration.
    shift_mm : float
        How far the centre of the fixed brain was moved.
    turn_deg : float
        By how much it was turned.
    used : bool
        Whether the registration is better than the headers; otherwise ``matrix`` is the identity.
    stretch : float
        By how much more the moving brain would have to be stretched along one direction than along another to
        fit better still, 0 and up (see :func:`stretch_of`).
    """

    matrix: Matrix
    information_before: float
    information_after: float
    shift_mm: float
    turn_deg: float
    used: bool
    stretch: float = 0.0


@dataclass(frozen=True)
class Normalised:
    """A template brought to an image.

    Parameters
    ----------
    labels : (nx, ny, nz) int32 array
        Labels of the template on the grid of the image.
    dice : float
        Overlap of the template's brain, carried over, with the brain of the image, 0 to 1.
    correlation : float
        Correlation of grey values within the brain, -1 to 1.
    transforms : tuple of Path
        Warp and affine of ANTs, in the order in which it takes them.
    inverse_warp : Path
        Inverse of the warp.
    """

    labels: Labels
    dice: float
    correlation: float
    transforms: tuple[Path, ...]
    inverse_warp: Path


def register_rigid(
    fixed: Volume, moving: Volume, params: CoregistrationParams | None = None, *, seed: int = 0
) -> Rigid:
    """Find where one brain lies in another image of the same head, by mutual information.

    Parameters
    ----------
    fixed, moving : Volume
        Two images of the same brain, of any contrast, zero outside of it.
    params : CoregistrationParams, optional
    seed : int
        Of the random points at which images are compared.

    Returns
    -------
    Rigid

    Raises
    ------
    DataError
        When an image is empty, or the result is no likely position of the same head.
    """
    params = params or CoregistrationParams()
    _check_content(fixed, "fixed")
    _check_content(moving, "moving")
    before = mutual_information(fixed, moving, np.eye(4))
    started = _register(
        fixed,
        moving,
        "Rigid",
        seed,
        params.sampling,
        aff_iterations=(500, 300, 100),
        aff_shrink_factors=(4, 2, 1),
        aff_smoothing_sigmas=(2, 1, 0),
        initial_transform=[str(_write_identity())] if before > 1.02 else None,
    )
    matrix = read_matrix(started["fwdtransforms"][-1])
    after = mutual_information(fixed, moving, matrix)
    centre = fixed.affine @ np.append(np.argwhere(fixed.data != 0).mean(axis=0), 1.0)
    shift = float(np.linalg.norm((matrix @ centre - centre)[:3]))
    turn = float(np.degrees(np.arccos(np.clip((np.trace(matrix[:3, :3]) - 1) / 2, -1, 1))))
    start = started["fwdtransforms"] if after > before else [str(_write_identity())]
    stretch = stretch_of(fixed, moving, start, params, seed)
    if stretch > DOUBTFUL:
        stretch = min(stretch, stretch_of(fixed, moving, start, params, seed + 1))
    if after <= before:
        return Rigid(np.eye(4), before, before, 0.0, 0.0, False, stretch)
    return Rigid(matrix, before, after, shift, turn, True, stretch)


def stretch_of(fixed: Volume, moving: Volume, start: list[str], params: CoregistrationParams, seed: int = 0) -> float:
    """How much an affine map from one brain to another stretches one direction more than another. The same head keeps
    its shape, and masks that differ all around only change its size.

    Parameters
    ----------
    fixed, moving : Volume
        Two images of a brain, zero outside of it.
    start : list of str
        Files of the rigid transform that the affine one begins with.
    params, seed
        See :func:`register_rigid`.

    Returns
    -------
    float
        Ratio of the map's extreme singular values, less one.
    """
    found = _register(
        fixed,
        moving,
        "Affine",
        seed,
        params.sampling,
        aff_iterations=(300, 150),
        aff_shrink_factors=(4, 2),
        aff_smoothing_sigmas=(2, 1),
        initial_transform=start,
    )
    scales = np.linalg.svd(read_matrix(found["fwdtransforms"][0])[:3, :3], compute_uv=False)
    return float(scales[0] / scales[-1] - 1)


def normalise(
    fixed: Volume,
    brain: NDArray[np.bool_],
    template: Volume,
    atlas: Volume,
    params: NormalisationParams | None = None,
    *,
    folder: Path,
    seed: int = 0,
) -> Normalised:
    """Bring a template to an image by an affine map and SyN [1]_, and its labels with it.

    Parameters
    ----------
    fixed : Volume
        T1w or gradient-echo magnitude.
    brain : (nx, ny, nz) bool array
        Its brain.
    template : Volume
        Brain of the template, zero outside.
    atlas : Volume
        Labels in the space of the template.
    params : NormalisationParams, optional
    folder : Path
        Where the transforms are written.
    seed : int
        Of the random points at which images are compared.

    Returns
    -------
    Normalised

    Raises
    ------
    DataError
        When the result is no likely fit: the brains do not overlap, or grey values do not go together.
    """
    params = params or NormalisationParams()
    import ants

    inside = Volume(np.where(brain, fixed.data, 0), fixed.affine)
    _check_content(inside, "fixed")
    found = _register(
        at_spacing(inside, params.voxel_mm),
        at_spacing(template, params.voxel_mm),
        "SyN",
        seed,
        0.2,
        syn_metric=params.metric,
        syn_sampling=4 if params.metric == "CC" else BINS,
        reg_iterations=(params.coarse, params.middle, params.fine),
        outprefix=str(folder / "template_"),
    )
    grid, names = to_ants(Volume(np.zeros(fixed.data.shape), fixed.affine)), found["fwdtransforms"]
    labels = ants.apply_transforms(grid, to_ants(atlas), names, "genericLabel").numpy()
    there = ants.apply_transforms(grid, to_ants(template), names, "linear").numpy()
    theirs = Volume(template.data > 0, template.affine)
    carried = ants.apply_transforms(grid, to_ants(theirs), names, "linear").numpy() > 0.5
    dice = overlap(carried, brain)
    both = brain & carried
    correlation = float(np.corrcoef(there[both], fixed.data[both])[0, 1]) if both.sum() > 100 else 0.0
    files = tuple(map(Path, names))
    return Normalised(np.rint(labels).astype(np.int32), dice, correlation, files, Path(found["invtransforms"][-1]))


def overlap(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> float:
    """Dice coefficient of two masks, 0 to 1; 0 where both are empty."""
    total = int(first.sum()) + int(second.sum())
    return 2.0 * int((first & second).sum()) / total if total else 0.0


def mutual_information(fixed: Volume, moving: Volume, matrix: ArrayLike) -> float:
    """Normalised mutual information of two images under a map, over the fixed brain: (H(a) + H(b)) / H(a, b).

    Parameters
    ----------
    fixed, moving : Volume
        Zero outside the brain.
    matrix : (4, 4) array_like
        Scanner coordinates of the fixed image to those of the moving one.

    Returns
    -------
    float
        1 where one image says nothing of the other, up to 2.
    """
    from scipy import ndimage

    where = np.argwhere(fixed.data != 0)
    where = where[:: max(1, len(where) // 60_000)]
    to_moving = np.linalg.inv(moving.affine) @ np.asarray(matrix, float) @ fixed.affine
    at = where @ to_moving[:3, :3].T + to_moving[:3, 3]
    theirs = ndimage.map_coordinates(np.asarray(moving.data, np.float32), at.T, order=1, mode="constant", cval=0.0)
    ours = np.asarray(fixed.data, np.float32)[tuple(where.T)]
    joint = np.histogram2d(_ranked(ours), _ranked(theirs), bins=BINS)[0] / len(where)
    single, both = [_entropy(joint.sum(axis=axis)) for axis in (0, 1)], _entropy(joint)
    return float(sum(single) / both) if both > 0 else 1.0


def _ranked(values: NDArray[np.floating]) -> NDArray[np.floating]:
    """Values cut at their 1st and 99th percentile, so that a few bright voxels do not take all bins."""
    low, high = np.percentile(values, [1, 99])
    return np.clip(values, low, high)


def _entropy(share: NDArray[np.floating]) -> float:
    positive = share[share > 0]
    return float(-(positive * np.log(positive)).sum())


def to_ants(volume: Volume) -> Any:
    """An image of ANTs; ANTs' axes run to the left and the back."""
    import ants

    lps = LPS @ np.asarray(volume.affine, float)
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    return ants.from_numpy(
        np.asarray(volume.data, np.float32),
        origin=tuple(lps[:3, 3]),
        spacing=tuple(spacing),
        direction=lps[:3, :3] / spacing,
    )


def read_matrix(path: str | Path) -> Matrix:
    """A linear transform of ANTs as a 4 x 4 matrix on scanner coordinates (RAS+): fixed to moving."""
    import ants

    transform = ants.read_transform(str(path))
    parameters, centre = np.asarray(transform.parameters, float), np.asarray(transform.fixed_parameters, float)
    matrix = np.eye(4)
    matrix[:3, :3] = parameters[:9].reshape(3, 3)
    matrix[:3, 3] = parameters[9:12] + centre - matrix[:3, :3] @ centre
    return LPS @ matrix @ LPS


def at_spacing(volume: Volume, voxel_mm: float) -> Volume:
    """The image on voxels of about ``voxel_mm``, smoothed first; axes that are coarser stay as they are."""
    from scipy import ndimage

    sizes = np.linalg.norm(volume.affine[:3, :3], axis=0)
    zoom = np.minimum(1.0, sizes / voxel_mm)
    if (zoom > 0.95).all():
        return volume
    sigma = np.where(zoom < 1, 0.5 / zoom - 0.5, 0.0)
    smooth = ndimage.gaussian_filter(np.asarray(volume.data, np.float32), sigma)
    shape = np.maximum(1, np.round(np.array(volume.data.shape) * zoom)).astype(int)
    step = np.array(volume.data.shape) / shape
    matrix = np.diag([*step, 1.0])
    matrix[:3, 3] = (step - 1) / 2
    data = ndimage.affine_transform(smooth, np.diag(step), matrix[:3, 3], tuple(shape), order=1, mode="nearest")
    return Volume(data, volume.affine @ matrix)


def _register(fixed: Volume, moving: Volume, kind: str, seed: int, sampling: float, **more: Any) -> dict[str, Any]:
    """What ANTs finds by mutual information of a share of the voxels, the same each time for one seed."""
    import ants

    with ants_seed(seed):
        found: dict[str, Any] = ants.registration(
            to_ants(fixed), to_ants(moving), kind, aff_metric="mattes", aff_random_sampling_rate=sampling, **more
        )
    return found


def _write_identity() -> Path:
    """A file with the transform that changes nothing, to begin at the headers."""
    import tempfile

    import ants

    handle, name = tempfile.mkstemp(suffix=".mat")
    os.close(handle)
    transform = ants.create_ants_transform(transform_type="Euler3DTransform", dimension=3)
    ants.write_transform(transform, name)
    return Path(name)


def _check_content(volume: Volume, name: str) -> None:
    if not np.isfinite(volume.data).all() or not (volume.data != 0).any():
        raise DataError(f"the {name} image of the registration is empty or not finite", expected="an image of a brain")


def itk_threads(n: int) -> AbstractContextManager[None]:
    """Let ITK use ``n`` threads; a process asks the environment before its first registration."""
    return _environment("ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS", str(n))


def ants_seed(seed: int) -> AbstractContextManager[None]:
    """Let ANTs compare images at the same points each time; its Python function ignores `random_seed`."""
    return _environment("ANTS_RANDOM_SEED", str(seed % (2**31 - 1) + 1))


@contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    """Set a variable of the environment for a while."""
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
