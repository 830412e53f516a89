"""The models agree with direct calls of statsmodels, recover known effects, and say why they cannot be fitted."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import statsmodels.formula.api as smf
from cohort_cases import EFFECT_PPM, SLOPE_PPM_YEAR, write_cohort, write_table

from qsmprep.cohort.collect import collect_cohort
from qsmprep.cohort.formula import default_formula, names_in
from qsmprep.cohort.models import fit_models
from qsmprep.cohort.normative import fit_iron_line
from qsmprep.cohort.outliers import find_outliers, robust_z
from qsmprep.core.iron import HALLGREN_SOURANDER
from qsmprep.errors import UsageError

FORMULA = "chi ~ group + age + sex"
COLUMNS = ("age", "sex", "group", "session")


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    raw, out = write_cohort(tmp_path_factory.mktemp("cohort"), 24)
    return collect_cohort(out, raw)


def one_region(rows: pd.DataFrame, structure: str, side: str = "L") -> pd.DataFrame:
    part = rows[(rows["structure"] == structure) & (rows["hemisphere"] == side)].copy()
    for name in ("group", "sex", "participant_id", "session"):
        part[name] = part[name].astype(str)
    return part.rename(columns={"mean": "chi"})


def line_of(table: pd.DataFrame, structure: str, term: str, side: str = "L") -> pd.Series:
    found = table[(table["structure"] == structure) & (table["hemisphere"] == side) & (table["term"] == term)]
    assert len(found) == 1
    return found.iloc[0]


def test_agrees_with_statsmodels(cohort):
    table = fit_models(cohort.rows, FORMULA, "mean", COLUMNS).table
    assert len(table) == 15 * 4
    for structure in ("pallidum", "putamen", "thalamus"):
        data = one_region(cohort.rows, structure)
        direct = smf.ols(FORMULA, data).fit()
        robust = smf.ols(FORMULA, data).fit(cov_type="HC3", use_t=True)
        huber = smf.rlm(FORMULA, data).fit()
        for term in direct.params.index:
            found = line_of(table, structure, term)
            assert found["estimate"] == pytest.approx(direct.params[term])
            assert (found["ci_low"], found["ci_high"]) == pytest.approx(tuple(direct.conf_int().loc[term]))
            assert found["p"] == pytest.approx(direct.pvalues[term])
            assert found["hc3_p"] == pytest.approx(robust.pvalues[term])
            assert found["huber_estimate"] == pytest.approx(huber.params[term], rel=1e-6)
        d = direct.params["group[T.patient]"] / np.sqrt(direct.mse_resid)
        assert line_of(table, structure, "group[T.patient]")["effect_size"] == pytest.approx(d)


def test_correction_is_that_of_benjamini_and_hochberg(cohort):
    table = fit_models(cohort.rows, FORMULA, "mean", COLUMNS).table
    part = table[table["term"] == "age"].sort_values("p")
    p = part["p"].to_numpy()
    expected = np.array([min(p[j] * len(p) / (j + 1) for j in range(i, len(p))) for i in range(len(p))])
    np.testing.assert_allclose(part["p_fdr"], np.minimum(expected, 1))


def test_recovers_what_was_put_in(tmp_path):
    """Over many cohorts of 24: the intervals hold the truth, and where there is no effect 5 % are below 0.05."""
    held, false = [], []
    rng = np.random.default_rng(0)
    rows = collect_cohort(*reversed(write_cohort(tmp_path, 24))).rows
    for _ in range(12):
        rows = rows.copy()
        mean = rng.normal(0, 0.01, len(rows))
        mean += SLOPE_PPM_YEAR * rows["age"] * (rows["structure"] == "putamen")
        mean += EFFECT_PPM * ((rows["structure"] == "pallidum") & (rows["group"] == "patient"))
        rows["mean"] = mean
        table = fit_models(rows, FORMULA, "mean", COLUMNS).table
        for side in "LR":
            group = line_of(table, "pallidum", "group[T.patient]", side)
            held.append(group["ci_low"] <= EFFECT_PPM <= group["ci_high"])
            assert group["p_fdr"] < 0.05
            age = line_of(table, "putamen", "age", side)
            held.append(age["ci_low"] <= SLOPE_PPM_YEAR <= age["ci_high"])
        none = table[(table["term"] == "group[T.patient]") & (table["structure"] != "pallidum")]
        false += list(none["p"] < 0.05)
    assert np.mean(held) >= 0.85  # 48 intervals of 95 %
    assert 0.01 <= np.mean(false) <= 0.11  # 156 tests at 5 %


def test_repeated_measurements_give_a_mixed_model(tmp_path):
    raw, out = write_cohort(tmp_path, 16, sessions=3, shift=0.004)
    found = collect_cohort(out, raw)
    formula, notes = default_formula(found.rows, found.covariates)
    assert formula == "chi ~ group + age + sex + session"
    assert any("session is a term" in note for note in notes)
    table = fit_models(found.rows, formula, "mean", COLUMNS).table
    data = one_region(found.rows, "pallidum")
    data["chi"] *= 100  # statsmodels' optimiser does not like small numbers
    direct = smf.mixedlm(formula, data, groups=data["participant_id"]).fit(reml=True)
    for term in ("group[T.patient]", "session[T.3]", "age"):
        line = line_of(table, "pallidum", term)
        assert line["model"] == "mixed"
        assert (line["n_rows"], line["n_participants"]) == (48, 16)
        assert line["estimate"] == pytest.approx(direct.params[term] / 100, rel=1e-3, abs=1e-6)
        assert line["se"] == pytest.approx(direct.bse[term] / 100, rel=1e-2)
    shift = line_of(table, "thalamus", "session[T.3]")
    assert shift["ci_low"] < 0.008 < shift["ci_high"]


def test_what_cannot_be_fitted_says_so(cohort):
    rows = cohort.rows.copy()
    thalamus = rows["structure"] == "thalamus"
    rows.loc[thalamus & (rows["participant_id"] != "sub-001"), "n_voxels"] = 0
    rows.loc[rows["structure"] == "caudate", "mean"] = 0.25
    rows["twice"] = 2 * rows["age"]
    result = fit_models(rows, "chi ~ age + twice", "mean", (*COLUMNS, "twice"))
    status = result.table.drop_duplicates("structure").set_index("structure")["status"]
    assert status["thalamus"] == "too few measurements (1)"
    assert status["putamen"] == "the terms cannot be told apart in these participants"
    result = fit_models(rows, "age", "mean", COLUMNS)
    status = result.table.drop_duplicates("structure").set_index("structure")["status"]
    assert status["caudate"] == "all measurements are the same"
    assert status["putamen"] == "ok"
    assert any("caudate L: all measurements" in note for note in result.notes)


def test_any_formula(cohort):
    table = fit_models(cohort.rows, "chi ~ C(group, Sum) * standardize(age) + I(age**2)", "median", COLUMNS).table
    assert (table["status"] == "ok").all()
    assert len(set(table["term"])) == 5
    assert names_in("np.log(chi + 1) ~ Q('group') + bs(age, df=4)", COLUMNS) == ("group", "age")


@pytest.mark.parametrize(
    ("formula", "told"),
    [
        ("chi ~ group + agee", "uses agee"),
        ("chi ~ group +", "cannot be parsed"),
        ("age ~ group", "left side"),
        ("chi ~ chi + age", "right side"),
        ("chi ~ Q('no such')", "uses no such"),
        ("chi ~ open(age)", "uses open"),
    ],
)
def test_wrong_formulas(formula, told):
    with pytest.raises(UsageError, match=told) as caught:
        names_in(formula, COLUMNS)
    assert caught.value.exit_code == 2


def test_default_formula_leaves_out_what_is_not_there(cohort):
    assert default_formula(cohort.rows, ("age", "sex", "group"))[0] == "chi ~ group + age + sex"
    formula, notes = default_formula(cohort.rows[cohort.rows["group"] == "control"], ("age", "group"))
    assert formula == "chi ~ age"
    assert len(notes) == 2


def test_iron_line_finds_offset_and_slope():
    rng = np.random.default_rng(0)
    rows = []
    for structure, curve in HALLGREN_SOURANDER.items():
        age = rng.uniform(20, 80, 30)
        chi = -0.03 + 0.0009 * curve.mg_per_kg(age) + rng.normal(0, 1e-5, 30)
        rows.append(pd.DataFrame({"structure": structure, "age": age, "mean": chi}))
    line = fit_iron_line(pd.concat(rows), "mean")
    assert line.offset_ppm == pytest.approx(-0.03, abs=1e-4)
    assert line.slope_ppm_per_mg_kg == pytest.approx(0.0009, rel=1e-3)
    assert line.r2 > 0.999
    assert line.chi_ppm("putamen", np.array([0.0]))[0] == pytest.approx(-0.03 + 0.0009 * 4.6, abs=1e-4)
    assert fit_iron_line(rows[0], "mean") is None, "one nucleus cannot tell offset and slope apart from age"


def test_published_iron_saturates_where_it_should():
    """Pallidum at 30 years and old age in mg per 100 g, from the formula by hand."""
    pallidum = HALLGREN_SOURANDER["pallidum"]
    assert pallidum.mg_per_kg(30) == pytest.approx(10 * (21.41 * (1 - np.exp(-2.7)) + 0.37))
    assert pallidum.mg_per_kg(100) == pytest.approx(217.8, abs=0.1)
    assert HALLGREN_SOURANDER["putamen"].mg_per_kg(0) == pytest.approx(4.6)


def test_outliers_are_found(cohort):
    rows = cohort.rows.copy()
    at = (rows["participant_id"] == "sub-007") & (rows["structure"] == "amygdala") & (rows["hemisphere"] == "R")
    rows.loc[at, "mean"] = 0.5
    metrics = pd.DataFrame(
        {
            "participant_id": [f"sub-{i:03d}" for i in range(1, 13)],
            "session": "n/a",
            "scan": "s",
            "what": "SNR",
            "value": [50.0, 51, 52, 49, 48, 50, 53, 50, 47, 52, 4, 250],
            "low": 5.0,
            "high": np.nan,
        }
    )
    found = find_outliers(rows, metrics, "mean")
    regions = found[found["source"] == "roi"]
    assert "tv first amygdala R" in set(regions.loc[regions["participant_id"] == "sub-007", "what"])
    whys = found[found["source"] == "qc"].set_index("participant_id")["why"]
    assert whys["sub-011"] == "far from the cohort and outside the limits"
    assert whys["sub-012"] == "far from the cohort"
    assert list(whys.index) == ["sub-011", "sub-012"]
    assert np.isnan(robust_z(np.array([1.0, 1, 1, 1, 5]))).all()


def test_regions_without_voxels_are_no_measurement(tmp_path):
    raw, out = write_cohort(tmp_path, 12)
    write_table(out, "sub-003", {10: float("nan"), 11: 0.05})
    table = fit_models(collect_cohort(out, raw).rows, "age", "mean", COLUMNS).table
    assert line_of(table, "thalamus", "age")["n_rows"] == 11
    assert line_of(table, "caudate", "age")["n_rows"] == 12
    assert line_of(table, "caudate", "age", "R")["n_rows"] == 11
