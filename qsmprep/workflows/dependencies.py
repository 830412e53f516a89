"""Which node waits for how many others: what Nipype's scheduler asks at every turn, answered without a search.

Nipype keeps a sparse matrix of all pairs of nodes and sums its columns several times a second, in a format for which
that takes longer with every participant. Here the sums are kept.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray


class Dependencies:
    """Stands in for the matrix of dependencies of Nipype's plugins (rows: before, columns: after).

    Parameters
    ----------
    matrix : sparse matrix
        Not zero at [i, j] where j needs i. The matrix of a graph without map nodes, which are added to it later.
    """

    def __init__(self, matrix: Any) -> None:
        pairs = matrix.tocoo()
        self.shape = matrix.shape
        self.waits = np.bincount(pairs.col, minlength=self.shape[1]).reshape(1, -1)
        order = np.argsort(pairs.row, kind="stable")
        ends = np.searchsorted(pairs.row[order], np.arange(self.shape[0] + 1))
        self.after = [pairs.col[order[a:b]] for a, b in pairwise(ends)]

    def sum(self, axis: int) -> NDArray[np.int64]:
        """How many nodes each one still waits for, of shape (1, n)."""
        assert axis == 0
        return self.waits

    def getrowview(self, before: int) -> Row:
        """The row of a node."""
        return Row(self, before)


class Row:
    """Who needs a node; all of it can be set to zero."""

    def __init__(self, table: Dependencies, before: int) -> None:
        self.table, self.before = table, before

    def nonzero(self) -> NDArray[np.int64]:
        """The nodes that need it."""
        return self.table.after[self.before]

    def __setitem__(self, nodes: NDArray[np.int64], value: int) -> None:
        assert value == 0
        self.table.waits[0, nodes] -= 1
        self.table.after[self.before] = nodes[:0]
