"""What is written, where, and what its sidecar says: one table, and the nodes made from it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nipype.interfaces.utility import Merge
from nipype.pipeline import engine as pe
from niworkflows.engine.workflows import LiterateWorkflow

from qsmprep.bids.acquisition import Acquisition
from qsmprep.bids.names import derivative_path
from qsmprep.bids.sidecars import Sidecar, bids_uris, sidecar_json
from qsmprep.core.bibliography import load
from qsmprep.core.grid import Grid
from qsmprep.core.methods import METHODS
from qsmprep.interfaces.publish import Publish, image
from qsmprep.settings import Settings
from qsmprep.version import qsmprep_version
from qsmprep.workflows.acquisition import common_mask_node, field_source, makes_swi, mask_node


@dataclass(frozen=True)
class Product:
    """One published image: the node and output it comes from, its name, and what is said of it."""

    node: str
    output: str
    suffix: str
    description: str
    entities: dict[str, Any] = field(default_factory=dict)
    infos: tuple[str, ...] = ()
    kind: str = "map"
    volume: int = -1
    says: dict[str, Any] = field(default_factory=dict)
    minimal: bool = True
    """Whether it is written at ``--level minimal`` too."""


def products(acquisition: Acquisition, settings: Settings) -> Iterator[Product]:
    """Everything that is published of an acquisition."""
    several = len(acquisition.echoes) > 1
    stripped, whole = {"skull_stripped": True}, {"skull_stripped": False}
    combine = (
        _method("combine", settings.combine, settings) if several else _method("unwrap", settings.unwrap, settings)
    )
    yield Product(
        "brain",
        "mask",
        "mask",
        "Brain mask",
        {"desc": "brain"},
        ("brain",),
        "mask",
        says={"mask_type": "Brain", **({} if acquisition.given_mask else _method("mask", settings.mask, settings))},
    )
    yield from _defined(settings)
    yield Product(
        "fieldmap", "field_hz", "fieldmap", "Total field offset", {"desc": "total"}, ("conform", "artefacts", "unwrap"),
        says={**stripped, **combine}, minimal=False,
    )  # fmt: skip
    yield Product(
        "background", "local_hz", "fieldmap", "Local (tissue) field offset", {"desc": "local"},
        ("conform", "artefacts", "background"),
        says={**stripped, **_method("background", settings.background, settings)}, minimal=False,
    )  # fmt: skip
    for desc in ("total", "local"):
        text = "Root mean square of the magnitude over the echoes"
        text = text if acquisition.has_magnitude else "Uniform: no magnitude was measured"
        yield Product("conform", "magnitude", "magnitude", text, {"desc": desc}, says=whole, minimal=False)
    if acquisition.has_decay:
        for output, suffix, text in (
            ("r2star_hz", "R2starmap", "Effective transverse relaxation rate"),
            ("t2star_s", "T2starmap", "Effective transverse relaxation time"),
            ("s0", "S0map", "Signal extrapolated to echo time zero"),
        ):
            yield Product("r2star", output, suffix, text, says=stripped)
    if makes_swi(acquisition, settings):
        weighted = {**stripped, **_method("swi", settings.swi, settings)}
        infos = ("conform", "artefacts", "swi")
        yield Product("swi", "swi", "swi", "Susceptibility-weighted image, veins dark", {}, infos, says=weighted)
        text = "Minimum-intensity projection of the susceptibility-weighted image, sliding"
        yield Product("swi", "minip", "minIP", text, {}, infos, says=weighted)
    yield from _unwrapped(acquisition, settings, stripped)
    for name in settings.inversions:
        text = f"Magnetic susceptibility ({METHODS.get('inversion', name).title})"
        says = {**stripped, **_method("inversion", name, settings), "susceptibility_reference": settings.reference}
        source = field_source(settings, name)[0]
        left = (source,) if source == settings.remainder_from else ()
        infos = ("conform", "artefacts", *left, f"invert_{name}", f"reference_{name}")
        yield Product(f"reference_{name}", "chi_ppm", "Chimap", text, {"desc": name}, infos, says=says)


def _defined(settings: Settings) -> Iterator[Product]:
    """Where all maps are defined, and where those of them are that are defined in more."""
    text = {
        "background": "the brain less unreliable phase and less what background removal erodes",
        "qsmmask": "the brain less unreliable phase; maps from the total field lose nothing to background removal",
    }
    common, several = common_mask_node(settings), len(settings.inversions) > 1
    wider = [name for name in settings.inversions if mask_node(name) != common]
    what = "Where susceptibility is defined" + (" in all maps" if several else "")
    more = f"; of {', '.join(wider)} in more, see desc-<map>qsm" if wider else ""
    roi: dict[str, Any] = {"mask_type": "ROI"}
    yield Product(common, "mask", "mask", f"{what}: {text[common]}{more}", {"desc": "qsm"}, (), "mask", says=roi)
    for name in wider:
        what = f"Where susceptibility ({METHODS.get('inversion', name).title}) is defined: {text[mask_node(name)]}"
        yield Product(mask_node(name), "mask", "mask", what, {"desc": f"{name}qsm"}, (), "mask", says=roi)


def _unwrapped(acquisition: Acquisition, settings: Settings, stripped: dict[str, Any]) -> Iterator[Product]:
    says = {**stripped, "units": "rad", **_method("unwrap", settings.unwrap, settings)}
    several = len(acquisition.echoes) > 1
    suffix = "MEGRE" if several else ("T2starw" if acquisition.suffix == "MEGRE" else acquisition.suffix)
    for number in range(len(acquisition.echoes)):
        entities = {"part": "phase", "desc": "unwrapped", **({"echo": number + 1} if several else {})}
        text = "Unwrapped phase" + (", phase offset removed" if several else "")
        yield Product(
            "unwrap", "unwrapped", suffix, text, entities, ("artefacts", "unwrap"), "map", number, says, minimal=False
        )


def _method(step: str, name: str, settings: Settings) -> dict[str, Any]:
    """What the sidecar says of a registered method."""
    method, entries = METHODS.get(step, name), load()
    urls = [entries[key].url for key in method.citations if entries[key].url]
    return {
        "algorithm": method.title,
        "reference": urls[0] if urls else None,
        "parameters": settings.params(step, name),
    }


def _remainder(settings: Settings) -> dict[str, Any]:
    """What the sidecar of a map says of what background removal left in its field."""
    method = METHODS.get("remainder", settings.remainder)
    parameters = dataclasses.asdict(settings.params("remainder", settings.remainder))
    return {"Method": method.name, "Description": method.title, "Parameters": parameters}


def dataset_links(settings: Settings) -> dict[str, Path]:
    """Data sets that the sidecars name, by the names of their links in ``dataset_description.json``."""
    return {"raw": settings.bids_dir, **{f"deriv{n}": path for n, path in enumerate(settings.derivatives)}}


def add_outputs(workflow: LiterateWorkflow, acquisition: Acquisition, grid: Grid, settings: Settings) -> None:
    """Connect one publishing node to every node of an acquisition's graph that makes a product.

    Parameters
    ----------
    workflow : LiterateWorkflow
        From :func:`qsmprep.workflows.acquisition.init_acquisition_wf`.
    acquisition : Acquisition
        What is processed.
    grid : Grid
        Of its images; the direction of B0 goes into the sidecars.
    settings : Settings
        What is wanted.
    """
    groups: dict[str, list[Product]] = {}
    for product in products(acquisition, settings):
        if product.minimal or settings.level != "minimal":
            groups.setdefault(product.node, []).append(product)
    for name, group in groups.items():
        outputs = list(dict.fromkeys(product.output for product in group))
        infos = list(dict.fromkeys(info for product in group for info in product.infos))
        images = [
            image(
                derivative_path(settings.out_dir, acquisition, product.suffix, **product.entities),
                _sidecar(product, acquisition, grid, settings),
                file=outputs.index(product.output),
                kind=product.kind,
                volume=product.volume,
                infos=[infos.index(info) for info in product.infos],
            )
            for product in group
        ]
        node = pe.Node(Publish(images=images), name=f"publish_{name}", mem_gb=0.3)
        feed(workflow, [(name, output) for output in outputs], node, "in_files")
        feed(workflow, [(info, "info") for info in infos], node, "infos")


def feed(workflow: LiterateWorkflow, sources: list[tuple[str, str]], node: pe.Node, name: str) -> None:
    """Connect outputs of nodes to an input that takes one or several."""
    if len(sources) == 1:
        workflow.connect(workflow.get_node(sources[0][0]), sources[0][1], node, name)
    elif sources:
        merge = pe.Node(Merge(len(sources)), name=f"{node.name}_{name}", run_without_submitting=True)
        for place, (source, output) in enumerate(sources, start=1):
            workflow.connect(workflow.get_node(source), output, merge, f"in{place}")
        workflow.connect(merge, "out", node, name)


def _sidecar(product: Product, acquisition: Acquisition, grid: Grid, settings: Settings) -> dict[str, Any]:
    """The sidecar of a product, as far as it is known before the run."""
    links = dataset_links(settings)
    images = bids_uris(acquisition.files, settings.out_dir, links)
    mask = bids_uris(filter(None, (acquisition.given_mask,)), settings.out_dir, links)
    b0_dir = grid.b0_dir if product.suffix in ("Chimap", "fieldmap") else None
    execution = {"RandomSeed": settings.random_seed, "Threads": settings.omp_nthreads, "Dtype": "float32"}
    extra = {
        "SoftwareVersion": f"qsmprep {qsmprep_version()}",
        "MagneticFieldStrengthSource": acquisition.b0_source,
    }
    name = product.entities.get("desc", "")
    if product.suffix == "Chimap" and METHODS.get("inversion", name).takes == "local":
        extra["BackgroundRemainder"] = _remainder(settings)
    sources = images if product.output == "magnitude" else images + mask
    sidecar = Sidecar(product.description, sources, b0_dir=b0_dir, execution=execution, extra=extra, **product.says)
    return sidecar_json(sidecar, acquisition, product.suffix, **product.entities)
