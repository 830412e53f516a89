"""What is written: names, sidecars, data set files; judged by the official validator and the BIDS schema."""

from __future__ import annotations

import json
import math
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import builders
import numpy as np
import pytest
from builders import AFFINE, SHAPE, make_dataset

from qsmprep.bids import names
from qsmprep.bids.dataset import version_warning, write_dataset_files
from qsmprep.bids.entities import ENTITIES
from qsmprep.bids.names import OUTPUTS, derivative_path, report_path, safe_label, sidecar_path
from qsmprep.bids.preflight import preflight
from qsmprep.bids.sidecars import PhaseConvention, Sidecar, bids_uri, bids_uris, sidecar_json
from qsmprep.bids.write import write_json, write_nifti, write_text
from qsmprep.errors import DataError, UsageError

VALIDATOR = shutil.which("bids-validator-deno") or str(Path(sys.executable).with_name("bids-validator-deno"))


@pytest.fixture
def acquisition(tmp_path):
    raw = make_dataset(tmp_path, ("01",), ("1",), entities="acq-x_run-1")
    return preflight(raw).acquisitions[0]


@dataclass(frozen=True)
class Params:
    weight: float = 0.03
    max_iter: int = 20


def validate(folder: Path) -> list[dict]:
    """Issues of the official validator."""
    if not Path(VALIDATOR).exists():
        pytest.skip("bids-validator-deno is not installed")
    done = subprocess.run(
        [VALIDATOR, "--format", "json", str(folder)], capture_output=True, text=True, timeout=120, check=False
    )
    report = json.loads(done.stdout)
    assert report["summary"]["totalFiles"] > 0
    return report["issues"]["issues"]


def errors_of(folder: Path) -> list[str]:
    return [
        f"{i['code']} {i.get('location')} {i.get('issueMessage')}" for i in validate(folder) if i["severity"] == "error"
    ]


def sidecar(acquisition, out, suffix, **more):
    """A complete sidecar for a suffix."""
    links = {"raw": acquisition.files[0].parents[3]}
    known = {
        "description": f"A {suffix}",
        "sources": bids_uris(acquisition.files, out, links),
        "skull_stripped": None if OUTPUTS[suffix].is_labels else True,
        "algorithm": "RTS",
        "reference": "https://doi.org/10.1002/mrm.26624",
        "parameters": Params(),
        "b0_dir": (0.0, 0.1, 0.995),
        "susceptibility_reference": "whole-brain",
        "mask_type": "Brain" if suffix == "mask" else None,
        "phase_convention": PhaseConvention("rad", (-3.14, 3.14), 1),
        "execution": {"Device": "cpu", "Threads": 1, "Dtype": "float32", "RandomSeed": 0},
    }
    return Sidecar(**{**known, **more})


IMAGES = [
    ("Chimap", {"desc": "rts"}, {}),
    ("Chimap", {"desc": "tv"}, {}),
    (
        "Chimap",
        {"desc": "rts", "space": "T1w"},
        {"spatial_reference": "bids:raw:sub-01/ses-1/anat/sub-01_ses-1_T1w.nii.gz"},
    ),
    ("Chimap", {"desc": "rts", "space": "MNI152NLin2009cAsym", "res": "1"}, {"resolution": "1 mm isotropic"}),
    ("R2starmap", {}, {}),
    ("T2starmap", {}, {}),
    ("S0map", {}, {}),
    ("T2starw", {"part": "mag", "desc": "combined"}, {}),
    ("MEGRE", {"echo": 2, "part": "phase", "desc": "unwrapped"}, {"units": "rad"}),
    ("mask", {"desc": "brain"}, {}),
    ("mask", {"desc": "qsm"}, {"mask_type": "ROI"}),
    ("dseg", {"seg": "cit168"}, {}),
    ("probseg", {"seg": "cit168", "label": "RN"}, {}),
    ("fieldmap", {"desc": "total"}, {}),
    ("fieldmap", {"desc": "local"}, {}),
    ("magnitude", {}, {"skull_stripped": False}),
    ("swi", {}, {}),
    ("minIP", {}, {}),
]


