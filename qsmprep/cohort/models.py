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

FAMILY = ("segmentation", "map", "quantity", "unit", "acquisition", "other")
"""Regions that share these are tested together: the false discovery rate is over them."""

REGION = ("structure", "hemisphere", "name")

CONFIDENCE = 0.95

COLUMNS: dict[str, dict[str, str]] = {
    "model": {"Description": "ols: ordinary least squares; mixed: random intercept for each participant"},
    "term": {"Description": "Coefficient of the design, as patsy names it"},
    "status": {"Description": "ok, or why there is no estimate"},
    "n_rows": {"Description": "Measurements used"},
    "n_participants": {"Description": "Participants used"},
    "estimate": {"Description": "Coefficient, in the unit of the map for each unit of the term"},
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
    """Table of all coefficients, the formula, and what a person should know."""

    table: pd.DataFrame
    formula: str
    notes: tuple[str, ...] = ()


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
    regions = rows[(rows["kind"] == "region") & (rows["n_voxels"] > 0)]
    found: list[dict[str, Any]] = []
    keys = [*FAMILY, *REGION]
    for key, part in regions.groupby(keys, observed=True, sort=False):
        head = dict(zip(keys, key, strict=True))
        found += [{**head, **line} for line in fit_region(part, full, statistic, used)]
    table = pd.DataFrame(found, columns=[*keys, *COLUMNS])
    _correct(table)
    failed = table.loc[table["status"] != "ok", [*REGION, "status"]].drop_duplicates()
    notes = tuple(f"{r.structure} {r.hemisphere}: {r.status}" for r in failed.itertuples())
    return Models(table, full, notes)


def fit_region(part: pd.DataFrame, formula: str, statistic: str, used: tuple[str, ...]) -> list[dict[str, Any]]:
    """Coefficients of one region, one dict each; a single line with the reason where nothing can be fitted."""
    data = pd.DataFrame({name: _plain(part[name]) for name in used})
    data["participant_id"] = part["participant_id"].astype(object)
    data["chi"] = data["value"] = part[statistic].to_numpy(float)
    data = data.dropna()
    n, people = len(data), data["participant_id"].nunique()
    size = {"n_rows": n, "n_participants": people}
    if n < 3:
        return [{"status": f"too few measurements ({n})", **size}]
    try:
        y, x = patsy.dmatrices(formula, data, return_type="dataframe", eval_env=patsy.EvalEnvironment([{"np": np}]))
    except (patsy.PatsyError, ValueError, TypeError, NameError) as error:
        return [{"status": f"the formula cannot be evaluated: {str(error).splitlines()[0]}", **size}]
    response, design = y.to_numpy(float)[:, 0], x
    rank = np.linalg.matrix_rank(design.to_numpy())
    if rank < design.shape[1]:
        return [{"status": "the terms cannot be told apart in these participants", **size}]
    if n - design.shape[1] < 2:
        return [{"status": f"too few measurements ({n}) for {design.shape[1]} coefficients", **size}]
    if np.ptp(response) == 0:
        return [{"status": "all measurements are the same", **size}]
    fit = _mixed if people < n else _ordinary
    try:
        return [{"status": "ok", **size, **line} for line in fit(response, design, data["participant_id"])]
    except np.linalg.LinAlgError as error:
        return [{"status": f"the model has no solution ({error})", **size}]


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
