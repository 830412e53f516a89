"""Records: JSON there and back, verdicts, the text summary, the words of metrics and figures."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from qsmprep.bids.tables import read_tsv
from qsmprep.errors import CannotWriteError, DataError, MissingFileError, UsageError
from qsmprep.reports.checklist import build_checklist, write_checklist
from qsmprep.reports.definitions import FIGURES, METRICS, make_figure, make_metric
from qsmprep.reports.record import (
    AcquisitionRecord,
    ErrorEntry,
    FigureRef,
    Metric,
    ProcessingStep,
    Row,
    StepUse,
    WarningEntry,
    read_record,
    read_records,
    render_text_summary,
    verdict,
    worst,
    write_record,
)


def full_record(**changes):
    values = {
        "key": "sub-01_ses-1_run-2",
        "subject": "01",
        "session": "1",
        "inputs": (Row("Echo times", [4.0, 8.5], "ms"), Row("Vendor", None)),
        "metrics": (make_metric("snr", 80.0), make_metric("streaking_index", 1.02, of="TV")),
        "figures": (FigureRef("chi", "Susceptibility, TV", "sub-01/figures/a.png", "alt", "caption"),),
        "methods_markdown": "One *step*.",
        "bibliography": ("A paper. doi:10.1002/mrm.30006",),
        "settings": {"inversions": ["tv"], "nested": {"weight": 2e-4}},
        "versions": {"qsmprep": "0.1.0"},
        "metadata": {"MagneticFieldStrength": 3, "EchoTime": [0.004, 0.0085], "FlipAngle": None},
        "processing": (ProcessingStep("inversion", "TV", {"weight": 2e-4}),),
        "resources": (StepUse("inversion", 12.5, 900.0), StepUse("mask", None)),
    }
    return AcquisitionRecord(**{**values, **changes})


def test_json_round_trip(tmp_path):
    record = full_record(warnings=(WarningEntry("odd", "fix it"),), errors=(ErrorEntry("mask", "empty"),))
    path = write_record(record, tmp_path / "sub-01" / "anat" / "sub-01_desc-qc_metrics.json")
    assert read_record(path) == record
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_what_json_cannot_hold_becomes_null_or_text(tmp_path):
    record = full_record(
        metrics=(Metric("a", math.nan), Metric("b", math.inf), Metric("c", np.float32(2.5))),
        settings={"path": tmp_path, "array": np.arange(3), "flag": np.bool_(True), "kinds": {"x"}},
    )
    path = write_record(record, tmp_path / "x_desc-qc_metrics.json")
    content = json.loads(path.read_text())
    assert [m["value"] for m in content["metrics"]] == [None, None, 2.5]
    assert content["settings"] == {"path": str(tmp_path), "array": [0, 1, 2], "flag": True, "kinds": ["x"]}
    assert read_record(path).metrics[0].value is None


def test_records_of_a_subject_are_found_in_order_and_no_one_elses(tmp_path):
    for key, place in (("sub-01_run-2", "anat"), ("sub-01_run-1", "anat"), ("sub-010_run-1", "anat")):
        subject = key.split("_")[0]
        write_record(
            full_record(key=key, subject=subject[4:]), tmp_path / subject / place / f"{key}_desc-qc_metrics.json"
        )
    assert [r.key for r in read_records(tmp_path, "01")] == ["sub-01_run-1", "sub-01_run-2"]
    assert read_records(tmp_path, "99") == ()


@pytest.mark.parametrize(
    "text",
    [
        "not json",
        "[]",
        '{"key": "x"}',
        '{"key": 3, "subject": "01"}',
        '{"key": "x", "subject": "01", "metrics": {}}',
        '{"key": "x", "subject": "01", "metrics": [{"name": "snr", "value": "high"}]}',
        '{"key": "x", "subject": "01", "inputs": [{"value": 2}]}',
    ],
)
def test_a_file_that_is_no_record_is_one_clear_error(tmp_path, text):
    path = tmp_path / "x_desc-qc_metrics.json"
    path.write_text(text)
    with pytest.raises(DataError, match="quality record") as caught:
        read_record(path)
    assert caught.value.file == str(path)
    assert caught.value.remedy


def test_unknown_keys_are_left_out_and_absent_files_named(tmp_path):
    content = {**full_record().to_dict(), "from_the_future": 1}
    assert AcquisitionRecord.from_dict(content) == full_record()
    with pytest.raises(MissingFileError):
        read_record(tmp_path / "none.json")
    (tmp_path / "taken").write_text("")
    with pytest.raises(CannotWriteError):
        write_record(full_record(), tmp_path / "taken" / "x.json")


def test_verdict():
    assert verdict(full_record()).level == "ok"
    assert verdict(full_record()).reasons == ()
    warned = verdict(full_record(warnings=(WarningEntry("odd echo times", "check"),)))
    assert (warned.level, warned.reasons) == ("check", ("odd echo times",))
    low = verdict(full_record(metrics=(make_metric("snr", 2.0),)))
    assert low.level == "check"
    assert "SNR" in low.reasons[0] and "2" in low.reasons[0] and "at least 5" in low.reasons[0]
    failed = verdict(full_record(errors=(ErrorEntry("inversion", "out of memory"),), warnings=(WarningEntry("odd"),)))
    assert failed.level == "failed"
    assert failed.reasons == ("inversion failed: out of memory", "odd")
    missing = verdict(full_record(), missing_files=("a.png",))
    assert missing.level == "check" and "a.png" in missing.reasons[0]


@pytest.mark.parametrize(
    ("value", "low", "high", "concern"),
    [
        (5.0, 5.0, None, False),
        (4.99, 5.0, None, True),
        (1.0, None, 1.0, False),
        (1.01, None, 1.0, True),
        (None, None, 1.0, True),
        (math.nan, 0.0, 1.0, True),
        (None, None, None, False),
        (1e9, None, None, False),
    ],
)
def test_limits(value, low, high, concern):
    assert bool(Metric("m", value, low=low, high=high).concern) is concern


def test_worst():
    assert worst(["ok", "failed", "check"]) == "failed"
    assert worst(["ok", "check"]) == "check"
    assert worst([]) == "ok"


def test_text_summary_holds_the_verdict_every_metric_and_remedy():
    record = full_record(
        metrics=(make_metric("snr", 2.0), make_metric("mask_volume_ml", None), make_metric("residual_wraps", 12)),
        warnings=(WarningEntry("odd", "write it again"),),
    )
    text = render_text_summary(record)
    assert text.startswith("sub-01_ses-1_run-2: check\n")
    for expected in ("SNR of the magnitude", "n/a", "12", "write it again", "<- look"):
        assert expected in text
    assert text.count("<- look") == 2


def test_every_definition_builds_and_belongs_to_a_section():
    for key, definition in METRICS.items():
        metric = make_metric(key, 1.0, of="TV")
        assert metric.name == f"{definition.name}, TV"
        assert metric.stage in FIGURES
        assert metric.meaning.endswith(".") and metric.source
    for stage in FIGURES:
        figure = make_figure(stage, "x.png", name="TV")
        assert figure.alt and figure.caption and "{" not in figure.title + figure.alt
    with pytest.raises(UsageError, match="nope"):
        make_metric("nope", 1.0)
    with pytest.raises(UsageError, match="nope"):
        make_figure("nope", "x.png")


def test_checklist_marks_present_and_missing_and_names_the_key():
    tables = {t.title.split(",")[0]: {row.name: row for row in t.rows} for t in build_checklist(full_record())}
    hardware, sequence, processing = tables["Table 3"], tables["Table 4"], tables["Table 5"]
    assert hardware["Field strength"].value == "3 T"
    assert not hardware["Vendor"].present and "Manufacturer" in hardware["Vendor"].remedy
    assert sequence["Echo times"].value == "4, 8.5 ms"
    assert not sequence["Flip angle"].present
    assert processing["Toolbox and version"].value == "qsmprep 0.1.0"
    assert processing["Dipole inversion"].value == "TV (weight = 0.0002)"
    assert not processing["Background field removal"].present
    assert processing["Further processing"].value == "none"
    empty = build_checklist(AcquisitionRecord("k", "01"))
    assert sum(t.n_present for t in empty) == 0


def test_checklist_as_files(tmp_path):
    record = full_record(processing=(ProcessingStep("inversion", "a|b", {}),))
    rows = read_tsv(write_checklist(record, tmp_path / "x_checklist.tsv"))
    assert len(rows) == sum(len(table.rows) for table in build_checklist(record))
    named = {row["item"]: row for row in rows}
    assert named["Echo times"] == {
        "table": "Table 4, sequence",
        "item": "Echo times",
        "essential": "yes",
        "status": "present",
        "value": "4, 8.5 ms",
    }
    assert (named["Vendor"]["status"], named["Vendor"]["value"]) == ("missing", "n/a")
    text = write_checklist(record, tmp_path / "x_checklist.md").read_text()
    assert "| Echo times * | 4, 8.5 ms |" in text and "| Vendor * | *missing* |" in text
    assert "| Dipole inversion * | a\\|b |" in text


def test_checklist_reads_the_misspelt_model_and_several_keys():
    record = full_record(
        metadata={
            "ManufacturerModelName": "Prisma",
            "PulseSequenceType": "GR",
            "MRAcquisitionType": "3D",
            "PartialFourier": 0,
        }
    )
    rows = {row.name: row for table in build_checklist(record) for row in table.rows}
    assert rows["Model"].value == "Prisma"
    assert rows["Sequence type"].value == "PulseSequenceType GR; MRAcquisitionType 3D"
    assert rows["Partial Fourier or partial echo, if used"].value == "0"
