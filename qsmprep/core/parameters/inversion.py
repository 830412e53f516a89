"""Parameters of referencing and dipole inversion, with units, defaults and limits."""

from __future__ import annotations

from dataclasses import dataclass

from qsmprep.core.registry import parameter

FOLLOWS = "chosen from the residual"
ALSO = "; 0 chooses it from the residual of the fit"
EDGE_WEIGHT = "part of the weight that is left where the map is steepest; 1 for the same everywhere"


@dataclass(frozen=True)
class ReferenceParams:
    """Parameters of referencing (none)."""


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
    and 50.5 %. The discrepancy principle was up to 11 points worse than a fixed weight; three times the
    likeliest weight was within 1 point of the best on four other fields (56.7, 72.1, 56.2, 56.1 %; a fixed
    0.02 gave 56.5, 75.5, 57.8, 56.3 %): two true ones at 1 mm with noise of 0.002 and 0.006 ppm and mismatch,
    and at 2 mm a true one with 0.003 ppm and one from phase. In a small scan of 2.5 mm from phase it
    left 44 % of the contrast of nuclei where 0.02 leaves more than half: the fixed weight is the default.
    """

    weight: float = parameter(
        0.02,
        "weight of the squared gradient; 0 chooses it from the spectrum of the field",
        unit="mm^2",
        low=0.0,
        zero="chosen from the spectrum of the field",
    )


@dataclass(frozen=True)
class TvParams:
    """Parameters of total-variation inversion by ADMM.

    Weights of 2e-4, 3e-4, 4e-4, 5e-4, 7e-4 gave 45.2, 43.9, 44.1, 44.9, 47.3 %; at 1 mm 2e-4 and 4e-4
    gave 34.4 and 39.1 %. Within 1 point of the best for noise of 0.001 to 0.006 ppm at 1 and 2 mm was
    0.06 times the noise (ppm) times the voxel edge (mm). Chosen from the residual (a tenth of its spread
    times the voxel edge), five other fields gave 41.8, 60.9, 39.9, 32.9, 48.2 %; the best of six weights a
    factor of 2 apart 41.5, 58.4, 39.5, 32.4, 48.2 %; and 2e-4 41.5, 71.4, 39.5, 35.9, 48.2 %. These were
    three true ones at 1 mm with mismatch and noise of 0.002, 0.006 and 0.002 ppm, and at 2 mm a true one
    with 0.003 ppm and one from phase.

    All of that with weights dealt with by majorisation and a penalty of 0.1, where strong sources grew for hundreds of
    iterations after the map seemed to stand still. With the field split off as well, a penalty of 0.02 and
    over-relaxation six fields from phase (seeds 331, 325, 321, 324, two label maps; without what background removal
    left) went from 40.7, 33.4, 29.2, 30.1, 37.6, 50.7 % after 84 to 112 iterations to 28.6, 31.6, 28.4, 28.9, 39.0,
    50.7 % after 50 (the first, second and fifth have lesions; 28.0, 31.4, 28.2, 28.8, 38.9, 50.6 % after 160).

    With `edge_weight` 0.5 instead of 1 twelve local fields with noise, anisotropy and leftover background (two phantom
    heads and two label maps; 1 mm, 0.5 x 0.5 x 2 mm, 1 mm with lesions) went from 42.2 to 41.5 % in the mean, none got
    worse. See also `WhqsmParams`.
    """

    weight: float = parameter(0.0, "weight of the total variation" + ALSO, unit="ppm mm", low=0.0, zero=FOLLOWS)
    edge_weight: float = parameter(0.5, EDGE_WEIGHT, low=1e-3, high=1.0)
    rho: float = parameter(0.02, "penalty of the gradient's split, relative to a 1 mm grid; speed only", low=1e-6)
    fidelity: float = parameter(1.0, "penalty of the field's split; speed only", low=1e-6)
    tolerance: float = parameter(3e-3, "relative change at which the iteration stops", low=0.0)
    max_iter: int = parameter(150, "ADMM iterations", low=1)


@dataclass(frozen=True)
class RtsParams:
    """Parameters of rapid two-step inversion.

    With 5 LSQR iterations at a threshold of 0.15, weights of 1e-3, 3e-3, 6e-3 gave 54.8, 51.8, 51.3 %;
    with 3 iterations 56.8, 55.1, 55.7 %. At 1 mm 1.5e-3, 3e-3, 5e-3 gave 46.2, 44.5, 46.4 %. More
    iterations fit the noise. Chosen from the residual of the first step (1.5 times its spread times the
    voxel edge), four of the fields of `TvParams` (without the tilted one) gave 54.3, 64.3, 43.2, 52.1 %; the
    best of four or five weights 54.3, 63.8, 43.1, 52.1 %; 3e-3 gave 54.3, 68.0, 45.9, 52.1 %.
    """

    threshold: float = parameter(0.15, "kernel magnitude above which k-space is well conditioned", low=1e-3, high=0.6)
    lsqr_iter: int = parameter(5, "LSQR iterations of the first step", low=1)
    weight: float = parameter(0.0, "weight of the total variation" + ALSO, unit="ppm mm", low=0.0, zero=FOLLOWS)
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
    27.0 %. Chosen from the residual (0.15 times its spread times the voxel edge), the first, second and
    fourth of the fields of `TvParams` gave 37.1, 59.4, 37.0 %; 4e-4 gave 37.0, 64.3, 37.1 %. The heads'
    magnitude shares their anatomy; without a magnitude the result is that of fraction 0.
    """

    weight: float = parameter(
        0.0, "weight of the edge-masked total variation" + ALSO, unit="ppm mm", low=0.0, zero=FOLLOWS
    )
    edge_fraction: float = parameter(0.3, "fraction of voxel faces taken as edges of the magnitude", low=0.0, high=1.0)
    smv_radius_mm: float = parameter(
        0.0, "radius of the spherical-mean-value preconditioning; 0 for none", unit="mm", low=0.0
    )
    csf_weight: float = parameter(
        0.0, "weight of the variance over the ventricles (MEDI+0; about 0.1); 0 for none", low=0.0
    )
    max_iter: int = parameter(10, "Gauss-Newton iterations", low=1)
    cg_iter: int = parameter(30, "conjugate gradient iterations in each", low=1)
    tolerance: float = parameter(0.05, "relative change at which the iteration stops", low=0.0)


