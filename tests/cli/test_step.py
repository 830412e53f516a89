"""``qsmprep-step`` on files with a known answer, and every way to use it wrongly."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from qsmprep.bids.write import write_nifti
from qsmprep.cli import step
from qsmprep.core.dipole import forward_field
from qsmprep.core.grid import Grid
from qsmprep.core.methods import METHODS
from qsmprep.core.units import hz_per_ppm, rad_per_ppm
from qsmprep.networks.card import card_path

SHAPE = (34, 30, 26)
VOXEL_MM = (1.5, 1.8, 2.1)
B0_T, TE_S = 3.0, 0.02


def affine_of(tilt_deg: float = 0.0) -> np.ndarray:
    """Axes in scanner order, the stack tilted about x."""
    angle = np.deg2rad(tilt_deg)
    rotation = np.array([[1, 0, 0], [0, np.cos(angle), -np.sin(angle)], [0, np.sin(angle), np.cos(angle)]], dtype=float)
    affine = np.eye(4)
    affine[:3, :3] = rotation * VOXEL_MM
    affine[:3, 3] = (-20.0, 4.0, 7.0)
    return affine


def save(path: Path, data: np.ndarray, affine: np.ndarray) -> Path:
    image = nib.Nifti1Image(np.asarray(data), affine)
    image.set_qform(affine, 1)
    image.set_sform(affine, 1)
    image.to_filename(path)
    return path


class Phantom:
    """A ball of a head with two nuclei inside and a source outside, tilted by 20 degrees."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.affine = affine_of(20.0)
        self.grid = Grid.from_affine(SHAPE, self.affine)
        index = np.indices(SHAPE).astype(float)
        mm = (index - (np.reshape(SHAPE, (3, 1, 1, 1)) - 1) / 2) * np.reshape(VOXEL_MM, (3, 1, 1, 1))
        self.mask = np.sqrt((mm**2).sum(0)) < 19
        self.chi_ppm = np.zeros(SHAPE, np.float32)
        for x, y, z, radius, value in ((-7, 2, 3, 4, 0.12), (7, 1, -4, 5, 0.07), (0, -9, 2, 3, -0.05)):
            self.chi_ppm[((mm - np.reshape((x, y, z), (3, 1, 1, 1))) ** 2).sum(0) < radius**2] = value
        air = np.zeros(SHAPE, np.float32)
        air[1:4, 12:17, 11:15] = 4.0
        assert not (self.mask & (air != 0)).any()
        self.local_ppm = forward_field(self.chi_ppm, self.grid)
        self.total_ppm = self.local_ppm + forward_field(air, self.grid)
        noise = np.random.default_rng(1).normal(0, 5e-4, SHAPE).astype(np.float32)
        self.put("mask", self.mask.astype(np.uint8))
        self.put("local", self.local_ppm + noise)
        self.put("total", self.total_ppm)
        self.put("magnitude", 100 * self.mask.astype(np.float32) + (self.chi_ppm != 0))

    def put(self, name: str, data: np.ndarray, affine: np.ndarray | None = None) -> Path:
        return save(self.folder / f"{name}.nii.gz", data, self.affine if affine is None else affine)

    def __getitem__(self, name: str) -> str:
        return str(self.folder / f"{name}.nii.gz")

    def error_percent(self, chi_ppm: np.ndarray) -> float:
        """Demeaned root-mean-square error in percent of the truth."""
        difference, truth = (v[self.mask] - v[self.mask].mean() for v in (chi_ppm - self.chi_ppm, self.chi_ppm))
        return 100 * float(np.linalg.norm(difference) / np.linalg.norm(truth))


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    return Phantom(tmp_path_factory.mktemp("phantom"))


@pytest.fixture
def phantom(tmp_path):
    return Phantom(tmp_path)


def data_of(path) -> np.ndarray:
    return np.asanyarray(nib.load(path).dataobj)


