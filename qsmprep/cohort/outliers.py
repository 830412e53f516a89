"""Who stands out: in the metrics of quality control, and in the regions."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from qsmprep.bids.entities import natural_key, parse_name
from qsmprep.bids.tables import NOT_AVAILABLE

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


def read_metrics(out_dir: Path, participants: Iterable[str]) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """Metrics of quality control of all scans, and the records that cannot be read.

    Parameters
    ----------
    out_dir : Path
        Where the participant level wrote its ``*_desc-qc_metrics.json``.
    participants : iterable of str
        As ``sub-01``.
    """
    found: list[dict[str, Any]] = []
    problems = []
    for label in participants:
        for path in sorted((out_dir / label).rglob("*_desc-qc_metrics.json"), key=lambda p: natural_key(p.name)):
            name = parse_name(path)
            try:
                metrics = json.loads(path.read_text(encoding="utf-8"))["metrics"]
                keys = ("value", "low", "high")
                lines = [{"what": m["name"], **{key: m.get(key) for key in keys}} for m in metrics]
            except (OSError, ValueError, KeyError, TypeError) as error:
                problems.append(f"{path.relative_to(out_dir)}: no quality record ({type(error).__name__})")
                continue
            scan = path.name.removesuffix("_desc-qc_metrics.json")
            session = (name.get("ses") if name else None) or NOT_AVAILABLE
            found += [{"participant_id": label, "session": session, "scan": scan, **line} for line in lines]
    columns = ["participant_id", "session", "scan", "what", "value", "low", "high"]
    frame = pd.DataFrame(found, columns=columns)
    for column in ("value", "low", "high"):
        frame[column] = pd.to_numeric(frame[column], errors="coerce")
    return frame, tuple(problems)


def find_outliers(rows: pd.DataFrame, metrics: pd.DataFrame, statistic: str) -> pd.DataFrame:
    """Values far from the cohort's, and metrics outside their own limits.

    Parameters
    ----------
    rows : DataFrame
        The long table.
    metrics : DataFrame
        From :func:`read_metrics`.
    statistic : str
        Statistic of the regions.
    """
    found: list[dict[str, Any]] = []
    for what, part in metrics.groupby("what", sort=False):
        found += _flag(part, part["value"].to_numpy(float), "qc", str(what), part["low"], part["high"])
    regions = rows[(rows["kind"] == "region") & (rows["n_voxels"] > 0)]
    keys = ["map", "segmentation", "acquisition", "other", "structure", "hemisphere", "name"]
    for key, part in regions.groupby(keys, observed=True, sort=False):
        what = " ".join(str(word) for word in (key[0], key[1], key[4], key[5]))
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
