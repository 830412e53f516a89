"""``--param``: a slip is told, whether its method runs or not."""

from __future__ import annotations

import pytest

from qsmprep.cli.parser import parse_settings
from qsmprep.errors import UsageError


@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("medi.weigth=1e-3", "no parameter `weigth`"),
        ("medi.weight=-1", "`medi.weight` is"),
        ("whqsm.weigth=1e-3", "no parameter `weigth`"),
        ("mdei.weight=1e-3", "no method is called 'mdei'"),
        ("unetr.nonsense=1", "no parameter `nonsense`"),
    ],
)
def test_a_slip_is_refused(tmp_path, word, told):
    with pytest.raises(UsageError, match=told):
        parse_settings([str(tmp_path), str(tmp_path / "out"), "participant", "--param", word])


@pytest.mark.parametrize("step", [(), ("--mask", "unetr"), ("--segmentation", "unetr")])
def test_two_methods_of_one_name(tmp_path, step):
    words = [str(tmp_path), str(tmp_path / "out"), "participant", *step, "--param", "unetr.weights=/some/where"]
    assert parse_settings(words).parameters == {"unetr": {"weights": "/some/where"}}
