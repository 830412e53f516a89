"""``qsmprep-step`` on echoes: a simulated head whose truth is known, real scans, and every way to go wrong."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from qsmprep.cli import simulate, step, step_echoes
from qsmprep.core.grid import Grid
from qsmprep.core.units import hz_per_ppm

SHARED = Path(__file__).parents[2] / "../shared/data"
TE_S = (0.004, 0.008, 0.012, 0.016)
B0_T = 3.0


class Head:
    """A simulated head with its truth."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.anat = root / "sub-01" / "anat"
        truth = root / "derivatives" / "truth" / "sub-01"
        self.mask_file = truth / "anat" / "sub-01_desc-brain_mask.nii.gz"
        self.mask = data_of(self.mask_file) > 0
        self.field_hz = data_of(truth / "fmap" / "sub-01_desc-total_fieldmap.nii.gz")
        self.r2star_hz = data_of(truth / "anat" / "sub-01_desc-truth_R2starmap.nii.gz")
        self.phase, self.magnitude = ([self.file(n, part) for n in (1, 2, 3, 4)] for part in ("phase", "mag"))

    def file(self, echo: int, part: str) -> Path:
        return self.anat / f"sub-01_echo-{echo}_part-{part}_MEGRE.nii.gz"

    def error_hz(self, field_hz: np.ndarray) -> float:
        """Median error in the mask; the constant of the shim counts."""
        return float(np.median(np.abs(field_hz - self.field_hz)[self.mask]))


def data_of(path: Path) -> np.ndarray:
    return nib.load(path).get_fdata(dtype=np.float32)


@pytest.fixture(scope="module")
def head(tmp_path_factory):
    root = tmp_path_factory.mktemp("head") / "data"
    words = ["--subjects", "1", "--voxel-mm", "4", "4", "5", "--fine-mm", "4", "--t1w-mm", "0", "--seed", "3"]
    words += ["--tilt-deg", "15", "--echo-times", *map(str, TE_S)]
    assert simulate.main([str(root), *words]) == 0
    return Head(root)


@pytest.fixture
def scan(head, tmp_path):
    """A copy that may be spoilt."""
    shutil.copytree(head.root, tmp_path / "copy")
    return Head(tmp_path / "copy")


def call(capsys, *words: object) -> tuple[int, str, str]:
    """Exit code, and what was said on both streams."""
    code = step.main([str(word) for word in words])
    told = capsys.readouterr()
    return code, told.out, told.err


def fieldmap(capsys, head, out, *words, phase=None, magnitude=None, code=0):
    given = ("--phase", *(phase or head.phase), "--magnitude", *(magnitude or head.magnitude))
    found, said, told = call(capsys, "fieldmap", *given, "--mask", head.mask_file, "--out", out, *words)
    assert found == code, said + told
    return told if code else data_of(out)


def rewrite(path: Path, change) -> None:
    """Change the voxels of an image in place, stored as float without scaling."""
    image = nib.load(path)
    nib.Nifti1Image(change(image.get_fdata(dtype=np.float32)), image.affine).to_filename(path)


def spoil_phase(scan: Head, add) -> None:
    """Add phase (rad) to echo ``n``, from 0 on, and store the result in radians."""
    for n, path in enumerate(scan.phase):
        radians = data_of(path) * np.float32(np.pi / 4096)
        image = nib.load(path)
        wrapped = np.angle(np.exp(1j * (radians + add(n, radians.shape)))).astype(np.float32)
        nib.Nifti1Image(wrapped, image.affine).to_filename(path)
        sidecar = path.with_name(path.name.replace(".nii.gz", ".json"))
        sidecar.write_text(json.dumps({**json.loads(sidecar.read_text()), "Units": "rad"}))


