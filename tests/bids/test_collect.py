"""What is found in a data set, and what is not mistaken for something else."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import builders
import numpy as np
import pytest
from builders import AFFINE, SHAPE, anat_dir, edit, images, json_of, make_dataset, write, write_image

from qsmprep.bids.acquisition import Acquisition, Echo
from qsmprep.bids.collect import Selection, collect
from qsmprep.bids.entities import natural_key, parse_name
from qsmprep.bids.preflight import preflight
from qsmprep.errors import DataError, NoMatchError, UsageError

PHILIPS = Path(__file__).parents[2] / "../shared/data/philips-dualecho"


def acquisitions(raw, selection=None, **options):
    result = preflight(raw, selection, **options)
    assert not result.problems, [str(p) for p in result.problems]
    assert [str(p) for v in result.verdicts for p in v.problems] == []
    return result.acquisitions


def warnings(raw, selection=None, **options):
    result = preflight(raw, selection, **options)
    return " | ".join([*result.warnings, *(w for v in result.verdicts for w in v.warnings)])


def test_round_trips(tmp_path):
    raw = make_dataset(tmp_path, sessions=("pre",), entities="acq-x_run-01")
    (acquisition,) = acquisitions(raw)
    assert Acquisition.from_dict(json.loads(json.dumps(acquisition.to_dict()))) == acquisition
    assert pickle.loads(pickle.dumps(acquisition)) == acquisition
    assert acquisition.key == "sub-01_ses-pre_acq-x_run-01"
    assert acquisition.label == "sub-01, ses-pre, acq-x, run-01"
    assert len({acquisition, acquisition}) == 1
    assert len(acquisition.files) == 6


def test_echoes_out_of_order_are_refused(tmp_path):
    with pytest.raises(DataError):
        Acquisition("01", None, (), "MEGRE", (Echo(0.01), Echo(0.005)), 3.0, "sidecar")


def test_units_of_work(tmp_path):
    """Sessions, acquisitions, runs and reconstructions are separate; echoes and parts are not."""
    raw = make_dataset(tmp_path, ("01", "10", "2"))
    make_dataset(tmp_path, ("03",), ("a", "b"))
    for entities in ("acq-x_run-1", "acq-x_run-2", "acq-x_run-10", "acq-y_rec-norm"):
        make_dataset(tmp_path, ("04",), entities=entities)
    assert [a.key for a in acquisitions(raw)] == [
        "sub-01",
        "sub-2",
        "sub-03_ses-a",
        "sub-03_ses-b",
        "sub-04_acq-x_run-1",
        "sub-04_acq-x_run-2",
        "sub-04_acq-x_run-10",
        "sub-04_acq-y_rec-norm",
        "sub-10",
    ]


@pytest.mark.parametrize("suffix", ["MEGRE", "T2starw", "PDw", "T1w"])
@pytest.mark.parametrize("extension", [".nii", ".nii.gz"])
def test_suffixes(tmp_path, suffix, extension):
    raw = make_dataset(tmp_path, suffix=suffix, extension=extension, t1w=False)
    (acquisition,) = acquisitions(raw)
    assert acquisition.suffix == suffix
    assert len(acquisition.echoes) == 3
    assert acquisition.t1w is None


@pytest.mark.parametrize("suffix", ["T2starw", "PDw", "T1w"])
def test_single_echo_without_an_index(tmp_path, suffix):
    raw = make_dataset(tmp_path, suffix=suffix, te_s=(0.02,), echo_entity=False, t1w=False)
    (acquisition,) = acquisitions(raw)
    assert acquisition.te_s == (0.02,)
    assert acquisition.echoes[0].phase.name == f"sub-01_part-phase_{suffix}.nii.gz"


def test_real_and_imaginary(tmp_path):
    (acquisition,) = acquisitions(make_dataset(tmp_path, parts=("real", "imag")))
    assert acquisition.has_magnitude
    assert acquisition.phase_units is None
    assert [(e.magnitude, e.phase) for e in acquisition.echoes] == [(None, None)] * 3
    assert acquisition.echoes[2].imag.name == "sub-01_echo-3_part-imag_MEGRE.nii.gz"


def test_phase_wins_over_real_and_imaginary(tmp_path):
    raw = make_dataset(tmp_path, parts=("mag", "phase", "real", "imag"))
    (acquisition,) = acquisitions(raw)
    assert all(e.phase is not None and e.real is None for e in acquisition.echoes)
    assert "the phase is used" in warnings(raw)


def test_magnitude_without_the_entity_part(tmp_path):
    raw = make_dataset(tmp_path, parts=("", "phase"))
    (acquisition,) = acquisitions(raw)
    assert acquisition.echoes[0].magnitude.name == "sub-01_echo-1_MEGRE.nii.gz"
    make_dataset(tmp_path, parts=("mag",))
    (acquisition,) = acquisitions(raw)
    assert acquisition.echoes[0].magnitude.name == "sub-01_echo-1_part-mag_MEGRE.nii.gz"
    assert "passed over in favour" in warnings(raw)


def test_two_files_of_the_same_part(tmp_path):
    raw = make_dataset(tmp_path)
    make_dataset(tmp_path, extension=".nii")
    problems = preflight(raw).verdicts[0].problems
    assert len(problems) == 6
    assert all("same part of the same echo" in p.what for p in problems)


def test_inheritance(tmp_path):
    """Nearer sidecars win; an image's own keys stay; a root sidecar has no entities at all."""
    raw = make_dataset(tmp_path, metadata={"EchoTime": None, "MagneticFieldStrength": None})
    write(raw / "MEGRE.json", {"MagneticFieldStrength": 7, "Manufacturer": "root", "FlipAngle": 1})
    write(raw / "sub-01" / "sub-01_MEGRE.json", {"Manufacturer": "subject"})
    write(raw / "T1w.json", {"Manufacturer": "wrong suffix"})
    for index in (1, 2, 3):
        write(raw / f"echo-0{index}_MEGRE.json", {"EchoTime": 0.005 * index})
    (acquisition,) = acquisitions(raw)
    assert acquisition.b0_t == 7.0
    assert acquisition.te_s == (0.005, 0.01, 0.015)
    assert acquisition.metadata["Manufacturer"] == "subject"
    assert acquisition.metadata["FlipAngle"] == 15


