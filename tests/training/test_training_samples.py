"""Synthetic samples: the same from the same seed, within the ranges, with the field that is promised."""

from __future__ import annotations

import math
from itertools import pairwise

import nibabel as nib
import numpy as np
import pytest
import torch
from training_cases import head_codes, write_chi, write_head, write_heads

from qsmprep.core.grid import Grid
from qsmprep.errors import DataError, MissingFileError
from qsmprep.networks.geometry import Geometry
from qsmprep.training.anatomy import CLASSES, Anatomy, head_patch, load_chi, load_labels
from qsmprep.training.config import from_mapping
from qsmprep.training.draw import (
    Dice,
    coordinates,
    erode,
    gaussian,
    mean_in,
    rotation,
    shape_mask,
    smooth_noise,
    spread_in,
    thicken,
    vessels,
)
from qsmprep.training.leftover import far_field, leftover, rim_share
from qsmprep.training.material import gather
from qsmprep.training.sample import (
    FieldParams,
    GeometryParams,
    Sample,
    SampleParams,
    Sources,
    draw_batch,
    draw_field,
    draw_grid,
)
from qsmprep.training.susceptibility import ChiParams, paint, somewhere

SHAPE = (32, 32, 24)


@pytest.fixture(scope="module")
def heads(tmp_path_factory) -> Sources:
    path = write_head(tmp_path_factory.mktemp("heads") / "head.nii.gz")
    return Sources((load_labels(path),))


def params(**changes: object) -> SampleParams:
    return from_mapping(SampleParams, changes)


def clean(**field: object) -> SampleParams:
    """Almost no noise, no mismatch, the mask as drawn; single entries may be changed."""
    nothing = {"noise_ppm": [1e-9, 1.1e-9], "mismatch_chance": 0.0, "background": 0.0, "erosion": 0}
    return params(field={**nothing, **field})


def draw(seed: int, sources: Sources, how: SampleParams | None = None, batch: int = 1) -> Sample:
    return draw_batch(Dice.of(seed), sources, SHAPE, batch, how or SampleParams())


def unexplained(sample: Sample) -> tuple[torch.Tensor, torch.Tensor]:
    """What the field holds beside that of the map, and the latter, inside the mask."""
    explained = Geometry(sample.geometry.grid, 2.0).field(sample.chi)
    held = sample.mask > 0
    return (sample.field - explained)[held], explained[held]


def test_a_seed_decides_everything(heads):
    one, again, other = (draw(seed, heads, batch=2) for seed in (5, 5, 6))
    for name in ("field", "chi", "mask", "noise_ppm"):
        assert torch.equal(getattr(one, name), getattr(again, name))
        assert not torch.equal(getattr(one, name), getattr(other, name))
    assert one.geometry.grid == again.geometry.grid


def test_dice_go_on_where_they_stopped():
    dice = Dice.of(3)
    dice.normal((10,))
    state = dice.state
    after = dice.normal((4,)), dice.number(0, 1), dice.integer(0, 1000)
    other = Dice.of(99)
    other.restore(state)
    assert torch.equal(after[0], other.normal((4,)))
    assert after[1:] == (other.number(0, 1), other.integer(0, 1000))


@pytest.mark.parametrize("with_labels", [True, False])
def test_samples_are_what_they_say(heads, with_labels):
    for seed in range(6):
        sample = draw(seed, heads if with_labels else Sources(), batch=2)
        assert sample.field.shape == (2, 1, *SHAPE)
        assert set(sample.mask.unique().tolist()) <= {0.0, 1.0}
        assert (sample.mask.mean(dim=(1, 2, 3, 4)) > 0.02).all()
        outside = sample.mask == 0
        for volume in (sample.field, sample.chi, sample.noise_ppm):
            assert torch.isfinite(volume).all()
            assert not volume[outside].any()
        assert (sample.noise_ppm[~outside] > 0).all()
        assert sample.chi.abs().max() < 4
        assert sample.chi[~outside].std() > 1e-3


