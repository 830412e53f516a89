"""The loop: it learns, it can be stopped and go on as if nothing had happened, it refuses what does not fit."""

from __future__ import annotations

import csv
import dataclasses
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from training_cases import tiny, write_heads

from qsmprep.errors import CannotWriteError, DataError, MissingFileError, QSMPrepError
from qsmprep.networks.card import Card
from qsmprep.networks.weights import save
from qsmprep.training import loop
from qsmprep.training.config import TrainParams
from qsmprep.training.export import ranges
from qsmprep.training.loop import CHECKPOINT, LOG, State, advance, begin, follow, learning_rate, train
from qsmprep.training.material import gather
from qsmprep.training.sample import Sources

NOTHING = Sources()

SMALL = {
    "metaqsm": {},
    "loopnet": {"model": {"base": 4, "shuffle": 1, "iterations": 2}, "patches": [[32, 16, 16]]},
    "conenet": {"model": {"base": 4, "depth": 2, "shuffle": 2, "guided": True}, "patches": [[16, 16, 16]]},
    "qsminvnet": {"model": {"base": 4}, "patches": [[16, 16, 16]], "batch": 2, "physics_weight": 0.3},
}


def tensors(state: State) -> dict[str, torch.Tensor]:
    both = (("now", state.network), ("mean", state.average))
    return {f"{name}.{key}": value for name, network in both for key, value in network.state_dict().items()}


def same(one: State, other: State) -> bool:
    a, b = tensors(one), tensors(other)
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def rows(out: Path) -> list[dict[str, str]]:
    with (out / LOG).open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def until(step: int, asked: list[int]):
    """A wish to stop after so many steps."""

    def stop() -> bool:
        asked.append(1)
        return len(asked) > step

    return stop


@pytest.mark.parametrize(
    ("network", "reuse"),
    [("metaqsm", 1), ("loopnet", 1), ("conenet", 1), ("conenet", 3), ("qsminvnet", 1), ("qsminvnet", 3)],
)
def test_going_on_gives_the_very_same_weights(tmp_path, network, reuse):
    params = tiny(network=network, **SMALL[network], reuse=reuse, steps=5)
    whole = train(params, NOTHING, NOTHING, tmp_path / "whole")
    part = train(params, NOTHING, NOTHING, tmp_path / "parts", stop=until(2, []))
    assert (part.step, whole.step) == (2, 5)
    assert not same(part, whole)
    parts = train(params, NOTHING, NOTHING, tmp_path / "parts")
    assert parts.step == 5
    assert same(parts, whole)
    assert [row["step"] for row in rows(tmp_path / "parts")] == ["1", "2", "3", "4", "5"]
    losses = [[row["loss"] for row in rows(tmp_path / name)] for name in ("whole", "parts")]
    assert losses[0] == losses[1]


def test_time_is_up_at_once_and_nothing_is_lost(tmp_path):
    state = train(tiny(), NOTHING, NOTHING, tmp_path, minutes=0.0)
    assert state.step == 0
    assert same(train(tiny(), NOTHING, NOTHING, tmp_path), train(tiny(), NOTHING, NOTHING, tmp_path / "other"))


def test_the_learning_rate_comes_down_by_the_end_of_the_time(tmp_path, monkeypatch):
    """On a clock by which every step takes six seconds."""
    now = [0.0]
    monkeypatch.setattr(loop, "time", SimpleNamespace(monotonic=lambda: now[0]))

    def report(step: int, row: dict[str, float]) -> None:
        now[0] += 6.0

    params = tiny(steps=1000, warmup=1, decay=0.5)
    state = train(params, NOTHING, NOTHING, tmp_path, minutes=1.0, finish=True, report=report)
    assert state.step == 10
    rates = [float(row["learning_rate"]) for row in rows(tmp_path)]
    assert rates == pytest.approx([learning_rate(params, 0, step / 10) for step in range(10)], rel=1e-4)
    assert rates[5] > 5 * rates[9]
    assert state.optimiser.param_groups[0]["lr"] == pytest.approx(rates[9], rel=1e-4)
    train(params, NOTHING, NOTHING, tmp_path, minutes=0.5, report=report)  # not to be finished
    rates = [float(row["learning_rate"]) for row in rows(tmp_path)]
    assert rates[10:] == pytest.approx([params.learning_rate] * 5)


