"""Whole heads for masks and segmentations: labels, poses, images, windows, and learning from them."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from training_cases import tiny, write_head

from qsmprep.errors import DataError, MissingFileError
from qsmprep.networks.pedqnet import CLASSES
from qsmprep.networks.segmentation import normalised, standardised
from qsmprep.training import t1w_task
from qsmprep.training.config import read_params
from qsmprep.training.draw import Dice
from qsmprep.training.export import ranges
from qsmprep.training.heads import (
    FIRST_NUCLEUS,
    TISSUES,
    PoseParams,
    class_of_tissue,
    load_head,
    mirrored_tissue,
    pose,
)
from qsmprep.training.loop import advance, begin, train
from qsmprep.training.magnitudes import ImageParams, draw_head, scanned
from qsmprep.training.mask_task import overlap, overlap_loss
from qsmprep.training.nuclei import NucleiParams, Window, draw_window, labels_of
from qsmprep.training.nuclei_task import mean_dice
from qsmprep.training.recipes import recipe_folder
from qsmprep.training.sample import SampleParams, Sources

STILL = PoseParams(scale=(1.0, 1.0), stretch=0.0, turn_deg=0.0, bend_mm=(0.0, 0.0), shift_mm=0.0)
UNET = {"window": 32, "feature": 8, "hidden": 24, "mlp": 48, "heads": 2, "layers": 3}


def codes(n: int = 64) -> np.ndarray:
    """A head in a skull, left nuclei larger than right ones; the first axis points to the right."""
    x, y, z = np.meshgrid(*3 * [np.linspace(-1, 1, n)], indexing="ij")
    radius = np.sqrt(x**2 + y**2 + z**2)
    head = np.zeros((n, n, n), dtype=np.int16)
    for limit, code in ((0.95, 511), (0.85, 515), (0.75, 24), (0.7, 3), (0.6, 2)):
        head[radius < limit] = code
    for place, left in ((0.35, 11), (0.05, 12), (-0.25, 13), (-0.5, 10)):
        for side, code, size in ((-1, left, 0.16), (1, left + 39, 0.12)):
            head[(x - 0.25 * side) ** 2 + (y - place) ** 2 + z**2 < size**2] = code
    return head


@pytest.fixture(scope="module")
def head(tmp_path_factory):
    path = tmp_path_factory.mktemp("heads") / "one.nii.gz"
    return load_head(write_head(path, codes()[::-1], voxel_mm=2.0))  # stored from right to left


def test_a_head_knows_left_from_right(head):
    side = [int((head.tissues == FIRST_NUCLEUS + index).sum()) for index in range(8)]
    assert all(left > right > 0 for left, right in zip(side[::2], side[1::2], strict=True))
    left = (head.tissues == FIRST_NUCLEUS).nonzero()[:, 0].float().mean()
    assert left < head.tissues.shape[0] / 2  # the first axis points to the right
    assert mirrored_tissue()[FIRST_NUCLEUS] == FIRST_NUCLEUS + 1
    assert [mirrored_tissue()[i] for i in mirrored_tissue()] == list(range(len(mirrored_tissue())))
    classes = class_of_tissue()
    assert classes[FIRST_NUCLEUS] == classes[FIRST_NUCLEUS + 1] != 0
    assert not any(classes[len(TISSUES) :])


def test_the_brain_is_closed_and_without_the_skull(head):
    assert not head.brain[head.tissues >= len(TISSUES)].any()
    assert head.brain[(head.tissues > 1) & (head.tissues < len(TISSUES))].all()


def test_what_is_no_head_is_refused(tmp_path):
    with pytest.raises(DataError, match="lacks the brain or one of the deep grey nuclei"):
        load_head(write_head(tmp_path / "a.nii.gz"))
    (tmp_path / "b.nii.gz").write_bytes(b"nothing")
    with pytest.raises(DataError, match="cannot be read"):
        load_head(tmp_path / "b.nii.gz")


def test_a_still_pose_is_the_map_itself_or_its_mirror_image(head):
    shape, seen = (64, 64, 64), set()
    for seed in range(8):
        tissues, brain = pose(Dice.of(seed), head, (64.0, 64.0, 64.0), shape, (2.0, 2.0, 2.0), STILL)
        labels = labels_of(tissues)
        left = (labels == 1).nonzero()[:, 0].float().mean()
        right = (labels == 2).nonzero()[:, 0].float().mean()
        assert left < right  # left stays left, mirrored or not
        larger_left = bool((labels == 1).sum() > (labels == 2).sum())
        assert torch.equal(brain, head.brain if larger_left else head.brain.flip(0))
        seen.add(larger_left)
    assert seen == {True, False}


def test_size_and_place_are_in_millimetres(head):
    small = dataclasses.replace(STILL, scale=(0.7, 0.7))
    _, brain = pose(Dice.of(1), head, head.centre_mm, (64, 64, 64), (2.0, 2.0, 2.0), small)
    assert float(brain.sum()) == pytest.approx(0.7**3 * float(head.brain.sum()), rel=0.05)
    fine, _ = pose(Dice.of(1), head, head.centre_mm, (64, 64, 64), (1.0, 1.0, 1.0), STILL)
    assert float((fine > 0).float().mean()) == pytest.approx(1.0)


def test_images_have_any_contrast_and_keep_their_truth(head):
    ratios = []
    for seed in range(6):
        dice = Dice.of(seed)
        image, share = draw_head(dice, head, 32, 4.0, ImageParams(pose=STILL, stripped_chance=0.0))
        assert 0 <= float(share.min()) < float(share.max()) == 1
        assert float(share.sum()) * 8 == pytest.approx(float(head.brain.sum()), rel=0.02)
        outside = image[(share == 0) & (image > 0.1)]
        ratios.append(float(image[share == 1].mean() / outside.mean()))
        seen, kept = scanned(dice, image, share, 4.0, ImageParams(cut_chance=1.0))
        assert seen.shape == image.shape
        assert bool((kept <= share).all())
        assert float(kept.sum()) < float(share.sum())
        assert float(seen[kept < share].max()) == 0.0  # nothing is asked for where nothing is seen
    assert max(ratios) > 1.2 * min(ratios)


def test_scans_of_large_voxels_lose_what_is_finer():
    """A grating of 4 mm is gone on voxels of 4 mm and stays on those of 1 mm; slow shades stay on both."""
    plain = {"cut_chance": 0.0, "hole_chance": 0.0, "ghost_chance": 0.0, "shade": 0.0, "noise": (1e-4, 2e-4)}
    x = torch.arange(48.0).view(-1, 1, 1).expand(48, 48, 48)
    fine, slow = 0.2 * torch.sin(2 * torch.pi * x / 4), 0.2 * torch.sin(2 * torch.pi * x / 48)
    left = {}
    for name, chance in (("coarse", 1.0), ("fine", 0.0)):
        params = ImageParams(coarse_chance=chance, coarse_mm=(4.0, 4.01), slice_mm=(0.1, 0.2), **plain)
        seen = scanned(Dice.of(3), 1 + fine + slow, torch.ones(48, 48, 48), 1.0, params)[0]
        assert seen.shape == fine.shape
        parts = [float((seen * part).mean() / part.square().mean()) for part in (fine, slow)]
        left[name] = parts
    assert abs(left["coarse"][0]) < 0.05 < 0.4 < left["fine"][0]
    assert min(left["coarse"][1], left["fine"][1]) > 0.6


def test_large_voxels_widen_the_range_of_the_card():
    params = read_params(recipe_folder() / "subcortical_t1w_coarse_cpu.yaml", "subcortical_t1w")
    assert ranges(params)["in_plane_mm"] == (0.2, 2.6)
    alone = dataclasses.replace(params, image=dataclasses.replace(params.image, coarse_chance=0.0))
    assert ranges(alone)["in_plane_mm"] == (0.2, 1.0)


def test_windows_hold_field_map_and_labels(head):
    sample = SampleParams()
    window = draw_window(Dice.of(3), (head,), 48, 2.0, NucleiParams(pose=STILL), sample)
    assert window.field.shape == window.labels.shape == (1, 1, 48, 48, 48)
    assert set(window.labels.unique().tolist()) == set(range(CLASSES))
    assert not window.chi[window.mask == 0].any()
    field = window.geometry.field(window.chi) * window.mask
    correlation = torch.corrcoef(torch.stack([field[window.mask > 0], window.field[window.mask > 0]]))[0, 1]
    assert correlation > 0.6  # noise and mismatch are the rest
    again = Window.of(window.state())
    assert torch.equal(again.field, window.field)
    assert again.geometry.grid.shape == window.geometry.grid.shape


def test_a_mirrored_window_keeps_left_left_and_its_physics(head):
    window = draw_window(Dice.of(3), (head,), 32, 3.0, NucleiParams(pose=STILL), SampleParams())
    others = [window.mirrored(Dice.of(seed)) for seed in range(8)]
    turned = next(other for other in others if other is not window)
    assert any(other is window for other in others)
    for one in (window, turned):
        assert (one.labels[0, 0] == 1).nonzero()[:, 0].float().mean() < (one.labels[0, 0] == 2).nonzero()[
            :, 0
        ].float().mean()
    torch.testing.assert_close(turned.geometry.field(turned.chi), window.geometry.field(window.chi).flip(-3))


def test_images_of_a_posed_head_keep_left_left_and_are_t1_weighted(head):
    """Fluid is darker than white matter, and cortex too; labels are those of the tissues, whatever the contrast."""
    posed = t1w_task.draw(Dice.of(5), (head,), 32, 3.0, NucleiParams(pose=STILL))
    others = [posed.mirrored(Dice.of(seed)) for seed in range(8)]
    turned = next(other for other in others if other is not posed)
    for one in (posed, turned, t1w_task.Posed.of(posed.state())):
        labels = labels_of(one.tissues)
        places = [(labels == side).nonzero()[:, 0].float().mean() for side in (1, 2)]
        assert places[0] < places[1]
    assert torch.equal(turned.brain, posed.brain.flip(0))
    for seed in range(20):
        level, grain = t1w_task.t1_weighted(Dice.of(seed))
        assert level[1] < level[2] and level[4] < level[2] and level[3] < level[2]
        assert (level[[15, 16]] > level[[11, 12]] - 0.1).all(), (
            "the pallidum is nearer to white matter than the caudate"
        )
        assert torch.equal(level >= 0, torch.ones_like(level, dtype=torch.bool))
        assert grain.shape == level.shape
    image, labels = t1w_task.shown(Dice.of(7), posed, 3.0, ImageParams(cut_chance=0.0))
    assert torch.equal(labels, labels_of(posed.tissues))
    assert torch.isfinite(image).all() and image.min() >= 0 and 0.9 < float(image[posed.brain].max()) < 2.5


def test_overlaps():
    share = torch.zeros(1, 1, 8, 8, 8)
    share[..., :4] = 1
    sure = 20 * (2 * share - 1)
    assert overlap(sure, share) == pytest.approx(1, abs=1e-3)
    assert float(overlap_loss(sure, share)) == pytest.approx(0, abs=1e-4)
    assert overlap(-sure, share) == pytest.approx(0, abs=5e-3)
    labels = torch.zeros(1, 1, 6, 6, 6, dtype=torch.long)
    labels[..., :2], labels[..., 4:] = 1, 2
    logits = torch.nn.functional.one_hot(labels[:, 0], 3).permute(0, 4, 1, 2, 3).float()
    assert mean_dice(logits, labels) == 1
    half = logits.clone()
    half[:, 2] = 0  # the second label is never found
    assert mean_dice(half, labels) == 0.5


def test_scales_do_not_matter_to_what_segmenters_see():
    torch.manual_seed(0)
    chi, mask = torch.randn(1, 1, 9, 9, 9), torch.ones(1, 1, 9, 9, 9)
    torch.testing.assert_close(standardised(5 * chi - 3, mask), standardised(chi, mask), atol=1e-4, rtol=1e-4)
    assert not standardised(chi, 0 * mask).any()
    image = torch.rand(9, 9, 9)
    torch.testing.assert_close(normalised(7 * image), normalised(image))
    assert not normalised(0 * image).any()


@pytest.mark.parametrize(
    ("network", "model"),
    [
        ("brainmask", {**UNET, "voxel_mm": 4.0}),
        ("subcortical", {**UNET, "voxel_mm": 3.0}),
        ("subcortical_t1w", {**UNET, "voxel_mm": 3.0}),
        ("nnunet", {"filters": [8, 16, 24]}),
        ("pedqnet", {"filters": [8, 16, 24], "segmentation": {**UNET, "voxel_mm": 3.0}}),
    ],
)
def test_training_lowers_the_loss_and_resumes(tmp_path, head, network, model):
    changes = {"network": network, "model": model, "patches": [[16, 16, 16]], "hold_out": [], "learning_rate": 2e-3}
    params = tiny(**changes, steps=12, reuse=3, warmup=1, validate_every=6)
    sources = Sources(heads=(head,))
    whole = train(params, sources, sources, tmp_path / "whole")
    asked = iter(range(100))
    assert train(params, sources, sources, tmp_path / "parts", stop=lambda: next(asked) >= 7).step == 7
    parts = train(params, sources, sources, tmp_path / "parts")
    assert whole.step == parts.step == 12
    for one, other in zip(whole.average.parameters(), parts.average.parameters(), strict=True):
        assert torch.equal(one, other)
    log = [line.split(",") for line in (tmp_path / "whole" / "log.csv").read_text().splitlines()[1:]]
    losses = [float(row[3]) for row in log]
    assert all(np.isfinite(losses))
    if network in ("brainmask", "subcortical", "subcortical_t1w"):
        assert np.mean(losses[-3:]) < np.mean(losses[:3])
        assert float(log[-1][5]) > 0


def test_the_maps_are_no_part_of_the_physics_loss(head):
    """Other true maps behind the same fields change nothing that is learned."""
    params = tiny(network="nnunet", model={"filters": [8, 16, 24]}, patches=[[16, 16, 16]], hold_out=[], reuse=3)
    outcomes = []
    for factor in (1.0, -5.0):
        state = begin(params, "cpu")
        advance(params, state, Sources(heads=(head,)), low=False)
        kept = state.supply.recent[0]
        state.supply.recent = [
            dataclasses.replace(kept, sample=dataclasses.replace(kept.sample, chi=factor * kept.sample.chi))
        ]
        advance(params, state, Sources(heads=(head,)), low=False)
        outcomes.append([p.detach().clone() for p in state.network.parameters()])
    for one, other in zip(*outcomes, strict=True):
        torch.testing.assert_close(one, other, atol=0, rtol=0)


def test_the_segmentation_teaches_the_reconstruction(head):
    """The gradient of the joint loss goes through both networks; without its weight only the physics is left."""
    model = {"filters": [8, 16, 24], "segmentation": {**UNET, "voxel_mm": 3.0}}
    sums = []
    for joint in (0.0, 10.0):
        params = tiny(network="pedqnet", model=model, patches=[[16, 16, 16]], hold_out=[], joint=joint, steps=4)
        state = begin(params, "cpu")
        for _ in range(2):
            advance(params, state, Sources(heads=(head,)), low=False)
        sums.append([float(p.grad.abs().sum()) for p in state.network.unet.parameters() if p.grad is not None])
        moved = [p.grad for p in state.network.segmentation.parameters() if p.grad is not None]
        assert any(bool(g.abs().sum() > 0) for g in moved) == (joint > 0)
    assert sums[0] != pytest.approx(sums[1])


def test_heads_are_needed(tmp_path):
    params = tiny(network="brainmask", model={**UNET, "voxel_mm": 4.0}, hold_out=[])
    with pytest.raises(MissingFileError, match="whole heads"):
        train(params, Sources(), Sources(), tmp_path)
