"""The methods text with its references, as Markdown, HTML and BibTeX."""

from __future__ import annotations

import html
import re
from pathlib import Path

from qsmprep.bids.write import write_text
from qsmprep.core.bibliography import bibtex, cite
from qsmprep.version import qsmprep_version

_CITATION = re.compile(r"\[(@[\w-]+(?:;\s*@[\w-]+)*)\]")


def number_citations(text: str) -> tuple[str, list[str]]:
    """Replace ``[@key; @other]`` by ``[1, 2]`` and return the keys in that order."""
    keys: list[str] = []

    def number(match: re.Match[str]) -> str:
        found = [key.strip().removeprefix("@") for key in match.group(1).split(";")]
        keys.extend(key for key in found if key not in keys)
        return "[" + ", ".join(str(keys.index(key) + 1) for key in found) + "]"

    return _CITATION.sub(number, text), keys


def render(text: str) -> tuple[str, list[str]]:
    """The text with numbered citations, and the numbered references."""
    numbered, keys = number_citations(text)
    return numbered, cite(keys)


def write_boilerplate(text: str, *folders: Path) -> None:
    """Write ``CITATION.md``, ``.html`` and ``.bib`` into each folder.

    Parameters
    ----------
    text : str
        Methods text with ``[@key]`` citations.
    folders : Path
        The log folder of the run and the one of the data set; the latter is shared by parallel
        runs, so every file is written beside its place and renamed.
    """
    numbered, references = render(text)
    _, keys = number_citations(text)
    title = f"Methods (qsmprep {qsmprep_version()})"
    markdown = f"# {title}\n\n{numbered}\n\n## References\n\n" + "\n".join(references) + "\n"
    paragraphs = "".join(f"<p>{html.escape(part)}</p>\n" for part in numbered.split("\n") if part.strip())
    items = "".join(f"<li>{html.escape(ref.split('. ', 1)[1])}</li>\n" for ref in references)
    page = (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title></head>\n'
        f"<body><h1>{html.escape(title)}</h1>\n{paragraphs}<h2>References</h2>\n<ol>\n{items}</ol></body></html>\n"
    )
    for folder in folders:
        write_text(markdown, folder / "CITATION.md")
        write_text(page, folder / "CITATION.html")
        write_text(bibtex(keys), folder / "CITATION.bib")