def test_minutes_count_from_when_the_caller_says(tmp_path, monkeypatch):
    """Reading maps and drawing what is validated with take their part; a step is taken all the same."""
    now = [1000.0]
    monkeypatch.setattr(loop, "time", SimpleNamespace(monotonic=lambda: now[0]))

    def report(step: int, row: dict[str, float]) -> None:
        now[0] += 6.0

    words = {"minutes": 1.0, "finish": True, "report": report}
    assert train(tiny(steps=1000), NOTHING, NOTHING, tmp_path / "a", since=1000.0 - 42.0, **words).step == 3
    assert train(tiny(steps=1000), NOTHING, NOTHING, tmp_path / "a", since=1000.0 - 42.0, **words).step == 4
    now[0] = 1000.0
    late = train(tiny(steps=1000), NOTHING, NOTHING, tmp_path / "b", since=1000.0 - 99.0, **words)
    assert late.step == 1
    assert late.share == 1.0


def test_the_physics_of_the_target_comes_in_with_the_steps_or_the_time():
    params = tiny(network="qsminvnet", **SMALL["qsminvnet"], steps=1000)

    def loss(share: float, step: int = 0) -> float:
        state = begin(params, "cpu")
        state.share, state.step = share, step
        return advance(params, state, NOTHING, low=False)[0]

    none, half, full = loss(0.0), loss(0.25), loss(0.5)
    assert none < half < full
    assert half == pytest.approx((none + full) / 2, rel=1e-3)
    assert full == pytest.approx(loss(1.0)) == pytest.approx(loss(0.0, step=500))


def test_a_finished_run_stays_finished(tmp_path):
    first = train(tiny(), NOTHING, NOTHING, tmp_path)
    again = train(tiny(), NOTHING, NOTHING, tmp_path)
    assert again.step == first.step == 4
    assert same(first, again)
    longer = train(tiny(steps=6), NOTHING, NOTHING, tmp_path)
    assert longer.step == 6


def test_the_seed_decides_everything(tmp_path):
    one, again, other = (
        train(tiny(seed=seed, steps=2), NOTHING, NOTHING, tmp_path / name)
        for name, seed in (("a", 1), ("b", 1), ("c", 2))
    )
    assert same(one, again)
    assert not same(one, other)


def test_validation_is_logged_and_draws_nothing(tmp_path):
    """Held-out maps are looked at, and leave the training as it is."""
    found = gather(write_heads(tmp_path / "heads"), [], ("head_2",))
    with_them = train(tiny(), found.sources, found.held, tmp_path / "with")
    without = train(tiny(), found.sources, NOTHING, tmp_path / "without")
    assert same(with_them, without)
    scores = [row["error_validation"] for row in rows(tmp_path / "with")]
    assert [bool(score) for score in scores] == [False, True, False, True]
    assert all(0 < float(score) < 3 for score in scores if score)
    assert not any(row["error_validation"] for row in rows(tmp_path / "without"))


def test_the_average_follows_slowly():
    params = tiny(ema=0.9, network="conenet", **SMALL["conenet"])
    state = begin(params, "cpu")
    state.step = 1000  # past the start, where the average follows faster
    before = [parameter.clone() for parameter in state.average.parameters()]
    advance(params, state, NOTHING, low=False)
    now = list(state.network.parameters())
    for old, mean, new in zip(before, state.average.parameters(), now, strict=True):
        assert torch.allclose(mean, 0.9 * old + 0.1 * new, atol=1e-6)
    assert not any(parameter.requires_grad for parameter in state.average.parameters())


def test_training_reduces_the_error(tmp_path):
    """On simple samples, so that it shows after a few steps."""
    easy = {
        "chi": {"lesion_chance": 0.0, "texture_ppm": 0.01},
        "geometry": {"fixed_mm": [1.0, 1.0, 1.0], "tilt_deg": 0.0},
        "field": {"noise_ppm": [0.001, 0.0011], "mismatch_chance": 0.0, "erosion": 1},
    }
    params: TrainParams = tiny(steps=60, warmup=5, learning_rate=0.01, batch=2, sample=easy)
    train(params, NOTHING, NOTHING, tmp_path)
    errors = [float(row["error_train"]) for row in rows(tmp_path)]
    assert sum(errors[-15:]) < 0.9 * sum(errors[:15])


