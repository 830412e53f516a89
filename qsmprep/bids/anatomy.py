"""What goes with an acquisition: the anatomical T1w image and a brain mask made elsewhere."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from pathlib import Path

from qsmprep.bids.entities import BidsName, natural_key
from qsmprep.bids.metadata import plain_index

FREE = ("desc", "label", "res", "echo", "part")
"""Entities of a mask that say nothing of the acquisition it is for."""


def find_t1w(
    subject: str, session: str | None, images: Iterable[BidsName], phased: Collection[Path]
) -> tuple[Path, ...]:
    """Anatomical T1w images of a participant, the best one first.

    An image that belongs to a gradient-echo acquisition with phase is never one of them. The same session
    comes first, then images without a session, then the others in order; within these, images without
    contrast agent, then those that are no echo of several, then the order of their names.

    Parameters
    ----------
    subject, session : str, str or None
        Of the acquisition.
    images : iterable of BidsName
        T1w images of all participants.
    phased : collection of Path
        Images with a phase partner.

    Returns
    -------
    tuple of Path
    """
    own = [image for image in images if image.get("sub") == subject and image.path not in phased]
    return tuple(image.path for image in sorted(own, key=lambda image: _t1w_rank(image, session)))


def _t1w_rank(image: BidsName, session: str | None) -> tuple[object, ...]:
    found = image.get("ses")
    return (
        0 if found == session else 1 if found is None else 2,
        natural_key(found or ""),
        image.get("ce") is not None,
        image.get("echo") is not None,
        natural_key(image.path.name),
    )


def find_masks(
    subject: str, session: str | None, entities: Iterable[tuple[str, str]], masks: Iterable[BidsName]
) -> tuple[Path, ...]:
    """Brain masks whose entities are among those of an acquisition: the most specific first, of those that are as
    specific the one for all echoes and parts.

    One that was made of one echo or part fits the acquisition; masks in another space (``space-``) do not.
    Whether a mask lies on the grid of the acquisition is for the preflight to see.

    Parameters
    ----------
    subject, session, entities
        Of the acquisition.
    masks : iterable of BidsName
        Masks of all participants.

    Returns
    -------
    tuple of Path
    """
    own = _plain([("sub", subject), *([("ses", session)] if session else []), *entities])
    fitting = [mask for mask in masks if mask.get("sub") == subject and _plain(mask.without(*FREE)) <= own]
    return tuple(m.path for m in sorted(fitting, key=_mask_rank))


def _mask_rank(mask: BidsName) -> tuple[object, ...]:
    bound = len(mask.without(*FREE))
    return (-bound, len(mask.entities) - bound, natural_key(mask.path.name))


def _plain(entities: Iterable[tuple[str, str]]) -> set[tuple[str, str]]:
    """Entities to be compared: ``run-01`` is ``run-1``."""
    return {(name, plain_index(name, value)) for name, value in entities}