def test_fieldmap_is_the_true_field(head, tmp_path, capsys):
    extra = [f"--out-{name}" for name in ("noise", "residual", "weights")]
    files = [tmp_path / f"{name}.nii.gz" for name in ("noise", "residual", "weights")]
    words = [word for pair in zip(extra, files, strict=True) for word in pair]
    field = fieldmap(capsys, head, tmp_path / "deep" / "f.nii.gz", *words)
    assert head.error_hz(field) < 1.0, "the spread of the true field is 17 Hz"
    noise, residual, weights = map(data_of, files)
    good = head.mask & (weights > 0.5)
    assert good.sum() > 0.5 * head.mask.sum()
    assert np.sqrt(np.mean((field - head.field_hz)[good] ** 2)) < 2.5
    assert 0 < np.median(noise[head.mask]) < 2
    assert 0 <= residual.min() <= residual.max() <= 1
    sidecar = json.loads((tmp_path / "deep" / "f.json").read_text())
    assert sidecar["Units"] == "Hz"
    assert sidecar["EchoTime"] == list(TE_S), "taken from the JSON files beside the images"
    assert [used["Step"] for used in sidecar["Steps"]] == ["artefacts", "offset", "unwrap", "combine"]
    assert len(sidecar["Inputs"]) == 9
    assert sidecar["Details"]["slice_sign"] == "does not alternate"
    assert sorted(p.name for p in (tmp_path / "deep").iterdir()) == ["f.json", "f.nii.gz"]


def test_fieldmap_in_ppm_and_by_other_methods(head, tmp_path, capsys):
    hz = fieldmap(capsys, head, tmp_path / "hz.nii")
    ppm = fieldmap(capsys, head, tmp_path / "ppm.nii", "--units", "ppm", "--b0-t", B0_T)
    np.testing.assert_allclose(ppm * hz_per_ppm(B0_T), hz, atol=1e-3)
    for words in (("--method", "weighted"), ("--unwrap", "laplacian"), ("--unwrap", "bestpath")):
        field = fieldmap(capsys, head, tmp_path / "other.nii", *words)
        assert head.error_hz(field) < 1.5, words
        assert not np.array_equal(field, hz)


def test_phase_unwrap_fieldmap_in_turn_give_the_same_field(head, tmp_path, capsys):
    """The echo times are handed on by the JSON files."""
    once = fieldmap(capsys, head, tmp_path / "once.nii.gz")
    wrapped, unwrapped, field = (tmp_path / f"{name}.nii.gz" for name in ("wrapped", "unwrapped", "field"))
    magnitude = ("--magnitude", *head.magnitude, "--mask", head.mask_file)
    assert call(capsys, "phase", "--phase", *head.phase, *magnitude, "--out", wrapped)[0] == 0
    assert data_of(wrapped).shape == (*head.mask.shape, 4)
    assert np.abs(data_of(wrapped)).max() <= np.float32(np.pi)
    assert call(capsys, "unwrap", "--phase", wrapped, *magnitude, "--out", unwrapped)[0] == 0
    turns = (data_of(unwrapped) - data_of(wrapped))[head.mask] / (2 * np.pi)
    np.testing.assert_allclose(turns, np.rint(turns), atol=1e-4)
    assert call(capsys, "fieldmap", "--unwrapped", unwrapped, *magnitude, "--out", field)[0] == 0
    np.testing.assert_allclose(data_of(field), once, atol=1e-3)


def test_one_echo_is_a_volume_and_needs_no_time_to_be_unwrapped(head, tmp_path, capsys):
    stored = shutil.copy(head.phase[3], tmp_path / "alone.nii.gz")
    code, _, told = call(capsys, "unwrap", "--phase", stored, "--mask", head.mask_file, "--out", tmp_path / "u.nii.gz")
    assert code == 0, told
    assert data_of(tmp_path / "u.nii.gz").shape == head.mask.shape
    code, _, told = call(
        capsys, "fieldmap", "--phase", stored, "--mask", head.mask_file, "--out", tmp_path / "f.nii.gz"
    )
    assert code == 2
    assert "echo times are not known" in told
    assert "--te-s" in told


