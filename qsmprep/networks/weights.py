"""Weight files: safetensors with a card beside them, written whole or not at all, checked when read."""

from __future__ import annotations

import dataclasses
import hashlib
import uuid
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as parse_tensors
from safetensors.torch import save as tensors_to_bytes
from torch import nn

from qsmprep.errors import CannotWriteError, DataError, UsageError
from qsmprep.networks.card import FOLDER, SUFFIX, Card, card_path, missing, read_card
from qsmprep.networks.zoo import build

MAX_BYTES = 16 * 1024**2
"""Largest weight file."""

HALF_LIMIT = 6e4
"""Largest magnitude that is stored in 16 bits."""

KERNEL = 512
"""Tensors of more numbers than this are kernels and matrices, which may be stored in 16 bits."""


def weight_path(name: str, folder: str | Path | None = None) -> Path:
    """Where the weights of that name are looked for; empty or None means among those shipped."""
    return card_path(name, folder).with_suffix(SUFFIX)


def save(
    network: nn.Module, card: Card, folder: str | Path | None = None, *, name: str = "", half: bool = True
) -> Card:
    """Write the weights of a network and their card.

    Parameters
    ----------
    network : torch.nn.Module
        With the architecture and the configuration that the card states.
    card : Card
        Its ``parameters`` and ``sha256`` are filled in.
    folder : path, optional
        Of both files; default: that of the shipped weights.
    name : str
        Of both files, without suffix; default: the architecture.
    half : bool
        Store kernels and matrices as 16-bit numbers. Statistics, scales, shifts and single numbers
        stay at 32 bits.

    Returns
    -------
    Card
        As written.

    Raises
    ------
    DataError
        When the file would be larger than `MAX_BYTES`, or a weight is no finite number.
    CannotWriteError
        When the file system refuses.
    """
    name, target = name or card.network, Path(folder or FOLDER)
    state = network.state_dict()
    again = twins(state)
    tensors = {key: _stored(key, state[key], half) for key in state if key not in again}
    data = tensors_to_bytes(tensors)
    if len(data) > MAX_BYTES:
        raise DataError(
            f"the weights of `{name}` take {len(data) / 1024**2:.1f} MiB",
            expected=f"at most {MAX_BYTES // 1024**2} MiB",
            remedy="train a narrower network" if half else "store them as 16-bit numbers",
        )
    count = sum(parameter.numel() for parameter in network.parameters())
    card = dataclasses.replace(card, parameters=count, sha256=hashlib.sha256(data).hexdigest())
    _write(data, weight_path(name, target))
    _write(card.to_json().encode(), card_path(name, target))
    return card


def twins(state: Mapping[str, torch.Tensor]) -> dict[str, str]:
    """Names of tensors that a network holds under another name already, with that other name."""
    first: dict[tuple[int, torch.Size], str] = {}
    names = {key: first.setdefault((value.data_ptr(), value.shape), key) for key, value in state.items()}
    return {key: name for key, name in names.items() if name != key and state[key].numel()}


def _stored(key: str, value: torch.Tensor, half: bool) -> torch.Tensor:
    """A tensor as it is written."""
    value = value.detach().cpu()
    if value.is_floating_point() and not bool(torch.isfinite(value).all()):
        raise DataError(f"the weight `{key}` has values that are not finite", remedy="train again")
    kernel = value.is_floating_point() and value.numel() > KERNEL and "running_" not in key
    if half and kernel and float(value.abs().max()) < HALF_LIMIT:
        value = value.half()
    return value.clone(memory_format=torch.contiguous_format)


def _write(data: bytes, path: Path) -> None:
    """Write beside the place and rename into it."""
    hidden = path.with_name(f".{uuid.uuid4().hex}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        hidden.write_bytes(data)
        hidden.replace(path)
    except OSError as error:
        with suppress(OSError):
            hidden.unlink(missing_ok=True)
        raise CannotWriteError(f"the weights cannot be written ({error.strerror or error})", file=path) from error


def load(name: str, folder: str | Path | None = None, device: torch.device | str = "cpu") -> tuple[Any, Card]:
    """A trained network, ready to be run, and its card.

    Parameters
    ----------
    name : str
        Of the files, without suffix; for the shipped weights that of the architecture.
    folder : path, optional
        Default: that of the shipped weights.
    device : torch.device or str
        Where to.

    Raises
    ------
    MissingFileError
        When the weights or their card are not there; the message names the command that makes them.
    DataError
        When they are truncated, not what the card says, of another version, or do not fit the architecture.
    """
    card, path = read_card(name, folder), weight_path(name, folder)
    tensors = read_tensors(name, path, card)
    try:
        network = build(card.network, card.config)
        shared = {key: tensors[one] for key, one in twins(network.state_dict()).items() if one in tensors}
        network.load_state_dict({key: _loaded(value) for key, value in {**shared, **tensors}.items()})
    except (UsageError, RuntimeError, TypeError, ValueError) as problem:
        reason = str(problem).split("\n\t")[-1].strip()
        raise DataError(
            f"the weights do not fit the network {card.network!r} ({reason})",
            file=path,
            expected="the tensors of the architecture and configuration on their card",
            remedy="use the weights that came with this version of qsmprep, or train them again",
        ) from None
    for parameter in network.parameters():
        if parameter.dim() == 5:  # a sixth to a third faster on a CPU
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last_3d)
    return network.to(device).eval().requires_grad_(False), card


def read_tensors(name: str, path: Path, card: Card) -> dict[str, torch.Tensor]:
    """The tensors of a weight file, when it is the one that the card is about."""
    try:
        if path.exists() and not path.is_file():
            raise missing(name, path)
        if path.stat().st_size > MAX_BYTES:
            what = f"the weights take {path.stat().st_size} bytes"
            raise DataError(what, file=path, expected=f"at most {MAX_BYTES}")
        data = path.read_bytes()
    except FileNotFoundError:
        raise missing(name, path) from None
    except OSError as problem:
        raise DataError(f"the weights cannot be read ({problem.strerror or problem})", file=path) from None
    if hashlib.sha256(data).hexdigest() != card.sha256:
        raise DataError(
            f"the weights are not those of their card ({len(data)} bytes; truncated or replaced)",
            file=path,
            expected=f"a file with the SHA-256 sum {card.sha256[:12]}…",
            remedy="copy weights and card again, or install qsmprep again",
        )
    try:
        tensors: dict[str, torch.Tensor] = parse_tensors(data)
    except (SafetensorError, ValueError) as problem:
        raise DataError(f"the weights are no safetensors file ({problem})", file=path) from None
    return tensors


def _loaded(value: torch.Tensor) -> torch.Tensor:
    """A tensor as it is computed with."""
    return value.float() if value.is_floating_point() else value