def test_grids_stay_in_their_ranges():
    limits = GeometryParams(in_plane_mm=(0.5, 1.1), slice_mm=(0.8, 3.0), tilt_deg=40.0)
    grids = [draw_grid(Dice.of(seed), SHAPE, limits) for seed in range(200)]
    edges = np.sort([grid.voxel_mm for grid in grids], axis=1)
    tilts = np.degrees([math.acos(grid.b0_dir[2]) for grid in grids])
    assert edges[:, 0].min() >= 0.5 * 0.9
    assert edges[:, 2].max() <= 3.0 * 1.1
    assert edges[:, 0].max() > 1.0
    assert edges[:, 2].max() > 2.5
    assert tilts.max() <= 40.0 + 1e-3
    assert tilts.max() > 30.0
    assert np.mean(tilts < 0.01) == pytest.approx(0.2, abs=0.1)
    cubic = np.mean(edges[:, 2] < 1.16 * edges[:, 0])
    assert cubic == pytest.approx(limits.isotropic, abs=0.2)


def test_one_voxel_size_can_be_fixed():
    limits = GeometryParams(fixed_mm=(0.7639, 0.7639, 3.0))
    assert {draw_grid(Dice.of(seed), SHAPE, limits).voxel_mm for seed in range(9)} == {(0.7639, 0.7639, 3.0)}


@pytest.mark.parametrize("seed", range(3))
def test_the_field_is_that_of_the_map(heads, seed):
    rest, explained = unexplained(draw(seed, heads, clean()))
    assert rest.norm() < 1e-4 * explained.norm()


@pytest.mark.parametrize("seed", range(3))
def test_the_noise_has_the_size_that_is_told(heads, seed):
    sample = draw(seed, heads, clean(noise_ppm=[0.002, 0.0021]))
    rest, _ = unexplained(sample)
    told = sample.noise_ppm[sample.mask > 0]
    assert float((rest / told).std()) == pytest.approx(1.0, abs=0.05)
    assert 0.001 < float(told.median()) < 0.006


@pytest.mark.parametrize("seed", range(3))
def test_the_mismatch_has_the_size_that_is_told(heads, seed):
    rest, explained = unexplained(draw(seed, heads, clean(mismatch_chance=1.0, mismatch=[0.4, 0.4])))
    assert float(rest.std() / explained.std()) == pytest.approx(0.4, abs=0.01)


def test_background_is_part_of_the_mismatch(heads):
    shares = []
    for seed in range(8):
        how = clean(mismatch_chance=1.0, mismatch=[0.4, 0.4], background=1.0)
        rest, explained = unexplained(draw(seed, heads, how))
        shares.append(float(rest.std() / explained.std()))
    assert min(shares) < 0.399  # two parts that do not add up in phase
    assert max(shares) < 0.45


# What background removal leaves


def ball(shape: tuple[int, int, int], voxel_mm: tuple[float, float, float]) -> tuple[torch.Tensor, Geometry]:
    axes = [torch.linspace(-1, 1, n) for n in shape]
    x, y, z = torch.meshgrid(*axes, indexing="ij")
    return x.square() + y.square() + z.square() < 0.8**2, Geometry(Grid(shape, voxel_mm), 2.0)


def second_differences(volume: torch.Tensor, voxel_mm: tuple[float, float, float]) -> torch.Tensor:
    """Along each axis, without the edge of the array, (3, nx - 2, ny - 2, nz - 2)."""
    inner = (slice(1, -1),) * 3
    return torch.stack([
        ((volume.roll(1, axis) + volume.roll(-1, axis) - 2 * volume) / mm**2)[inner] for axis, mm in enumerate(voxel_mm)
    ])  # fmt: skip


@pytest.mark.parametrize("seed", range(3))
def test_leftovers_have_no_mean_and_unit_spread(seed):
    mask, geometry = ball((24, 24, 20), (1.0, 1.0, 1.5))
    one, again, other = (leftover(Dice.of(s), mask, geometry) for s in (seed, seed, seed + 1))
    assert float(one[mask].mean()) == pytest.approx(0.0, abs=1e-5)
    assert float(one[mask].std(unbiased=False)) == pytest.approx(1.0, abs=1e-5)
    assert torch.equal(one, again)
    assert not torch.allclose(one, other)


