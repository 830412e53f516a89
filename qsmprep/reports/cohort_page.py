"""The page of a cohort: one self-contained HTML file in the style of the subjects' pages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qsmprep.bids.write import write_text
from qsmprep.reports.embed import embed_figures
from qsmprep.reports.page import MAX_PAGE_BYTES, TEXT_BYTES, page_environment


@dataclass(frozen=True)
class Link:
    """A cell of a table that leads to another page; ``address`` is relative to the output folder."""

    text: str
    address: str


@dataclass(frozen=True)
class Table:
    """A table of the page: what it shows, the names of its columns, and its cells."""

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]
    file: str = ""
    folded: bool = False


@dataclass(frozen=True)
class Plot:
    """A figure of the page and the file with its numbers, both relative to the output folder."""

    title: str
    file: str
    alt: str
    caption: str
    data_file: str


@dataclass(frozen=True)
class Chapter:
    """A section: heading, paragraphs, warnings, tables and figures."""

    anchor: str
    heading: str
    text: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    tables: tuple[Table, ...] = ()
    plots: tuple[Plot, ...] = ()


@dataclass(frozen=True)
class CohortPage:
    """Everything on the page."""

    title: str
    level: str
    version: str
    chapters: tuple[Chapter, ...]
    bibliography: tuple[str, ...] = field(default=())


def write_cohort_page(page: CohortPage, out_dir: Path, file: str = "group.html") -> Path:
    """Write the page with its figures inside, whole or not at all.

    Parameters
    ----------
    page : CohortPage
    out_dir : Path
        Output folder; figures are read from it.
    file : str
        Name of the page.

    Raises
    ------
    CannotWriteError
        When the page cannot be written.
    """
    files: Sequence[str] = [plot.file for chapter in page.chapters for plot in chapter.plots]
    pictures = embed_figures(Path(out_dir), tuple(files), MAX_PAGE_BYTES - TEXT_BYTES)
    html = page_environment().get_template("cohort.html.j2").render(page=page, pictures=pictures)
    return write_text(html, Path(out_dir) / file)
