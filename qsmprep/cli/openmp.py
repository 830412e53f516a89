"""How long OpenMP's threads (torch's) wait for work before they give their core away."""

from __future__ import annotations

import os

SPINS = "10000"
"""Of libgomp's busy wait; its own default is 300000. On two idle cores WH-QSM took 7.5 s with either, while Fourier
transforms beside other work took 0.3 s instead of 0.7 s; without any wait (OMP_WAIT_POLICY=PASSIVE) it took 9.5 s."""


def wait_briefly() -> None:
    """Set it for this process and its children, unless the user did; must come before torch is imported."""
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPINS)
