"""Interfaces that need what is not installed here, and failures that must be read later."""

from __future__ import annotations

import dataclasses
import json
import stat
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from nipype.pipeline import engine as pe

from qsmprep.bids.acquisition import Acquisition, Echo
from qsmprep.bids.collect import SUFFIXES
from qsmprep.bids.segmentations import Segmentation
from qsmprep.bids.tables import FREESURFER_WORD
from qsmprep.core.dipole import forward_field
from qsmprep.core.grid import Grid
from qsmprep.core.methods import METHODS
from qsmprep.core.units import hz_per_ppm
from qsmprep.errors import DataError, MissingFileError
from qsmprep.interfaces import base
from qsmprep.interfaces.inversion import Invert, TakeRemainder
from qsmprep.interfaces.masks import fsl_bet
from qsmprep.interfaces.phase import Conform
from qsmprep.reports.checklist import build_checklist
from qsmprep.reports.record import AcquisitionRecord
from qsmprep.settings import Settings
from qsmprep.workflows.acquisition import init_acquisition_wf
from qsmprep.workflows.outputs import add_outputs, products
from qsmprep.workflows.pages import crash_files, processing, used
from qsmprep.workflows.regions import add_regions, regions_text
from qsmprep.workflows.stages import add_stage_reports, stage_node

STAND_IN = f"""#!{sys.executable}
# Stands in for FSL's bet in the tests only: masks what is brighter than half of the maximum.
import sys
from pathlib import Path
import nibabel as nib, numpy as np
assert sys.argv[3:] and "-m" in sys.argv and "-n" in sys.argv, sys.argv
assert sys.argv[sys.argv.index("-f") + 1] == "0.30", sys.argv
head = nib.load(sys.argv[1])
mask = (np.asarray(head.dataobj) > 0.5 * np.max(head.dataobj)).astype(np.uint8)
nib.Nifti1Image(mask, head.affine).to_filename(sys.argv[2].replace(".nii", "") + "_mask.nii")
"""


def test_fsl_bet_runs_the_command_and_reads_its_mask(tmp_path, monkeypatch):
    """With a stand-in executable: the command line and the handling of the mask, not FSL itself."""
    program = tmp_path / "bet"
    program.write_text(STAND_IN)
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    image = np.zeros((12, 14, 10), np.float32)
    image[3:8, 4:9, 2:7] = 10
    method = METHODS.get("mask", "fsl")
    assert method.load() is fsl_bet
    mask = fsl_bet(image, Grid(image.shape, (2.0, 2.5, 3.0)), method.configure({"fraction": 0.3}))
    np.testing.assert_array_equal(mask, image > 5)


