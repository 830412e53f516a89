"""What one unit of work is: the echoes of one gradient-echo acquisition and what is known of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from qsmprep.errors import DataError

PARTS = ("mag", "phase", "real", "imag")
"""Values of the BIDS entity ``part``."""


@dataclass(frozen=True)
class Echo:
    """The images of one echo.

    Parameters
    ----------
    te_s : float
        Echo time in seconds.
    magnitude, phase, real, imag : Path or None
        The images there are. Either ``phase`` or both ``real`` and ``imag`` are given.
    """

    te_s: float
    magnitude: Path | None = None
    phase: Path | None = None
    real: Path | None = None
    imag: Path | None = None

    @property
    def files(self) -> tuple[Path, ...]:
        """The images there are, in the order magnitude, phase, real, imaginary."""
        return tuple(f for f in (self.magnitude, self.phase, self.real, self.imag) if f is not None)

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON types."""
        return {f.name: _plain(getattr(self, f.name)) for f in fields(self)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Echo:
        """Back from `to_dict`."""
        paths = {name: _path(data.get(name)) for name in ("magnitude", "phase", "real", "imag")}
        return cls(te_s=float(data["te_s"]), **paths)


@dataclass(frozen=True)
class Acquisition:
    """One gradient-echo acquisition: a (subject, session, acquisition, run) that can be processed.

    Parameters
    ----------
    subject : str
        Label without ``sub-``.
    session : str or None
        Label without ``ses-``.
    entities : tuple of (str, str)
        The other entities of the file names by their short names (``acq``, ``run``, ...), in BIDS order,
        without ``echo`` and ``part``.
    suffix : str
        BIDS suffix: MEGRE, T2starw, T1w or PDw.
    echoes : tuple of Echo
        Ordered by echo time.
    b0_t : float
        Strength of the static field in tesla.
    b0_source : str
        Where `b0_t` comes from: ``sidecar`` or ``override``.
    metadata : dict
        Sidecar of the first echo with everything it inherits; the phase's keys win over the magnitude's.
    phase_units : str or None
        ``Units`` of the phase images as the sidecar gives it.
    t1w : Path or None
        Anatomical T1-weighted image of the same participant.
    given_mask : Path or None
        Brain mask on the grid of the echoes, from a derivatives data set.
    """

    subject: str
    session: str | None
    entities: tuple[tuple[str, str], ...]
    suffix: str
    echoes: tuple[Echo, ...]
    b0_t: float
    b0_source: str
    metadata: dict[str, Any] = field(default_factory=dict, hash=False)
    phase_units: str | None = None
    t1w: Path | None = None
    given_mask: Path | None = None

    def __post_init__(self) -> None:
        te_s = [echo.te_s for echo in self.echoes]
        if not te_s or te_s != sorted(te_s):
            raise DataError(f"the echo times of {self.key} are {te_s}", expected="one or more, in rising order")

    @property
    def key(self) -> str:
        """What the names of all outputs begin with, such as ``sub-01_ses-1_acq-x_run-1``."""
        return entity_key(self.subject, self.session, self.entities)

    @property
    def label(self) -> str:
        """The same for people, such as ``sub-01, ses-1, acq-x, run-1``."""
        return self.key.replace("_", ", ")

    @property
    def te_s(self) -> tuple[float, ...]:
        """Echo times in seconds, in rising order."""
        return tuple(echo.te_s for echo in self.echoes)

    @property
    def has_magnitude(self) -> bool:
        """Whether the magnitude of every echo is known, from itself or from real and imaginary parts."""
        return all(e.magnitude is not None or e.real is not None for e in self.echoes)

    @property
    def has_decay(self) -> bool:
        """Whether R2* can be fitted: to the measured magnitude of two echoes or more."""
        return len(self.echoes) > 1 and self.has_magnitude

    @property
    def files(self) -> tuple[Path, ...]:
        """All images of all echoes."""
        return tuple(f for echo in self.echoes for f in echo.files)

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON types."""
        plain = {f.name: _plain(getattr(self, f.name)) for f in fields(self)}
        plain["entities"] = [list(pair) for pair in self.entities]
        plain["echoes"] = [echo.to_dict() for echo in self.echoes]
        return plain

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Acquisition:
        """Back from `to_dict`."""
        values = {f.name: data[f.name] for f in fields(cls)}
        values["entities"] = tuple((str(name), str(value)) for name, value in data["entities"])
        values["echoes"] = tuple(Echo.from_dict(echo) for echo in data["echoes"])
        values["t1w"] = _path(data["t1w"])
        values["given_mask"] = _path(data["given_mask"])
        values["metadata"] = dict(data["metadata"])
        return cls(**values)


def entity_key(subject: str, session: str | None, entities: tuple[tuple[str, str], ...] = ()) -> str:
    """Join entities as in a BIDS file name, without a suffix."""
    pairs = [("sub", subject), *([("ses", session)] if session else []), *entities]
    return "_".join(f"{name}-{value}" for name, value in pairs)


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else value


def _path(value: Any) -> Path | None:
    return None if value is None else Path(value)
