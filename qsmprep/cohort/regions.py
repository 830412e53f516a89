"""Which rows of a cohort are the same region: by structure and side, and by their label where that is not enough."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from qsmprep.cohort.collect import IDENTITY

MIDLINE = "B"


def tell_apart(rows: pd.DataFrame) -> NDArray[np.object_]:
    """What tells the labels of one structure and side apart, for each row of the long table.

    Parameters
    ----------
    rows : DataFrame
        The long table.

    Returns
    -------
    (n,) array of str
        Empty where structure and side are enough: no scan has several labels for them, however the label is spelled.
        Else its name, and its index after that (the kind of row where it has none) where labels share the name.
    """
    place = ("structure", "hemisphere")
    marks = np.full(len(rows), "", dtype=object)
    several = _in_one_scan(rows, place)
    names = rows["name"].astype(object).to_numpy()
    marks[several] = names[several]
    for at in np.flatnonzero(several & _in_one_scan(rows, (*place, "name"))):
        index = rows["index"].iloc[at]
        marks[at] = f"{names[at]} {int(index) if np.isfinite(index) else rows['kind'].iloc[at]}"
    return marks


def titles(table: pd.DataFrame) -> list[str]:
    """``pallidum L``, without a side for the midline; the name follows where the table has several for them."""
    names = table.groupby(["segmentation", "structure", "hemisphere"], observed=True)["name"].transform("nunique")
    columns = (table["structure"], table["hemisphere"], table["name"], names > 1)
    return [
        structure + (f" {side}" if side != MIDLINE else "") + (f" ({name})" if several else "")
        for structure, side, name, several in zip(*columns, strict=True)
    ]


def _in_one_scan(rows: pd.DataFrame, columns: tuple[str, ...]) -> NDArray[np.bool_]:
    """Rows whose values of the columns stand for several labels in a scan with their segmentation."""
    keys = ("segmentation", *columns)
    doubled = rows[rows.duplicated([*IDENTITY, *columns], keep=False)]
    found = set(zip(*(doubled[key] for key in keys), strict=True))
    return np.fromiter((key in found for key in zip(*(rows[key] for key in keys), strict=True)), bool, len(rows))
