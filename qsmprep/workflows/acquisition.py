"""The graph of one acquisition: from its echoes to susceptibility maps.

Which step runs when; no numerics, no file formats.
"""

from __future__ import annotations

import dataclasses
from itertools import pairwise
from pathlib import Path
from typing import Any

from nipype.pipeline import engine as pe
from niworkflows.engine.workflows import LiterateWorkflow

from qsmprep.bids.acquisition import Acquisition
from qsmprep.bids.metadata import readout_of
from qsmprep.core.methods import METHODS
from qsmprep.interfaces.artefacts import CorrectPhase
from qsmprep.interfaces.inversion import Invert, Reference, RemoveBackground, TakeRemainder
from qsmprep.interfaces.masks import BrainMask, QSMMask
from qsmprep.interfaces.phase import Conform, FitField, FitR2Star, Unwrap
from qsmprep.interfaces.swi import MakeSWI
from qsmprep.networks.card import find_weights
from qsmprep.settings import SEPARATING, Settings

SEGMENTER_GB = 2.0
"""Memory of a segmentation network on one window."""


def init_acquisition_wf(acquisition: Acquisition, settings: Settings) -> LiterateWorkflow:
    """Build the graph that computes everything of one acquisition.

    Parameters
    ----------
    acquisition : Acquisition
        What there is.
    settings : Settings
        What is wanted.

    Returns
    -------
    LiterateWorkflow
        Its nodes are ``conform``, ``brain``, ``artefacts``, ``unwrap``, ``fieldmap``, ``qsmmask``, ``background``,
        ``r2star`` (for two or more echoes with a magnitude), ``swi`` (when it is wanted and there is a
        magnitude), ``remainder`` (see :func:`field_source`), and for every inversion ``invert_<name>`` and
        ``reference_<name>``. ``__desc__`` holds the methods text.
    """
    workflow = LiterateWorkflow(name=workflow_name(acquisition))
    field_nodes = _field_part(workflow, acquisition, settings)
    _chi_part(workflow, acquisition, settings, field_nodes)
    workflow.__desc__ = methods_text(acquisition, settings)
    return workflow


def workflow_name(acquisition: Acquisition) -> str:
    """The name of the graph, from the entities: letters, digits and underscores."""
    return acquisition.key.replace("-", "_").replace("+", "_plus_") + "_wf"


def _node(interface: Any, name: str, n_procs: int = 1, mem_gb: float = 0.0) -> pe.Node:
    """A node; what it needs more than ``mem_gb`` is set by :mod:`qsmprep.workflows.memory`."""
    node = pe.Node(interface, name=name, mem_gb=mem_gb, n_procs=n_procs)
    node.interface.inputs.num_threads = n_procs
    return node


def _field_part(workflow: LiterateWorkflow, acquisition: Acquisition, settings: Settings) -> dict[str, pe.Node]:
    """Echoes to field map, masks and relaxation."""
    te_s, threads = list(acquisition.te_s), settings.omp_nthreads
    conform = _node(Conform(**_images(acquisition, settings)), "conform")
    brain = _brain_node(acquisition, settings)
    artefacts = _node(
        CorrectPhase(
            te_s=te_s,
            readout=readout_of(acquisition.metadata),
            **_chosen(settings, "artefacts", settings.artefacts),
        ),
        "artefacts",
    )
    unwrap = _node(
        Unwrap(
            te_s=te_s,
            offset_method=settings.offset,
            offset_parameters=_chosen(settings, "offset", settings.offset)["parameters"],
            **_chosen(settings, "unwrap", settings.unwrap),
        ),
        "unwrap",
    )
    fieldmap = _node(
        FitField(te_s=te_s, **_chosen(settings, "combine", settings.combine)),
        "fieldmap",
        threads,
    )
    qsmmask = _node(
        QSMMask(as_given=acquisition.given_mask is not None, **_chosen(settings, "quality", settings.quality)),
        "qsmmask",
    )
    workflow.connect(
        [
            (conform, brain, [("magnitude", "magnitude")]),
            (conform, artefacts, [("magnitude", "magnitude"), ("phase", "phase")]),
            (brain, artefacts, [("mask", "mask")]),
            (conform, unwrap, [("magnitude", "magnitude")]),
            (artefacts, unwrap, [("phase", "phase")]),
            (brain, unwrap, [("mask", "mask")]),
            (conform, fieldmap, [("magnitude", "magnitude")]),
            (unwrap, fieldmap, [("unwrapped", "unwrapped"), ("phase", "phase")]),
            (brain, fieldmap, [("mask", "mask")]),
            (brain, qsmmask, [("mask", "brain")]),
            (unwrap, qsmmask, [("quality", "quality")]),
            (fieldmap, qsmmask, [("noise_hz", "noise_hz"), ("residual", "residual")]),
        ]
    )
    nodes = {"conform": conform, "brain": brain, "artefacts": artefacts, "fieldmap": fieldmap, "qsmmask": qsmmask}
    _side_part(workflow, acquisition, settings, nodes)
    return nodes


