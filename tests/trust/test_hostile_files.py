"""Bombs, links, names, JSON and weights that somebody made to do harm."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import pickle
import re
import resource
import zipfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from builders import AFFINE, SHAPE, edit, images, json_of, make_dataset
from hypothesis import example, given, settings
from hypothesis import strategies as st

from qsmprep.bids.acquisition import Acquisition, Echo
from qsmprep.bids.dataset import check_output_dir
from qsmprep.bids.entities import parse_name
from qsmprep.bids.headers import MAX_OFFSET, read_header
from qsmprep.bids.metadata import MAX_JSON_BYTES, as_numbers, finite_number, read_json
from qsmprep.bids.names import derivative_path, report_path
from qsmprep.bids.preflight import preflight
from qsmprep.bids.sidecars import Sidecar, sidecar_json
from qsmprep.bids.table import render_table
from qsmprep.bids.tables import read_tsv
from qsmprep.bids.write import write_json, write_text
from qsmprep.cli.main import main
from qsmprep.cli.single import load_image
from qsmprep.errors import DataError, MissingFileError, UsageError
from qsmprep.networks import weights
from qsmprep.training.loop import resume
from qsmprep.workflows.acquisition import workflow_name

ROOM_MB = 300
"""How much memory reading a bomb may take beside the program itself."""


def bomb(path: Path, header: bytes, gigabytes: int) -> Path:
    """A gzip file of a few megabytes that expands to a header and so many gigabytes of zeros."""
    member = gzip.compress(bytes(1 << 26), 6, mtime=0)
    with path.open("wb") as stream:
        stream.write(gzip.compress(header, 6, mtime=0))
        for _ in range(gigabytes * 16):
            stream.write(member)
    return path


def header_of(shape: tuple[int, ...], offset: float = 352.0, extension: bytes = b"\0\0\0\0") -> bytes:
    """A NIfTI-1 header that promises a float32 volume of this shape."""
    header = nib.Nifti1Header()
    header.set_data_dtype(np.float32)
    header.set_data_shape(shape)
    header.set_sform(AFFINE, 1)
    header["vox_offset"] = offset
    header["magic"] = b"n+1"
    return header.binaryblock + extension


BOMBS = {
    "as many voxels as promised": (header_of((2100, 2100, 2000)), 33, "promises"),
    "an extension without end": (
        header_of(SHAPE, 3e10, b"\1\0\0\0" + (2**31 - 16).to_bytes(4, "little") + b"\6\0\0\0"),
        30,
        "begin at byte",
    ),
    "volumes without end": (header_of((*SHAPE, 32767)), 20, "volumes"),
}


@pytest.mark.parametrize("name", BOMBS)
def test_gzip_bomb_is_refused_without_filling_memory(tmp_path, name):
    header, gigabytes, words = BOMBS[name]
    path = bomb(tmp_path / "bomb.nii.gz", header, gigabytes)
    assert path.stat().st_size < 40e6
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(DataError, match=words):
        read_header(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < ROOM_MB * 1024


def test_volume_before_an_endless_tail_is_read_without_the_tail(tmp_path):
    path = bomb(tmp_path / "tail.nii.gz", header_of(SHAPE), 20)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert read_header(path).shape == SHAPE
    data, _ = load_image(path)
    assert data.shape == SHAPE
    assert not data.any()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < ROOM_MB * 1024


def test_single_files_refuse_bombs_too(tmp_path):
    path = bomb(tmp_path / "bomb.nii.gz", header_of((2100, 2100, 2000)), 1)
    with pytest.raises(DataError, match="promises"):
        load_image(path)


def test_run_with_a_bomb_ends_at_once(tmp_path, capsys):
    raw = make_dataset(tmp_path)
    bomb(images(raw, "*echo-1_part-phase*")[0], header_of((2100, 2100, 2000)), 33)
    words = [str(raw), str(tmp_path / "out"), "participant", "-w", str(tmp_path / "work")]
    assert main(words) == 65
    assert "promises" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_offset_of_a_header_with_extensions_of_usual_size(tmp_path):
    path = tmp_path / "extended.nii.gz"
    image = nib.Nifti1Image(np.ones(SHAPE, np.float32), AFFINE)
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"x" * 100_000))
    image.to_filename(path)
    assert read_header(path).shape == SHAPE
    assert MAX_OFFSET > 100_000


def test_json_bomb(tmp_path):
    path = tmp_path / "long.json"
    with path.open("wb") as stream:
        stream.truncate(100 * MAX_JSON_BYTES)
    with pytest.raises(DataError, match="bytes"):
        read_json(path)


@pytest.mark.parametrize(
    "text",
    [b"[" * 100_000, b'{"a":' * 50_000, b'{"a": ' + b"9" * 6000 + b"}", b"\xff", b"\x00", "{}".encode("utf-16"), b"3"],
    ids=["deep list", "deep object", "long number", "no text", "zero", "utf-16", "number"],
)
def test_json_that_parsers_stumble_over(tmp_path, text):
    path = tmp_path / "x.json"
    path.write_bytes(text)
    with pytest.raises(DataError):
        read_json(path)


def test_halves_of_characters_are_replaced(tmp_path):
    path = tmp_path / "x.json"
    path.write_text('{"Manufacturer": "G\\ud800E", "Model\\uDFFF": ["\\ud83d\\ude00"]}')
    assert read_json(path) == {"Manufacturer": "G?E", "Model?": ["😀"]}


@pytest.mark.parametrize("target", ["pipe", "/dev/zero", "folder"])
def test_no_file_where_one_is_expected(tmp_path, target):
    raw = make_dataset(tmp_path)
    for path in (images(raw, "*echo-1_part-mag*")[0], json_of(images(raw, "*echo-2_part-mag*")[0])):
        path.unlink()
        os.mkfifo(path) if target == "pipe" else path.mkdir() if target == "folder" else path.symlink_to(target)
    (verdict,) = preflight(raw).verdicts
    assert {problem.exit_code for problem in verdict.problems} == {66}


@settings(deadline=None)
@given(st.one_of(st.integers(), st.floats(), st.text(), st.booleans(), st.none(), st.lists(st.integers(), max_size=2)))
@example(2**53 + 1)  # no float has this value: the nearest one is meant
def test_any_value_is_a_finite_number_or_none(value):
    number = finite_number(value)
    nearest = float(value) if number is not None and isinstance(value, int) else value
    assert number is None or (isinstance(number, float) and np.isfinite(number) and number == nearest)
    converted, _ = as_numbers({"EchoTime": value}, "x")
    assert finite_number(converted["EchoTime"]) is None or np.isfinite(float(converted["EchoTime"]))


def test_number_beyond_all_floats():
    assert finite_number(10**400) is None


LABELS = r"\A[A-Za-z0-9+]{1,4}(_ses-[A-Za-z0-9.]{1,3})?(_acq-[A-Za-z0-9+.é]{1,4})?(_run-[0-9]{1,3})?\Z"


@settings(deadline=None)
@given(st.one_of(st.text(max_size=60), st.from_regex(LABELS)))
def test_names_that_are_taken_lead_into_the_output_folder(text):
    name = parse_name(Path(f"sub-{text.replace('/', '-')}_MEGRE.nii.gz"))
    if name is None:
        return
    given_ = dict(name.entities)
    rest = tuple(pair for pair in name.entities if pair[0] not in ("sub", "ses"))
    acquisition = Acquisition(given_["sub"], given_.get("ses"), rest, "MEGRE", (Echo(0.004),), 3.0, "sidecar")
    out = Path("/out")
    for path in (derivative_path(out, acquisition, "swi"), report_path(out, acquisition.subject)):
        assert os.path.normpath(path).startswith("/out/")
        assert ".." not in path.parts
    assert workflow_name(acquisition).isidentifier()


@pytest.mark.parametrize("label", ["../..", "/etc", "..", "01/../../x", "a\x00b"])
def test_labels_that_are_paths_match_nothing(tmp_path, capsys, label):
    raw = make_dataset(tmp_path)
    words = [str(raw), str(tmp_path / "out"), "participant", "-w", str(tmp_path / "work"), "--participant-label", label]
    assert main(words) == 18
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "\x00" not in said
    assert not (tmp_path / "out").exists()


def test_names_and_values_that_are_commands_to_a_terminal(tmp_path, capsys):
    raw = make_dataset(tmp_path)
    anat = raw / "sub-01" / "anat"
    for name in ("sub-01_acq-\x1b[31m_MEGRE.nii.gz", "sub-01_acq-a\nb_MEGRE.nii.gz", "sub-01_acq-\u202ex_MEGRE.nii.gz"):
        (anat / name).write_bytes(b"x")
    edit(json_of(images(raw, "*echo-1_part-phase*")[0]), Units="\x1b[2J")
    table = render_table(preflight(raw))
    assert "\\x1b[31m" in table
    assert not [c for c in table if c != "\n" and not c.isprintable()]
    assert str(DataError("a\nb", file="\x1b[2J\udcff")).isprintable()


def test_names_that_are_no_text(tmp_path, capsys):
    raw = make_dataset(tmp_path)
    (raw / "sub-01" / "anat" / os.fsdecode(b"sub-01_acq-\xff_part-phase_MEGRE.nii.gz")).write_bytes(b"x")
    result = preflight(raw)
    assert len(result.acquisitions) == 1
    render_table(result).encode("utf-8")
    written = write_text("name \udcff", tmp_path / "x.txt")
    assert written.read_text() == "name \\udcff"
    written = write_json({"name": "\udcff"}, tmp_path / "x.json")
    assert json.loads(written.read_text()) == {"name": "\udcff"}


def test_superscript_index_of_a_sidecar(tmp_path):
    raw = make_dataset(tmp_path)
    (raw / "echo-²_MEGRE.json").write_text('{"EchoTime": 7}')
    assert len(preflight(raw).acquisitions) == 1


def test_qform_that_is_no_rotation(tmp_path):
    raw = make_dataset(tmp_path, extension=".nii")
    for path in images(raw, "*MEGRE*"):
        blob = bytearray(path.read_bytes())
        blob[256:260] = np.float32(2).tobytes()
        path.write_bytes(blob)
    (verdict,) = preflight(raw).verdicts
    assert verdict.acquisition is not None
    assert any("no rotation" in warning for warning in verdict.warnings)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {"a": 1}, [[1]], [float("nan")], 10**400])
def test_values_that_json_has_not_are_not_passed_on(value):
    acquisition = Acquisition("01", None, (), "MEGRE", (Echo(0.004),), 3.0, "sidecar", {"FlipAngle": value})
    content = sidecar_json(Sidecar("x", ("bids:raw:x",), skull_stripped=True), acquisition, "R2starmap")
    assert "FlipAngle" not in content
    json.dumps(content, allow_nan=False)


def test_links_out_of_the_data_set_are_read_but_never_shown_or_written(tmp_path, capsys):
    """Data sets of datalad consist of links. What they lead to is taken for an image or a sidecar, or refused."""
    raw = make_dataset(tmp_path)
    secret = tmp_path / "secret.txt"
    secret.write_text("not for your eyes\n")
    before = (secret.read_bytes(), secret.stat().st_mtime_ns)
    for path in (images(raw, "*echo-1_part-mag*")[0], json_of(images(raw, "*echo-2_part-mag*")[0])):
        path.unlink()
        path.symlink_to(secret)
    words = [str(raw), str(tmp_path / "out"), "participant", "-w", str(tmp_path / "work")]
    assert main(words) == 65
    told = capsys.readouterr()
    assert "not for your eyes" not in told.out + told.err
    assert (secret.read_bytes(), secret.stat().st_mtime_ns) == before


def test_loops_of_links_end(tmp_path):
    raw = make_dataset(tmp_path)
    (raw / "sub-01" / "loop").symlink_to("..")
    (raw / "sub-01" / "anat" / "loop").symlink_to(".")
    (raw / "sub-02").symlink_to(".")
    (raw / "sub-03").symlink_to("sub-01")
    assert [a.subject for a in preflight(raw).acquisitions] == ["01"]


@pytest.mark.parametrize("place", ["sub-01", "sub-01/anat", "logs"])
def test_output_that_is_a_link_into_the_input(tmp_path, place):
    """Results would be written over the raw data."""
    raw = make_dataset(tmp_path)
    link = tmp_path / "out" / place
    link.parent.mkdir(parents=True)
    link.symlink_to(raw / "sub-01" / "anat")
    with pytest.raises(UsageError, match="link into the input"):
        check_output_dir(raw, tmp_path / "out")
    link.unlink()
    link.symlink_to(tmp_path)
    check_output_dir(raw, tmp_path / "out")


class Harm:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (self.path,))


def harmful(kind: str, path: Path) -> bytes:
    """A file of weights that runs code in careless hands."""
    if kind == "pickle":
        return pickle.dumps(Harm(path))
    stream = io.BytesIO()
    if kind == "torch":
        torch.save({"weight": Harm(path)}, stream)
    else:
        with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("data.pkl", bytes(200_000_000))
    return stream.getvalue()


@pytest.mark.parametrize("kind", ["pickle", "torch", "zip bomb"])
def test_weights_never_run_code(tmp_path, kind):
    """With a card whose checksum is right: nothing but safetensors is taken."""
    touched = tmp_path / "touched"
    blob = harmful(kind, touched)
    card = json.loads(weights.card_path("loopnet").read_text())
    (tmp_path / "loopnet.json").write_text(json.dumps({**card, "sha256": hashlib.sha256(blob).hexdigest()}))
    (tmp_path / "loopnet.safetensors").write_bytes(blob)
    with pytest.raises(DataError, match="safetensors"):
        weights.load("loopnet", tmp_path)
    assert not touched.exists()


@pytest.mark.parametrize("kind", ["pickle", "torch", "zip bomb"])
def test_checkpoints_never_run_code(tmp_path, kind):
    from qsmprep.training.config import TrainParams

    touched = tmp_path / "touched"
    path = tmp_path / "checkpoint.pt"
    path.write_bytes(harmful(kind, touched))
    with pytest.raises(DataError, match="checkpoint"):
        resume(path, TrainParams("loopnet"), "cpu")
    assert not touched.exists()


def test_harm_is_real(tmp_path):
    """The pickle of these tests does run code where nothing forbids it."""
    pickle.loads(harmful("pickle", tmp_path / "touched"))
    assert (tmp_path / "touched").exists()


def test_weights_without_end(tmp_path):
    card = weights.card_path("loopnet").read_bytes()
    (tmp_path / "loopnet.json").write_bytes(card)
    with (tmp_path / "loopnet.safetensors").open("wb") as stream:
        stream.truncate(20 << 30)
    with pytest.raises(DataError, match="bytes"):
        weights.load("loopnet", tmp_path)
    (tmp_path / "loopnet.safetensors").unlink()
    (tmp_path / "loopnet.safetensors").symlink_to("/dev/zero")
    with pytest.raises(MissingFileError):
        weights.load("loopnet", tmp_path)


def test_table_with_an_endless_cell(tmp_path):
    path = tmp_path / "x.tsv"
    path.write_text("name\n" + "x" * 200_000 + "\n")
    with pytest.raises(DataError, match="table"):
        read_tsv(path)


def test_deep_configuration_file(tmp_path, capsys):
    path = tmp_path / "c.json"
    path.write_text("[" * 100_000)
    assert main([str(tmp_path), str(tmp_path / "out"), "participant", "--config-file", str(path)]) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_markup_in_a_sidecar_is_text_in_the_report():
    from qsmprep.reports.page import page_environment

    text = '<script src="x">alert(1)</script><img onerror=alert(1)>[a](javascript:alert(1))'
    for template in ("{{ text }}", "{{ text | markdown }}", "{{ text | citation }}"):
        shown = page_environment().from_string(template).render(text=text)
        assert not re.search(r"<(script|img|a)\b", shown), shown
