"""Time and memory of every step of a finished run, beside the memory that the scheduler was told.

    qsmprep BIDS_DIR OUT_DIR participant -w WORK_DIR ...
    python benchmarks/step_cost.py WORK_DIR

Steps say what they took in their work folder (``usage.json``). The size of an acquisition is that of the volume that
``conform`` left. Prints a Markdown table, the longest step first, and ends with 1 where a step took more than it was
given.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path

import nibabel as nib

from qsmprep.core.methods import METHODS
from qsmprep.workflows.memory import Size


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work_dir", type=Path)
    options = parser.parse_args()
    learned = {f"invert_{name}" for name in METHODS.names("inversion") if METHODS.get("inversion", name).learned}
    rows = []
    for branch in sorted({path.parent.parent for path in options.work_dir.rglob("usage.json")}):
        shape = nib.load(branch / "conform" / "magnitude.nii").shape
        size = Size(math.prod(shape[:3]), shape[3] if len(shape) == 4 else 1)
        for path in branch.glob("*/usage.json"):
            taken, name = json.loads(path.read_text()), path.parent.name
            estimate = size.estimate_gb(name, learned=name in learned)
            rows.append((name, shape, taken["seconds"], taken["peak_mb"] / 1e3, estimate))
    print("| step | volume | seconds | peak GB | estimate GB |\n| --- | --- | --- | --- | --- |")
    for name, shape, seconds, peak, estimate in sorted(rows, key=lambda row: -row[2]):
        print(f"| {name} | {' × '.join(map(str, shape))} | {seconds:.1f} | {peak:.2f} | {estimate:.2f} |")
    return int(any(peak > estimate for *_, peak, estimate in rows))


if __name__ == "__main__":
    raise SystemExit(main())
