"""What the report shows of each stage: one node per stage draws its figure and measures it."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from nipype.interfaces.base import File, TraitedSpec, traits
from nipype.interfaces.utility import Merge
from nipype.pipeline import engine as pe
from niworkflows.engine.workflows import LiterateWorkflow

from qsmprep.bids.acquisition import Acquisition
from qsmprep.bids.names import derivative_path
from qsmprep.core.kernel import check_kernel
from qsmprep.core.labels import sample_labels
from qsmprep.core.methods import METHODS
from qsmprep.core.units import hz_per_ppm
from qsmprep.interfaces import base
from qsmprep.interfaces.masks import combined
from qsmprep.settings import Settings
from qsmprep.workflows.acquisition import common_mask_node, mask_node


class StageInputSpec(base.StepInputSpec):
    """The files that the stages look at; each uses its own."""

    stage = traits.Str(mandatory=True)
    label = traits.Str(usedefault=True, desc="name of the inversion")
    out_file = traits.Str(mandatory=True, desc="figure; further figures of the stage are named after it")
    out_dir = traits.Str(mandatory=True)
    te_s = traits.List(traits.Float())
    b0_t = traits.Float()
    names = traits.List(traits.Str())
    chi_list = traits.List(File(exists=True))
    magnitude = File(exists=True)
    measured = traits.Bool(True, usedefault=True, desc="whether the magnitude was measured, else it is uniform")
    brain = File(exists=True)
    mask = File(exists=True)
    field_mask = File(exists=True, desc="where the local field is known")
    wrapped = File(exists=True)
    unwrapped = File(exists=True)
    noise_hz = File(exists=True)
    residual = File(exists=True)
    field_hz = File(exists=True)
    local_hz = File(exists=True)
    clean_hz = File(exists=True, desc="local field less what was found that background removal left")
    r2star_hz = File(exists=True)
    swi = File(exists=True)
    minip = File(exists=True)
    chi_ppm = File(exists=True)
    info = File(exists=True)
    labels = File(exists=True)
    tables = traits.List(File(exists=True))
    registrations = traits.List(File(exists=True), desc="what registrations of the segmentation learnt")


class StageOutputSpec(TraitedSpec):
    """Figures and metrics of the stage as JSON."""

    fragment = File()


class StageReport(base.Step):
    """Draw and measure one stage; the figures go straight to their place among the outputs."""

    input_spec = StageInputSpec
    output_spec = StageOutputSpec
    _always_run = True

    def compute(self, folder: Path) -> dict[str, Any]:
        """Look, draw, write."""
        board = Board(Path(self.inputs.out_file), Path(self.inputs.out_dir))
        STAGES[self.inputs.stage](self.inputs, board)
        path = folder / "fragment.json"
        content = {"figures": board.figures, "metrics": board.metrics, "tables": board.tables}
        path.write_text(json.dumps(content, allow_nan=True))
        return {"fragment": str(path)}


class Board:
    """Collects the figures and metrics of a stage."""

    def __init__(self, out_file: Path, out_dir: Path) -> None:
        self.out_file, self.out_dir = out_file, out_dir
        self.figures: list[dict[str, Any]] = []
        self.metrics: list[dict[str, Any]] = []
        self.tables: list[dict[str, Any]] = []

    def figure(self, stage: str, name: str = "", tag: str = "") -> Path:
        """Note a figure and return the file to draw it in."""
        from qsmprep.reports.definitions import make_figure

        path = self.out_file
        if tag:
            path = path.with_name(path.name.replace("_desc-", f"_desc-{tag}", 1))
        file = path.relative_to(self.out_dir).as_posix()
        self.figures.append(dataclasses.asdict(make_figure(stage, file, name=name)))
        return path

    def metric(self, key: str, value: float, of: str = "") -> None:
        """Note a metric of the table of definitions."""
        from qsmprep.reports.definitions import make_metric

        self.metrics.append(dataclasses.asdict(make_metric(key, value, of=of)))

    def known(self, key: str, value: float, of: str = "") -> None:
        """Note a metric that not every scan allows to measure; NaN is left out."""
        if math.isfinite(value):
            self.metric(key, value, of)


def stage_magnitude(inputs: Any, board: Board) -> None:
    """Magnitude with the outlines of both masks; nothing is read from one that was not measured."""
    from qsmprep.reports import faults, figures, qc

    magnitude, image = base.load_echoes(inputs.magnitude)
    brain, valid, grid = base.load_mask(inputs.brain), base.load_mask(inputs.mask), base.grid_of(image)
    figures.plot_magnitude(combined(magnitude), image.affine, brain, valid, board.figure("magnitude"))
    board.metric("mask_volume_ml", qc.mask_volume_ml(brain, grid))
    board.metric("excluded_fraction", qc.excluded_fraction(brain, valid))
    if not inputs.measured:
        return
    board.metric("snr", qc.snr(magnitude[0], brain))
    board.metric("mask_dark_fraction", faults.dark_fraction(magnitude[0], brain))
    board.known("mask_open_fraction", faults.open_fraction(magnitude[0], brain, grid))
    board.known("ghosting", faults.ghosting(magnitude[-1], brain, grid))


def stage_phase(inputs: Any, board: Board) -> None:
    """Wrapped and unwrapped phase of the first and the last echo."""
    from qsmprep.reports import faults, figures, qc

    wrapped, image = base.load_echoes(inputs.wrapped)
    unwrapped, _ = base.load_echoes(inputs.unwrapped)
    mask, te_s = base.load_mask(inputs.mask), list(inputs.te_s)
    last = (wrapped[-1], unwrapped[-1]) if len(te_s) > 1 else (None, None)
    path = board.figure("phase")
    figures.plot_phase(wrapped[0], last[0], unwrapped[0], last[1], image.affine, mask, te_s, path)
    board.metric("residual_wraps", qc.residual_wraps(unwrapped[-1], mask))
    board.metric("wrap_fraction", faults.wrap_fraction(unwrapped[-1], mask))


def stage_residual(inputs: Any, board: Board) -> None:
    """Noise of the field and residual of the echo fit, which one or two echoes do not have."""
    from qsmprep.reports import figures, qc

    noise, image = base.load(inputs.noise_hz)
    mask = base.load_mask(inputs.mask)
    residual = base.load(inputs.residual)[0] if len(inputs.te_s) > 2 else None
    figures.plot_residual(noise, residual, image.affine, mask, board.figure("residual"))
    if residual is None:
        return
    board.metric("residual_median", qc.residual_median(residual, mask))
    board.metric("residual_fraction_above", qc.residual_fraction_above(residual, mask))


def stage_field(inputs: Any, board: Board) -> None:
    """Total and local field."""
    from qsmprep.reports import faults, figures, qc

    total, image = base.load(inputs.field_hz)
    local, _ = base.load(inputs.local_hz)
    brain, valid = base.load_mask(inputs.brain), base.load_mask(inputs.mask)
    windows = figures.field_windows_hz(inputs.b0_t)
    left = local - base.load(inputs.clean_hz)[0] if inputs.clean_hz else None
    path = board.figure("field")
    figures.plot_fieldmap(total, local, image.affine, (brain, valid), path, left_hz=left, window_hz=windows)
    board.metric("field_inhomogeneity_hz", qc.field_inhomogeneity_hz(total, brain))
    board.metric("local_field_sd_hz", float(np.std(local[valid])))
    if left is not None:
        board.metric("remainder_sd_hz", float(np.std(left[valid])))
    board.known("b0_angle_deg", faults.b0_angle_deg(local, valid, base.grid_of(image)))


def stage_r2star(inputs: Any, board: Board) -> None:
    """R2*."""
    from qsmprep.reports import figures, qc

    r2star, image = base.load(inputs.r2star_hz)
    mask = base.load_mask(inputs.brain)
    figures.plot_r2star(r2star, image.affine, mask, board.figure("r2star"))
    board.metric("r2star_median_hz", qc.r2star_median_hz(r2star, mask))


def stage_swi(inputs: Any, board: Board) -> None:
    """Susceptibility-weighted image and its projection."""
    from qsmprep.reports.swi import plot_swi

    swi, image = base.load(inputs.swi)
    minip, _ = base.load(inputs.minip)
    thickness_mm = json.loads(Path(inputs.info).read_text())["minip_thickness_mm"]
    plot_swi(swi, minip, image.affine, base.load_mask(inputs.brain), board.figure("swi"), thickness_mm=thickness_mm)


def stage_chi(inputs: Any, board: Board) -> None:
    """One susceptibility map, and whether it explains the field."""
    from qsmprep.reports import figures, graphs, qc

    chi, image = base.load(inputs.chi_ppm)
    local, _ = base.load(inputs.local_hz)
    mask, grid = base.load_mask(inputs.mask), base.grid_of(image)
    measured = local / np.float32(hz_per_ppm(inputs.b0_t))
    title = METHODS.get("inversion", inputs.label).title
    figures.plot_chi(chi, image.affine, mask, board.figure("chi", title), title)
    both = mask & base.load_mask(inputs.field_mask)
    consistency = qc.data_consistency(chi, measured, both, grid)
    path = board.figure("consistency", title, "consistency")
    graphs.plot_consistency(consistency.predicted_ppm, measured, both, path, name=title)
    check = check_kernel(measured, chi, both, grid)
    graphs.plot_kernel(check, board.figure("kernel", title, "kernel"), name=title)
    board.metric("chi_sd_ppm", qc.chi_sd_ppm(chi, mask), title)
    board.metric("chi_cnr", qc.contrast_to_noise(chi, mask), title)
    board.metric("reference_ppm", json.loads(Path(inputs.info).read_text())["shift_ppm"], title)
    board.metric("streaking_index", qc.streaking_index(chi, mask, grid), title)
    board.metric("rim_ratio", qc.rim_ratio(chi, mask, grid), title)
    board.metric("consistency_nrmse", consistency.nrmse, title)
    board.metric("kernel_error", check.error, title)


def stage_compare(inputs: Any, board: Board) -> None:
    """All susceptibility maps side by side."""
    from qsmprep.reports import figures, graphs, qc

    volumes = {}
    for name, path in zip(inputs.names, inputs.chi_list, strict=True):
        volumes[METHODS.get("inversion", name).title], image = base.load(path)
    mask, grid = base.load_mask(inputs.mask), base.grid_of(image)
    graphs.plot_chi_histogram(volumes, mask, board.figure("histogram", tag="histogram"))
    profiles = {name: qc.rim_profile(chi, mask, grid) for name, chi in volumes.items()}
    graphs.plot_rim_profile(profiles, board.figure("rim", tag="rim"))
    if len(volumes) > 1:
        (first, chi_a), (second, chi_b) = list(volumes.items())[:2]
        path = board.figure("difference", f"{first} and {second}", "difference")
        figures.plot_difference(chi_a, chi_b, image.affine, mask, path, (first, second))


def stage_roi(inputs: Any, board: Board) -> None:
    """Regions of one segmentation: their outlines, their values, and a table a map."""
    from qsmprep.bids.tables import read_tsv
    from qsmprep.reports import regions, segmentation

    chi, image = base.load(inputs.chi_ppm)
    labels, _ = base.load(inputs.labels, dtype=np.int32)
    mask = base.load_mask(inputs.mask)
    tables = {name: read_tsv(Path(path)) for name, path in zip(inputs.names, inputs.tables, strict=True)}
    regions.plot_regions(chi, labels, image.affine, mask, board.figure("regions", inputs.label))
    path = board.figure("roi", inputs.label, "values")
    regions.plot_values(tables, path)
    known = [json.loads(Path(path).read_text()) for path in inputs.registrations or ()]
    for key, value in segmentation.registration_metrics(known).items():
        board.metric(key, value, inputs.label)
    first = next(iter(tables.values()))
    for key, value in segmentation.region_metrics(chi, labels, mask, base.grid_of(image), first).items():
        board.known(key, value, inputs.label)
    board.tables += [dataclasses.asdict(regions.table_of(inputs.label, name, rows)) for name, rows in tables.items()]


def stage_template(inputs: Any, board: Board) -> None:
    """A map in template space with the outlines of the atlas: whether the registration fits."""
    from qsmprep.reports import regions

    chi, image = base.load(inputs.chi_ppm)
    atlas, own = base.load(inputs.labels, dtype=np.int32)
    labels = sample_labels(atlas, own.affine, chi.shape, image.affine)
    regions.plot_regions(chi, labels, image.affine, base.load_mask(inputs.mask), board.figure("template", inputs.label))


STAGES: dict[str, Callable[[Any, Board], None]] = {
    "magnitude": stage_magnitude,
    "phase": stage_phase,
    "residual": stage_residual,
    "field": stage_field,
    "r2star": stage_r2star,
    "swi": stage_swi,
    "chi": stage_chi,
    "compare": stage_compare,
    "roi": stage_roi,
    "template": stage_template,
}

WIRES: dict[str, tuple[tuple[str, str, str], ...]] = {
    "magnitude": (
        ("conform", "magnitude", "magnitude"),
        ("brain", "mask", "brain"),
    ),
    "phase": (("unwrap", "phase", "wrapped"), ("unwrap", "unwrapped", "unwrapped"), ("qsmmask", "mask", "mask")),
    "residual": (("fieldmap", "noise_hz", "noise_hz"), ("fieldmap", "residual", "residual"), ("brain", "mask", "mask")),
    "field": (
        ("fieldmap", "field_hz", "field_hz"),
        ("background", "local_hz", "local_hz"),
        ("brain", "mask", "brain"),
        ("background", "mask", "mask"),
    ),
    "r2star": (("r2star", "r2star_hz", "r2star_hz"), ("brain", "mask", "brain")),
    "swi": (("swi", "swi", "swi"), ("swi", "minip", "minip"), ("swi", "info", "info"), ("brain", "mask", "brain")),
}
"""What each stage looks at: node, its output, the stage's input."""