def write_outputs(acquisition, out):
    """Everything the pipeline writes, tiny."""
    links = write_dataset_files(out, acquisition.files[0].parents[3], version="0.1.0")
    assert set(links) == {"raw"}
    rng = np.random.default_rng(0)
    for suffix, entities, more in IMAGES:
        dtype = np.uint8 if suffix == "mask" else np.int16 if suffix == "dseg" else np.float32
        volume = rng.integers(0, 2, SHAPE).astype(dtype)
        path = derivative_path(out, acquisition, suffix, **entities)
        write_nifti(volume, AFFINE, acquisition.files[0], path)
        content = sidecar_json(sidecar(acquisition, out, suffix, **more), acquisition, suffix, **entities)
        write_json(content, sidecar_path(path))
    dseg = derivative_path(out, acquisition, "dseg", ".tsv", seg="cit168")
    write_text("index\tname\n1\tleft red nucleus\n", dseg)
    for extension in (".tsv", ".json"):
        stats = derivative_path(out, acquisition, "stats", extension, seg="cit168", desc="rts")
        write_text("roi\tmean\na\t0.1\n" if extension == ".tsv" else "{}\n", stats)
    write_json({"a": 1}, derivative_path(out, acquisition, "metrics", ".json", desc="qc"))
    write_text("#Insight\n", derivative_path(out, acquisition, "xfm", ".txt", from_="T2starw", to="T1w", mode="image"))
    write_text("<svg/>", derivative_path(out, acquisition, "Chimap", ".svg", datatype="figures", desc="rts"))
    write_text("<html/>", report_path(out, "01"))
    write_text("methods", out / "logs" / "CITATION.md")
    write_text("{}", out / "sub-01" / "ses-1" / "log" / "20260101" / "settings.json")


def test_the_input_of_these_tests_is_valid_bids(acquisition):
    assert errors_of(acquisition.files[0].parents[3]) == []


def test_the_validator_finds_no_error(tmp_path, acquisition):
    out = tmp_path / "qsmprep"
    write_outputs(acquisition, out)
    assert errors_of(out) == []


def test_the_validator_would_find_errors(tmp_path, acquisition):
    """The test above can fail: without a key, a magnitude or the ignored patterns there are errors."""
    out = tmp_path / "qsmprep"
    write_outputs(acquisition, out)
    builders.edit(sidecar_path(derivative_path(out, acquisition, "R2starmap")), SkullStripped=None)
    derivative_path(out, acquisition, "magnitude").unlink()
    found = " ".join(errors_of(out))
    assert "SIDECAR_KEY_REQUIRED" in found
    assert "FIELDMAP_WITHOUT_MAGNITUDE_FILE" in found


@pytest.mark.parametrize("session", [None, "1"])
def test_the_validator_accepts_other_entities(tmp_path, session):
    """Entities that BIDS does not allow for an output are covered by .bidsignore."""
    for entities in ("task-rest_acq-x", "acq-x_ce-gd", "rec-norm_run-2", "acq-x_dir-AP_run-2", "acq-x_rec-a_run-1"):
        raw = make_dataset(tmp_path, sessions=session and (session,), entities=entities)
    acquisitions = preflight(raw).acquisitions
    assert len(acquisitions) == 5
    out = tmp_path / "qsmprep"
    write_dataset_files(out, raw, version="0.1.0")
    for acquisition in acquisitions:
        write_maps(acquisition, out)
    assert errors_of(out) == []


