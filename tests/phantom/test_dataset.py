"""The data sets: valid BIDS, repeatable, and consistent with their truth."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from qsmprep.cli.simulate import main
from qsmprep.core.grid import Grid
from qsmprep.phantom.vendor import decode_phase

GAMMA_MHZ = 42.577478461
SMALL = ["--voxel-mm", "5", "5", "6", "--fine-mm", "4", "--t1w-mm", "5", "--seed", "3"]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    out = tmp_path_factory.mktemp("made") / "data"
    assert main([str(out), *SMALL, "--echo-times", "0.004", "0.012", "--group-effect", "0.2", "--snr", "inf"]) == 0
    return out


def read(path: Path) -> np.ndarray:
    return nib.load(path).get_fdata()


def test_every_file_is_there(made):
    names = {str(p.relative_to(made)) for p in made.rglob("*.nii.gz")}
    for sub in ("sub-01", "sub-02"):
        for echo in (1, 2):
            for part in ("mag", "phase"):
                assert f"{sub}/anat/{sub}_echo-{echo}_part-{part}_MEGRE.nii.gz" in names
        truth = f"derivatives/truth/{sub}"
        for stem in ("desc-truth_Chimap", "desc-truth_R2starmap", "desc-brain_mask", "dseg"):
            assert f"{truth}/anat/{sub}_{stem}.nii.gz" in names
        for stem in ("desc-local_fieldmap", "desc-total_fieldmap", "magnitude"):
            assert f"{truth}/fmap/{sub}_{stem}.nii.gz" in names
    for image in made.rglob("*.nii.gz"):
        assert image.with_name(image.name.replace(".nii.gz", ".json")).exists(), image
    rows = [line.split("\t") for line in (made / "participants.tsv").read_text().splitlines()]
    assert rows[0] == ["participant_id", "age", "sex", "group"]
    assert [r[3] for r in rows[1:]] == ["control", "patient"]


def test_phase_follows_the_true_total_field(made):
    """What a reader sees, decoded by its sidecar, advances between echoes as the total field says."""
    anat = made / "sub-01" / "anat"
    sidecars = [json.loads((anat / f"sub-01_echo-{n}_part-phase_MEGRE.json").read_text()) for n in (1, 2)]
    phases = [
        decode_phase(read(anat / f"sub-01_echo-{n}_part-phase_MEGRE.nii.gz"), sidecar["Units"])
        for n, sidecar in zip((1, 2), sidecars, strict=True)
    ]
    assert sidecars[0]["Units"] == "arbitrary"
    step_s = sidecars[1]["EchoTime"] - sidecars[0]["EchoTime"]
    truth = made / "derivatives/truth/sub-01"
    total_hz = read(truth / "fmap/sub-01_desc-total_fieldmap.nii.gz")
    inside = read(truth / "anat/sub-01_desc-brain_mask.nii.gz") > 0
    error = np.angle(np.exp(1j * (phases[1] - phases[0] - 2 * np.pi * total_hz * step_s)))[inside]
    assert np.median(np.abs(error)) < 0.05
    assert abs(np.median(error)) < 0.02


def test_truth_is_referenced_to_the_brain_and_its_labels_are_named(made):
    truth = made / "derivatives/truth"
    table = dict(line.split("\t")[:2] for line in (truth / "dseg.tsv").read_text().splitlines()[1:])
    means = {}
    for sub in ("sub-01", "sub-02"):
        chi = read(truth / sub / f"anat/{sub}_desc-truth_Chimap.nii.gz")
        inside = read(truth / sub / f"anat/{sub}_desc-brain_mask.nii.gz") > 0
        labels = read(truth / sub / f"anat/{sub}_dseg.nii.gz")
        assert abs(chi[inside].mean()) < 2e-3 and not chi[~inside].any()
        assert {str(int(v)) for v in np.unique(labels[labels > 0])} <= set(table)
        assert not labels[~inside].any()
        index = [int(k) for k, v in table.items() if v.endswith("globus pallidus")]
        means[sub] = chi[np.isin(labels, index)].mean()
        assert means[sub] > 0.05


@pytest.mark.parametrize("n_procs", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_the_same_seed_gives_the_same_bytes(made, tmp_path, n_procs):
    again = tmp_path / "again"
    options = ["--echo-times", "0.004", "0.012", "--group-effect", "0.2", "--snr", "inf", "--nprocs", str(n_procs)]
    assert main([str(again), *SMALL, *options]) == 0
    files = sorted(p.relative_to(made) for p in made.rglob("*") if p.is_file())
    assert files == sorted(p.relative_to(again) for p in again.rglob("*") if p.is_file())
    different = [str(f) for f in files if (made / f).read_bytes() != (again / f).read_bytes()]
    assert different == []
    assert [p.name for p in tmp_path.iterdir()] == ["again"]


def test_a_field_that_no_map_explains_is_told_of(made, tmp_path):
    """Only the total field has it; README and its sidecar say so."""
    out = tmp_path / "fibres"
    options = ["--subjects", "1", "--echo-times", "0.004", "0.012", "--snr", "inf", "--anisotropy", "0.5"]
    assert main([str(out), *SMALL, *options]) == 0
    told = "50 % of the spread of the local field"
    assert told in (out / "README.md").read_text() and told not in (made / "README.md").read_text()
    truths = [folder / "derivatives" / "truth" / "sub-01" for folder in (made, out)]
    for stem in ("anat/sub-01_desc-truth_Chimap", "fmap/sub-01_desc-local_fieldmap", "fmap/sub-01_desc-total_fieldmap"):
        plain, more = (read(truth / f"{stem}.nii.gz") for truth in truths)
        said = json.loads((truths[1] / f"{stem}.json").read_text())["Description"]
        assert (told in said) == ("total" in stem) == (not np.array_equal(plain, more)), stem
    mask = read(truths[0] / "anat" / "sub-01_desc-brain_mask.nii.gz") > 0
    local, total = (
        read(truths[0] / "fmap" / f"sub-01_desc-{name}_fieldmap.nii.gz")[mask] for name in ("local", "total")
    )
    added = read(truths[1] / "fmap" / "sub-01_desc-total_fieldmap.nii.gz")[mask] - total
    assert 0.3 < added.std() / local.std() < 0.7


@pytest.mark.skipif(
    shutil.which("bids-validator-deno", path=str(Path(sys.executable).parent)) is None,
    reason="bids-validator-deno is not installed",
)
def test_the_official_validator_finds_no_error(made, tmp_path):
    oblique = tmp_path / "oblique"
    options = ["--subjects", "1", "--suffix", "T2starw", "--echo-times", "0.02", "--tilt-deg", "20", "--vendor"]
    assert main([str(oblique), *SMALL[:-4], "--t1w-mm", "0", *options, "philips"]) == 0
    image = nib.load(oblique / "sub-01/anat/sub-01_part-phase_T2starw.nii.gz")
    assert Grid.from_affine(image.shape, image.affine).tilt_deg == pytest.approx(20.0, abs=1e-3)
    assert np.abs(image.get_fdata()).max() == pytest.approx(np.pi, abs=1e-2)
    tool = str(Path(sys.executable).parent / "bids-validator-deno")
    for root in (made, made / "derivatives/truth", oblique, oblique / "derivatives/truth"):
        done = subprocess.run([tool, str(root), "--format", "json"], capture_output=True, text=True, check=False)
        issues = json.loads(done.stdout)["issues"]["issues"]
        errors = [(i["code"], i.get("location")) for i in issues if i["severity"] == "error"]
        assert errors == [], root
        assert done.returncode == 0


def test_usage_errors_have_their_exit_codes(made, tmp_path, capsys):
    assert main([str(made)]) == 73
    assert main([str(tmp_path / "x"), "--suffix", "T2starw"]) == 2
    assert main([str(tmp_path / "x"), "--subjects", "0"]) == 2
    assert main([str(tmp_path / "x"), "--echo-times", "0.5"]) == 2
    assert main([str(tmp_path / "x"), "--anisotropy", "-1"]) == 2
    for wrong in (["--snr", "0"], ["--t1w-mm", "-1"], ["--age", "50", "20"], ["--orientation", "LLS"]):
        assert main([str(tmp_path / "x"), *wrong]) == 2, wrong
    assert not (tmp_path / "x").exists()
    assert "Expected:" in capsys.readouterr().err


def test_help_is_fast_to_import():
    code = "import sys; from qsmprep.cli.simulate import build_parser; build_parser(); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
