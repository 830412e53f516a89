"""The parameters of every method, with units, defaults and limits.

Light on purpose: the command line reads this module without importing numpy or torch.
"""

from __future__ import annotations

from dataclasses import dataclass

from qsmprep.core.registry import parameter

# --- phase offset -------------------------------------------------------------------------------


@dataclass(frozen=True)
class OffsetParams:
    """Parameters of phase offset removal (MCPC-3D-S)."""

    sigma_mm: float = parameter(7.0, "standard deviation of the Gaussian that smooths the offset", unit="mm", low=0.1)


# --- phase unwrapping ---------------------------------------------------------------------------


@dataclass(frozen=True)
class RomeoParams:
    """Parameters of path-following unwrapping with ROMEO's weights."""

    individual: bool = parameter(False, "unwrap every echo by itself instead of following the template echo")
    template_echo: int = parameter(1, "echo unwrapped in space, from 1 on", low=1)


@dataclass(frozen=True)
class LaplacianUnwrapParams:
    """Parameters of Laplacian unwrapping."""

    snap: bool = parameter(False, "go to the nearest multiple of 2 pi, which makes the result exact")


@dataclass(frozen=True)
class BestPathParams:
    """Parameters of best-path unwrapping (scikit-image)."""


# --- echo combination ---------------------------------------------------------------------------


@dataclass(frozen=True)
class WeightedParams:
    """Parameters of the weighted combination of unwrapped echoes."""

    fit_offset: bool = parameter(False, "fit a phase offset as well (for phase whose offset was not removed)")


@dataclass(frozen=True)
class NonlinearParams:
    """Parameters of the nonlinear complex fit."""

    fit_offset: bool = parameter(False, "fit a phase offset as well (for phase whose offset was not removed)")
    max_iter: int = parameter(30, "Gauss-Newton iterations", low=1)
    tolerance: float = parameter(1e-4, "stop when the step falls below this", unit="rad", low=0.0)


# --- relaxometry --------------------------------------------------------------------------------


@dataclass(frozen=True)
class R2StarParams:
    """Parameters of the nonlinear fit of R2*."""

    max_hz: float = parameter(1000.0, "largest R2*", unit="1/s", low=1.0)
    max_iter: int = parameter(30, "Gauss-Newton iterations", low=1)
    tolerance_hz: float = parameter(1e-3, "stop when no step is larger", unit="1/s", low=0.0)


@dataclass(frozen=True)
class LogLinearParams:
    """Parameters of the weighted log-linear fit of R2*."""

    max_hz: float = parameter(1000.0, "largest R2*", unit="1/s", low=1.0)


@dataclass(frozen=True)
class ArloParams:
    """Parameters of ARLO."""

    max_hz: float = parameter(1000.0, "largest R2*", unit="1/s", low=1.0)


# --- masks --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class BetParams:
    """Parameters of brain extraction by a deformable surface."""

    fraction: float = parameter(0.5, "fractional intensity threshold; smaller gives a larger brain", low=0.0, high=1.0)


@dataclass(frozen=True)
class FslBetParams:
    """Parameters of FSL's brain extraction tool."""

    fraction: float = parameter(0.5, "fractional intensity threshold (-f)", low=0.0, high=1.0)


@dataclass(frozen=True)
class ThresholdMaskParams:
    """Parameters of the mask of everything bright."""

    factor: float = parameter(0.7, "factor on Otsu's threshold of the magnitude", low=0.0, high=5.0)
    open_mm: float = parameter(2.0, "radius of the opening that removes thin bridges", unit="mm", low=0.0)


@dataclass(frozen=True)
class QualityMaskParams:
    """Parameters of the phase-quality mask."""

    threshold: float = parameter(0.0, "quality threshold; 0 chooses it by Otsu's method", low=0.0, high=1.0)
    otsu_ceiling: float = parameter(0.5, "highest threshold that Otsu's method may choose", low=0.0, high=1.0)
    close_mm: float = parameter(2.0, "radius of the closing that mends small unreliable spots", unit="mm", low=0.0)
    open_mm: float = parameter(2.0, "radius of the opening that removes thin bridges", unit="mm", low=0.0)
    erode_mm: float = parameter(0.0, "depth of the final erosion", unit="mm", low=0.0)


