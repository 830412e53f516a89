"""The page of a cohort: from tables to chapters with plots, each with the file of its numbers beside it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from qsmprep.bids.names import safe_label
from qsmprep.cohort.models import FAMILY
from qsmprep.cohort.normative import SPREADS, IronLine, fit_iron_line, is_of_map
from qsmprep.cohort.regions import titles
from qsmprep.cohort.tables import unit_of, write_frame
from qsmprep.core.bibliography import cite
from qsmprep.core.iron import HALLGREN_SOURANDER
from qsmprep.reports import cohort_graphs as graphs
from qsmprep.reports.cohort_page import Chapter, CohortPage, Plot, Table, write_cohort_page
from qsmprep.reports.quality import Quality
from qsmprep.version import qsmprep_version
from qsmprep.workflows.group import FILES, GroupResult
from qsmprep.workflows.group_quality import outlier_chapter, quality_chapter
from qsmprep.workflows.group_template import Family, template_chapter

FIGURES = "figures"
MAX_PANELS = 12
FIRST_STRUCTURES = (
    "pallidum",
    "putamen",
    "caudate",
    "thalamus",
    "red nucleus",
    "substantia nigra",
    "dentate nucleus",
    "subthalamic nucleus",
    "pallidum external",
    "pallidum internal",
    "substantia nigra compacta",
    "substantia nigra reticulata",
    "accumbens",
    "hippocampus",
    "amygdala",
)
"""Regions that are shown first; the rest follow as there is room."""

CURVE = "iron over age (Hallgren and Sourander)"

IRON_TEXT = (
    "Grey line: iron over age in pallidum, putamen and caudate after Hallgren and Sourander (1958), brought to "
    "susceptibility by one offset and one slope for all three nuclei, fitted to this cohort: {offset:.4f} ppm and "
    "{slope:.6f} ppm for each mg of iron in a kg of tissue (R² {r2:.2f}, {n} measurements). The shape over age and the "
    "proportions between the nuclei are the published ones; offset and slope are not."
)


def write_page(result: GroupResult, out_dir: Path) -> Path:
    """Draw the plots, write the files of their numbers, and write ``group.html``."""
    chapters = [_summary(result)]
    cited = ["benjamini1995"]
    families = result.cohort.rows.groupby(list(FAMILY), observed=True, sort=False)
    for number, (key, rows) in enumerate(families, start=1):
        family = dict(zip(FAMILY, (str(word) for word in key), strict=True))
        chapter, iron = _family(result, family, rows, out_dir, f"m{number}")
        chapters.append(chapter)
        cited += ["hallgren1958"] if iron else []
    maps, unread = template_chapter(list(result.maps), out_dir)
    chapters += [maps] if maps else []
    if unread:
        chapters[0] = dataclasses.replace(chapters[0], warnings=(*chapters[0].warnings, *unread))
    chapter = quality_chapter(result.quality.metrics, result.outliers, out_dir)
    chapters += [chapter] if chapter else []
    chapters.append(outlier_chapter(result.outliers, FILES["outliers"], out_dir))
    level = "check" if unread or result.cohort.missing or result.cohort.problems or len(result.outliers) else "ok"
    page = CohortPage("Cohort", level, qsmprep_version(), tuple(chapters), tuple(cite(dict.fromkeys(cited))))
    return write_cohort_page(page, out_dir)


def _summary(result: GroupResult) -> Chapter:
    cohort = result.cohort
    people = cohort.rows.drop_duplicates("participant_id")
    least, most = result.models.participants
    counts: list[tuple[Any, ...]] = [
        ("participants with tables", len(cohort.present)),
        ("participants in the models", most if least == most else f"{least} to {most}, by region"),
    ]
    for name in cohort.covariates:
        column = people[name]
        if column.dtype.kind == "f":
            counts.append((name, f"{column.mean():.4g} ± {column.std():.3g} ({column.min():g} to {column.max():g})"))
        elif column.nunique() <= 8:
            counts += [(f"{name}: {level}", int(n)) for level, n in column.value_counts(sort=False).items()]
    warnings = [*cohort.problems, *result.notes, *result.models.notes]
    if cohort.missing:
        warnings.insert(0, f"No table of regions: {', '.join(cohort.missing)}")
    if cohort.unmatched:
        warnings.insert(0, f"Not in participants.tsv, so in no model with covariates: {', '.join(cohort.unmatched)}")
    text = (
        f"Regions are described by their {result.statistic}. The models are `{result.models.formula}`, one for each "
        "region of each map; regions without a voxel are left out. Long table: "
        f"`{FILES['long']}`; wide table: `{FILES['wide']}`; all coefficients: `{FILES['models']}`.",
    )
    table = Table("Participants", ("what", "value"), tuple(counts), FILES["participants"])
    return Chapter("summary", "Summary", text, tuple(warnings), (table,))


def _family(
    result: GroupResult, family: dict[str, str], rows: pd.DataFrame, out_dir: Path, anchor: str
) -> tuple[Chapter, IronLine | None]:
    """The chapter of one map and segmentation."""
    stem = "_".join(["group", *(safe_label(family[k]) for k in ("map", "segmentation"))])
    others = [family[k] for k in ("acquisition", "other") if family[k] != "n/a"]
    stem = "_".join([stem, *map(safe_label, others)])
    table = result.models.table
    unit = unit_of(result.statistic, family["unit"])
    own = {**family, "unit": unit}
    mine = table[np.logical_and.reduce([table[k].astype(str) == v for k, v in own.items()])]
    mine = mine.assign(region=titles(mine))
    regions = rows[(rows["kind"] == "region") & (rows["n_voxels"] > 0)]
    quantity = {"chi": "χ", "R2star": "R2*"}.get(family["quantity"], family["quantity"])
    plots = _effect_plots(mine, out_dir, stem)
    label = f"{_measured(result.statistic, quantity)} ({unit})"
    plots += _group_plot(result, regions, out_dir, stem, label)
    age_plot, line = _age_plot(result, regions, out_dir, stem, family, label)
    plots += age_plot
    heading = f"{quantity} {family['map']}, {family['segmentation']}" + "".join(f", {word}" for word in others)
    return Chapter(anchor, heading, (), (), _model_tables(mine, unit), tuple(plots)), line


def _measured(statistic: str, quantity: str) -> str:
    """What the axis of a plot shows: the quantity for its levels, else what the statistic is."""
    if not is_of_map(statistic):
        return statistic
    return f"{statistic} of {quantity}" if statistic in SPREADS else quantity


def _model_tables(mine: pd.DataFrame, unit: str) -> tuple[Table, ...]:
    tables = []
    columns = (
        "region", "estimate", "ci_low", "ci_high", "p", "p_fdr", "effect_size", "hc3_p", "huber_estimate", "n_rows",
    )  # fmt: skip
    heads = (
        "region", f"estimate ({unit})", "from", "to", "p", "p corrected", "effect size", "p (HC3)",
        "estimate (Huber)", "n",
    )  # fmt: skip
    for term, part in mine[mine["status"] == "ok"].groupby("term", sort=False):
        cells = tuple(tuple(row[c] for c in columns) for row in part.to_dict("records"))
        tables.append(Table(f"{term}, {len(cells)} regions", heads, cells, FILES["models"], folded=term == "Intercept"))
    return tuple(tables)


def _effect_plots(mine: pd.DataFrame, out_dir: Path, stem: str) -> list[Plot]:
    """A forest plot for every term but the intercept."""
    plots = []
    good = mine[
        (mine["status"] == "ok") & (mine["term"] != "Intercept") & np.isfinite(mine["effect_size"].astype(float))
    ]
    for number, (term, part) in enumerate(good.groupby("term", sort=False), start=1):
        effects = [
            graphs.Effect(r["region"], r["effect_size"], r["effect_low"], r["effect_high"], bool(r["p_fdr"] < 0.05))
            for r in part.to_dict("records")
        ]
        file = f"{FIGURES}/{stem}_effect-{number}.png"
        graphs.plot_effects(effects, str(term), out_dir / file)
        data = _numbers(part.drop(columns="region"), file, out_dir)
        alt = f"Effect sizes of {term} for {len(effects)} regions with 95 % intervals."
        said = "Effect sizes over regions; orange stands the correction over regions."
        plots.append(Plot(f"Effect of {term}", file, alt, said, data))
    return plots


def _shown(regions: pd.DataFrame) -> list[str]:
    """Structures in the order in which they are shown."""
    there = list(dict.fromkeys(regions["structure"].astype(str)))
    return sorted(there, key=lambda s: FIRST_STRUCTURES.index(s) if s in FIRST_STRUCTURES else 99)[:MAX_PANELS]


def _groups(part: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    if "group" not in part or not 0 < part["group"].nunique() <= graphs.MAX_GROUPS:
        return [("all", part)]
    return [(str(name), rows) for name, rows in part.groupby("group", observed=True) if len(rows)]


def _group_plot(result: GroupResult, regions: pd.DataFrame, out_dir: Path, stem: str, label: str) -> list[Plot]:
    """Every measurement by group."""
    regions = regions[np.isfinite(regions[result.statistic])]
    panels = []
    for structure in _shown(regions):
        part = regions[regions["structure"] == structure]
        points = [
            graphs.Points(name, np.zeros(len(rows)), rows[result.statistic].to_numpy(float))
            for name, rows in _groups(part)
        ]
        if points:
            panels.append(graphs.Panel(structure, points))
    if not panels:
        return []
    file = f"{FIGURES}/{stem}_groups.png"
    graphs.plot_groups(panels, label, out_dir / file)
    columns = [
        c for c in ("participant_id", "session", "group", "structure", "hemisphere", result.statistic) if c in regions
    ]
    data = _numbers(regions.loc[regions["structure"].isin(_shown(regions)), columns], file, out_dir)
    alt = f"{len(panels)} panels, one a structure, with every measurement as a dot and medians with quartiles."
    caption = f"{result.statistic} of left and right by group; thick line: median, thin line: quartiles."
    return [Plot("Regions by group", file, alt, caption, data)]


def _age_plot(
    result: GroupResult, regions: pd.DataFrame, out_dir: Path, stem: str, family: dict[str, str], label: str
) -> tuple[list[Plot], IronLine | None]:
    """Every measurement against age, with the published growth of iron behind."""
    if "age" not in regions or regions["age"].dtype.kind != "f" or regions["age"].nunique() < 3:
        return [], None
    known = regions[np.isfinite(regions["age"]) & np.isfinite(regions[result.statistic])]
    line = fit_iron_line(known, result.statistic) if family["unit"] == "ppm" else None
    ages = np.linspace(max(known["age"].min() - 3, 0), known["age"].max() + 3, 100)
    panels = []
    for structure in _shown(known):
        part = known[known["structure"] == structure]
        points = [
            graphs.Points(name, rows["age"].to_numpy(float), rows[result.statistic].to_numpy(float))
            for name, rows in _groups(part)
        ]
        curve = line.chi_ppm(structure, ages) if line and structure in HALLGREN_SOURANDER else None
        panels.append(graphs.Panel(structure, points, None if curve is None else ages, curve))
    if not panels:
        return [], None
    file = f"{FIGURES}/{stem}_age.png"
    graphs.plot_age(panels, label, CURVE, out_dir / file)
    columns = [c for c in ("participant_id", "session", "group", "age", "structure", "hemisphere") if c in known]
    numbers = known.loc[known["structure"].isin(_shown(known)), [*columns, result.statistic]].copy()
    if line:
        numbers["published_curve"] = np.nan
        for structure in HALLGREN_SOURANDER:
            there = numbers["structure"] == structure
            numbers.loc[there, "published_curve"] = line.chi_ppm(structure, numbers.loc[there, "age"].to_numpy(float))
    data = _numbers(numbers, file, out_dir)
    caption = f"{result.statistic} of left and right against age. "
    if line:
        caption += IRON_TEXT.format(offset=line.offset_ppm, slope=line.slope_ppm_per_mg_kg, r2=line.r2, n=line.n)
    alt = f"{len(panels)} panels, one a structure: every measurement against age."
    return [Plot("Regions against age", file, alt, caption, data)], line


def _numbers(frame: pd.DataFrame, file: str, out_dir: Path) -> str:
    """Write the numbers of a plot beside it and return the name of their file."""
    name = file.removesuffix(".png") + ".tsv"
    write_frame(frame, out_dir / name, {})
    return name


def write_quality_page(found: Quality, flagged: pd.DataFrame, maps: list[Family], reason: str, out_dir: Path) -> Path:
    """Draw the metrics of quality control and the maps in template space, and write ``group.html`` with nothing else.

    Parameters
    ----------
    found : Quality
    flagged : DataFrame
        From :func:`qsmprep.cohort.outliers.find_outliers`.
    maps : list of Family
        From :func:`qsmprep.workflows.group_template.find_maps`.
    reason : str
        Why there is nothing else.
    out_dir : Path
    """
    mean, unread = template_chapter(maps, out_dir)
    summary = Chapter("summary", "Summary", (), (reason, *found.problems, *unread))
    chapter = quality_chapter(found.metrics, flagged, out_dir)
    parts = tuple(part for part in (mean, chapter) if part is not None)
    chapters = (summary, *parts, outlier_chapter(flagged, FILES["outliers"], out_dir))
    return write_cohort_page(CohortPage("Cohort", "check", qsmprep_version(), chapters), out_dir)
