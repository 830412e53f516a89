"""Learned inversions in the pipeline: from weights to map, sidecar and page, and what is refused before any work."""

from __future__ import annotations

import json

import nibabel as nib
import numpy as np
import torch
from scans import write_cohort

from qsmprep.networks.card import Card
from qsmprep.networks.weights import save
from qsmprep.networks.zoo import build
from qsmprep.settings import Settings
from qsmprep.workflows.acquisition import model_of

FAST = ("--background", "vsharp")
CONFIG = {"base": 4, "iterations": 1, "shuffle": 2}
RANGES = {"in_plane_mm": (0.4, 0.7), "slice_mm": (0.4, 4.0), "tilt_deg": (0.0, 54.0), "noise_ppm": (0.0005, 0.006)}


def write_weights(folder, seed=0):
    """An untrained LoopNet, whose map is little more than data consistency."""
    torch.manual_seed(seed)
    card = Card("loopnet", "LoopNet", CONFIG, RANGES, training={"steps": 5})
    return save(build("loopnet", CONFIG), card, folder)


def test_from_weights_to_the_page(qsmprep, tmp_path):
    card = write_weights(tmp_path / "weights")
    raw = write_cohort(tmp_path)
    words = (*FAST, "--inversion", "loopnet", "--param", f"loopnet.weights={tmp_path / 'weights'}", "loopnet.tile=64")
    done = qsmprep(raw, *words, check=0)
    out = tmp_path / "out" / "sub-01"
    chi = nib.load(out / "anat" / "sub-01_desc-loopnet_Chimap.nii.gz").get_fdata()
    assert np.isfinite(chi).all()
    assert chi.std() > 0
    sidecar = json.loads((out / "anat" / "sub-01_desc-loopnet_Chimap.json").read_text())
    assert sidecar["EstimationAlgorithm"] == "LoopNet"
    assert sidecar["NetworkWeights"] == card.code
    assert sidecar["NetworkTrainingSteps"] == 5
    assert sidecar["Tiles"] >= 1
    assert sidecar["Device"] == "cpu"
    (told,) = sidecar["NetworkOutsideTraining"]
    assert "in-plane voxel edge" in told
    assert sidecar["HarmonicFieldRms"] > 0, "the field comes from phase"
    assert 0 <= sidecar["OutlierShare"] < 0.05
    page = (tmp_path / "out" / "sub-01.html").read_text()
    assert f"LoopNet: {told}" in page
    assert told in done.stdout + done.stderr, "the log says it too"


def test_missing_weights_are_told_before_any_work(qsmprep, tmp_path):
    raw = write_cohort(tmp_path)
    done = qsmprep(raw, "--inversion", "tkd", "loopnet", "--param", f"loopnet.weights={tmp_path / 'none'}", check=66)
    assert "qsmprep-train loopnet" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()
    write_weights(tmp_path / "weights")
    done = qsmprep(raw, "--inversion", "loopnet", "--param", "loopnet.weights=weights", check=2)
    assert "absolute path" in done.stderr


def test_other_weights_are_other_inputs(tmp_path):
    """The checksum is an input of the node, so that results of other weights are not reused."""
    folder = tmp_path / "weights"
    words = {"inversions": ("loopnet", "tkd"), "parameters": {"loopnet": {"weights": str(folder)}}}
    settings = Settings(tmp_path, tmp_path / "out", "participant", tmp_path / "work", **words)
    sums = []
    for seed in (0, 1):
        write_weights(folder, seed)
        sums.append(model_of(settings, "inversion", "loopnet"))
    assert sums[0] != sums[1]
    assert model_of(settings, "inversion", "tkd") == ""