@dataclass(frozen=True)
class TsvdParams:
    """Parameters of truncated singular value decomposition."""

    threshold: float = parameter(0.15, "kernel magnitude below which k-space is left out", low=1e-3, high=0.66)


@dataclass(frozen=True)
class NdiParams:
    """Parameters of nonlinear dipole inversion."""

    step: float = parameter(2.0, "length of a step; above 4.5 the descent would diverge", low=1e-3, high=4.4)
    tikhonov: float = parameter(1e-5, "weight of the squared map", low=0.0, high=0.1)
    max_iter: int = parameter(50, "gradient steps; fewer regularise more", low=1)


@dataclass(frozen=True)
class NltvParams:
    """Parameters of nonlinear total-variation inversion (FANSI)."""

    weight: float = parameter(0.0, "weight of the total variation" + ALSO, unit="ppm mm", low=0.0, zero=FOLLOWS)
    edge_weight: float = parameter(0.5, EDGE_WEIGHT, low=1e-3, high=1.0)
    rho: float = parameter(0.02, "penalty of the gradient's split, relative to a 1 mm grid; speed only", low=1e-6)
    fidelity: float = parameter(1.0, "penalty of the field's split; speed only", low=1e-6)
    tolerance: float = parameter(3e-3, "relative change at which the iteration stops", low=0.0)
    max_iter: int = parameter(150, "ADMM iterations", low=1)


