"""Who stands out: in the metrics of quality control, and in the regions."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd

from qsmprep.bids.tables import NOT_AVAILABLE
from qsmprep.cohort.regions import tell_apart

LIMIT = 3.5
"""A robust z beyond this is flagged, after Iglewicz and Hoaglin (1993)."""

MIN_N = 5
"""Fewer values than this flag nobody."""

COLUMNS: dict[str, dict[str, str]] = {
    "participant_id": {"Description": "Participant"},
    "session": {"Description": "Session"},
    "scan": {"Description": "The scan, by the entities of its files"},
    "source": {"Description": "qc: a metric of quality control; roi: the statistic of a region"},
    "what": {"Description": "The metric, or map, segmentation and region"},
    "value": {"Description": "Its value"},
    "median": {"Description": "Median of the cohort"},
    "robust_z": {
        "Description": "Difference from the median over the robust standard deviation (1.4826 times the median "
        f"absolute deviation); beyond ±{LIMIT} is flagged"
    },
    "why": {"Description": "far from the cohort, or outside the limits of the metric"},
}
"""Columns of the table of outliers."""


def robust_z(values: np.ndarray) -> np.ndarray:
    """Differences from the median over 1.4826 times the median absolute deviation; NaN where that is zero."""
    median = np.nanmedian(values)
    spread = 1.4826022185056018 * np.nanmedian(np.abs(values - median))
    return (values - median) / spread if spread > 0 else np.full(values.shape, math.nan)


def find_outliers(rows: pd.DataFrame, metrics: pd.DataFrame, statistic: str) -> pd.DataFrame:
    """Values far from the cohort's, and metrics outside their own limits.

    Parameters
    ----------
    rows : DataFrame
        The long table.
    metrics : DataFrame
        Of :class:`qsmprep.reports.quality.Quality`.
    statistic : str
        Statistic of the regions.
    """
    found: list[dict[str, Any]] = []
    for what, part in metrics.groupby("what", sort=False):
        found += _flag(part, part["value"].to_numpy(float), "qc", str(what), part["low"], part["high"])
    if rows.empty:
        return pd.DataFrame(found, columns=list(COLUMNS))
    there = ((rows["kind"] == "region") & (rows["n_voxels"] > 0)).to_numpy()
    keys = ["map", "segmentation", "acquisition", "other", "structure", "hemisphere"]
    for key, part in rows[there].groupby([*keys, tell_apart(rows)[there]], observed=True, sort=False):
        what = " ".join(str(word) for word in (key[0], key[1], *key[4:]) if word)
        names = part[["participant_id", "session", "acquisition", "run"]].to_numpy()
        named = part.assign(scan=[_scan(row) for row in names])
        found += _flag(named, part[statistic].to_numpy(float), "roi", what)
    return pd.DataFrame(found, columns=list(COLUMNS))


def _scan(values: np.ndarray) -> str:
    words = ("", "ses-", "acq-", "run-")
    return "_".join(f"{word}{value}" for word, value in zip(words, values, strict=True) if value != NOT_AVAILABLE)


def _flag(
    part: pd.DataFrame,
    values: np.ndarray,
    source: str,
    what: str,
    low: pd.Series | None = None,
    high: pd.Series | None = None,
) -> list[dict[str, Any]]:
    known = np.isfinite(values)
    z = robust_z(values) if known.sum() >= MIN_N else np.full(values.shape, math.nan)
    median = float(np.nanmedian(values)) if known.any() else math.nan
    far = np.abs(np.nan_to_num(z)) > LIMIT
    outside = np.zeros(values.shape, bool)
    if low is not None and high is not None:
        outside = known & ((values < low.to_numpy(float)) | (values > high.to_numpy(float)))
    lines = []
    for k in np.flatnonzero(far | outside):
        row = part.iloc[k]
        why = " and ".join(
            text for text, yes in (("far from the cohort", far[k]), ("outside the limits", outside[k])) if yes
        )
        lines.append(
            {
                "participant_id": row["participant_id"],
                "session": row["session"],
                "scan": row["scan"],
                "source": source,
                "what": what,
                "value": float(values[k]),
                "median": median,
                "robust_z": float(z[k]),
                "why": why,
            }
        )
    return lines