def add_stage_reports(workflow: LiterateWorkflow, acquisition: Acquisition, settings: Settings) -> None:
    """Connect one report node per stage to the graph of an acquisition."""
    for stage, wires in WIRES.items():
        if stage in ("r2star", "swi") and workflow.get_node(stage) is None:
            continue
        node = stage_node(stage, stage, acquisition, settings)
        for source, output, target in wires:
            workflow.connect(workflow.get_node(source), output, node, target)
    cleaned = cleaned_field(settings)
    if cleaned is not None:
        workflow.connect(workflow.get_node(cleaned), "local_hz", workflow.get_node("report_field"), "clean_hz")
    merge = pe.Node(Merge(len(settings.inversions)), name="report_maps", run_without_submitting=True)
    for number, name in enumerate(settings.inversions, start=1):
        node = stage_node("chi", f"chi{name}", acquisition, settings)
        node.inputs.label = name
        reference = workflow.get_node(f"reference_{name}")
        workflow.connect([(reference, node, [("chi_ppm", "chi_ppm"), ("info", "info")])])
        workflow.connect(reference, "chi_ppm", merge, f"in{number}")
        source, output = explained(name)
        workflow.connect(workflow.get_node(source), output, node, "local_hz")
        workflow.connect(workflow.get_node(mask_node(name)), "mask", node, "mask")
        workflow.connect(workflow.get_node("background"), "mask", node, "field_mask")
    compare = stage_node("compare", "compare", acquisition, settings)
    compare.inputs.names = list(settings.inversions)
    workflow.connect(merge, "out", compare, "chi_list")
    for node in (compare, workflow.get_node("report_magnitude")):
        workflow.connect(workflow.get_node(common_mask_node(settings)), "mask", node, "mask")


def cleaned_field(settings: Settings) -> str | None:
    """The node that has the local field less what was found that background removal left; None where none has."""
    own = [f"invert_{name}" for name in settings.inversions if METHODS.get("inversion", name).takes == "remainder"]
    return settings.remainder_from or next(iter(own), None)


def explained(name: str) -> tuple[str, str]:
    """The node and its output that a map of that inversion is to explain: the local field that it was made from (of
    one made from the total field, what background removal made of that)."""
    total = METHODS.get("inversion", name).takes == "total"
    return ("background", "local_hz") if total else (f"invert_{name}", "local_hz")


def stage_node(stage: str, tag: str, acquisition: Acquisition, settings: Settings) -> pe.Node:
    """A report node; its inputs are still to be connected."""
    interface = StageReport(
        stage=stage,
        out_file=str(derivative_path(settings.out_dir, acquisition, "qsm", ".png", datatype="figures", desc=tag)),
        out_dir=str(settings.out_dir),
        te_s=list(acquisition.te_s),
        b0_t=acquisition.b0_t,
        measured=acquisition.has_magnitude,
    )
    return pe.Node(interface, name=f"report_{tag}", mem_gb=0.5)