# --- background field removal -------------------------------------------------------------------


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


# --- reference ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class ReferenceParams:
    """Parameters of referencing (none)."""


# --- dipole inversion ---------------------------------------------------------------------------
# Weights penalise gradients per mm, so they mean the same at any voxel size. The defaults were chosen
# on simulated heads (2 mm; truth at 1 mm; field noise 0.003 ppm, once 0.001 ppm; two of six with 20 %
# residual background and 25 % model mismatch) and one at 1 mm. Errors are NRMSE in percent: the mean over
# the six heads, then that at 1 mm.


@dataclass(frozen=True)
class TkdParams:
    """Parameters of thresholded k-space division.

    Thresholds of 0.1, 0.15, 0.2, 0.25 gave 75.4, 66.0, 61.5, 59.5 %; at 0.001 ppm noise 42.3, 41.1,
    42.3, 44.4 %; at 1 mm 0.15 and 0.2 gave 64.6 and 59.8 %. More than 0.2 costs contrast.
    """

    threshold: float = parameter(0.2, "kernel magnitude below which it is truncated", low=1e-3, high=0.66)
    correct_bias: bool = parameter(False, "divide by the mean of the effective transfer function")


@dataclass(frozen=True)
class L2Params:
    """Parameters of the closed-form inversion with a quadratic gradient penalty.

    Weights of 0.01, 0.03, 0.06, 0.12 gave 57.1, 53.2, 54.1, 57.6 %; at 1 mm 0.01 and 0.03 gave 47.1
    and 50.5 %. The discrepancy principle was up to 11 points worse than a fixed weight.
    """

    weight: float = parameter(0.02, "weight of the squared gradient", unit="mm^2", low=1e-6)


@dataclass(frozen=True)
class TvParams:
    """Parameters of total-variation inversion by ADMM.

    Weights of 2e-4, 3e-4, 4e-4, 5e-4, 7e-4 gave 45.2, 43.9, 44.1, 44.9, 47.3 %; at 1 mm 2e-4 and 4e-4
    gave 34.4 and 39.1 %. Within 1 point of the best for noise of 0.001 to 0.006 ppm at 1 and 2 mm was
    0.06 times the noise (ppm) times the voxel edge (mm).
    """

    weight: float = parameter(2e-4, "weight of the total variation", unit="ppm mm", low=0.0)
    rho: float = parameter(0.1, "penalty of the splitting, relative to a 1 mm grid; changes the speed only", low=1e-6)
    tolerance: float = parameter(1e-3, "relative change at which the iteration stops", low=0.0)
    max_iter: int = parameter(250, "ADMM iterations", low=1)


@dataclass(frozen=True)
class RtsParams:
    """Parameters of rapid two-step inversion.

    With 5 LSQR iterations at a threshold of 0.15, weights of 1e-3, 3e-3, 6e-3 gave 54.8, 51.8, 51.3 %;
    with 3 iterations 56.8, 55.1, 55.7 %. At 1 mm 1.5e-3, 3e-3, 5e-3 gave 46.2, 44.5, 46.4 %. More
    iterations fit the noise.
    """

    threshold: float = parameter(0.15, "kernel magnitude above which k-space is well conditioned", low=1e-3, high=0.6)
    lsqr_iter: int = parameter(5, "LSQR iterations of the first step", low=1)
    weight: float = parameter(3e-3, "weight of the total variation", unit="ppm mm", low=0.0)
    rho: float = parameter(0.1, "penalty of the splitting, relative to a 1 mm grid; changes the speed only", low=1e-6)
    tolerance: float = parameter(1e-3, "relative change at which the iteration stops", low=0.0)
    max_iter: int = parameter(100, "ADMM iterations", low=1)