def test_leftovers_fall_off_from_the_rim_inwards():
    mask, geometry = ball((40, 40, 40), (1.0, 1.0, 1.0))
    inner = [erode(mask, layers) for layers in (0, 2, 5)]
    power = torch.stack([leftover(Dice.of(seed), mask, geometry) for seed in range(8)]).square().mean(dim=0)
    shells = [float(power[a & ~b].mean()) for a, b in pairwise([*inner, torch.zeros_like(mask)])]
    assert all(a > 2 * b > 0 for a, b in pairwise(shells))


def test_leftovers_have_no_sources_in_the_mask():
    """Their Laplacian vanishes, but for ringing from voxel to voxel of the kernel."""
    mask, geometry = ball((40, 40, 40), (1.0, 1.0, 1.0))
    deep = erode(mask, 5)[1:-1, 1:-1, 1:-1]
    for seed in range(3):
        smooth = gaussian(leftover(Dice.of(seed), mask, geometry), (1.0, 1.0, 1.0))
        parts = second_differences(smooth, (1.0, 1.0, 1.0))[:, deep]
        assert parts.sum(dim=0).norm() < 0.05 * parts.norm()


def test_the_far_field_is_harmonic_on_all_of_the_patch():
    shape, edges = (24, 20, 16), (0.5, 0.7, 1.0)
    for seed in range(3):
        parts = second_differences(far_field(Dice.of(seed), shape, edges), edges)
        assert parts.norm() > 0
        assert parts.sum(dim=0).norm() < 0.02 * parts.norm()


def test_the_rim_is_three_layers_and_not_the_edge_of_the_array():
    mask = torch.zeros(16, 12, 12, dtype=torch.bool)
    mask[4:] = True
    told = torch.tensor([0, 0, 0, 0, 1, 0.5, 0.25, *9 * [0]])
    assert torch.equal(rim_share(mask), told.view(-1, 1, 1).expand(mask.shape))
    assert not rim_share(torch.ones_like(mask)).any()
    assert not rim_share(torch.zeros_like(mask)).any()
    corner = torch.zeros(12, 12, 12, dtype=torch.bool)
    corner[2:, 2:, 2:] = True
    assert rim_share(corner).diagonal().diagonal().tolist() == [0, 0, 1, 0.5, 0.25, *7 * [0]]


@pytest.mark.parametrize("seed", range(3))
def test_leftovers_have_the_size_that_is_told(heads, seed):
    rest, explained = unexplained(draw(seed, heads, clean(leftover_chance=1.0, leftover=[0.4, 0.4])))
    assert float(rest.std() / explained.std()) == pytest.approx(0.4, abs=0.01)


def test_leftovers_are_drawn_as_often_as_told(heads):
    def found(chance: float) -> list[bool]:
        how = clean(leftover_chance=chance, leftover=[0.4, 0.4])
        rests, explained = zip(*(unexplained(draw(seed, heads, how)) for seed in range(12)), strict=True)
        return [bool(a.norm() > 1e-3 * b.norm()) for a, b in zip(rests, explained, strict=True)]

    assert not any(found(0.0))
    assert 2 < sum(found(0.5)) < 10


def test_without_leftovers_their_size_changes_nothing(heads):
    one, other = (draw(3, heads, params(field={"leftover": size})) for size in ([0.1, 0.2], [3.0, 9.0]))
    for name in ("field", "chi", "noise_ppm"):
        assert torch.equal(getattr(one, name), getattr(other, name))


def test_noise_grows_towards_the_rim_and_only_there(heads):
    largest = []
    for seed in range(6):
        even, raised = (draw(seed, heads, clean(noise_ppm=[0.002, 0.0021], rim_noise=most)) for most in (0.0, 3.0))
        assert torch.equal(even.mask, raised.mask)
        share = rim_share(even.mask[0, 0] > 0)
        growth = (raised.noise_ppm / even.noise_ppm.clamp_min(1e-9))[0, 0] - 1
        largest.append(float(growth[share == 1].mean()))
        held = even.mask[0, 0] > 0
        assert torch.allclose(growth[held], largest[-1] * share[held], atol=1e-4)
        rest, _ = unexplained(raised)
        rim = share[held] == 1
        assert float((rest / raised.noise_ppm[0, 0][held])[rim].std()) == pytest.approx(1.0, abs=0.1)
    assert 0 <= min(largest) < 1.5 < max(largest) <= 3


