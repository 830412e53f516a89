"""The references behind the methods: from keys to numbered text and to BibTeX.

The entries stand in ``data/bibliography.bib``, in a plain subset of BibTeX: one entry after
another, fields as ``name = {value}``, ``%`` comments between entries. Nothing is fetched.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from types import MappingProxyType

MAX_AUTHORS = 6
"""Authors named in the text of a reference before "et al."."""

_HEAD = re.compile(r"@(\w+)\s*\{\s*([^\s,{}]+)\s*,")
_FIELD = re.compile(r"\s*(\w+)\s*=\s*\{")


@dataclass(frozen=True)
class Entry:
    """One reference.

    Parameters
    ----------
    key : str
        What methods cite it by, for example ``liu2011``.
    kind : str
        ``article``, ``misc`` …
    fields : mapping of str to str
        ``author``, ``title``, ``year``, ``journal``, ``doi`` … as written, braces kept.
    """

    key: str
    kind: str
    fields: Mapping[str, str]

    @property
    def authors(self) -> tuple[str, ...]:
        """Names in order, as ``Family AB``; a group keeps its name, ``others`` becomes ``et al.``."""
        return tuple(_short_name(name) for name in re.split(r"\s+and\s+", self.fields["author"]))

    @property
    def url(self) -> str:
        """Where the reference is found: its DOI as an address, or empty."""
        return f"https://doi.org/{self.fields['doi']}" if "doi" in self.fields else ""

    def text(self) -> str:
        """The reference as one line of plain text, without a number."""
        names = list(self.authors)
        if len(names) > MAX_AUTHORS:
            names = [*names[:3], "et al."]
        where = _plain(self.fields.get("journal") or self.fields.get("howpublished", ""))
        place = self.fields.get("volume", "")
        if "number" in self.fields:
            place += f"({self.fields['number']})"
        if "pages" in self.fields:
            place += f":{self.fields['pages'].replace('--', '–')}"
        issue = "; ".join(part for part in (self.fields["year"], place) if part)
        title = _plain(self.fields["title"])
        line = f"{', '.join(names).rstrip('.')}. {title}{'' if title[-1] in '.?!' else '.'} "
        line += f"{where}. {issue}." if where else f"{issue}."
        return f"{line} doi:{self.fields['doi']}" if "doi" in self.fields else line

    def bibtex(self) -> str:
        """The entry as BibTeX, ending in a newline."""
        body = "".join(f"  {name} = {{{value}}},\n" for name, value in self.fields.items())
        return f"@{self.kind}{{{self.key},\n{body}}}\n"


def _plain(text: str) -> str:
    return text.replace("{", "").replace("}", "")


def _short_name(name: str) -> str:
    """``Family, Given Name`` to ``Family GN``; what stands in braces is a group and stays."""
    if name == "others":
        return "et al."
    if name.startswith("{"):
        return _plain(name)
    family, _, given = name.partition(",")
    initials = "".join(part[0] for part in re.split(r"[\s\-.]+", given) if part)
    return f"{family} {initials}".strip()


def _braced(text: str, start: int) -> int:
    """Position of the brace that closes the one open before ``start``."""
    depth = 1
    for position in range(start, len(text)):
        depth += {"{": 1, "}": -1}.get(text[position], 0)
        if depth == 0:
            return position
    raise ValueError(f"a brace opened before character {start} is never closed")


def parse(text: str) -> dict[str, Entry]:
    """Read BibTeX (the subset of this module) into entries by key.

    Raises
    ------
    ValueError
        For unbalanced braces or a key that occurs twice.
    """
    entries: dict[str, Entry] = {}
    text = re.sub(r"^\s*%.*$", "", text, flags=re.MULTILINE)
    position = 0
    while head := _HEAD.search(text, position):
        kind, key = head.group(1).lower(), head.group(2)
        end = _braced(text, head.end())
        fields: dict[str, str] = {}
        position = head.end()
        while field := _FIELD.match(text, position, end):
            closing = _braced(text, field.end())
            fields[field.group(1).lower()] = " ".join(text[field.end() : closing].split())
            position = closing + 1
            while position < end and text[position] in ", \n\t\r":
                position += 1
        if position != end:
            raise ValueError(f"entry `{key}` has a field that cannot be read: {text[position : position + 40]!r}")
        if key in entries:
            raise ValueError(f"entry `{key}` occurs twice")
        entries[key] = Entry(key, kind, MappingProxyType(fields))
        position = end + 1
    return entries


@cache
def load() -> Mapping[str, Entry]:
    """All entries that come with the package, by key."""
    source = files("qsmprep.data").joinpath("bibliography.bib").read_text(encoding="utf-8")
    return MappingProxyType(parse(source))


def _unique(keys: Iterable[str]) -> list[Entry]:
    entries = load()
    wanted = list(dict.fromkeys(keys))
    missing = [key for key in wanted if key not in entries]
    if missing:
        raise KeyError(f"not in the bibliography: {', '.join(missing)}")
    return [entries[key] for key in wanted]


def cite(keys: Iterable[str]) -> list[str]:
    """The references of these keys as text, numbered from 1 in the order of first mention.

    Parameters
    ----------
    keys : iterable of str
        Keys of the bibliography; a key that comes again is not listed again.

    Returns
    -------
    list of str
        For example ``["1. Sun H, Wilman AH. Background field removal …"]``.

    Raises
    ------
    KeyError
        When a key has no entry (the tests make sure that those of the methods do).
    """
    return [f"{number}. {entry.text()}" for number, entry in enumerate(_unique(keys), start=1)]


def bibtex(keys: Iterable[str]) -> str:
    """The entries of these keys as one BibTeX text, in the order of first mention.

    Raises
    ------
    KeyError
        When a key has no entry.
    """
    return "\n".join(entry.bibtex() for entry in _unique(keys))
