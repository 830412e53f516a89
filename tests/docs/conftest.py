"""Make the helpers of this folder, and those of other tests that make data, importable."""

from __future__ import annotations

import sys
from pathlib import Path

for folder in (".", "../pipeline", "../cohort", "../cluster"):
    sys.path.insert(0, str((Path(__file__).parent / folder).resolve()))
