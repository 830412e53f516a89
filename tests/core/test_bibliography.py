"""The bibliography: every reference is there, whole, and reads as text and as BibTeX."""

from __future__ import annotations

import re
from datetime import date
from pathlib import Path

import pytest

from qsmprep.core import bibliography
from qsmprep.core.bibliography import Entry, bibtex, cite, load, parse
from qsmprep.core.methods import METHODS

PACKAGE = Path(bibliography.__file__).parents[1]
DOI = re.compile(r"10\.\d{4,9}/\S+")
SMALL = """
% a remark with a brace {
@Article{first2001,
  author = {de la Cruz, Ana-María and Li, B. and {A Study Group}},
  title = {Is {QSM} a {{nested}} thing?},
  journal = {Journal of Tests}, year = {2001},
  volume = {7}, number = {2}, pages = {11--19}, doi = {10.1000/xyz},
}
@misc{second, author = {Solo, Han and others}, title = {A tool}, year = {1999}}
"""


def test_parse_reads_kinds_fields_and_nested_braces():
    entries = parse(SMALL)
    assert list(entries) == ["first2001", "second"]
    first = entries["first2001"]
    assert first.kind == "article"
    assert first.fields["title"] == "Is {QSM} a {{nested}} thing?"
    assert first.authors == ("de la Cruz AM", "Li B", "A Study Group")
    assert first.url == "https://doi.org/10.1000/xyz"
    assert entries["second"].url == ""


def test_text():
    entries = parse(SMALL)
    assert entries["first2001"].text() == (
        "de la Cruz AM, Li B, A Study Group. Is QSM a nested thing? Journal of Tests. 2001; 7(2):11–19. doi:10.1000/xyz"
    )
    assert entries["second"].text() == "Solo H, et al. A tool. 1999."


def test_many_authors_are_cut():
    names = " and ".join(f"Name{letter}, {letter}." for letter in "ABCDEFG")
    entry = Entry("k", "misc", {"author": names, "title": "T", "year": "2000"})
    assert entry.text().startswith("NameA A, NameB B, NameC C, et al. T. 2000")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("@misc{a, title = {open", "never closed"),
        ("@misc{a, title = {A}}\n@misc{a, title = {B}}", "twice"),
        ("@misc{a, title = bare, year = {2000}}", "cannot be read"),
    ],
)
def test_what_cannot_be_read_is_told(text, told):
    with pytest.raises(ValueError, match=told):
        parse(text)


@pytest.mark.parametrize("key", list(load()))
def test_entry_is_whole(key):
    fields = load()[key].fields
    assert {"author", "title", "year"} <= set(fields)
    assert 1900 < int(fields["year"]) <= date.today().year
    assert re.match(r"[a-z]+\d{4}[a-z]*$", key)
    assert key.lower().find(fields["year"]) > 0, "the key carries another year"
    assert DOI.fullmatch(fields["doi"]), "every reference so far has a DOI"
    if load()[key].kind == "article":
        assert {"journal", "volume", "pages"} <= set(fields)


def test_dois_are_unique():
    dois = [entry.fields["doi"].lower() for entry in load().values()]
    assert len(dois) == len(set(dois))


def test_every_method_cites_something_that_is_there():
    """Methods that leave the values as they are (`none`) need no reference."""
    for method in METHODS:
        assert set(method.citations) <= set(load()), f"{method.step}/{method.name}"
        if method.step in ("unwrap", "combine", "background", "inversion"):
            assert method.citations, f"{method.step}/{method.name}"


def test_dois_in_docstrings_of_cited_works_agree():
    """A DOI of the bibliography is spelt in the code as it is spelt here."""
    known = {entry.fields["doi"].lower(): entry.fields["doi"] for entry in load().values()}
    for path in PACKAGE.rglob("*.py"):
        for doi in re.findall(r"doi:\s?(10\.\d{4,9}/[^\s,;\]\"'`]+)", path.read_text(encoding="utf-8")):
            doi = doi.rstrip(".)")
            assert known.get(doi.lower(), doi) == doi, f"{path.name}: {doi}"


def test_cite_numbers_in_order_of_mention():
    lines = cite(["sun2014", "liu2011", "sun2014"])
    assert len(lines) == 2
    assert lines[0].startswith("1. Sun H, Wilman AH. ")
    assert lines[1].startswith("2. Liu T, ")


def test_bibtex_reads_back_the_same():
    keys = list(load())
    assert parse(bibtex(keys)) == dict(load())
    assert list(parse(bibtex(["liu2011", "sun2014", "liu2011"]))) == ["liu2011", "sun2014"]


@pytest.mark.parametrize("function", [cite, bibtex])
def test_unknown_keys(function):
    with pytest.raises(KeyError, match="nobody1066"):
        function(["sun2014", "nobody1066"])
