"""The reporting checklist of the QSM consensus (Tables 3 to 5), filled in from what is known.

References
----------
.. [1] Bilgic et al., Magn. Reson. Med. 91:1834 (2024), doi:10.1002/mrm.30006
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qsmprep.bids.tables import write_tsv
from qsmprep.bids.write import write_text
from qsmprep.reports.record import AcquisitionRecord


@dataclass(frozen=True)
class Item:
    """A line of the checklist and the sidecar keys that answer it, with unit and scale for display."""

    name: str
    keys: tuple[str, ...]
    essential: bool = False
    unit: str = ""
    scale: float = 1.0


@dataclass(frozen=True)
class ChecklistRow:
    """A line of the checklist as shown; ``value`` is empty when missing."""

    name: str
    essential: bool
    value: str
    remedy: str = ""

    @property
    def present(self) -> bool:
        """Whether there is a value."""
        return bool(self.value)


@dataclass(frozen=True)
class ChecklistTable:
    """One table of the checklist."""

    title: str
    rows: tuple[ChecklistRow, ...]

    @property
    def n_present(self) -> int:
        """How many lines are answered."""
        return sum(row.present for row in self.rows)


HARDWARE = (
    Item("Field strength", ("MagneticFieldStrength",), True, "T"),
    Item("Vendor", ("Manufacturer",), True),
    Item("Model", ("ManufacturersModelName", "ManufacturerModelName")),
    Item("Software", ("SoftwareVersions",)),
    Item("Coils", ("ReceiveCoilName", "ReceiveCoilActiveElements")),
    Item("Gradients", ("GradientSetType",)),
)

SEQUENCE = (
    Item(
        "Sequence type",
        ("PulseSequenceType", "SequenceName", "ScanningSequence", "PulseSequenceDetails", "MRAcquisitionType"),
        True,
    ),
    Item("k-space trajectory, if not Cartesian", ("KSpaceTrajectory",), True),
    Item("Slice orientation", ("SliceOrientation", "ImageOrientationText"), True),
    Item("Echo times", ("EchoTime",), True, "ms", 1e3),
    Item("Repetition time", ("RepetitionTimeExcitation", "RepetitionTime"), True, "ms", 1e3),
    Item("Flip angle", ("FlipAngle",), False, "°"),
    Item("Bandwidth", ("PixelBandwidth",), False, "Hz/pixel"),
    Item("Field of view", ("FieldOfView",), True, "mm"),
    Item("Matrix", ("Matrix", "AcquisitionMatrix"), True),
    Item("Voxel size", ("AcquisitionVoxelSize", "VoxelSize"), True, "mm"),
    Item("Readout polarity (monopolar or bipolar)", ("ReadoutPolarity",)),
    Item("Centre frequency", ("ImagingFrequency",), True, "MHz"),
    Item("Flow compensation", ("FlowCompensation",)),
    Item(
        "Acceleration",
        (
            "ParallelAcquisitionTechnique",
            "ParallelReductionFactorInPlane",
            "ParallelReductionFactorOutOfPlane",
            "ParallelReductionFactor",
        ),
        True,
    ),
    Item("Partial Fourier or partial echo, if used", ("PartialFourier", "PartialFourierDirection"), True),
    Item("Elliptical k-space shutter", ("EllipticalShutter",)),
    Item("Phase stabilisation", ("PhaseStabilization",)),
)

STEPS = (
    ("unwrap", "Phase unwrapping"),
    ("combine", "Echo combination"),
    ("mask", "Mask"),
    ("background", "Background field removal"),
    ("inversion", "Dipole inversion"),
    ("reference", "Referencing"),
)


def build_checklist(record: AcquisitionRecord) -> tuple[ChecklistTable, ...]:
    """Tables 3 to 5 of the consensus for one acquisition, every line present or missing.

    Lines that the sidecar does not answer name the key that would.
    """
    metadata = record.metadata
    return (
        ChecklistTable("Table 3, hardware", tuple(_row(item, metadata) for item in HARDWARE)),
        ChecklistTable("Table 4, sequence", tuple(_row(item, metadata) for item in SEQUENCE)),
        ChecklistTable("Table 5, processing", _processing(record)),
    )


def write_checklist(record: AcquisitionRecord, out_file: Path) -> Path:
    """Write the tables of one acquisition as TSV or Markdown, by the name of the file, whole or not at all.

    Raises
    ------
    CannotWriteError
        When the file cannot be written.
    """
    tables = build_checklist(record)
    if out_file.suffix == ".md":
        return write_text(checklist_markdown(tables), out_file)
    rows = [
        {
            "table": table.title,
            "item": row.name,
            "essential": "yes" if row.essential else "no",
            "status": "present" if row.present else "missing",
            "value": row.value,
        }
        for table in tables
        for row in table.rows
    ]
    return write_tsv(rows, ("table", "item", "essential", "status", "value"), out_file)


def checklist_markdown(tables: Sequence[ChecklistTable]) -> str:
    """The tables as Markdown, to paste into a supplement; essential lines have a star."""
    lines = ["# Reporting checklist of the QSM consensus (doi:10.1002/mrm.30006)", ""]
    for table in tables:
        lines += [f"## {table.title}", "", "| item | value |", "| --- | --- |"]
        for row in table.rows:
            value = " ".join(row.value.split()).replace("|", "\\|") or "*missing*"
            lines.append(f"| {row.name}{' *' * row.essential} | {value} |")
        lines.append("")
    return "\n".join(lines)


def _row(item: Item, metadata: Mapping[str, Any]) -> ChecklistRow:
    found = [(key, metadata[key]) for key in item.keys if metadata.get(key) not in (None, "", [])]
    if not found:
        return ChecklistRow(item.name, item.essential, "", f"add {item.keys[0]} to the sidecar")
    if len(found) > 1:
        value = "; ".join(f"{key} {_format(content, item.scale)}" for key, content in found)
    else:
        value = _format(found[0][1], item.scale)
    return ChecklistRow(item.name, item.essential, f"{value} {item.unit}".rstrip())


def _processing(record: AcquisitionRecord) -> tuple[ChecklistRow, ...]:
    version = record.versions.get("qsmprep", "")
    rows = [ChecklistRow("Toolbox and version", True, f"qsmprep {version}" if version else "", "not recorded")]
    known = {step for step, _ in STEPS}
    for step, title in STEPS:
        uses = [use for use in record.processing if use.step == step]
        rows.append(ChecklistRow(title, True, "; ".join(map(_method, uses)), "this step was not run"))
    further = [use for use in record.processing if use.step not in known]
    none = "none" if record.processing else ""
    listed = "; ".join(f"{use.step}: {_method(use)}" for use in further) or none
    rows.append(ChecklistRow("Further processing", True, listed, "not recorded"))
    criteria = record.metadata.get("InclusionExclusionCriteria", "")
    remedy = "state it in the publication; no file of the data set holds it"
    rows.append(ChecklistRow("Inclusion and exclusion criteria", True, str(criteria), remedy))
    return tuple(rows)


def _method(use: Any) -> str:
    parameters = ", ".join(f"{key} = {_format(value)}" for key, value in use.parameters.items())
    return f"{use.method} ({parameters})" if parameters else use.method


def _format(value: Any, scale: float = 1.0) -> str:
    if isinstance(value, (list, tuple)):
        return ", ".join(_format(v, scale) for v in value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (int, float)):
        return f"{value * scale:.6g}"
    return str(value)
