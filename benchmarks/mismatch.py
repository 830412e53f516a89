"""From phase to susceptibility where the field holds what no map explains, as Markdown tables.

    python benchmarks/mismatch.py                     all heads
    python benchmarks/mismatch.py --update-docs       and put the tables into the page
    python benchmarks/mismatch.py --rows rows.jsonl   keep what was measured; what is there is not done again

Susceptibility of white matter depends on the direction of its fibres: a real field is not that of any map (of the 2016
challenge's field the COSMOS map leaves 57 %). Six heads with air, skull and vessels are scanned without such a field,
and with one of 30 and 60 % of the spread of the true local field. All start from the wrapped phase and the true brain;
all inversions get the same field and mask.

What they can tell: no parameter and no weights were chosen by them, but the default inversion was, with other weights.
Networks were trained on fields with a related part (a map that is seen from another direction), which favours them.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
from accuracy import commit, keep_rows, markdown, put_into_page, read_rows
from fieldmap import REMAINDER, Head, Row, Variant, cleaned, configured, measure_phase, options, remove

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
"""None of these seeds was used to choose a parameter or to train; the default inversion was chosen by them."""

INVERSIONS = (
    Variant("WH-QSM", "whqsm", {"harmonic": "yes"}),
    *(
        Variant(METHODS.get("inversion", name).title, name, off=True)
        for name in ("tv", "nltgv", "medi", "conenet", "qsminvnet", "metaqsm", "loopnet", "pedqnet")
    ),
    Variant("ConeNet, remainder kept", "conenet"),
)
"""On the field less what the step ``remainder`` finds in it, as in a run, where nothing else is said."""

MEASURES = {"NRMSE %": nrmse, "dNRMSE %": detrended_nrmse, "XSIM": xsim}


def head_rows(head: Head) -> Iterator[Row]:
    """Every inversion of one scan."""
    case = measure_phase(head)
    local = remove(case, REMAINDER, case.field_ppm)
    clean = cleaned(case, local, REMAINDER.method)
    for variant in INVERSIONS:
        function, params = configured("inversion", variant.method, **variant.changes)
        given = (clean if variant.off else local).field_ppm
        chi = function(given, local.mask, case.grid, params, weights=case.weights, magnitude=case.magnitude).chi_ppm
        values = {name: float(measure(chi, case.chi_ppm, local.mask)) for name, measure in MEASURES.items()}
        yield {
            "seed": head.seed,
            "share": head.anisotropy,
            "inversion": variant.title,
            **values,
            "commit": commit(),
        }


def report(rows: Sequence[Row]) -> str:
    """A table of means over heads: a column for each measure and share."""
    shares = sorted({row["share"] for row in rows})
    table = []
    for title in dict.fromkeys(row["inversion"] for row in rows):
        line: Row = {"inversion": title}
        for name in MEASURES:
            for share in shares:
                found = [r[name] for r in rows if r["inversion"] == title and r["share"] == share]
                line[f"{name}, {share:.0%}" if share else f"{name}, none"] = float(np.mean(found))
        table.append(line)
    return markdown(table)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, and on demand write into the docs."""
    args = options(__doc__, HEADS).parse_args(argv)
    torch.set_num_threads(args.threads)
    rows = read_rows(args.rows)
    for head in (replace(HEADS[i - 1], anisotropy=share) for i in args.heads for share in SHARES):
        if any((row["seed"], row["share"]) == (head.seed, head.anisotropy) for row in rows):
            continue
        new = list(head_rows(head))
        rows += new
        keep_rows(new, args.rows)
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