def test_one_file_of_four_dimensions_and_echoes_out_of_order(head, tmp_path, capsys):
    expected = fieldmap(capsys, head, tmp_path / "a.nii")
    order = (2, 0, 3, 1)
    for name, files in (("phase", head.phase), ("mag", head.magnitude)):
        stack = np.stack([data_of(files[n]) for n in order], axis=-1)
        nib.Nifti1Image(stack, nib.load(files[0]).affine).to_filename(tmp_path / f"{name}.nii.gz")
    words = ("--phase", tmp_path / "phase.nii.gz", "--magnitude", tmp_path / "mag.nii.gz", "--mask", head.mask_file)
    times = ("--te-s", *(TE_S[n] for n in order))
    code, _, told = call(capsys, "fieldmap", *words, *times, "--out", tmp_path / "b.nii")
    assert code == 0, told
    assert "sorted by their times" in told
    np.testing.assert_allclose(data_of(tmp_path / "b.nii"), expected, atol=1e-3)


def test_unevenly_spaced_echoes(head, tmp_path, capsys):
    three = [0, 1, 3]
    field = fieldmap(
        capsys, head, tmp_path / "f.nii", phase=[head.phase[n] for n in three],
        magnitude=[head.magnitude[n] for n in three],
    )  # fmt: skip
    assert head.error_hz(field) < 1.0


def test_real_and_imaginary_parts(head, tmp_path, capsys):
    expected = fieldmap(capsys, head, tmp_path / "a.nii")
    parts = {"real": [], "imag": []}
    for n, (phase, magnitude) in enumerate(zip(head.phase, head.magnitude, strict=True)):
        signal = data_of(magnitude) * np.exp(1j * data_of(phase) * np.pi / 4096)
        for name, values in (("real", signal.real), ("imag", signal.imag)):
            parts[name].append(tmp_path / f"{name}{n}.nii.gz")
            nib.Nifti1Image(values.astype(np.float32), nib.load(phase).affine).to_filename(parts[name][-1])
    words = ("--real", *parts["real"], "--imag", *parts["imag"], "--te-s", *TE_S, "--mask", head.mask_file)
    assert call(capsys, "fieldmap", *words, "--out", tmp_path / "b.nii")[0] == 0
    np.testing.assert_allclose(data_of(tmp_path / "b.nii"), expected, atol=0.05)
    turned = ("--phase-sign", "-1", "--out", tmp_path / "c.nii")
    assert call(capsys, "fieldmap", *words, *turned)[0] == 0
    np.testing.assert_allclose(data_of(tmp_path / "c.nii"), -expected, atol=0.1)


def test_bipolar_readout_and_alternating_slices_are_undone(head, scan, tmp_path, capsys):
    """A plane of up to a radian on the even echoes and a sign on every other slice, put in on purpose."""

    def fault(n, shape):
        x, y, _ = np.meshgrid(*[np.linspace(-1, 1, size) for size in shape], indexing="ij")
        return (n % 2) * (0.9 * x + 0.2 * y - 0.1) + np.pi * (np.arange(shape[2]) % 2)

    spoil_phase(scan, fault)
    clean = fieldmap(capsys, head, tmp_path / "clean.nii")
    mended = fieldmap(capsys, scan, tmp_path / "mended.nii")
    details = json.loads((tmp_path / "mended.json").read_text())["Details"]
    assert details["bipolar"] == "corrected"
    assert "axis 2" in details["slice_sign"]
    assert np.median(np.abs(mended - clean)[head.mask]) < 0.2
    assert scan.error_hz(mended) < 1.0
    kept = fieldmap(capsys, scan, tmp_path / "kept.nii", "--param", "artefacts.bipolar=off")
    assert np.median(np.abs(kept - clean)[head.mask]) > 1.0, "without the correction the field is wrong"
    told = call(capsys, "phase", "--phase", *scan.phase, "--magnitude", *scan.magnitude, "--out", tmp_path / "p.nii")
    assert told[0] == 0
    assert "bipolar readout; this was corrected" in told[2]
    assert "alternated" in told[2]