def call(capsys, *words: object) -> tuple[int, str]:
    """Exit code and what was said, on both streams."""
    code = step.main([str(word) for word in words])
    told = capsys.readouterr()
    return code, told.out + told.err


def invert(capsys, phantom, out, *words, field="local", units="ppm"):
    return call(
        capsys, "invert", "--field", phantom[field], "--mask", phantom["mask"], "--units", units, "--out", out, *words
    )


@pytest.mark.parametrize("name", METHODS.names("inversion"))
def test_every_inversion_finds_the_nuclei(shared, tmp_path, capsys, name):
    if METHODS.get("inversion", name).learned and not card_path(name).exists():
        pytest.skip(f"no weights of {name} are shipped")
    out = tmp_path / "deep" / "chi.nii.gz"
    code, told = invert(capsys, shared, out, "--method", name, "--magnitude", shared["magnitude"])
    assert code == 0, told
    image, sidecar = nib.load(out), json.loads((tmp_path / "deep" / "chi.json").read_text())
    chi = data_of(out)
    assert chi.dtype == np.float32
    assert np.allclose(image.affine, shared.affine, atol=1e-4)
    assert image.header.get_xyzt_units()[0] == "mm"
    assert not chi[~shared.mask].any()
    assert abs(chi[shared.mask].mean()) < 1e-5, "the whole brain is the reference"
    assert shared.error_percent(chi) < 70
    nucleus = shared.chi_ppm == np.float32(0.12)
    assert chi[nucleus].mean() > 0.05, "paramagnetic is positive"
    assert sidecar["Units"] == "ppm"
    assert sidecar["Method"] == name
    assert set(sidecar["Parameters"]) == set(METHODS.get("inversion", name).parameters.__dataclass_fields__)
    assert np.allclose(sidecar["B0Direction"], shared.grid.b0_dir)
    assert sidecar["Reference"] == METHODS.names("reference")[0]
    assert all(url.startswith("https://doi.org/10.") for url in sidecar["EstimationReference"])
    assert len(sidecar["EstimationReference"]) == len(METHODS.get("inversion", name).citations)
    assert "Version" in sidecar["GeneratedBy"][0]
    assert sidecar["Iterations"] >= 0
    assert sorted(path.name for path in out.parent.iterdir()) == ["chi.json", "chi.nii.gz"]


@pytest.mark.parametrize("name", METHODS.names("background"))
def test_every_background_method_keeps_the_local_field(shared, tmp_path, capsys, name):
    out, out_mask = tmp_path / "local.nii.gz", tmp_path / "eroded.nii"
    words = ("--field", shared["total"], "--mask", shared["mask"], "--out", out, "--out-mask", out_mask)
    code, told = call(capsys, "background", *words, "--method", name)
    assert code == 0, told
    local, kept = data_of(out), data_of(out_mask)
    assert kept.dtype == np.uint8
    assert kept.any()
    assert not kept[~shared.mask].any()
    assert not local[kept == 0].any()
    inside = kept > 0
    before = np.linalg.norm((shared.total_ppm - shared.local_ppm)[inside])
    after = np.linalg.norm((local - shared.local_ppm)[inside])
    assert after < 0.5 * before
    sidecar = json.loads((tmp_path / "local.json").read_text())
    assert sidecar["MaskFractionKept"] == pytest.approx(inside.sum() / shared.mask.sum(), abs=1e-6)
    assert "Units" not in sidecar, "none was given"


def test_background_passes_the_unit_through(shared, tmp_path, capsys):
    factor = 250.0
    save(tmp_path / "hz.nii.gz", shared.total_ppm * factor, shared.affine)
    for field, out, words in ((shared["total"], "a", ()), (tmp_path / "hz.nii.gz", "b", ("--units", "hz"))):
        target = tmp_path / f"{out}.nii.gz"
        common = ("--method", "resharp", "--mask", shared["mask"], "--out", target)
        call(capsys, "background", "--field", field, *common, *words)
    ppm, hz = data_of(tmp_path / "a.nii.gz"), data_of(tmp_path / "b.nii.gz")
    assert np.allclose(hz, factor * ppm, atol=1e-4 * np.abs(hz).max())
    assert json.loads((tmp_path / "b.json").read_text())["Units"] == "Hz"