def test_signs_are_drawn(heads):
    dice = Dice.of(0)
    anatomy = torch.full((12, 12, 12), 11)
    head = Anatomy(anatomy, torch.ones(12, 12, 12, dtype=torch.bool))
    how = ChiParams(spread_ppm=0.0, texture_ppm=0.0, lesion_chance=0.0)
    means = torch.stack([paint(dice, head, (1, 1, 1), how).mean() for _ in range(40)])
    assert 8 < int((means < 0).sum()) < 32
    always = ChiParams(spread_ppm=0.0, texture_ppm=0.0, lesion_chance=0.0, sign_chance=0.0)
    assert torch.stack([paint(dice, head, (1, 1, 1), always).mean() for _ in range(10)]).min() > 0


def test_lesions_are_strong():
    strong = [draw(s, Sources(), params(chi={"lesion_chance": 1.0})).chi.abs().max() for s in range(6)]
    weak = [draw(s, Sources(), params(chi={"lesion_chance": 0.0})).chi.abs().max() for s in range(6)]
    assert np.median(strong) > 2 * np.median(weak)


# Drawing


def test_smooth_noise_has_unit_spread_and_is_smooth():
    fine, coarse = (smooth_noise(Dice.of(0), (32, 32, 32), (s, s, s))[0] for s in (1.0, 8.0))
    for field in (fine, coarse):
        assert float(field.std()) == pytest.approx(1.0, abs=1e-3)
    assert coarse.diff(dim=0).std() < 0.4 * fine.diff(dim=0).std()


def test_blur_keeps_the_sum_and_spreads_as_told():
    volume = torch.zeros(41, 41, 41)
    volume[20, 20, 20] = 1.0
    blurred = gaussian(volume, (2.0, 1.0, 0.0))
    assert float(blurred.sum()) == pytest.approx(1.0, abs=1e-4)
    position = torch.arange(41.0) - 20
    spread = [float((blurred.sum(dim=others) * position.square()).sum().sqrt()) for others in ((1, 2), (0, 2), (0, 1))]
    assert spread == pytest.approx([2.0, 1.0, 0.0], rel=0.05)


def test_erosion_takes_layers_and_the_rim_of_the_array():
    mask = torch.ones(9, 9, 9, dtype=torch.bool)
    assert int(erode(mask, 2).sum()) == 5**3
    assert torch.equal(erode(mask, 0), mask)


def test_statistics_in_a_mask():
    volume = Dice.of(3).normal((12, 10, 8)) + 5
    mask = volume > 4.6
    assert float(mean_in(volume, mask)) == pytest.approx(float(volume[mask].mean()), rel=1e-5)
    assert float(spread_in(volume, mask)) == pytest.approx(float(volume[mask].std(unbiased=False)), rel=1e-4)


def test_single_numbers_come_from_the_cpu():
    turn = rotation(Dice.of(5))
    assert turn.device.type == "cpu"
    torch.testing.assert_close(turn @ turn.T, torch.eye(3), atol=1e-5, rtol=0)
    assert float(torch.linalg.det(turn)) == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize("seed", range(4))
def test_shapes_lie_where_they_are_put_and_have_their_size(seed):
    where = coordinates((40, 40, 40), (1.0, 1.0, 1.0), torch.device("cpu"))
    centre = torch.tensor([4.5, -3.5, 0.5])
    mask = shape_mask(Dice.of(seed), where, centre, (4.0, 9.0))
    inside = where[:, mask]
    assert 50 < inside.shape[1] < 40**3 / 8
    assert float((inside.mean(dim=1) - centre).norm()) < 0.5
    assert float((inside - centre.view(3, 1)).norm(dim=0).max()) < 9.0 * math.sqrt(3)


