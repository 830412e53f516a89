"""Segmentations in the graph: labels to the grid of the maps, tables of every map, and their place in the report."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from nipype.interfaces.utility import Merge
from nipype.pipeline import engine as pe
from niworkflows.engine.workflows import LiterateWorkflow

from qsmprep.bids.acquisition import Acquisition
from qsmprep.bids.headers import Header, read_header
from qsmprep.bids.names import derivative_path
from qsmprep.bids.preflight import Preflight
from qsmprep.bids.segmentations import MADE, Segmentation, find_segmentations
from qsmprep.bids.sidecars import Sidecar, bids_uri, bids_uris, sidecar_json
from qsmprep.bids.tables import FREESURFER_WORD, read_label_table
from qsmprep.core.methods import METHODS
from qsmprep.core.structures import FREESURFER, REFERENCE_STRUCTURES
from qsmprep.errors import MissingFileError
from qsmprep.interfaces.regions import LabelsToMap, MeasureRegions, PublishRegions
from qsmprep.settings import Settings
from qsmprep.version import qsmprep_version
from qsmprep.workflows.acquisition import mask_node, model_of
from qsmprep.workflows.outputs import dataset_links
from qsmprep.workflows.segment import Source, add_source, atlas_files, check_segmentation
from qsmprep.workflows.stages import stage_node
from qsmprep.workflows.template import NOTHING_TO_REGISTER, can_reach_template


def plan_segmentations(found: Preflight, settings: Settings) -> Preflight:
    """Settle what each acquisition is measured with; what is odd becomes a warning of its verdict.

    Raises
    ------
    MissingFileError
        When no acquisition has the segmentation that the reference region needs.
    """
    check_segmentation(settings)
    verdicts = []
    for verdict in found.verdicts:
        if verdict.acquisition is not None and settings.template_maps and not can_reach_template(verdict.acquisition):
            verdict = dataclasses.replace(verdict, warnings=(*verdict.warnings, NOTHING_TO_REGISTER))
        if verdict.acquisition is not None and settings.segmentation != "none":
            chosen, notes = _choose(verdict.acquisition, read_header(verdict.acquisition.files[0]), settings)
            verdict = dataclasses.replace(verdict, warnings=(*verdict.warnings, *notes), segmentations=chosen)
        verdicts.append(verdict)
    if settings.reference in REFERENCE_STRUCTURES and not any(verdict.segmentations for verdict in verdicts):
        raise MissingFileError(
            f"the reference region {settings.reference} needs a segmentation, and none was found",
            expected="labels of the region for every acquisition",
            remedy="give segmentations with --derivatives, or take --reference wholebrain",
        )
    return dataclasses.replace(found, verdicts=tuple(verdicts))


def _choose(
    acquisition: Acquisition, grid: Header, settings: Settings
) -> tuple[tuple[Segmentation, ...], tuple[str, ...]]:
    """Segmentations of one acquisition: those found, or the one to be made."""
    if settings.segmentation == "auto":
        return find_segmentations(settings.derivatives, acquisition, grid)
    if settings.segmentation == "unetr":
        return (Segmentation("unetr", acquisition.files[0], FREESURFER_WORD, True, "unetr"),), ()
    t1w = acquisition.t1w
    if settings.segmentation == "first" and t1w is not None:
        return (Segmentation("first", t1w, FREESURFER_WORD, False, "first"),), ()
    notes: tuple[str, ...] = ()
    if t1w is None:
        wanted = "FIRST needs a T1w image" if settings.segmentation == "first" else "there is no T1w image"
        notes = (f"{wanted}: the atlas is registered to the gradient-echo magnitude instead",)
        if not acquisition.has_magnitude:
            return (), (f"{wanted}, and no magnitude was measured: there are no regions of interest",)
    _, table = atlas_files(settings)
    return (Segmentation("atlas", t1w or acquisition.files[0], str(table), t1w is None, "atlas"),), notes


def regions_text(acquisition: Acquisition, segmentations: tuple[Segmentation, ...], settings: Settings) -> str:
    """What was done with the regions, in a sentence or two; empty where there are none."""
    if not segmentations:
        return ""
    said = []
    given = [segmentation.name for segmentation in segmentations if segmentation.method == "given"]
    if given:
        said.append(
            f"Regions of interest came from the segmentation {' and '.join(given)} that was supplied with the data"
        )
    made = {segmentation.method for segmentation in segmentations}
    if "first" in made:
        said.append("Regions of interest were segmented on the T1-weighted image with FSL FIRST [@patenaude2011]")
    if "unetr" in made:
        method = METHODS.get("nuclei", "unetr")
        cited = "; ".join(f"@{key}" for key in method.citations)
        said.append(f"{method.describe(settings.params('nuclei', 'unetr'))} [{cited}]")
    if "atlas" in made:
        method = METHODS.get("segmentation", "atlas")
        cited = "; ".join(f"@{key}" for key in method.citations)
        said.append(f"{method.describe(settings.params('segmentation', 'atlas'))} [{cited}]")
        if not settings.atlas:
            said.append(
                "Labels were moved to the contrast of the image and of the first susceptibility map by expectation "
                "maximisation with the probabilities of the atlas as priors"
            )
            method, params = METHODS.get("sighting", "t1wunetr"), settings.params("sighting", "t1wunetr")
            if params.share > 0:
                said.append(f"{method.describe(params)} [{'; '.join(f'@{key}' for key in method.citations)}]")
            said.append(
                "Labels of red nucleus, substantia nigra and subthalamic nucleus are those of CIT168 [@pauli2018]"
            )
    if any(needs_coregistration(segmentation, acquisition) for segmentation in segmentations):
        method = METHODS.get("coregistration", settings.coregistration)
        cited = "; ".join(f"@{key}" for key in method.citations)
        said.append(f"{method.describe(settings.params('coregistration', settings.coregistration))} [{cited}]")
    said.append("Labels were looked up at the voxels of the maps, which were not interpolated")
    said.append(METHODS.get("roi", settings.roi).describe(settings.params("roi", settings.roi)))
    return ". ".join(said) + ".\n"


def needs_coregistration(segmentation: Segmentation, acquisition: Acquisition) -> bool:
    """Whether the labels are in the space of a T1w image, to which the gradient echo is registered then."""
    return not segmentation.on_grid and acquisition.t1w is not None


def add_regions(
    workflow: LiterateWorkflow,
    acquisition: Acquisition,
    settings: Settings,
    segmentations: tuple[Segmentation, ...],
) -> None:
    """Add the segmentations of an acquisition to its graph.

    Nodes: ``labels_<name>``, ``roi_<name>_<map>``, and those that publish. The first segmentation that knows the
    region of ``--reference csf`` or ``whitematter`` also gives that.
    """
    workflow.__desc__ += regions_text(acquisition, segmentations, settings)
    referee = _referee(segmentations, settings.reference)
    for segmentation in segmentations:
        source = add_source(workflow, segmentation, acquisition, settings)
        labels = _labels_node(workflow, segmentation, source)
        _publish_labels(workflow, labels, segmentation, acquisition, settings)
        maps = [(name, f"reference_{name}", "chi_ppm", mask_node(name), "chi", "ppm") for name in settings.inversions]
        if acquisition.has_decay:
            maps.append(("R2star", "r2star", "r2star_hz", "brain", "R2star", "1/s"))
        for desc, node, output, masked, quantity, unit in maps:
            measure = _measure_node(segmentation, desc, quantity, unit, acquisition, settings)
            source.feed(workflow, measure)
            if quantity == "chi" and (settings.reference not in REFERENCE_STRUCTURES or segmentation is referee):
                measure.inputs.reference = settings.reference
            workflow.connect(workflow.get_node(node), output, measure, "in_file")
            workflow.connect(workflow.get_node(masked), "mask", measure, "mask")
            workflow.connect([(labels, measure, [("labels", "labels"), ("table", "table")])])
            publish = pe.Node(
                PublishRegions(out_file=str(_table_path(acquisition, settings, segmentation.name, desc))),
                name=f"publish_roi_{segmentation.name}_{desc}",
                mem_gb=0.3,
            )
            workflow.connect([(measure, publish, [("out_table", "table"), ("out_dictionary", "dictionary")])])
        if segmentation is referee:
            for name in settings.inversions:
                reference = workflow.get_node(f"reference_{name}")
                workflow.connect([(labels, reference, [("labels", "labels"), ("table", "label_table")])])
        _report(workflow, labels, source, segmentation, [desc for desc, *_ in maps], acquisition, settings)


def _referee(segmentations: tuple[Segmentation, ...], reference: str) -> Segmentation | None:
    """The first segmentation whose table names the reference region."""
    wanted = REFERENCE_STRUCTURES.get(reference, ())
    for segmentation in segmentations:
        table = FREESURFER if segmentation.table == FREESURFER_WORD else read_label_table(Path(segmentation.table))
        if any(region.structure in wanted for region in table.values()):
            return segmentation
    return None


def _report(
    workflow: LiterateWorkflow,
    labels: pe.Node,
    source: Source,
    segmentation: Segmentation,
    descs: list[str],
    acquisition: Acquisition,
    settings: Settings,
) -> None:
    """The node that draws the regions and collects their tables for the page."""
    name = settings.inversions[0]
    node = stage_node("roi", f"roi{segmentation.name}", acquisition, settings)
    node.inputs.label = segmentation.name
    node.inputs.names = descs
    merge = pe.Node(Merge(len(descs)), name=f"report_tables_{segmentation.name}", run_without_submitting=True)
    for number, desc in enumerate(descs, start=1):
        workflow.connect(workflow.get_node(f"roi_{segmentation.name}_{desc}"), "out_table", merge, f"in{number}")
    workflow.connect(merge, "out", node, "tables")
    workflow.connect([(labels, node, [("labels", "labels")])])
    workflow.connect(workflow.get_node(f"reference_{name}"), "chi_ppm", node, "chi_ppm")
    workflow.connect(workflow.get_node(mask_node(name)), "mask", node, "mask")
    registered = source.registrations
    if registered:
        facts = pe.Node(Merge(len(registered)), name=f"report_facts_{segmentation.name}", run_without_submitting=True)
        for number, known in enumerate(registered, start=1):
            workflow.connect(known, "info", facts, f"in{number}")
        workflow.connect(facts, "out", node, "registrations")


def _table_path(acquisition: Acquisition, settings: Settings, name: str, desc: str) -> Any:
    return derivative_path(settings.out_dir, acquisition, "stats", ".tsv", seg=name, desc=desc)


def _labels_node(workflow: LiterateWorkflow, segmentation: Segmentation, source: Source) -> pe.Node:
    labels = pe.Node(LabelsToMap(), name=f"labels_{segmentation.name}", mem_gb=1.0)
    labels.inputs.always = list(MADE.get(segmentation.method, ()))
    source.feed(workflow, labels)
    source.feed_table(workflow, labels)
    workflow.connect(workflow.get_node("conform"), "magnitude", labels, "like")
    return labels


def _publish_labels(
    workflow: LiterateWorkflow,
    labels: pe.Node,
    segmentation: Segmentation,
    acquisition: Acquisition,
    settings: Settings,
) -> None:
    sources = bids_uris((segmentation.file,), settings.out_dir, dataset_links(settings))
    text = f"Regions of the segmentation {segmentation.name} on the grid of the maps, looked up without interpolation"
    extra = {"SoftwareVersion": f"qsmprep {qsmprep_version()}"}
    used = {"unetr": ("nuclei", "unetr"), "atlas": ("sighting", "t1wunetr") if settings.sees_t1w else None}
    network = used.get(segmentation.method)
    if network and model_of(settings, *network):
        extra["NetworkWeights"] = model_of(settings, *network)[:12]
    sidecar = Sidecar(text, sources, extra=extra)
    node = pe.Node(
        PublishRegions(
            out_file=str(derivative_path(settings.out_dir, acquisition, "dseg", seg=segmentation.name)),
            sidecar=sidecar_json(sidecar, acquisition, "dseg", seg=segmentation.name),
        ),
        name=f"publish_dseg_{segmentation.name}",
        mem_gb=0.3,
    )
    workflow.connect([(labels, node, [("labels", "labels"), ("table", "table"), ("info", "info")])])


def _measure_node(
    segmentation: Segmentation, desc: str, quantity: str, unit: str, acquisition: Acquisition, settings: Settings
) -> pe.Node:
    method = METHODS.get("roi", settings.roi)
    parameters = dataclasses.asdict(settings.params("roi", settings.roi))
    chi = quantity == "chi"
    map_file = derivative_path(
        settings.out_dir, acquisition, "Chimap" if chi else "R2starmap", **({"desc": desc} if chi else {})
    )
    image = derivative_path(settings.out_dir, acquisition, "dseg", seg=segmentation.name)
    facts: dict[str, Any] = {
        "Description": f"{method.title}: {'susceptibility' if chi else 'R2*'} over the regions of {segmentation.name}",
        "Sources": [bids_uri(path, settings.out_dir, dataset_links(settings)) for path in (map_file, image)],
        "Parameters": parameters,
        "SoftwareVersion": f"qsmprep {qsmprep_version()}",
    }
    if chi:
        facts["SusceptibilityReference"] = settings.reference
    return pe.Node(
        MeasureRegions(
            quantity=quantity,
            unit=unit,
            method=settings.roi,
            parameters=parameters,
            facts=facts,
        ),
        name=f"roi_{segmentation.name}_{desc}",
        mem_gb=1.5,
    )