def write_maps(acquisition, out):
    for suffix, entities in (("Chimap", {"desc": "rts"}), ("fieldmap", {"desc": "total"}), ("magnitude", {})):
        path = derivative_path(out, acquisition, suffix, **entities)
        write_nifti(np.ones(SHAPE, np.float32), AFFINE, None, path)
        given = replace(sidecar(acquisition, out, suffix), sources=("bids:raw:sub-01/anat/x.nii.gz",))
        write_json(sidecar_json(given, acquisition, suffix, **entities), sidecar_path(path))


def schema():
    return pytest.importorskip("bidsschematools.schema").load_schema()


def test_table_agrees_with_the_schema():
    """Entities, folder and extensions of every output that claims to be BIDS are those of a rule."""
    rules = schema().rules.files.deriv
    for output in OUTPUTS.values():
        if not output.in_bids:
            continue
        found = []
        for group in rules.values():
            for rule in group.values():
                plain = rule.to_dict()
                if output.suffix in plain.get("suffixes", []) and output.datatype in plain.get("datatypes", []):
                    short = {schema_short(long) for long in plain["entities"]}
                    found.append(output.entities <= short and set(output.extensions) <= set(plain["extensions"]))
        assert any(found), output.suffix


def test_what_claims_not_to_be_bids_is_in_no_rule():
    suffixes = {
        suffix
        for group in schema().rules.files.deriv.values()
        for rule in group.values()
        for suffix in rule.to_dict().get("suffixes", [])
    }
    assert suffixes.isdisjoint(output.suffix for output in OUTPUTS.values() if not output.in_bids)


def schema_short(long: str) -> str:
    return str(schema_entities()[long])


_SHORT: dict[str, str] = {}


def schema_entities() -> dict[str, str]:
    if not _SHORT:
        _SHORT.update({long: entity["name"] for long, entity in schema().objects.entities.items()})
    return _SHORT


def test_order_of_entities_is_that_of_the_schema():
    order = [schema_short(long) for long in schema().rules.entities]
    ours = [name for name in ENTITIES if name in order]
    assert ours == [name for name in order if name in ours]
    assert set(ENTITIES) - set(order) == {"from", "to", "mode"}


def test_paths(tmp_path, acquisition):
    def relative(*args, **kwargs):
        return derivative_path(tmp_path, acquisition, *args, **kwargs).relative_to(tmp_path).as_posix()

    prefix = "sub-01_ses-1_acq-x_run-1"
    assert relative("Chimap", desc="rts") == f"sub-01/ses-1/anat/{prefix}_desc-rts_Chimap.nii.gz"
    assert relative("fieldmap", ".json", desc="total") == f"sub-01/ses-1/fmap/{prefix}_desc-total_fieldmap.json"
    assert relative("MEGRE", desc="unwrapped", part="phase", echo=1) == (
        "sub-01/ses-1/anat/sub-01_ses-1_acq-x_run-1_echo-1_part-phase_desc-unwrapped_MEGRE.nii.gz"
    )
    assert relative("mask", label="brain", desc=None) == f"sub-01/ses-1/anat/{prefix}_label-brain_mask.nii.gz"
    assert relative("Chimap", ".png", datatype="figures", desc="rts") == f"sub-01/figures/{prefix}_desc-rts_Chimap.png"


@pytest.mark.parametrize(
    ("suffix", "extension", "options"),
    [
        ("Chimap", ".nii.gz", {"echo": 1}),
        ("Chimap", ".nii.gz", {"desc": "two-words"}),
        ("Chimap", ".nii.gz", {"descr": "rts"}),
        ("Chimap", ".nii.gz", {"run": 2}),
        ("Chimap", ".mgz", {}),
        ("Chimap", ".nii.gz", {"datatype": "fmap"}),
        ("QSM", ".nii.gz", {}),
        ("Chimap", ".nii.gz", {"datatype": "figures"}),
    ],
)
def test_names_that_do_not_fit_are_refused(tmp_path, acquisition, suffix, extension, options):
    with pytest.raises(UsageError):
        derivative_path(tmp_path, acquisition, suffix, extension, **options)