@dataclass(frozen=True)
class NltgvParams:
    """Parameters of nonlinear total-generalised-variation inversion (FANSI).

    A penalty of 0.1 without over-relaxation left strong sources far from the solution: with lesions at 7 T (seed 331)
    34.0 % from the phase, 29.7 % now; on two heads without lesions 28.3 and 34.4, now 28.3 and 34.6 %.
    """

    weight: float = parameter(0.0, "weight of the first order" + ALSO, unit="ppm mm", low=0.0, zero=FOLLOWS)
    ratio_mm: float = parameter(2.0, "weight of the second order over that of the first", unit="mm", low=0.0)
    rho: float = parameter(0.03, "penalty of the gradients' splits, relative to a 1 mm grid; speed only", low=1e-6)
    fidelity: float = parameter(1.0, "penalty of the field's split; speed only", low=1e-6)
    tolerance: float = parameter(2e-3, "relative change at which the iteration stops", low=0.0)
    max_iter: int = parameter(150, "ADMM iterations", low=1)


TAKEN_AFTER_TFI = 0.6
"""Part of the harmonic field that a run takes off after TFI, see :class:`WhqsmParams`."""


@dataclass(frozen=True)
class WhqsmParams:
    """Parameters of weak-harmonic regularisation.

    With a penalty of 0.1, five fields from phase (TFI; 1.2 to 2 mm, three with lesions) gave 35.6, 33.0, 43.1, 37.1,
    32.3 % when the relative change came to 3e-3, and 33.4, 31.6, 41.4, 36.2, 31.1 % at 1e-3, after 61 to 84 iterations;
    with 0.02 32.2, 31.2, 37.2, 35.7, 30.3 % at 3e-3, after 30 to 36. The change alone does not tell how far off the
    solution is: the larger the penalty, the slower strong sources grow.

    On five such fields (seeds 321 to 325, one with lesions), 32.4, 32.1, 38.2, 34.5, 33.1 % with `beta` 150, `rho` 0.02
    and `harmonic_rho` 3 became 31.4, 31.3, 37.6, 33.9, 33.3 % with 300, 0.01 and 1, in 35 to 45 iterations instead of
    29 to 34. With a larger `beta` the map of lesions gets worse (35.2 % at 1500), that of local fields without any
    remainder of the background better (two true fields with 0.003 ppm of noise: 42.2 and 44.2 % at 150, 38.6 and 40.7 %
    at 1500; TV has 33.1 and 34.9 %). A penalty of the harmonic field's size or gradient only trades one for the other:
    with one of its gradient the field of one head from phase went from 31.4 to 31.7, 32.5, 34.1, 34.6 %, its true
    field from 41.6 to 41.0, 38.8, 34.7, 32.8 %. So the harmonic field is kept or given up as a whole (`harmonic`).

    What is found after TFI has little to do with the error that is left there: of eight phantom heads the part that is
    best for the local field was 0.1 to 1.1 of it, 0.4 in the mean (0.6 with 30 % of anisotropy, 1.9 with 60 %). Eight
    such heads (321 to 323, 331, 340 to 342 and 345; four of 1 mm) had by ConeNet 27.2 % with nothing, 26.8 with half
    and 27.2 with all of it taken off, and an XSIM of 0.83, 0.83 and 0.81; one with 30 % of anisotropy 42.5, 42.3 and
    42.6 %, one with 60 % 67.7, 64.8 and 62.7 %. So 0.6 is taken. After V-SHARP, RESHARP, PDF and LBV, which leave
    much more, all of it is.

    A third of the error of four phantom heads was in veins, most of them at the rim, which came to nine tenths of
    their strength. With `edge_weight` 0.5 and the larger weight that then follows from the residual, the fields of
    seeds 321 to 323, 331, 341 and 342 from phase (TFI as it was) went from 31.3, 30.7, 36.6, 28.6, 37.3 and 41.3 % to
    28.4, 27.8, 32.7, 26.4, 33.2 and 36.5 %. Nine scans of label maps painted with strong texture had from 3 % less to
    4 % more error, 1 % more in the mean; 0.6 leaves them alone and the phantoms two thirds of the gain. With TFI
    sparing edges as well the first six have 27.7, 26.9, 31.9, 25.9, 32.8 and 36.1 %. Edges of the magnitude, as in
    MEDI, made all six worse (by 4 to 12 %), and those of the map less good. Faces on the surface of the mask counted as
    edges in all of this.
    """

    weight: float = parameter(0.0, "weight of the total variation" + ALSO, unit="ppm mm", low=0.0, zero=FOLLOWS)
    edge_weight: float = parameter(0.5, EDGE_WEIGHT, low=1e-3, high=1.0)
    beta: float = parameter(
        300.0, "weight of the squared Laplacian of the field that is nearly harmonic", unit="mm^4", low=0.0
    )
    rho: float = parameter(0.01, "penalty of the gradient's split, relative to a 1 mm grid; speed only", low=1e-6)
    harmonic_rho: float = parameter(
        1.0, "penalty of the Laplacian's split, relative to a 1 mm grid; speed only", low=1e-6
    )
    harmonic: str = parameter(
        "auto",
        "whether there is such a field: in a run, where it comes from phase, auto is yes; in a single step auto is no "
        "where what is found resembles the field of the map (then it is nltv, and only weight and edge_weight count)",
        choices=("auto", "yes"),
    )
    taken: float = parameter(
        0.0,
        f"part of that field that is remainder for other inversions; 0: all, in a run {TAKEN_AFTER_TFI:g} after TFI",
        low=0.0,
        high=1.0,
        zero="all",
    )
    outliers: float = parameter(
        8.0, "misfit in robust standard deviations above which it counts as remainder too; 0 for none", low=0.0
    )
    fidelity: float = parameter(1.0, "penalty of the field's split; speed only", low=1e-6)
    tolerance: float = parameter(3e-3, "relative change at which the iteration stops", low=0.0)
    max_iter: int = parameter(150, "ADMM iterations", low=1)


