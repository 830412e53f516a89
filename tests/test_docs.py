"""The documentation: every command in it parses, its recipe runs, every method and option is in it, and it builds."""

from __future__ import annotations

import argparse
import importlib.util
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from qsmprep.cli import slurm
from qsmprep.cli.parser import parse_settings
from qsmprep.core.dipole import forward_field
from qsmprep.core.grid import Grid
from qsmprep.core.methods import METHODS

ROOT = Path(__file__).parents[1]
PAGES = [
    ROOT / "README.md",
    *(page for page in sorted((ROOT / "docs" / "pages").rglob("*.md")) if "generated" not in page.parts),
]


@pytest.fixture(scope="module")
def generate():
    """The script that writes the generated pages."""
    spec = importlib.util.spec_from_file_location("docs_generate", ROOT / "docs" / "generate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def commands() -> list[tuple[str, str]]:
    """Page and command of every ``qsmprep…`` line in a block of code, continued lines joined."""
    found = []
    for page in PAGES:
        for block in re.findall(r"^```(?:sh)?\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL):
            lines = block.replace("\\\n", " ").splitlines()
            found += [(page.name, " ".join(line.split())) for line in lines if re.match(r"qsmprep", line)]
    return found


@pytest.mark.parametrize(("page", "line"), commands(), ids=lambda text: text[:60])
def test_commands_are_understood(generate, page, line, tmp_path, monkeypatch):
    """By the parser that the command itself uses."""
    monkeypatch.chdir(tmp_path)
    Path("qsmprep.sif").touch()
    name, *words = shlex.split(line)
    if name == "qsmprep":
        assert parse_settings(words).analysis_level in ("participant", "group")
    elif name == "qsmprep-slurm":
        options, rest = slurm.parse(words)
        assert options.status or slurm.check(options, rest).analysis_level == "participant"
    else:
        assert isinstance(generate.parsers()[name].parse_args(words), argparse.Namespace)


def test_there_are_commands_to_check():
    assert len(commands()) > 20
    assert {"README.md", "first-run.md", "clusters.md"} <= {page for page, _ in commands()}


def test_the_recipe_for_a_method_works(tmp_path, monkeypatch):
    """Under 30 lines; run as it stands, it finds a source, and its register entry is whole."""
    text = (ROOT / "docs" / "pages" / "add-a-method.md").read_text(encoding="utf-8")
    code = re.search(r"recipe:begin -->\n+```python\n(.*?)```", text, re.DOTALL).group(1)
    assert len([line for line in code.splitlines() if line.strip()]) < 30
    (tmp_path / "recipe.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    method = __import__("recipe").METHOD
    grid = Grid((20, 22, 24), (1.0, 1.2, 2.0), (0.2, 0.0, 1.0))
    chi = np.zeros(grid.shape, np.float32)
    chi[8:12, 9:13, 10:14] = 0.1
    found = method.load()(
        forward_field(chi, grid), np.ones(grid.shape, bool), grid, method.configure({"noise": "0.05"})
    )
    assert np.corrcoef(found.chi_ppm.ravel(), chi.ravel())[0, 1] > 0.8
    assert method.describe(method.configure()) == "Filtered with noise 0.1"


def test_every_method_has_an_equation_and_every_equation_a_method(generate):
    assert set(generate.equations()) == {f"{method.step}/{method.name}" for method in METHODS}


def test_pages_hold_every_option_method_parameter_and_source(generate):
    made = generate.pages()
    for name, parser in generate.parsers().items():
        assert f"## {name}\n" in made["options.md"]
        for action in parser._actions:
            if action.help != argparse.SUPPRESS:
                assert all(f"`{word}`" in made["options.md"] for word in action.option_strings)
    for method in METHODS:
        assert f"### {method.step}: {method.name}\n" in made["methods.md"]
        for name in vars(method.configure()):
            assert f"`{method.name}.{name}`" in made["methods.md"]
        for key in method.citations:
            assert generate.load()[key].fields.get("doi", "") in made["methods.md"]
    assert "`Chimap` | anat | ppm" in made["outputs.md"]


def test_the_site_builds_without_a_warning_and_asks_no_other_host(generate, tmp_path):
    if importlib.util.find_spec("mkdocs") is None:
        pytest.skip("mkdocs is not installed: pip install '.[docs]'")
    generate.main()
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "-d", str(tmp_path / "site")]
    done = subprocess.run(build, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "WARNING" not in done.stderr
    made = list((tmp_path / "site").rglob("*.html"))
    assert len(made) > 10
    for page in made:
        text = page.read_text(encoding="utf-8")
        assert not re.search(r"<(script|img|iframe)[^>]+src=\"(https?:)?//", text), page.name
        assert not re.search(r"<link[^>]+href=\"(https?:)?//(?!qsmprep)", text), page.name
