"""The training loop: draws samples, steps, validates, logs, checkpoints, resumes."""

from __future__ import annotations

import csv
import dataclasses
import math
import pickle
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from qsmprep.errors import CannotWriteError, DataError, QSMPrepError
from qsmprep.networks.base import QSMNetwork
from qsmprep.networks.weights import load
from qsmprep.networks.zoo import build
from qsmprep.training.config import TrainParams
from qsmprep.training.draw import Dice
from qsmprep.training.sample import Sources
from qsmprep.training.state import State
from qsmprep.training.supply import Batch, Supply
from qsmprep.training.tasks import task_of

CHECKPOINT = "checkpoint.pt"
LOG = "log.csv"
SAVE_EVERY_S = 60.0
SAVE_SHARE = 0.04
"""Part of the time that checkpoints may take."""

RELATED = {"subcortical_t1w": ("subcortical",)}
"""Networks of the same form whose weights another one may begin with."""

COLUMNS = ("step", "seconds", "learning_rate", "loss", "error_train", "error_validation")


def begin(params: TrainParams, device: torch.device | str, *, bare: bool = False) -> State:
    """An untrained network and all that goes with it; ``bare`` where a checkpoint has the weights, so that those
    of ``start`` and ``segmenter`` need not be there any more."""
    torch.manual_seed(params.seed)
    network = channels_last(build(params.network, params.model).to(device))
    average = channels_last(build(params.network, params.model).to(device)).requires_grad_(False)
    load_over(network, {} if bare else starting_weights(params), params)
    average.load_state_dict(network.state_dict())
    check_patches(params, network)
    groups = list(network.parameters())
    if params.optimiser == "rmsprop":
        optimiser: torch.optim.Optimizer = torch.optim.RMSprop(groups, params.learning_rate, alpha=0.9, eps=1e-7)
    else:
        fused = torch.device(device).type == "cuda" or None
        optimiser = torch.optim.AdamW(groups, params.learning_rate, weight_decay=params.weight_decay, fused=fused)
    return State(
        network, average, optimiser, Dice.of(params.seed + 1, device), Supply(params.reuse), Supply(params.reuse)
    )


def load_over(network: nn.Module, tensors: dict[str, torch.Tensor], params: TrainParams) -> None:
    """Give a network the weights that there are for it; what there are none for stays as it is.

    Raises
    ------
    DataError
        When they are of a network of another size.
    """
    try:
        network.load_state_dict({**network.state_dict(), **tensors})
    except RuntimeError as problem:
        names = " and ".join(filter(None, (params.start, params.segmenter)))
        raise DataError(
            f"training cannot begin with the weights {names}: {str(problem).splitlines()[-1].strip()}",
            expected=f"{params.network} {params.model}",
        ) from None


def starting_weights(params: TrainParams) -> dict[str, torch.Tensor]:
    """The weights that training begins with, of the files that ``start`` and ``segmenter`` name.

    They may be of a smaller network of the same kind; those of ConeNet of any number of passes.

    Raises
    ------
    DataError
        When they are of another network than the one to be trained, or differ in an entry that both have.
    MissingFileError
        When there are none.
    """
    tensors: dict[str, torch.Tensor] = {}
    own = dict(params.model)
    joined = own.pop("segmentation", None)
    related = RELATED.get(params.network, ("nnunet",) * (joined is not None))
    for name, prefix, networks, wanted in (
        (params.start, "", (params.network, *related), own),
        (params.segmenter, "segmentation.", ("subcortical",), joined),
    ):
        if not name:
            continue
        where = Path(name)
        given, card = load(where.name, where.parent if where.parent != Path() else None)
        # ConeNet's passes share all they have, LoopNet's have statistics of their own
        free = {"iterations"} if card.network == "conenet" else set()
        fixed = {key: value for key, value in dict(card.config).items() if key not in free}
        if card.network not in networks or not fixed.items() <= (wanted or {}).items():
            raise DataError(
                f"training cannot begin with the weights {name}: they are of {card.network} {dict(card.config)}",
                expected=f"{networks[0]} {wanted}",
            )
        tensors |= {prefix + key: value for key, value in given.state_dict().items()}
    return tensors


def check_patches(params: TrainParams, network: QSMNetwork) -> None:
    """Refuse patches that the network's stride does not divide; a segmenter has windows of its own.

    Raises
    ------
    DataError
        Naming the stride.
    """
    for patch in params.patches if isinstance(network, QSMNetwork) else ():
        if any(n % network.stride or n < network.stride for n in patch):
            raise DataError(
                f"a patch of {patch} voxels does not suit {params.network}",
                expected=f"lengths that are multiples of {network.stride}",
            )
        if params.batch * math.prod(n // network.stride for n in patch) < 2:
            raise DataError(
                f"a single patch of {patch} voxels leaves {params.network} one voxel to take statistics of",
                expected=f"a larger `batch`, or lengths above {network.stride}",
            )


def channels_last(network: Any) -> Any:
    """Store convolution kernels channels-last, which the CPU's and the GPU's convolutions prefer."""
    for parameter in network.parameters():
        if parameter.dim() == 5:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last_3d)
    return network


