"""The networks by name: class, title, citation; built from a configuration."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from qsmprep.errors import UsageError


@dataclass(frozen=True)
class Architecture:
    """A network that can be built.

    Parameters
    ----------
    name : str
        As on the command line.
    title : str
        In prose.
    target : str
        ``module:class``.
    fixed : mapping
        Arguments of the class that make it this architecture.
    """

    name: str
    title: str
    target: str
    fixed: Mapping[str, Any]


ARCHITECTURES: tuple[Architecture, ...] = (
    Architecture("conenet", "ConeNet", "qsmprep.networks.conenet:ConeNet", {}),
    Architecture("loopnet", "LoopNet", "qsmprep.networks.loopnet:LoopNet", {}),
    Architecture("metaqsm", "Meta-QSM", "qsmprep.networks.metaqsm:MetaQSM", {}),
    Architecture("qsminvnet", "QSMInvNet+", "qsmprep.networks.invnet:QSMInvNet", {"domains": 2}),
    Architecture(
        "unet",
        "U-Net",
        "qsmprep.networks.loopnet:LoopNet",
        {"iterations": 1, "attention": False, "reverse": False},
    ),
    Architecture("mesaqsm", "Mesa-QSM", "qsmprep.networks.metaqsm:MetaQSM", {"basis": 0}),
    Architecture("qsminvnet1", "QSMInvNet", "qsmprep.networks.invnet:QSMInvNet", {"domains": 1}),
    Architecture("pedqnet", "PedQ-NET", "qsmprep.networks.pedqnet:PedQNet", {}),
    Architecture("nnunet", "nnU-Net with TV", "qsmprep.networks.pedqnet:PedQNet", {"segmentation": None}),
)
"""Inversions."""

SEGMENTERS: tuple[Architecture, ...] = (
    Architecture("brainmask", "UNETR brain mask", "qsmprep.networks.unetr:Segmenter", {"classes": 2}),
    Architecture("subcortical", "UNETR segmentation", "qsmprep.networks.unetr:Segmenter", {"classes": 9}),
    Architecture(
        "subcortical_t1w", "UNETR segmentation of T1w images", "qsmprep.networks.unetr:Segmenter", {"classes": 9}
    ),
)


def architecture(name: str) -> Architecture:
    """The architecture of that name.

    Raises
    ------
    UsageError
        When there is none.
    """
    for one in ARCHITECTURES + SEGMENTERS:
        if one.name == name:
            return one
    raise UsageError(
        f"no network is called {name!r}", expected="one of " + ", ".join(one.name for one in ARCHITECTURES + SEGMENTERS)
    )


def build(name: str, config: Mapping[str, Any] | None = None) -> Any:
    """An untrained network: a :class:`qsmprep.networks.base.QSMNetwork`, or a segmenter.

    Parameters
    ----------
    name : str
        See `ARCHITECTURES` and `SEGMENTERS`.
    config : mapping, optional
        Arguments of its class.

    Raises
    ------
    UsageError
        For an unknown name or argument, or one that the architecture fixes.
    """
    chosen = architecture(name)
    module, attribute = chosen.target.split(":")
    kind = getattr(importlib.import_module(module), attribute)
    free = set(inspect.signature(kind).parameters) - set(chosen.fixed)
    unknown = set(config or {}) - free
    if unknown:
        raise UsageError(
            f"{chosen.title} has no setting {', '.join(sorted(unknown))}", expected="some of " + ", ".join(sorted(free))
        )
    return kind(**chosen.fixed, **(config or {}))
