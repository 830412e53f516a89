"""Susceptibility in template space, in the graph of an acquisition: registration, maps, outputs, a figure."""

from __future__ import annotations

from typing import Any

from nipype.pipeline import engine as pe
from niworkflows.engine.workflows import LiterateWorkflow

from qsmprep.bids.acquisition import Acquisition
from qsmprep.bids.names import derivative_path
from qsmprep.bids.sidecars import Sidecar, bids_uri, sidecar_json
from qsmprep.core.methods import METHODS
from qsmprep.core.template import NAME
from qsmprep.interfaces.publish import Publish, image
from qsmprep.interfaces.template import ToTemplate
from qsmprep.settings import Settings
from qsmprep.version import qsmprep_version
from qsmprep.workflows.acquisition import mask_node
from qsmprep.workflows.outputs import dataset_links, feed
from qsmprep.workflows.segment import atlas_files, template_nodes
from qsmprep.workflows.stages import stage_node

NOTHING_TO_REGISTER = "there is neither a T1w image nor a measured magnitude: there are no maps in template space"


def can_reach_template(acquisition: Acquisition) -> bool:
    """Whether there is an image that the template can be registered to."""
    return acquisition.t1w is not None or acquisition.has_magnitude


def template_text(acquisition: Acquisition, settings: Settings) -> str:
    """What was done, in a sentence or two; empty where there are no such maps."""
    if not settings.template_maps or not can_reach_template(acquisition):
        return ""
    said = "Susceptibility was also resampled to the space of the MNI152 template by linear interpolation.\n"
    if settings.segmentation == "atlas":
        return said
    method = METHODS.get("segmentation", "atlas")
    cited = "; ".join(f"@{key}" for key in method.citations)
    return f"{method.describe(settings.params('segmentation', 'atlas'))} [{cited}]. {said}"


def add_template_maps(workflow: LiterateWorkflow, acquisition: Acquisition, settings: Settings) -> None:
    """Add the maps of all inversions in the space of the template: ``template_<name>`` and what publishes them."""
    if not settings.template_maps or not can_reach_template(acquisition):
        return
    workflow.__desc__ += template_text(acquisition, settings)
    atlas, matrix = template_nodes(workflow, acquisition, settings)
    for name in settings.inversions:
        node = pe.Node(ToTemplate(), name=f"template_{name}", mem_gb=2.0)
        workflow.connect(
            [
                (workflow.get_node(f"reference_{name}"), node, [("chi_ppm", "chi_ppm")]),
                (workflow.get_node(mask_node(name)), node, [("mask", "mask")]),
                (atlas, node, [("linear", "linear"), ("inverse_warp", "inverse_warp")]),
            ]
        )
        if matrix is not None:
            workflow.connect(matrix, "matrix", node, "matrix")
        _publish(workflow, node, name, acquisition, settings)
        picture = stage_node("template", f"template{name}", acquisition, settings)
        picture.inputs.label = METHODS.get("inversion", name).title
        picture.inputs.labels = str(atlas_files(settings)[0])
        workflow.connect([(node, picture, [("chi_ppm", "chi_ppm"), ("mask", "mask")])])


def _publish(
    workflow: LiterateWorkflow, node: pe.Node, name: str, acquisition: Acquisition, settings: Settings
) -> None:
    """Write the map and its mask."""
    title = METHODS.get("inversion", name).title
    links = dataset_links(settings)
    source = derivative_path(settings.out_dir, acquisition, "Chimap", desc=name)
    sources = (bids_uri(source, settings.out_dir, links),)
    extra = {"SoftwareVersion": f"qsmprep {qsmprep_version()}", "Interpolation": "linear"}
    images = []
    for number, (suffix, desc, text) in enumerate(
        (
            ("Chimap", name, f"Magnetic susceptibility ({title}), resampled to the MNI152 template"),
            ("mask", f"{name}qsm", f"Where susceptibility ({title}) is defined, on the MNI152 template"),
        )
    ):
        says: dict[str, Any] = {"mask_type": "ROI"} if suffix == "mask" else {"skull_stripped": True}
        if suffix == "Chimap":
            parameters = settings.params("inversion", name)
            says |= {"algorithm": title, "parameters": parameters, "susceptibility_reference": settings.reference}
        entities = {"space": NAME, "desc": desc}
        sidecar = sidecar_json(Sidecar(text, sources, extra=extra, **says), acquisition, suffix, **entities)
        out_file = derivative_path(settings.out_dir, acquisition, suffix, **entities)
        images.append(image(out_file, sidecar, file=number, kind="mask" if suffix == "mask" else "map"))
    publish = pe.Node(Publish(images=images), name=f"publish_template_{name}", mem_gb=0.5)
    feed(workflow, [(node.name, "chi_ppm"), (node.name, "mask")], publish, "in_files")