def test_the_remainder_of_the_background_is_taken_off(shared, tmp_path, capsys):
    index = np.indices(SHAPE).astype(float)
    x, _, z = ((index[a] - (SHAPE[a] - 1) / 2) * VOXEL_MM[a] / 20 for a in range(3))
    left = (0.02 * (x * z + 0.5 * z) * shared.mask).astype(np.float32)
    scale = np.float32(hz_per_ppm(B0_T))
    field = save(tmp_path / "field.nii.gz", (shared.local_ppm + left) * scale, shared.affine)
    words = ("--field", field, "--mask", shared["mask"], "--units", "hz", "--b0-t", B0_T)
    code, told = call(capsys, "remainder", *words, "--out", tmp_path / "clean.nii", "--param", "harmonic=yes")
    assert code == 0, told
    off = np.std((data_of(tmp_path / "clean.nii") / scale - shared.local_ppm)[shared.mask])
    assert off < 0.4 * left[shared.mask].std()
    sidecar = json.loads((tmp_path / "clean.json").read_text())
    assert sidecar["Units"] == "Hz" and sidecar["Method"] == "weakharmonic"
    assert sidecar["Details"]["harmonic_ppm"] == pytest.approx(left[shared.mask].std(), rel=0.4)
    assert f"{1e3 * sidecar['Details']['harmonic_ppm']:.2g} ppb taken off" in told
    code, told = call(capsys, "remainder", *words, "--out", tmp_path / "kept.nii", "--method", "keep")
    assert code == 0 and told.endswith("nothing taken off\n"), told
    assert np.allclose(data_of(tmp_path / "kept.nii"), data_of(field) * shared.mask, atol=1e-6)
    code, told = call(capsys, "remainder", *words[:-2], "--out", tmp_path / "none.nii")
    assert code == 2 and "needs `--b0-t`" in told


def test_a_unit_that_contradicts_the_sidecar_is_refused(shared, tmp_path, capsys):
    """The local field of a total field in ppm is in ppm, and cannot be inverted as one in Hz."""
    total, local, chi = (tmp_path / f"{name}.nii.gz" for name in ("total", "local", "chi"))
    save(total, data_of(shared["total"]), shared.affine)
    (tmp_path / "total.json").write_text('{"Units": "ppm"}')
    common = ("--mask", shared["mask"])
    assert call(capsys, "background", "--field", total, *common, "--method", "vsharp", "--out", local)[0] == 0
    assert json.loads((tmp_path / "local.json").read_text())["Units"] == "ppm"
    words = ("--field", local, *common, "--method", "tkd", "--out", chi)
    code, told = call(capsys, "invert", *words, "--units", "hz", "--b0-t", "3")
    assert code == 2
    assert "`--units` is hz, but the file beside the field says ppm" in told
    assert not chi.exists()
    assert call(capsys, "background", "--field", total, *common, "--units", "hz", "--out", local)[0] == 2
    assert call(capsys, "invert", *words, "--units", "ppm")[0] == 0


@pytest.mark.parametrize(
    ("units", "factor", "words"),
    [
        ("hz", hz_per_ppm(B0_T), ("--b0-t", B0_T)),
        ("rad", rad_per_ppm(B0_T, TE_S), ("--b0_t", B0_T, "--te-s", TE_S)),
    ],
)
def test_units_give_the_same_map(shared, tmp_path, capsys, units, factor, words):
    scaled = save(tmp_path / f"{units}.nii.gz", data_of(shared["local"]) * np.float32(factor), shared.affine)
    invert(capsys, shared, tmp_path / "ppm.nii", "--method", "tkd")
    common = ("--mask", shared["mask"], "--method", "tkd", "--out", tmp_path / "other.nii")
    code, told = call(capsys, "invert", "--field", scaled, "--units", units, *words, *common)
    assert code == 0, told
    assert np.allclose(data_of(tmp_path / "ppm.nii"), data_of(tmp_path / "other.nii"), atol=1e-5)


