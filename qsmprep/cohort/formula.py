"""The formula of the models: its default, and whether the data have what it asks for."""

from __future__ import annotations

import ast
from collections.abc import Iterable

import pandas as pd
import patsy

from qsmprep.errors import UsageError

RESPONSES = ("chi", "value")
"""Names that the left side may have; both mean the statistic of the map, also where the map is R2*."""

DEFAULT_TERMS = ("group", "age", "sex")
"""Columns that enter the default formula where they are there and vary."""

_FUNCTIONS = frozenset(
    {"C", "Q", "I", "center", "scale", "standardize", "bs", "cr", "cc", "te", "np"}
    | {"Treatment", "Sum", "Helmert", "Poly", "Diff"}
    | {"abs", "min", "max", "round", "True", "False", "None"}
)


def default_formula(rows: pd.DataFrame, covariates: Iterable[str]) -> tuple[str, tuple[str, ...]]:
    """``chi ~ group + age + sex`` with the columns that are there and vary, and what was left out and why.

    Where participants have several sessions and no age for each, the session is a term.
    """
    notes, terms = [], []
    covariates = tuple(covariates)
    for name in DEFAULT_TERMS:
        if name not in covariates:
            notes.append(f"{name} is not among the columns of participants.tsv and is no term")
        elif name == "age" and rows[name].dtype.kind != "f":
            notes.append("age is not a number for everybody and is no term")
        elif rows[name].dropna().nunique() < 2:
            notes.append(f"{name} does not vary and is no term")
        else:
            terms.append(name)
    visits = rows[["participant_id", "session"]].astype(object).drop_duplicates()
    if visits["participant_id"].duplicated().any():
        ages = rows.groupby(rows["participant_id"].astype(object))["age"].nunique() if "age" in covariates else None
        if ages is None or ages.max() < 2:
            terms.append("session")
            notes.append("participants have several sessions and no age for each: session is a term")
    return f"chi ~ {' + '.join(terms) or '1'}", tuple(notes)


def names_in(formula: str, columns: Iterable[str]) -> tuple[str, ...]:
    """Columns that a formula uses, after checking it.

    Parameters
    ----------
    formula : str
        Patsy's language; the left side may be left out.
    columns : iterable of str
        What the data have.

    Returns
    -------
    tuple of str
        In the order in which they come, without the response.

    Raises
    ------
    UsageError
        When it cannot be parsed, its left side is something else than the map, it has no term, or a column is
        unknown.
    """
    try:
        description = patsy.ModelDesc.from_formula(formula)
    except patsy.PatsyError as error:
        raise UsageError(
            f"the formula {formula!r} cannot be parsed ({str(error).splitlines()[0]})",
            expected="for example `chi ~ group + age + sex`",
        ) from None
    columns = tuple(columns)
    left = _names(description.lhs_termlist, formula)
    if description.lhs_termlist and not set(left) & set(RESPONSES):
        raise UsageError(
            f"the left side of the formula {formula!r} is not the map", expected=f"{' or '.join(RESPONSES)}"
        )
    if not description.rhs_termlist:
        raise UsageError(
            f"the formula {formula!r} has no term",
            expected="at least a constant, as in `chi ~ 1`",
            remedy="add a term to --formula",
        )
    used = tuple(dict.fromkeys(_names(description.rhs_termlist, formula)))
    unknown = [name for name in (*left, *used) if name not in (*columns, *RESPONSES)]
    if unknown:
        raise UsageError(
            f"the formula uses {', '.join(dict.fromkeys(unknown))}, which no table has",
            expected=f"columns among {', '.join(columns) or 'none: there is no participants.tsv'}",
            remedy="correct --formula, or add the column to participants.tsv",
        )
    if set(used) & set(RESPONSES):
        raise UsageError(f"the formula {formula!r} has the map on its right side")
    return used


def with_response(formula: str) -> str:
    """The formula with its left side."""
    return formula if "~" in formula and formula.split("~", 1)[0].strip() else f"chi ~ {formula.lstrip(' ~')}"


def _names(terms: Iterable[patsy.Term], formula: str) -> list[str]:
    """Names in the factors of terms, without functions."""
    found = []
    for term in terms:
        for factor in term.factors:
            try:
                tree = ast.parse(factor.code, mode="eval")
            except SyntaxError:
                raise UsageError(f"`{factor.code}` in the formula {formula!r} is not understood") from None
            for node in ast.walk(tree):
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Q":
                    found += [arg.value for arg in node.args if isinstance(arg, ast.Constant)]
                elif isinstance(node, ast.Name) and node.id not in _FUNCTIONS:
                    found.append(node.id)
    return found