def test_safe_label():
    assert safe_label("CIT168 v1.0 (MNI)") == "CIT168v10MNI"
    with pytest.raises(UsageError):
        safe_label("--")


def test_chimap_sidecar_holds_everything(tmp_path, acquisition):
    content = sidecar_json(sidecar(acquisition, tmp_path, "Chimap"), acquisition, "Chimap", desc="rts")
    assert content["Units"] == "ppm"
    assert content["SkullStripped"] is True
    assert content["EchoTime"] == list(builders.TE_S)
    assert content["MagneticFieldStrength"] == 3.0
    assert content["MagneticFieldStrengthSource"] == "sidecar"
    assert content["RepetitionTimeExcitation"] == 0.03
    assert content["B0Direction"] == [0.0, 0.1, 0.995]
    assert content["Parameters"] == {"weight": 0.03, "max_iter": 20}
    assert content["PhaseConvention"] == {"UnitsIn": "rad", "RangeIn": [-3.14, 3.14], "Sign": 1}
    assert content["Sources"][0] == ("bids:raw:sub-01/ses-1/anat/sub-01_ses-1_acq-x_run-1_echo-1_part-mag_MEGRE.nii.gz")
    assert "positive" in content["SignConvention"]
    assert str(tmp_path) not in json.dumps(content)
    assert all(re.fullmatch(r"[A-Z][A-Za-z0-9]*", key) for key in content)


def test_echo_sidecar_has_the_time_of_its_echo(tmp_path, acquisition):
    given = sidecar(acquisition, tmp_path, "MEGRE", units="rad")
    content = sidecar_json(given, acquisition, "MEGRE", echo=2, part="phase")
    assert content["EchoTime"] == builders.TE_S[1]
    assert content["Units"] == "rad"
    with pytest.raises(DataError):
        sidecar_json(given, acquisition, "MEGRE", echo=4, part="phase")


@pytest.mark.parametrize(
    ("suffix", "entities", "lacking"),
    [
        ("Chimap", {}, "skull_stripped"),
        ("R2starmap", {}, "skull_stripped"),
        ("fieldmap", {}, "skull_stripped"),
        ("Chimap", {}, "sources"),
        ("Chimap", {}, "b0_dir"),
        ("Chimap", {}, "susceptibility_reference"),
        ("mask", {}, "mask_type"),
        ("MEGRE", {"part": "phase", "echo": 1}, "units"),
        ("Chimap", {"space": "MNI152NLin2009cAsym", "res": "1"}, "resolution"),
        ("Chimap", {"space": "T1w"}, "spatial_reference"),
    ],
)
def test_sidecar_with_a_gap_is_refused(tmp_path, acquisition, suffix, entities, lacking):
    whole = sidecar(acquisition, tmp_path, suffix, units="rad", resolution="1 mm", spatial_reference="x")
    sidecar_json(whole, acquisition, suffix, **entities)
    gap = replace(whole, **{lacking: () if lacking == "sources" else None})
    with pytest.raises(DataError, match=lacking):
        sidecar_json(gap, acquisition, suffix, **entities)


def test_uris(tmp_path):
    raw = tmp_path / "raw"
    out = raw / "derivatives" / "qsmprep"
    links = {"raw": raw, "masks": tmp_path / "masks"}
    assert bids_uri(out / "sub-01/x.nii.gz", out, links) == "bids::sub-01/x.nii.gz"
    assert bids_uri(raw / "sub-01/x.nii.gz", out, links) == "bids:raw:sub-01/x.nii.gz"
    assert bids_uri(tmp_path / "masks/m.nii.gz", out, links) == "bids:masks:m.nii.gz"
    assert bids_uri(tmp_path / "atlas.nii.gz", out, links) == (tmp_path / "atlas.nii.gz").as_uri()


