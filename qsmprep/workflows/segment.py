"""Where the labels of a segmentation come from in the graph: a file, a network, FSL FIRST, or an atlas."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from nipype.pipeline import engine as pe
from niworkflows.engine.workflows import LiterateWorkflow

from qsmprep.bids.acquisition import Acquisition
from qsmprep.bids.fsl import find_fsl
from qsmprep.bids.headers import read_header
from qsmprep.bids.names import derivative_path
from qsmprep.bids.segmentations import Segmentation
from qsmprep.bids.tables import read_label_table
from qsmprep.core.template import NAME
from qsmprep.errors import UsageError
from qsmprep.interfaces.publish import PublishFile
from qsmprep.interfaces.refinement import RefineLabels
from qsmprep.interfaces.regions import SegmentNuclei
from qsmprep.interfaces.registration import AtlasLabels, BrainOf, Coregister, First
from qsmprep.settings import Settings
from qsmprep.workflows.acquisition import SEGMENTER_GB, computed, mask_node, model_of


@dataclass(frozen=True)
class Source:
    """Labels, their table, and the map from the gradient echo's scanner space to theirs.

    Parameters
    ----------
    file, table : str or (node, output)
        As it is, or where it comes from.
    matrix : node or None
        With an output ``matrix``.
    judged : tuple of nodes
        With an output ``info`` that says how well the labels were made.
    """

    file: Any
    table: Any
    matrix: Any = None
    judged: tuple[Any, ...] = ()

    @property
    def registrations(self) -> tuple[pe.Node, ...]:
        """Nodes with an output ``info`` that says how well a registration went."""
        return self.judged if self.matrix is None else (*self.judged, self.matrix)

    def feed(self, workflow: LiterateWorkflow, node: pe.Node) -> None:
        """Give a node the labels and the map."""
        _give(workflow, self.file, node, "segmentation")
        if self.matrix is not None:
            workflow.connect(self.matrix, "matrix", node, "matrix")

    def feed_table(self, workflow: LiterateWorkflow, node: pe.Node) -> None:
        """Give a node the table."""
        _give(workflow, self.table, node, "table")


def _give(workflow: LiterateWorkflow, value: Any, node: pe.Node, name: str) -> None:
    if isinstance(value, tuple):
        workflow.connect(value[0], value[1], node, name)
    else:
        setattr(node.inputs, name, value)


def atlas_files(settings: Settings) -> tuple[Path, Path]:
    """The atlas and its label table: as given, or the embedded one."""
    return (settings.atlas[0], settings.atlas[1]) if settings.atlas else embedded_atlas()


def embedded_atlas() -> tuple[Path, Path]:
    """The embedded atlas and its label table."""
    folder = Path(str(files("qsmprep.data"))) / "atlas"
    return folder / "subcortical_dseg.nii.gz", folder / "subcortical_dseg.tsv"


def probability_files() -> tuple[Path, Path]:
    """The probabilities of the embedded atlas and the table of their classes."""
    folder = Path(str(files("qsmprep.data"))) / "atlas"
    return folder / "subcortical_probseg.nii.gz", folder / "subcortical_probseg.tsv"


def check_segmentation(settings: Settings) -> None:
    """Refuse what cannot be segmented with, before any work.

    Raises
    ------
    UsageError
        When --atlas is given with another segmentation, or is not two files.
    MissingFileError, DataError
        When FSL or a network's weights are not there, or the atlas or its table cannot be read.
    """
    needs_atlas = settings.segmentation == "atlas" or settings.template_maps
    if settings.atlas and not needs_atlas:
        raise UsageError(
            "`--atlas` is only used with `--segmentation atlas` or `--template-maps`",
            remedy="add one of them, or leave --atlas out",
        )
    if settings.atlas and len(settings.atlas) != 2:
        raise UsageError("`--atlas` takes two files", expected="FILE LABELS.tsv")
    if settings.segmentation == "first":
        find_fsl("run_first_all")
    if needs_atlas:
        atlas, table = atlas_files(settings)
        read_header(atlas)
        read_label_table(table)
    if settings.segmentation == "unetr":
        model_of(settings, "nuclei", "unetr")


def add_source(
    workflow: LiterateWorkflow, segmentation: Segmentation, acquisition: Acquisition, settings: Settings
) -> Source:
    """Add what makes a segmentation, and what brings it to the gradient echo."""
    matrix = None
    if not segmentation.on_grid and acquisition.t1w is not None:
        matrix = _coregistration(workflow, acquisition, settings)
    if segmentation.method == "first":
        parameters = {"in_file": str(segmentation.file)}
        first = pe.Node(First(**parameters), name="first", mem_gb=2.0)
        return Source((first, "labels"), segmentation.table, matrix)
    if segmentation.method == "unetr":
        return Source((_nuclei(workflow, settings), "labels"), segmentation.table)
    if segmentation.method == "atlas":
        return _atlas(workflow, acquisition, settings, matrix)
    return Source(str(segmentation.file), segmentation.table, matrix)


def _nuclei(workflow: LiterateWorkflow, settings: Settings) -> pe.Node:
    """The node that segments the deep grey nuclei on the first susceptibility map."""
    name = settings.inversions[0]
    node = pe.Node(
        SegmentNuclei(**computed(settings, "nuclei", "unetr")),
        name="nuclei",
        mem_gb=SEGMENTER_GB,
        n_procs=settings.omp_nthreads,
    )
    node.interface.inputs.num_threads = settings.omp_nthreads
    workflow.connect(workflow.get_node(f"invert_{name}"), "chi_ppm", node, "chi_ppm")
    workflow.connect(workflow.get_node(mask_node(name)), "mask", node, "mask")
    return node


def _t1w_brain(workflow: LiterateWorkflow, acquisition: Acquisition, settings: Settings) -> pe.Node:
    """The node that extracts the brain of the T1w image, one for all that needs it."""
    node = workflow.get_node("t1w_brain")
    if node is None:
        parameters = dataclasses.asdict(settings.params("mask", "auto"))
        model = model_of(settings, "mask", "auto")
        step = BrainOf(in_file=str(acquisition.t1w), parameters=parameters, model=model)
        node = pe.Node(step, name="t1w_brain", mem_gb=SEGMENTER_GB)
        workflow.add_nodes([node])
    return node


def _coregistration(workflow: LiterateWorkflow, acquisition: Acquisition, settings: Settings) -> pe.Node:
    """The node that finds the gradient echo in the T1w image, one for all segmentations."""
    node = workflow.get_node("coregister")
    if node is not None:
        return node
    node = pe.Node(
        Coregister(
            moving=str(acquisition.t1w),
            method=settings.coregistration,
            parameters=dataclasses.asdict(settings.params("coregistration", settings.coregistration)),
        ),
        name="coregister",
        mem_gb=2.0,
        n_procs=settings.omp_nthreads,
    )
    node.interface.inputs.num_threads = settings.omp_nthreads
    workflow.connect(_t1w_brain(workflow, acquisition, settings), "mask", node, "moving_mask")
    workflow.connect(workflow.get_node("conform"), "magnitude", node, "fixed")
    workflow.connect(workflow.get_node("brain"), "mask", node, "fixed_mask")
    _publish(workflow, node, "matrix", acquisition, settings, {"from_": acquisition.suffix, "to": "T1w"}, ".txt")
    return node


def template_nodes(
    workflow: LiterateWorkflow, acquisition: Acquisition, settings: Settings
) -> tuple[pe.Node, pe.Node | None]:
    """The node that registers the template, and the one that finds the gradient echo in the T1w image, if there is one.

    Each is made where the graph does not have it yet.
    """
    matrix = _coregistration(workflow, acquisition, settings) if acquisition.t1w is not None else None
    return workflow.get_node("atlas") or _atlas_node(workflow, acquisition, settings), matrix


def _atlas(workflow: LiterateWorkflow, acquisition: Acquisition, settings: Settings, matrix: pe.Node | None) -> Source:
    """Labels of the atlas; those of the embedded one are moved to the contrast of the head."""
    node = workflow.get_node("atlas") or _atlas_node(workflow, acquisition, settings)
    if settings.atlas:
        return Source((node, "labels"), (node, "table"), matrix, (node,))
    shares, classes = probability_files()
    refined = pe.Node(
        RefineLabels(
            shares=str(shares),
            classes=str(classes),
            method="atlas",
            parameters=dataclasses.asdict(settings.params("segmentation", "atlas")),
            sighting=dataclasses.asdict(settings.params("sighting", "t1wunetr")),
            model=model_of(settings, "sighting", "t1wunetr"),
        ),
        name="refined",
        mem_gb=3.0,
    )
    workflow.connect([(node, refined, [("labels", "labels"), ("warp", "warp"), ("linear", "linear")])])
    _give_head(workflow, refined, acquisition, settings)
    name = settings.inversions[0]
    workflow.connect(workflow.get_node(f"invert_{name}"), "chi_ppm", refined, "chi_ppm")
    workflow.connect(workflow.get_node(mask_node(name)), "mask", refined, "chi_mask")
    if matrix is not None:
        workflow.connect(matrix, "matrix", refined, "matrix")
    return Source((refined, "labels"), (node, "table"), matrix, (node, refined))


def _give_head(workflow: LiterateWorkflow, node: pe.Node, acquisition: Acquisition, settings: Settings) -> None:
    """Give a node the T1w image, or the magnitude where there is none, and its brain."""
    if acquisition.t1w is not None:
        node.inputs.in_file = str(acquisition.t1w)
        workflow.connect(_t1w_brain(workflow, acquisition, settings), "mask", node, "mask")
    else:
        workflow.connect(workflow.get_node("conform"), "magnitude", node, "in_file")
        workflow.connect(workflow.get_node("brain"), "mask", node, "mask")


def _atlas_node(workflow: LiterateWorkflow, acquisition: Acquisition, settings: Settings) -> pe.Node:
    """The node that brings the atlas to the T1w image, or to the magnitude where there is none."""
    atlas, table = atlas_files(settings)
    node = pe.Node(
        AtlasLabels(
            atlas=str(atlas),
            table=str(table),
            is_t1w=acquisition.t1w is not None,
            method="atlas",
            parameters=dataclasses.asdict(settings.params("segmentation", "atlas")),
        ),
        name="atlas",
        mem_gb=4.0,
        n_procs=settings.omp_nthreads,
    )
    node.interface.inputs.num_threads = settings.omp_nthreads
    _give_head(workflow, node, acquisition, settings)
    where = "T1w" if acquisition.t1w is not None else acquisition.suffix
    pair = {"from_": NAME, "to": where}
    for output, extension in (("warp", ".nii.gz"), ("linear", ".mat")):
        _publish(workflow, node, output, acquisition, settings, pair, extension)
    return node


def _publish(
    workflow: LiterateWorkflow,
    node: pe.Node,
    output: str,
    acquisition: Acquisition,
    settings: Settings,
    entities: dict[str, str],
    extension: str,
) -> None:
    path = derivative_path(settings.out_dir, acquisition, "xfm", extension, **entities, mode="image")
    publish = pe.Node(PublishFile(out_file=str(path)), name=f"publish_xfm_{output}", mem_gb=0.3)
    workflow.connect(node, output, publish, "in_file")
