"""Giving steps to processes: one is sent ahead, none runs too many, and files are hashed once."""

from __future__ import annotations

import os
import signal
import threading
import time
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import pytest
from nipype.interfaces.base import traits
from nipype.pipeline.engine import Node, Workflow

from qsmprep.cli.parser import parse_settings
from qsmprep.interfaces import base, usage
from qsmprep.interfaces.hashing import content_hash
from qsmprep.workflows import engine

N_STEPS = 6
CRASHES = 99


class NapInputSpec(base.StepInputSpec):
    """How long, and which one."""

    seconds = traits.Float(mandatory=True)
    number = traits.Int(mandatory=True)
    use_gpu = traits.Bool(False, usedefault=True)


class Nap(base.Step):
    """Sleeps, and leaves when it did so and in which process."""

    input_spec = NapInputSpec

    def compute(self, folder):
        """Sleep."""
        (folder / "pid").write_text(str(os.getpid()))
        begun = time.time()
        if self.inputs.number == CRASHES:
            raise ValueError("as told")
        time.sleep(self.inputs.seconds)
        (folder / "times").write_text(f"{begun} {time.time()}")
        return {}


class LoneNap(Nap):
    """In a process of its own."""

    apart = True


@pytest.fixture
def naps(tmp_path):
    """A graph of steps that need nothing of each other, and settings for two processes."""

    def make(seconds, *words, gpu=False, lone=()):
        said = [str(tmp_path / "raw"), str(tmp_path / "out"), "participant", "--nprocs", "2", "--omp-nthreads", "1"]
        (tmp_path / "raw").mkdir()
        settings = parse_settings([*said, *words])
        engine.configure_nipype(settings, tmp_path)
        graph = Workflow("naps", base_dir=str(tmp_path / "work"))
        kinds = [LoneNap if i in lone else Nap for i in range(N_STEPS)]
        steps = [kind(seconds=seconds, number=i, use_gpu=gpu and i == N_STEPS - 1) for i, kind in enumerate(kinds)]
        graph.add_nodes([Node(step, f"nap{i}", mem_gb=0.1) for i, step in enumerate(steps)])
        return graph, settings

    return make


@pytest.fixture
def sent(monkeypatch):
    """How many steps were with the processes when another one was sent."""
    seen, real = [], engine.WatchedMultiProc._submit_job

    def submit(self, *words, **named):
        seen.append(len(self.pending_tasks))
        return real(self, *words, **named)

    monkeypatch.setattr(engine.WatchedMultiProc, "_submit_job", submit)
    return seen


def test_one_step_is_sent_ahead_and_none_runs_too_many(tmp_path, naps, sent):
    graph, settings = naps(0.3)
    ended = []
    outcome = engine.execute(graph, settings, lambda step: ended.append(step))
    assert {step.status for step in outcome.steps.values()} == {"end"}
    assert sent == [0, 1, 2, 2, 2, 2]
    times = [tuple(map(float, path.read_text().split())) for path in (tmp_path / "work").rglob("times")]
    assert len(times) == N_STEPS
    assert max(sum(begun <= moment < end for begun, end in times) for moment, _ in times) == 2
    for step in ended:  # the time of the step itself, not that which it waited for a process
        assert step.seconds == usage.read_seconds(step.folder) >= 0.3


@pytest.mark.parametrize(("words", "gpu"), [(("--stop-on-first-crash",), False), ((), True)])
def test_none_is_sent_ahead_where_it_would_be_in_the_way(naps, sent, words, gpu):
    """Of an end at the first crash, or of a step for a GPU that must wait for its slot."""
    graph, settings = naps(0.0, *words, gpu=gpu)
    engine.execute(graph, settings, lambda step: None)
    assert len(sent) == N_STEPS
    assert max(sent) == 1


def test_only_single_threads_are_sent_ahead(naps):
    graph, settings = naps(0.0)
    plugin = engine._plugin(settings, lambda *_: None)
    try:
        plugin.procs = [graph.get_node(name) for name in graph.list_node_names()]
        free = [plugin._check_resources([(i, i) for i in range(n)])[1] for n in range(4)]
        assert free == [2, 1, 1, 0]
        plugin.procs[0]._n_procs = 2  # it fills both by itself: one more would run beside it
        assert plugin._check_resources([(0, 0)])[1] == 0
    finally:
        plugin.pool.shutdown()


def pids_of(folder):
    return {path.parent.name: int(path.read_text()) for path in folder.rglob("pid")}


def alive(pids):
    """Which of them are still there after at most some seconds."""
    limit = time.monotonic() + 10
    while (found := [pid for pid in pids if Path(f"/proc/{pid}").exists()]) and time.monotonic() < limit:
        time.sleep(0.05)
    return found


@pytest.mark.parametrize("lone", [(0, 1), (0,), (2, 3), (1, 5)])
def test_what_no_other_step_needs_goes_with_its_process(tmp_path, naps, lone):
    """A step apart has a process of its own that ends with it; the others share theirs. Never do more run than may."""
    graph, settings = naps(0.4, lone=lone)
    outcome = engine.execute(graph, settings, lambda step: None)
    assert {step.status for step in outcome.steps.values()} == {"end"}
    pids = pids_of(tmp_path / "work")
    own = [pids.pop(f"nap{i}") for i in lone]
    assert len(set(own)) == len(lone) and not set(own) & set(pids.values())
    assert len(set(pids.values())) <= 2
    assert not alive(own)
    times = [tuple(map(float, path.read_text().split())) for path in (tmp_path / "work").rglob("times")]
    assert max(sum(begun <= moment < end for begun, end in times) for moment, _ in times) == 2


