"""Parameters of phase and echoes, with units, defaults and limits."""

from __future__ import annotations

from dataclasses import dataclass

from qsmprep.core.registry import parameter


@dataclass(frozen=True)
class ArtefactParams:
    """Parameters of what is looked for, and undone, in the phase of a scanner."""

    bipolar: str = parameter(
        "auto", "correct the phase between odd and even echoes: where it is found, always, or never",
        choices=("auto", "on", "off"),
    )  # fmt: skip
    bipolar_min_rad: float = parameter(
        0.1, "smallest phase between odd and even echoes that `auto` corrects", unit="rad", low=0.0
    )
    slices: str = parameter("auto", "undo a sign that alternates between slices", choices=("auto", "off"))


@dataclass(frozen=True)
class OffsetParams:
    """Parameters of phase offset removal (MCPC-3D-S).

    One pass is the published method. On two simulated heads (3 T) with a quadratic offset, 1, 2, 3 and 5
    passes left a smooth error of the field of 49, 17, 11 and 9 % (and 52, 20, 16 and 16 %) of the spread of
    the local field in the outermost 2 mm.
    """

    sigma_mm: float = parameter(7.0, "standard deviation of the Gaussian that smooths the offset", unit="mm", low=0.1)
    passes: int = parameter(3, "smoothings; each works on what the others left", low=1)


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


@dataclass(frozen=True)
class RobustParams:
    """Parameters of the robust fit.

    Susceptibility by TFI and WH-QSM from the phase of four phantom heads (seeds 321, 322, 323, 331), NRMSE with the
    nonlinear fit and with this one: 31.4, 31.3, 37.6, 29.7 -> 31.3, 30.7, 36.6, 28.6 %; of three scans of label maps:
    64.1, 50.7, 71.9 -> 62.0, 49.2, 56.9 %. Limits of 0.15, 0.3 and 0.5 rad gave 30.7, 30.7, 30.8 % on the second head,
    28.9, 28.6, 28.4 % on the fourth and 55.9, 56.9, 59.4 % on the last scan. With the first and third echo alone
    nothing is lost. Started from the first echo alone, in an earlier form, the fit was better on two scans and worse
    on one, and on a real scan followed the flow in vessels.
    """

    fit_offset: bool = parameter(False, "fit a phase offset as well (for phase whose offset was not removed)")
    limit_rad: float = parameter(
        0.3, "phase that an echo may be off by, beside noise, before it counts less", unit="rad", low=1e-3
    )
    max_iter: int = parameter(8, "steps once all echoes take part", low=1)
    tolerance: float = parameter(1e-3, "stop when the step falls below this", unit="rad", low=0.0)


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


@dataclass(frozen=True)
class ClearSwiParams:
    """Parameters of susceptibility-weighted imaging after CLEAR-SWI."""

    highpass_mm: float = parameter(
        4.0, "standard deviation of the Gaussian whose low pass is taken from the phase", unit="mm", low=0.1
    )
    turn: float = parameter(
        2.5, "where the phase mask turns down, in mean positive frequencies; smaller is darker", low=0.1, high=100.0
    )
    bias_mm: float = parameter(
        7.0, "standard deviation of the Gaussian that estimates the coil's sensitivity; 0 keeps it", unit="mm", low=0.0
    )
    softplus: float = parameter(
        2.0, "steepness with which dark voxels are compressed; 0 keeps the magnitude as it is", low=0.0, high=20.0
    )
    minip_mm: float = parameter(7.0, "thickness of the minimum-intensity projection", unit="mm", low=0.0)
