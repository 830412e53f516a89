"""The words for a device."""

from __future__ import annotations

import pytest
import torch

from qsmprep.core.device import resolve_device
from qsmprep.errors import QSMPrepError, UsageError


def test_cpu_and_auto():
    assert resolve_device("cpu") == "cpu"
    assert resolve_device("auto") == ("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.parametrize("word", ["", "gpu", "cuda:", "cuda:x", "cudax", "abacus", "cuda:-1"])
def test_other_words_are_a_usage_error(word):
    with pytest.raises(UsageError, match="cuda:N"):
        resolve_device(word)


def test_a_device_that_is_not_there():
    with pytest.raises(QSMPrepError, match="visible") as caught:
        resolve_device(f"cuda:{torch.cuda.device_count()}")
    assert caught.value.remedy is not None
