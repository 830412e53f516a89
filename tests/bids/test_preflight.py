"""Every fault that users bring gives one clear message with the right exit code; nothing stops at the first."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
import time

import builders
import nibabel as nib
import numpy as np
import pytest
from builders import edit, images, json_of, make_dataset, write_image

from qsmprep.bids.collect import Selection
from qsmprep.bids.preflight import preflight
from qsmprep.bids.table import render_table
from qsmprep.errors import DataError, InvalidBIDSError, MissingFileError, NoMatchError, UsageError


def refusal(raw, selection=None, **options):
    """The one problem of the one verdict, which is also what stops the run."""
    result = preflight(raw, selection, **options)
    (verdict,) = result.verdicts
    assert verdict.acquisition is None
    assert len(verdict.problems) == 1, [str(p) for p in verdict.problems]
    with pytest.raises(type(verdict.problems[0])) as caught:
        result.raise_if_nothing_to_do()
    assert str(caught.value) == str(verdict.problems[0])
    table = render_table(result)
    assert "cannot be processed" in table
    assert verdict.problems[0].what[:40] in table
    return verdict.problems[0]


def ready(raw, selection=None, **options):
    """The acquisitions of a data set without problems."""
    result = preflight(raw, selection, **options)
    assert not result.problems
    assert [str(p) for v in result.verdicts for p in v.problems] == []
    result.raise_if_nothing_to_do()
    return result.acquisitions


def test_a_good_data_set_is_ready(tmp_path):
    raw = make_dataset(tmp_path)
    (acquisition,) = ready(raw)
    assert acquisition.te_s == builders.TE_S
    assert acquisition.b0_t == 3.0
    assert acquisition.b0_source == "sidecar"
    assert acquisition.phase_units == "rad"
    assert acquisition.t1w.name == "sub-01_T1w.nii.gz"
    assert acquisition.given_mask is None
    assert [e.phase.name for e in acquisition.echoes] == [f"sub-01_echo-{i}_part-phase_MEGRE.nii.gz" for i in (1, 2, 3)]
    table = render_table(preflight(raw))
    assert "4 9 14" in table
    assert "mag+phase" in table
    assert "1 acquisition of 1 participant can be processed." in table


def test_no_phase(tmp_path):
    problem = refusal(make_dataset(tmp_path, parts=("mag",)))
    assert isinstance(problem, MissingFileError)
    assert problem.exit_code == 66
    assert "no phase" in problem.what


def test_no_phase_and_no_part_in_the_names(tmp_path):
    assert "no phase" in refusal(make_dataset(tmp_path, parts=("",))).what


def test_magnitude_without_its_phase(tmp_path):
    raw = make_dataset(tmp_path)
    images(raw, "*echo-2_part-phase*")[0].unlink()
    problem = refusal(raw)
    assert problem.exit_code == 66
    assert problem.file.endswith("echo-2_part-mag_MEGRE.nii.gz")
    assert problem.expected == "sub-01_echo-2_part-phase_MEGRE.nii.gz"


def test_one_phase_without_magnitude(tmp_path):
    raw = make_dataset(tmp_path)
    images(raw, "*echo-2_part-mag*")[0].unlink()
    problem = refusal(raw)
    assert problem.exit_code == 66
    assert problem.file.endswith("echo-2_part-phase_MEGRE.nii.gz")


def test_no_magnitude_at_all_is_a_warning(tmp_path):
    result = preflight(make_dataset(tmp_path, parts=("phase",)))
    (verdict,) = result.verdicts
    assert not verdict.acquisition.has_magnitude
    assert any("no magnitude" in warning for warning in verdict.warnings)
    assert "ready, with warnings" in render_table(result)


def test_real_without_imaginary(tmp_path):
    raw = make_dataset(tmp_path, parts=("real", "imag"))
    images(raw, "*echo-1_part-imag*")[0].unlink()
    problem = refusal(raw)
    assert problem.exit_code == 66
    assert problem.expected == "sub-01_echo-1_part-imag_MEGRE.nii.gz"


def test_other_shape(tmp_path):
    raw = make_dataset(tmp_path)
    write_image(images(raw, "*echo-3_part-phase*")[0], builders.echo_part((12, 10, 9), 0.014, "phase"))
    problem = refusal(raw)
    assert problem.exit_code == 65
    assert "12 x 10 x 9" in problem.what
    assert problem.file.endswith("echo-3_part-phase_MEGRE.nii.gz")


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_other_affine(tmp_path, axis):
    raw = make_dataset(tmp_path)
    moved = builders.AFFINE.copy()
    moved[axis, 3] += 1.0
    write_image(images(raw, "*echo-2_part-mag*")[0], builders.echo_part(builders.SHAPE, 0.009, "mag"), moved)
    problem = refusal(raw)
    assert problem.exit_code == 65
    assert "affine" in problem.what
    assert "0.83 voxels" in problem.what  # 1 mm over the shortest edge, 1.2 mm


def test_rounding_of_the_affine_is_no_fault(tmp_path):
    raw = make_dataset(tmp_path)
    moved = builders.AFFINE + 1e-4
    moved[3] = (0, 0, 0, 1)
    write_image(images(raw, "*echo-2_part-mag*")[0], builders.echo_part(builders.SHAPE, 0.009, "mag"), moved)
    assert len(ready(raw)) == 1


def test_no_echo_time(tmp_path):
    raw = make_dataset(tmp_path, metadata={"EchoTime": None})
    problem = refusal(raw)
    assert problem.exit_code == 65
    assert "EchoTime is missing from the sidecars of 6 images" in problem.what


def test_echo_time_that_is_null(tmp_path):
    """As if it were not there, of one echo as of all."""
    raw = make_dataset(tmp_path)
    for path in raw.glob("sub-01/anat/*echo-2*MEGRE.json"):
        path.write_text(json.dumps({**json.loads(path.read_text()), "EchoTime": None}))
    assert "EchoTime is missing from the sidecars of 2 images" in refusal(raw).what
    for path in raw.glob("sub-01/anat/*MEGRE.json"):
        path.write_text(json.dumps({**json.loads(path.read_text()), "EchoTime": None}))
    assert "EchoTime is missing from the sidecars of 6 images" in refusal(raw).what


def test_entity_that_results_need(tmp_path):
    """A denoised derivative as input: said before any work, of that participant alone."""
    raw = make_dataset(tmp_path, subjects=("01", "02"))
    for path in (raw / "sub-02" / "anat").glob("*MEGRE*"):
        path.rename(path.with_name(path.name.replace("_MEGRE", "_desc-denoised_MEGRE")))
    first, second = preflight(raw).verdicts
    assert first.acquisition is not None and second.acquisition is None
    (problem,) = second.problems
    assert problem.exit_code == 65 and "desc-denoised" in problem.what


def test_echo_time_of_one_echo_missing(tmp_path):
    raw = make_dataset(tmp_path)
    for image in images(raw, "*echo-2*"):
        edit(json_of(image), EchoTime=None)
    assert "of 2 images" in refusal(raw).what


def test_echo_time_of_one_part_is_enough(tmp_path):
    raw = make_dataset(tmp_path)
    edit(json_of(images(raw, "*echo-2_part-mag*")[0]), EchoTime=None)
    (verdict,) = preflight(raw).verdicts
    assert verdict.acquisition.te_s == builders.TE_S
    assert any("EchoTime is missing" in warning for warning in verdict.warnings)


def test_duplicated_echo_time(tmp_path):
    problem = refusal(make_dataset(tmp_path, te_s=(0.004, 0.009, 0.009)))
    assert problem.exit_code == 65
    assert "same EchoTime (9 ms)" in problem.what


def test_echo_time_in_milliseconds(tmp_path):
    result = preflight(make_dataset(tmp_path, te_s=(4.0, 9.0)))
    problem = result.verdicts[0].problems[0]
    assert problem.exit_code == 65
    assert "milliseconds" in problem.what
    assert problem.expected == "seconds, here 0.004"


@pytest.mark.parametrize("value", [0, -0.004, "soon", True, float("nan")])
def test_echo_time_that_is_none(tmp_path, value):
    raw = make_dataset(tmp_path, te_s=(0.004,), parts=("mag", "phase"))
    for image in images(raw, "*MEGRE"):
        edit(json_of(image), EchoTime=value)
    problems = preflight(raw).verdicts[0].problems
    assert len(problems) == 2
    for problem in problems:
        assert problem.exit_code == 65
        assert repr(value) in problem.what


def test_echo_times_of_magnitude_and_phase_differ(tmp_path):
    raw = make_dataset(tmp_path)
    edit(json_of(images(raw, "*echo-3_part-phase*")[0]), EchoTime=0.019)
    problem = refusal(raw)
    assert problem.exit_code == 65
    assert "mag 14 ms" in problem.what
    assert "phase 19 ms" in problem.what


def test_echoes_are_ordered_by_time_not_by_index(tmp_path):
    (verdict,) = preflight(make_dataset(tmp_path, te_s=(0.014, 0.004, 0.009))).verdicts
    assert verdict.acquisition.te_s == (0.004, 0.009, 0.014)
    assert [e.phase.name.split("_")[1] for e in verdict.acquisition.echoes] == ["echo-2", "echo-3", "echo-1"]
    assert any("do not follow" in warning for warning in verdict.warnings)


def test_numbers_as_text_are_taken_with_a_warning(tmp_path):
    raw = make_dataset(tmp_path, te_s=(0.004,), b0_t="3", metadata={"EchoTime": "0.0081"})
    (verdict,) = preflight(raw).verdicts
    assert verdict.acquisition.te_s == (0.0081,)
    assert verdict.acquisition.b0_t == 3.0
    assert any('stored as "0.0081"' in warning for warning in verdict.warnings)


def test_no_field_strength(tmp_path):
    raw = make_dataset(tmp_path, b0_t=None, metadata={"ImagingFrequency": 127.7})
    problem = refusal(raw)
    assert problem.exit_code == 65
    assert "MagneticFieldStrength is missing" in problem.what
    assert "suggests 3)" in problem.remedy
    (acquisition,) = ready(raw, b0_t_override=2.89)
    assert (acquisition.b0_t, acquisition.b0_source) == (2.89, "override")


@pytest.mark.parametrize(
    ("value", "hint"),
    [
        (30000, "gauss (3 T)"),
        (15000, "gauss (1.5 T)"),
        (3000, "millitesla (3 T)"),
        (0, "0"),
        (-3, "-3"),
        ("high", "'high'"),
    ],
)
def test_field_strength_that_is_none(tmp_path, value, hint):
    problem = refusal(make_dataset(tmp_path, b0_t=value))
    assert problem.exit_code == 65
    assert hint in problem.what


def test_override_that_contradicts_the_sidecar_is_said(tmp_path):
    (verdict,) = preflight(make_dataset(tmp_path), b0_t_override=7).verdicts
    assert verdict.acquisition.b0_t == 7
    assert any("sidecar says 3 T" in warning for warning in verdict.warnings)


def test_override_that_makes_no_sense(tmp_path):
    result = preflight(make_dataset(tmp_path), b0_t_override=30000)
    with pytest.raises(UsageError) as caught:
        result.raise_if_nothing_to_do()
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("n_volumes", [3, 32])
def test_several_volumes_in_a_file(tmp_path, n_volumes):
    raw = make_dataset(tmp_path, te_s=(0.004,), parts=("phase",), shape=(*builders.SHAPE, n_volumes))
    problem = refusal(raw)
    assert problem.exit_code == 65
    assert f"{n_volumes} volumes" in problem.what
    assert "coils" in problem.remedy
    assert "echo-1" in problem.remedy


def test_fourth_axis_of_one_is_no_fault(tmp_path):
    assert len(ready(make_dataset(tmp_path, shape=(*builders.SHAPE, 1)))) == 1


def test_list_of_echo_times(tmp_path):
    raw = make_dataset(tmp_path, te_s=(0.004,), parts=("phase",), metadata={"EchoTime": [0.004, 0.009]})
    problem = refusal(raw)
    assert "list of 2 values" in problem.what


def test_complex_voxels(tmp_path):
    raw = make_dataset(tmp_path, te_s=(0.004,), parts=("phase",))
    write_image(images(raw, "*phase*")[0], np.ones(builders.SHAPE, np.complex64))
    problem = refusal(raw)
    assert problem.exit_code == 65
    assert "complex64" in problem.what


def test_single_slice(tmp_path):
    problem = refusal(make_dataset(tmp_path, te_s=(0.004,), parts=("phase",), shape=(12, 10, 1)))
    assert "no volume" in problem.what


def test_sheared_affine(tmp_path):
    sheared = builders.AFFINE.copy()
    sheared[0, 1] = 0.6
    raw = make_dataset(tmp_path, te_s=(0.004,), parts=("phase",))
    image = nib.Nifti1Image(builders.echo_part(builders.SHAPE, 0.004, "phase"), sheared)
    nib.save(image, images(raw, "*phase*")[0])
    problem = refusal(raw)
    assert "sheared" in problem.what
    assert problem.file.endswith("part-phase_MEGRE.nii.gz")


def test_image_without_orientation_is_warned_of(tmp_path):
    raw = make_dataset(tmp_path, te_s=(0.004,), parts=("phase",))
    image = nib.Nifti1Image(builders.echo_part(builders.SHAPE, 0.004, "phase"), None)
    nib.save(image, images(raw, "*phase*")[0])
    (verdict,) = preflight(raw).verdicts
    assert any("no orientation" in warning for warning in verdict.warnings)


def test_empty_file(tmp_path):
    raw = make_dataset(tmp_path)
    images(raw, "*echo-1_part-mag*")[0].write_bytes(b"")
    problem = refusal(raw)
    assert problem.exit_code == 65
    assert "empty" in problem.what


def test_no_nifti(tmp_path):
    raw = make_dataset(tmp_path)
    images(raw, "*echo-1_part-mag*")[0].write_bytes(gzip.compress(b"hello" * 500))
    assert refusal(raw).exit_code == 65


@pytest.mark.parametrize("extension", [".nii", ".nii.gz"])
def test_file_cut_short(tmp_path, extension):
    raw = make_dataset(tmp_path, extension=extension)
    path = images(raw, "*echo-2_part-phase*")[0]
    path.write_bytes(path.read_bytes()[:-700])
    problem = refusal(raw)
    assert problem.exit_code == 65
    assert "cut short" in problem.what
    assert problem.file == str(path)


def test_gzip_of_several_members_is_whole(tmp_path):
    raw = make_dataset(tmp_path)
    path = images(raw, "*echo-2_part-phase*")[0]
    content = gzip.decompress(path.read_bytes())
    path.write_bytes(gzip.compress(content[:1000]) + gzip.compress(content[1000:]))
    assert len(ready(raw)) == 1


def test_link_to_nothing(tmp_path):
    raw = make_dataset(tmp_path)
    path = images(raw, "*echo-2_part-phase*")[0]
    path.unlink()
    path.symlink_to("../../.git/annex/objects/aa/bb/key")
    problem = refusal(raw)
    assert problem.exit_code == 66
    assert "link to nothing" in problem.what
    assert "datalad get" in problem.remedy


def test_links_to_real_files_are_read(tmp_path):
    raw = make_dataset(tmp_path)
    store = tmp_path / "store"
    store.mkdir()
    for path in images(raw, "*MEGRE"):
        path.rename(store / path.name)
        path.symlink_to(store / path.name)
    assert len(ready(raw)) == 1


def test_broken_sidecar(tmp_path):
    raw = make_dataset(tmp_path, subjects=("01", "02"))
    path = json_of(images(raw, "sub-01_echo-1_part-phase*")[0])
    path.write_text('{"EchoTime": 0.004,')
    result = preflight(raw)
    bad, good = result.verdicts
    assert good.acquisition is not None
    assert "not valid JSON" in bad.problems[0].what
    assert bad.problems[0].file == str(path)


def test_unknown_participant(tmp_path):
    raw = make_dataset(tmp_path, subjects=("01", "02"))
    result = preflight(raw, Selection(participants=("01", "sub-O2")))
    with pytest.raises(NoMatchError) as caught:
        result.raise_if_nothing_to_do()
    assert caught.value.exit_code == 18
    assert "sub-O2" in str(caught.value)
    assert "sub-01" not in caught.value.what
    assert "sub-O2" in render_table(result)


def test_unknown_session(tmp_path):
    raw = make_dataset(tmp_path, sessions=("1",))
    with pytest.raises(NoMatchError) as caught:
        preflight(raw, Selection(sessions=("2",))).raise_if_nothing_to_do()
    assert caught.value.exit_code == 18


def test_selection_that_leaves_nothing(tmp_path):
    filters = {f"qsm_{part}": {"acquisition": "other"} for part in ("mag", "phase")}
    problem = refusal(make_dataset(tmp_path), Selection(filters=filters))
    assert problem.exit_code == 18


def test_participant_without_images_is_reported(tmp_path):
    raw = make_dataset(tmp_path)
    (raw / "sub-02" / "anat").mkdir(parents=True)
    result = preflight(raw)
    result.raise_if_nothing_to_do()
    assert [v.subject for v in result.verdicts] == ["01", "02"]
    assert result.verdicts[1].problems[0].exit_code == 66
    assert "(1 participant left out)" in render_table(result)


def test_no_data_set(tmp_path):
    for folder in (tmp_path, tmp_path / "absent"):
        with pytest.raises(InvalidBIDSError) as caught:
            preflight(folder).raise_if_nothing_to_do()
        assert caught.value.exit_code == 16


def test_data_set_without_participants(tmp_path):
    builders.write(tmp_path / "dataset_description.json", {"Name": "x", "BIDSVersion": "1.10.0"})
    with pytest.raises(InvalidBIDSError):
        preflight(tmp_path).raise_if_nothing_to_do()


def test_all_problems_of_all_participants_are_collected(tmp_path):
    raw = make_dataset(tmp_path, subjects=("01",), b0_t=None, te_s=(0.004, 0.004))
    make_dataset(tmp_path, subjects=("02",), parts=("mag",))
    make_dataset(tmp_path, subjects=("03",))
    result = preflight(raw)
    problems = {v.subject: [p.what for p in v.problems] for v in result.verdicts}
    assert len(problems["01"]) == 2
    assert len(problems["02"]) == 1
    assert problems["03"] == []
    assert [a.subject for a in result.acquisitions] == ["03"]


def test_the_commonest_reason_is_raised_when_all_fail(tmp_path):
    raw = make_dataset(tmp_path, subjects=("01", "02"), b0_t=None)
    make_dataset(tmp_path, subjects=("03",), parts=("mag",))
    with pytest.raises(DataError, match="none of 3") as caught:
        preflight(raw).raise_if_nothing_to_do()
    assert "MagneticFieldStrength" in str(caught.value)


def test_two_suffixes_that_would_write_the_same_names(tmp_path):
    raw = make_dataset(tmp_path)
    make_dataset(tmp_path, suffix="T2starw", te_s=(0.02,), echo_entity=False)
    first, second = preflight(raw).verdicts
    assert first.acquisition.suffix == "MEGRE"
    assert "same names" in second.problems[0].what


def test_nothing_is_written(tmp_path):
    raw = make_dataset(tmp_path)
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")}
    preflight(raw)
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")} == before


def test_import_is_light():
    code = (
        "import sys, qsmprep.bids.preflight, qsmprep.bids.table, qsmprep.bids.dataset, qsmprep.bids.sidecars;"
        "print(sorted({'torch', 'bids', 'nipype', 'pandas', 'niworkflows'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ}, check=True)
    assert done.stdout.strip() == "[]"


def test_many_participants_take_seconds(tmp_path):
    """Two hundred participants with three echoes are judged in well under half a minute of CPU time."""
    raw = make_dataset(tmp_path)
    source = raw / "sub-01" / "anat"
    for number in range(2, 201):
        anat = builders.anat_dir(raw, f"{number:03d}")
        for path in source.iterdir():
            os.link(path, anat / path.name.replace("sub-01", f"sub-{number:03d}"))
    start = time.process_time()
    result = preflight(raw)
    assert len(result.acquisitions) == 200
    assert time.process_time() - start < 30
