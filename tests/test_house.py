"""The rules of the house: who may import whom, how long things may get, what importing may do."""

from __future__ import annotations

import ast
import json
import os
import re
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import entry_points
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "qsmprep"
MODULES = sorted(PACKAGE.rglob("*.py"))

FLOORS = (
    {"cli"},
    {"workflows"},
    {"interfaces", "reports", "cohort", "cluster"},
    {"phantom"},
    {"bids"},
    {"training"},
    {"networks"},
    {"settings"},
    {"core"},
    {"data"},
    {"errors", "version", "privacy"},
)
"""Imports go down only, and never to another room of the same floor."""

NOT_IN_CORE = {"argparse", "bids", "jinja2", "matplotlib", "nibabel", "nipype", "niworkflows", "pandas"}
"""What the physics must do without: files, graphs, pages, command lines."""

MAX_FUNCTION = 60
MAX_MODULE = 400
HEAVY = ("torch", "numpy", "scipy", "nibabel", "nipype", "bids", "matplotlib", "numba", "pandas", "skimage")


def room_of(module: str) -> str:
    """``qsmprep.core.grid`` to ``core``; the package itself counts as the lowest floor."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "version"


def floor_of(room: str) -> int:
    found = [number for number, rooms in enumerate(FLOORS) if room in rooms]
    assert found, f"room {room!r} has no floor: give it one in FLOORS"
    return found[0]


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_of(path: Path) -> Iterator[tuple[int, str]]:
    """Line and absolute name of everything that a module imports, wherever it stands in it."""
    name = name_of(path)
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
                parts = parts[: len(parts) - node.level + 1]
                base = ".".join([*parts, base] if base else parts)
            if base == "qsmprep":
                yield from ((node.lineno, f"qsmprep.{alias.name}") for alias in node.names)
            else:
                yield node.lineno, base


def code_lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of a function, its docstring not counted."""
    first = node.body[0]
    lines = (node.end_lineno or node.lineno) - node.lineno + 1
    if ast.get_docstring(node) is not None:
        lines -= (first.end_lineno or first.lineno) - first.lineno + 1
    return lines


def tracked_files() -> list[Path]:
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [ROOT / name for name in listed.split("\0") if name and (ROOT / name).is_file()]


def python(code: str, **environment: str) -> str:
    """What a fresh interpreter prints for ``code``."""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, **environment}, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_imports_go_down():
    faults = []
    for path in MODULES:
        room = room_of(name_of(path))
        for line, name in imports_of(path):
            if name.split(".")[0] != "qsmprep":
                continue
            other = room_of(name)
            if other != room and floor_of(other) <= floor_of(room):
                faults.append(f"{path.relative_to(ROOT)}:{line}: {room} imports {name}")
    assert not faults, "\n".join(faults)


def test_core_is_a_library_of_arrays():
    faults = [
        f"{path.relative_to(ROOT)}:{line}: {name}"
        for path in (PACKAGE / "core").rglob("*.py")
        for line, name in imports_of(path)
        if name.split(".")[0] in NOT_IN_CORE
    ]
    assert not faults, "\n".join(faults)


def test_functions_and_modules_stay_short():
    faults = []
    for path in [*MODULES, *sorted((ROOT / "benchmarks").rglob("*.py"))]:
        text = path.read_text(encoding="utf-8")
        where = path.relative_to(ROOT)
        if (length := text.count("\n")) > MAX_MODULE:
            faults.append(f"{where}: {length} lines")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = code_lines(node)
                if length > MAX_FUNCTION:
                    faults.append(f"{where}:{node.lineno}: {node.name} has {length} lines")
    assert not faults, "\n".join(faults)


def test_no_machine_paths_or_package_hosts():
    slash = "/"
    folders = "|".join(re.escape(f"{slash}{name}{slash}") for name in ("tmp", "work", "root", "mnt", "opt/qv"))
    hosts = "|".join(re.escape(f"{name}.org") for name in ("pypi", "debian", "pythonhosted", "anaconda", "pytorch"))
    pattern = re.compile(rf"(?<![\w.])(?:{folders})|[\w.]*(?:{hosts})|[A-Z]:\\Users")
    faults = []
    for path in tracked_files():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        for number, line in enumerate(text.splitlines(), start=1):
            if found := pattern.search(line):
                faults.append(f"{path.relative_to(ROOT)}:{number}: {found.group()}")
    assert not faults, "\n".join(faults)


def test_every_requirement_is_pinned():
    """What setup.cfg asks for, and what that needs in turn, stands in constraints.txt."""
    from importlib.metadata import PackageNotFoundError, requires

    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = {canonicalize_name(line.split("==")[0]) for line in lines if line and not line.startswith("#")}
    todo, seen = [("qsmprep", ("test", "dev", "docs"))], set()
    while todo:
        name, extras = todo.pop()
        if (name, extras) in seen:
            continue
        seen.add((name, extras))
        try:
            needs = requires(name) or []
        except PackageNotFoundError:
            needs = []
        for requirement in map(Requirement, needs):
            marker = requirement.marker
            if marker is None or any(marker.evaluate({"extra": extra}) for extra in (*extras, "")):
                todo.append((canonicalize_name(requirement.name), tuple(sorted(requirement.extras))))
    missing = {name for name, _ in seen} - pins - {"qsmprep"}
    assert not missing, f"not pinned: {', '.join(sorted(missing))}"


