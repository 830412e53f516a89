"""The steps of ``qsmprep-step`` that take echoes: read, call the functions of ``core``, write."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qsmprep.cli.echoes import Echoes, mask_of, read_echoes, readout, tell
from qsmprep.cli.single import UNIT_SYMBOLS, check_writable, details, out_of_memory_told, write_results
from qsmprep.core.bibliography import load
from qsmprep.core.masking import threshold_mask
from qsmprep.core.registry import Method
from qsmprep.core.units import hz_per_ppm
from qsmprep.core.unwrap.romeo import voxel_quality
from qsmprep.core.weights import reliability
from qsmprep.errors import DataError, UsageError
from qsmprep.interfaces.masks import combined, extract_brain, placed
from qsmprep.version import qsmprep_version

Volume = NDArray[np.float32]
Used = list[tuple[Method, Any]]


def phase(args: argparse.Namespace) -> str:
    """Bring phase to radians, take out what the scanner and the coils did to it, and say what was done."""
    echoes = _start(args)
    mask = mask_of(args, echoes)
    with out_of_memory_told():
        corrected, used, info = _clean(args, echoes, _bright(echoes) if mask is None else mask)
    volumes = {args.out: _written(corrected)}
    if args.out_magnitude is not None:
        volumes[args.out_magnitude] = _written(_magnitude(echoes))
    facts = {"Description": "Wrapped phase, corrected", "Units": "rad", **info}
    _write(args, echoes, volumes, used, facts)
    return f"{args.out}: {_count(echoes)}, {info['Details']['bipolar']}, slice sign {info['Details']['slice_sign']}"


def unwrap(args: argparse.Namespace) -> str:
    """Unwrap the phase of one or several echoes and say what was done."""
    echoes = _start(args)
    mask = mask_of(args, echoes)
    method, params = args.chosen["unwrap"]
    with out_of_memory_told():
        result = method.load()(echoes.phase_rad, echoes.magnitude, mask, echoes.times, echoes.grid, params)
    facts = {
        "Description": "Unwrapped phase",
        "Units": "rad",
        "UnwrappingExact": result.exact,
        "Details": details(result.info),
    }
    _write(args, echoes, {args.out: _written(result.phase_rad)}, [(method, params)], facts)
    return f"{args.out}: {_count(echoes)} unwrapped, {method.title}"


def fieldmap(args: argparse.Namespace) -> str:
    """Combine the echoes into one field map and say what was done."""
    echoes = _start(args)
    te_s, mask = echoes.known_times, mask_of(args, echoes)
    per_unit, b0_t = _per_hz(args, echoes)
    used: Used = []
    info: dict[str, Any] = {}
    with out_of_memory_told():
        wrapped, unwrapped = echoes.phase_rad, echoes.unwrapped_rad
        if unwrapped is None:
            assert mask is not None
            wrapped, used, info = _clean(args, echoes, mask)
            method, params = args.chosen["unwrap"]
            unwrapped = method.load()(wrapped, echoes.magnitude, mask, te_s, echoes.grid, params).phase_rad
            used.append((method, params))
        method, params = args.chosen["combine"]
        fit = method.load()(unwrapped, wrapped, echoes.magnitude, mask, te_s, params)
    used.append((method, params))
    volumes: dict[Path, NDArray[Any]] = {args.out: fit.field_hz / np.float32(per_unit)}
    if args.out_noise is not None:
        volumes[args.out_noise] = fit.noise_hz / np.float32(per_unit)
    if args.out_residual is not None:
        volumes[args.out_residual] = fit.residual
    if args.out_weights is not None:
        volumes[args.out_weights] = reliability(fit.noise_hz, fit.residual, np.asarray(mask, bool))
    known = {**info.get("Details", {}), **details(fit.info)}
    facts = {
        "Description": "Total field offset; positive where the field is higher",
        "Units": UNIT_SYMBOLS[args.units],
        **info,
        "MagneticFieldStrength": b0_t,
        "Details": known,
    }
    _write(args, echoes, volumes, used, facts)
    return f"{args.out}: {method.title} of {_count(echoes)}, in {UNIT_SYMBOLS[args.units]}"


def mask(args: argparse.Namespace) -> str:
    """Extract the brain, and what of it has reliable phase, and say how much that is."""
    echoes = _start(args)
    magnitude = _magnitude(echoes)
    method, params = args.chosen["mask"]
    used: Used = [(method, params)]
    with out_of_memory_told():
        options = placed(method, args.device)
        brain, info = extract_brain(combined(magnitude), echoes.like.image, method.load(), params, **options)
        volumes: dict[Path, NDArray[Any]] = {args.out: brain}
        if args.out_qsm is not None:
            cleaned, more, _ = _clean(args, echoes, brain)
            quality, quality_params = args.chosen["quality"]
            seen = voxel_quality(cleaned, magnitude, echoes.times).astype(np.float32)
            volumes[args.out_qsm] = quality.load()(brain, seen, echoes.grid, quality_params)
            used += [*more, (quality, quality_params)]
    millilitres = {path: np.count_nonzero(v) * echoes.grid.voxel_volume_mm3 / 1000 for path, v in volumes.items()}
    known = {"Details": details(info)} if info else {}
    facts = {"Description": "Brain mask", "Type": "Brain", "Volume": round(millilitres[args.out], 3), **known}
    _write(args, echoes, volumes, used, facts)
    lines = [f"{path}: {volume:.0f} mL" for path, volume in millilitres.items()]
    return "\n".join([*lines, *info.get("warnings", ())])


def r2star(args: argparse.Namespace) -> str:
    """Fit the decay of the magnitude and say what was done."""
    echoes = _start(args)
    method, params = args.chosen["relaxometry"]
    with out_of_memory_told():
        fit = method.load()(_magnitude(echoes), echoes.known_times, mask_of(args, echoes), params)
    volumes = {args.out: fit.r2star_hz}
    for path, volume in ((args.out_t2star, fit.t2star_s), (args.out_s0, fit.s0)):
        if path is not None:
            volumes[path] = volume
    facts = {"Description": "Effective transverse relaxation rate", "Units": "1/s", "Details": details(fit.info)}
    _write(args, echoes, volumes, [(method, params)], facts)
    return f"{args.out}: {method.title} over {_count(echoes)}"


def swi(args: argparse.Namespace) -> str:
    """Make the susceptibility-weighted image and say what was done."""
    echoes = _start(args)
    te_s, inside = echoes.known_times, mask_of(args, echoes)
    assert inside is not None
    method, params = args.chosen["swi"]
    with out_of_memory_told():
        cleaned, used, info = _clean(args, echoes, inside)
        result = method.load()(cleaned, _magnitude(echoes), inside, te_s, echoes.grid, params)
    volumes = {args.out: result.swi}
    if args.out_minip is not None:
        volumes[args.out_minip] = result.minip
    facts = {
        "Description": "Susceptibility-weighted image, veins dark",
        "Units": "arbitrary",
        **info,
        "Details": {**info["Details"], **details(result.info)},
    }
    _write(args, echoes, volumes, [*used, (method, params)], facts)
    thickness = result.info["minip_thickness_mm"]
    return f"{args.out}: {method.title} of {_count(echoes)}, projection over {thickness:g} mm"


def _start(args: argparse.Namespace) -> Echoes:
    """What all steps begin with: can it be written, and the echoes."""
    for path in args.results:
        check_writable(path)
    return read_echoes(args)


def _clean(args: argparse.Namespace, echoes: Echoes, mask: NDArray[np.bool_]) -> tuple[Volume, Used, dict[str, Any]]:
    """Phase without scanner artefacts and, where it is asked for, offset; the methods, and facts for the sidecar."""
    method, params = args.chosen["artefacts"]
    phase_rad, magnitude, te_s, grid = echoes.phase_rad, echoes.magnitude, echoes.times, echoes.grid
    found = method.load()(phase_rad, magnitude, mask, te_s, grid, params, readout=readout(args, echoes))
    tell(found.warnings)
    used: Used = [(method, params)]
    known = dict(found.info)
    corrected: Volume = found.phase_rad
    if "offset" in args.chosen and not args.keep_offset and len(te_s) > 1:
        method, params = args.chosen["offset"]
        removal = method.load()(corrected, magnitude, mask, te_s, grid, params)
        corrected, known = removal.phase_rad, {**known, **removal.info}
        used.append((method, params))
    return corrected, used, {**echoes.info, "Details": known}


def _bright(echoes: Echoes) -> NDArray[np.bool_]:
    """Where there is signal, for want of a mask."""
    if echoes.magnitude is None:
        return np.ones(echoes.grid.shape, bool)
    return threshold_mask(combined(echoes.magnitude), echoes.grid)


def _magnitude(echoes: Echoes) -> Volume:
    if echoes.magnitude is None:
        raise UsageError("there is no magnitude", expected="`--magnitude`, or `--real` with `--imag`")
    return echoes.magnitude


def _per_hz(args: argparse.Namespace, echoes: Echoes) -> tuple[float, float | None]:
    """How much of the wanted unit is 1 Hz, inverted; and the field strength where it is known."""
    stated = args.b0_t if args.b0_t is not None else echoes.facts.get("MagneticFieldStrength")
    b0_t = float(stated) if isinstance(stated, int | float) and 0.01 <= stated <= 25 else None
    if args.units == "hz":
        return 1.0, b0_t
    if b0_t is None:
        raise UsageError("a field in ppm needs `--b0-t`", expected="the field strength in tesla")
    return hz_per_ppm(b0_t), b0_t


def _written(series: Volume) -> Volume:
    """Echoes last, or the volume of a single one."""
    return series[0] if len(series) == 1 else np.moveaxis(series, 0, -1)


def _count(echoes: Echoes) -> str:
    return f"{len(echoes)} echo{'es' if len(echoes) > 1 else ''}"


def _write(
    args: argparse.Namespace, echoes: Echoes, volumes: dict[Path, NDArray[Any]], used: Used, facts: dict[str, Any]
) -> None:
    """Write the volumes, and beside the first the JSON that says how they were made."""
    te_s: Any = echoes.te_s[0] if echoes.te_s is not None and len(echoes.te_s) == 1 else echoes.te_s
    sidecar = {
        "MagneticFieldStrength": echoes.facts.get("MagneticFieldStrength"),
        **facts,
        "EchoTime": te_s,
        "Steps": [
            {
                "Step": method.step,
                "Method": method.name,
                "EstimationAlgorithm": method.title,
                "EstimationReference": [load()[key].url for key in method.citations],
                "Parameters": dataclasses.asdict(params),
            }
            for method, params in used
        ],
        "B0Direction": list(echoes.grid.b0_dir),
        "B0DirectionFrame": "voxel axes",
        "Inputs": [str(path) for path in args.inputs],
        "GeneratedBy": [{"Name": "qsmprep", "Version": qsmprep_version()}],
    }
    for path, volume in volumes.items():
        if volume.dtype.kind == "f" and not np.isfinite(volume).all():
            raise DataError("the result is not finite everywhere", file=path, remedy="check the images and the mask")
    write_results(volumes, {k: v for k, v in sidecar.items() if v is not None}, args.out, echoes.like)