def test_mask_is_the_brain_and_the_reliable_part_of_it(head, tmp_path, capsys):
    brain_file, qsm_file = tmp_path / "brain.nii.gz", tmp_path / "qsm.nii.gz"
    words = ("--magnitude", *head.magnitude, "--phase", *head.phase, "--out", brain_file, "--out-qsm", qsm_file)
    code, said, told = call(capsys, "mask", *words)
    assert code == 0, told
    brain, qsm = data_of(brain_file) > 0, data_of(qsm_file) > 0
    assert nib.load(brain_file).get_data_dtype() == np.uint8
    assert 2 * (brain & head.mask).sum() / (brain.sum() + head.mask.sum()) > 0.9
    assert 0.8 * brain.sum() < qsm.sum() < brain.sum()
    assert not (qsm & ~brain).any()
    volume = brain.sum() * Grid.from_affine(brain.shape, nib.load(brain_file).affine).voxel_volume_mm3 / 1000
    assert f"{volume:.0f} mL" in said
    code, _, told = call(capsys, "mask", "--magnitude", *head.magnitude, "--out", tmp_path / "again.nii.gz")
    assert code == 0, told
    np.testing.assert_array_equal(data_of(tmp_path / "again.nii.gz") > 0, brain)
    code, _, told = call(
        capsys, "mask", "--magnitude", *head.magnitude, "--method", "threshold", "--param", "factor=0.5",
        "--out", tmp_path / "otsu.nii.gz",
    )  # fmt: skip
    assert code == 0, told
    assert (data_of(tmp_path / "otsu.nii.gz") > 0).sum() > brain.sum(), "the whole head"


@pytest.mark.parametrize("method", ["nlls", "arlo", "loglinear"])
def test_r2star(head, tmp_path, capsys, method):
    """Mono-exponential decay with the rates of the head, written as one series."""
    decay = np.stack([100 * np.exp(-te * head.r2star_hz) for te in TE_S], axis=-1)
    nib.Nifti1Image(decay.astype(np.float32), nib.load(head.mask_file).affine).to_filename(tmp_path / "decay.nii.gz")
    out, t2star, s0 = (tmp_path / f"{name}.nii.gz" for name in ("r2", "t2", "s0"))
    words = ("--magnitude", tmp_path / "decay.nii.gz", "--te-s", *TE_S, "--mask", head.mask_file, "--method", method)
    code, _, told = call(capsys, "r2star", *words, "--out", out, "--out-t2star", t2star, "--out-s0", s0)
    assert code == 0, told
    inside = head.mask & (head.r2star_hz > 2)
    np.testing.assert_allclose(data_of(out)[inside], head.r2star_hz[inside], rtol=0.01)
    np.testing.assert_allclose(data_of(t2star)[inside], 1 / head.r2star_hz[inside], rtol=0.01)
    np.testing.assert_allclose(data_of(s0)[inside], 100, rtol=0.01)


def test_swi(head, tmp_path, capsys):
    swi, minip = tmp_path / "swi.nii.gz", tmp_path / "minip.nii.gz"
    words = ("--phase", *head.phase, "--magnitude", *head.magnitude, "--mask", head.mask_file)
    code, said, told = call(capsys, "swi", *words, "--out", swi, "--out-minip", minip, "--param", "minip_mm=16")
    assert code == 0, told
    assert "projection over 15 mm" in said
    assert not data_of(swi)[~head.mask].any()
    assert (data_of(minip) <= data_of(swi)).all()
    sidecar = json.loads((tmp_path / "swi.json").read_text())
    assert sidecar["Steps"][-1]["Parameters"]["minip_mm"] == 16
    assert sidecar["Details"]["minip_slices"] == 3


def test_nan_is_counted_and_said(scan, tmp_path, capsys):
    def holes(data):
        data[20, 20, 10:13] = np.nan
        return data

    for path in (scan.phase[1], scan.magnitude[2]):
        rewrite(path, holes)
    field = fieldmap(capsys, scan, tmp_path / "f.nii")
    assert np.isfinite(field).all()
    code, _, told = call(
        capsys, "phase", "--phase", *scan.phase, "--magnitude", *scan.magnitude, "--out", tmp_path / "p.nii"
    )
    assert code == 0
    assert "3 voxels of the phase are not finite" in told
    assert "3 voxels of the magnitude are not finite" in told