def test_phase_sidecar_wins_in_the_merged_metadata(tmp_path):
    raw = make_dataset(tmp_path)
    edit(json_of(images(raw, "*echo-1_part-mag*")[0]), RescaleSlope=1, OnlyMagnitude=True)
    edit(json_of(images(raw, "*echo-1_part-phase*")[0]), RescaleSlope=2)
    (acquisition,) = acquisitions(raw)
    assert acquisition.metadata["RescaleSlope"] == 2
    assert acquisition.metadata["OnlyMagnitude"] is True


def test_indices_may_be_padded(tmp_path):
    raw = make_dataset(tmp_path)
    for path in images(raw, "*echo-2_part-phase*") + [json_of(p) for p in images(raw, "*echo-2_part-phase*")]:
        path.rename(path.with_name(path.name.replace("echo-2", "echo-02")))
    (acquisition,) = acquisitions(raw)
    assert len(acquisition.echoes) == 3


def test_folders_above_the_data_set_do_not_count(tmp_path):
    """pybids by itself reads entities from the whole absolute path."""
    above = tmp_path / "sub-99_study" / "ses-9" / "acq-z"
    above.mkdir(parents=True)
    (acquisition,) = acquisitions(make_dataset(above))
    assert acquisition.key == "sub-01"


def test_hidden_misplaced_and_foreign_files_are_not_taken(tmp_path):
    raw = make_dataset(tmp_path)
    anat = anat_dir(raw)
    good = images(raw, "*echo-1_part-mag*")[0]
    for name in ("._sub-01_echo-4_part-mag_MEGRE.nii.gz", ".sub-01_echo-4_part-phase_MEGRE.nii.gz"):
        (anat / name).write_bytes(good.read_bytes())
    for folder in (
        "sourcedata/sub-01/anat",
        "derivatives/x/sub-01/anat",
        "code/sub-01/anat",
        "sub-01/anat/old",
        "sub-01/func",
    ):
        (raw / folder).mkdir(parents=True)
        (raw / folder / "sub-01_echo-5_part-mag_MEGRE.nii.gz").write_bytes(good.read_bytes())
    (raw / "sub-02").symlink_to(raw / "sub-01", target_is_directory=True)
    (raw / "sub-01" / "loop").symlink_to(raw, target_is_directory=True)
    (anat / "loop").symlink_to(anat, target_is_directory=True)
    result = preflight(raw)
    assert [len(a.echoes) for a in result.acquisitions] == [3]
    assert "another folder" in " ".join(result.warnings)
    assert [(v.subject, v.acquisition is None) for v in result.verdicts] == [("01", False), ("02", True)]


