"""``qsmprep-slurm`` as a user calls it, without SLURM: what it refuses, and what it writes."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from qsmprep.cli.parser import build_parser, parse_settings
from qsmprep.cli.slurm import build_slurm_parser, main, parse, path_actions
from qsmprep.errors import UsageError

SHAPE = (12, 10, 8)


@pytest.fixture
def raw(tmp_path) -> Path:
    """Three participants, the last one without phase."""
    root = tmp_path / "my data"
    for label in ("01", "02", "03"):
        anat = root / f"sub-{label}" / "anat"
        anat.mkdir(parents=True)
        for part in ("mag", "phase") if label != "03" else ("mag",):
            for echo in (1, 2):
                stem = anat / f"sub-{label}_echo-{echo}_part-{part}_MEGRE"
                nib.Nifti1Image(np.ones(SHAPE, np.float32), np.diag([1, 1, 2, 1.0])).to_filename(f"{stem}.nii.gz")
                Path(f"{stem}.json").write_text(json.dumps({"EchoTime": 0.005 * echo, "MagneticFieldStrength": 3}))
    (root / "dataset_description.json").write_text(json.dumps({"Name": "x", "BIDSVersion": "1.10.0"}))
    return root


@pytest.fixture
def call(raw, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def run(*words: str, code: int = 0) -> str:
        assert main([str(raw), "out", *words]) == code
        said = capsys.readouterr()
        return said.out + said.err

    return run


def commands(text: str) -> list[list[str]]:
    """The call of qsmprep in every script that is told."""
    scripts = [Path(line.removeprefix("Script: ")) for line in text.splitlines() if line.startswith("Script: ")]
    found = [re.search(r"^command=\((.*?)\)$", path.read_text(), re.MULTILINE | re.DOTALL) for path in scripts]
    return [shlex.split(match.group(1)) for match in found]


def test_it_writes_what_qsmprep_would_understand(call, raw, tmp_path):
    said = call("--inversion", "tv", "tkd", "--param", "tv.weight=1e-4", "--nprocs", "3", "--group")
    participant, group = commands(said)
    start = 1 if participant[0].endswith("qsmprep") else 3
    settings = parse_settings(participant[start:])
    assert (settings.bids_dir, settings.out_dir) == (raw, tmp_path / "out")
    assert settings.inversions == ("tv", "tkd")
    assert settings.parameters == {"tv": {"weight": "1e-4"}}
    assert (settings.nprocs, settings.mem_gb) == (3, 4.0)
    assert parse_settings(group[start:]).analysis_level == "group"
    script = next((tmp_path / "out/logs/slurm").glob("*/array-1.sh")).read_text()
    assert "labels=(01 02)" in script, "the one without phase would only fail"
    assert "#SBATCH --cpus-per-task=3" in script
    assert "sub-03 has no gradient-echo images with phase" not in script
    assert "phase" in said and "Nothing is submitted" in said


def test_every_registration_of_the_template_has_its_time(call, tmp_path):
    """Also that for maps in its space alone."""

    def limit(name: str, *words: str) -> str:
        call("--job-dir", name, *words)
        (script,) = (tmp_path / name).glob("*/array-1.sh")
        return re.search(r"--time=(\S+)", script.read_text()).group(1)

    registered = limit("atlas", "--segmentation", "atlas")
    assert registered != limit("none", "--segmentation", "none")
    assert limit("maps", "--template-maps") == limit("both", "--template-maps", "--segmentation", "atlas") == registered


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (["--inversoin", "tv"], 2, "--inversoin"),
        (["--inversion", "tvv"], 2, "tvv"),
        (["--inversion", "tv", "--param", "tv.wieght=1"], 2, "wieght"),
        (["--inversion", "tv", "--param", "tv.weight=-1"], 2, "weight"),
        (["--nproc", "2"], 2, "--nproc"),
        (["--participant-label", "77"], 18, "77"),
        (["--config-file", "absent.json"], 66, "absent.json"),
        (["--derivatives", "absent"], 66, "absent"),
        (["--device", "cuda"], 2, "--gres"),
        (["--device", "cpu", "--gres", "gpu:1"], 2, "--gres"),
        (["--time", "soon"], 2, "soon"),
        (["--mem", "much"], 2, "much"),
        (["--sbatch=--array=1-9"], 2, "--array"),
        (["--scratch", "relative"], 2, "relative"),
        (["--container", "absent.sif"], 66, "absent.sif"),
        (["--python", "absent/python"], 66, "absent"),
        (["--reports-only"], 2, "--reports-only"),
        (["--max-running", "-1"], 2, "--max-running"),
        (["group"], 2, "group"),
        (["--inversion", "loopnet", "--param", "loopnet.weights=here"], 2, "absolute"),
        (["--inversion", "loopnet", "--param", "loopnet.weights=/nowhere"], 66, "nowhere"),
    ],
)
def test_mistakes_end_here_and_leave_nothing(call, tmp_path, words, code, told):
    assert told in call(*words, code=code)
    assert not (tmp_path / "out").exists()


def test_the_folders_come_first(raw, tmp_path):
    with pytest.raises(UsageError, match="BIDS_DIR and OUT_DIR first"):
        parse(["--inversion", "tv", str(raw), "out"])
    options, rest = parse([str(raw), "out", "participant", "--nprocs", "2", "-vv", "--participant_label", "01", "02"])
    assert (options.bids_dir, options.participant_label, rest) == (raw, ["01", "02"], ["-vv"])


def test_paths_are_made_absolute(call, raw, tmp_path):
    """For every option of qsmprep that takes a path, also those to come."""
    known = {name for action in path_actions() for name in action.option_strings}
    assert {"--derivatives", "--bids-filter-file", "--config-file", "--atlas", "--use-plugin"} <= known
    ours = {name for action in build_slurm_parser()._actions for name in action.option_strings}
    for action in build_parser()._actions:
        if action.type is Path and action.option_strings:
            assert set(action.option_strings) <= ours, f"{action.option_strings} would not be made absolute"
    (tmp_path / "masks a").mkdir()
    (tmp_path / "f.json").write_text("{}")
    (participant,) = commands(call("-d", "masks a", "--bids-filter-file", "f.json"))
    assert participant[-4:] == [
        *("--bids-filter-file", str(tmp_path / "f.json")),
        *("--derivatives", str(tmp_path / "masks a")),
    ]


def test_what_a_container_is_shown(call, raw, tmp_path):
    (tmp_path / "q.sif").touch()
    (tmp_path / "masks").mkdir()
    (tmp_path / "w").mkdir()
    words = ("--container", "q.sif", "-d", "masks", "--param", f"loopnet.weights={tmp_path / 'w'}", "--bind", "/x:/y")
    call(*words, "--inversion", "loopnet", "--scratch", "$TMPDIR")
    script = next((tmp_path / "out/logs/slurm").glob("*/array-1.sh")).read_text()
    binds = shlex.split(re.search(r"^binds=\((.*)\)$", script, re.MULTILINE).group(1))
    assert set(binds) - {"--bind"} == {
        f"{raw}:{raw}:ro",
        f"{tmp_path}/masks:{tmp_path}/masks:ro",
        f"{tmp_path}/w:{tmp_path}/w:ro",
        f"{tmp_path}/out",
        "/x:/y",
    }
    assert "command=(qsmprep " in script
    assert main([str(raw), "a:b", "--container", "q.sif"]) == 2


def test_unfinished(call, tmp_path, monkeypatch):
    """Who is done is left out; who is in the queue is not submitted twice."""
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "sbatch" in call("--submit", code=66)
    assert "2 not submitted" in call("--status")
    job_dir = tmp_path / "out/logs/slurm"
    plan = next(job_dir.glob("*/plan.json"))
    plan.write_text(json.dumps({**json.loads(plan.read_text()), "jobs": ["40"]}))
    record = {"name": "sub-01", "state": "done", "exit_code": 0, "start": "2026-01-01T10:00:00Z", "host": "a"}
    record |= {"end": "2026-01-01T10:00:00Z", "job": "40", "task": 1, "restarts": 0, "stopped": ""}
    (job_dir / "status/sub-01.json").write_text(json.dumps(record))
    assert "sub-02" in call("--submit", code=2), "the second may be in the queue"
    failed = {**record, "state": "failed", "exit_code": 75, "task": 2}
    (job_dir / "status/sub-02.json").write_text(json.dumps(failed))
    assert "75" in call("--status", code=1)
    said = call("--unfinished", "--mem", "16G")
    assert "1 task" in said and "16000 MB" in said
    (job_dir / "status/sub-02.json").write_text(json.dumps({**record, "task": 2}))
    assert "nobody is left" in call("--unfinished", code=18)


def test_sbatch_is_asked_once_a_script(call, tmp_path, monkeypatch):
    programs = tmp_path / "programs"
    programs.mkdir()
    (programs / "sbatch").write_text(
        f'#!/bin/bash\nprintf "%s\\n" "$*" >> {programs}/calls\necho $((70 + $(wc -l < {programs}/calls)));'
    )
    (programs / "sbatch").chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:/usr/bin:/bin")
    said = call("--submit", "--group", "--group-after", "ok")
    calls = (programs / "calls").read_text().splitlines()
    assert re.fullmatch(r"--parsable .*array-1\.sh", calls[0])
    assert re.fullmatch(r"--parsable --dependency=afterok:71 --kill-on-invalid-dep=yes .*group\.sh", calls[1])
    assert "Submitted array 71: 2 participant(s)" in said
    plan = json.loads(next((tmp_path / "out/logs/slurm").glob("*/plan.json")).read_text())
    assert (plan["jobs"], plan["group_job"]) == (["71"], "72")


def test_status_of_nothing(call):
    assert "no job of qsmprep-slurm" in call("--status", code=66)


def test_help_tells_the_exit_codes():
    done = subprocess.run([sys.executable, "-m", "qsmprep.cli.slurm", "--help"], capture_output=True, text=True)
    assert "exit codes" in done.stdout
