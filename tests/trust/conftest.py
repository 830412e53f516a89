"""Make the helpers of this folder, and those of the tests of BIDS and of the pipeline, importable."""

from __future__ import annotations

import sys
from pathlib import Path

for folder in (".", "../bids", "../pipeline"):
    sys.path.insert(0, str((Path(__file__).parent / folder).resolve()))
