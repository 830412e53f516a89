"""The graph of a whole run: one branch per acquisition, each with its outputs and its report."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

from niworkflows.engine.workflows import LiterateWorkflow

from qsmprep.bids.acquisition import Acquisition
from qsmprep.bids.segmentations import Segmentation
from qsmprep.core.grid import Grid
from qsmprep.core.methods import METHODS
from qsmprep.settings import Settings
from qsmprep.workflows.acquisition import init_acquisition_wf
from qsmprep.workflows.memory import Size, estimate_memory
from qsmprep.workflows.outputs import add_outputs
from qsmprep.workflows.regions import add_regions
from qsmprep.workflows.stages import add_stage_reports
from qsmprep.workflows.template import add_template_maps

WORKFLOW_NAME = "qsmprep_wf"


def init_qsmprep_wf(
    units: list[tuple[Acquisition, Grid]],
    settings: Settings,
    segmentations: dict[str, tuple[Segmentation, ...]] | None = None,
) -> LiterateWorkflow:
    """Build the graph of all acquisitions.

    Parameters
    ----------
    units : list of (Acquisition, Grid)
        Each with the grid of its images.
    settings : Settings
        What is wanted; ``work_dir`` becomes the base folder of the graph.
    segmentations : dict, optional
        Segmentations by the key of their acquisition.
    """
    workflow = LiterateWorkflow(name=WORKFLOW_NAME, base_dir=str(settings.work_dir))
    learned = frozenset(name for name in settings.inversions if METHODS.get("inversion", name).learned)
    for acquisition, grid in units:
        branch = init_acquisition_wf(acquisition, settings)
        add_outputs(branch, acquisition, grid, settings)
        add_stage_reports(branch, acquisition, settings)
        add_regions(branch, acquisition, settings, (segmentations or {}).get(acquisition.key, ()))
        add_template_maps(branch, acquisition, settings)
        estimate_memory(branch, Size(math.prod(grid.shape), len(acquisition.echoes)), learned)
        workflow.add_nodes([branch])
    return workflow


def write_graph(workflow: LiterateWorkflow, log_dir: Path) -> None:
    """Write the graph in dot format into the logs, and drawn as SVG where graphviz is installed."""
    drawn = "svg" if shutil.which("dot") else "dot"
    workflow.write_graph(dotfilename=str(log_dir / "graph.dot"), graph2use="colored", format=drawn, simple_form=True)
