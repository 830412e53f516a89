"""Weight files and their cards: written whole, read back the same, and refused when something is wrong."""

from __future__ import annotations

import dataclasses
import hashlib
import json

import pytest
import torch
from network_cases import NAMES, RANGES, card_of, lively

from qsmprep.errors import CannotWriteError, DataError, MissingFileError
from qsmprep.networks import weights
from qsmprep.networks.card import FORMAT, find_weights, parse_card, read_card
from qsmprep.networks.weights import load, save, twins, weight_path
from qsmprep.networks.zoo import build


def edit(path, **values):
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, **values}))


@pytest.fixture
def saved(tmp_path):
    """A folder with the weights and the card of a small LoopNet."""
    save(lively("loopnet"), card_of("loopnet", training={"steps": 3}, limits=("Nothing.",)), tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", NAMES)
def test_read_back_the_same(tmp_path, name):
    network = lively(name)
    card = save(network, card_of(name), tmp_path, half=False)
    back, read = load(name, tmp_path)
    assert read == card == read_card(name, tmp_path) == find_weights(name, tmp_path)
    assert card.parameters == sum(p.numel() for p in network.parameters())
    assert card.sha256 == hashlib.sha256(weight_path(name, tmp_path).read_bytes()).hexdigest()
    assert not back.training
    assert not any(p.requires_grad for p in back.parameters())
    for key, value in network.state_dict().items():
        assert torch.equal(back.state_dict()[key], value), key
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"{name}.json", f"{name}.safetensors"]


@pytest.mark.parametrize("name", NAMES)
def test_half_precision_is_for_kernels_only(tmp_path, name):
    network = lively(name)
    save(network, card_of(name), tmp_path / "half")
    save(network, card_of(name), tmp_path / "whole", half=False)
    sizes = [weight_path(name, tmp_path / kind).stat().st_size for kind in ("half", "whole")]
    assert sizes[0] < 0.75 * sizes[1]
    back, _ = load(name, tmp_path / "half")
    state = back.state_dict()
    assert all(value.dtype in (torch.float32, torch.int64) for value in state.values())
    for key, value in network.state_dict().items():
        if "running_" in key or "consistency" in key or value.numel() < 100:
            assert torch.equal(state[key], value), key
        else:
            torch.testing.assert_close(state[key], value, rtol=1e-3, atol=1e-6)


def test_a_tensor_that_a_network_holds_twice_is_stored_once(tmp_path):
    network = lively("pedqnet")  # MONAI's DynUNet names its layers twice
    state = network.state_dict()
    assert twins(state)
    card = save(network, card_of("pedqnet"), tmp_path, half=False)
    assert weight_path("pedqnet", tmp_path).stat().st_size < 4.1 * card.parameters + 20_000
    back, _ = load("pedqnet", tmp_path)
    assert all(torch.equal(value, state[key]) for key, value in back.state_dict().items())


def test_another_name_than_the_network(tmp_path):
    save(lively("loopnet"), card_of("loopnet"), tmp_path, name="loopnet_short")
    _, card = load("loopnet_short", tmp_path)
    assert card.network == "loopnet"


@pytest.mark.parametrize("suffix", [".safetensors", ".json"])
def test_missing(saved, suffix):
    (saved / f"loopnet{suffix}").unlink()
    for read in (load, find_weights):
        with pytest.raises(MissingFileError) as caught:
            read("loopnet", saved)
        assert caught.value.exit_code == 66
        assert caught.value.file == str(saved / f"loopnet{suffix}")
        assert "qsmprep-train loopnet" in caught.value.remedy


def test_truncated(saved):
    path = weight_path("loopnet", saved)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DataError, match="truncated") as caught:
        load("loopnet", saved)
    assert caught.value.exit_code == 65
    assert caught.value.file == str(path)


@pytest.mark.parametrize("content", [b"", b"weights", b"\xff" * 64, (10**12).to_bytes(8, "little") + b"{}"])
def test_no_safetensors(saved, content):
    weight_path("loopnet", saved).write_bytes(content)
    edit(saved / "loopnet.json", sha256=hashlib.sha256(content).hexdigest())
    with pytest.raises(DataError, match="safetensors"):
        load("loopnet", saved)


@pytest.mark.parametrize("version", [FORMAT + 1, 0, None, "1"])
def test_another_version(saved, version):
    edit(saved / "loopnet.json", format=version)
    with pytest.raises(DataError, match="format") as caught:
        load("loopnet", saved)
    assert f"format {FORMAT}" in caught.value.expected


@pytest.mark.parametrize(
    "values",
    [
        {"config": {"base": 8, "iterations": 2, "shuffle": 2}},
        {"config": {"base": 4, "iterations": 3, "shuffle": 2}},
        {"config": {"base": 4, "colour": 2}},
        {"config": {"base": "wide"}},
        {"network": "unet"},
        {"network": "magic"},
    ],
)
def test_tensors_that_do_not_fit(saved, values):
    edit(saved / "loopnet.json", **values)
    with pytest.raises(DataError, match="do not fit") as caught:
        load("loopnet", saved)
    assert caught.value.file == str(weight_path("loopnet", saved))


@pytest.mark.parametrize(
    "values",
    [
        {"network": 3},
        {"config": []},
        {"parameters": "many"},
        {"sha256": "abc"},
        {"limits": "none"},
        {"ranges": {}},
        {"ranges": {**RANGES, "slice_mm": [4.0, 0.4]}},
        {"ranges": {**RANGES, "tilt_deg": ["low", "high"]}},
        {"ranges": {**RANGES, "noise_ppm": 0.1}},
    ],
)
def test_a_card_that_is_none(saved, values):
    edit(saved / "loopnet.json", **values)
    with pytest.raises(DataError) as caught:
        read_card("loopnet", saved)
    assert caught.value.file == str(saved / "loopnet.json")


@pytest.mark.parametrize("text", ["", "{", "[]", "3"])
def test_a_card_that_is_no_json_object(saved, text):
    (saved / "loopnet.json").write_text(text)
    with pytest.raises(DataError):
        read_card("loopnet", saved)


def test_card_goes_to_json_and_back():
    card = dataclasses.replace(
        card_of("loopnet"), sha256="0" * 64, scores={"nrmse": 30.0}, limits=("One.", "Two."), training={"steps": 12}
    )
    assert parse_card(json.loads(card.to_json())) == card
    assert card.steps == 12
    assert card.code == "0" * 12
    assert dataclasses.replace(card, training={}).steps == 0


def test_too_large_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(weights, "MAX_BYTES", 1000)
    with pytest.raises(DataError, match="MiB"):
        save(lively("loopnet"), card_of("loopnet"), tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_weight_that_is_no_number(tmp_path):
    network = build("loopnet", {"base": 4})
    with torch.no_grad():
        network.head.weight[0, 0] = float("nan")
    with pytest.raises(DataError, match=r"head\.weight"):
        save(network, card_of("loopnet", {"base": 4}), tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(CannotWriteError) as caught:
        save(lively("loopnet"), card_of("loopnet"), tmp_path / "file")
    assert caught.value.exit_code == 73
