"""Children: the preset from words to maps, labels, tables and page, and what is refused before any work."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from scans import write_cohort

from qsmprep.cli.parser import parse_settings
from qsmprep.cli.simulate import main as simulate
from qsmprep.errors import DataError
from qsmprep.interfaces import base
from qsmprep.interfaces.masks import extract_brain
from qsmprep.networks.segmentation import unetr_mask, unetr_nuclei

WORDS = ("bids", "out", "participant")


def test_the_preset_is_what_nothing_else_says(tmp_path):
    settings = parse_settings([*WORDS, "--preset", "pediatric"])
    assert (settings.mask, settings.unwrap, settings.background) == ("unetr", "laplacian", "vsharp")
    assert settings.inversions == ("pedqnet",)
    assert settings.segmentation == "unetr"
    changed = parse_settings([*WORDS, "--preset", "pediatric", "--inversion", "tkd", "--mask", "bet"])
    assert (changed.inversions, changed.mask, changed.unwrap) == (("tkd",), "bet", "laplacian")
    config = tmp_path / "c.json"
    config.write_text('{"unwrap": "romeo"}')
    assert parse_settings([*WORDS, "--preset", "pediatric", "--config-file", str(config)]).unwrap == "romeo"


def test_missing_weights_of_mask_and_segmentation_are_told_before_any_work(qsmprep, tmp_path):
    raw = write_cohort(tmp_path)
    for words, network in ((("--mask", "unetr"), "brainmask"), (("--segmentation", "unetr"), "subcortical")):
        done = qsmprep(raw, *words, "--param", f"unetr.weights={tmp_path / 'none'}", check=66)
        assert f"qsmprep-train {network}" in done.stderr
        assert "Traceback" not in done.stderr
        assert not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def infant(tmp_path_factory) -> Path:
    """A simulated infant: 0.78 x 0.78 x 2 mm, tilted, one echo at 4.92 ms, little iron."""
    raw = tmp_path_factory.mktemp("infant") / "raw"
    words = "--subjects 1 --seed 3 --age 0.6 0.8 --voxel-mm 0.78 0.78 2 --tilt-deg 15 --echo-times 0.00492 --tr 0.024"
    assert simulate([str(raw), *words.split(), "--snr", "60", "--t1w-mm", "0", "--fine-mm", "1.5"]) == 0
    return raw


@pytest.mark.slow
def test_an_infant_from_words_to_the_page(qsmprep, infant, tmp_path):
    qsmprep(infant, "--preset", "pediatric", check=0)
    anat = tmp_path / "out" / "sub-01" / "anat"
    chi = nib.load(next(anat.glob("*_desc-pedqnet_Chimap.nii.gz")))
    mask = nib.load(next(anat.glob("*_desc-brain_mask.nii.gz"))).get_fdata() > 0
    truth = infant / "derivatives" / "truth" / "sub-01" / "anat"
    brain = nib.load(next(truth.glob("*desc-brain_mask.nii.gz"))).get_fdata() > 0
    assert 2 * (mask & brain).sum() / (mask.sum() + brain.sum()) > 0.93
    assert np.isfinite(chi.get_fdata()).all()
    labels = nib.load(next(anat.glob("*_seg-unetr_dseg.nii.gz")))
    assert set(np.unique(labels.get_fdata())) - {0} <= {10, 11, 12, 13, 49, 50, 51, 52}
    x = [
        nib.affines.apply_affine(labels.affine, np.argwhere(labels.get_fdata() == code).mean(axis=0))[0]
        for code in (12, 51)
    ]
    assert x[0] < x[1], "left is left in scanner coordinates"
    with next(anat.glob("*_seg-unetr_desc-pedqnet_stats.tsv")).open() as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    assert {row["structure"] for row in rows} >= {"putamen", "caudate", "thalamus"}
    sidecar = json.loads(next(anat.glob("*_desc-pedqnet_Chimap.json")).read_text())
    assert sidecar["EstimationAlgorithm"] == "PedQ-NET"
    page = (tmp_path / "out" / "sub-01.html").read_text()
    assert "Implied dipole kernel" in page
    assert "UNETR" in page


def head_of(raw: Path) -> tuple[np.ndarray, nib.Nifti1Image, np.ndarray]:
    """Magnitude of an example, its image and the true brain."""
    image = nib.load(next(raw.glob("sub-01/anat/*part-mag*.nii.gz")))
    truth = nib.load(next(raw.glob("derivatives/truth/sub-01/anat/*desc-brain_mask.nii.gz"))).get_fdata() > 0
    return image.get_fdata(dtype=np.float32), image, truth


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    return float(2 * (a & b).sum() / (a.sum() + b.sum()))


EXAMPLE = Path(__file__).parents[2] / "bids_examples" / "cohort"


def test_the_mask_network_finds_brains_whole_cut_and_flipped():
    magnitude, image, truth = head_of(EXAMPLE)
    found, _ = extract_brain(magnitude, image, unetr_mask, None)
    assert overlap(found, truth) > 0.94
    flipped = nib.Nifti1Image(magnitude[::-1].copy(), image.affine @ np.array(
        [[-1, 0, 0, magnitude.shape[0] - 1], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]]))  # fmt: skip
    again, _ = extract_brain(magnitude[::-1].copy(), flipped, unetr_mask, None)
    assert np.array_equal(again[::-1], found), "how the data are stored does not matter"
    cut = (slice(None), slice(None), slice(magnitude.shape[2] // 2, None))
    part = nib.Nifti1Image(magnitude[cut], image.affine)
    assert overlap(extract_brain(magnitude[cut], part, unetr_mask, None)[0], truth[cut]) > 0.9


def test_the_mask_network_refuses_what_is_no_head():
    rng = np.random.default_rng(0)
    image = nib.Nifti1Image(np.zeros((60, 60, 60), np.float32), np.diag([3.0, 3.0, 3.0, 1.0]))
    with pytest.raises(DataError, match=r"no magnitude image|the same everywhere"):
        extract_brain(np.zeros((60, 60, 60), np.float32), image, unetr_mask, None)
    noise = rng.rayleigh(1.0, (60, 60, 60)).astype(np.float32)
    with pytest.raises(DataError, match="nothing but noise"):
        extract_brain(noise, image, unetr_mask, None)
    ramp = np.indices((60, 60, 60), dtype=np.float32)[0] + noise
    with pytest.raises(DataError, match="no brain was found"):
        extract_brain(ramp[:12, :12, :12], image, unetr_mask, None)
    small = nib.Nifti1Image(np.ones((4, 4, 4), np.float32), np.diag([3.0, 3.0, 3.0, 1.0]))
    with pytest.raises(DataError, match=r"no brain was found|nothing but noise"):
        extract_brain(rng.random((4, 4, 4)).astype(np.float32), small, unetr_mask, None)


def test_nuclei_keep_their_side_and_do_not_depend_on_unit_or_storage():
    truth = EXAMPLE / "derivatives" / "truth" / "sub-01" / "anat"
    image = nib.load(next(truth.glob("*Chimap.nii.gz")))
    mask = nib.load(next(truth.glob("*desc-brain_mask.nii.gz"))).get_fdata() > 0
    chi = np.where(mask, image.get_fdata(dtype=np.float32), 0)

    def labels(volume, inside, stored):
        (turned, valid), grid, back = base.as_ras([volume, inside], stored)
        return back(unetr_nuclei(turned, valid, grid).labels)

    found = labels(chi, mask, image)
    left, right = (np.argwhere(found == code).mean(axis=0) for code in (12, 51))
    places = nib.affines.apply_affine(image.affine, np.stack([left, right]))
    assert places[0, 0] < places[1, 0]
    scaled = labels(1e3 * chi + 50, mask, image)
    assert overlap(scaled > 0, found > 0) > 0.99
    flip = np.array([[-1, 0, 0, chi.shape[0] - 1], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])
    turned = labels(chi[::-1].copy(), mask[::-1].copy(), nib.Nifti1Image(chi, image.affine @ flip))
    assert np.array_equal(turned[::-1], found)


def test_no_nuclei_where_there_are_none():
    grid_image = nib.Nifti1Image(np.zeros((40, 40, 40), np.float32), np.diag([1.0, 1.0, 1.0, 1.0]))
    rng = np.random.default_rng(1)
    chi = rng.normal(0, 0.01, (40, 40, 40)).astype(np.float32)
    mask = np.zeros((40, 40, 40), bool)
    mask[18:22, 18:22, 18:22] = True
    (turned, valid), grid, _ = base.as_ras([chi, mask], grid_image)
    with pytest.raises(DataError, match="no deep grey nuclei were found"):
        unetr_nuclei(turned, valid, grid)
