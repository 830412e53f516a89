"""What a scanner did to the phase: found, undone where it can be undone, and said."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qsmprep.core.echo_order import swapped_echoes
from qsmprep.core.grid import Grid
from qsmprep.core.parameters import ArtefactParams
from qsmprep.core.phase_artefacts import (
    BipolarFit,
    correct_slice_alternation,
    fit_bipolar,
    looks_filtered,
    plane,
    remove_bipolar,
)
from qsmprep.core.unwrap.common import check_inputs

FloatArray = NDArray[np.floating]
AXES = ("first", "second", "third")
FILTERED = "the phase looks high-pass filtered, as for vendor SWI: susceptibility will be too low"


@dataclass(frozen=True)
class CorrectedPhase:
    """Phase without the artefacts of the readout.

    Parameters
    ----------
    phase_rad : (n_echo, nx, ny, nz) float32 array
        Wrapped; the phase that came in where nothing was found.
    info : dict
        ``echo_order``, ``bipolar``, ``slice_sign``, ``high_pass_filtered``: what was found, for the sidecar.
    warnings : tuple of str
        The same for a person.
    """

    phase_rad: NDArray[np.float32]
    info: dict[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


def correct_phase(
    phase_rad: FloatArray,
    magnitude: FloatArray | None,
    mask: NDArray[np.bool_],
    te_s: Sequence[float],
    grid: Grid,
    params: ArtefactParams | None = None,
    *,
    readout: str = "",
) -> CorrectedPhase:
    """Undo alternating slice signs and the phase between odd and even echoes; tell filtered phase.

    Slices whose sign alternates (some GE reconstructions) are told by the data alone. The phase
    between odd and even echoes is fitted by a plane; it is taken away where it reaches
    ``params.bipolar_min_rad`` inside the mask, or where the readout is known to be bipolar, and kept
    where the readout is known to be monopolar. A constant of pi between odd and even echoes is the same
    as a uniform field of half the inverse echo spacing, and stays as such. Two echoes that look swapped
    are said, and nothing is done about bipolar readouts then; the phase of one makes echoes look so too,
    and is allowed for in every order unless the readout is known to be monopolar. Phase that was high-pass
    filtered cannot be mended.

    Parameters
    ----------
    phase_rad : (n_echo, nx, ny, nz) array
        Wrapped phase.
    magnitude : (n_echo, nx, ny, nz) array or None
        Arbitrary unit.
    mask : (nx, ny, nz) bool array
        The brain.
    te_s : sequence of float
        Echo times in s.
    grid : Grid
    params : ArtefactParams, optional
    readout : str
        ``bipolar`` or ``monopolar`` where it is known, else empty.

    Returns
    -------
    CorrectedPhase

    Raises
    ------
    DataError
        For shapes that do not fit, numbers that are not finite, bad echo times or an empty mask.

    References
    ----------
    Li et al., MAGMA 2015;28:347-355. doi:10.1007/s10334-014-0470-3
    """
    params = params or ArtefactParams()
    phase, magnitude, mask = check_inputs(phase_rad, magnitude, mask, te_s, grid)
    warnings: list[str] = []
    info: dict[str, Any] = {"slice_sign": "not looked for", "bipolar": "not looked for"}
    if params.slices == "auto":
        phase, axes = correct_slice_alternation(phase, magnitude, mask)
        info["slice_sign"] = "does not alternate"
        if axes:
            info["slice_sign"] = f"alternated along array axis {' and '.join(map(str, axes))}; undone"
            named = " and ".join(AXES[axis] for axis in axes)
            warnings.append(f"the sign of the signal alternated along the {named} array axis; this was undone")
    monopolar = params.bipolar != "on" and readout == "monopolar"
    swapped = swapped_echoes(phase, magnitude, mask, te_s, None if monopolar else grid)
    info["echo_order"] = f"echoes {_named(swapped)} look swapped" if swapped else "no swap found"
    if swapped:
        warnings.append(
            f"the phase images of echoes {_named(swapped)} look swapped: their phase fits the echo times better the "
            "other way round. Check their names and sidecars; nothing was changed"
        )
        info["bipolar"] = "not looked for: echoes look swapped"
    elif params.bipolar != "off":
        phase, found, said = _bipolar(phase, magnitude, mask, te_s, grid, params, readout)
        info |= found
        warnings += said
    check = looks_filtered(phase[-1], None if magnitude is None else magnitude[-1], mask, grid)
    info |= {"high_pass_filtered": check.filtered, "high_pass_score": round(check.score, 4)}
    if check.filtered:
        warnings.append(FILTERED)
    return CorrectedPhase(phase, info, tuple(warnings))


def _named(pairs: Sequence[tuple[int, int]]) -> str:
    first, *others = (f"{a + 1} and {b + 1}" for a, b in sorted(pairs, key=lambda pair: pair[1] - pair[0]))
    return f"{first} (or {', or '.join(others)})" if others else first


def _bipolar(
    phase: NDArray[np.float32],
    magnitude: FloatArray | None,
    mask: NDArray[np.bool_],
    te_s: Sequence[float],
    grid: Grid,
    params: ArtefactParams,
    readout: str,
) -> tuple[NDArray[np.float32], dict[str, Any], list[str]]:
    """Phase with or without the correction, what the sidecar says of it, and the warnings."""
    wanted = params.bipolar == "on" or readout == "bipolar"
    fitted = fit_bipolar(phase, magnitude, mask, te_s, grid)
    if fitted.reason:
        warnings = [f"the readout is bipolar, but cannot be corrected: {fitted.reason}"] if wanted else []
        return phase, {"bipolar": f"cannot be told: {fitted.reason}"}, warnings
    largest = difference_rad(fitted, mask, grid)
    facts = {
        "bipolar_difference_rad": round(largest, 4),
        "bipolar_gradient_rad_per_mm": [round(value, 6) for value in fitted.gradient_rad_per_mm],
    }
    text = f"even and odd echoes differ by up to {largest:.2f} rad of phase"
    if params.bipolar == "auto" and readout == "monopolar":
        doubt = largest >= params.bipolar_min_rad
        warnings = [f"{text}, although the readout is said to be monopolar; it was kept"] if doubt else []
        return phase, {"bipolar": "monopolar, as stated", **facts}, warnings
    if not wanted and largest < params.bipolar_min_rad:
        return phase, {"bipolar": "no difference between odd and even echoes", **facts}, []
    known = "" if wanted else ", as with a bipolar readout"
    return (
        remove_bipolar(phase, fitted, grid),
        {"bipolar": "corrected", **facts},
        [f"{text}{known}; this was corrected"],
    )


def difference_rad(fitted: BipolarFit, mask: NDArray[np.bool_], grid: Grid) -> float:
    """Largest phase in rad between odd and even echoes inside the mask, by the fitted plane."""
    difference = plane(grid, np.asarray(fitted.gradient_rad_per_mm), fitted.constant_rad)
    return float(np.abs(difference[np.asarray(mask, bool)]).max())
