"""Nobody is told that qsmprep runs."""

from __future__ import annotations

import os


def silence_telemetry() -> None:
    """Keep Nipype from asking its server for the newest version, as it does on import in notebooks.

    The one change of the environment that importing a part of qsmprep makes: it must come before
    the import of Nipype, and is inherited by the workers.
    """
    os.environ["NIPYPE_NO_ET"] = os.environ["NO_ET"] = "1"