def broken(scan: Head, how: str) -> tuple[list[Path], list[Path]]:
    """Files of a scan that is wrong in one way."""
    phase, magnitude = list(scan.phase), list(scan.magnitude)
    if how == "fewer magnitudes":
        magnitude = magnitude[:3]
    elif how == "shape":
        rewrite(magnitude[1], lambda data: data[:-1])
    elif how == "affine":
        image = nib.load(phase[2])
        nib.Nifti1Image(data_of(phase[2]), image.affine @ np.diag([1, 1, 1.1, 1])).to_filename(phase[2])
    elif how == "empty":
        rewrite(phase[0], lambda data: np.full_like(data, np.nan))
    elif how == "constant":
        rewrite(phase[3], lambda data: np.full_like(data, 7.0))
    elif how == "units":
        for path in phase:
            rewrite(path, lambda data: data * 0.001)
    elif how == "dark":
        rewrite(magnitude[3], np.zeros_like)
    elif how == "negative":
        rewrite(magnitude[3], lambda data: data - 10)
    elif how == "truncated":
        phase[1].write_bytes(phase[1].read_bytes()[:2000])
    elif how == "absent":
        phase[1] = scan.root / "nowhere.nii.gz"
    elif how == "sidecar":
        scan.phase[1].with_name(scan.phase[1].name.replace(".nii.gz", ".json")).write_text("{")
    elif how == "no times":
        for path in scan.anat.glob("*.json"):
            path.unlink()
    elif how == "other order":
        magnitude.reverse()
    elif how == "milliseconds":
        for number, path in enumerate(sorted(scan.anat.glob("*.json"))):
            path.write_text(json.dumps({"EchoTime": 5.0 * (1 + number), "Units": "arbitrary"}))
    elif how == "same times":
        for path in scan.anat.glob("*.json"):
            path.write_text('{"EchoTime": 0.004, "Units": "arbitrary"}')
    return phase, magnitude


@pytest.mark.parametrize(
    ("how", "code", "told", "named"),
    [
        ("fewer magnitudes", 65, "3 volumes for `--magnitude`, but 4", "part-mag"),
        ("shape", 65, "but", "echo-2_part-mag"),
        ("affine", 65, "affine differs", "echo-3_part-phase"),
        ("empty", 65, "no finite value", "echo-1_part-phase"),
        ("constant", 65, "everywhere", "echo-4_part-phase"),
        ("units", 65, "no known way to store phase", "echo-1_part-phase"),
        ("other order", 65, "EchoTime is 0.0", "echo-4_part-mag"),
        ("milliseconds", 65, "EchoTime is 10.0", "echo-1_part-phase"),
        ("dark", 65, "no signal", "echo-4_part-mag"),
        ("negative", 65, "negative values", "part-mag"),
        ("truncated", 65, "cannot be read", "echo-2_part-phase"),
        ("absent", 66, "does not exist", "nowhere.nii.gz"),
        ("sidecar", 65, "not valid JSON", "echo-2_part-phase"),
        ("no times", 2, "echo times are not known", "echo-1_part-phase"),
        ("same times", 65, "one time", "echo-1_part-phase"),
    ],
)
def test_bad_files_are_told_in_one_line(scan, tmp_path, capsys, how, code, told, named):
    phase, magnitude = broken(scan, how)
    before = sorted(tmp_path.rglob("*"))
    said = fieldmap(capsys, scan, tmp_path / "out.nii.gz", phase=phase, magnitude=magnitude, code=code)
    errors = [line for line in said.splitlines() if "warning" not in line]
    assert len(errors) == 1
    assert errors[0].startswith("qsmprep-step: ")
    assert told in errors[0]
    assert named in errors[0], "the message names the file"
    assert sorted(tmp_path.rglob("*")) == before, "nothing is written"


