"""What a training run carries from one step to the next."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from qsmprep.training.draw import Dice
from qsmprep.training.supply import Supply


@dataclass
class State:
    """Everything that a training run carries from one step to the next."""

    network: Any
    average: Any
    optimiser: torch.optim.Optimizer
    dice: Dice
    supply: Supply
    target: Supply
    step: int = 0
    seconds: float = 0.0
    share: float = 0.0
    """Part of the time that is over, in a run that is to be finished by its end; else 0."""
