"""One model for each region of each map: effects, their intervals, and how sure one can be over all regions.

Participants measured once give an ordinary regression, with robust variants beside it; participants measured several
times give a mixed model with a random intercept for each participant.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import patsy
import statsmodels.api as sm
from statsmodels.stats.multitest import multipletests
from statsmodels.tools.sm_exceptions import ConvergenceWarning

from qsmprep.cohort.formula import names_in, with_response
from qsmprep.cohort.missing import LeftOut, find_left_out, notes_on, shorten
from qsmprep.cohort.regions import tell_apart, titles
from qsmprep.cohort.tables import unit_of

FAMILY = ("segmentation", "map", "quantity", "unit", "acquisition", "other")
"""Regions that share these are tested together: the false discovery rate is over them."""

REGION = ("structure", "hemisphere", "name")
"""What makes a region: labels of one structure and side are one, unless a scan has several; then the name counts."""

CONFIDENCE = 0.95

MAX_REGIONS = 8
"""Most regions that one note names."""

COLUMNS: dict[str, dict[str, str]] = {
    "model": {"Description": "ols: ordinary least squares; mixed: random intercept for each participant"},
    "term": {"Description": "Coefficient of the design, as patsy names it"},
    "status": {"Description": "ok, or why there is no estimate"},
    "n_rows": {"Description": "Measurements used"},
    "n_participants": {"Description": "Participants used"},
    "n_left_out": {
        "Description": "Measurements not used: a covariate or the statistic is missing, or the formula gives no number"
    },
    "estimate": {"Description": "Coefficient, in `unit` for each unit of the term"},
    "se": {"Description": "Standard error"},
    "ci_low": {"Description": "Lower end of the 95 % confidence interval"},
    "ci_high": {"Description": "Upper end of the 95 % confidence interval"},
    "statistic": {"Description": "t (ols) or z (mixed)"},
    "p": {"Description": "Two-sided p value, not corrected"},
    "p_fdr": {"Description": "p after Benjamini and Hochberg over the regions of the same map, for this term"},
    "effect_size": {
        "Description": "Estimate over the residual standard deviation: Cohen's d of a difference of groups adjusted "
        "for the other terms; for a number, change in standard deviations for one of its standard deviations"
    },
    "effect_low": {"Description": "Lower end of its 95 % interval (that of the estimate, scaled)"},
    "effect_high": {"Description": "Upper end of its 95 % interval"},
    "partial_r": {"Description": "Partial correlation (ols)"},
    "hc3_se": {"Description": "Standard error that allows for unequal variances (HC3; ols)"},
    "hc3_p": {"Description": "p value with it"},
    "huber_estimate": {"Description": "Coefficient of a robust regression (Huber's T; ols)"},
    "huber_se": {"Description": "Its standard error"},
    "huber_p": {"Description": "Its p value"},
    "residual_sd": {"Description": "Residual standard deviation, in mixed models between and within participants"},
}
"""Columns of the table of models after those that name the region, and what they mean."""


@dataclass(frozen=True)
class Models:
    """Table of all coefficients, the formula, what a person should know, and who lacks a covariate."""

    table: pd.DataFrame
    formula: str
    notes: tuple[str, ...] = ()
    left_out: tuple[LeftOut, ...] = ()

    @property
    def participants(self) -> tuple[int, int]:
        """Least and most participants in a model; zero where there is none."""
        numbers = self.table.loc[self.table["status"] == "ok", "n_participants"]
        return (int(numbers.min()), int(numbers.max())) if len(numbers) else (0, 0)


def fit_models(rows: pd.DataFrame, formula: str, statistic: str, columns: tuple[str, ...]) -> Models:
    """Fit the formula to every region.

    Parameters
    ----------
    rows : DataFrame
        The long table of a cohort.
    formula : str
        Patsy's language; ``chi`` on the left is the statistic of the map.
    statistic : str
        Which statistic of the regions is modelled.
    columns : tuple of str
        Columns that the formula may use.

    Raises
    ------
    UsageError
        When the formula asks for what is not there.
    """
    used = names_in(formula, columns)
    full = with_response(formula)
    there = ((rows["kind"] == "region") & (rows["n_voxels"] > 0)).to_numpy()
    regions, marks = rows[there], tell_apart(rows)[there]
    found: list[dict[str, Any]] = []
    keys = [*FAMILY, *REGION]
    for (*key, mark), part in regions.groupby([*keys[:-1], marks], observed=True, sort=False):
        head = dict(zip(keys, (*key, mark or "; ".join(part["name"].unique())), strict=True))
        found += [{**head, **line} for line in fit_region(part, full, statistic, used)]
    table = pd.DataFrame(found, columns=[*keys, *COLUMNS, "undefined"])
    _correct(table)
    table["unit"] = [unit_of(statistic, str(unit)) for unit in table["unit"]]
    left_out = find_left_out(regions, used)
    notes = (*notes_on(left_out), *_undefined(table), *_failures(table))
    return Models(table.drop(columns="undefined"), full, notes, left_out)


def fit_region(part: pd.DataFrame, formula: str, statistic: str, used: tuple[str, ...]) -> list[dict[str, Any]]:
    """Coefficients of one region, one dict each, and a line with the reason for what cannot be estimated."""
    data = pd.DataFrame({name: _plain(part[name]) for name in used})
    data["participant_id"] = part["participant_id"].astype(object)
    data["chi"] = data["value"] = part[statistic].to_numpy(float)
    data = data.dropna().reset_index(drop=True)
    if len(data) < 3:
        return [{"status": f"too few measurements ({len(data)})", **_size(data, part, 0)}]
    try:
        y, design = _design(formula, data)
    except (patsy.PatsyError, ValueError, TypeError, NameError) as error:
        status = f"the formula cannot be evaluated: {str(error).splitlines()[0]}"
        return [{"status": status, **_size(data, part, 0)}]
    complete, data = len(data), data.loc[design.index]
    size = _size(data, part, complete - len(data))
    same = [{"term": name, "status": _one_value(name, data[name]), **size} for name in used if _is_one(data[name])]
    if reason := _why_not(y, design):
        return [{"status": reason, **size}, *(same if len(data) >= 3 else [])]
    fit = _mixed if data["participant_id"].nunique() < len(data) else _ordinary
    try:
        return [*({"status": "ok", **size, **line} for line in fit(y, design, data["participant_id"])), *same]
    except np.linalg.LinAlgError as error:
        return [{"status": f"the model has no solution ({error})", **size}, *same]


def _design(formula: str, data: pd.DataFrame) -> tuple[np.ndarray, pd.DataFrame]:
    """Response and design of the rows in which both are numbers; levels and scales are those of these rows."""
    while True:
        with np.errstate(all="ignore"):
            environment = patsy.EvalEnvironment([{"np": np}])
            y, x = patsy.dmatrices(formula, data, return_type="dataframe", eval_env=environment)
        finite = np.isfinite(y.to_numpy(float)).all(axis=1) & np.isfinite(x.to_numpy(float)).all(axis=1)
        kept = x.index[finite]
        if len(kept) in (0, len(data)):
            return y.loc[kept].to_numpy(float)[:, 0], x.loc[kept]
        data = data.loc[kept]


def _why_not(y: np.ndarray, design: pd.DataFrame) -> str:
    """Why these rows give no estimate; empty where they do."""
    n, terms = design.shape
    if n < 3:
        return f"too few measurements ({n})"
    if np.linalg.matrix_rank(design.to_numpy()) < terms:
        return "the terms cannot be told apart in these participants"
    if n - terms < 2:
        return f"too few measurements ({n}) for {terms} coefficients"
    return "all measurements are the same" if np.ptp(y) == 0 else ""


def _size(data: pd.DataFrame, part: pd.DataFrame, undefined: int) -> dict[str, int]:
    """How much is used; ``undefined`` are rows that have all covariates and for which the formula gives no number."""
    people = data["participant_id"].nunique()
    left_out = len(part) - len(data)
    return {"n_rows": len(data), "n_participants": people, "n_left_out": left_out, "undefined": undefined}


def _is_one(column: pd.Series) -> bool:
    return bool(column.nunique() == 1)


def _one_value(name: str, column: pd.Series) -> str:
    value = column.iloc[0]
    shown = f"{value:g}" if isinstance(value, float) else str(value)
    return f"{name} has one value left ({shown}): no effect of it can be told"


def _undefined(table: pd.DataFrame) -> tuple[str, ...]:
    """What to say of measurements for which the formula gives no number."""
    counts = {region: n for region, n in zip(titles(table), table["undefined"], strict=True) if n}
    if not counts:
        return ()
    shown = shorten([f"{region} {n}" for region, n in counts.items()], MAX_REGIONS)
    return (f"measurements left out because the formula gives no number for them: {shown}",)


def _failures(table: pd.DataFrame) -> tuple[str, ...]:
    """What could not be estimated, by region; one sentence for what holds for every region."""
    keys = [*FAMILY, *REGION]
    regions = len(table[keys].drop_duplicates())
    failed = table.assign(title=titles(table))[table["status"] != "ok"].drop_duplicates([*keys, "status"])
    notes: list[str] = []
    for status, part in failed.groupby("status", sort=False):
        everywhere = regions > 1 and len(part) == regions
        notes += [f"every region: {status}"] if everywhere else [f"{title}: {status}" for title in part["title"]]
    return tuple(dict.fromkeys(notes))


def _plain(column: pd.Series) -> pd.Series:
    """Categories as text, so that levels without a row are not in the design."""
    return column.astype(object) if isinstance(column.dtype, pd.CategoricalDtype) else column


def _ordinary(y: np.ndarray, x: pd.DataFrame, people: pd.Series) -> Iterator[dict[str, Any]]:
    fit = sm.OLS(y, x).fit()
    interval = fit.conf_int(1 - CONFIDENCE).to_numpy()
    residual_sd = math.sqrt(fit.mse_resid)
    robust = fit.get_robustcov_results("HC3") if fit.get_influence().hat_matrix_diag.max() < 1 - 1e-9 else None
    huber = None
    if residual_sd > 1e-9 * np.ptp(y):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            huber = sm.RLM(y, x, M=sm.robust.norms.HuberT()).fit()
    for k, term in enumerate(x.columns):
        t = float(fit.tvalues.iloc[k])
        yield {
            "model": "ols",
            "term": term,
            **_effect(fit.params.iloc[k], fit.bse.iloc[k], interval[k], residual_sd, x.iloc[:, k]),
            "statistic": t,
            "p": float(fit.pvalues.iloc[k]),
            "partial_r": t / math.sqrt(t * t + fit.df_resid),
            "hc3_se": math.nan if robust is None else float(robust.bse[k]),
            "hc3_p": math.nan if robust is None else float(robust.pvalues[k]),
            "huber_estimate": math.nan if huber is None else float(huber.params.iloc[k]),
            "huber_se": math.nan if huber is None else float(huber.bse.iloc[k]),
            "huber_p": math.nan if huber is None else float(huber.pvalues.iloc[k]),
        }


def _mixed(y: np.ndarray, x: pd.DataFrame, people: pd.Series) -> Iterator[dict[str, Any]]:
    scale = float(np.std(y))  # susceptibility in ppm is small: the optimiser works on numbers about 1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what they say is in `converged`
        fit = sm.MixedLM(y / scale, x, groups=people.to_numpy()).fit(reml=True)
    interval = np.asarray(fit.conf_int(1 - CONFIDENCE))[: x.shape[1]] * scale
    spread = scale * math.sqrt(float(fit.scale) + float(np.asarray(fit.cov_re)[0, 0]))
    for k, term in enumerate(x.columns):
        yield {
            "model": "mixed" if fit.converged else "mixed (not converged)",
            "term": term,
            **_effect(scale * fit.fe_params.iloc[k], scale * fit.bse_fe.iloc[k], interval[k], spread, x.iloc[:, k]),
            "statistic": float(fit.tvalues.iloc[k]),
            "p": float(fit.pvalues.iloc[k]),
        }


def _effect(estimate: float, se: float, interval: np.ndarray, residual_sd: float, column: pd.Series) -> dict[str, Any]:
    """Estimate with its interval, raw and over the residual standard deviation."""
    dummy = set(np.unique(column)) <= {0.0, 1.0}
    step = 1.0 if dummy else float(np.std(column, ddof=1))
    unit = step / residual_sd if residual_sd > 0 else math.nan
    return {
        "estimate": float(estimate),
        "se": float(se),
        "ci_low": float(interval[0]),
        "ci_high": float(interval[1]),
        "effect_size": float(estimate) * unit,
        "effect_low": float(interval[0]) * unit,
        "effect_high": float(interval[1]) * unit,
        "residual_sd": residual_sd,
    }


def _correct(table: pd.DataFrame) -> None:
    """Fill in ``p_fdr``: by map and term, over the regions."""
    for _, part in table.groupby([*FAMILY, "term"], observed=True):
        known = part["p"].dropna()
        if len(known):
            table.loc[known.index, "p_fdr"] = multipletests(known.to_numpy(), method="fdr_bh")[1]