def test_fsl_bet_says_when_fsl_is_absent(monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(MissingFileError, match="--mask bet"):
        fsl_bet(np.ones((5, 5, 5), np.float32), Grid((5, 5, 5), (1, 1, 1)), METHODS.get("mask", "fsl").configure())


def _write(folder, name, data):
    path = folder / f"{name}.nii.gz"
    nib.Nifti1Image(data.astype(np.float32), np.eye(4)).to_filename(path)
    return str(path)


def test_a_failed_step_leaves_its_reason(tmp_path):
    rng = np.random.default_rng(0)
    phase = _write(tmp_path, "phase", rng.uniform(-np.pi, np.pi, (8, 8, 8)))
    other = _write(tmp_path, "mag", np.ones((8, 8, 9)))
    node = pe.Node(Conform(phase=[phase], magnitude=[other], units="rad"), name="conform", base_dir=str(tmp_path))
    with pytest.raises(Exception, match="another grid"):
        node.run()
    reason = json.loads((tmp_path / "conform" / base.FAILURE_FILE).read_text())
    assert reason["kind"] == "DataError"
    assert reason["exit_code"] == DataError.exit_code
    assert reason["file"] == other


def test_real_and_imaginary_parts_are_taken(tmp_path):
    rng = np.random.default_rng(1)
    signal = rng.normal(size=(8, 8, 8)) + 1j * rng.normal(size=(8, 8, 8))
    inputs = {"real": [_write(tmp_path, "re", signal.real)], "imag": [_write(tmp_path, "im", signal.imag)]}
    result = Conform(**inputs).run(cwd=str(tmp_path)).outputs
    phase, _ = base.load_echoes(result.phase)
    magnitude, _ = base.load_echoes(result.magnitude)
    np.testing.assert_allclose(phase[0], np.angle(signal), atol=1e-5)
    np.testing.assert_allclose(magnitude[0], np.abs(signal), rtol=1e-5)
    turned, _ = base.load_echoes(Conform(sign=-1, **inputs).run(cwd=str(tmp_path)).outputs.phase)
    np.testing.assert_allclose(turned[0], -np.angle(signal), atol=1e-5)


def test_a_missing_magnitude_is_uniform(tmp_path):
    rng = np.random.default_rng(2)
    phase = _write(tmp_path, "phase", rng.uniform(-np.pi, np.pi, (8, 8, 8)))
    result = Conform(phase=[phase], units="rad").run(cwd=str(tmp_path)).outputs
    magnitude, _ = base.load_echoes(result.magnitude)
    assert (magnitude == 1).all()
    assert json.loads(Path(result.info).read_text())["has_magnitude"] is False


def _acquisition(folder: Path, suffix: str, te_s: tuple[float, ...]) -> Acquisition:
    echoes = tuple(Echo(te, folder / f"{te}_mag.nii", folder / f"{te}_phase.nii") for te in te_s)
    for path in (file for echo in echoes for file in echo.files):
        path.touch()
    return Acquisition("01", None, (), suffix, echoes, 7.0, "override", {"EchoTime": te_s[0]})


def test_the_field_of_an_inversion_is_that_of_the_step_itself(tmp_path):
    """In Hz, less what was left of the background; TV of it is TV of the field of the step ``remainder``."""
    index = np.indices((30, 34, 28)).astype(float)
    x, y, z = ((index[a] - 14) / 14 for a in range(3))
    mask = x**2 + y**2 + z**2 < 0.9
    nucleus = forward_field(0.1 * ((x - 0.3) ** 2 + y**2 + z**2 < 0.05).astype(np.float32), Grid(mask.shape, (1, 1, 1)))
    scale = hz_per_ppm(3.0)
    clean, left = scale * nucleus * mask, scale * 0.02 * (x * z + 0.5 * y) * mask
    files = {"local_hz": _write(tmp_path, "local", clean + left), "mask": _write(tmp_path, "mask", mask)}
    files["weights"] = _write(tmp_path, "weights", mask)
    common = {**files, "b0_t": 3.0, "te_s": 0.02}
    parameters = {"harmonic": "yes"}
    magnitude = _write(tmp_path, "magnitude", mask[..., None])
    folders = [tmp_path / name for name in ("invert", "step", "tv")]
    for folder in folders:
        folder.mkdir()
    chosen = {"method": "whqsm", "parameters": parameters, "magnitude": magnitude}
    made = Invert(**chosen, **common).run(cwd=str(folders[0])).outputs
    taken = TakeRemainder(method="weakharmonic", parameters=parameters, **common).run(cwd=str(folders[1])).outputs
    one, other = (base.load(file)[0] for file in (made.local_hz, taken.local_hz))
    np.testing.assert_allclose(one, other, atol=1e-4 * np.abs(clean).max())
    assert np.std((one - clean)[mask]) < 0.3 * np.std(left[mask])
    assert json.loads(Path(taken.info).read_text())["converged"]
    plain = Invert(method="tv", magnitude=magnitude, **common).run(cwd=str(folders[2])).outputs
    assert plain.local_hz == files["local_hz"], "one that looks for nothing explains the field that it is given"


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize(("te_s", "turn_s"), [((0.025,), 0.025), ((0.004, 0.0095, 0.015, 0.03), 0.0055)])
def test_graph_of_every_suffix(tmp_path, suffix, te_s, turn_s):
    """Every input that is taken has names for its outputs; phase terms work over the shortest spacing."""
    acquisition = _acquisition(tmp_path, suffix, te_s)
    settings = Settings(tmp_path, tmp_path / "out", "participant", tmp_path / "work", inversions=("medi",))
    graph = init_acquisition_wf(acquisition, settings)
    add_outputs(graph, acquisition, Grid((10, 10, 10), (1, 1, 1)), settings)
    assert graph.get_node("invert_medi").inputs.te_s == pytest.approx(turn_s)


def _sources(graph, name):
    """Which node each connected input of a node comes from."""
    edges = graph._graph.in_edges(graph.get_node(name), data=True)
    return {into: source.name for source, _, data in edges for _, into in data["connect"]}


WHOLE = {"parameters": {"weakharmonic": {"taken": 1.0}}}


@pytest.mark.parametrize(
    ("inversions", "words", "wanted"),
    [
        (("whqsm",), {}, {"whqsm": "background"}),
        (("tv", "whqsm"), {}, {"whqsm": "background", "tv": "remainder"}),
        (("tv", "whqsm"), {"background": "vsharp"}, {"whqsm": "background", "tv": "invert_whqsm"}),
        (("tv", "whqsm"), WHOLE, {"whqsm": "background", "tv": "invert_whqsm"}),
        (
            ("whqsm", "tv", "tgv"),
            {"parameters": {"whqsm": {"beta": 50}}},
            {"whqsm": "background", "tv": "remainder", "tgv": "fieldmap"},
        ),
        (
            ("whqsm", "tv"),
            {"background": "vsharp", "parameters": {"whqsm": {"beta": 50}, "weakharmonic": {"beta": 50}}},
            {"tv": "invert_whqsm"},
        ),
        (("tv", "tkd"), {}, {"tv": "remainder", "tkd": "remainder"}),
        (("whqsm", "tv"), {"remainder": "keep"}, {"whqsm": "background", "tv": "background"}),
    ],
    ids=[
        "alone",
        "another part after TFI",
        "shared",
        "shared by hand",
        "other parameters",
        "the same parameters",
        "none finds it",
        "kept",
    ],
)
def test_what_background_removal_leaves_is_found_once(tmp_path, inversions, words, wanted):
    """By the inversion that looks for it where that is wanted as well, else in a step of its own; never in vain."""
    acquisition = _acquisition(tmp_path, "MEGRE", (0.004, 0.01))
    settings = Settings(tmp_path, tmp_path / "out", "participant", tmp_path / "work", inversions=inversions, **words)
    graph = init_acquisition_wf(acquisition, settings)
    add_outputs(graph, acquisition, Grid((10, 10, 10), (1, 1, 1)), settings)
    add_stage_reports(graph, acquisition, settings)
    for name, source in wanted.items():
        assert _sources(graph, f"invert_{name}")["local_hz"] == source
        shown = "background" if name == "tgv" else f"invert_{name}"
        assert _sources(graph, f"report_chi{name}")["local_hz"] == shown
    assert (graph.get_node("remainder") is not None) == ("remainder" in wanted.values())
    others = set(inversions) - {"whqsm", "tgv"}
    taken = others and settings.remainder != "keep"
    assert ("had left was found" in graph.__desc__) == bool(taken)
    assert ("had left stayed" in graph.__desc__) == bool(others and not taken)
    found = settings.params("inversion", "whqsm")
    assert (found.harmonic, found.taken) == ("yes", 1.0), "the field of a run comes from phase"
    if others and taken:
        left = settings.params("remainder", "weakharmonic").taken
        assert left == (0.6 if settings.background == "tfi" and words is not WHOLE else 1.0)
    assert ("remainder", settings.remainder) in settings.chosen() or not others


def test_single_step_methods_take_the_total_field(tmp_path):
    """And the fluid goes to MEDI only where it is asked for."""
    acquisition = _acquisition(tmp_path, "MEGRE", (0.004, 0.01))
    words = {"inversions": ("tv", "tgv", "medi"), "parameters": {"medi": {"csf_weight": 0.1}}}
    settings = Settings(tmp_path, tmp_path / "out", "participant", tmp_path / "work", **words)
    graph = init_acquisition_wf(acquisition, settings)

    def sources(name):
        return _sources(graph, name)

    assert sources("invert_tv")["local_hz"] == "remainder"
    assert sources("invert_tv")["mask"] == sources("reference_tv")["mask"] == "background"
    assert sources("invert_tgv")["local_hz"] == "fieldmap"
    assert sources("invert_tgv")["mask"] == sources("reference_tgv")["mask"] == "qsmmask"
    assert sources("invert_medi")["r2star_hz"] == "r2star"
    assert "r2star_hz" not in sources("invert_tv")
    assert "took the total field" not in graph.__desc__
    alone = Settings(tmp_path, tmp_path / "out", "participant", tmp_path / "work", inversions=("tgv",))
    assert "took the total field" in init_acquisition_wf(acquisition, alone).__desc__
    plain = Settings(tmp_path, tmp_path / "out", "participant", tmp_path / "work", inversions=("medi",))
    graph = init_acquisition_wf(acquisition, plain)
    assert "r2star_hz" not in sources("invert_medi")


@pytest.mark.parametrize(
    ("inversions", "common", "wider"),
    [(("tgv",), "qsmmask", ()), (("tgv", "tkd"), "background", ("tgv",)), (("tkd", "tv"), "background", ())],
)
def test_every_map_is_judged_over_the_mask_in_which_it_is_defined(tmp_path, inversions, common, wider):
    """Regions, figures and metrics too; what compares maps takes the mask that they share, which is desc-qsm."""
    acquisition = _acquisition(tmp_path, "MEGRE", (0.004, 0.01))
    settings = Settings(tmp_path, tmp_path / "out", "participant", tmp_path / "work", inversions=inversions)
    graph = init_acquisition_wf(acquisition, settings)
    add_outputs(graph, acquisition, Grid((10, 10, 10), (1, 1, 1)), settings)
    add_stage_reports(graph, acquisition, settings)
    segmentation = Segmentation("x", acquisition.files[0], FREESURFER_WORD, True)
    add_regions(graph, acquisition, settings, (segmentation,))
    for name in inversions:
        own = "qsmmask" if name == "tgv" else "background"
        for node in (f"reference_{name}", f"roi_x_{name}", f"report_chi{name}"):
            assert _sources(graph, node)["mask"] == own, node
        assert _sources(graph, f"report_chi{name}")["field_mask"] == "background", "the local field is known there"
    first = "qsmmask" if inversions[0] == "tgv" else "background"
    assert _sources(graph, "report_roix")["mask"] == first
    assert _sources(graph, "report_compare")["mask"] == _sources(graph, "report_magnitude")["mask"] == common
    assert _sources(graph, "report_field")["mask"] == "background"
    made = {p.entities["desc"]: p for p in products(acquisition, settings) if p.suffix == "mask"}
    assert set(made) == {"brain", "qsm", *(f"{name}qsm" for name in wider)}
    assert made["qsm"].node == common
    assert ("erodes" in made["qsm"].description) == (common == "background")
    for name in wider:
        assert made[f"{name}qsm"].node == "qsmmask" and "TGV" in made[f"{name}qsm"].description
        assert f"of {name} in more" in made["qsm"].description


def test_no_relaxation_without_a_magnitude(tmp_path):
    measured = _acquisition(tmp_path, "MEGRE", (0.004, 0.01))
    echoes = tuple(dataclasses.replace(echo, magnitude=None) for echo in measured.echoes)
    settings = Settings(tmp_path, tmp_path / "out", "participant", tmp_path / "work")
    for acquisition, expected in ((measured, True), (dataclasses.replace(measured, echoes=echoes), False)):
        graph = init_acquisition_wf(acquisition, settings)
        assert (graph.get_node("r2star") is not None) == expected
        assert ("R2*" in graph.__desc__) == expected
        assert any(product.suffix == "R2starmap" for product in products(acquisition, settings)) == expected


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ({}, True),
        ({"level": "minimal"}, False),
        ({"level": "minimal", "with_swi": True}, True),
        ({"with_swi": False}, False),
    ],
)
def test_swi_goes_with_the_level_unless_it_is_said(tmp_path, words, expected):
    acquisition = _acquisition(tmp_path, "MEGRE", (0.004, 0.01))
    settings = Settings(tmp_path, tmp_path / "out", "participant", tmp_path / "work", **words)
    graph = init_acquisition_wf(acquisition, settings)
    assert (graph.get_node("swi") is not None) == expected
    assert ("CLEAR-SWI" in graph.__desc__) == expected
    suffixes = {product.suffix for product in products(acquisition, settings)}
    assert ({"swi", "minIP"} <= suffixes) == expected
    assert any(step.step == "swi" for step in processing(acquisition, settings)) == expected


