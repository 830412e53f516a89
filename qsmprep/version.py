"""The version, whose one home is setup.cfg."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version


def qsmprep_version() -> str:
    """Version of the installed package, or ``0+unknown`` in a tree that is not installed."""
    try:
        return version("qsmprep")
    except PackageNotFoundError:
        return "0+unknown"
