"""``qsmprep-train`` as it is run: with and without label maps, interrupted, resumed, exported, misused."""

from __future__ import annotations

import csv
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
import yaml

from qsmprep.cli.train import NETWORKS, Interrupt, Progress, build_parser, main
from qsmprep.networks.weights import load
from qsmprep.training.record import commit, hardware, without_folders

SHARED = Path(__file__).parents[2].parent / "shared" / "data" / "head-labels"

RECIPE = {
    "network": "metaqsm",
    "model": {"base": 4, "depth": 2, "basis": 2, "shuffle": 2},
    "patches": [[16, 16, 16]],
    "batch": 1,
    "steps": 3,
    "validate_every": 2,
    "precision": "float32",
    "hold_out": ["head_2", "training_seg_02"],
}


@pytest.fixture
def recipe(tmp_path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(RECIPE), encoding="utf-8")
    return path


@pytest.fixture
def nowhere(tmp_path, monkeypatch) -> Path:
    """A current folder beside which no label maps lie."""
    folder = tmp_path / "checkout" / "main"
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def heads(tmp_path) -> Path:
    """Two toy label maps."""
    folder = tmp_path / "heads"
    folder.mkdir()
    x, y, z = np.meshgrid(*3 * [np.linspace(-1, 1, 32)], indexing="ij")
    codes = np.select([x**2 + y**2 + z**2 < 0.2, x**2 + y**2 + z**2 < 0.6], [2, 3]).astype(np.int16)
    for name in ("head_1", "head_2"):
        nib.save(nib.Nifti1Image(codes, np.diag([3.0, 3.0, 3.0, 1.0])), folder / f"{name}.nii.gz")
    return folder


def command(*words: object) -> list[str]:
    return [sys.executable, "-m", "qsmprep.cli.train", *map(str, words)]


def run(*words: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "120"}
    return subprocess.run(
        command(*words), cwd=cwd, capture_output=True, text=True, env=environment, check=False, timeout=120
    )