def _ran(acquisition, settings, *segmentations):
    """The steps of the checklist, and what its line about the mask says."""
    made = processing(acquisition, settings, segmentations)
    record = AcquisitionRecord("sub-01", "01", processing=tuple(made))
    rows = {row.name: row.value for table in build_checklist(record) for row in table.rows}
    return {step.step for step in made}, rows["Mask"], rows["Further processing"]


REGIONAL = {"coregistration", "segmentation", "nuclei", "sighting", "roi"}
"""Steps that only some segmentations need."""


@pytest.mark.parametrize(
    ("words", "method", "on_grid", "with_t1w", "expected"),
    [
        ({}, None, True, True, set()),
        ({}, "given", True, True, {"roi"}),
        ({}, "given", False, True, {"coregistration", "roi"}),
        ({}, "given", False, False, {"roi"}),
        ({"segmentation": "unetr"}, "unetr", True, True, {"nuclei", "roi"}),
        ({"segmentation": "unetr"}, None, True, True, set()),
        ({"segmentation": "atlas"}, "atlas", False, True, {"coregistration", "segmentation", "sighting", "roi"}),
        ({"segmentation": "atlas"}, "atlas", True, False, {"segmentation", "sighting", "roi"}),
        (
            {"segmentation": "atlas", "parameters": {"t1wunetr": {"share": 0.0}}},
            "atlas",
            True,
            False,
            {"segmentation", "roi"},
        ),
        ({"segmentation": "first"}, "first", False, True, {"coregistration", "segmentation", "roi"}),
        ({"template_maps": True}, None, True, True, {"coregistration", "segmentation"}),
        ({"template_maps": True}, None, True, False, {"segmentation"}),
        ({"template_maps": True, "segmentation": "unetr"}, "unetr", True, False, {"segmentation", "nuclei", "roi"}),
    ],
)
def test_the_checklist_lists_the_steps_of_segmentations_that_ran(tmp_path, words, method, on_grid, with_t1w, expected):
    """And no other; the methods text speaks of a coregistration for the same segmentations."""
    acquisition = _acquisition(tmp_path, "MEGRE", (0.004, 0.01))
    acquisition = dataclasses.replace(acquisition, t1w=tmp_path / "t1w.nii" if with_t1w else None)
    settings = Settings(tmp_path, tmp_path / "out", "participant", tmp_path / "work", **words)
    found = () if method is None else (Segmentation("x", tmp_path / "dseg.nii", FREESURFER_WORD, on_grid, method),)
    steps, mask, further = _ran(acquisition, settings, *found)
    assert steps & REGIONAL == expected
    assert ("FSL FIRST" in further) == (method == "first")
    assert "supplied" not in mask
    if found and not settings.template_maps:
        text = regions_text(acquisition, found, settings)
        title = METHODS.get("coregistration", settings.coregistration)
        told = title.describe(settings.params("coregistration", settings.coregistration))
        assert (told in text) == ("coregistration" in expected)


