# ruff: noqa: E501 (rows of tables are single lines)
"""Write the pages of the documentation that follow from the program: options, methods, outputs, README's chapters.

Run by ``make docs`` before mkdocs: ``python docs/generate.py``. Pages go to ``docs/pages/generated``.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import re
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from qsmprep.bids.names import OUTPUTS  # noqa: E402
from qsmprep.cli.parser import build_parser  # noqa: E402
from qsmprep.cli.slurm import build_slurm_parser  # noqa: E402
from qsmprep.core.bibliography import load  # noqa: E402
from qsmprep.core.methods import METHODS  # noqa: E402

SYMBOLS = """\
`F` total field, `f` local field (ppm), `b` background, `χ` susceptibility (ppm), `D` dipole operator, `^` in k-space,
`M` mask, `W` weights, `S_r` mean over a ball of radius `r`, `δ` identity, `φ_e` phase, `m_e` magnitude and `t_e` time of
echo `e`, `∇` gradient per mm, `E` symmetrised gradient, `s` phase of 1 ppm, `N` a network; `‖·‖₁` sums absolute values.
"""


def parsers() -> dict[str, argparse.ArgumentParser]:
    """Every command and subcommand with its parser."""
    found: dict[str, argparse.ArgumentParser] = {"qsmprep": build_parser()}
    for command in ("step", "simulate", "train"):
        module = importlib.import_module(f"qsmprep.cli.{command}")
        parser = module.build_parser()
        found[f"qsmprep-{command}"] = parser
        for action in parser._actions:
            if isinstance(action, argparse._SubParsersAction):
                found |= {f"qsmprep-{command} {name}": sub for name, sub in action.choices.items()}
    return {**found, "qsmprep-slurm": build_slurm_parser()}


def options_page() -> str:
    """Every option of every command, from the parsers themselves."""
    lines = ["# Every option", "", "Generated from the parsers of the commands.", ""]
    for name, parser in parsers().items():
        lines += [
            f"## {name}",
            "",
            _cell(parser.description or ""),
            "",
            "| option | values | meaning |",
            "| --- | --- | --- |",
        ]
        for action in parser._actions:
            if isinstance(action, argparse._SubParsersAction) or action.help == argparse.SUPPRESS:
                continue
            words = ", ".join(f"`{word}`" for word in action.option_strings) or f"`{action.dest}`"
            values = ", ".join(map(str, action.choices)) if action.choices else str(action.metavar or "")
            text = (action.help or "") % {**vars(action), "prog": parser.prog}
            lines.append(f"| {words} | {_cell(values)} | {_cell(text)} |")
        lines.append("")
    return "\n".join(lines)


def equations() -> dict[str, str]:
    """Equations by ``step/method``."""
    text = (ROOT / "docs" / "equations.txt").read_text(encoding="utf-8")
    found = re.findall(r"^\[([\w/]+)\]\n((?:(?!\[|#).+\n?)+)", text, flags=re.MULTILINE)
    return {key: value.strip() for key, value in found}


def methods_page() -> str:
    """Every method: what it is, its equation, its parameters, its sources."""
    known, sources = equations(), load()
    lines = [
        "# Every method",
        "",
        "Generated from the register of methods. The first of a step is its default.",
        "",
        SYMBOLS,
    ]
    for step in METHODS.steps():
        lines += [f"## {step}", ""]
        for name in METHODS.names(step):
            method = METHODS.get(step, name)
            lines += [f"### {step}: {name}", "", f"{method.title}.", "", "```text", known[f"{step}/{name}"], "```", ""]
            fields = dataclasses.fields(method.parameters)
            if fields:
                lines += ["| parameter | default | unit | limits | meaning |", "| --- | --- | --- | --- | --- |"]
            for field in fields:
                about = field.metadata
                limits = ", ".join(about["choices"]) or f"{about['low']:g} to {about['high']:g}"
                limits = "" if isinstance(field.default, str | bool) and not about["choices"] else limits
                cells = (f"`{name}.{field.name}`", f"`{field.default}`", about["unit"], limits, about["meaning"])
                lines.append("| " + " | ".join(map(_cell, cells)) + " |")
            lines += ["", *(f"- {_cell(sources[key].text())}" for key in method.citations), ""]
    return "\n".join(lines)


def outputs_page() -> str:
    """Every kind of output, from the table of names, below what the README says of outputs."""
    lines = [chapter("Outputs").replace("## Outputs", "# Every output", 1), "", "## Kinds of files", ""]
    lines += ["| suffix | folder | unit | files | in BIDS |", "| --- | --- | --- | --- | --- |"]
    for output in OUTPUTS.values():
        files = ", ".join(output.extensions)
        lines.append(
            f"| `{output.suffix}` | {output.datatype} | {output.units or ''} | {files} | {'yes' if output.in_bids else 'no'} |"
        )
    return "\n".join(lines) + "\n"


def chapter(title: str) -> str:
    """A chapter of the README, so that nothing is said twice."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    found = re.search(rf"^## {re.escape(title)}\n.*?(?=^## |\Z)", text, flags=re.MULTILINE | re.DOTALL)
    if found is None:
        raise SystemExit(f"the README has no chapter {title!r}")
    return found.group().replace("](docs/pages/", "](../")


def pages() -> dict[str, str]:
    """File name to content."""
    chapters = {"install": "Install", "use": "Use", "training": "Training", "networks": "Learned inversions"}
    made = {f"{name}.md": chapter(title).replace("## ", "# ", 1) for name, title in chapters.items()}
    made["exit-codes.md"] = chapter("Exit codes").replace("## ", "# ", 1)
    made["slurm-transcript.md"] = (ROOT / "docs" / "slurm-transcript.md").read_text(encoding="utf-8")
    return {**made, "options.md": options_page(), "methods.md": methods_page(), "outputs.md": outputs_page()}


def _cell(text: object) -> str:
    """Text that a cell of a table holds: one line, no bars, no markup."""
    return " ".join(str(text).split()).replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*")


def main() -> None:
    """Write the pages."""
    folder = ROOT / "docs" / "pages" / "generated"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name, text in pages().items():
        (folder / name).write_text(text, encoding="utf-8")
    images = ROOT / "docs" / "pages" / "images"
    images.mkdir(exist_ok=True)
    shutil.copy(ROOT / "docs" / "images" / "chimap.png", images)


if __name__ == "__main__":
    main()
