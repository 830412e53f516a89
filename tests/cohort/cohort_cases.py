"""Tables of regions as the participant level writes them, with known effects."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from qsmprep.bids.tables import write_roi_table
from qsmprep.core.roi import RoiRow, RoiStatistics
from qsmprep.core.structures import FIRST, Region

STRUCTURES = ("thalamus", "caudate", "putamen", "pallidum", "accumbens", "hippocampus", "amygdala")
BASE_PPM = {"pallidum": 0.12, "putamen": 0.05, "caudate": 0.05}
EFFECT_PPM, SLOPE_PPM_YEAR, NOISE_PPM = 0.03, 0.0006, 0.01


@dataclasses.dataclass(frozen=True)
class Person:
    label: str
    age: float
    sex: str
    group: str


def people(n: int, seed: int = 0) -> list[Person]:
    """Controls and patients, men and women, in turn."""
    rng = np.random.default_rng(seed)
    return [
        Person(f"sub-{i + 1:03d}", float(rng.integers(20, 80)), "MFFM"[i % 4], ("control", "patient")[i % 2])
        for i in range(n)
    ]


def chi_of(person: Person, region: Region, rng: np.random.Generator) -> float:
    """Age slope in the putamen, effect of group in the pallidum, and nothing else."""
    value = BASE_PPM.get(region.structure, 0.0) + rng.normal(0, NOISE_PPM)
    value += SLOPE_PPM_YEAR * (person.age - 50) * (region.structure == "putamen")
    return value + EFFECT_PPM * (region.structure == "pallidum") * (person.group == "patient")


def row_of(region: Region, value: float, n: int = 500) -> RoiRow:
    filled = {f.name: value for f in dataclasses.fields(RoiStatistics) if f.metadata["unit"] == "map"}
    counts = {"n_voxels": n, "volume_mm3": float(n), "coverage": 1.0, "n_trimmed": 3, "n_eroded": n // 2}
    return RoiRow(region, "region", RoiStatistics(**{**filled, **counts, "weighted_volume_mm3": float(n)}))


def write_table(out: Path, label: str, values: dict[int, float], *, entities: str = "", desc: str = "tv") -> Path:
    """One ROI table of one scan; ``entities`` as ``ses-1`` or ``acq-x_run-2``."""
    session = [word for word in entities.split("_") if word.startswith("ses-")]
    folder = out.joinpath(label, *session, "anat")
    stem = "_".join(word for word in (label, entities, "seg-first", f"desc-{desc}") if word)
    rows = [row_of(FIRST[code], value, 0 if np.isnan(value) else 500) for code, value in values.items()]
    whole = dataclasses.replace(row_of(Region(0, "whole brain", "whole brain", "B"), 0.0), kind="whole")
    quantity, unit = ("R2star", "1/s") if desc == "R2star" else ("chi", "ppm")
    return write_roi_table([*rows, whole], quantity, unit, folder / f"{stem}_stats.tsv")


def write_cohort(root: Path, n: int, seed: int = 0, *, sessions: int = 1, shift: float = 0.0) -> tuple[Path, Path]:
    """``raw`` with ``participants.tsv`` and ``out`` with one table a session."""
    raw, out = root / "raw", root / "out"
    raw.mkdir(parents=True)
    (raw / "dataset_description.json").write_text('{"Name": "tables", "BIDSVersion": "1.10.0"}')
    persons = people(n, seed)
    rows = [f"{p.label}\t{p.age:g}\t{p.sex}\t{p.group}" for p in persons]
    (raw / "participants.tsv").write_text("\n".join(["participant_id\tage\tsex\tgroup", *rows]) + "\n")
    rng = np.random.default_rng(seed + 1)
    for person in persons:
        own = {code: rng.normal(0, 0.01) for code in FIRST}
        for visit in range(sessions):
            values = {code: chi_of(person, region, rng) for code, region in FIRST.items()}
            if sessions > 1:
                values = {code: value + own[code] + shift * visit for code, value in values.items()}
            write_table(out, person.label, values, entities=f"ses-{visit + 1}" if sessions > 1 else "")
    return raw, out


def change_people(raw: Path, column: str, values: dict[str, str]) -> None:
    """Write other values into a column of ``participants.tsv``, by participant."""
    path = raw / "participants.tsv"
    header, *rows = (line.split("\t") for line in path.read_text().splitlines())
    at = header.index(column)
    for row in rows:
        row[at] = values.get(row[0], row[at])
    path.write_text("\n".join("\t".join(row) for row in (header, *rows)) + "\n")