def test_raw_chimap_is_never_taken(tmp_path):
    raw = make_dataset(tmp_path)
    write_image(anat_dir(raw) / "sub-01_Chimap.nii.gz", np.zeros(SHAPE, np.float32))
    write_image(anat_dir(raw) / "sub-01_part-phase_Chimap.nii.gz", np.zeros(SHAPE, np.float32))
    (acquisition,) = acquisitions(raw)
    assert not any("Chimap" in f.name for f in acquisition.files)


def test_only_the_participants_asked_for_are_opened(tmp_path):
    raw = make_dataset(tmp_path, ("01", "012", "02"))
    json_of(images(raw, "sub-012_echo-1_part-mag*")[0]).write_text("{broken")
    found = collect(raw, Selection(participants=("sub-01",)))
    assert found.participants == ("01",)
    assert {c.subject for c in found.candidates} == {"01"}
    assert [a.subject for a in acquisitions(raw, Selection(participants=("02", "01")))] == ["01", "02"]


def test_sessions_and_acquisitions_are_selected(tmp_path):
    for entities in ("acq-x", "acq-y"):
        raw = make_dataset(tmp_path, ("01",), ("1", "2"), entities=entities)
    keys = [a.key for a in acquisitions(raw, Selection(sessions=("ses-2",), acquisitions=("acq-x",)))]
    assert keys == ["sub-01_ses-2_acq-x"]


def test_filter_file(tmp_path):
    raw = make_dataset(tmp_path, entities="run-1")
    make_dataset(tmp_path, entities="run-2")
    make_dataset(tmp_path, suffix="T2starw", te_s=(0.02,), echo_entity=False)

    def keys(entities):
        filters = dict.fromkeys(("qsm_mag", "qsm_phase"), entities)
        return [(a.key, a.suffix) for a in acquisitions(raw, Selection(filters=filters))]

    assert keys({"run": 2}) == [("sub-01_run-2", "MEGRE")]
    assert keys({"run": ["1", "2"]}) == [("sub-01_run-1", "MEGRE"), ("sub-01_run-2", "MEGRE")]
    assert keys({"run": "*", "suffix": "MEGRE"}) == [("sub-01_run-1", "MEGRE"), ("sub-01_run-2", "MEGRE")]
    assert keys({"run": None}) == [("sub-01", "T2starw")]
    assert keys({"suffix": "T2starw", "extension": "nii.gz"}) == [("sub-01", "T2starw")]
    assert [
        len(a.echoes)
        for a in acquisitions(raw, Selection(filters={q: {"run": 1, "echo": [1, 2]} for q in ("qsm_mag", "qsm_phase")}))
    ] == [2]


def test_filter_by_what_no_index_can_be_asked_for(tmp_path):
    raw = make_dataset(tmp_path, entities="run-1")
    for value in (10**30, str(10**30), [10**30], "\ud800", "1" * 5000):
        filters = {query: {"run": value} for query in ("qsm_mag", "qsm_phase")}
        (verdict,) = preflight(raw, Selection(filters=filters)).verdicts
        assert "leaves no gradient-echo image" in verdict.problems[0].what
    filters = {query: {"run": [10**30, 1]} for query in ("qsm_mag", "qsm_phase")}
    assert [a.key for a in acquisitions(raw, Selection(filters=filters))] == ["sub-01_run-1"]


