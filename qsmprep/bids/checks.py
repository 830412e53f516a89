"""The preflight's single checks: echo times, field strength, parts, geometry.

Each takes images of one candidate and returns what it read with the problems and warnings it met.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

from qsmprep.bids.collect import Candidate, Image
from qsmprep.bids.headers import Header, offset_voxels, same_grid
from qsmprep.bids.metadata import finite_number
from qsmprep.core.units import GAMMA_HZ_PER_T
from qsmprep.errors import DataError, MissingFileError, QSMPrepError

SAME_TE_S = 1e-5
"""Echo times closer than this (in seconds) are the same."""

MAX_TE_S = 1.0
"""Echo times above this are not seconds."""

LONG_TE_S = 0.15
"""Echo times above this deserve a warning."""

MAX_B0_T = 20.0
"""Field strengths above this are not tesla."""

OF_RESULTS = frozenset({"desc", "space", "seg", "from", "to", "mode"})
"""Entities that results are told apart by; images that have one already leave no name for them."""

EchoImages = Mapping[int | None, Mapping[str, Image]]


def check_name(candidate: Candidate) -> Iterator[QSMPrepError]:
    """The names of the images must leave the entities of results free."""
    for entity, value in candidate.entities:
        if entity in OF_RESULTS:
            yield DataError(
                f"the name holds {entity}-{value}, and the results need `{entity}` for themselves",
                file=candidate.images[0].path,
                expected="names of raw images",
                remedy=f"say acq- or rec- instead of {entity}- in the names of images and sidecars",
            )


def by_echo(candidate: Candidate) -> tuple[dict[int | None, dict[str, Image]], list[QSMPrepError], list[str]]:
    """Sort the images by echo index and part.

    A file without ``part`` is a magnitude; where a ``part-mag`` is there as well, that one is used.
    """
    echoes: dict[int | None, dict[str, Image]] = defaultdict(dict)
    problems: list[QSMPrepError] = []
    warnings: list[str] = []
    for image in sorted(candidate.images, key=lambda i: (i.name.get("part") is None, i.path.name)):
        other = echoes[image.echo].setdefault(image.part, image)
        if other is image:
            continue
        if image.name.get("part") is None and other.name.get("part") is not None:
            warnings.append(f"{image.path.name} is passed over in favour of {other.path.name}")
        else:
            problems.append(
                DataError(
                    f"{other.path.name} and {image.path.name} are the same part of the same echo",
                    file=image.path,
                    expected="one file each",
                    remedy="remove one of them, or choose with --bids-filter-file",
                )
            )
    order = sorted(echoes, key=lambda index: -1 if index is None else index)
    return {index: echoes[index] for index in order}, problems, warnings


def check_parts(candidate: Candidate, echoes: EchoImages) -> tuple[list[QSMPrepError], list[str]]:
    """Phase, or real and imaginary, must be there for every echo; a magnitude for all or for none."""
    problems: list[QSMPrepError] = []
    warnings: list[str] = []
    first = candidate.images[0]
    if not candidate.has_phase:
        problems.append(
            MissingFileError(
                f"no phase: {candidate.suffix} of {candidate.key} has magnitude images only",
                file=first.path,
                expected="a part-phase file, or part-real and part-imag, for every echo",
                remedy="convert the phase series too (scanners must be told to keep it)",
            )
        )
        return problems, warnings
    whole = [parts for parts in echoes.values() if "phase" in parts or {"real", "imag"} <= set(parts)]
    for parts in echoes.values():
        problem = _incomplete(parts)
        if problem is not None:
            problems.append(problem)
    if any("phase" in p for p in whole) and not all("phase" in p for p in whole):
        problems.append(DataError("some echoes come as phase, others as real and imaginary parts", file=first.path))
    with_magnitude = [p for p in whole if "mag" in p or "phase" not in p]
    if not with_magnitude:
        warnings.append("no magnitude: all voxels and echoes weigh alike, there is no R2*, a brain mask must be given")
    elif len(with_magnitude) < len(whole):
        alone = next(p["phase"] for p in whole if p not in with_magnitude)
        problems.append(
            MissingFileError("this phase image has no magnitude, while other echoes have one", file=alone.path)
        )
    if any({"phase", "real"} <= set(p) or {"phase", "imag"} <= set(p) for p in whole):
        warnings.append("phase and real or imaginary parts are both there; the phase is used")
    return problems, warnings


def _incomplete(parts: Mapping[str, Image]) -> QSMPrepError | None:
    """The problem of one echo whose parts do not make a complex image."""
    if "phase" in parts or {"real", "imag"} <= set(parts):
        return None
    if "mag" in parts and len(parts) == 1:
        return MissingFileError(
            "this magnitude image has no phase image of the same echo",
            file=parts["mag"].path,
            expected=parts["mag"].path.name.replace("part-mag", "part-phase"),
            remedy="add the phase image, or remove the echo with --bids-filter-file",
        )
    have, lack = ("real", "imag") if "real" in parts else ("imag", "real")
    return MissingFileError(
        f"part-{have} is there without its part-{lack}",
        file=parts[have].path,
        expected=parts[have].path.name.replace(f"part-{have}", f"part-{lack}"),
    )


def check_echo_times(echoes: EchoImages) -> tuple[dict[int | None, float], list[QSMPrepError], list[str]]:
    """Echo time in seconds of every echo, from its sidecars."""
    te_s: dict[int | None, float] = {}
    problems: list[QSMPrepError] = []
    warnings: list[str] = []
    missing: list[Image] = []
    for index, parts in echoes.items():
        found: dict[str, float] = {}
        for part, image in parts.items():
            value = image.sidecar.values.get("EchoTime")
            problem = None if value is None else _bad_echo_time(value, image)
            if problem is not None:
                problems.append(problem)
            elif value is not None:
                found[part] = float(value)
        if found:
            te_s[index] = next(iter(found.values()))
            problems += _unequal_parts(parts, found)
            lacking = [parts[part].path.name for part in parts if part not in found]
            if lacking and not problems:
                warnings.append(f"EchoTime is missing for {lacking[0]}; that of the other part is used")
        elif all(image.sidecar.values.get("EchoTime") is None for image in parts.values()):
            missing += parts.values()
    if missing:
        problems.append(
            DataError(
                f"EchoTime is missing from the sidecars of {_count(missing)}",
                file=missing[0].path,
                expected="EchoTime in seconds in the JSON of every echo (or inherited)",
                remedy="convert again with a converter that writes EchoTime, or add it",
            )
        )
    problems += _duplicates(te_s, echoes)
    warnings += _te_oddities(te_s)
    return te_s, problems, warnings


def _bad_echo_time(value: Any, image: Image) -> QSMPrepError | None:
    if isinstance(value, list):
        return DataError(
            f"EchoTime is a list of {len(value)} values",
            file=image.path,
            expected="one echo a file, with one EchoTime in seconds",
            remedy="split the image into one file an echo",
        )
    number = finite_number(value)
    if number is None or number <= 0:
        return DataError(f"EchoTime is {value!r}", file=image.path, expected="a positive number of seconds")
    if number > MAX_TE_S:
        return DataError(
            f"EchoTime is {number:g}: this looks like milliseconds",
            file=image.path,
            expected=f"seconds, here {number / 1000:g}",
            remedy="divide EchoTime by 1000 in the sidecars",
        )
    return None


def _unequal_parts(parts: Mapping[str, Image], found: Mapping[str, float]) -> list[QSMPrepError]:
    if max(found.values()) - min(found.values()) <= SAME_TE_S:
        return []
    text = ", ".join(f"{part} {1000 * te:g} ms" for part, te in found.items())
    return [
        DataError(
            f"the parts of one echo have different echo times ({text})",
            file=next(iter(parts.values())).path,
            expected="the same EchoTime for magnitude and phase",
            remedy="check that the images of both parts carry the right echo index",
        )
    ]


def _duplicates(te_s: Mapping[int | None, float], echoes: EchoImages) -> list[QSMPrepError]:
    problems: list[QSMPrepError] = []
    ordered = sorted(te_s, key=lambda index: te_s[index])
    for earlier, later in pairwise(ordered):
        if te_s[later] - te_s[earlier] <= SAME_TE_S:
            one, two = (next(iter(echoes[index].values())).path for index in (earlier, later))
            problems.append(
                DataError(
                    f"{one.name} and {two.name} have the same EchoTime ({1000 * te_s[later]:g} ms)",
                    file=two,
                    expected="another EchoTime for every echo",
                    remedy="correct the sidecars; a repeated scan needs run-1, run-2",
                )
            )
    return problems


def _te_oddities(te_s: Mapping[int | None, float]) -> list[str]:
    warnings = []
    indices = [index for index in te_s if index is not None]
    times = [te_s[index] for index in sorted(indices)]
    if times != sorted(times):
        warnings.append("the echo indices do not follow the echo times; echoes are ordered by EchoTime")
    if indices and sorted(indices) != list(range(1, len(indices) + 1)):
        warnings.append(f"echo indices are {', '.join(map(str, sorted(indices)))}: some echoes may be absent")
    if te_s and max(te_s.values()) > LONG_TE_S:
        warnings.append(f"the longest EchoTime is {max(te_s.values()):g} s, unusually long for a gradient echo")
    return warnings


def check_b0(
    images: Sequence[Image], override_t: float | None
) -> tuple[float | None, str, list[QSMPrepError], list[str]]:
    """Field strength in tesla and where it comes from (``sidecar`` or ``override``)."""
    found = [(image, image.sidecar.values.get("MagneticFieldStrength")) for image in images]
    given = [(image, value) for image, value in found if value is not None]
    if override_t is not None:
        values = [finite_number(value) for _, value in given]
        other = next((v for v in values if v is not None and abs(v - override_t) > 0.02 * override_t), None)
        said = [] if other is None else [f"the sidecar says {other:g} T, {override_t:g} T was asked for and is used"]
        return override_t, "override", [], said
    if not given:
        return None, "sidecar", [_no_b0(images)], []
    for image, value in given:
        problem = _bad_b0(value, image)
        if problem is not None:
            return None, "sidecar", [problem], []
    strengths = [float(value) for _, value in given]
    if max(strengths) - min(strengths) > 0.02 * max(strengths):
        text = f"the images of one acquisition give {min(strengths):g} T and {max(strengths):g} T"
        return None, "sidecar", [DataError(text, file=images[0].path, expected="one MagneticFieldStrength")], []
    return strengths[0], "sidecar", [], _frequency_oddity(images[0], strengths[0])


def _no_b0(images: Sequence[Image]) -> QSMPrepError:
    mhz = finite_number(images[0].sidecar.values.get("ImagingFrequency"))
    hint = "" if mhz is None else f" (ImagingFrequency {mhz:g} MHz suggests {mhz * 1e6 / GAMMA_HZ_PER_T:.2g})"
    return DataError(
        f"MagneticFieldStrength is missing from the sidecars of {_count(images)}",
        file=images[0].path,
        expected="the field strength in tesla",
        remedy=f"add it to the sidecars, or give --b0 TESLA{hint}",
    )


def _bad_b0(value: Any, image: Image) -> QSMPrepError | None:
    number = finite_number(value)
    if number is not None and 0 < number <= MAX_B0_T:
        return None
    looks = ""
    if number is not None and number > MAX_B0_T:
        unit, factor = ("gauss", 1e4) if number >= 10000 or number / 1e3 > MAX_B0_T else ("millitesla", 1e3)
        looks = f": this looks like {unit} ({number / factor:g} T)"
    return DataError(
        f"MagneticFieldStrength is {value!r}{looks}",
        file=image.path,
        expected=f"tesla, above 0 and at most {MAX_B0_T:g}",
        remedy="correct the sidecars, or give --b0 TESLA",
    )


def _frequency_oddity(image: Image, b0_t: float) -> list[str]:
    mhz = finite_number(image.sidecar.values.get("ImagingFrequency"))
    if mhz is None or mhz <= 0:
        return []
    from_frequency_t = mhz * 1e6 / GAMMA_HZ_PER_T
    if abs(from_frequency_t - b0_t) <= 0.05 * b0_t:
        return []
    return [f"MagneticFieldStrength is {b0_t:g} T but ImagingFrequency {mhz:g} MHz is that of {from_frequency_t:.3g} T"]


def check_geometry(headers: Sequence[Header]) -> list[QSMPrepError]:
    """All images must have the voxels of the first, in the same place."""
    problems: list[QSMPrepError] = []
    for header in headers[1:]:
        first = headers[0]
        if same_grid(first, header):
            continue
        if first.shape != header.shape:
            what = f"the image has {_times(header.shape)} voxels, {first.path.name} has {_times(first.shape)}"
        else:
            what = (
                f"the affine differs from that of {first.path.name} by up to {offset_voxels(first, header):.2g} voxels"
            )
        problems.append(
            DataError(
                what,
                file=header.path,
                expected="the same grid for all echoes and parts",
                remedy="convert all echoes and parts from the same reconstruction",
            )
        )
    return problems


def _times(shape: Iterable[int]) -> str:
    return " x ".join(map(str, shape))


def _count(images: Sequence[Image]) -> str:
    return images[0].path.name if len(images) == 1 else f"{len(images)} images"