def test_a_random_voxel_is_one_of_the_mask():
    where = coordinates((20, 20, 20), (1.0, 2.0, 1.0), torch.device("cpu"))
    mask = where[0] > 3
    places = torch.stack([somewhere(Dice.of(seed), where, mask) for seed in range(40)])
    assert bool((places[:, 0] > 3).all())
    assert len(places.unique(dim=0)) > 30
    assert somewhere(Dice.of(0), where, torch.zeros_like(mask)).shape == (3,)


def test_vessels_are_thin():
    tubes = vessels(Dice.of(1), (48, 48, 48), (1.0, 1.0, 1.0), 10)
    assert 0 <= float(tubes.min()) <= float(tubes.max()) <= 1
    assert 0.0005 < float((tubes > 0.5).float().mean()) < 0.2


# Label maps and susceptibility maps


def test_label_maps_are_turned_to_ras_and_cut_to_the_brain(heads):
    labels = heads.labels[0]
    codes = head_codes()
    assert labels.name == "head"
    assert labels.voxel_mm == (3.0, 3.0, 3.0)
    assert max(labels.classes.shape) < 40
    names = {CLASSES[index][0][:1] for index in labels.classes.unique().tolist()}
    assert names == {(), (24,), (2,), (3,), (4,), (12,)}
    nucleus = next(i for i, (members, _) in enumerate(CLASSES) if 12 in members)
    where = (labels.classes == nucleus).nonzero().float().mean(dim=0)
    assert int((labels.classes == nucleus).sum()) == int((codes == 12).sum())
    assert where[0] < labels.classes.shape[0] / 2 - 3  # it was stored with the first axis to the left
    assert where[1] == pytest.approx((labels.classes.shape[1] - 1) / 2, abs=0.6)


def test_parcels_are_cortex_and_white_matter(tmp_path):
    codes = head_codes()
    parcels = codes.copy()
    parcels[codes == 3] = 1025
    parcels[(codes == 3) & (np.arange(40) < 20)] = 12110
    parcels[codes == 2] = 4020
    odd = parcels.astype(np.float32)
    odd[0, 0] = np.nan
    odd[1, 1] = 1e9
    plain, fine, broken = (
        load_labels(write_head(tmp_path / f"{name}.nii.gz", one))
        for name, one in (("plain", codes), ("fine", parcels), ("broken", odd))
    )
    assert torch.equal(plain.classes, fine.classes)
    assert torch.equal(plain.classes, broken.classes)


def test_patches_of_heads_hold_the_tissue_of_heads(heads):
    classes = torch.zeros(len(CLASSES))
    for seed in range(4):
        anatomy = head_patch(Dice.of(seed), heads.labels[0], (40, 40, 40), (2.5, 2.5, 2.5))
        classes += torch.bincount(anatomy.classes.flatten(), minlength=len(CLASSES))
        assert (anatomy.classes[anatomy.brain] > 0).float().mean() > 0.85
    white, cortex = 2, 3
    assert classes[white] > 1000
    assert classes[cortex] > 1000
    assert set(classes.nonzero().flatten().tolist()) <= set(heads.labels[0].classes.unique().tolist())


@pytest.mark.parametrize("kind", ["no brain", "cut short", "no image"])
def test_bad_label_maps_are_refused_by_name(tmp_path, kind):
    path = tmp_path / "head.nii.gz"
    if kind == "no brain":
        write_head(path, np.full((30, 30, 30), 99, dtype=np.int16))
    else:
        write_head(path)
        path.write_bytes(path.read_bytes()[:300] if kind == "cut short" else b"not an image")
    with pytest.raises(DataError) as caught:
        load_labels(path)
    assert caught.value.file == str(path)


def test_a_susceptibility_map_of_the_user_is_cut_from(tmp_path):
    sources = Sources(chi=(load_chi(write_chi(tmp_path / "chi.nii.gz")),))
    for seed in range(4):
        sample = draw(seed, sources, clean())
        values = sample.chi[sample.mask > 0].abs()
        assert sample.mask.sum() > 100
        # 0.1 and 0.2 ppm times one gain; between them where the patch was bent
        assert 0.04 < values.min() <= values.max() < 0.41
        assert values.max() / values.min() < 2.01
        rest, explained = unexplained(sample)
        assert rest.norm() < 1e-4 * explained.norm()


