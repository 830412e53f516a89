"""From a trained state to a weight file with its card."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qsmprep.errors import DataError
from qsmprep.networks.card import Card
from qsmprep.networks.weights import save, weight_path
from qsmprep.networks.zoo import architecture
from qsmprep.training.config import TrainParams
from qsmprep.training.loop import State
from qsmprep.training.record import last_rate, last_validation
from qsmprep.training.tasks import task_of

SEEN: dict[str, dict[str, str]] = {
    "brainmask": {
        "inputs": "magnitude",
        "unit": "logit of brain",
        "scaling": "the image is divided by its 99th percentile",
    },
    "subcortical": {
        "inputs": "susceptibility",
        "unit": "logits of background, then left and right caudate, putamen, pallidum and thalamus",
        "scaling": "the map less its median is divided by its robust spread in the mask",
    },
    "subcortical_t1w": {
        "inputs": "T1-weighted image",
        "unit": "logits of background, then left and right caudate, putamen, pallidum and thalamus",
        "scaling": "the image is divided by its 99th percentile in the brain",
    },
}
"""What segmenters are given and give."""

OF_IMAGES = ("brainmask", "subcortical_t1w")
"""Those that see images of any contrast, not susceptibility."""

FIELDS = "simulated fields of simulated susceptibility"

FINEST_MM = 0.2
"""Finest voxels that a segmenter may be given: they are averaged to its own."""

COME_DOWN = 0.1
"""Part of the learning rate at which a training counts as finished before its last step."""

GPUS = ("nvidia", "amd instinct", "tesla", "geforce", "quadro")


def ranges(params: TrainParams) -> dict[str, tuple[float, float]]:
    """What a network may be given, after what it was trained on (with the second domain, where it saw one)."""
    if params.network in SEEN:
        image = params.network in OF_IMAGES
        posed = params.image if params.network == "brainmask" else params.nuclei
        blurred = params.image if image else params.nuclei
        edge = float(params.model["voxel_mm"])
        coarse = params.image.coarse_mm[1] if image and params.image.coarse_chance else edge
        return {
            "in_plane_mm": (FINEST_MM, max(coarse, edge)),
            "slice_mm": (FINEST_MM, max(blurred.slice_mm[1], coarse, edge)),
            "tilt_deg": (0.0, posed.pose.turn_deg),
            "noise_ppm": params.image.noise if image else params.sample.field.noise_ppm,
        }
    geometry, domains = params.sample.geometry, [params.sample, *([params.target] if params.physics_weight else [])]
    noise = (min(one.field.noise_ppm[0] for one in domains), max(one.field.noise_ppm[1] for one in domains))
    if geometry.fixed_mm is not None:
        short, middle, long = sorted(geometry.fixed_mm)
        plane, slab = (short, middle), (long, long)
    else:
        plane, slab = geometry.in_plane_mm, geometry.slice_mm
    return {"in_plane_mm": plane, "slice_mm": slab, "tilt_deg": (0.0, geometry.tilt_deg), "noise_ppm": noise}


def limits(params: TrainParams, state: State, record: Mapping[str, Any], rate: float | None) -> tuple[str, ...]:
    """What the weights must not be trusted with; ``rate`` is the learning rate of the last step, where it is known."""
    kind = "simulated images of label maps" if params.network in OF_IMAGES else FIELDS
    told = [f"Trained on {kind} only; no real scan was ever seen."]
    if not record.get("label_maps") and not record.get("chi_maps"):
        told.append("Trained on random shapes without any anatomy.")
    if not record.get("held_out"):
        told.append("Not validated during training: no label map was held out.")
    came_down = rate is not None and state.step > params.warmup and rate <= COME_DOWN * params.learning_rate
    if state.step < params.steps and not came_down:
        told.append(f"Stopped after {state.step} of {params.steps} steps, before the learning rate had come down.")
    if params.sample.geometry.fixed_mm is not None:
        told.append("One voxel size only was trained on.")
    if not any(word in run.get("hardware", "").lower() for run in record.get("runs", []) for word in GPUS):
        told.append("Trained on a CPU: narrower and much shorter than such networks are usually trained.")
    return tuple(told)


def shapes(params: TrainParams, record: Mapping[str, Any]) -> float:
    """Part of the samples that were random shapes."""
    if not task_of(params.network).patches:
        return 0.0
    if not record.get("label_maps") and not record.get("chi_maps"):
        return 1.0
    return params.sample.shapes * (1.0 - params.scans.chance * bool(params.scans.count))


def training(
    params: TrainParams, state: State, record: Mapping[str, Any], out: Path, description: str | None = None
) -> dict[str, Any]:
    """The card's entry on the training."""
    runs = record.get("runs") or [{}]
    score = last_validation(out)
    entry = {
        "command": runs[0].get("command"),
        "further_commands": [run.get("command") for run in runs[1:]],
        "recipe": record.get("recipe"),
        **({"begun_from": record["begun_from"]} if record.get("begun_from") else {}),
        "seed": params.seed,
        "steps": state.step,
        "steps_planned": params.steps,
        "batch": params.batch,
        "patches": [list(patch) for patch in params.patches],
        "minutes": round(state.seconds / 60, 1),
        "hardware": " | ".join(dict.fromkeys(run["hardware"] for run in runs if "hardware" in run)),
        "threads": runs[-1].get("threads"),
        "data": {key: record.get(key, []) for key in ("label_maps", "held_out", "chi_maps")},
        "shapes": shapes(params, record),
        **({"scans": {"count": params.scans.count, "chance": params.scans.chance}} if params.scans.count else {}),
        "version": runs[-1].get("version"),
        "commit": runs[-1].get("commit"),
        "date": runs[-1].get("date"),
        "validation_error": None if score is None else round(score, 4),
        "validation_score": task_of(params.network).score,
    }
    return {**entry, **({"description": description} if description else {})}


