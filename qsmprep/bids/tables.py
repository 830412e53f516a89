"""Tables: labels of a segmentation, and statistics of its regions, as tidy TSV with a JSON dictionary."""

from __future__ import annotations

import csv
import dataclasses
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from qsmprep.bids.names import sidecar_path
from qsmprep.bids.write import write_json, write_text
from qsmprep.core.roi import RoiRow, RoiStatistics
from qsmprep.core.structures import FREESURFER, HEMISPHERES, Region, make_region
from qsmprep.errors import DataError, MissingFileError

NOT_AVAILABLE = "n/a"
"""How BIDS writes a value that is not there."""

FREESURFER_WORD = "freesurfer"
"""What stands for FreeSurfer's codes where a label table is asked for."""

UNPAIRED = frozenset({"vessel", "wm hypointensities"})
"""FreeSurfer's lateral structures of which a healthy head may have one side alone."""

KEY_COLUMNS: dict[str, str] = {
    "quantity": "What the map measures",
    "index": "Value of the region in the segmentation; n/a where the row is no label",
    "name": "Name of the region in its segmentation",
    "structure": "Name without the side, the same for all segmentations",
    "hemisphere": "L for left, R for right, B for both sides or the midline",
    "kind": "region for a label, whole for all voxels in which the map is defined, reference for the reference region",
    "unit": "Unit of the values of the map",
}
"""Columns that say what a row is about, and what they mean."""

STATISTICS = tuple(f.name for f in dataclasses.fields(RoiStatistics))
"""Columns with numbers, in their order."""


def read_tsv(path: Path) -> list[dict[str, str]]:
    """Rows of a TSV file by the names of its columns.

    Raises
    ------
    MissingFileError, DataError
        When it cannot be opened, has no header, or a row has another number of columns.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except OSError as error:
        raise MissingFileError(f"the table cannot be read ({error.strerror or error})", file=path) from error
    except UnicodeDecodeError as error:
        raise DataError("the table is not UTF-8 text", file=path, expected="a TSV file") from error
    try:
        lines = [row for row in csv.reader(io.StringIO(text), delimiter="\t", quoting=csv.QUOTE_NONE) if row]
    except csv.Error as error:
        raise DataError(f"the table cannot be read ({error})", file=path, expected="a TSV file") from error
    if not lines:
        raise DataError("the table is empty", file=path, expected="a TSV file with a header")
    header = [name.strip() for name in lines[0]]
    if len(set(header)) < len(header):
        raise DataError("the table has a column twice", file=path, expected="one name for each column")
    for number, row in enumerate(lines[1:], start=2):
        if len(row) != len(header):
            raise DataError(
                f"line {number} has {len(row)} columns, the header {len(header)}",
                file=path,
                expected="columns separated by tabs",
            )
    return [dict(zip(header, (cell.strip() for cell in row), strict=True)) for row in lines[1:]]


def write_tsv(rows: Iterable[Mapping[str, Any]], columns: Sequence[str], path: Path) -> Path:
    """Write rows as TSV: numbers with seven digits, ``n/a`` for what is None or not finite. Returns the path."""
    lines = ["\t".join(columns)]
    lines += ["\t".join(_cell(row.get(column)) for column in columns) for row in rows]
    return write_text("\n".join(lines) + "\n", path)


def _cell(value: Any) -> str:
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return NOT_AVAILABLE
    text = f"{value:.7g}" if isinstance(value, float) else str(value)
    return " ".join(text.split()) or NOT_AVAILABLE


def read_label_table(path: Path) -> dict[int, Region]:
    """Regions of a BIDS label table (``*_dseg.tsv``): columns ``index`` and ``name``.

    ``hemisphere`` and ``structure`` are taken where they are there, and read from the name otherwise.

    Raises
    ------
    MissingFileError, DataError
        When it cannot be read, lacks a column, an index is no whole number or stands there twice, or a
        hemisphere is unknown.
    """
    rows = read_tsv(path)
    if rows and not {"index", "name"} <= set(rows[0]):
        raise DataError(
            f"the label table has the columns {', '.join(rows[0])}",
            file=path,
            expected="`index` and `name`, and where you like `hemisphere` (L, R, B) and `structure`",
        )
    regions: dict[int, Region] = {}
    for row in rows:
        try:
            index = int(row["index"])
        except ValueError:
            raise DataError(f"the index {row['index']!r} is no whole number", file=path) from None
        if index in regions:
            raise DataError(f"the index {index} stands in the label table twice", file=path)
        given = {key: None if row.get(key) in (None, "", NOT_AVAILABLE) else row[key] for key in row}
        side = given.get("hemisphere")
        if side is not None and side.upper() not in (*HEMISPHERES, "LEFT", "RIGHT", "LH", "RH"):
            raise DataError(f"the hemisphere of label {index} is {side!r}", file=path, expected="L, R or B")
        if index != 0:
            regions[index] = make_region(index, row["name"], side, given.get("structure"))
    if not regions:
        raise DataError("the label table names no region", file=path)
    return regions


def find_regions(
    labels_file: Path, table: Path | str | None, present: Iterable[int], always: Iterable[int] = ()
) -> tuple[dict[int, Region], str]:
    """What the labels of a segmentation mean.

    Parameters
    ----------
    labels_file : Path
        The segmentation; a TSV beside it is taken where no table is named.
    table : Path or str, optional
        A label table, or the word ``freesurfer`` for its codes (aseg, FastSurfer, SynthSeg).
    present : iterable of int
        Labels in the image. Those that no table names are called ``label <index>``, so that nothing is dropped. With
        FreeSurfer's codes a structure of which one side is there has both: a lost nucleus is a region without a voxel.
    always : iterable of int
        FreeSurfer's codes of all regions that the maker of the segmentation knows, present or not.

    Returns
    -------
    (dict of int to Region, str)
        Regions by index, and where their names come from.
    """
    present = sorted({int(index) for index in present} - {0})
    beside = sidecar_path(labels_file).with_suffix(".tsv") if str(labels_file).endswith((".nii", ".nii.gz")) else None
    if table is not None and str(table).lower() == FREESURFER_WORD and not Path(table).exists():
        codes = sorted({*present, *_partners(present), *always} & set(FREESURFER))
        regions, source = {code: FREESURFER[code] for code in codes}, "FreeSurfer's codes"
    elif table is not None:
        regions, source = read_label_table(Path(table)), str(table)
    elif beside is not None and beside.exists():
        regions, source = read_label_table(beside), str(beside)
    else:
        regions, source = {}, "the indices: no label table was given"
    unknown = {
        index: Region(index, f"label {index}", f"label {index}", "B") for index in present if index not in regions
    }
    return {**regions, **unknown}, source


def _partners(codes: Iterable[int]) -> set[int]:
    """FreeSurfer's codes of the same structures on the other side."""
    sided = {code: region.structure for code, region in FREESURFER.items() if region.hemisphere != "B"}
    there = {sided[code] for code in codes if code in sided} - UNPAIRED
    return {code for code, structure in sided.items() if structure in there}


