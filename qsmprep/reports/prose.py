"""Text on the page: a small, safe subset of Markdown, links of citations, numbers."""

from __future__ import annotations

import math
import re
from typing import Any

from markupsafe import Markup, escape

_DOI = re.compile(r"(?:https?://(?:dx\.)?doi\.org/|doi:\s*)(10\.\d{4,9}/[^\s<>\"']+)", re.IGNORECASE)
_BULLET = re.compile(r"^\s*[-*]\s+")
_INLINE = re.compile(r"`([^`]+)`|\*\*([^*]+)\*\*|\*([^*\s][^*]*)\*")
_TAGS = ("code", "strong", "em")


def markdown(text: str) -> Markup:
    """Paragraphs, headings, lists, emphasis and code; everything else is shown as it is written.

    All HTML in ``text`` is escaped. Headings become ``h5``, below those of the page.
    """
    blocks = []
    for block in re.split(r"\n\s*\n", text.strip()):
        lines = block.strip().splitlines()
        if not lines:
            continue
        heading = re.match(r"#{1,6}\s+(.*)", lines[0])
        if heading:
            blocks.append(f"<h5>{_inline(heading[1])}</h5>")
            lines = lines[1:]
        if lines and all(_BULLET.match(line) for line in lines):
            items = "".join(f"<li>{_inline(_BULLET.sub('', line))}</li>" for line in lines)
            blocks.append(f"<ul>{items}</ul>")
        elif lines:
            blocks.append(f"<p>{_inline(' '.join(line.strip() for line in lines))}</p>")
    return Markup("\n".join(blocks))


def citation(text: str) -> Markup:
    """A bibliography entry with its DOI as a link (which is followed only when it is clicked)."""
    parts, end = [], 0
    for match in _DOI.finditer(text):
        doi = match[1].rstrip(".,;)")
        parts.append(escape(text[end : match.start()]))
        parts.append(Markup('<a href="https://doi.org/{0}" rel="noreferrer">doi:{0}</a>').format(doi))
        end = match.start(1) + len(doi)
    return Markup("").join([*parts, escape(text[end:])])


def number(value: Any) -> str:
    """A value as text: four significant digits, lists with commas, ``n/a`` for what is not there."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return "n/a"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple)):
        return ", ".join(number(v) for v in value)
    if isinstance(value, float):
        return f"{value:.4g}".replace("-", "−")
    return str(value)


def _inline(text: str) -> str:
    """Escape, then mark code and emphasis (which do not nest)."""

    def mark(match: re.Match[str]) -> str:
        tag = _TAGS[(match.lastindex or 1) - 1]
        return f"<{tag}>{match[match.lastindex or 1]}</{tag}>"

    return _INLINE.sub(mark, str(escape(text)))
