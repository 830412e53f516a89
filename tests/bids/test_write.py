"""Writing: whole or not at all, the same bytes, the same orientation; and where writing is refused."""

from __future__ import annotations

import json
import os
import resource
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import permutations, product
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from builders import AFFINE, SHAPE, make_dataset

from qsmprep.bids.dataset import check_output_dir, write_dataset_files
from qsmprep.bids.write import atomic, copy_file, write_json, write_nifti, write_text
from qsmprep.errors import CannotWriteError, DataError, MissingFileError, UsageError


@contextmanager
def unprivileged() -> Iterator[None]:
    """Permissions mean nothing to root: become nobody for a moment."""
    user = os.geteuid()
    if user == 0:
        try:
            os.seteuid(65534)
        except OSError:  # a name space of `unshare -r` has root and nobody else
            pytest.skip("there is no other user here")
    try:
        yield
    finally:
        if user == 0:
            os.seteuid(user)


@pytest.fixture
def read_only():
    """A folder, reachable by everyone, that nobody may write to."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o555)
        yield folder
        folder.chmod(0o755)


@contextmanager
def files_limited_to(n_bytes: int) -> Iterator[None]:
    """Every write beyond this many bytes fails, as on a full disk."""
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)


def volume(dtype=np.float32):
    return np.random.default_rng(1).normal(0, 100, SHAPE).astype(dtype)


@pytest.mark.parametrize("extension", [".nii", ".nii.gz"])
@pytest.mark.parametrize(
    ("given", "stored"),
    [
        (np.float32, np.float32),
        (np.float64, np.float32),
        (np.bool_, np.uint8),
        (np.int16, np.int16),
        (np.int64, np.int16),
    ],
)
def test_values_come_back(tmp_path, extension, given, stored):
    path = tmp_path / "deep" / "er" / f"x{extension}"
    array = volume(given)
    assert write_nifti(array, AFFINE, None, path) == path
    image = nib.load(path)
    assert image.get_data_dtype() == stored
    np.testing.assert_array_equal(np.asanyarray(image.dataobj), array.astype(stored))
    np.testing.assert_allclose(image.affine, AFFINE, atol=1e-6)
    assert image.header.get_xyzt_units() == ("mm", "sec")
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_large_labels_take_int32(tmp_path):
    labels = np.full(SHAPE, 40000)
    image = nib.load(write_nifti(labels, AFFINE, None, tmp_path / "x.nii.gz"))
    assert image.get_data_dtype() == np.int32
    assert int(image.dataobj[0, 0, 0]) == 40000


def test_same_input_same_bytes(tmp_path):
    one = write_nifti(volume(), AFFINE, None, tmp_path / "one.nii.gz")
    two = write_nifti(volume(), AFFINE, None, tmp_path / "two.nii.gz")
    assert one.read_bytes() == two.read_bytes()


def orientations():
    """The 48 axis permutations and flips, and an oblique affine."""
    for order in permutations(range(3)):
        for signs in product((1, -1), repeat=3):
            affine = np.eye(4)
            affine[:3, :3] = np.diag((1.5, 1.2, 2.0))[:, order] * signs
            yield affine
    angle = 0.3
    turn = np.array([[1, 0, 0], [0, np.cos(angle), -np.sin(angle)], [0, np.sin(angle), np.cos(angle)]])
    oblique = AFFINE.copy()
    oblique[:3, :3] = turn @ AFFINE[:3, :3]
    yield oblique


@pytest.mark.parametrize("codes", [(1, 1), (1, 0), (0, 1), (0, 0), (2, 4)])
def test_orientation_and_codes_are_kept(tmp_path, codes):
    for affine in orientations():
        source = nib.Nifti1Image(volume(), affine)
        source.set_qform(affine, codes[0])
        source.set_sform(affine, codes[1])
        image = nib.load(write_nifti(volume(), affine, source.header, tmp_path / "x.nii"))
        np.testing.assert_allclose(image.affine, affine, atol=1e-4)
        if codes != (0, 0):
            assert (int(image.header["qform_code"]), int(image.header["sform_code"])) == codes


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_values_that_are_not_finite_are_refused(tmp_path, bad):
    array = volume()
    array[1, 2, 3] = bad
    with pytest.raises(DataError, match="1 voxels"):
        write_nifti(array, AFFINE, None, tmp_path / "x.nii.gz")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("array", [np.zeros((3, 3)), np.zeros((0, 3, 3)), np.zeros(SHAPE, complex)])
def test_what_is_no_volume_is_refused(tmp_path, array):
    with pytest.raises(DataError):
        write_nifti(array, AFFINE, None, tmp_path / "x.nii.gz")


def test_json(tmp_path):
    path = write_json({"b": np.float32(0.5), "a": np.arange(3), "c": (1, 2), "d": "µ"}, tmp_path / "x.json")
    assert list(json.loads(path.read_text(encoding="utf-8")).items()) == [
        ("b", 0.5),
        ("a", [0, 1, 2]),
        ("c", [1, 2]),
        ("d", "µ"),
    ]
    for bad in (float("nan"), object()):
        with pytest.raises(DataError):
            write_json({"x": bad}, tmp_path / "y.json")
    assert [p.name for p in tmp_path.iterdir()] == ["x.json"]


def test_a_failure_leaves_the_old_file_and_no_other(tmp_path):
    path = write_text("old", tmp_path / "x.txt")
    with pytest.raises(RuntimeError), atomic(path) as stream:
        stream.write(b"half of the new")
        raise RuntimeError
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_leaves_nothing(tmp_path):
    noise = np.random.default_rng(0).normal(size=(40, 40, 40)).astype(np.float32)
    with files_limited_to(20_000), pytest.raises(CannotWriteError) as caught:
        write_nifti(noise, AFFINE, None, tmp_path / "x.nii.gz")
    assert caught.value.exit_code == 73
    assert list(tmp_path.iterdir()) == []


def test_read_only_folder(read_only):
    with unprivileged(), pytest.raises(CannotWriteError) as caught:
        write_json({}, read_only / "sub" / "x.json")
    assert caught.value.exit_code == 73
    assert "may write" in caught.value.remedy


def test_folder_that_is_a_file(tmp_path):
    write_text("x", tmp_path / "out")
    with pytest.raises(CannotWriteError):
        write_json({}, tmp_path / "out" / "x.json")


def test_copy(tmp_path):
    source = write_text("content", tmp_path / "a")
    assert copy_file(source, tmp_path / "b" / "c", durable=True).read_text() == "content"
    with pytest.raises(MissingFileError):
        copy_file(tmp_path / "absent", tmp_path / "d")
    assert not (tmp_path / "d").exists()


@pytest.mark.parametrize("place", [".", "sub-01", "out", "derivatives"])
def test_output_inside_the_input(tmp_path, place):
    raw = make_dataset(tmp_path)
    with pytest.raises(UsageError) as caught:
        check_output_dir(raw, raw / place)
    assert caught.value.exit_code == 2
    assert str(raw / "derivatives" / "qsmprep") in caught.value.remedy


def test_output_inside_the_input_through_a_link(tmp_path):
    raw = make_dataset(tmp_path)
    (tmp_path / "link").symlink_to(raw, target_is_directory=True)
    with pytest.raises(UsageError):
        check_output_dir(raw, tmp_path / "link" / "out")


def test_output_that_is_a_raw_data_set(tmp_path):
    """Folders in the wrong order, or another study: its description would be replaced."""
    raw = make_dataset(tmp_path)
    before = (raw / "dataset_description.json").read_text()
    with pytest.raises(UsageError, match="no derivatives"):
        check_output_dir(raw / "derivatives" / "qsmprep", raw)
    assert (raw / "dataset_description.json").read_text() == before
    super_data_set = tmp_path / "all"
    (super_data_set / "sourcedata").mkdir(parents=True)
    raw.rename(super_data_set / "sourcedata" / "raw")
    assert check_output_dir(super_data_set / "sourcedata" / "raw", super_data_set) == ()


@pytest.mark.parametrize(
    ("told", "refused"),
    [
        ({"Name": "x"}, True),
        ({"DatasetType": "raw", "GeneratedBy": [{"Name": "heudiconv"}]}, True),
        ({"DatasetType": "study"}, True),
        ({"Name": "x", "GeneratedBy": [{"Name": "qsmprep"}]}, False),
        ({"Name": "x", "PipelineDescription": {"Name": "fmriprep"}}, False),
        ({"DatasetType": "derivative"}, False),
    ],
)
def test_output_by_its_description(tmp_path, told, refused):
    raw, out = make_dataset(tmp_path), tmp_path / "out"
    out.mkdir()
    (out / "dataset_description.json").write_text(json.dumps(told))
    if refused:
        with pytest.raises(UsageError, match="no derivatives"):
            check_output_dir(raw, out)
    else:
        check_output_dir(raw, out)


def test_output_where_it_may_be(tmp_path):
    raw = make_dataset(tmp_path)
    assert check_output_dir(raw, raw / "derivatives" / "qsmprep-tv", tmp_path / "work") == ()
    assert check_output_dir(raw, tmp_path / "out") == ()
    assert "name qsmprep" in check_output_dir(raw, raw / "derivatives" / "maps")[0]
    assert not (tmp_path / "out").exists()


def test_work_folder(tmp_path):
    raw = make_dataset(tmp_path)
    with pytest.raises(UsageError, match="inside the input"):
        check_output_dir(raw, tmp_path / "out", raw / "work")
    for work in (tmp_path / "out", tmp_path):
        with pytest.raises(UsageError, match="lies inside the work"):
            check_output_dir(raw, tmp_path / "out", work)
    assert "inside the output" in check_output_dir(raw, tmp_path / "out", tmp_path / "out" / "work")[0]


def test_output_that_cannot_be_written(tmp_path, read_only):
    raw = make_dataset(tmp_path)
    with unprivileged():
        for place in (read_only, read_only / "a" / "b"):
            with pytest.raises(CannotWriteError) as caught:
                check_output_dir(read_only / "raw", place)
            assert caught.value.exit_code == 73
            assert "read-only" in caught.value.what
        with pytest.raises(CannotWriteError):
            write_dataset_files(read_only / "out", read_only, version="0.1.0")
    (tmp_path / "file").write_text("")
    with pytest.raises(CannotWriteError, match="is a file"):
        check_output_dir(raw, tmp_path / "file" / "out")


def test_nan_only_where_it_is_meant(tmp_path):
    volume = np.zeros((3, 4, 5), np.float32)
    volume[1] = np.nan
    with pytest.raises(DataError, match="20 voxels are NaN"):
        write_nifti(volume, AFFINE, None, tmp_path / "a.nii.gz")
    path = write_nifti(volume, AFFINE, None, tmp_path / "a.nii.gz", undefined=True)
    np.testing.assert_array_equal(np.asarray(nib.load(path).dataobj), volume)
    volume[0, 0, 0] = np.inf
    with pytest.raises(DataError, match="1 voxels are"):
        write_nifti(volume, AFFINE, None, tmp_path / "b.nii.gz", undefined=True)