def _brain_node(acquisition: Acquisition, settings: Settings) -> pe.Node:
    """The node that extracts the brain, or takes the mask that is given."""
    learned = METHODS.get("mask", settings.mask).learned and acquisition.given_mask is None
    parts = computed(settings, "mask", settings.mask) if learned else _chosen(settings, "mask", settings.mask)
    brain = _node(
        BrainMask(**parts),
        "brain",
        settings.omp_nthreads if learned else 1,
        SEGMENTER_GB * learned,
    )
    if acquisition.given_mask is not None:
        brain.inputs.given_mask = str(acquisition.given_mask)
    return brain


def _side_part(
    workflow: LiterateWorkflow, acquisition: Acquisition, settings: Settings, nodes: dict[str, pe.Node]
) -> None:
    """What else comes of the echoes: relaxation (added to ``nodes``) and susceptibility-weighted images."""
    conform, brain, te_s = nodes["conform"], nodes["brain"], list(acquisition.te_s)
    if acquisition.has_decay:
        r2star = _node(
            FitR2Star(te_s=te_s, **_chosen(settings, "relaxometry", settings.relaxometry)),
            "r2star",
        )
        workflow.connect([(conform, r2star, [("magnitude", "magnitude")]), (brain, r2star, [("mask", "mask")])])
        nodes["r2star"] = r2star
    if makes_swi(acquisition, settings):
        swi = _node(MakeSWI(te_s=te_s, **_chosen(settings, "swi", settings.swi)), "swi")
        workflow.connect(
            [
                (conform, swi, [("magnitude", "magnitude")]),
                (nodes["artefacts"], swi, [("phase", "phase")]),
                (brain, swi, [("mask", "mask")]),
            ]
        )


def makes_swi(acquisition: Acquisition, settings: Settings) -> bool:
    """Whether susceptibility-weighted images are made: when they are wanted and there is a magnitude."""
    return settings.makes_swi and acquisition.has_magnitude


def _chi_part(
    workflow: LiterateWorkflow, acquisition: Acquisition, settings: Settings, nodes: dict[str, pe.Node]
) -> None:
    """Field map to susceptibility, once for every inversion."""
    b0_t, threads = acquisition.b0_t, settings.omp_nthreads
    background = _node(
        RemoveBackground(b0_t=b0_t, **placed(settings), **_chosen(settings, "background", settings.background)),
        "background",
        threads,
    )
    workflow.connect(
        [
            (nodes["fieldmap"], background, [("field_hz", "field_hz")]),
            (nodes["qsmmask"], background, [("mask", "mask"), ("weights", "weights")]),
        ]
    )
    nodes["background"] = background
    if settings.remainder_from == "remainder":
        nodes["remainder"] = _remainder_node(workflow, acquisition, settings, nodes)
    for name in sorted(settings.inversions, key=lambda name: name != SEPARATING):  # others may take its field
        invert = _node(
            Invert(
                b0_t=b0_t,
                te_s=turn_time_s(acquisition.te_s),
                **computed(settings, "inversion", name),
            ),
            f"invert_{name}",
            threads,
        )
        nodes[f"invert_{name}"] = invert
        source, output = field_source(settings, name)
        masked = nodes[mask_node(name)]
        reference = _node(Reference(**_chosen(settings, "reference", settings.reference)), f"reference_{name}")
        workflow.connect(
            [
                (nodes[source], invert, [(output, "local_hz")]),
                (masked, invert, [("mask", "mask")]),
                (nodes["qsmmask"], invert, [("weights", "weights")]),
                (nodes["conform"], invert, [("magnitude", "magnitude")]),
                (invert, reference, [("chi_ppm", "chi_ppm")]),
                (masked, reference, [("mask", "mask")]),
            ]
        )
        if "r2star" in nodes and getattr(settings.params("inversion", name), "csf_weight", 0.0) > 0:
            workflow.connect([(nodes["r2star"], invert, [("r2star_hz", "r2star_hz")])])


def field_source(settings: Settings, name: str) -> tuple[str, str]:
    """The node and its output that an inversion takes its field from: the local field goes by way of
    :attr:`~qsmprep.settings.Settings.remainder_from`."""
    takes = METHODS.get("inversion", name).takes
    if takes == "total":
        return "fieldmap", "field_hz"
    return (takes == "local" and settings.remainder_from) or "background", "local_hz"


def mask_node(name: str) -> str:
    """The node with the mask in which the maps of that inversion are defined: what background removal leaves of the
    mask, or all of it for a map made from the total field."""
    return "qsmmask" if METHODS.get("inversion", name).takes == "total" else "background"


def common_mask_node(settings: Settings) -> str:
    """The node with the mask in which the maps of all inversions are defined."""
    return "background" if any(mask_node(name) == "background" for name in settings.inversions) else "qsmmask"


def _remainder_node(
    workflow: LiterateWorkflow, acquisition: Acquisition, settings: Settings, nodes: dict[str, pe.Node]
) -> pe.Node:
    """The node that takes off the local field what background removal left in it."""
    node = _node(
        TakeRemainder(
            b0_t=acquisition.b0_t,
            te_s=turn_time_s(acquisition.te_s),
            **placed(settings),
            **_chosen(settings, "remainder", settings.remainder),
        ),
        "remainder",
        settings.omp_nthreads,
    )
    workflow.connect(
        [
            (nodes["background"], node, [("local_hz", "local_hz"), ("mask", "mask")]),
            (nodes["qsmmask"], node, [("weights", "weights")]),
        ]
    )
    return node