def rows(out: Path) -> list[dict[str, str]]:
    with (out / "log.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_a_fresh_checkout_without_label_maps(tmp_path, nowhere, recipe):
    done = run(
        "metaqsm", "--config", recipe, "--device", "cpu", "--threads", 1, "--export", tmp_path / "w", cwd=nowhere
    )
    assert done.returncode == 0, done.stderr
    assert "random shapes only" in done.stdout
    assert "step 3/3" in done.stdout
    assert not done.stderr
    out = nowhere / "training" / "metaqsm"
    assert [row["step"] for row in rows(out)] == ["1", "2", "3"]
    record = json.loads((out / "run.json").read_text())
    assert record["recipe"] == "tiny.yaml"
    assert record["label_maps"] == record["held_out"] == record["chi_maps"] == []
    assert record["runs"][0]["command"].startswith("qsmprep-train metaqsm --config tiny.yaml")
    network, card = load("metaqsm", tmp_path / "w")
    assert card.steps == 3
    assert card.training["shapes"] == 1.0
    assert any("random shapes" in sentence for sentence in card.limits)
    kept = torch.load(out / "checkpoint.pt", weights_only=True)["average"]
    for key, value in network.state_dict().items():
        assert torch.allclose(value.float(), kept[key].float(), atol=1e-3, rtol=1e-3), key


@pytest.mark.skipif(not SHARED.is_dir(), reason="no shared label maps beside this checkout")
def test_label_maps_beside_the_checkout_are_found(nowhere, recipe):
    folder = nowhere.parent / "shared" / "data" / "head-labels"
    folder.mkdir(parents=True)
    for number in (1, 2):
        name = f"training_seg_{number:02d}.nii.gz"
        (folder / name).symlink_to(SHARED / name)
    done = run("metaqsm", "--config", recipe, "--steps", 2, "--out", "out", cwd=nowhere)
    assert done.returncode == 0, done.stderr
    assert "label maps: ../shared/data/head-labels" in done.stdout
    assert "1 label maps, and random shapes; validated with 1 label maps held out" in done.stdout
    assert "validation 0." in done.stdout or "validation 1." in done.stdout
    assert float(rows(nowhere / "out")[-1]["error_validation"]) > 0


def wait_for(process: subprocess.Popen[str], words: str) -> None:
    """Read what a process says until it says these words."""
    assert process.stdout is not None
    for line in process.stdout:
        if words in line:
            return
    pytest.fail(f"it ended with {process.wait()} and never said {words!r}")


def interrupted(cwd: Path, number: int, *words: object) -> tuple[int, str]:
    """Exit code and messages of a training of a million steps that is sent a signal after its first."""
    process = subprocess.Popen(
        command(*words, "--steps", 10**6),
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    try:
        wait_for(process, "step 1/1000000")
        process.send_signal(number)
        _, told = process.communicate(timeout=60)
    finally:
        process.kill()
    return process.returncode, told


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_run_goes_on(nowhere, recipe, number, code):
    words = ("metaqsm", "--config", recipe, "--out", "out")
    ended, told = interrupted(nowhere, number, *words)
    assert ended == code
    assert "stopping after this step" in told
    assert "the same command goes on" in told
    assert "Traceback" not in told
    step = torch.load(nowhere / "out" / "checkpoint.pt", weights_only=True)["step"]
    assert step == len(rows(nowhere / "out")) >= 1
    assert main([*map(str, words), "--steps", str(step + 2)]) == 0
    assert [int(row["step"]) for row in rows(nowhere / "out")] == list(range(1, step + 3))
    assert len(json.loads((nowhere / "out" / "run.json").read_text())["runs"]) == 2


def test_an_interrupted_training_says_how_its_checkpoint_is_exported(tmp_path, nowhere, recipe):
    """And that command, as it is printed, does so without a further step."""
    folder = tmp_path / "some weights"
    ended, told = interrupted(nowhere, signal.SIGINT, "metaqsm", "--config", recipe, "--out", "out", "--export", folder)
    assert ended == 130
    assert not folder.exists()
    line = next(line for line in told.splitlines() if "nothing was exported" in line)
    name, *words = shlex.split(line.partition("so far: ")[2])
    assert (name, words[-2:]) == ("qsmprep-train", ["--minutes", "0"])
    before = torch.load(nowhere / "out" / "checkpoint.pt", weights_only=True)
    assert main(words) == 0
    network, card = load("metaqsm", folder)
    assert card.steps == before["step"] == len(rows(nowhere / "out")) >= 1
    for key, value in network.state_dict().items():
        assert torch.allclose(value.float(), before["average"][key].float(), atol=1e-3, rtol=1e-3), key
    assert any(f"Stopped after {before['step']} of 1000000 steps" in sentence for sentence in card.limits)


def test_the_card_tells_what_was_done(tmp_path, nowhere, recipe, heads, capsys):
    words = ["metaqsm", "--config", str(recipe), "--labels", str(heads), "--out", str(tmp_path / "deep" / "out")]
    assert main([*words, "--steps", "2"]) == 0
    assert main([*words, "--minutes", "0", "--export", str(tmp_path / "w"), "--export-name", "meta-tiny", "--no-half",
                 "--description", "by hand / alone"]) == 0  # fmt: skip
    told = capsys.readouterr().out
    assert "time is up at step 2 of 3; the same command goes on" in told
    network, card = load("meta-tiny", tmp_path / "w")
    assert (card.network, card.title, card.config) == ("metaqsm", "Meta-QSM", RECIPE["model"])
    training = card.training
    assert training["data"] == {"label_maps": ["head_1"], "held_out": ["head_2"], "chi_maps": []}
    assert training["command"] == "qsmprep-train metaqsm --config tiny.yaml --labels heads --out out --steps 2"
    assert training["further_commands"][0].endswith("--description 'by hand / alone'")
    assert (training["steps"], training["steps_planned"], training["batch"]) == (2, 3, 1)
    assert training["description"] == "by hand / alone"
    assert training["hardware"] == hardware("cpu")
    assert training["validation_error"] == pytest.approx(
        float(rows(tmp_path / "deep" / "out")[1]["error_validation"]), abs=1e-3
    )
    assert training["minutes"] >= 0
    assert card.ranges["in_plane_mm"] == (0.4, 1.3)
    assert any("2 of 3 steps" in sentence for sentence in card.limits)
    assert str(tmp_path) not in card.to_json()
    kept = torch.load(tmp_path / "deep" / "out" / "checkpoint.pt", weights_only=True)["average"]
    assert all(torch.equal(value, kept[key]) for key, value in network.state_dict().items())  # --no-half


def test_a_training_can_be_finished_by_the_end_of_its_time(tmp_path, nowhere, recipe):
    recipe.write_text(yaml.safe_dump({**RECIPE, "warmup": 1, "decay": 0.9}), encoding="utf-8")
    words = ["metaqsm", "--config", str(recipe), "--steps", "1000000", "--minutes", "0.05", "--export"]
    assert main([*words, str(tmp_path / "part"), "--out", "part"]) == 0
    assert main([*words, str(tmp_path / "whole"), "--out", "whole", "--finish"]) == 0
    part, whole = (load("metaqsm", tmp_path / name)[1] for name in ("part", "whole"))
    for card in (part, whole):
        assert 0 < card.steps < card.training["steps_planned"] == 1000000
    assert any("Stopped after" in sentence for sentence in part.limits)
    assert not any("Stopped after" in sentence for sentence in whole.limits)
    assert len(whole.limits) == len(part.limits) - 1
    first, last = (float(rows(nowhere / "whole")[index]["learning_rate"]) for index in (0, -1))
    assert last < 0.3 * first


def test_a_checkpoint_without_a_record_is_told_as_the_command_that_makes_it(tmp_path, nowhere, recipe):
    words = ["metaqsm", "--config", str(recipe), "--out", "out"]
    assert main(words) == 0
    (nowhere / "out" / "run.json").unlink()
    assert main([*words, "--export", str(tmp_path / "w")]) == 0
    training = load("metaqsm", tmp_path / "w")[1].training
    assert training["command"] == "qsmprep-train metaqsm --config tiny.yaml"
    assert training["hardware"] == hardware("cpu")
    assert training["steps"] == 3


def test_a_susceptibility_map_of_the_user(tmp_path, nowhere, recipe):
    x, y, z = np.meshgrid(*3 * [np.linspace(-1, 1, 32)], indexing="ij")
    chi = np.where(x > 0, 0.2, 0.1) * (x**2 + y**2 + z**2 < 0.9)
    nib.save(nib.Nifti1Image(chi.astype(np.float32), np.eye(4)), tmp_path / "mine.nii.gz")
    assert main(["metaqsm", "--config", str(recipe), "--steps", "1", "--chi", str(tmp_path / "mine.nii.gz")]) == 0
    assert json.loads((nowhere / "training" / "metaqsm" / "run.json").read_text())["chi_maps"] == ["mine"]


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["unknown"], 2, "one of conenet, loopnet"),
        (["metaqsm", "--steps", "0"], 2, "`--steps` is 0"),
        (["metaqsm", "--threads", "0"], 2, "`--threads` is 0"),
        (["metaqsm", "--seed", "-1"], 2, "`--seed` is -1"),
        (["metaqsm", "--minutes", "nan"], 2, "`--minutes` is nan"),
        (["metaqsm", "--finish"], 2, "`--finish` says to be done in time, but no time is given"),
        (["metaqsm", "--export-name", "a/b"], 2, "`--export-name` is 'a/b'"),
        (["metaqsm", "--device", "tpu"], 2, "`--device` is 'tpu'"),
        (["metaqsm", "--config", "absent"], 66, "a shipped recipe"),
        (["loopnet", "--config", "RECIPE"], 2, "the configuration is for metaqsm"),
        (["metaqsm", "--config", "RECIPE", "--labels", "absent"], 66, "no such folder"),
        (["metaqsm", "--config", "RECIPE", "--labels", "."], 66, "holds no image"),
        (["metaqsm", "--config", "RECIPE", "--chi", "absent.nii"], 66, "no such susceptibility map"),
        (["metaqsm", "--config", "RECIPE", "--chi", "RECIPE"], 65, "cannot be read"),
        (["metaqsm", "--config", "RECIPE", "--out", "RECIPE"], 73, "cannot be made"),
        (["metaqsm", "--config", "RECIPE", "--minutes", "0", "--export", "w"], 65, "no step was trained"),
    ],
)
def test_misuse_is_said_in_one_line(nowhere, recipe, capsys, words, code, said):
    assert main([str(recipe) if word == "RECIPE" else word for word in words]) == code
    told = capsys.readouterr().err
    assert said in told
    assert told.startswith("qsmprep-train: ")
    assert told.count("\n") == 1