@pytest.mark.parametrize(
    ("command", "words", "told"),
    [
        ("fieldmap", ("--te-s", "0.004", "0.008"), "2 times for 4 echoes"),
        ("fieldmap", ("--te-s", "4", "8", "12", "16"), "echo times in seconds"),
        ("fieldmap", ("--units", "ppm"), "--b0-t"),
        ("fieldmap", ("--units", "ppm", "--b0-t", "3000"), "0.01 to 25"),
        ("fieldmap", ("--units", "tesla"), "invalid choice"),
        ("fieldmap", ("--phase-units", "cycles"), "invalid choice"),
        ("fieldmap", ("--method", "magic"), "no combine method is called 'magic'"),
        ("fieldmap", ("--unwrap", "magic"), "no unwrap method is called 'magic'"),
        ("fieldmap", ("--param", "heaviness=3"), "no parameter `heaviness`"),
        ("fieldmap", ("--param", "tv.weight=3"), "of no method of this step"),
        ("fieldmap", ("--param", "romeo.individual"), "NAME=VALUE"),
        ("fieldmap", ("--param", "mcpc3ds.sigma_mm=-1"), "0.1 to inf mm"),
        ("fieldmap", ("--unwrapped", "PHASE"), "`--phase` and `--unwrapped` are given"),
        ("fieldmap", ("--real", "PHASE"), "are given"),
        ("fieldmap", ("--out-noise", "OUT"), "two results have one name"),
        ("fieldmap", ("--out-noise", "PHASE"), "replace an input"),
        ("fieldmap", ("--out-noise", "noise.mgz"), ".nii or .nii.gz"),
        ("swi", ("--param", "minip_mm=-3"), "0.0 to inf mm"),
        ("unwrap", ("--method", "laplace"), "romeo, laplacian, bestpath"),
    ],
)
def test_usage_errors(head, tmp_path, capsys, command, words, told):
    places = {"PHASE": str(head.phase[0]), "OUT": str(tmp_path / "out.nii")}
    given = ("--phase", *head.phase, "--magnitude", *head.magnitude, "--mask", head.mask_file)
    out = ("--out", tmp_path / "out.nii")
    code, said, errors = call(capsys, command, *given, *out, *(places.get(word, word) for word in words))
    assert code == 2, said + errors
    assert told in errors
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("phase", "--out", "o.nii"), "there is no phase"),
        (("phase", "--real", "a.nii", "--out", "o.nii"), "belong together"),
        (("phase", "--real", "a.nii", "--imag", "b.nii", "--magnitude", "m.nii", "--out", "o.nii"), "leave out"),
        (("mask", "--magnitude", "m.nii", "--phase", "p.nii", "--out", "o.nii"), "belong together"),
        (("mask", "--magnitude", "m.nii", "--out-qsm", "q.nii", "--out", "o.nii"), "belong together"),
        (("mask", "--out", "o.nii"), "--magnitude"),
        (("swi", "--phase", "p.nii", "--mask", "m.nii", "--out", "o.nii"), "there is no magnitude"),
        (
            ("phase", "--phase", "x.nii", "--out", "x.nii.gz"),
            "x.json, which is written too, belongs to the input x.nii",
        ),
    ],
)
def test_words_that_do_not_go_together(capsys, words, told):
    code, _, said = call(capsys, *words)
    assert code == 2
    assert told in said


def test_a_mask_on_another_grid(scan, tmp_path, capsys):
    rewrite(scan.mask_file, lambda data: data[1:])
    said = fieldmap(capsys, scan, tmp_path / "f.nii", code=65)
    assert str(scan.mask_file) in said
    assert "shape" in said


def test_r2star_of_one_echo_is_refused(head, tmp_path, capsys):
    words = ("--magnitude", head.magnitude[0], "--mask", head.mask_file, "--out", tmp_path / "r.nii")
    code, _, told = call(capsys, "r2star", *words)
    assert code == 65
    assert "two echoes or more" in told
    three = [head.magnitude[n] for n in (0, 1, 3)]
    code, _, told = call(capsys, "r2star", "--magnitude", *three, *words[2:], "--method", "arlo")
    assert code == 65
    assert "evenly spaced" in told