def test_filter_on_reconstruction_in_either_spelling(tmp_path):
    raw = make_dataset(tmp_path, entities="rec-norm")
    make_dataset(tmp_path, entities="rec-raw")
    for name in ("rec", "reconstruction"):
        filters = {query: {name: "raw"} for query in ("qsm_mag", "qsm_phase")}
        assert [a.key for a in acquisitions(raw, Selection(filters=filters))] == ["sub-01_rec-raw"]


@pytest.mark.parametrize(
    "filters", [{"bold": {"task": "rest"}}, {"qsm_mag": {"acqisition": "x"}}, {"qsm_mag": "acq-x"}, {"QSM_mag": {}}]
)
def test_filters_that_mean_nothing_are_refused(filters):
    with pytest.raises(UsageError) as caught:
        Selection(filters=filters)
    assert caught.value.exit_code == 2


def test_selection_can_be_pickled():
    selection = Selection(("sub-01", "01"), ("ses-1",), ("acq-x",), {"t1w": {"ce": None}})
    assert pickle.loads(pickle.dumps(selection)) == selection
    assert selection.participants == ("01",)


def test_gre_is_never_the_anatomical_image(tmp_path):
    """The layout of the qmri_qsm example: part-mag_T1w is half of the acquisition."""
    raw = make_dataset(tmp_path, suffix="T1w", te_s=(0.008,), echo_entity=False, t1w=False)
    (acquisition,) = acquisitions(raw)
    assert acquisition.t1w is None
    mprage = write_image(anat_dir(raw) / "sub-01_acq-mprage_T1w.nii.gz", np.ones((9, 9, 9), np.float32), np.eye(4))
    (acquisition,) = acquisitions(raw)
    assert acquisition.t1w == mprage


@pytest.mark.parametrize(
    "selection",
    [
        Selection(acquisitions=("gre1",)),
        Selection(filters={name: {"acquisition": "gre1"} for name in ("qsm_mag", "qsm_phase")}),
    ],
    ids=["by label", "by filter"],
)
@pytest.mark.parametrize("anatomical", [True, False])
def test_gre_that_is_not_selected_is_no_anatomical_image(tmp_path, selection, anatomical):
    raw = make_dataset(tmp_path, suffix="T1w", te_s=(0.004,), echo_entity=False, entities="acq-gre1", t1w=anatomical)
    make_dataset(tmp_path, suffix="T1w", te_s=(0.004,), echo_entity=False, entities="acq-gre2", t1w=False)
    (acquisition,) = acquisitions(raw, selection)
    assert acquisition.key == "sub-01_acq-gre1"
    assert (acquisition.t1w and acquisition.t1w.name) == ("sub-01_T1w.nii.gz" if anatomical else None)


def test_t1w_without_phase_is_no_candidate(tmp_path):
    raw = make_dataset(tmp_path)
    make_dataset(tmp_path, suffix="T1w", parts=("mag",), te_s=(0.003,), echo_entity=False, entities="acq-b", t1w=False)
    (acquisition,) = acquisitions(raw)
    assert acquisition.suffix == "MEGRE"
    assert "2 T1w images fit" in warnings(raw)


def test_clinical_t2starw_beside_a_megre_is_left_alone(tmp_path):
    raw = make_dataset(tmp_path)
    make_dataset(tmp_path, suffix="T2starw", parts=("",), te_s=(0.02,), echo_entity=False, entities="acq-clinical")
    assert [a.key for a in acquisitions(raw)] == ["sub-01"]


def test_t1w_of_the_same_session_comes_first(tmp_path):
    raw = make_dataset(tmp_path, sessions=("1", "2", "3"))
    images(raw, "*ses-2_T1w")[0].unlink()
    ce = anat_dir(raw, "01", "1") / "sub-01_ses-1_acq-a_ce-gd_T1w.nii.gz"
    write_image(ce, np.ones((9, 9, 9), np.float32), np.eye(4))
    found = {a.session: a.t1w.name for a in acquisitions(raw)}
    assert found == {"1": "sub-01_ses-1_T1w.nii.gz", "2": "sub-01_ses-1_T1w.nii.gz", "3": "sub-01_ses-3_T1w.nii.gz"}
    chosen = Selection(sessions=("2",), filters={"t1w": {"session": "3"}})
    assert [a.t1w.name for a in acquisitions(raw, chosen)] == ["sub-01_ses-3_T1w.nii.gz"]