COMMANDS = sorted(
    (entry.name, entry.module) for entry in entry_points(group="console_scripts") if entry.module.startswith("qsmprep.")
)


def test_the_commands_are_installed():
    assert {"qsmprep", "qsmprep-slurm", "qsmprep-step", "qsmprep-simulate", "qsmprep-train"} <= {
        name for name, _ in COMMANDS
    }


@pytest.mark.parametrize(("name", "module"), COMMANDS)
def test_commands_parse_without_heavy_libraries(name, module):
    loaded = python(f"import json, sys, {module}; print(json.dumps(sorted(sys.modules)))")
    assert not set(json.loads(loaded)) & set(HEAVY)


@pytest.mark.parametrize("option", ["--help", "--version"])
@pytest.mark.parametrize(("name", "module"), COMMANDS)
def test_help_and_version_answer_at_once(name, module, option):
    """Counted as CPU time, so that a busy machine does not fail it."""
    seconds = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run([sys.executable, "-m", module, option], capture_output=True, text=True, check=False)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        assert done.returncode == 0, done.stderr
        assert "qsmprep" in done.stdout
    assert min(seconds) < 0.5


@pytest.mark.parametrize(
    ("room", "without"),
    [
        ("bids", {"torch", "nipype", "matplotlib"}),
        ("reports", {"torch", "nipype", "bids"}),
        ("core", {"nibabel", "nipype", "bids", "matplotlib"}),
    ],
)
def test_rooms_load_without(room, without):
    names = [name_of(path) for path in MODULES if room_of(name_of(path)) == room]
    loaded = json.loads(python(f"import json, sys, {', '.join(names)}; print(json.dumps(sorted(sys.modules)))"))
    assert not set(loaded) & without


IMPORT_ALL = """
import importlib, json, os, socket, sys

asked = []
def refuse(*args, **kwargs):
    asked.append(repr(args[-2:]))
    raise OSError("no network in this test")
socket.getaddrinfo = refuse
socket.socket.connect = refuse
before = dict(os.environ)
for name in json.loads(sys.argv[1]):
    importlib.import_module(name)
changed = sorted(key for key in {*before, *os.environ} if before.get(key) != os.environ.get(key))
print(json.dumps({"asked": asked, "changed": changed}))
"""


def test_importing_does_nothing(tmp_path):
    """No network, no files in the home or current folder, no words, no changed environment."""
    home, here = tmp_path / "home", tmp_path / "here"
    home.mkdir()
    here.mkdir()
    names = [name_of(path) for path in MODULES if path.name != "__main__.py"]
    environment = {key: value for key, value in os.environ.items() if key not in ("NO_ET", "NIPYPE_NO_ET")}
    done = subprocess.run(
        [sys.executable, "-c", IMPORT_ALL, json.dumps(names)],
        capture_output=True,
        text=True,
        cwd=here,
        env={**environment, "HOME": str(home)},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n") == 1, f"importing speaks: {done.stdout}"
    told = json.loads(done.stdout)
    assert told["asked"] == [], "importing asks the network"
    assert not [key for key in told["changed"] if key.startswith(("OMP", "MKL", "CUDA", "PATH", "PYTHON"))]
    assert not list(here.iterdir()), "importing writes files"
    assert not [path for path in home.rglob("*") if "qsmprep" in path.name.lower()], "importing writes files"


def test_the_readme_names_what_there_is():
    """Exit codes, make targets, commands and the markers of the benchmark."""
    from qsmprep import errors

    text = (ROOT / "README.md").read_text(encoding="utf-8")
    codes = {int(code) for code in re.findall(r"^\| (\d+) \|", text, flags=re.MULTILINE)}
    classes = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, Exception)]
    assert codes == {0} | {kind.exit_code for kind in classes}
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE))
    assert set(re.findall(r"(?:^|`)make ([a-z-]+)", text, flags=re.MULTILINE)) <= targets
    commands = set(re.findall(r"^(qsmprep[a-z-]*) ", text, flags=re.MULTILINE))
    assert commands == {name for name, _ in COMMANDS}
    pages = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "docs" / "pages" / "measured").glob("*.md"))
    blocks = ("accuracy", "fieldmap", "mismatch", "networks", "segmentation", "atlas", "pediatric", "sizes")
    for marker in (f"<!-- {block}:{end} -->" for block in blocks for end in ("begin", "end")):
        assert pages.count(marker) == 1
    for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", text):
        assert (ROOT / target).exists(), f"README.md links to {target}"


def test_the_readme_lists_the_long_options_that_exist():
    calls = ["main"], ["step", "invert"], ["step", "background"], ["simulate"], ["slurm"], ["train"]
    calls += tuple(
        ["step", name] for name in ("phase", "unwrap", "fieldmap", "mask", "r2star", "swi", "segment", "roi")
    )
    help_texts = "".join(
        subprocess.run(
            [sys.executable, "-m", f"qsmprep.cli.{words[0]}", *words[1:], "--help"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for words in calls
    )
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    wanted = set(re.findall(r"(?<![\w-])--[a-z][\w-]+", text))
    missing = {option for option in wanted if not re.search(rf"{option}(?![\w-])", help_texts)}
    assert not missing, f"no command has {', '.join(sorted(missing))}"