def test_the_checklist_says_which_mask_was_supplied(tmp_path):
    given = tmp_path / "sub-01_desc-brain_mask.nii.gz"
    acquisition = dataclasses.replace(_acquisition(tmp_path, "MEGRE", (0.004, 0.01)), given_mask=given)
    settings = Settings(tmp_path, tmp_path / "out", "participant", tmp_path / "work")
    steps, mask, _ = _ran(acquisition, settings)
    assert mask == f"supplied with the data: {given.name}" and "quality" not in steps


@pytest.mark.parametrize("measured", [True, False])
def test_an_invented_magnitude_is_not_judged(tmp_path, measured):
    acquisition = _acquisition(tmp_path, "MEGRE", (0.004, 0.01))
    if not measured:
        echoes = tuple(dataclasses.replace(echo, magnitude=None) for echo in acquisition.echoes)
        acquisition = dataclasses.replace(acquisition, echoes=echoes)
    settings = Settings(tmp_path, tmp_path / "out", "participant", tmp_path / "work")
    node = stage_node("magnitude", "magnitude", acquisition, settings)
    (tmp_path / "out/sub-01/figures").mkdir(parents=True)
    inside = np.zeros((24, 24, 24), bool)
    inside[5:19, 5:19, 5:19] = True
    node.inputs.magnitude = _write(tmp_path, "magnitude", np.ones((*inside.shape, 2)))
    node.inputs.brain = node.inputs.mask = _write(tmp_path, "brain", inside)
    fragment = node.interface.run(cwd=str(tmp_path)).outputs.fragment
    content = json.loads(Path(fragment).read_text())
    keys = {metric["key"] for metric in content["metrics"]}
    assert len(content["figures"]) == 1 and {"mask_volume_ml", "excluded_fraction"} <= keys
    judged = {"snr", "mask_dark_fraction"}
    assert keys >= judged if measured else not keys & {*judged, "mask_open_fraction", "ghosting"}


