"""What is learned by which network: its loss, what it is validated with, and the batches that are kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from qsmprep.training import inversion_task, mask_task, nuclei_task, pedqnet_task, t1w_task
from qsmprep.training.magnitudes import Image
from qsmprep.training.nuclei import Window
from qsmprep.training.supply import Batch
from qsmprep.training.t1w_task import Posed


@dataclass(frozen=True)
class Task:
    """What is learned.

    Parameters
    ----------
    losses : callable
        ``(params, state, sources, low)`` to the loss of a step with its graph and an error.
    fixed_batches : callable
        ``(params, network, held, device)`` to what is validated with; empty without held-out maps.
    validate : callable
        ``(network, batches)`` to the error.
    score : str
        What the error is.
    batch, target_batch : type
        Of what the two of :class:`qsmprep.training.supply.Supply` keep, with ``state`` and ``of``.
    heads, patches : bool
        Whether whole heads are needed (label maps with all that surrounds the brain), and patches.
    """

    losses: Callable[..., Any]
    fixed_batches: Callable[..., list[Any]]
    validate: Callable[..., float]
    score: str
    batch: Any
    target_batch: Any = Batch
    heads: bool = False
    patches: bool = True


INVERSION = Task(
    inversion_task.losses, inversion_task.fixed_batches, inversion_task.validate, "relative error of the map", Batch
)
MASK = Task(mask_task.losses, mask_task.fixed_batches, mask_task.validate, "1 - Dice", Image, heads=True, patches=False)
NUCLEI = Task(
    nuclei_task.losses,
    nuclei_task.fixed_batches,
    nuclei_task.validate,
    "1 - mean Dice",
    Window,
    heads=True,
    patches=False,
)
NUCLEI_OF_T1W = Task(
    t1w_task.losses, t1w_task.fixed_batches, t1w_task.validate, "1 - mean Dice", Posed, heads=True, patches=False
)
PHYSICS = Task(
    pedqnet_task.losses,
    pedqnet_task.fixed_batches,
    pedqnet_task.validate,
    "relative error of the map",
    Batch,
    target_batch=Window,
    heads=True,
)

BY_NETWORK = {
    "brainmask": MASK,
    "subcortical": NUCLEI,
    "subcortical_t1w": NUCLEI_OF_T1W,
    "pedqnet": PHYSICS,
    "nnunet": PHYSICS,
}


def task_of(network: str) -> Task:
    """The task of a network; inversion with labels where none else is listed."""
    return BY_NETWORK.get(network, INVERSION)