def placed(settings: Settings) -> dict[str, Any]:
    """Where a step that can use a GPU is to compute."""
    return {"device": settings.device, "use_gpu": may_use_gpu(settings.device)}


def computed(settings: Settings, step: str, name: str) -> dict[str, Any]:
    """Inputs of a step that may be learned: method and parameters, the weights' checksum, and where to compute."""
    where = placed(settings) if step == "inversion" or METHODS.get(step, name).learned else {}
    return {**_chosen(settings, step, name), "model": model_of(settings, step, name), **where}


def model_of(settings: Settings, step: str, name: str) -> str:
    """Checksum of the weights of a learned method; empty for all others.

    Raises
    ------
    MissingFileError, DataError
        When there are no such weights, or they have no card that can be read.
    """
    method = METHODS.get(step, name)
    if not method.learned or getattr(settings.params(step, name), "share", 1.0) == 0:
        return ""
    return find_weights(method.model or name, settings.params(step, name).weights).sha256


def turn_time_s(te_s: tuple[float, ...]) -> float:
    """Time in s in which the fields that echoes cannot tell apart differ by a whole turn of phase.

    It is the shortest echo spacing, or the time of a single echo. Nonlinear data terms work with the
    phase of this time: it forgives wraps that were missed. A longer time would also turn strong local
    fields by more than half, from where such a term does not find its minimum.
    """
    return min((late - early for early, late in pairwise(te_s)), default=te_s[0])


def may_use_gpu(device: str) -> bool:
    """Whether a node may compute on a GPU, told without touching CUDA in this process."""
    return device.startswith("cuda") or (device == "auto" and Path("/dev/nvidia0").exists())


def _chosen(settings: Settings, step: str, name: str) -> dict[str, Any]:
    """Method and fully resolved parameters, so that another default does not reuse old results."""
    return {"method": name, "parameters": dataclasses.asdict(settings.params(step, name))}


def _images(acquisition: Acquisition, settings: Settings) -> dict[str, Any]:
    echoes = acquisition.echoes
    values: dict[str, Any] = {
        kind: [str(getattr(echo, kind)) for echo in echoes if getattr(echo, kind) is not None]
        for kind in ("magnitude", "phase", "real", "imag")
    }
    values = {kind: files for kind, files in values.items() if files}
    values["units"] = acquisition.phase_units or ""
    values["manufacturer"] = str(acquisition.metadata.get("Manufacturer", ""))
    values["sign"] = settings.phase_sign
    return values


def methods_text(acquisition: Acquisition, settings: Settings) -> str:
    """What was done, in sentences, with citation keys as ``[@key]``."""
    te_ms = ", ".join(f"{1e3 * te:g}" for te in acquisition.te_s)
    plural = "echoes" if len(acquisition.echoes) > 1 else "echo"
    text = [
        f"Gradient-echo data ({acquisition.b0_t:g} T, {len(acquisition.echoes)} {plural} at {te_ms} ms) were processed "
        "with qsmprep, a BIDS App [@gorgolewski2016] built on Nipype [@gorgolewski2011]."
    ]
    if acquisition.given_mask is None:
        text.append(_sentence(settings, "mask", settings.mask))
    else:
        text.append("The brain mask was supplied with the data.")
    text.append(_sentence(settings, "artefacts", settings.artefacts))
    if len(acquisition.echoes) > 1:
        text.append(_sentence(settings, "offset", settings.offset))
    text.append(_sentence(settings, "unwrap", settings.unwrap))
    if len(acquisition.echoes) > 1:
        text.append(_sentence(settings, "combine", settings.combine))
    if acquisition.has_decay:
        text.append(_sentence(settings, "relaxometry", settings.relaxometry))
    if makes_swi(acquisition, settings):
        text.append(_sentence(settings, "swi", settings.swi))
    if acquisition.given_mask is None:
        text.append(_sentence(settings, "quality", settings.quality))
    text.append(_sentence(settings, "background", settings.background))
    if all(METHODS.get("inversion", name).takes == "total" for name in settings.inversions):
        text.append("The inversion took the total field, without that step.")
    if settings.treats_remainder:
        text.append(_sentence(settings, "remainder", settings.remainder))
    text.extend(_sentence(settings, "inversion", name) for name in settings.inversions)
    text.append(_sentence(settings, "reference", settings.reference))
    text.append(
        "The direction of the static field in the voxel axes was taken from the image orientation. The choice of "
        "steps follows the consensus recommendations [@bilgic2024consensus]."
    )
    return " ".join(text) + "\n"


def _sentence(settings: Settings, step: str, name: str) -> str:
    method = METHODS.get(step, name)
    cited = f" [{'; '.join('@' + key for key in method.citations)}]" if method.citations else ""
    return method.describe(settings.params(step, name)) + cited + "."
