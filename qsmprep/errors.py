"""The one exception tree: every error a user can meet, with its exit code.

The codes follow the BIDS execution specification and ``sysexits.h``. A message has four parts:
what happened, which file, what was expected, and what to do about it.
"""

from __future__ import annotations

import unicodedata
from pathlib import Path


def printable(text: str) -> str:
    """The text as one line that every terminal takes: control characters and broken bytes are escaped.

    Names of files may hold line ends, terminal commands, marks that turn the direction of writing, and bytes
    that are no UTF-8; none of these may reach a terminal or a log.
    """
    return "".join(
        c.encode("unicode_escape").decode() if unicodedata.category(c) in ("Cc", "Cf", "Cs") else c for c in text
    )


class QSMPrepError(Exception):
    """Base of every error that qsmprep raises on purpose.

    Parameters
    ----------
    what : str
        What is wrong, as one sentence.
    file : str or Path, optional
        The file (or folder) it was found in.
    expected : str, optional
        What would have been right.
    remedy : str, optional
        What the user can do.
    """

    exit_code = 1

    def __init__(
        self,
        what: str,
        *,
        file: str | Path | None = None,
        expected: str | None = None,
        remedy: str | None = None,
    ) -> None:
        self.what = what
        self.file = None if file is None else str(file)
        self.expected = expected
        self.remedy = remedy
        parts = [what.rstrip(".") + "."]
        if self.file:
            parts.append(f"File: {self.file}.")
        if expected:
            parts.append(f"Expected: {expected.rstrip('.')}.")
        if remedy:
            parts.append(f"Do: {remedy.rstrip('.')}.")
        super().__init__(printable(" ".join(parts)))

    def __reduce__(self) -> tuple[object, ...]:
        """Survive pickling between worker processes with all four parts."""
        return (_rebuild, (type(self), self.what, self.file, self.expected, self.remedy))


def _rebuild(
    kind: type[QSMPrepError],
    what: str,
    file: str | None,
    expected: str | None,
    remedy: str | None,
) -> QSMPrepError:
    return kind(what, file=file, expected=expected, remedy=remedy)


class UsageError(QSMPrepError):
    """The command line asks for something that makes no sense."""

    exit_code = 2


class InvalidBIDSError(QSMPrepError):
    """The input is not a BIDS data set."""

    exit_code = 16


class UnknownLevelError(QSMPrepError):
    """The analysis level is neither ``participant`` nor ``group``."""

    exit_code = 17


class NoMatchError(QSMPrepError):
    """The selection (participants, sessions, filters) matches nothing."""

    exit_code = 18


class DataError(QSMPrepError):
    """A file is there but its content cannot be used."""

    exit_code = 65


class NotSeenError(DataError):
    """An image does not hold what a method looks for in it: no brain, no nuclei."""


class MissingFileError(QSMPrepError):
    """A file that is needed is absent."""

    exit_code = 66


class CannotWriteError(QSMPrepError):
    """A result cannot be written: read-only, full, or not permitted."""

    exit_code = 73


class OutOfMemoryError(QSMPrepError):
    """More memory is needed than there is; the same run may pass with more."""

    exit_code = 75