def test_broken_t1w_is_only_a_warning(tmp_path):
    raw = make_dataset(tmp_path)
    images(raw, "*_T1w")[0].write_bytes(b"")
    (acquisition,) = acquisitions(raw)
    assert acquisition.t1w is None
    assert "is not used" in warnings(raw)


def mask(folder, name, shape=SHAPE, affine=AFFINE):
    return write_image(folder / "sub-01" / "anat" / name, np.ones(shape, np.uint8), affine)


def test_given_mask(tmp_path):
    raw = make_dataset(tmp_path, entities="acq-x_run-1")
    make_dataset(tmp_path, entities="acq-x_run-2")
    derivatives = tmp_path / "masks"
    general = mask(derivatives, "sub-01_desc-brain_mask.nii.gz")
    special = mask(derivatives, "sub-01_acq-x_run-2_desc-brain_mask.nii.gz")
    mask(derivatives, "sub-01_acq-y_desc-brain_mask.nii.gz")
    mask(derivatives, "sub-01_acq-x_run-1_space-T1w_desc-brain_mask.nii.gz")
    mask(derivatives, "sub-01_acq-x_run-1_desc-qsm_mask.nii.gz")
    assert [a.given_mask for a in acquisitions(raw, derivatives=[derivatives])] == [general, special]
    assert [a.given_mask for a in acquisitions(raw)] == [None, None]


def test_masks_are_found_by_other_spellings(tmp_path):
    """``run-01`` of a mask is ``run-1`` of an image, and a mask may have been made of one echo."""
    for name in ("sub-01_run-01_desc-brain_mask.nii.gz", "sub-01_run-1_echo-1_part-mag_desc-brain_mask.nii.gz"):
        root = tmp_path / name.split("_")[2]
        root.mkdir()
        raw = make_dataset(root, entities="run-1")
        wanted = mask(root / "masks", name)
        assert [a.given_mask for a in acquisitions(raw, derivatives=[root / "masks"])] == [wanted]


def test_the_mask_for_all_echoes_comes_first(tmp_path):
    raw = make_dataset(tmp_path, entities="run-1")
    wanted = mask(tmp_path / "masks", "sub-01_run-1_desc-brain_mask.nii.gz")
    mask(tmp_path / "masks", "sub-01_run-1_echo-1_part-mag_desc-brain_mask.nii.gz")
    mask(tmp_path / "masks", "sub-01_echo-1_part-mag_label-brain_desc-brain_mask.nii.gz")
    assert [a.given_mask for a in acquisitions(raw, derivatives=[tmp_path / "masks"])] == [wanted]


def test_masks_of_maps_are_not_missed(tmp_path):
    """What qsmprep itself wrote beside a map is no brain mask, and a session's mask is none of another's."""
    raw = make_dataset(tmp_path, sessions=("pre", "post"))
    mask(tmp_path / "masks", "sub-01_ses-post_desc-tgvqsm_mask.nii.gz")
    mask(tmp_path / "masks", "sub-01_ses-pre_desc-brain_mask.nii.gz")
    assert collect(raw, Selection(), [tmp_path / "masks"]).warnings == ()


@pytest.mark.parametrize("name", ["sub-01_label-brain_mask", "sub-01_acq-y_desc-brain_mask", "sub-01_desc-mine_mask"])
def test_a_mask_that_is_not_taken_is_told(tmp_path, name):
    raw = make_dataset(tmp_path)
    mask(tmp_path / "masks", f"{name}.nii.gz")
    collected = collect(raw, Selection(), [tmp_path / "masks"])
    assert [c.masks for c in collected.candidates] == [()]
    (said,) = collected.warnings
    assert name in said and "sub-01_desc-brain_mask" in said


