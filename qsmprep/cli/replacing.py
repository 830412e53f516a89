"""No result of ``qsmprep-step`` may take the place of what it was made from."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from qsmprep.errors import UsageError

EXTENSIONS = (".nii.gz", ".nii", ".mgz", ".mgh", ".tsv", ".json")
"""Of what is read and written."""


def refuse_replacing(results: Iterable[Path], inputs: Iterable[Path | None]) -> None:
    """Refuse results that would replace an input, or the JSON file or the table beside one.

    Parameters
    ----------
    results : iterable of Path
        All files that are written, those beside an image or a table included.
    inputs : iterable of Path or None
        Files that are read.

    Raises
    ------
    UsageError
        At the first that would be lost.
    """
    written = {path.absolute(): path for path in results}
    for path in inputs:
        for file in () if path is None else with_companions(path):
            if file.absolute() in written:
                told = f"the result would replace an input, {path}"
                raise UsageError(
                    told if file == path else f"{file.name}, which is written too, belongs to the input {path}",
                    file=written[file.absolute()],
                    expected="another name than that of an input",
                    remedy="choose another name",
                )


def with_companions(path: Path) -> Iterator[Path]:
    """A file, and the JSON file and the table that may lie beside it."""
    yield path
    ending = next((ending for ending in EXTENSIONS if path.name.endswith(ending)), "")
    stem = path.name.removesuffix(ending)
    yield from (path.with_name(stem + other) for other in (".json", ".tsv") if other != ending)