@pytest.mark.parametrize(
    "change", [{"seed": 5}, {"batch": 2}, {"sample": {"shapes": 0.5}}, {"patches": [[16, 16, 16]]}]
)
def test_another_configuration_does_not_go_on(tmp_path, change):
    train(tiny(steps=1), NOTHING, NOTHING, tmp_path)
    with pytest.raises(DataError, match=f"another configuration \\({next(iter(change))}\\)"):
        train(tiny(steps=1, **change), NOTHING, NOTHING, tmp_path)


def test_a_checkpoint_from_before_an_entry_existed_goes_on(tmp_path):
    train(tiny(steps=1), NOTHING, NOTHING, tmp_path)
    content = torch.load(tmp_path / CHECKPOINT, weights_only=True)
    del content["params"]["reuse"], content["params"]["sample"]["chi"]["lesion_ppm"]
    torch.save(content, tmp_path / CHECKPOINT)
    with pytest.raises(DataError, match="another configuration"):
        train(tiny(steps=1, sample={"chi": {"lesion_ppm": 1.0}}), NOTHING, NOTHING, tmp_path)
    with pytest.raises(DataError, match="another configuration"):
        train(tiny(steps=1, model={"base": 4}), NOTHING, NOTHING, tmp_path)
    assert train(tiny(steps=2), NOTHING, NOTHING, tmp_path).step == 2


@pytest.mark.parametrize("harm", ["cut short", "empty", "text", "other weights", "no weights"])
def test_broken_checkpoints_are_refused(tmp_path, harm):
    train(tiny(steps=1), NOTHING, NOTHING, tmp_path)
    path = tmp_path / CHECKPOINT
    if harm in ("other weights", "no weights"):
        content = torch.load(path, weights_only=True)
        if harm == "other weights":
            content["network"] = {f"old.{key}": value for key, value in content["network"].items()}
        else:
            del content["network"]
        torch.save(content, path)
    else:
        data = {"cut short": path.read_bytes()[:-2000], "empty": b"", "text": b"a checkpoint"}
        path.write_bytes(data[harm])
    with pytest.raises(DataError, match="checkpoint") as caught:
        train(tiny(steps=2), NOTHING, NOTHING, tmp_path)
    assert caught.value.file == str(path)
    assert caught.value.remedy


def test_a_checkpoint_that_cannot_be_written_leaves_the_last_one(tmp_path):
    train(tiny(steps=1), NOTHING, NOTHING, tmp_path)
    before = (tmp_path / CHECKPOINT).read_bytes()
    (tmp_path / f"{CHECKPOINT}.part").mkdir()
    with pytest.raises(CannotWriteError, match="checkpoint"):
        train(tiny(steps=2), NOTHING, NOTHING, tmp_path)
    assert (tmp_path / CHECKPOINT).read_bytes() == before


def test_divergence_is_said(tmp_path):
    params = tiny(network="conenet", **SMALL["conenet"], learning_rate=1e20, warmup=1, steps=100, clip=1e30)
    with pytest.raises(QSMPrepError, match="diverged") as caught:
        train(params, NOTHING, NOTHING, tmp_path)
    assert caught.value.exit_code == 1
    assert len(rows(tmp_path)) < 60


def test_bfloat16_learns_as_well(tmp_path):
    low, high = (train(tiny(precision=p), NOTHING, NOTHING, tmp_path / p) for p in ("bfloat16", "float32"))
    assert not same(low, high)
    for value in tensors(low).values():
        assert torch.isfinite(value).all()
        assert value.dtype in (torch.float32, torch.int64)


