"""From phase to susceptibility where the field holds what no map explains, as Markdown tables.

    python benchmarks/mismatch.py                     all heads
    python benchmarks/mismatch.py --update-docs       and put the tables into the page
    python benchmarks/mismatch.py --rows rows.jsonl   keep what was measured; what is there is not done again

Susceptibility of white matter depends on the direction of its fibres: a real field is not that of any map (of the 2016
challenge's field the COSMOS map leaves 57 %). Six heads with air, skull and vessels, none of them used to choose a
parameter, are scanned without such a field, and with one of 30 and 60 % of the spread of the true local field. All
start from the wrapped phase and the true brain; all inversions get the same field and mask.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from accuracy import commit, markdown, put_into_page
from fieldmap import REMAINDER, Head, Row, Variant, cleaned, configured, measure_phase, remove

from qsmprep.core.methods import METHODS
from qsmprep.core.metrics import detrended_nrmse, nrmse, xsim

SHARES = (0.0, 0.3, 0.6)
HEADS = (
    Head(121, 3.0, (2.0, 2.0, 2.0), 90),
    Head(122, 7.0, (2.0, 2.0, 2.0), 90, 20.0),
    Head(123, 3.0, (1.5, 1.5, 3.0), 90, 20.0),
    Head(124, 7.0, (1.5, 1.5, 3.0), 40),
    Head(125, 3.0, (2.0, 2.0, 2.0), 40, 20.0),
    Head(126, 3.0, (2.0, 2.0, 2.0), 200, lesions=("calcification", "haemorrhage")),
)
"""None of these seeds was used to choose a parameter."""

INVERSIONS = (
    Variant("WH-QSM", "whqsm", {"harmonic": "yes"}),
    *(Variant(METHODS.get("inversion", name).title, name, off=True) for name in ("tv", "nltgv", "medi")),
    *(
        Variant(METHODS.get("inversion", name).title, name, off=True)
        for name in ("conenet", "qsminvnet", "metaqsm", "loopnet", "pedqnet")
    ),
    Variant("ConeNet, remainder kept", "conenet"),
)
"""On the field less what the step ``remainder`` finds in it, as in a run, where nothing else is said."""

MEASURES = {"NRMSE %": nrmse, "dNRMSE %": detrended_nrmse, "XSIM": xsim}


def head_rows(head: Head) -> Iterator[Row]:
    """Every inversion of one scan."""
    case = measure_phase(head)
    local = remove(case, REMAINDER, case.field_ppm)
    clean = cleaned(case, local)
    for variant in INVERSIONS:
        function, params = configured("inversion", variant.method, **variant.changes)
        start = time.perf_counter()
        given = (clean if variant.off else local).field_ppm
        chi = function(given, local.mask, case.grid, params, weights=case.weights, magnitude=case.magnitude).chi_ppm
        seconds = time.perf_counter() - start
        values = {name: float(measure(chi, case.chi_ppm, local.mask)) for name, measure in MEASURES.items()}
        yield {
            "seed": head.seed,
            "share": head.anisotropy,
            "inversion": variant.title,
            **values,
            "seconds": seconds,
            "commit": commit(),
        }


def report(rows: Sequence[Row]) -> str:
    """A table of means, and one of every head."""
    shares = sorted({row["share"] for row in rows})
    table = []
    for title in dict.fromkeys(row["inversion"] for row in rows):
        line: Row = {"inversion": title}
        for name in MEASURES:
            for share in shares:
                found = [r[name] for r in rows if r["inversion"] == title and r["share"] == share]
                line[f"{name}, {share:.0%}".replace("%, 0%", "%, none").replace("XSIM, 0%", "XSIM, none")] = float(
                    np.mean(found)
                )
        table.append(line)
    return markdown(table)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, and on demand write into the docs."""
    words = list(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--heads", type=int, nargs="+", help="numbers of the heads, from 1 (default: all)")
    parser.add_argument("--rows", type=Path, help="file of measured rows to go on from and to add to")
    parser.add_argument("--threads", type=int, default=1, help="of each method (default: 1)")
    parser.add_argument("--update-docs", action="store_true", help="put the table into docs/pages/measured")
    args = parser.parse_args(words)
    torch.set_num_threads(args.threads)
    rows: list[Row] = []
    if args.rows and args.rows.exists():
        rows = [json.loads(line) for line in args.rows.read_text().splitlines()]
    for head in [HEADS[i - 1] for i in args.heads] if args.heads else HEADS:
        for share in SHARES:
            if any((row["seed"], row["share"]) == (head.seed, share) for row in rows):
                continue
            new = list(head_rows(replace(head, anisotropy=share)))
            rows += new
            if args.rows:
                with args.rows.open("a") as file:
                    file.writelines(json.dumps(row) + "\n" for row in new)
    heads = len({row["seed"] for row in rows})
    commits = ", ".join(sorted({row["commit"] for row in rows}))
    note = (
        f"Measured at commit {commits} with `python benchmarks/mismatch.py`; means over {heads} heads, in the whole "
        f"mask; {args.threads} thread(s). The columns tell the spread of the field that no map explains, relative to "
        "that of the true local field."
    )
    text = "\n\n".join([note, report(rows)])
    print(text)
    if args.update_docs:
        put_into_page(text, "mismatch")
    return 0


if __name__ == "__main__":
    sys.exit(main())