def test_b0_comes_from_the_affine_unless_given(shared, tmp_path, capsys):
    wrong, right = tmp_path / "wrong.nii", tmp_path / "right.nii"
    invert(capsys, shared, wrong, "--method", "tkd", "--b0-dir", 0, 0, 1)
    invert(capsys, shared, right, "--method", "tkd", "--b0-dir", *(5 * c for c in shared.grid.b0_dir))
    invert(capsys, shared, tmp_path / "default.nii", "--method", "tkd")
    assert np.allclose(data_of(right), data_of(tmp_path / "default.nii"), atol=1e-6)
    assert shared.error_percent(data_of(wrong)) > 1.3 * shared.error_percent(data_of(right))


def test_parameters_reach_the_method(shared, tmp_path, capsys):
    for value in ("0.1", "0.4"):
        code, told = invert(
            capsys, shared, tmp_path / f"{value}.nii", "--method", "tkd", "--param", f"threshold={value}"
        )
        assert code == 0, told
        assert json.loads((tmp_path / f"{value}.json").read_text())["Parameters"]["threshold"] == float(value)
    invert(capsys, shared, tmp_path / "dotted.nii", "--method", "tkd", "--param", "tkd.threshold=0.4")
    assert not np.allclose(data_of(tmp_path / "0.1.nii"), data_of(tmp_path / "0.4.nii"), atol=1e-3)
    assert np.array_equal(data_of(tmp_path / "dotted.nii"), data_of(tmp_path / "0.4.nii"))


def test_reference_none_keeps_the_constant(shared, tmp_path, capsys):
    invert(capsys, shared, tmp_path / "none.nii", "--method", "l2", "--reference", "none")
    invert(capsys, shared, tmp_path / "brain.nii", "--method", "l2")
    shift = json.loads((tmp_path / "brain.json").read_text())["ReferenceShift"]
    difference = (data_of(tmp_path / "none.nii") - data_of(tmp_path / "brain.nii"))[shared.mask]
    assert np.allclose(difference, shift, atol=1e-6)
    assert json.loads((tmp_path / "none.json").read_text())["ReferenceShift"] == 0


def test_nan_outside_the_mask_does_no_harm(phantom, tmp_path, capsys):
    field = data_of(phantom["local"]).copy()
    field[~phantom.mask] = np.nan
    phantom.put("holes", field)
    invert(capsys, phantom, tmp_path / "a.nii", "--method", "tkd")
    code, told = invert(capsys, phantom, tmp_path / "b.nii", "--method", "tkd", field="holes")
    assert code == 0, told
    assert np.array_equal(data_of(tmp_path / "a.nii"), data_of(tmp_path / "b.nii"))


def test_four_dimensions_of_one_volume_are_fine(phantom, tmp_path, capsys):
    phantom.put("series", data_of(phantom["local"])[..., None])
    code, told = invert(capsys, phantom, tmp_path / "chi.nii", "--method", "tkd", field="series")
    assert code == 0, told
    assert data_of(tmp_path / "chi.nii").shape == SHAPE


def broken_field(phantom: Phantom, how: str) -> None:
    """Write ``broken.nii.gz``, wrong in one way."""
    field = data_of(phantom["local"]).copy()
    path = Path(phantom["broken"])
    if how == "nan":
        field[17, 15, 13:15] = np.nan
        phantom.put("broken", field)
    elif how == "shape":
        phantom.put("broken", field[:-1])
    elif how == "affine":
        phantom.put("broken", field, affine_of(0.0))
    elif how == "series":
        phantom.put("broken", np.stack([field, field], -1))
    elif how == "truncated":
        whole = Path(phantom["local"]).read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
    elif how == "text":
        path.write_text("this is no image")
    elif how == "complex":
        phantom.put("broken", field.astype(np.complex64))