def test_a_training_does_not_change_its_maps_or_its_configuration(nowhere, recipe, heads, capsys):
    words = ["metaqsm", "--config", str(recipe), "--steps", "1"]
    assert main(words) == 0
    assert main([*words, "--labels", str(heads)]) == 65
    assert "begun with other maps (label maps, held out)" in capsys.readouterr().err
    assert main([*words, "--seed", "7"]) == 65
    assert "another configuration (seed)" in capsys.readouterr().err
    (nowhere / "training" / "metaqsm" / "checkpoint.pt").write_bytes(b"")
    assert main(words) == 65
    assert "remove it to begin anew" in capsys.readouterr().err
    (nowhere / "training" / "metaqsm" / "checkpoint.pt").unlink()
    assert main([*words, "--labels", str(heads)]) == 0  # anew


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written(nowhere, recipe, capsys):
    nowhere.chmod(0o500)
    assert main(["metaqsm", "--config", str(recipe)]) == 73
    nowhere.chmod(0o700)


def test_memory_that_does_not_suffice(nowhere, recipe, capsys, tmp_path):
    """A patch of a petabyte: the allocator's own refusal."""
    recipe.write_text(yaml.safe_dump({**RECIPE, "patches": [[65536, 65536, 65536]]}), encoding="utf-8")
    assert main(["metaqsm", "--config", str(recipe)]) == 75
    assert "lower `batch` or `patches`" in capsys.readouterr().err


