"""The default brain mask: BET's where the network confirms it, the network's where BET fails, and a word of it."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage
from test_pediatric import EXAMPLE, head_of

from qsmprep.cli.parser import parse_settings
from qsmprep.core.grid import Grid
from qsmprep.core.methods import METHODS
from qsmprep.core.parameters import AgreedMaskParams
from qsmprep.core.registration import overlap
from qsmprep.errors import DataError, MissingFileError, UsageError
from qsmprep.interfaces.masks import BrainMask, extract_brain
from qsmprep.interfaces.registration import BrainOf
from qsmprep.networks.agreed import agreed_mask
from qsmprep.networks.card import check_weights
from qsmprep.networks.weights import weight_path


@pytest.fixture(scope="module")
def head():
    return head_of(EXAMPLE)


def without_skull(magnitude, brain):
    """The gap between brain and scalp is as bright as the brain: no edge stops BET."""
    near = (ndimage.distance_transform_edt(~brain) < 6) & ~brain
    return np.where(near, np.median(magnitude[brain]), magnitude).astype(np.float32)


def test_it_is_the_default():
    assert METHODS.names("mask")[0] == "auto"


def test_bet_is_believed_where_the_network_agrees(head):
    magnitude, image, brain = head
    found, info = extract_brain(magnitude, image, agreed_mask, None)
    assert info["used"] == "bet"
    assert info["agreement"] > 0.95
    assert info["warnings"] == []
    assert np.array_equal(found, extract_brain(magnitude, image, METHODS.get("mask", "bet").load(), None)[0])
    assert overlap(found, brain) > 0.98


def test_the_network_takes_over_where_bet_leaks(head, tmp_path):
    magnitude, image, brain = head
    leaky = nib.Nifti1Image(without_skull(magnitude, brain), image.affine)
    bet = extract_brain(np.asarray(leaky.dataobj), leaky, METHODS.get("mask", "bet").load(), None)[0]
    assert overlap(bet, brain) < 0.85, "BET fails on this image"
    leaky.to_filename(tmp_path / "head.nii")
    nib.Nifti1Image(np.asarray(leaky.dataobj)[..., None], image.affine).to_filename(tmp_path / "echoes.nii")
    step = BrainMask(magnitude=str(tmp_path / "echoes.nii"), method="auto")
    outputs = step.run(cwd=str(tmp_path)).outputs
    info = json.loads(Path(outputs.info).read_text())
    assert info["source"] == "unetr"
    assert "do not agree" in info["warnings"][0]
    assert overlap(nib.load(outputs.mask).get_fdata() > 0, brain) > 0.94
    t1w = BrainOf(in_file=str(tmp_path / "head.nii")).run(cwd=str(tmp_path)).outputs
    assert json.loads(Path(t1w.info).read_text())["warnings"][0].startswith("T1w image: BET and the network")
    assert np.array_equal(nib.load(t1w.mask).get_fdata(), nib.load(outputs.mask).get_fdata())


def test_the_agreement_that_is_asked_for_is_a_parameter(head):
    magnitude, image, _ = head
    assert extract_brain(magnitude, image, agreed_mask, AgreedMaskParams(agreement=1.0))[1]["used"] == "unetr"
    leaky = without_skull(magnitude, head[2])
    assert extract_brain(leaky, image, agreed_mask, AgreedMaskParams(agreement=0.0))[1]["used"] == "bet"


def test_what_is_no_head_is_an_error(tmp_path):
    grid = Grid((64, 64, 64), (3.0, 3.0, 3.0))
    noise = np.random.default_rng(0).rayleigh(1.0, grid.shape).astype(np.float32)
    with pytest.raises(DataError, match="nothing but noise"):
        agreed_mask(noise, grid)
    tiny = Grid((64, 64, 64), (0.4, 0.4, 0.4))  # a ball of 5 mL
    ball = np.where(np.linalg.norm(np.indices(grid.shape) - 31.5, axis=0) < 26, 100.0, 1.0).astype(np.float32)
    with pytest.raises(DataError, match="no brain was found"):
        agreed_mask(ball + noise, tiny)
    with pytest.raises(MissingFileError):
        agreed_mask(ball + noise, grid, AgreedMaskParams(weights=str(tmp_path / "none")))


def test_one_of_both_is_enough(head):
    """The image is much too large for a head, which BET does not mind; then it holds nothing for BET."""
    magnitude, image, brain = head
    mm = image.header.get_zooms()
    whole = magnitude[:, :, brain.any(axis=(0, 1))][:, :, 10:14]
    slab = Grid(whole.shape, tuple(float(v) for v in mm))
    try:
        bet = METHODS.get("mask", "bet").load()(whole, slab)
    except DataError:
        bet = None
    found = agreed_mask(whole, slab)
    assert bet is None, "BET finds nothing in four slices"
    assert (found.info["used"], found.info["agreement"]) == ("unetr", 0.0)
    assert "BET found no brain" in found.info["warnings"][0]


def test_damaged_weights_are_told_and_not_taken_for_a_missing_brain(head, tmp_path):
    magnitude, image, _ = head
    for suffix in (".json", ".safetensors"):
        content = weight_path("brainmask").with_suffix(suffix).read_bytes()
        (tmp_path / f"brainmask{suffix}").write_bytes(content if suffix == ".json" else content[:-100])
    with pytest.raises(DataError, match="brainmask") as caught:
        extract_brain(magnitude, image, agreed_mask, AgreedMaskParams(weights=str(tmp_path)))
    assert caught.value.file == str(tmp_path / "brainmask.safetensors")


def test_words_for_a_mask_that_does_not_run_are_refused(tmp_path):
    words = [str(tmp_path), str(tmp_path / "out"), "participant", "--param", "bet.fraction=0.4"]
    with pytest.raises(UsageError, match=r"auto\.fraction"):
        parse_settings(words)
    assert parse_settings([*words, "--mask", "bet"]).params("mask", "bet").fraction == 0.4
    nowhere = parse_settings([*words[:3], "--mask", "bet", "--param", f"auto.weights={tmp_path / 'nowhere'}"])
    with pytest.raises(MissingFileError, match="brainmask"):
        check_weights(nowhere)
