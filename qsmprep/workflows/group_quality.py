"""Quality control on the cohort's page: the metrics of all scans, who stands out; also where there is nothing else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from qsmprep.cohort.tables import write_frame
from qsmprep.reports import cohort_graphs as graphs
from qsmprep.reports import quality
from qsmprep.reports.cohort_page import Chapter, Link, Plot, Table

QUALITY_FILE = "group_qc.tsv"
FIGURE = "figures/group_qc.png"
MAX_PANELS = 30
MAX_LISTED = 200


def write_quality(metrics: pd.DataFrame, out_dir: Path) -> None:
    """Write the table of the metrics of all scans and its dictionary, where there are any."""
    if metrics.empty:
        return
    table, meaning = quality.wide(metrics)
    write_frame(table, out_dir / QUALITY_FILE, meaning)


def quality_chapter(metrics: pd.DataFrame, flagged: pd.DataFrame, out_dir: Path) -> Chapter | None:
    """The distribution of every metric over the scans, and how many scans have which verdict.

    Parameters
    ----------
    metrics : DataFrame
        Of :class:`qsmprep.reports.quality.Quality`.
    flagged : DataFrame
        From :func:`qsmprep.cohort.outliers.find_outliers`.
    out_dir : Path
        Where the figure and its numbers are written.
    """
    if metrics.empty:
        return None
    scans = metrics.drop_duplicates("scan")
    counts = scans["verdict"].value_counts()
    rows = tuple((level, int(counts[level])) for level in ("ok", "check", "failed", "n/a") if level in counts)
    tables: list[Table] = [Table("Verdicts of the scans", ("verdict", "scans"), rows, QUALITY_FILE)]
    looked = scans[scans["verdict"].isin(("check", "failed"))]
    if len(looked):
        cells = tuple(
            (_page(r["participant_id"], r["scan"], out_dir), r["verdict"])
            for r in looked[:MAX_LISTED].to_dict("records")
        )
        tables.append(Table(f"Scans to look at, {len(looked)}", ("scan", "verdict"), cells, QUALITY_FILE, folded=True))
    panels = _panels(metrics, flagged)
    if not panels:
        return Chapter("quality", "Quality of the scans", (), (), tuple(tables))
    graphs.plot_spreads(panels, out_dir / FIGURE)
    data = FIGURE.removesuffix(".png") + ".tsv"
    write_frame(metrics[["scan", "key", "what", "unit", "value", "low", "high"]], out_dir / data, {})
    caption = (
        "One dot a scan; thick line: median, thin line: quartiles, dashed: limits of the metric. Orange and named (the "
        f"first {graphs.MAX_NAMED} of each): outside the limits, or far from the cohort."
    )
    alt = f"{len(panels)} panels, one a metric of quality control, with every scan as a dot."
    plot = Plot("Metrics of quality control", FIGURE, alt, caption, data)
    return Chapter("quality", "Quality of the scans", (), (), tuple(tables), (plot,))


def outlier_chapter(found: pd.DataFrame, file: str, out_dir: Path) -> Chapter:
    """The values that are flagged, each with the page of its participant."""
    shown = found.head(MAX_LISTED).to_dict("records")
    others = ("what", "value", "median", "robust_z", "why")
    cells = tuple((_page(row["participant_id"], row["scan"], out_dir), *(row[c] for c in others)) for row in shown)
    text = (
        f"{len(found)} values are flagged: metrics of quality control outside their limits, and metrics or regions "
        "whose robust z over the cohort is beyond ±3.5. Nobody is left out of a model for it."
    )
    heads = ("scan", "what", "value", "median", "robust z", "why")
    tables = (Table("Flagged values", heads, cells, file),) if cells else ()
    return Chapter("outliers", "Outliers", (text,), (), tables)


def _panels(metrics: pd.DataFrame, flagged: pd.DataFrame) -> list[graphs.Spread]:
    """Metrics that differ between scans, or of which one is flagged; at most `MAX_PANELS`."""
    marked = set(zip(flagged["scan"], flagged["what"], strict=True))
    found = []
    for what, part in metrics.groupby("what", sort=False):
        known = part[np.isfinite(part["value"])]
        values = known["value"].to_numpy(float)
        flags = np.array([(scan, what) in marked for scan in known["scan"]], bool)
        if not len(known) or (np.ptp(values) == 0 and not flags.any() and len(known) > 1):
            continue
        first = known.iloc[0]
        names = list(known["scan"])
        found.append(graphs.Spread(str(what), first["unit"], names, values, flags, first["low"], first["high"]))
    return found[:MAX_PANELS]


def _page(participant: str, text: str, out_dir: Path) -> Link | str:
    """A link to the page of a participant, where there is one."""
    return Link(text, f"{participant}.html") if (out_dir / f"{participant}.html").exists() else text