def test_the_help_names_every_network():
    text = build_parser().format_help()
    assert all(name in text for name in NETWORKS)


@pytest.fixture
def interruptible():
    """Ctrl-C as in a terminal: a run in the background may begin with the signal ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_a_second_signal_ends_at_once(interruptible):
    with Interrupt() as interrupt:
        os.kill(os.getpid(), signal.SIGINT)
        deadline = time.monotonic() + 5
        while interrupt.code is None and time.monotonic() < deadline:
            time.sleep(0.01)
        assert interrupt.code == 130
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(5)  # a busy machine may bring the signal late; it ends the wait
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_terminal_sees_a_bar(monkeypatch, capsys):
    for name, value in (("FORCE_COLOR", "1"), ("TERM", "xterm"), ("COLUMNS", "120")):
        monkeypatch.setenv(name, value)
    with Progress(4, 10.0, time.monotonic()) as progress:
        for step in (1, 2, 3, 4):
            progress(step, {"loss": 2.0, **({"error_validation": 0.5} if step > 2 else {})})
    told = capsys.readouterr().out
    assert "4/4" in told
    assert "loss 2.000  validation 0.500  done" in told


def test_time_left_is_the_shorter_of_both(monkeypatch, capsys):
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    progress = Progress(1000, 2.0, time.monotonic() - 90.0)
    progress.begun -= 60.0
    progress(10, {"loss": 1.0})  # one step in a minute: 990 minutes for the rest, but half of one is left
    assert "0.5 min left" in capsys.readouterr().out


def test_an_export_of_a_checkpoint_reads_no_maps(tmp_path, nowhere, recipe, heads):
    """And a training does."""
    words = ["metaqsm", "--config", str(recipe), "--labels", str(heads), "--out", "out"]
    assert main([*words, "--steps", "1"]) == 0
    for file in heads.iterdir():
        file.write_bytes(b"no image")
    assert main([*words, "--minutes", "0", "--export", str(tmp_path / "w")]) == 0
    assert load("metaqsm", tmp_path / "w")[1].training["data"]["held_out"] == ["head_2"]
    assert main(words) == 65


def test_reading_maps_counts_and_making_scans_does_not(nowhere, recipe, heads, monkeypatch):
    """On a clock by which either takes an hour."""
    from qsmprep.training import loop, material

    ahead, told = [0.0], []
    now, gather = time.monotonic, material.gather

    def hour(*words, **more):
        ahead[0] += 3600.0
        return gather(*words, **{**more, "heads": False})

    def scans(found, *words, **more):
        ahead[0] += 3600.0
        return found

    monkeypatch.setattr(time, "monotonic", lambda: now() + ahead[0])
    monkeypatch.setattr(material, "gather", hour)
    monkeypatch.setattr(material, "with_scans", scans)
    train = loop.train

    def spy(*words, since, **more):
        told.append(time.monotonic() - since)
        return train(*words, **more)

    monkeypatch.setattr(loop, "train", spy)
    recipe.write_text(yaml.safe_dump({**RECIPE, "scans": {"count": 1, "chance": 0.1}}), encoding="utf-8")
    assert main(["metaqsm", "--config", str(recipe), "--labels", str(heads), "--out", "out", "--steps", "1"]) == 0
    assert told == [pytest.approx(3600.0, abs=60.0)]


def test_published_commands_hold_no_folders():
    words = [
        "qsmprep-train",
        "a",
        "--out",
        "/x/y/z",
        "--config=/x/c.yaml",
        "--labels",
        "../l",
        "--description",
        "a/b c",
    ]
    assert without_folders(words) == "qsmprep-train a --out z --config=c.yaml --labels l --description 'a/b c'"


def test_the_commit_is_that_of_this_checkout():
    found = commit()
    if found is None:
        pytest.skip("not a git checkout")
    head = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True, check=True
    )
    assert head.stdout.startswith(found.rstrip("+"))
