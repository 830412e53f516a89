"""Configurations: what is wrong with one is said with its entry's name; those that are shipped are right."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path

import pytest
from training_cases import TINY, tiny, write_recipe

from qsmprep.cli.train import NETWORKS
from qsmprep.errors import DataError, MissingFileError, UsageError
from qsmprep.networks.zoo import ARCHITECTURES, SEGMENTERS, build
from qsmprep.training.config import read_params
from qsmprep.training.export import ranges
from qsmprep.training.loop import check_patches, learning_rate
from qsmprep.training.recipes import find_recipe, recipe_folder, recipe_names

MAX_BYTES = 16 * 1024**2
NEVER_RUN = {f"{name}_h200" for name in ("unet", "mesaqsm", "qsminvnet1")} | {
    f"{name}_cpu" for name in ("loopnet", "metaqsm", "qsminvnet")
}
"""Recipes that say so."""


@pytest.mark.parametrize("name", recipe_names())
def test_shipped_recipes_are_right(name):
    path = recipe_folder() / f"{name}.yaml"
    params = read_params(path, max((n for n in NETWORKS if name.startswith(n)), key=len))
    network = build(params.network, params.model)
    check_patches(params, network)
    parts = {"segmentation": [], "all else": []}  # the segmenter of PedQ-NET has a file of its own
    for key, value in network.state_dict().items():
        parts["segmentation" if key.startswith("segmentation.") else "all else"].append(2 * value.numel())
    assert all(sum(sizes) < MAX_BYTES for sizes in parts.values())
    assert params.hold_out
    assert set(ranges(params)) == {"in_plane_mm", "slice_mm", "tilt_deg", "noise_ppm"}
    text = path.read_text(encoding="utf-8")
    assert text.startswith("# ")
    assert ("has not been run yet" in text) == (name in NEVER_RUN)
    assert params.precision == "auto", "a CPU that does not know bfloat16 would take minutes a step"


def test_every_network_has_a_recipe_for_each_kind_of_hardware():
    assert {one.name for one in ARCHITECTURES + SEGMENTERS} == set(NETWORKS)
    assert {f"{name}_{kind}" for name in NETWORKS for kind in ("cpu", "h200")} <= set(recipe_names())


def test_recipes_are_found_by_hardware_by_name_and_by_file(tmp_path):
    assert find_recipe(None, "loopnet", "cpu").name == "loopnet_cpu.yaml"
    assert find_recipe(None, "loopnet", "cuda:1").name == "loopnet_h200.yaml"
    assert find_recipe(Path("loopnet_h200"), "loopnet", "cpu").name == "loopnet_h200.yaml"
    assert find_recipe(Path("loopnet_h200.yaml"), "loopnet", "cpu").is_file()
    mine = write_recipe(tmp_path / "mine.yaml")
    assert find_recipe(mine, "loopnet", "cpu") == mine
    for absent in ("mine", "absent.yaml"):
        with pytest.raises(MissingFileError, match="loopnet_cpu"):
            find_recipe(Path(absent), "loopnet", "cpu")
    with pytest.raises(MissingFileError):
        find_recipe(tmp_path / "loopnet_cpu.yaml", "loopnet", "cpu")


def test_values_are_read_as_what_they_are(tmp_path):
    params = read_params(
        write_recipe(
            tmp_path / "a.yaml",
            learning_rate="1e-3",
            sample={"geometry": {"in_plane_mm": [1, 2], "fixed_mm": None}, "chi": {"lesion_ppm": 1}},
        ),
        "metaqsm",
        {"steps": 9},
    )
    assert params.learning_rate == 1e-3  # YAML 1.1 reads it as text
    assert params.sample.geometry.in_plane_mm == (1.0, 2.0)
    assert params.sample.geometry.fixed_mm is None
    assert params.sample.chi.lesion_ppm == 1.0
    assert params.patches == ((16, 16, 16), (24, 16, 16))
    assert params.steps == 9
    assert params.hold_out == ("head_2",)


def test_the_ranges_of_a_card_are_those_of_the_recipe():
    params = tiny(sample={"geometry": {"fixed_mm": [2.0, 0.5, 0.6]}, "field": {"noise_ppm": [0.001, 0.002]}})
    assert ranges(params) == {
        "in_plane_mm": (0.5, 0.6),
        "slice_mm": (2.0, 2.0),
        "tilt_deg": (0.0, 54.0),
        "noise_ppm": (0.001, 0.002),
    }
    both = tiny(physics_weight=0.1, target={"field": {"noise_ppm": [0.002, 0.01]}})
    assert ranges(both)["noise_ppm"] == (0.0005, 0.01)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"stepps": 3}, "unknown entry `stepps`"),
        ({"sample": {"chi": {"texture": 1}}}, "unknown entry `sample.chi.texture`"),
        ({"steps": "many"}, "`steps` is 'many'"),
        ({"steps": 3.5}, "`steps` is 3.5"),
        ({"batch": True}, "`batch` is True"),
        ({"learning_rate": "fast"}, "`learning_rate` is 'fast'"),
        ({"patches": [[16, 16]]}, re.escape("`patches[0]` is [16, 16]")),
        ({"patches": 16}, "`patches` is 16"),
        ({"model": [1, 2]}, re.escape("`model` is [1, 2]")),
        ({"sample": 3}, "`sample.` is 3|`sample` is 3"),
        ({"loss": [1, 2]}, re.escape("`loss` is [1, 2]")),
        ({"hold_out": "head_1"}, "`hold_out` is 'head_1'"),
    ],
)
def test_wrong_entries_are_named(tmp_path, changes, said):
    path = write_recipe(tmp_path / "a.yaml", **changes)
    with pytest.raises(UsageError, match=said) as caught:
        read_params(path)
    assert caught.value.file == str(path)


@pytest.mark.parametrize(
    ("text", "said"),
    [("a: [1", "no YAML"), ("- 1\n- 2\n", "no mapping"), ("", "no mapping"), ("steps: 3", "`network`")],
)
def test_what_is_no_configuration_is_refused(tmp_path, text, said):
    path = tmp_path / "a.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UsageError, match=said):
        read_params(path)


def test_a_configuration_is_for_one_network(tmp_path):
    path = write_recipe(tmp_path / "a.yaml")
    assert read_params(path, TINY["network"]).network == "metaqsm"
    with pytest.raises(UsageError, match="is for metaqsm"):
        read_params(path, "loopnet")
    with pytest.raises(MissingFileError):
        read_params(tmp_path / "absent.yaml")


def test_patches_must_suit_the_network():
    params = tiny(patches=[[16, 16, 18]])
    with pytest.raises(DataError, match="multiples of 4"):
        check_patches(params, build(params.network, params.model))
    params = tiny(network="loopnet", model={"base": 4}, patches=[[16, 16, 16]])
    with pytest.raises(DataError, match="one voxel to take statistics of"):
        check_patches(params, build(params.network, params.model))


def test_the_learning_rate_rises_stays_and_falls():
    params = tiny(steps=1000, warmup=100, decay=0.4, learning_rate=0.01)
    rates = [learning_rate(params, step) for step in range(1001)]
    assert rates[0] == pytest.approx(1e-4)
    assert rates[100:600] == pytest.approx([0.01] * 500)
    assert all(a >= b for a, b in pairwise(rates[600:]))
    assert rates[-1] == pytest.approx(1e-4)


def test_the_learning_rate_falls_with_the_time_where_that_is_further():
    params = tiny(steps=1000, warmup=100, decay=0.4, learning_rate=0.01)
    rates = [learning_rate(params, 300, share / 100) for share in range(101)]
    assert rates[:61] == pytest.approx([0.01] * 61)
    assert all(a > b for a, b in pairwise(rates[60:]))
    assert rates[80] == pytest.approx(0.01 * (0.01 + 0.99 / 2))  # half of the way down
    assert rates[100] == pytest.approx(1e-4)
    assert learning_rate(params, 0, 1.0) == pytest.approx(1e-6)  # the warm-up stays
    for step in (0, 300, 700, 900, 1000):
        assert learning_rate(params, step, 0.0) == learning_rate(params, step)
    assert learning_rate(params, 900, 0.7) == learning_rate(params, 900)  # the steps are further
    assert learning_rate(params, 700, 0.9) == pytest.approx(learning_rate(params, 900))