def learning_rate(params: TrainParams, step: int, share: float = 0.0) -> float:
    """Warm-up, constant, then a half cosine to a hundredth; by steps or, where that is further, by the share of
    the time that is over."""
    rise = min(1.0, (step + 1) / max(1, params.warmup))
    start = params.steps * (1 - params.decay)
    part = max((step - start) / max(1.0, params.steps - start), (share - 1 + params.decay) / max(1e-6, params.decay))
    part = min(1.0, max(0.0, part))
    return params.learning_rate * rise * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * part)))


def bfloat16_pays(device: torch.device) -> bool:
    """Whether a convolution in bfloat16 is faster than in float32 on this device; measured on CPUs."""
    if device.type != "cpu":
        return True
    seconds = {torch.float32: math.inf, torch.bfloat16: math.inf}
    for kind in 6 * tuple(seconds):  # the best of some, in turn: other work on the machine must not decide
        conv = nn.Conv3d(16, 16, 3, padding=1).to(dtype=kind, memory_format=torch.channels_last_3d)
        volume = torch.randn(1, 16, 24, 24, 24).to(kind).contiguous(memory_format=torch.channels_last_3d)
        with torch.no_grad():
            conv(volume)
            start = time.perf_counter()
            conv(volume)
        seconds[kind] = min(seconds[kind], time.perf_counter() - start)
    return seconds[torch.bfloat16] < 0.8 * seconds[torch.float32]


def use_bfloat16(params: TrainParams, device: torch.device) -> bool:
    """What ``precision`` means on this device."""
    return params.precision == "bfloat16" or (params.precision == "auto" and bfloat16_pays(device))


def advance(params: TrainParams, state: State, sources: Sources, low: bool) -> tuple[float, float]:
    """One optimiser step; the loss and the relative error on its samples."""
    state.network.train()
    rate = learning_rate(params, state.step, state.share)
    for group in state.optimiser.param_groups:
        group["lr"] = rate
    loss, error = task_of(params.network).losses(params, state, sources, low)
    state.optimiser.zero_grad(set_to_none=True)
    loss.backward()
    norm = nn.utils.clip_grad_norm_(state.network.parameters(), params.clip)
    if torch.isfinite(norm):
        state.optimiser.step()
    state.step += 1
    keep = min(params.ema, (1 + state.step) / (10 + state.step))
    follow(state.average, state.network, keep)
    return float(loss.detach()), error


@torch.no_grad()
def follow(average: nn.Module, network: nn.Module, keep: float) -> None:
    """Move the averaged weights towards those of the network.

    The statistics of batch normalisations are averaged too: those of the network are of its last few batches,
    each of one voxel size.
    """
    pairs = [[*one.parameters(), *one.buffers()] for one in (average, network)]
    moving = [(mean, now) for mean, now in zip(*pairs, strict=True) if mean.is_floating_point()]
    get_ema_multi_avg_fn(keep)(*map(list, zip(*moving, strict=True)), None)  # type: ignore[no-untyped-call]
    for mean, now in zip(*pairs, strict=True):
        if not mean.is_floating_point():
            mean.copy_(now)


def save(path: Path, params: TrainParams, state: State) -> None:
    """Write a checkpoint beside its place and rename it into it.

    Raises
    ------
    CannotWriteError
        When the file system refuses.
    """
    content = {
        "params": dataclasses.asdict(params),
        "network": state.network.state_dict(),
        "average": state.average.state_dict(),
        "optimiser": state.optimiser.state_dict(),
        "dice": state.dice.state,
        "recent": [batch.state() for batch in state.supply.recent],
        "recent_target": [batch.state() for batch in state.target.recent],
        "step": state.step,
        "seconds": state.seconds,
    }
    part = path.with_name(path.name + ".part")
    try:
        torch.save(content, part)
        part.replace(path)
    except (OSError, RuntimeError) as problem:  # torch tells of a full disk with a RuntimeError
        with suppress(OSError):
            part.unlink(missing_ok=True)
        raise CannotWriteError(
            f"the checkpoint cannot be written: {problem}", file=path, remedy="check the folder and the space left"
        ) from None