@pytest.mark.parametrize("kind", ["ppb", "four axes", "nan", "cut short"])
def test_bad_susceptibility_maps_are_refused_by_name(tmp_path, kind):
    path = write_chi(tmp_path / "chi.nii", scale=1000 if kind == "ppb" else 1)
    values = nib.load(path, mmap=False).get_fdata(dtype=np.float32).copy()
    if kind == "four axes":
        nib.save(nib.Nifti1Image(np.stack([values, values], axis=3), np.eye(4)), path)
    if kind == "nan":
        values[values == 0] = np.nan
        nib.save(nib.Nifti1Image(values, np.eye(4)), path)
    if kind == "cut short":
        path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(DataError) as caught:
        load_chi(path)
    assert caught.value.file == str(path)


def test_held_out_maps_are_never_trained_on(tmp_path):
    folder = write_heads(tmp_path / "heads", ("head_1", "head_2", "head_3"))
    found = gather(folder, [write_chi(tmp_path / "mine.nii.gz")], ("head_2", "absent"))
    assert found.labels == ("head_1", "head_3")
    assert found.held_labels == ("head_2",)
    assert found.chi == ("mine",)
    assert [labels.name for labels in found.sources.labels] == ["head_1", "head_3"]
    assert [labels.name for labels in found.held.labels] == ["head_2"]
    assert not found.held.chi
    assert "2 label maps and 1 susceptibility maps" in found.sentence


def test_material_that_is_not_there(tmp_path):
    assert gather(None, [], ("x",)).sentence.startswith("trained on random shapes only")
    with pytest.raises(MissingFileError, match="no such folder of label maps"):
        gather(tmp_path / "absent", [], ())
    with pytest.raises(MissingFileError, match="holds no image"):
        gather(tmp_path, [], ())
    with pytest.raises(MissingFileError, match="no such susceptibility map"):
        gather(None, [tmp_path / "absent.nii"], ())
    with pytest.raises(DataError, match="held out"):
        gather(write_heads(tmp_path / "heads"), [], ("head_1", "head_2"))


@pytest.mark.parametrize("chance", [0.0, 1.0])
def test_magnitudes_are_drawn_as_often_as_told(heads, chance):
    params = SampleParams(shapes=0.0, magnitude=chance)
    sample = draw(3, heads, params)
    values = sample.magnitude[sample.mask > 0]
    assert (float(values.std()) > 0.01) == (chance > 0)
    assert not sample.magnitude[sample.mask == 0].any()
    if chance == 0:
        assert bool((values == 1).all())


def test_noise_is_larger_where_the_magnitude_is_dark(heads):
    dice = Dice.of(3)
    grid = Grid((24, 24, 24), (1.5, 1.5, 1.5))
    wide = Geometry(grid, 2.0)
    anatomy = head_patch(dice, heads.labels[0], grid.shape, grid.voxel_mm)
    everywhere = torch.ones(grid.shape, dtype=torch.bool)
    image = torch.ones(grid.shape)
    image[:12] = 0.5
    image[0] = 0.0
    chi = torch.zeros(grid.shape)
    ratios = []
    for _ in range(20):
        _, noise = draw_field(dice, chi, anatomy, everywhere, image, wide, FieldParams())
        assert float(noise.max()) < 4.01 * 5 * 0.006
        ratios.append(float(noise[1:12].mean() / noise[12:].mean()))
    assert 1.6 < np.exp(np.mean(np.log(ratios))) < 2.5


def test_a_patch_that_no_anatomy_fills_becomes_a_random_one(heads):
    params = SampleParams(shapes=0.0, geometry=GeometryParams(in_plane_mm=(40.0, 40.0), slice_mm=(40.0, 40.0)))
    for seed in range(3):
        sample = draw_batch(Dice.of(seed), heads, (16, 16, 16), 1, params)
        assert sample.mask.mean() > 0.1
        assert sample.chi.std() > 0


def test_thickening_is_pooling():
    volume = torch.rand((9, 7, 8), generator=torch.Generator().manual_seed(0))
    pooled = torch.nn.functional.max_pool3d(volume[None, None], 3, stride=1, padding=1)[0, 0]
    assert torch.equal(thicken(volume), pooled)
