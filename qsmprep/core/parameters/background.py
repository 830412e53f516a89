"""Parameters of background field removal, with units, defaults and limits."""

from __future__ import annotations

from dataclasses import dataclass

from qsmprep.core.parameters.inversion import EDGE_WEIGHT
from qsmprep.core.registry import parameter


@dataclass(frozen=True)
class VSharpParams:
    """Parameters of V-SHARP.

    The threshold was chosen on six simulated heads (1 to 3 mm, isotropic or not, straight or oblique):
    0.2 gave the smallest error of the local field at 12 mm, 0.05 nearly twice as much.
    """

    radius_max_mm: float = parameter(12.0, "largest kernel radius", unit="mm", low=0.5)
    radius_min_mm: float = parameter(1.0, "smallest kernel radius (never below one voxel)", unit="mm", low=0.1)
    radius_step_mm: float = parameter(1.0, "step between radii (never below one voxel)", unit="mm", low=0.1)
    threshold: float = parameter(0.2, "truncation of the deconvolution kernel", low=0.0, high=1.0)


@dataclass(frozen=True)
class ResharpParams:
    """Parameters of RESHARP.

    Chosen on ten simulated heads (1 to 3 mm, isotropic or not, straight or oblique): radii of 3, 6 and
    12 mm give the error of a single radius of 6 mm where both are defined, and keep about 84 rather
    than 68 percent of the mask.
    """

    radius_mm: float = parameter(
        3.0, "smallest kernel radius (never below one voxel); sets how much of the mask is kept", unit="mm", low=0.5
    )
    radius_max_mm: float = parameter(
        12.0, "largest kernel radius, by doubling the smallest; equal to it for one radius only", unit="mm", low=0.5
    )
    tikhonov: float = parameter(3e-3, "weight of the Tikhonov term", low=0.0)
    tolerance: float = parameter(1e-3, "relative residual at which conjugate gradients stop", low=0.0)
    max_iter: int = parameter(60, "conjugate gradient iterations", low=1)


@dataclass(frozen=True)
class PdfParams:
    """Parameters of projection onto dipole fields.

    The Tikhonov weight was chosen on six simulated heads: without it, errors of single voxels end up
    as strong sources beside the mask.
    """

    padding_mm: float = parameter(30.0, "room for sources on each side of the mask's bounding box", unit="mm", low=0.0)
    tikhonov: float = parameter(1e-4, "weight of the Tikhonov term on the sources", low=0.0)
    tolerance: float = parameter(1e-3, "relative residual at which conjugate gradients stop", low=0.0)
    max_iter: int = parameter(60, "conjugate gradient iterations", low=1)


@dataclass(frozen=True)
class LbvParams:
    """Parameters of the Laplacian boundary value method."""

    peel_mm: float = parameter(0.0, "depth of the border that is taken off first", unit="mm", low=0.0)
    tolerance: float = parameter(1e-6, "relative residual at which conjugate gradients stop", low=0.0)
    max_iter: int = parameter(1000, "conjugate gradient iterations", low=1)


@dataclass(frozen=True)
class IsmvParams:
    """Parameters of the iterated spherical mean value."""

    radius_mm: float = parameter(5.0, "kernel radius (never below one voxel)", unit="mm", low=0.5)
    tolerance: float = parameter(1e-5, "relative residual at which conjugate gradients stop", low=0.0)
    max_iter: int = parameter(200, "conjugate gradient iterations", low=1)


@dataclass(frozen=True)
class SharpParams:
    """Parameters of SHARP."""

    radius_mm: float = parameter(6.0, "kernel radius (never below one voxel)", unit="mm", low=0.5)
    threshold: float = parameter(0.05, "truncation of the deconvolution kernel", low=0.0, high=1.0)


@dataclass(frozen=True)
class TfiParams:
    """Parameters of total field inversion.

    All but the padding are relative: the field is divided by the spread (robust standard deviation) of
    what is left of it after LBV.

    With the same weight everywhere (`edge_weight` 1, `weight` 0.05) the local fields of four phantom heads (seeds 321
    to 323, 331) had 25.8, 27.5, 33.5 and 38.6 % of error, with these defaults 22.4, 23.6, 30.2 and 37.0 %; those of
    three scans of label maps 57.0, 46.5 and 106.5, with these 56.6, 46.3 and 102.7 % (faces on the surface of the mask
    counted as edges then).
    """

    weight: float = parameter(0.065, "weight of the total variation of the sources inside", unit="mm", low=0.0)
    edge_weight: float = parameter(0.3, EDGE_WEIGHT, low=1e-3, high=1.0)
    edge: float = parameter(0.1, "gradient below which the total variation is rounded off", unit="1/mm", low=1e-6)
    tikhonov: float = parameter(1e-5, "weight of the Tikhonov term on the sources outside", low=0.0)
    padding_mm: float = parameter(10.0, "room for sources on each side of the mask's bounding box", unit="mm", low=0.0)
    model: bool = parameter(False, "field of the sources inside, without noise; false: total field less background")
    passes: int = parameter(12, "passes of reweighted least squares", low=1)
    coarse_mm: float = parameter(2.5, "voxels are joined up to this edge for a first solution", unit="mm", low=0.0)
    fine_passes: int = parameter(3, "passes on smaller voxels, after those on the joined ones", low=1)
    tolerance: float = parameter(1e-2, "relative residual at which conjugate gradients stop", low=0.0)
    max_iter: int = parameter(15, "conjugate gradient iterations in each pass", low=1)


@dataclass(frozen=True)
class KeepParams:
    """Parameters of leaving the local field as it is (none)."""