@dataclass(frozen=True)
class IlsqrParams:
    """Parameters of iLSQR.

    With 10 LSQR and 10 streak iterations, cones of 0.1, 0.15, 0.2 gave 60.6, 57.4, 56.8 % (43.8, 46.3,
    48.8 % at 0.001 ppm noise); LSQR alone gets worse beyond 5 to 10 iterations.
    """

    tolerance: float = parameter(1e-2, "relative residual at which LSQR stops", low=0.0)
    max_iter: int = parameter(10, "LSQR iterations", low=1)
    cone: float = parameter(0.15, "kernel magnitude below which k-space may hold streaks", low=1e-3, high=0.6)
    streak_tolerance: float = parameter(1e-2, "relative residual at which the estimation of streaks stops", low=0.0)
    streak_iter: int = parameter(10, "LSQR iterations of the estimation of streaks", low=1)


@dataclass(frozen=True)
class MediParams:
    """Parameters of morphology-enabled dipole inversion (nonlinear data term).

    With 30 % edges, weights of 3e-4, 5e-4, 8e-4 gave 39.5, 38.1, 38.5 %; at 5e-4, edge fractions of 0,
    0.15, 0.3, 0.5 gave 45.6, 39.9, 38.1, 41.8 %. At 1 mm weights of 1.5e-4, 3e-4, 5e-4 gave 28.8, 26.6,
    27.0 %. The heads' magnitude shares their anatomy; without a
    magnitude the result is that of fraction 0.
    """

    weight: float = parameter(4e-4, "weight of the edge-masked total variation", unit="ppm mm", low=0.0)
    edge_fraction: float = parameter(0.3, "fraction of voxel faces taken as edges of the magnitude", low=0.0, high=1.0)
    smv_radius_mm: float = parameter(
        0.0, "radius of the spherical-mean-value preconditioning; 0 for none", unit="mm", low=0.0
    )
    max_iter: int = parameter(10, "Gauss-Newton iterations", low=1)
    cg_iter: int = parameter(30, "conjugate gradient iterations in each", low=1)
    tolerance: float = parameter(0.05, "relative change at which the iteration stops", low=0.0)


# --- learned inversion --------------------------------------------------------------------------

ENSEMBLE = "odd averages the network and its mirror image, net(f) and -net(-f); none runs it once"
CONSISTENCY = "refine the network's map by closed-form data consistency, its weight following the noise"
TILE = "edge of the tiles that the network is run in; 0 for the whole volume where memory allows"
WEIGHTS = "folder of weight files and their cards; empty for those that come with qsmprep"


@dataclass(frozen=True)
class ConeNetParams:
    """Parameters of ConeNet at run time."""

    iterations: int = parameter(0, "steps; 0 for as many as in training", low=0, high=20)
    ensemble: str = parameter("odd", ENSEMBLE, choices=("odd", "none"))
    tile: int = parameter(0, TILE, unit="voxels", low=0)
    weights: str = parameter("", WEIGHTS)


@dataclass(frozen=True)
class LoopNetParams:
    """Parameters of LoopNet at run time."""

    iterations: int = parameter(0, "passes through the loop; 0 for as many as in training", low=0, high=20)
    consistency: bool = parameter(True, CONSISTENCY)
    ensemble: str = parameter("odd", ENSEMBLE, choices=("odd", "none"))
    tile: int = parameter(0, TILE, unit="voxels", low=0)
    weights: str = parameter("", WEIGHTS)


@dataclass(frozen=True)
class MetaQSMParams:
    """Parameters of Meta-QSM at run time."""

    consistency: bool = parameter(True, CONSISTENCY)
    ensemble: str = parameter("odd", ENSEMBLE, choices=("odd", "none"))
    tile: int = parameter(0, TILE, unit="voxels", low=0)
    weights: str = parameter("", WEIGHTS)


@dataclass(frozen=True)
class QSMInvNetParams:
    """Parameters of QSMInvNet+ at run time."""

    domain: str = parameter("target", "whose batch normalisation is used", choices=("target", "synthetic"))
    adapt: str = parameter(
        "none",
        "adapt to the subject: statistics of the batch normalisation, or weights by the physics",
        choices=("none", "statistics", "physics"),
    )
    adapt_steps: int = parameter(50, "steps of adaptation by the physics", low=1, high=10000)
    consistency: bool = parameter(True, CONSISTENCY)
    ensemble: str = parameter("odd", ENSEMBLE, choices=("odd", "none"))
    tile: int = parameter(0, TILE, unit="voxels", low=0)
    weights: str = parameter("", WEIGHTS)
