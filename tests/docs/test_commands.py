"""Every command that README and docs tell is run, as it stands there, or it is said why not (`told.HOW`)."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

import cohort_cases
import nibabel as nib
import numpy as np
import pytest
import scans
import told
from onehost import OneHost, why_not
from told import ROOT, in_room

from qsmprep.cli.parser import parse_settings
from qsmprep.core.dipole import forward_field
from qsmprep.core.grid import Grid
from qsmprep.core.methods import METHODS

PROGRAMS = {"qsmprep": "main", **{f"qsmprep-{name}": name for name in ("step", "simulate", "slurm", "train")}}


class Room:
    """A folder in which commands are typed into a shell, with the programs on the PATH."""

    def __init__(self, folder: Path, **environment: str) -> None:
        self.folder = folder
        programs = folder / ".programs"
        programs.mkdir(parents=True)
        for name, words in (("python", ""), *((name, f"-m qsmprep.cli.{module}") for name, module in PROGRAMS.items())):
            script = programs / name
            script.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} {words} "$@"\n')
            script.chmod(0o755)
        path = environment.pop("PATH", os.environ["PATH"])
        own = {"PATH": f"{programs}:{path}", "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
        self.environment = {**os.environ, **environment, **own}

    def type(self, command: str, *, code: int = 0, seconds: float = 1800, cwd: Path | None = None) -> str:
        """What a command says; it must end with ``code``."""
        how = told.how(command)
        line = f"{command} {how.more}" if how is not None and how.more else command
        done = subprocess.run(
            ["sh", "-c", line], cwd=cwd or self.folder, env=self.environment, capture_output=True, text=True,
            timeout=seconds, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        assert done.returncode == code, f"{line}\n{done.returncode}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        assert "Traceback" not in done.stderr, done.stderr
        return done.stdout + done.stderr


def test_it_is_said_of_every_command_how_it_is_run():
    missing = [command for command in told.commands() if told.how(command) is None]
    assert not missing, "say in tests/docs/told.py how these are run:\n" + "\n".join(missing)
    gone = [command for command in told.HOW if command not in told.commands()]
    assert not gone, "no page tells these any more:\n" + "\n".join(gone)
    silent = [command for command, how in told.HOW.items() if (how.more or how.room in told.NOT_RUN) and not how.why]
    assert not silent, "say why these are not run as they stand:\n" + "\n".join(silent)


def test_the_rooms_are_those_that_tests_run():
    """A new kind of command needs a test here."""
    source = Path(__file__).read_text(encoding="utf-8")
    rooms = {told.how(command).room for command in told.commands()}
    assert all(re.search(rf'in_room\([^)]*"{room}"', source) for room in rooms - {"container"})


def test_a_new_command_is_noticed(tmp_path, monkeypatch):
    page = tmp_path / "new.md"
    page.write_text("Do `qsmprep A B participant\n--mask bet` or\n\n```\nmake  tea\nqsmprep-step \\\n  list\n```\n")
    monkeypatch.setattr(told, "PAGES", [page])
    assert told.commands() == ["make tea", "qsmprep-step list", "qsmprep A B participant --mask bet"]
    assert [told.how(command) is None for command in told.commands()] == [True, False, True]


def test_mentions_name_what_there_is():
    """`qsmprep-step invert` and `qsmprep-slurm --container` in a sentence: both words exist."""
    found = {words for page in told.PAGES for words in told.inline(page) if told.MENTION.fullmatch(words)}
    assert len(found) > 2
    for words in found:
        module = words.split()[0].removeprefix("qsmprep-")
        source = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "qsmprep" / "cli").glob(f"{module}*.py"))
        assert f'"{words.split()[1]}"' in source, words


def test_parameters_in_sentences_are_understood(tmp_path):
    found = {words for page in told.PAGES for words in told.inline(page) if words.startswith("--param ")}
    assert len(found) > 3
    for words in found:
        parse_settings([str(tmp_path), str(tmp_path / "out"), "participant", *shlex.split(words)])


def write_files(folder: Path) -> None:
    """Of one head: echoes as magnitude and phase and as real and imaginary part, three fields, a segmentation."""
    chi, signal = scans.head(0)
    grid = Grid.from_affine(scans.SHAPE, scans.AFFINE)
    scans.write_subject(folder, "01")
    for number in range(1, 4):
        images = {}
        for part, short in (("mag", "mag"), ("phase", "ph")):
            source = folder / "sub-01" / "anat" / f"sub-01_echo-{number}_part-{part}_MEGRE.nii.gz"
            images[part] = nib.load(source).get_fdata()
            for ending in (".nii.gz", ".json"):
                shutil.copy(str(source).replace(".nii.gz", ending), folder / f"{short}_e{number}{ending}")
        signal_of = images["mag"] * np.exp(1j * images["phase"])
        for short, data in (("re", signal_of.real), ("im", signal_of.imag)):
            nib.Nifti1Image(data.astype(np.float32), scans.AFFINE).to_filename(folder / f"{short}_e{number}.nii.gz")
            shutil.copy(folder / f"mag_e{number}.json", folder / f"{short}_e{number}.json")
    for number, direction in enumerate(((0, 0, 1), (0.4, 0.1, 0.9), (-0.1, -0.5, 0.85)), start=1):
        unit = tuple(float(x) for x in np.array(direction) / np.linalg.norm(direction))
        field = forward_field(np.where(signal > 70, chi, 0), Grid(scans.SHAPE, grid.voxel_mm, unit))
        nib.Nifti1Image(np.asarray(field, np.float32), scans.AFFINE).to_filename(folder / f"local{number}.nii.gz")
    labels = np.where(signal == 85, 12, 0).astype(np.uint8)
    nib.MGHImage(labels, scans.AFFINE).to_filename(folder / "aseg.mgz")
    shutil.copy(ROOT / "bids_examples" / "cohort" / "sub-01" / "anat" / "sub-01_T1w.nii.gz", folder / "t1w.nii.gz")


def test_single_files(tmp_path):
    """One after another: what one writes the next ones read."""
    room = Room(tmp_path / "room")
    write_files(room.folder)
    _, signal = scans.head(0)
    for command in in_room("files"):
        begun = time.time()
        said = room.type(command)
        written = re.findall(r"--out(?:-[\w-]+)? (\S+)", command)
        assert written or len(said) > 100, command
        for name in written:
            path = room.folder / name
            assert path.stat().st_mtime >= begun - 1, f"{command} did not write {name}"
            if name.endswith(".nii.gz"):
                data = nib.load(path).get_fdata()
                assert np.isfinite(data).all() and data.any(), f"{command}: {name}"
            if name == "chi.nii.gz":  # 0.12 ppm are in the nuclei: a wrong unit would be noticed
                contrast = data[signal == 85].mean() - data[signal == 100].mean()
                assert 0.04 < contrast < 0.2, f"{command}: {contrast:.4f} ppm"


def test_group(tmp_path):
    room = Room(tmp_path / "room")
    raw, out = cohort_cases.write_cohort(tmp_path, 24)
    for link, target in (("BIDS_DIR", raw), ("OUT_DIR", out), ("bids", raw)):
        (room.folder / link).symlink_to(target)
    shutil.copytree(out, room.folder / "out")
    for command in in_room("group"):
        folder = room.folder / command.split()[2]
        (folder / "group.html").unlink(missing_ok=True)
        room.type(command)
        assert "pallidum" in (folder / "group.html").read_text(encoding="utf-8")


def test_python(tmp_path):
    """The block under *From Python*, on a field whose source is known; that of *Adding a method* has its own test."""
    found = [block for page in told.PAGES for language, block in told.blocks(page) if language == "python"]
    assert len(found) == 2
    chi, signal = scans.head(0)
    mask = signal > 70
    grid = Grid.from_affine(scans.SHAPE, scans.AFFINE)
    field = np.asarray(forward_field(np.where(mask, chi, 0), grid), np.float32)
    names = {"field_ppm": field, "mask": mask, "affine": scans.AFFINE}
    exec(compile(found[0], "README.md", "exec"), names)
    assert np.corrcoef(names["chi_ppm"][mask], chi[mask])[0, 1] > 0.8


@pytest.mark.parametrize("command", in_room("make"))
def test_make_knows_the_target(command, tmp_path):
    """What it would do; nothing is installed. The scripts that it names are there."""
    environment = {**os.environ, "VIRTUAL_ENV": str(tmp_path / "venv")}  # parsing alone may remove its stamps
    done = subprocess.run(
        [*command.split(), "-n"], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    for name in re.findall(r"(?<![\w/])((?:benchmarks|tests|docs)/[\w/]+\.(?:py|sh|cjs))", done.stdout):
        assert (ROOT / name).is_file(), name
    assert re.search(r"python|node|bash", done.stdout)


@pytest.fixture(scope="module")
def cohort(tmp_path_factory) -> Room:
    """Two participants and folders of the names that the commands use."""
    folder = tmp_path_factory.mktemp("cohort")
    room = Room(folder / "room")
    scans.write_cohort(folder, ("01", "02")).rename(room.folder / "BIDS_DIR")
    _, signal = scans.head(0)
    for subject in ("01", "02"):
        place = room.folder / "FREESURFER_DIR" / f"sub-{subject}" / "mri"
        place.mkdir(parents=True)
        labels = np.where(signal == 85, 12, 0).astype(np.uint8)
        nib.MGHImage(labels, scans.AFFINE).to_filename(place / "aseg.mgz")
    return room


@pytest.mark.slow
@pytest.mark.parametrize("command", in_room("cohort"))
def test_participants(cohort, command):
    shutil.rmtree(cohort.folder / "OUT_DIR", ignore_errors=True)
    cohort.type(command)
    anat = cohort.folder / "OUT_DIR" / "sub-02" / "anat"
    words = shlex.split(command)
    names = words[words.index("--inversion") + 1 :] if "--inversion" in words else []
    methods = [name for name in names if not name.startswith("-") and name != "vsharp"] or (
        ["pedqnet"] if "pediatric" in words else [METHODS.names("inversion")[0]]
    )
    for name in methods:
        assert (anat / f"sub-02_desc-{name}_Chimap.nii.gz").is_file(), name
    segmented = {"--segmentation", "--derivatives", "pediatric"} & set(words)
    assert bool(list(anat.glob("*_stats.tsv"))) == bool(segmented)


@pytest.mark.slow
def test_first_run(tmp_path):
    room = Room(tmp_path / "room")
    for command in in_room("first run"):
        room.type(command)
    page = (ROOT / "docs" / "pages" / "first-run.md").read_text(encoding="utf-8")
    told_files = re.findall(r"`(out/[^`]+)`", page)
    assert len(told_files) == 2
    assert all((room.folder / name).is_file() for name in told_files)


@pytest.mark.slow
def test_simulate(tmp_path):
    room = Room(tmp_path / "room")
    for command in in_room("simulate"):
        room.type(command)
    image = nib.load(next((room.folder / "OUT_DIR" / "sub-01").rglob("*part-phase*.nii.gz")))
    assert image.header.get_zooms()[:3] == pytest.approx((1, 1, 2), abs=1e-3)


@pytest.mark.slow
def test_script_of_an_array(tmp_path):
    """The script of the page on clusters, as the second task of an array."""
    room = Room(tmp_path / "room", SLURM_ARRAY_TASK_ID="2", TMPDIR=str(tmp_path))
    scans.write_cohort(tmp_path, ("01", "02")).rename(room.folder / "bids")
    (room.folder / "participants.txt").write_text("01\n02\n")
    (script,) = in_room("script")
    room.type(script)
    assert not (room.folder / "out" / "sub-01").exists()
    assert (room.folder / "out" / "sub-02.html").is_file()
    assert (tmp_path / "work-02").is_dir()


@pytest.mark.slow
def test_train(tmp_path):
    """A step each, by the shipped recipes for a CPU."""
    room = Room(tmp_path / "room")
    labels = np.pad(np.full((60, 60, 60), 3, np.int16), 20)
    labels[40:60, 40:60, 40:60] = 12
    (room.folder / "LABELS").mkdir()
    nib.Nifti1Image(labels, np.eye(4)).to_filename(room.folder / "LABELS" / "head.nii.gz")
    chi = np.where(labels > 0, np.random.default_rng(0).normal(0, 0.02, labels.shape) + 0.1 * (labels == 12), 0)
    nib.Nifti1Image(chi.astype(np.float32), np.eye(4)).to_filename(room.folder / "my_chi.nii.gz")
    shutil.copy(ROOT / "qsmprep" / "data" / "recipes" / "conenet_cpu.yaml", room.folder / "my_recipe.yaml")
    for command in in_room("train"):
        if "conenet" in command:
            shutil.rmtree(room.folder / "RUN")
        room.type(command)
        assert (room.folder / "RUN" / "log.csv").is_file()
    card = json.loads((room.folder / "WEIGHTS" / "loopnet.json").read_text())
    assert card["training"]["steps"] == 1


@pytest.mark.slow
def test_install(tmp_path):
    """Into a new environment, without what it depends on; from a copy of the checkout, as building leaves folders."""
    room = Room(tmp_path / "room")
    copy = tmp_path / "copy"
    shutil.copytree(ROOT / "qsmprep", copy / "qsmprep")
    for name in ("setup.cfg", "pyproject.toml", "constraints.txt", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy / name)
    (copy / ".venv").mkdir()
    make, install = in_room("install")
    builder = tmp_path / "builder"  # what builds the package, which pip would fetch: as it is in this environment
    builder.mkdir()
    (builder / "setuptools").symlink_to(Path(pytest.importorskip("setuptools", "70.1").__file__).parent)
    room.environment["PYTHONPATH"] = str(builder)
    room.environment["PATH"] = f"{Path(sys.base_prefix) / 'bin'}:{os.environ['PATH']}"
    added = told.how(install).more
    room.type(f"{make} && {install} {added} && pip show qsmprep && test -x .venv/bin/qsmprep-step", cwd=copy)


@pytest.mark.slow
@pytest.mark.parametrize("command", in_room("benchmark"))
def test_benchmarks_know_their_options(command, tmp_path):
    said = Room(tmp_path / "room").type(command, cwd=ROOT)
    assert all(word in said for word in shlex.split(command)[2:])


@pytest.mark.slow
@pytest.mark.parametrize("command", in_room("collect"))
def test_tests_that_are_told_exist(command, tmp_path):
    room = Room(tmp_path / "room")
    said = room.type(f"python -m {command} {told.how(command).more} -p no:cacheprovider", cwd=ROOT)
    assert re.search(r"^tests/cohort/\S+: \d+|::test_", said, re.MULTILINE)


@pytest.mark.slow
@pytest.mark.skipif(bool(why_not()), reason=why_not() or "SLURM is there")
def test_slurm(tmp_path):
    """On a SLURM that is started here."""
    with OneHost(tmp_path / "slurm") as host:
        room = Room(tmp_path / "room", **{key: host.environment[key] for key in ("SLURM_CONF", "PATH")})
        scans.write_cohort(tmp_path, ("01",)).rename(room.folder / "BIDS_DIR")
        submit, status, again = in_room("slurm")
        assert "Submitted array" in room.type(submit)
        end = time.monotonic() + 900
        while host.run("squeue", "--noheader").strip() and time.monotonic() < end:
            time.sleep(2)
        assert re.search(r"sub-01 +done", room.type(status))
        assert "nobody is left" in room.type(again, code=18)  # everybody is done
        (room.folder / "qsmprep.sif").write_bytes(b"")
        for command in in_room("slurm script"):
            room.type(command.replace(" --submit", ""))
            scripts = sorted((room.folder / "OUT_DIR" / "logs" / "slurm").glob("*/array-*.sh"))
            room.type(f"bash -n {shlex.quote(str(scripts[-1]))}")
            assert "--gres" in scripts[-1].read_text() and "qsmprep.sif" in scripts[-1].read_text()