@pytest.mark.parametrize("which", ["nap0", "other"])
def test_a_step_that_is_killed_ends_those_apart_too(tmp_path, naps, which):
    graph, settings = naps(30.0, lone=(0,))

    def kill():
        limit = time.monotonic() + 60
        while len(found := pids_of(tmp_path / "work")) < 2 and time.monotonic() < limit:
            time.sleep(0.05)
        time.sleep(0.5)
        os.kill(found["nap0"] if which == "nap0" else next(p for n, p in found.items() if n != "nap0"), signal.SIGKILL)

    threading.Thread(target=kill).start()
    outcome = engine.execute(graph, settings, lambda step: None)
    assert outcome.out_of_memory
    pids = pids_of(tmp_path / "work")
    assert "nap0" in pids and len(pids) == 2
    assert {step.name for step in outcome.steps.values() if step.killed} == {f"naps.{name}" for name in pids}
    assert not alive(pids.values())


def test_a_step_apart_comes_to_its_end_where_another_crashes(tmp_path, naps):
    graph, settings = naps(2.0, "--stop-on-first-crash", lone=(0,))
    graph.get_node("nap1").inputs.number = CRASHES
    engine.execute(graph, settings, lambda step: None)
    assert len(list((tmp_path / "work").rglob("nap0/times"))) == 1
    assert not alive(pids_of(tmp_path / "work").values())


def test_only_steps_that_had_begun_are_named_when_a_worker_is_killed(tmp_path, naps, sent):
    graph, settings = naps(30.0)
    for number in range(N_STEPS):  # what an earlier kill left
        folder = tmp_path / "work" / "naps" / f"nap{number}"
        folder.mkdir(parents=True)
        (folder / "_0xdeadbeef_unfinished.json").touch()

    def kill():
        limit = time.monotonic() + 60
        while len(found := list((tmp_path / "work").rglob("pid"))) < 2 and time.monotonic() < limit:
            time.sleep(0.05)
        time.sleep(0.5)
        os.kill(int(found[0].read_text()), signal.SIGKILL)

    threading.Thread(target=kill).start()
    outcome = engine.execute(graph, settings, lambda step: None)
    assert outcome.out_of_memory
    assert sent == [0, 1, 2], "one was sent ahead"
    begun = {f"naps.{path.parent.name}" for path in (tmp_path / "work").rglob("pid")}
    assert len(begun) == 2
    assert {step.name for step in outcome.steps.values() if step.killed} == begun
    assert {step.name: step.status for step in outcome.steps.values()} == {
        name: "exception" if name in begun else "waiting" for name in outcome.steps
    }


class TestHashes:
    """Of the files that are inputs of a step."""

    def test_they_follow_the_contents(self, tmp_path):
        path = tmp_path / "a.nii"
        path.write_bytes(b"one")
        first = content_hash(str(path))
        (tmp_path / "b.nii").write_bytes(b"one")
        assert content_hash(str(tmp_path / "b.nii")) == first
        path.write_bytes(b"longer")
        assert content_hash(str(path)) != first
        replaced = tmp_path / "new"
        replaced.write_bytes(b"two")
        os.utime(replaced, ns=(1, 1))
        os.utime(tmp_path / "b.nii", ns=(1, 1))
        before = content_hash(str(tmp_path / "b.nii"))
        replaced.replace(tmp_path / "b.nii")  # the same size and time, another file
        assert content_hash(str(tmp_path / "b.nii")) != before

    @pytest.mark.parametrize("text", ["", "three", "x" * 5000, "a\0b", "/"])
    def test_other_texts_have_none(self, text):
        assert content_hash(text) is None

    def test_a_file_is_read_once(self, tmp_path, monkeypatch):
        path = tmp_path / "a.nii"
        path.write_bytes(b"one")
        opened, real = [], Path.open
        monkeypatch.setattr(Path, "open", lambda self, *words: opened.append(self) or real(self, *words))
        inputs = base.StepInputSpec(version=str(path))
        assert inputs.get_hashval("content") == inputs.get_hashval("content")
        assert opened == [path]

    def test_inputs_with_other_contents_differ(self, tmp_path):
        values = []
        for name, text in (("a", "one"), ("b", "one"), ("c", "two")):
            (tmp_path / name).write_text(text)
            inputs = base.StepInputSpec(version=str(tmp_path / name))
            described, value = inputs.get_hashval("content")
            assert (str(tmp_path / name), content_hash(str(tmp_path / name))) in [found for _, found in described]
            values.append(value)
        assert values[0] == values[1] != values[2]


def test_a_signal_while_a_process_starts_leaves_none_behind(naps, monkeypatch):
    """It comes between the process and the moment that the pool knows of it; that process is ended as the others are,
    and does not stumble over what is gone by then."""
    begun: list[Any] = []
    start = ForkServerProcess._Popen

    def and_a_signal(process):
        begun.append(start(process))
        os.kill(os.getpid(), signal.SIGTERM)
        return begun[-1]

    monkeypatch.setattr(ForkServerProcess, "_Popen", staticmethod(and_a_signal))
    graph, settings = naps(20.0)
    with pytest.raises(engine.Interrupted):
        engine.execute(graph, settings, lambda step: None)
    assert begun
    limit = time.monotonic() + 10
    while any(popen.poll() is None for popen in begun):
        assert time.monotonic() < limit, "a process was left behind"
        time.sleep(0.05)
    assert {popen.poll() for popen in begun} == {-signal.SIGKILL}