def test_no_swi_without_a_magnitude(tmp_path):
    measured = _acquisition(tmp_path, "MEGRE", (0.004, 0.01))
    echoes = tuple(dataclasses.replace(echo, magnitude=None) for echo in measured.echoes)
    settings = Settings(tmp_path, tmp_path / "out", "participant", tmp_path / "work", with_swi=True)
    graph = init_acquisition_wf(dataclasses.replace(measured, echoes=echoes), settings)
    assert graph.get_node("swi") is None


@pytest.mark.parametrize(
    ("metadata", "readout"),
    [
        ({}, ""),
        ({"ReadoutMode": "Bipolar"}, "bipolar"),
        ({"PulseSequenceDetails": "multi-echo GRE, unipolar readout"}, "monopolar"),
        ({"ScanOptions": ["PFP", "MONOPOLAR"]}, "monopolar"),
        ({"SequenceName": "mono or bipolar: bipolar, monopolar"}, ""),
        ({"SeriesDescription": "study of bipolar disorder"}, ""),
    ],
)
def test_the_readout_is_taken_from_the_sidecar(tmp_path, metadata, readout):
    acquisition = dataclasses.replace(_acquisition(tmp_path, "MEGRE", (0.004, 0.01)), metadata=metadata)
    settings = Settings(tmp_path, tmp_path / "out", "participant", tmp_path / "work")
    assert init_acquisition_wf(acquisition, settings).get_node("artefacts").inputs.readout == readout


def test_report_says_the_echo_times_and_the_field_that_were_used(tmp_path):
    acquisition = _acquisition(tmp_path, "MEGRE", (0.004, 0.01))
    assert used(acquisition) == {"EchoTime": [0.004, 0.01], "MagneticFieldStrength": 7.0}


def test_crash_file_is_that_of_the_same_branch(tmp_path):
    for number, branch in enumerate(("sub_01_wf", "sub_02_wf")):
        (tmp_path / f"crash-{number}-conform.txt").write_text(f"Node: qsmprep_wf.{branch}.conform\nWorking directory\n")
    assert [f.name for f in crash_files("qsmprep_wf.sub_01_wf.conform", tmp_path)] == ["crash-0-conform.txt"]
    assert crash_files("qsmprep_wf.sub_01_wf.brain", tmp_path) == []