def test_what_the_selection_does_not_find_is_told(tmp_path):
    raw = make_dataset(tmp_path, entities="acq-x")
    with pytest.raises(NoMatchError, match="acq-typo") as caught:
        collect(raw, Selection(acquisitions=("x", "typo")))
    assert "among x" in caught.value.expected and "--acquisition-label" in caught.value.remedy
    make_dataset(tmp_path, subjects=("02",), entities="acq-z")
    both = collect(raw, Selection(participants=("01",), acquisitions=("x", "z")))
    assert [c.key for c in both.candidates] == ["sub-01_acq-x"], "another participant has acq-z"
    found = collect(raw, Selection(filters={"t1w": {"acquisition": "mprag"}}))
    assert found.warnings == ("the query `t1w` of the filter file finds no image",)
    assert found.candidates[0].t1w == ()


def test_another_suffix_for_the_anatomical_image(tmp_path):
    raw = make_dataset(tmp_path)
    image = raw / "sub-01" / "anat" / "sub-01_T1w.nii.gz"
    image.rename(image.with_name("sub-01_UNIT1.nii.gz"))
    (candidate,) = collect(raw, Selection(filters={"t1w": {"suffix": "UNIT1"}})).candidates
    assert [path.name for path in candidate.t1w] == ["sub-01_UNIT1.nii.gz"]


def test_mask_on_another_grid_is_not_taken(tmp_path):
    raw = make_dataset(tmp_path)
    derivatives = tmp_path / "fmriprep"
    mask(derivatives, "sub-01_desc-brain_mask.nii.gz", (16, 16, 16), np.eye(4))
    (acquisition,) = acquisitions(raw, derivatives=[derivatives])
    assert acquisition.given_mask is None
    assert "not on the grid" in warnings(raw, derivatives=[derivatives])


def test_mask_by_filter(tmp_path):
    raw = make_dataset(tmp_path)
    derivatives = tmp_path / "manual"
    manual = mask(derivatives, "sub-01_desc-manual_mask.nii.gz")
    selection = Selection(filters={"mask": {"desc": "manual"}})
    assert [a.given_mask for a in acquisitions(raw, selection, derivatives=[derivatives])] == [manual]


def test_absent_derivatives(tmp_path):
    result = preflight(make_dataset(tmp_path), derivatives=[tmp_path / "absent"])
    assert result.problems[0].exit_code == 66


def test_unknown_label_shows_what_there_is(tmp_path):
    raw = make_dataset(tmp_path)
    for number in range(20):
        (raw / f"sub-{number + 100}").mkdir()
    with pytest.raises(NoMatchError, match="21 in all"):
        collect(raw, Selection(participants=("x",)))


@pytest.mark.parametrize(
    ("name", "entities"),
    [
        ("sub-01_ses-1_acq-x_echo-2_part-mag_MEGRE.nii.gz", "sub ses acq echo part"),
        ("sub-01_run-1_acq-x_T1w.json", "sub acq run"),
        ("sub-01_T1w_old.nii.gz", None),
        ("sub-01_acq-a_acq-b_T1w.nii.gz", None),
        ("sub-01_foo-a_T1w.nii.gz", None),
        ("sub-01_acq-_T1w.nii.gz", None),
        (".sub-01_T1w.nii.gz", None),
        ("T1w.json", None),
    ],
)
def test_names_are_taken_apart(name, entities):
    parsed = parse_name(Path("sub-99/ses-9") / name)
    assert (parsed and " ".join(key for key, _ in parsed.entities)) == entities


def test_natural_order():
    assert sorted(["run-10", "run-2", "a", "1"], key=natural_key) == ["1", "a", "run-2", "run-10"]


@pytest.mark.skipif(not PHILIPS.exists(), reason="shared/data/philips-dualecho is not there")
def test_a_real_scan():
    (acquisition,) = acquisitions(PHILIPS)
    assert acquisition.te_s == (0.0023, 0.0046)
    assert acquisition.b0_t == 3.0
    assert acquisition.phase_units == "rad"
    assert acquisition.t1w.name == "sub-01_T1w.nii.gz"
    assert acquisition.metadata["PhilipsRescaleSlope"] == 1.53455
    assert acquisition.te_s != builders.TE_S