@pytest.mark.parametrize(
    ("how", "exit_code", "told"),
    [
        ("nan", 65, "2 voxels inside the mask are not finite"),
        ("shape", 65, "(33, 30, 26)"),
        ("affine", 65, "affine differs"),
        ("series", 65, "one three-dimensional volume"),
        ("truncated", 65, "cannot be read"),
        ("text", 65, "cannot be read"),
        ("complex", 65, "complex"),
        ("absent", 66, "does not exist"),
    ],
)
@pytest.mark.parametrize("command", ["invert", "background"])
def test_bad_fields_are_told_in_one_line(phantom, tmp_path, capsys, command, how, exit_code, told):
    broken_field(phantom, how)
    before = sorted(tmp_path.rglob("*"))
    words = ("--field", phantom["broken"], "--mask", phantom["mask"], "--out", tmp_path / "out.nii.gz")
    code, said = call(capsys, command, *words, *(("--units", "ppm") if command == "invert" else ()))
    assert code == exit_code
    assert told in said
    assert phantom["broken"] in said, "the message names the file"
    assert said.count("\n") == 1
    assert said.startswith("qsmprep-step: ")
    assert sorted(tmp_path.rglob("*")) == before, "nothing is written"


@pytest.mark.parametrize(("value", "told"), [(0.0, "the mask is empty"), (np.nan, "not finite")])
def test_bad_masks(phantom, tmp_path, capsys, value, told):
    phantom.put("mask", np.full(SHAPE, value, np.float32))
    code, said = invert(capsys, phantom, tmp_path / "out.nii")
    assert code == 65
    assert told in said
    assert phantom["mask"] in said


def test_sheared_affine(phantom, tmp_path, capsys):
    affine = phantom.affine.copy()
    affine[0, 1] += 0.5
    for name in ("mask", "local"):
        image = nib.Nifti1Image(data_of(phantom[name]), None)
        image.set_sform(affine, 1)
        image.to_filename(phantom[name])
    code, said = invert(capsys, phantom, tmp_path / "out.nii")
    assert code == 65
    assert "sheared" in said
    assert phantom["mask"] in said


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--method", "magic"), "no inversion method is called 'magic'"),
        (("--param", "heaviness=3"), "no parameter `heaviness`"),
        (("--param", "tile=many"), "a value of type int"),
        (("--param", "tile"), "NAME=VALUE"),
        (("--method", "tkd", "--param", "threshold=5"), "0.001 to 0.66"),
        (("--units", "hz"), "--b0-t"),
        (("--units", "rad", "--b0-t", "3"), "--te-s"),
        (("--units", "tesla"), "invalid choice"),
        (("--units", "hz", "--b0-t", "3000"), "0.01 to 25"),
        (("--units", "rad", "--b0-t", "3", "--te-s", "20"), "seconds"),
        (("--device", "abacus"), "auto, cpu, cuda or cuda:N"),
        (("--reference", "moon"), "invalid choice"),
        (("--b0-dir", "0", "0"), "3 arguments"),
        (("--wrong", "1"), "unrecognized"),
    ],
)
def test_usage_errors(shared, tmp_path, capsys, words, told):
    code, said = invert(capsys, shared, tmp_path / "out.nii", *words)
    assert code == 2
    assert told in said
    assert not list(tmp_path.iterdir())


def test_zero_b0_direction(shared, tmp_path, capsys):
    code, said = invert(capsys, shared, tmp_path / "out.nii", "--b0-dir", 0, 0, 0)
    assert code == 65
    assert "b0_dir" in said


def test_outputs_never_replace_inputs(phantom, capsys):
    before = Path(phantom["local"]).read_bytes()
    code, said = invert(capsys, phantom, phantom["local"])
    assert code == 2
    assert "replace an input" in said
    assert Path(phantom["local"]).read_bytes() == before


