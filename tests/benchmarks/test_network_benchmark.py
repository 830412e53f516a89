"""The benchmark of networks: its heads are what it says, its measures and tables come out as known."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"
MODULES = (
    "network_heads",
    "network_scans",
    "network_methods",
    "network_ablations",
    "network_timing",
    "networks",
    "accuracy",
)
BLOCK = (32.0, 40.0, 24.0)


@pytest.fixture(scope="module")
def bench():
    """The modules of the benchmark, as a script sees them."""
    sys.path.insert(0, str(FOLDER))
    yield {name: importlib.import_module(name) for name in MODULES}
    sys.path.remove(str(FOLDER))
    for name in MODULES:
        sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def head(bench):
    return bench["network_heads"].phantom_head(0, BLOCK)


@pytest.fixture(scope="module")
def scanned(bench, head):
    """Every scan of a small block, by name."""
    return {case.scan: case for case in bench["network_scans"].cases(head, block_mm=BLOCK)}


def test_every_scan_of_a_head_is_there_on_its_grid(bench, scanned):
    for scan in bench["network_heads"].SCANS:
        case = scanned[scan.name]
        assert case.grid.voxel_mm == pytest.approx(scan.voxel_mm, rel=0.03)
        assert case.grid.tilt_deg == pytest.approx(20.0 if scan.tilted else 0.0, abs=1e-3)
        extent = np.array(case.grid.shape) * case.grid.voxel_mm
        assert extent == pytest.approx(BLOCK)
        for volume in (case.field_ppm, case.chi_ppm, case.magnitude):
            assert volume.shape == case.grid.shape
            assert np.isfinite(volume).all()
            assert not volume[~case.mask].any()
        assert 0.3 < case.mask.mean() < 0.85
        assert bool(case.lesions.any()) == scan.lesions


def test_the_same_head_is_the_same_again_and_another_is_not(bench, head, scanned):
    module = bench["network_heads"]
    again = module.phantom_head(0, BLOCK)
    assert np.array_equal(again.chi_ppm, head.chi_ppm)
    (case,) = bench["network_scans"].cases(again, module.SCANS[:1], BLOCK)
    assert np.array_equal(case.field_ppm, scanned["1 mm"].field_ppm)
    assert not np.array_equal(module.phantom_head(1, BLOCK).chi_ppm, head.chi_ppm)


def test_the_field_holds_what_the_constants_say(bench, scanned):
    heads, case = bench["network_heads"], scanned["1 mm"]
    from qsmprep.core.dipole import forward_field

    clean = forward_field(case.chi_ppm, case.grid)[case.mask]
    rest = case.field_ppm[case.mask] - clean
    rest -= rest.mean()
    expected = np.hypot(np.hypot(heads.MISMATCH, heads.BACKGROUND) * clean.std(), heads.NOISE_PPM)
    assert np.median(case.noise_ppm[case.mask]) == pytest.approx(heads.NOISE_PPM, rel=0.05)
    assert 0.7 * expected < rest.std() < 2.5 * expected, "rim, small voxels of vessels and the finer grid add to it"
    assert np.corrcoef(clean, case.field_ppm[case.mask])[0, 1] > 0.8


def test_lesions_are_strong_apart_and_inside(bench, scanned):
    heads, case, plain = bench["network_heads"], scanned["1 mm, lesions"], scanned["1 mm"]
    found = [np.argwhere(case.lesions == i) for i in range(1, heads.LESIONS + 1)]
    found = [one for one in found if len(one)]
    assert len(found) >= 2, "a block of this size has room for two"
    centres = [one.mean(axis=0) for one in found]
    gaps = [np.linalg.norm(a - b) for i, a in enumerate(centres) for b in centres[:i]]
    assert min(gaps) > heads.LESION_GAP_MM - 3
    for one in found:
        values = case.chi_ppm[tuple(one.T)]
        assert 0.15 < np.abs(values).max() <= heads.LESION_PPM[1] + 1e-3
    changed = case.chi_ppm != plain.chi_ppm
    near = np.abs(np.argwhere(changed)[:, None] - np.array(centres)).max(axis=2).min(axis=1)
    assert near.max() <= heads.LESION_MM[1], "nothing else changes"


@pytest.fixture
def label_map(tmp_path):
    """A head of ellipsoids with the codes that landmarks need."""
    from qsmprep.phantom.anatomy import NUCLEI

    shape = np.array([150, 180, 140])
    where = np.indices(shape) - shape.reshape(3, 1, 1, 1) / 2
    codes = np.where(np.sqrt((where / np.array([68, 82, 62]).reshape(3, 1, 1, 1)) ** 2).max(axis=0) < 1, 2, 0)
    pairs = {"thalamus": (10, 49), "caudate": (11, 50), "putamen": (12, 51), "pallidum": (13, 52)}
    for blob in NUCLEI:
        for side, code in enumerate(pairs.get(blob.tissue, ())):
            centre = np.array(blob.centre_mm) * [1 if side else -1, 1, 1]
            radii = np.array(blob.radii_mm).reshape(3, 1, 1, 1)
            codes[(((where - centre.reshape(3, 1, 1, 1)) / radii) ** 2).sum(axis=0) < 1] = code
    affine = np.eye(4)
    affine[:3, 3] = -shape / 2
    path = tmp_path / "training_seg_12.nii.gz"
    nibabel.save(nibabel.Nifti1Image(codes.astype(np.int16), affine), path)
    return path


def test_a_label_head_has_its_nuclei_where_the_labels_are(bench, label_map):
    from qsmprep.phantom.anatomy import label_index

    made = bench["network_heads"].label_head(label_map, 0, (64.0, 44.0, 30.0))
    sizes = {name: np.count_nonzero(made.labels == label_index(name, True)) for name in ("putamen", "rednucleus")}
    assert sizes["putamen"] > 2000
    assert sizes["rednucleus"] > 50
    iron = made.chi_ppm[made.labels == label_index("pallidum", False)].mean()
    white = made.chi_ppm[made.labels == label_index("white", False)].mean()
    assert iron > 0.06 > 0 > white
    left = np.argwhere(made.labels == label_index("putamen", False)).mean(axis=0)[0]
    right = np.argwhere(made.labels == label_index("putamen", True)).mean(axis=0)[0]
    assert left < right, "axes run to the right"


def test_measures_of_maps_with_known_errors(bench, scanned):
    methods, case = bench["network_methods"], scanned["1 mm, lesions"]
    perfect = methods.scores(case.chi_ppm + 0.05 * case.mask, case)
    assert perfect["NRMSE %"] == pytest.approx(0, abs=1e-3), "a constant is not counted"
    assert perfect["slope"] == pytest.approx(1)
    assert perfect["lesion %"] == pytest.approx(0, abs=1e-3)
    half = methods.scores(0.5 * case.chi_ppm, case)
    assert half["NRMSE %"] == pytest.approx(50, rel=1e-4)
    assert half["slope"] == pytest.approx(0.5, rel=1e-4)
    assert half["lesion %"] == pytest.approx(50, rel=1e-3)
    assert "lesion %" not in methods.scores(case.chi_ppm, scanned["1 mm"])


def test_results_are_kept_and_belong_to_their_settings(bench, scanned, tmp_path):
    methods, case = bench["network_methods"], scanned["1 mm"]
    trials = [methods.classical("tkd", {"threshold": t}) for t in (0.1, 0.3)]
    results = methods.Results(tmp_path, BLOCK)
    first = [results.get("a", "1 mm", trial, lambda: case) for trial in trials]
    assert first[0]["NRMSE %"] != first[1]["NRMSE %"]

    def never():
        raise AssertionError("measured twice")

    again = methods.Results(tmp_path, BLOCK)
    assert [again.get("a", "1 mm", trial, never) for trial in trials] == first
    with pytest.raises(AssertionError, match="twice"):
        methods.Results(tmp_path, (1.0, 2.0, 3.0)).get("a", "1 mm", trials[0], never)
    best = methods.tuned("tkd", "1 mm", again, lambda: case, "a")
    assert best.settings in methods.GRIDS["tkd"]


@pytest.fixture
def weights(tmp_path):
    """A small untrained network in weight files."""
    from qsmprep.networks.card import RANGES, Card
    from qsmprep.networks.weights import save
    from qsmprep.networks.zoo import build

    config = {"base": 4, "shuffle": 2}
    folder = tmp_path / "weights"
    for name in ("loopnet", "unet"):
        card = Card(name, {"loopnet": "LoopNet", "unet": "U-Net"}[name], config, dict.fromkeys(RANGES, (0.0, 90.0)))
        save(build(name, config), card, folder)
    return folder


def test_the_tables_are_printed(bench, weights, tmp_path, capsys):
    words = ["--label-maps", "--phantoms", "1", "--block-mm", "24", "28", "20", "--scans", "0", "4"]
    words += ["--methods", "tkd", "l2", "--weights", str(weights), "--cache", str(tmp_path / "kept")]
    assert bench["networks"].main(words) == 0
    out, err = capsys.readouterr()
    assert "left out: conenet" in err
    assert out.count("| TKD | 1 |") == out.count("| LoopNet | 1 |") == out.count("| U-Net | 1 |") == 2
    assert out.count("over the best classical (") == 2
    assert "lesion %" in out.split("## 1 mm, lesions")[1]
    assert "Tuned: TKD threshold" in out
    assert "kept" not in out.split("\n## ")[0], "where results are kept is nobody else's business"
    assert bench["networks"].main([*words, "--ablations", "--scans", "0"]) == 0
    out = capsys.readouterr().out
    assert "- LoopNet beats the plain U-Net" in out
    assert "LoopNet gains by pass 4" in out
    assert "QSMInvNet (qsminvnet1" in out, "what is missing is said"


def test_verdicts(bench):
    networks, methods = bench["networks"], bench["network_methods"]
    values = {"TKD": 60.0, methods.TITLES["medi"]: 40.0, "Good": 29.0, "Bad": 61.0}
    rows = [{"title": t, "head": h, "NRMSE %": v + d} for t, v in values.items() for h, d in (("a", 0), ("b", 1))]
    told = networks.verdict(rows, [methods.classical("tkd"), methods.classical("medi")])
    assert "Good over the best classical (MEDI (sees the magnitude)): 0.73 (by head 0.72 to 0.73); goal met" in told
    assert "(TKD): 0.49" in told
    assert "Worse than TKD: Bad." in told


def test_the_timing_child_measures_a_method(bench):
    timing = bench["network_timing"]
    case = timing.volume((48, 48, 32), full=True)
    assert case.mask.mean() == pytest.approx(np.pi / 6, abs=0.05)
    assert case.field_ppm.std() > 0.002
    shares = timing.shares(
        [type("Event", (), {"key": k, "self_cpu_time_total": v}) for k, v in {"aten::conv3d": 3.0, "x": 1.0}.items()]
    )
    assert shares["convolutions"] == 75
    assert shares["the rest (first x)"] == 25
