"""Who is left out of the models for want of a covariate."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

MAX_NAMED = 5
"""Most participants that a note names; the table of participants has all."""


@dataclass(frozen=True)
class LeftOut:
    """A participant with sessions that lack a covariate.

    Parameters
    ----------
    participant : str
        As ``sub-01``.
    reason : str
        Such as ``age missing``.
    sessions, of : int
        Sessions left out, of how many.
    """

    participant: str
    reason: str
    sessions: int
    of: int

    @property
    def wholly(self) -> bool:
        """Whether no session is in a model."""
        return self.sessions == self.of

    def __str__(self) -> str:
        return self.reason if self.wholly else f"{self.reason} in {self.sessions} of {self.of} sessions"


def find_left_out(rows: pd.DataFrame, used: Sequence[str]) -> tuple[LeftOut, ...]:
    """Participants with a session that lacks one of the columns.

    Parameters
    ----------
    rows : DataFrame
        Rows of the long table that have what is modelled.
    used : sequence of str
        Columns that the formula uses.
    """
    visits = rows.drop_duplicates(["participant_id", "session"])
    lacking = visits[list(used)].isna()
    found = []
    for label, part in lacking.groupby(visits["participant_id"].astype(object), sort=False):
        short = int(part.any(axis=1).sum())
        if short:
            names = " and ".join(name for name in used if part[name].any())
            found.append(LeftOut(str(label), f"{names} missing", short, len(part)))
    return tuple(found)


def notes_on(left_out: Sequence[LeftOut]) -> tuple[str, ...]:
    """One sentence for each reason, with how many participants and the first of them."""
    together: dict[tuple[bool, str], list[str]] = defaultdict(list)
    for one in left_out:
        together[one.wholly, one.reason].append(one.participant)
    return tuple(
        f"{len(labels)} participant{'s' * (len(labels) > 1)} {'' if wholly else 'partly '}left out of the models: "
        f"{reason}{'' if wholly else ' in some sessions'} ({shorten(labels, MAX_NAMED)})"
        for (wholly, reason), labels in together.items()
    )


def shorten(words: Sequence[str], most: int) -> str:
    """The first words and how many more there are."""
    more = f" and {len(words) - most} more" if len(words) > most else ""
    return ", ".join(words[:most]) + more
