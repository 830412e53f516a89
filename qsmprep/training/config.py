"""The one configuration of a training run, read from YAML."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from qsmprep.errors import MissingFileError, UsageError
from qsmprep.training.magnitudes import ImageParams
from qsmprep.training.nuclei import NucleiParams
from qsmprep.training.sample import SampleParams
from qsmprep.training.scans import ScanParams


@dataclass(frozen=True)
class TrainParams:
    """How a network is trained.

    Parameters
    ----------
    network : str
        Name of the architecture, see :mod:`qsmprep.networks.zoo`.
    model : dict
        Arguments of its class.
    start : str
        Weight files to begin with instead of random weights: a shipped name, or FOLDER/NAME without suffix.
    sample, target : SampleParams
        How labelled samples are drawn, and (for domain-specific networks) the unlabelled ones.
    scans : ScanParams
        Whole heads that were scanned and reconstructed by this pipeline, which some labelled samples are cut from.
    image : ImageParams
        How images of heads are drawn (brain mask).
    nuclei : NucleiParams
        How windows around the deep grey nuclei are drawn (segmentation, PedQ-NET).
    variation, joint : float
        Of PedQ-NET: weights of the total variation and of the segmentation's loss.
    segmenter : str
        Weight files of the segmenter that PedQ-NET is joined to, as for ``start``.
    physics_weight : float
        Final weight of the consistency with unlabelled fields, reached half-way; 0 for none.
    patches : tuple of (3,) tuple of int
        Shapes of patches, in turn.
    batch : int
        Patches a step.
    reuse : int
        Steps for each batch that is drawn: mirrored copies of recent ones fill the others.
    steps : int
        Optimiser steps.
    learning_rate : float
        After ``warmup`` steps; constant until the last ``decay`` part of the steps, then a half
        cosine down to a hundredth. ``decay = 1`` is the plain cosine schedule.
    optimiser : {"adamw", "rmsprop"}
        RMSprop as in Meta-QSM, or AdamW.
    weight_decay, clip, ema : float
        Weight decay, largest norm of the gradient, decay of the moving average of the weights.
    loss : (3,) tuple of float
        Weights of the relative L2 norm, L1 norm and L1 norm of the gradient.
    iteration_decay : float
        How much less each earlier iteration counts.
    seed : int
        Of weights and samples.
    precision : {"auto", "float32", "bfloat16"}
        ``auto``: bfloat16 where it is faster. Fourier transforms are float32 in any case.
    hold_out : tuple of str
        Label maps (file names without suffix) that are never trained on; those to validate with.
    validate_every : int
        Steps between validations on four fixed samples of the held-out label maps and one of each scan of them.
    """

    network: str
    model: dict[str, Any] = field(default_factory=dict)
    start: str = ""
    sample: SampleParams = field(default_factory=SampleParams)
    target: SampleParams = field(default_factory=SampleParams)
    scans: ScanParams = field(default_factory=ScanParams)
    image: ImageParams = field(default_factory=ImageParams)
    nuclei: NucleiParams = field(default_factory=NucleiParams)
    variation: float = 0.1
    joint: float = 0.1
    segmenter: str = ""
    physics_weight: float = 0.0
    patches: tuple[tuple[int, int, int], ...] = ((64, 64, 64),)
    batch: int = 2
    reuse: int = 1
    steps: int = 4000
    learning_rate: float = 1e-3
    warmup: int = 50
    decay: float = 0.4
    optimiser: str = "adamw"
    weight_decay: float = 1e-4
    clip: float = 1.0
    ema: float = 0.995
    loss: tuple[float, float, float] = (1.0, 0.5, 0.25)
    iteration_decay: float = 0.5
    seed: int = 0
    precision: str = "auto"
    hold_out: tuple[str, ...] = ()
    validate_every: int = 250


def read_params(path: Path, network: str | None = None, overrides: Mapping[str, Any] | None = None) -> TrainParams:
    """Read a YAML file.

    Parameters
    ----------
    path : Path
        The file.
    network : str, optional
        The network it must be for.
    overrides : mapping, optional
        Top-level entries that replace those of the file.

    Raises
    ------
    MissingFileError
        When there is no such file.
    UsageError
        When it is no YAML, has an unknown entry or a value of the wrong kind, or is for another network.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise MissingFileError("there is no such training configuration", file=path) from None
    except (yaml.YAMLError, UnicodeDecodeError) as problem:
        raise UsageError(f"the training configuration is no YAML: {problem}", file=path) from None
    if not isinstance(content, dict):
        raise UsageError("the training configuration is no mapping", file=path, expected="`network: …` and so on")
    try:
        params: TrainParams = from_mapping(TrainParams, {**content, **(overrides or {})})
    except UsageError as problem:
        raise UsageError(problem.what, file=path, expected=problem.expected) from None
    if network and params.network != network:
        raise UsageError(f"the configuration is for {params.network}", file=path, expected=f"one for {network}")
    return params


def from_mapping(kind: Any, content: Mapping[str, Any], where: str = "") -> Any:
    """A frozen dataclass from nested mappings, with unknown entries and wrong kinds refused."""
    if not isinstance(content, Mapping):
        raise UsageError(f"`{where}` is {content!r}", expected="a mapping")
    hints = typing.get_type_hints(kind)
    known = {f.name for f in dataclasses.fields(kind)}
    unknown = sorted(set(content) - known)
    if unknown:
        raise UsageError(f"unknown entry `{where}{unknown[0]}`", expected="one of " + ", ".join(sorted(known)))
    missing = [
        f.name
        for f in dataclasses.fields(kind)
        if f.name not in content and f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise UsageError(f"the entry `{where}{missing[0]}` is missing", expected="a value for it")
    return kind(**{key: _convert(value, hints[key], f"{where}{key}") for key, value in content.items()})


def _convert(value: Any, hint: Any, where: str) -> Any:
    """Bring a YAML value to the type that a dataclass wants."""
    if dataclasses.is_dataclass(hint):
        return from_mapping(hint, value, where + ".")
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is types.UnionType:
        if value is None:
            return None
        return _convert(value, next(a for a in arguments if a is not type(None)), where)
    if origin is tuple:
        inner = (
            arguments[:1] * len(value) if arguments[-1] is Ellipsis and isinstance(value, (list, tuple)) else arguments
        )
        if not isinstance(value, (list, tuple)) or len(value) != len(inner):
            raise UsageError(f"`{where}` is {value!r}", expected=f"a list of {len(arguments)} values")
        return tuple(_convert(v, a, f"{where}[{i}]") for i, (v, a) in enumerate(zip(value, inner, strict=True)))
    if origin is dict:
        if not isinstance(value, Mapping):
            raise UsageError(f"`{where}` is {value!r}", expected="a mapping")
        return dict(value)
    if hint is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    if hint is float and isinstance(value, str):
        try:
            return float(value)  # YAML 1.1 reads 1e-3 as text
        except ValueError:
            pass
    if not isinstance(value, hint) or (hint is not bool and isinstance(value, bool)):
        raise UsageError(f"`{where}` is {value!r}", expected=f"a value of type {hint.__name__}")
    return value