@pytest.mark.parametrize("name", ["chi.mgz", "chi", "chi.gz"])
def test_outputs_are_nifti(shared, tmp_path, capsys, name):
    code, said = invert(capsys, shared, tmp_path / name)
    assert code == 2
    assert ".nii or .nii.gz" in said


def test_a_place_that_cannot_be_written_to(shared, tmp_path, capsys):
    (tmp_path / "file").write_text("in the way")
    code, said = invert(capsys, shared, tmp_path / "file" / "chi.nii")
    assert code == 73
    assert "cannot be written" in said
    (tmp_path / "chi.nii").mkdir()
    code, said = invert(capsys, shared, tmp_path / "chi.nii")
    assert code == 73
    assert "folder" in said


def test_when_writing_fails_nothing_new_stays(shared, tmp_path, capsys):
    """The sidecar's place is taken by a folder: the map that was written before it goes away again."""
    (tmp_path / "chi.json").mkdir()
    code, said = invert(capsys, shared, tmp_path / "chi.nii", "--method", "tkd")
    assert code == 73
    assert "chi.json" in said
    assert [path.name for path in tmp_path.iterdir()] == ["chi.json"]


def test_a_result_is_replaced_as_a_whole(shared, tmp_path, capsys):
    write_nifti(np.ones((3, 3, 3), np.float32), np.eye(4), None, tmp_path / "chi.nii")
    code, told = invert(capsys, shared, tmp_path / "chi.nii", "--method", "tkd")
    assert code == 0, told
    assert data_of(tmp_path / "chi.nii").shape == SHAPE


def test_list_names_every_method_and_parameter(capsys):
    code, said = call(capsys, "list")
    assert code == 0
    for method in METHODS:
        assert f"{method.step} {method.name}" in said
        for name in method.parameters.__dataclass_fields__:
            assert f"  {method.name}.{name}=" in said
    code, said = call(capsys, "list", "inversion")
    assert "inversion tv" in said
    assert "background" not in said.split()
    code, said = call(capsys, "list", "cooking")
    assert code == 2
    assert "cooking" in said


def test_as_a_command(shared, tmp_path):
    """In a process of its own, as a user runs it; without a traceback when it goes wrong."""
    words = [sys.executable, "-m", "qsmprep.cli.step", "invert", "--units", "ppm", "--mask", shared["mask"]]
    out = ["--out", str(tmp_path / "chi.nii.gz"), "--method", "tkd"]
    good = subprocess.run([*words, *out, "--field", shared["local"]], capture_output=True, text=True, check=False)
    assert good.returncode == 0, good.stderr
    assert "TKD, closed form" in good.stdout
    bad = subprocess.run([*words, *out, "--field", "absent.nii"], capture_output=True, text=True, check=False)
    assert bad.returncode == 66
    assert "Traceback" not in bad.stderr
    assert bad.stderr.count("\n") == 1


def test_fluid_is_the_zero_of_medi(shared, tmp_path, capsys):
    fluid = shared.put("fluid", (shared.chi_ppm == np.float32(-0.05)).astype(np.uint8))
    out = tmp_path / "chi.nii"
    words = ("--magnitude", shared["magnitude"], "--csf", fluid, "--reference", "none")
    code, told = invert(capsys, shared, out, "--method", "medi", "--param", "csf_weight=0.1", *words)
    assert code == 0, told
    assert abs(data_of(out)[shared.chi_ppm == np.float32(-0.05)].mean()) < 1e-6
    sidecar = json.loads((tmp_path / "chi.json").read_text())
    assert sidecar["Inputs"]["csf"] == str(fluid)
    assert sidecar["Details"]["csf_voxels"] > 0
    code, told = invert(capsys, shared, tmp_path / "other.nii", "--method", "tkd", "--csf", fluid)
    assert code == 2
    assert "`--csf`" in told