def test_training_can_begin_with_weights(tmp_path):
    params = tiny(network="metaqsm")
    before = begin(params, "cpu")
    with torch.no_grad():
        before.average.head.bias.bias.fill_(0.7)
    card = Card("metaqsm", "Meta-QSM", params.model, ranges(params))
    save(before.average, card, tmp_path, half=False)
    after = begin(dataclasses.replace(params, seed=99, start=str(tmp_path / "metaqsm")), "cpu")
    assert all(torch.equal(a, b) for a, b in zip(after.network.parameters(), before.average.parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b in zip(after.average.parameters(), before.average.parameters(), strict=True))
    with pytest.raises(DataError, match="cannot begin"):
        begin(dataclasses.replace(params, model={**params.model, "base": 8}, start=str(tmp_path / "metaqsm")), "cpu")


def test_weights_can_begin_a_network_that_separates(tmp_path):
    params = tiny(network="conenet", **SMALL["conenet"])
    before = begin(params, "cpu").network
    save(before, Card("conenet", "ConeNet", params.model, ranges(params)), tmp_path, half=False)

    def start(**model: object) -> State:
        how = dataclasses.replace(params, model={**params.model, **model}, seed=99, start=str(tmp_path / "conenet"))
        return begin(how, "cpu")

    after = start(separate=True)
    for network in (after.network, after.average):
        now = network.state_dict()
        new = now.keys() - before.state_dict().keys()
        assert new == {"leftover.weight", "leftover.bias"}
        assert not any(now[key].any() for key in new)
        assert all(torch.equal(now[key], value) for key, value in before.state_dict().items())
    with pytest.raises(DataError, match=r"cannot begin .* they are of conenet"):
        start(separate=True, base=8)


def test_a_checkpoint_goes_on_without_the_weights_that_it_began_with(tmp_path):
    params = tiny(network="conenet", **SMALL["conenet"], steps=2)
    save(begin(params, "cpu").network, Card("conenet", "ConeNet", params.model, ranges(params)), tmp_path)
    params = dataclasses.replace(params, start=str(tmp_path / "conenet"))
    train(params, NOTHING, NOTHING, tmp_path / "run")
    (tmp_path / "conenet.json").unlink()
    (tmp_path / "conenet.safetensors").unlink()
    further = dataclasses.replace(params, steps=4)
    assert train(further, NOTHING, NOTHING, tmp_path / "run").step == 4
    with pytest.raises(MissingFileError):
        train(further, NOTHING, NOTHING, tmp_path / "another")


def test_weights_begin_a_network_of_more_passes_and_one_with_a_fine_stage(tmp_path):
    params = tiny(network="conenet", **SMALL["conenet"])
    model = {**params.model, "iterations": 1}
    before = begin(dataclasses.replace(params, model=model), "cpu").network
    save(before, Card("conenet", "ConeNet", model, ranges(params)), tmp_path, half=False)
    for change in ({"iterations": 3}, {"iterations": 1, "fine": 4}):
        how = dataclasses.replace(params, model={**model, **change}, seed=99, start=str(tmp_path / "conenet"))
        now = begin(how, "cpu").network.state_dict()
        assert all(torch.equal(now[key], value) for key, value in before.state_dict().items())
        assert all(key.startswith("fine.") for key in now.keys() - before.state_dict().keys())


def test_weights_of_loopnet_begin_no_other_number_of_passes(tmp_path):
    """Every pass has statistics of its own."""
    params = tiny(network="loopnet", **SMALL["loopnet"])
    save(begin(params, "cpu").network, Card("loopnet", "LoopNet", params.model, ranges(params)), tmp_path)
    how = dataclasses.replace(params, start=str(tmp_path / "loopnet"))
    begin(how, "cpu")
    with pytest.raises(DataError, match=r"cannot begin .* they are of loopnet .*'iterations': 2"):
        begin(dataclasses.replace(how, model={**params.model, "iterations": 3}), "cpu")


def test_weights_of_another_size_begin_nothing(tmp_path):
    """Where no entry that both have tells them apart, and where the weights are of the larger network."""
    params = tiny(network="conenet", model={"base": 4, "depth": 2}, patches=[[16, 16, 16]])
    for name, model in (("plain", params.model), ("larger", {**params.model, "separate": True})):
        card = Card("conenet", "ConeNet", model, ranges(params))
        save(begin(dataclasses.replace(params, model=model), "cpu").network, card, tmp_path, name=name)
    guided = {**params.model, "guided": True}
    with pytest.raises(DataError, match=r"cannot begin .*plain: size mismatch for entry.weight"):
        begin(dataclasses.replace(params, model=guided, start=str(tmp_path / "plain")), "cpu")
    with pytest.raises(DataError, match=r"cannot begin .*larger: they are of conenet"):
        begin(dataclasses.replace(params, start=str(tmp_path / "larger")), "cpu")


def test_averages_follow_weights_and_statistics():
    network, average = (torch.nn.Sequential(torch.nn.Conv3d(1, 2, 1), torch.nn.BatchNorm3d(2)) for _ in range(2))
    before = {key: value.clone() for key, value in average.state_dict().items()}
    network(torch.randn(2, 1, 4, 4, 4) * 3 + 5)
    follow(average, network, 0.75)
    for key, now in network.state_dict().items():
        wanted = now if not now.is_floating_point() else 0.75 * before[key] + 0.25 * now
        torch.testing.assert_close(average.state_dict()[key], wanted)
    assert not torch.equal(network[1].running_mean, before["1.running_mean"])
