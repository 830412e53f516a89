"""Which device arrays are computed on."""

from __future__ import annotations

import re

from qsmprep.errors import QSMPrepError, UsageError


def resolve_device(device: str) -> str:
    """The torch device that ``auto``, ``cpu``, ``cuda`` or ``cuda:N`` means on this machine.

    Raises
    ------
    UsageError
        When it is none of these words.
    QSMPrepError
        When CUDA is asked for and not there: another device gives slightly other numbers, so
        that there is no silent way back to the CPU.
    """
    if device == "cpu":
        return device
    import torch  # here, so that what runs on the CPU need not wait for it

    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    found = re.fullmatch(r"cuda(?::([0-9]+))?", device)
    if found is None:
        raise UsageError(f"`--device` is {device!r}", expected="auto, cpu, cuda or cuda:N")
    if int(found[1] or 0) >= torch.cuda.device_count():
        raise QSMPrepError(
            f"`--device {device}` was asked for, but {torch.cuda.device_count()} CUDA devices are visible",
            remedy="use --device cpu, or run the container with `--nv` (Apptainer) or `--gpus all` (Docker)",
        )
    return device


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error is Python's or torch's lack of memory, on the CPU or on a GPU."""
    if isinstance(error, MemoryError):
        return True
    told = str(error).lower()
    words = ("out of memory", "can't allocate memory", "not enough memory")
    return isinstance(error, RuntimeError) and any(word in told for word in words)
