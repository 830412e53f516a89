"""The scheduler's table of dependencies answers as Nipype's own matrix does, through a whole graph."""

from __future__ import annotations

import networkx as nx
import numpy as np
from nipype.pipeline.plugins.base import _graph_to_lil_matrix

from qsmprep.workflows.dependencies import Dependencies


def test_answers_are_those_of_the_matrix():
    rng = np.random.default_rng(0)
    graph = nx.DiGraph()
    graph.add_nodes_from(range(60))
    graph.add_edges_from((int(a), int(b)) for a, b in rng.integers(0, 60, (200, 2)) if a < b)
    nodes = list(nx.topological_sort(graph))
    matrix = _graph_to_lil_matrix(graph, nodelist=nodes)
    table = Dependencies(matrix)
    done = np.zeros(60, bool)
    while not done.all():
        ready = np.nonzero(~done & (np.asarray(matrix.sum(0)) == 0).reshape(1, -1))[1]
        np.testing.assert_array_equal(np.nonzero(~done & (table.sum(0) == 0))[1], ready)
        np.testing.assert_array_equal(np.flatnonzero(~done & (table.sum(axis=0) == 0).__array__()), ready)
        job = int(rng.choice(ready))
        done[job] = True
        for answers in (matrix, table):
            row = answers.getrowview(job)
            row[row.nonzero()] = 0
    assert not table.waits.any()


def test_a_node_that_ends_twice_counts_once():
    graph = nx.DiGraph([(0, 2), (1, 2)])
    table = Dependencies(_graph_to_lil_matrix(graph, nodelist=[0, 1, 2]))
    for _ in range(2):
        row = table.getrowview(0)
        row[row.nonzero()] = 0
    np.testing.assert_array_equal(table.sum(0), [[0, 0, 1]])
