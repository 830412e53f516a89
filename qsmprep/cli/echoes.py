"""Reading echoes for ``qsmprep-step``: files of three or four dimensions, with what the JSON beside them says."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qsmprep.bids.checks import MAX_TE_S, SAME_TE_S
from qsmprep.bids.headers import same_place
from qsmprep.bids.metadata import as_numbers, finite_number, read_json, readout_of
from qsmprep.bids.names import sidecar_path
from qsmprep.cli.single import Source, load_image, make_grid, read_mask
from qsmprep.core.grid import Grid
from qsmprep.core.phase import PhaseScaling, complex_from_parts, scale_phase, wrap
from qsmprep.errors import DataError, MissingFileError, UsageError
from qsmprep.interfaces.base import about
from qsmprep.interfaces.phase import check_magnitude, check_phase, conform_warnings


@dataclass(frozen=True)
class Series:
    """Volumes of one kind on one grid.

    Parameters
    ----------
    data : (n, nx, ny, nz) float32 array
    files : tuple of Path
        The file that each volume came from.
    first : Source
        The first volume.
    raw : dict
        What the headers say of the stored numbers, for :func:`qsmprep.core.phase.scale_phase`.
    facts : tuple of dict
        The JSON beside the file of each volume; empty where there is none.
    """

    data: NDArray[np.float32]
    files: tuple[Path, ...]
    first: Source
    raw: dict[str, Any]
    facts: tuple[dict[str, Any], ...]


@dataclass(frozen=True)
class Echoes:
    """The echoes of an acquisition, in the order of echo time.

    Parameters
    ----------
    phase_rad, unwrapped_rad, magnitude : (n_echo, nx, ny, nz) float32 array or None
        Wrapped and unwrapped phase in rad, magnitude in an arbitrary unit.
    te_s : list of float or None
        Echo times in s, where they are known.
    like : Source
        Gives grid and header of the results.
    grid : Grid
    facts : dict
        The JSON beside the first echo.
    info : dict
        How the phase was read, for the sidecar.
    """

    phase_rad: NDArray[np.float32] | None
    unwrapped_rad: NDArray[np.float32] | None
    magnitude: NDArray[np.float32] | None
    te_s: list[float] | None
    like: Source
    grid: Grid
    facts: dict[str, Any] = field(default_factory=dict)
    info: dict[str, Any] = field(default_factory=dict)

    @property
    def times(self) -> list[float]:
        """The echo times; one second for a single echo without one, where the time plays no part.

        Raises
        ------
        UsageError
            When there are several echoes and their times are not known.
        """
        if self.te_s is not None:
            return self.te_s
        if len(self) == 1:
            return [1.0]
        raise _no_times(self.like.path)

    @property
    def known_times(self) -> list[float]:
        """The echo times.

        Raises
        ------
        UsageError
            When they are not known.
        """
        if self.te_s is None:
            raise _no_times(self.like.path)
        return self.te_s

    def __len__(self) -> int:
        volumes = (self.phase_rad, self.unwrapped_rad, self.magnitude)
        return next(len(volume) for volume in volumes if volume is not None)


def _no_times(path: Path) -> UsageError:
    return UsageError(
        "the echo times are not known",
        file=path,
        expected="`EchoTime` in the JSON file beside each image",
        remedy="give them with `--te-s`, in seconds and in the order of the files",
    )


def tell(notes: Sequence[str]) -> None:
    """Say on the error stream what a person should know."""
    for note in notes:
        print(f"qsmprep-step: warning: {note}", file=sys.stderr)


def read_series(paths: Sequence[Path], like: Source | None = None) -> Series:
    """Read volumes, from files of three or of four dimensions, that must lie on one grid.

    Raises
    ------
    MissingFileError, DataError
        When a file cannot be read, lies on another grid than the first, or a volume has no finite value.
    """
    volumes: list[NDArray[np.float32]] = []
    files: list[Path] = []
    facts: list[dict[str, Any]] = []
    raw: list[dict[str, Any]] = []
    first = like
    for path in paths:
        data, image = load_image(path)
        data = data.reshape((*data.shape[:3], -1)).astype(np.float32)
        first = first or Source(path, data[..., 0], image)
        check_grid(path, data.shape[:3], image.affine, first)
        for volume in np.moveaxis(data, -1, 0):
            if not np.isfinite(volume).any():
                raise DataError("a volume holds no finite value", file=path, expected="a measured image")
            volumes.append(volume)
        count = data.shape[3]
        files += [path] * count
        facts += _facts(path, count)
        raw.append(_raw(image))
    assert first is not None, "at least one file is given"
    return Series(np.stack(volumes), tuple(files), first, _common(raw), tuple(facts))


def check_grid(path: Path, shape: tuple[int, ...], affine: NDArray[Any], first: Source) -> None:
    """Refuse an image on another grid than the first.

    Raises
    ------
    DataError
        When shape or affine differ.
    """
    remedy = "resample one to the other, masks with nearest neighbours"
    wanted = first.data.shape[:3]
    if shape != wanted:
        told = f"the image has shape {shape}, but {first.path} has {wanted}"
        raise DataError(told, file=path, expected="one grid for all files", remedy=remedy)
    if not same_place(first.image.affine, affine, wanted):
        off_mm = float(np.abs(affine - first.image.affine).max())
        told = f"the affine differs from that of {first.path} by up to {off_mm:.3g}"
        raise DataError(told, file=path, expected="one grid for all files", remedy=remedy)


def _facts(path: Path, count: int) -> list[dict[str, Any]]:
    """The JSON beside a file, for each of its volumes; a list of echo times is shared out."""
    try:
        beside = sidecar_path(path)
    except UsageError:
        return [{}] * count
    try:
        values = as_numbers(read_json(beside), beside.name)[0]
    except MissingFileError:
        return [{}] * count
    times = values.get("EchoTime")
    if isinstance(times, list) and len(times) == count:
        return [{**values, "EchoTime": time} for time in times]
    return [values] * count


def _raw(image: Any) -> dict[str, Any]:
    """What a header says of the stored numbers."""
    proxy = image.dataobj
    if not hasattr(proxy, "slope"):
        return {}
    stored = np.asanyarray(proxy.get_unscaled())
    span = (float(np.nanmin(stored)), float(np.nanmax(stored)))
    return {"raw_range": span, "slope": float(proxy.slope), "inter": float(proxy.inter), "dtype": str(proxy.dtype)}


def _common(raw: list[dict[str, Any]]) -> dict[str, Any]:
    """The same of all files together; nothing where their scaling differs."""
    scalings = {(known.get("slope"), known.get("inter")) for known in raw}
    if len(scalings) > 1 or None in next(iter(scalings)):
        return {}
    low, high = zip(*(known["raw_range"] for known in raw), strict=True)
    return {**raw[0], "raw_range": (min(low), max(high))}


def read_echoes(args: argparse.Namespace) -> Echoes:
    """Read all echoes that the words name, bring phase to radians and sort by echo time.

    Raises
    ------
    UsageError, MissingFileError, DataError
        When files do not go together, their content cannot be used, or the echo times are impossible.
    """
    given = {name: getattr(args, name, None) for name in ("phase", "unwrapped", "real", "imag", "magnitude")}
    series: dict[str, Series] = {}
    for name, paths in given.items():
        if paths:
            series[name] = read_series(paths, next(iter(series.values())).first if series else None)
    main = next(iter(series.values()))
    for name, other in series.items():
        if len(other.data) != len(main.data):
            raise DataError(
                f"there are {len(other.data)} volumes for `--{name}`, but {len(main.data)} from {main.files[0]}",
                file=other.files[0],
                expected="one for every echo",
            )
    phase, magnitude, info = _complex(args, series)
    unwrapped = _unwrapped(series["unwrapped"]) if "unwrapped" in series else None
    if unwrapped is not None:
        phase = wrap(unwrapped)
    te_s, order = echo_times(args, list(series.values()))
    volumes = [None if volume is None else volume[order] for volume in (phase, unwrapped, magnitude)]
    grid = make_grid(main.first, None)
    return Echoes(volumes[0], volumes[1], volumes[2], te_s, main.first, grid, main.facts[0], info)


def _complex(
    args: argparse.Namespace, series: dict[str, Series]
) -> tuple[NDArray[np.float32] | None, NDArray[np.float32] | None, dict[str, Any]]:
    """Phase in radians and magnitude, as far as they are there, and how they were read."""
    info: dict[str, Any] = {}
    phase = magnitude = None
    if "real" in series:
        with about(series["real"].files[0]):
            magnitude, phase = complex_from_parts(series["real"].data, series["imag"].data * args.phase_sign)
        return phase, magnitude, {"PhaseConvention": {"rule": "real and imaginary parts", "sign": args.phase_sign}}
    scaling: dict[str, Any] = {}
    if "phase" in series:
        found = series["phase"]
        check_phase(found.data, [str(file) for file in found.files])
        units = args.phase_units or found.facts[0].get("Units")
        maker = args.manufacturer or found.facts[0].get("Manufacturer")
        phase, how = _radians(found, units, maker, args.phase_sign)
        scaling = dataclasses.asdict(how)
        info["PhaseConvention"] = dict(scaling)
    if "magnitude" in series:
        magnitude = series["magnitude"].data
        bad = ~np.isfinite(magnitude)
        scaling["n_nonfinite_magnitude"] = int(bad.sum())
        magnitude = np.where(bad, np.float32(0), magnitude)
        check_magnitude(magnitude, [str(file) for file in series["magnitude"].files])
        if magnitude.min() < 0:
            raise DataError(
                "the magnitude has negative values", file=series["magnitude"].files[0], expected="zero or more"
            )
    tell(conform_warnings(scaling))
    return phase, magnitude, info


def _radians(
    series: Series, units: str | None, manufacturer: str | None, sign: int
) -> tuple[NDArray[np.float32], PhaseScaling]:
    """Stored phase in radians; an error names the file and the option."""
    try:
        return scale_phase(series.data, units=units, manufacturer=manufacturer, sign=sign, **series.raw)
    except DataError as error:
        remedy = error.remedy if units else f"{error.remedy or 'check the images'}, or say `--phase-units rad`"
        raise DataError(error.what, file=series.files[0], expected=error.expected, remedy=remedy) from None


def _unwrapped(series: Series) -> NDArray[np.float32]:
    """Unwrapped phase, which must be in radians; zero where it is not finite."""
    stated = series.facts[0].get("Units")
    if stated not in (None, "rad"):
        raise DataError(
            f"the unwrapped phase has `Units`: {stated!r}",
            file=series.files[0],
            expected="`rad`",
            remedy="convert it to radians",
        )
    return np.where(np.isfinite(series.data), series.data, np.float32(0))


def echo_times(args: argparse.Namespace, series: list[Series]) -> tuple[list[float] | None, list[int]]:
    """Echo times in rising order (None where they are not known), and the order that sorts the volumes.

    Raises
    ------
    UsageError
        When there are more or fewer of ``--te-s`` than echoes.
    DataError
        When two echoes have one time, or files of one echo have different ones.
    """
    count = len(series[0].data)
    if args.te_s is not None:
        if len(args.te_s) != count:
            raise UsageError(f"`--te-s` has {len(args.te_s)} times for {count} echoes", expected="one for every echo")
        times = [float(te) for te in args.te_s]
    else:
        times = _times_beside(series)
        if not times:
            return None, list(range(count))
    order = sorted(range(count), key=lambda index: times[index])
    ordered = [times[index] for index in order]
    if len(set(ordered)) < count:
        raise DataError(
            f"two echoes have one time: {times} s", file=series[0].files[0], expected="a time of its own for every echo"
        )
    if order != list(range(count)):
        tell([f"the echoes were sorted by their times, {', '.join(f'{te:g}' for te in ordered)} s"])
    return ordered, order


def _times_beside(series: list[Series]) -> list[float]:
    """Echo times that the JSON beside the files says, of the first kind of files that have them all; else none. Of a
    single echo, whose time often plays no part, one that is no time is told only.

    Raises
    ------
    DataError
        When one of several is no time in seconds, or two files of one echo have different ones.
    """
    found: list[float] = []
    of: Path | None = None
    for one in series:
        row = [facts.get("EchoTime") for facts in one.facts]
        if any(te is None for te in row):
            continue
        try:
            times = [_seconds(te, file) for te, file in zip(row, one.files, strict=True)]
        except DataError as error:
            if len(row) > 1:
                raise
            tell([f"{error.what} {one.files[0].name}; it is passed over"])
            continue
        if len(row) > 1:
            _compare(found, times, one.files, of)
        found, of = found or times, of or one.files[0]
    return found


def _compare(known: list[float], times: list[float], files: Sequence[Path], first: Path | None) -> None:
    """Refuse files whose echo times are not those of the files before, if there were any."""
    for ours, theirs, file in zip(known, times, files, strict=False):
        if abs(ours - theirs) > SAME_TE_S:
            raise DataError(
                f"its EchoTime is {theirs:g} s, that of the image in its place in the series of {first} {ours:g} s",
                file=file,
                expected="files of every kind in one order of echoes; or say --te-s",
            )


def _seconds(value: Any, file: Path) -> float:
    """An echo time as a number."""
    number = finite_number(value)
    if number is None or not 0 < number <= MAX_TE_S:
        hint = " (milliseconds are to be divided by 1000)" if number is not None and number > 0 else ""
        raise DataError(
            f"EchoTime is {value!r} in the JSON file beside",
            file=file,
            expected=f"one number of seconds, above 0 and at most {MAX_TE_S:g}",
            remedy=f"correct it{hint}, or say --te-s",
        )
    return number


def mask_of(args: argparse.Namespace, echoes: Echoes) -> NDArray[np.bool_] | None:
    """The mask that is given, on the grid of the echoes.

    Raises
    ------
    MissingFileError, DataError
        As :func:`qsmprep.cli.single.read_mask`, and when it lies on another grid.
    """
    if args.mask is None:
        return None
    mask = read_mask(args.mask)
    check_grid(args.mask, mask.data.shape, mask.image.affine, echoes.like)
    return mask.data.astype(bool)


def readout(args: argparse.Namespace, echoes: Echoes) -> str:
    """``bipolar`` or ``monopolar`` as the words or the JSON file say, else empty."""
    return args.readout or readout_of(echoes.facts)