def test_real_crop_in_odd_units(tmp_path, capsys):
    folder = SHARED / "romeo-crop"
    if not folder.exists():
        pytest.skip("the shared test data are not here")
    words = ("--phase", folder / "Phase.nii.gz", "--magnitude", folder / "Mag.nii.gz", "--te-s", 0.004, 0.008, 0.012)
    code, _, told = call(capsys, "phase", *words, "--keep-offset", "--out", tmp_path / "p.nii.gz")
    assert code == 0, told
    assert "slope" in told
    image = nib.load(folder / "Phase.nii.gz")
    radians = data_of(folder / "Phase.nii.gz") / np.float32(image.dataobj.slope)
    assert np.abs(np.angle(np.exp(1j * (data_of(tmp_path / "p.nii.gz") - radians)))).max() < 1e-4
    holes = ("--phase", folder / "phase_with_nan.nii.gz", "--te-s", 0.004, 0.008)
    code, _, told = call(capsys, "phase", *holes, "--out", tmp_path / "n.nii.gz")
    assert code == 65
    assert "--phase-units rad" in told
    code, _, told = call(capsys, "phase", *holes, "--phase-units", "rad", "--out", tmp_path / "n.nii.gz")
    assert code == 0, told
    assert "1280 voxels of the phase are not finite" in told
    assert np.isfinite(data_of(tmp_path / "n.nii.gz")).all()


def test_real_philips_scan(tmp_path, capsys):
    """No truth is known; two ways of unwrapping must agree, and a head at 3 T has a field of some ten Hz."""
    anat = SHARED / "philips-dualecho" / "sub-01" / "anat"
    if not anat.exists():
        pytest.skip("the shared test data are not here")
    phase, magnitude = (sorted(anat.glob(f"*_part-{part}_MEGRE.nii.gz")) for part in ("phase", "mag"))
    brain, common = tmp_path / "brain.nii.gz", ("--phase", *phase, "--magnitude", *magnitude)
    qsm = ("--out", brain, "--out-qsm", tmp_path / "qsm.nii.gz")
    code, _, told = call(capsys, "mask", *common, *qsm)
    assert code == 0, told
    inside = data_of(tmp_path / "qsm.nii.gz") > 0
    volume_ml = inside.sum() * 27 / 1000
    assert 900 < volume_ml < 2000
    fields = []
    for name in ("romeo", "bestpath"):
        words = ("--mask", brain, "--unwrap", name, "--out", tmp_path / f"{name}.nii.gz")
        code, _, told = call(capsys, "fieldmap", *common, *words)
        assert code == 0, told
        fields.append(data_of(tmp_path / f"{name}.nii.gz"))
    assert np.percentile(np.abs(fields[0] - fields[1])[inside], 95) < 1
    assert 5 < np.std(fields[0][inside]) < 100
    sidecar = json.loads((tmp_path / "romeo.json").read_text())
    assert sidecar["EchoTime"] == [0.0023, 0.0046]
    assert sidecar["MagneticFieldStrength"] == 3
    assert "fewer than three" in sidecar["Details"]["bipolar"]


def test_every_command_has_a_function_and_help(capsys):
    from qsmprep.cli import echo_steps

    for command in step_echoes.COMMANDS:
        assert callable(getattr(echo_steps, command.name))
        with pytest.raises(SystemExit) as done:
            step.main([command.name, "--help"])
        assert done.value.code == 0
        assert command.summary[:30] in capsys.readouterr().out


def test_mask_by_the_network(head, tmp_path, capsys):
    out = tmp_path / "brain.nii.gz"
    words = ("--magnitude", head.magnitude[0], "--method", "unetr", "--param", f"weights={tmp_path / 'none'}")
    code, _, told = call(capsys, "mask", *words, "--out", out)
    assert code == 66
    assert "qsmprep-train brainmask" in told
    assert not out.exists()
