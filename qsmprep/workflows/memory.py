"""Memory of the steps: one table, made from measured peaks, that gives the scheduler an estimate for every node."""

from __future__ import annotations

from dataclasses import dataclass

from niworkflows.engine.workflows import LiterateWorkflow

BASE_GB = 0.6
"""A worker that has imported everything and does nothing."""

BYTES: dict[str, tuple[float, float]] = {
    "conform": (0, 42),
    "brain": (0, 16),
    "artefacts": (0, 30),
    "unwrap": (0, 56),
    "fieldmap": (0, 56),
    "r2star": (0, 34),
    "swi": (0, 80),
    "qsmmask": (100, 0),
    "background": (290, 0),
    "remainder": (400, 0),
    "invert_": (400, 0),
    "invert_tgv": (510, 0),
    "reference_": (40, 0),
    "roi_": (120, 0),
    "labels_": (80, 0),
    "report_magnitude": (0, 48),
    "report_phase": (0, 30),
    "report_chi": (400, 0),
    "report_field": (190, 0),
    "report_compare": (200, 0),
    "report_": (150, 0),
    "publish_": (45, 20),
}
"""Bytes for each voxel, and for each voxel of each echo, by the beginning of the node's name; the longest counts.

From peaks at 166 x 214 x 176 voxels and 5 echoes (``benchmarks/step_cost.py``), a fifth added.
"""

FIXED_GB = {"brain": 0.4}
"""What a node takes besides, whatever the size: windows of the network that checks the mask."""

LEARNED_BYTES = 1100
"""Bytes for each voxel of a learned inversion, up to `LEARNED_MOST_GB`: LoopNet, the largest, took 1055 for each
voxel of the box that it works in."""

LEARNED_MOST_GB = 5.5
"""Where learned inversions begin to work in tiles (``CPU_LIMIT`` of :mod:`qsmprep.networks.plan`)."""

TILED_BYTES = 400
"""Bytes for each voxel of a learned inversion in tiles: what is planned for the transforms (``PHYSICS_BYTES``) and a
margin; not measured."""


@dataclass(frozen=True)
class Size:
    """What the memory of the steps depends on."""

    n_voxels: int
    n_echoes: int

    def estimate_gb(self, name: str, *, learned: bool = False) -> float:
        """Memory of a node in GB; nothing but the base for one that the table does not know."""
        key = max((key for key in BYTES if name.startswith(key)), key=len, default="")
        voxel, echo = BYTES.get(key, (0, 0))
        need_gb = FIXED_GB.get(key, 0.0) + (voxel + echo * self.n_echoes) * self.n_voxels / 1e9
        if learned:
            whole_gb = LEARNED_BYTES * self.n_voxels / 1e9
            need_gb = min(whole_gb, max(LEARNED_MOST_GB, TILED_BYTES * self.n_voxels / 1e9))
        return BASE_GB + need_gb


def estimate_memory(workflow: LiterateWorkflow, size: Size, learned: frozenset[str] = frozenset()) -> None:
    """Give every node of an acquisition its estimate, where that is more than what it was made with.

    Parameters
    ----------
    workflow : LiterateWorkflow
        The graph of one acquisition.
    size : Size
    learned : frozenset of str
        Inversions that are networks.
    """
    for name in workflow.list_node_names():
        node = workflow.get_node(name)
        estimate = size.estimate_gb(name, learned=name.removeprefix("invert_") in learned)
        node._mem_gb = max(node.mem_gb, round(estimate, 3))