@dataclass(frozen=True)
class CosmosParams:
    """Parameters of the inversion of several orientations.

    On a small head from three orientations within 30 degrees and noise of 0.002 ppm, weights of 0, 1e-3,
    3e-3, 1e-2 gave 18.8, 16.6, 15.3, 15.2 %; at 0.0005 ppm 5.8, 5.2, 5.4, 8.5 %. Without a weight, a tolerance
    of 1e-3 instead of 1e-2 gave 53 % at 0.002 ppm: sources outside the mask then fit the noise.
    """

    tikhonov: float = parameter(1e-3, "weight of the squared map, relative to weights of 1", low=0.0)
    tolerance: float = parameter(1e-2, "relative residual at which conjugate gradients stop", low=0.0)
    max_iter: int = parameter(100, "conjugate gradient iterations", low=1)


@dataclass(frozen=True)
class TgvParams:
    """Parameters of single-step inversion of the total field with total generalised variation.

    With the field split off for every radius, 32.3 % on a simulated head from its phase (seed 321) and 35.0 % on one
    with lesions (331); before, with the data term bounded from above instead, 37.1 and 46.4 % in as much time.
    Weights of 0.5, 1 and 1.5 times that which is chosen gave 30.9, 32.3, 41.4 % and 35.6, 35.0, 40.9 %.
    """

    weight: float = parameter(0.0, "weight of the first order" + ALSO, unit="ppm mm", low=0.0, zero=FOLLOWS)
    ratio_mm: float = parameter(2.0, "weight of the second order over that of the first", unit="mm", low=0.0)
    radius_mm: float = parameter(
        3.0, "smallest radius of the balls whose means are taken off (never below one voxel)", unit="mm", low=0.5
    )
    radius_max_mm: float = parameter(12.0, "largest radius, by doubling the smallest", unit="mm", low=0.5)
    rho: float = parameter(0.03, "penalty of the gradients' splits, relative to a 1 mm grid; speed only", low=1e-6)
    fidelity: float = parameter(1.0, "penalty of the fields' splits; speed only", low=1e-6)
    tolerance: float = parameter(2e-3, "relative change at which the iteration stops", low=0.0)
    max_iter: int = parameter(200, "ADMM iterations", low=1)