def test_dataset_files_keep_what_is_there(tmp_path):
    raw = make_dataset(tmp_path)
    builders.edit(raw / "dataset_description.json", License="CC0", DatasetDOI="doi:10.0/x")
    out = raw / "derivatives" / "qsmprep"
    write_dataset_files(out, raw, version="0.1.0", derivatives={"masks": tmp_path / "m"})
    (out / "README").write_text("mine")
    (out / ".bidsignore").write_text("mine/\n")
    write_dataset_files(out, raw, version="0.1.0", container={"Type": "docker", "Tag": "x"})
    description = json.loads((out / "dataset_description.json").read_text())
    assert description["DatasetType"] == "derivative"
    assert description["GeneratedBy"][0] == {
        "Name": "qsmprep",
        "Version": "0.1.0",
        "Container": {"Type": "docker", "Tag": "x"},
    }
    assert description["DatasetLinks"] == {"masks": "../../../m", "raw": "../.."}
    assert description["License"] == "CC0"
    assert (out / "README").read_text() == "mine"
    lines = (out / ".bidsignore").read_text().splitlines()
    assert lines == ["mine/", *names.ignored_patterns()]


def test_what_is_no_text_in_a_description_is_not_taken_over(tmp_path):
    raw = make_dataset(tmp_path)
    path = raw / "dataset_description.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "License": math.nan, "DatasetDOI": 3}))
    out = tmp_path / "out"
    write_dataset_files(out, raw, version="0.1.0")
    description = json.loads((out / "dataset_description.json").read_text())
    assert "License" not in description and "SourceDatasets" not in description
    for links in ([1], {"a": math.inf, "b": "../b"}):
        (out / "dataset_description.json").write_text(json.dumps({**description, "DatasetLinks": links}))
        write_dataset_files(out, raw, version="0.1.0")
        again = json.loads((out / "dataset_description.json").read_text())["DatasetLinks"]
        assert again == {"raw": "../raw", **({"b": "../b"} if isinstance(links, dict) else {})}


def test_other_pipelines_in_the_same_folder_are_kept(tmp_path):
    raw = make_dataset(tmp_path)
    out = tmp_path / "out"
    out.mkdir()
    other = {"Name": "fMRIPrep", "Version": "24.1.0"}
    text = json.dumps({"Name": "x", "DatasetType": "derivative", "GeneratedBy": [other, "?"]})
    (out / "dataset_description.json").write_text(text)
    for version in ("0.1.0", "0.2.0"):
        write_dataset_files(out, raw, version=version)
        generated = json.loads((out / "dataset_description.json").read_text())["GeneratedBy"]
        assert generated == [{"Name": "qsmprep", "Version": version}, other]


def test_version_warning(tmp_path):
    raw = make_dataset(tmp_path)
    out = tmp_path / "out"
    assert version_warning(out, "0.1.0") is None
    write_dataset_files(out, raw, version="0.1.0")
    assert version_warning(out, "0.1.0") is None
    assert "qsmprep 0.1.0" in version_warning(out, "0.2.0")


def test_many_processes_write_the_same_data_set_files(tmp_path):
    """At every moment a reader finds whole files."""
    raw = make_dataset(tmp_path)
    out = tmp_path / "out"
    code = (
        "import sys; from pathlib import Path; from qsmprep.bids.dataset import write_dataset_files\n"
        f"for _ in range(40): write_dataset_files(Path({str(out)!r}), Path({str(raw)!r}), version='0.1.0')"
    )
    writers = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(3)]
    read = 0
    while any(writer.poll() is None for writer in writers):
        if (out / "dataset_description.json").exists():
            assert json.loads((out / "dataset_description.json").read_text())["DatasetType"] == "derivative"
            read += 1
    assert [writer.returncode for writer in writers] == [0, 0, 0]
    assert read > 0
    assert sorted(p.name for p in out.iterdir()) == [".bidsignore", "README", "dataset_description.json"]