def export_weights(
    params: TrainParams,
    state: State,
    record: Mapping[str, Any],
    out: Path,
    folder: Path,
    *,
    name: str = "",
    half: bool = True,
    description: str | None = None,
) -> Path:
    """Write the averaged weights of a training and their card.

    Parameters
    ----------
    params : TrainParams
        The configuration.
    state : State
        What the training came to.
    record : mapping
        See :func:`qsmprep.training.record.open_record`.
    out : Path
        Folder of the training, with its log.
    folder : Path
        Where to.
    name : str
        Of both files, without suffix; default: the network's.
    half : bool
        In half precision.
    description : str, optional
        A remark for the card.

    Returns
    -------
    Path
        The weight file.

    Raises
    ------
    DataError
        When nothing was trained yet, or the file would be too large.
    CannotWriteError
        When the file system refuses.
    """
    if state.step == 0:
        raise DataError("no step was trained: there are no weights to export", file=out, remedy="train first")
    entry, told = training(params, state, record, out, description), limits(params, state, record, last_rate(out))
    network, config = state.average, dict(params.model)
    segmenter = getattr(network, "segmentation", None)
    if segmenter is not None:
        own = config.pop("segmentation")
        card = Card(
            "subcortical",
            "UNETR segmentation of PedQ-NET",
            own,
            ranges(params),
            entry,
            limits=told,
            **SEEN["subcortical"],
        )
        save(segmenter, card, folder, name=f"{name or params.network}_nuclei", half=half)
        network = without_segmentation(network)
    guided = config.get("guided") or config.get("inputs") == "variation"
    card = Card(
        network=params.network,
        title=architecture(params.network).title,
        config=config,
        ranges=ranges(params),
        training=entry,
        limits=told,
        **SEEN.get(params.network, {"inputs": "local field, mask and magnitude"} if guided else {}),
    )
    save(network, card, folder, name=name, half=half)
    return weight_path(name or params.network, folder)


def without_segmentation(network: Any) -> Any:
    """A copy of PedQ-NET's reconstruction alone; its segmenter has a file of its own."""
    alone = copy.copy(network)
    alone._modules = {key: module for key, module in network._modules.items() if key != "segmentation"}
    return alone