def completed(before: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    """An older configuration with the defaults of entries that there were none of then."""

    def fill(key: str) -> Any:
        value, default = before.get(key, defaults[key]), defaults[key]
        return completed(value, default) if isinstance(default, dict) and default else value

    return {key: fill(key) for key in defaults}


def resume(path: Path, params: TrainParams, device: torch.device | str) -> State:
    """Go on from a checkpoint; only the number of steps and their schedule may differ from then.

    Raises
    ------
    DataError
        When the file is no checkpoint, or one of another configuration.
    """
    try:
        content = torch.load(path, map_location=device, weights_only=True)
        before = content["params"]
    except (
        OSError,
        RuntimeError,
        EOFError,
        LookupError,
        AttributeError,
        TypeError,
        ValueError,
        pickle.PickleError,
    ) as problem:
        raise DataError(
            f"the checkpoint cannot be read: {problem}", file=path, remedy="remove it to begin anew"
        ) from None
    free = {"steps", "decay", "learning_rate", "validate_every", "precision"}
    now = dataclasses.asdict(params)
    before = completed(before, dataclasses.asdict(TrainParams(params.network)))
    changed = sorted(key for key in now if key not in free and before[key] != now[key])
    if changed:
        raise DataError(
            f"the checkpoint is of another configuration ({', '.join(changed)})",
            file=path,
            expected="the configuration it was begun with",
            remedy="give another --out, or remove the checkpoint to begin anew",
        )
    state = begin(params, device, bare=True)
    try:
        state.network.load_state_dict(content["network"])
        state.average.load_state_dict(content["average"])
        state.optimiser.load_state_dict(content["optimiser"])
        dice = content["dice"]
        for supply, key in ((state.supply, "recent"), (state.target, "recent_target")):
            kind = getattr(task_of(params.network), "batch" if supply is state.supply else "target_batch")
            supply.recent = [kind.of(kept) for kept in content.get(key, []) if kind is not Batch or "scale" in kept]
        state.dice.restore(dice if isinstance(dice, list) else [dice])
        state.step, state.seconds = int(content["step"]), float(content["seconds"])
    except (RuntimeError, KeyError, TypeError, ValueError) as problem:
        raise DataError(
            f"the checkpoint does not fit this version of {params.network} ({str(problem).splitlines()[0]})",
            file=path,
            remedy="give another --out, or remove the checkpoint to begin anew",
        ) from None
    return state


def train(
    params: TrainParams,
    sources: Sources,
    held: Sources,
    out: Path,
    *,
    device: str = "cpu",
    minutes: float = math.inf,
    finish: bool = False,
    since: float | None = None,
    report: Callable[[int, dict[str, float]], None] | None = None,
    stop: Callable[[], bool] | None = None,
) -> State:
    """Train until the last step, until the time is up or until told to stop; begin where a checkpoint stands.

    Parameters
    ----------
    params : TrainParams
        The configuration.
    sources, held : Sources
        What is trained on, and what is validated with.
    out : Path
        Folder of the checkpoint and of the log, ``log.csv``.
    device : str
        Torch device.
    minutes : float
        Stop (with a checkpoint) after so many, but not before a step unless they are 0.
    finish : bool
        Bring the learning rate down by the end of that time, whatever step that is.
    since : float, optional
        From when the minutes count, by :func:`time.monotonic`; default: from now.
    report : callable, optional
        Called after each step with its number and the row of the log.
    stop : callable, optional
        Asked before each step; stop (with a checkpoint) when it says true.

    Raises
    ------
    QSMPrepError
        When the loss stops being a number.
    CannotWriteError
        When the file system refuses.
    """
    out.mkdir(parents=True, exist_ok=True)
    where = out / CHECKPOINT
    began = time.monotonic() if since is None else since
    state = resume(where, params, device) if where.exists() else begin(params, device)
    low = use_bfloat16(params, torch.device(device))
    task = task_of(params.network)
    samples = task.fixed_batches(params, state.network, held, device)
    saved = time.monotonic()
    first = state.step
    lost, pause = 0, SAVE_EVERY_S
    while state.step < params.steps and minutes > 0:
        if time.monotonic() - began >= 60 * minutes and state.step > first:
            break
        if stop is not None and stop():
            break
        start = time.monotonic()
        state.share = min(1.0, (start - began) / (60 * minutes)) if finish else 0.0
        loss, error = advance(params, state, sources, low)
        lost = 0 if math.isfinite(loss) else lost + 1
        if lost > 10:
            raise QSMPrepError("training diverged: the loss is not a number", remedy="lower `learning_rate`")
        state.seconds += time.monotonic() - start
        last = state.step == params.steps
        row = {"step": state.step, "seconds": round(state.seconds, 2), "loss": loss, "error_train": error}
        row["learning_rate"] = learning_rate(params, state.step - 1, state.share)
        if samples and (state.step % params.validate_every == 0 or last):
            row["error_validation"] = task.validate(state.average, samples)
        log(out / LOG, row)
        if report is not None:
            report(state.step, row)
        if time.monotonic() - saved > pause:
            start = time.monotonic()
            save(where, params, state)
            saved = time.monotonic()
            pause = max(SAVE_EVERY_S, (saved - start) / SAVE_SHARE)
    save(where, params, state)
    return state


def log(path: Path, row: dict[str, float]) -> None:
    """Append a row, with a header where the file is new."""
    new = not path.exists()
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, restval="")
        if new:
            writer.writeheader()
        writer.writerow({key: f"{value:.6g}" if isinstance(value, float) else value for key, value in row.items()})