def write_label_table(regions: Iterable[Region], path: Path) -> Path:
    """Write a BIDS label table. Returns the path."""
    return write_tsv(map(dataclasses.asdict, regions), ("index", "name", "structure", "hemisphere"), path)


def roi_records(rows: Iterable[RoiRow], quantity: str, unit: str) -> list[dict[str, Any]]:
    """Rows of a table of statistics, by column."""
    return [
        {
            "quantity": quantity,
            "index": row.region.index if row.kind == "region" else None,
            "name": row.region.name,
            "structure": row.region.structure,
            "hemisphere": row.region.hemisphere,
            "kind": row.kind,
            "unit": unit,
            **dataclasses.asdict(row.statistics),
        }
        for row in rows
    ]


def write_roi_table(
    rows: Iterable[RoiRow], quantity: str, unit: str, path: Path, facts: Mapping[str, Any] | None = None
) -> Path:
    """Write the statistics of one map over all regions, and the dictionary of the columns beside it.

    Parameters
    ----------
    rows : iterable of RoiRow
    quantity, unit : str
        Such as ``chi`` and ``ppm``.
    path : Path
        ``.tsv``; the dictionary takes the same name with ``.json``.
    facts : mapping, optional
        Further keys of the dictionary, in CamelCase: sources, parameters and the like.

    Returns
    -------
    Path
        `path`.
    """
    write_tsv(roi_records(rows, quantity, unit), (*KEY_COLUMNS, *STATISTICS), path)
    write_json({**dictionary(unit), **(facts or {})}, sidecar_path(path))
    return path


def dictionary(unit: str) -> dict[str, Any]:
    """Meaning and unit of every column, as BIDS wants it beside a TSV file."""
    columns: dict[str, Any] = {name: {"Description": meaning} for name, meaning in KEY_COLUMNS.items()}
    columns["hemisphere"]["Levels"] = {"L": "left", "R": "right", "B": "both sides or the midline"}
    for field in dataclasses.fields(RoiStatistics):
        given = field.metadata["unit"]
        columns[field.name] = {
            "Description": field.metadata["meaning"],
            "Units": unit if given == "map" else given,
        }
    return columns
