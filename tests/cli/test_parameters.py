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


def test_parameters_of_what_does_not_run_are_told(tmp_path):
    words = [str(tmp_path), str(tmp_path / "out"), "participant", "--param", "tv.weight=1e-4"]
    assert parse_settings(words).idle_parameters == ("tv",)
    assert parse_settings([*words, "--inversion", "tv"]).idle_parameters == ()


def test_stored_parameters_of_what_does_not_run_any_more(tmp_path):
    """The settings of a run say those of all methods that it chose; another choice leaves them behind."""
    words = [str(tmp_path), str(tmp_path / "out"), "participant"]
    stored = tmp_path / "settings.json"
    choice = ["--mask", "bet", "--inversion", "tv", "--param", "bet.fraction=0.4", "tv.weight=1e-4"]
    stored.write_text(parse_settings([*words, *choice]).to_json())
    again = parse_settings([*words, "--config-file", str(stored)])
    assert (again.mask, again.inversions) == ("bet", ("tv",))
    assert again.parameters["bet"]["fraction"] == 0.4 and again.parameters["tv"]["weight"] == 1e-4
    other = parse_settings([*words, "--config-file", str(stored), "--mask", "auto", "--inversion", "tkd"])
    assert not {"bet", "tv"} & set(other.parameters) and not other.idle_parameters
    stored.write_text('{"parameters": {"mdei": {"weight": 1}}}')
    with pytest.raises(UsageError, match="no method is called 'mdei'"):
        parse_settings([*words, "--config-file", str(stored)])
    stored.write_text('{"parameters": {"tkd": {"treshold": 1}}, "inversions": ["tkd"]}')
    with pytest.raises(UsageError, match="treshold"):
        parse_settings([*words, "--config-file", str(stored)])


def test_parameters_by_hand_in_a_configuration_file_are_told(tmp_path):
    words = [str(tmp_path), str(tmp_path / "out"), "participant"]
    stored = tmp_path / "mine.toml"
    stored.write_text("[parameters.tv]\nweight = 2e-4\n")
    assert parse_settings([*words, "--config-file", str(stored)]).idle_parameters == ("tv",)
    stored.write_text("[parameters.tv]\nweight = -1\n")
    with pytest.raises(UsageError, match=r"tv\.weight"):
        parse_settings([*words, "--config-file", str(stored)])
