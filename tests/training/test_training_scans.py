"""Heads that were scanned and went through the pipeline, as material of a training."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from test_training_heads import codes
from training_cases import tiny, write_head

from qsmprep.core.grid import Grid
from qsmprep.errors import DataError
from qsmprep.networks.geometry import Geometry
from qsmprep.training import material, scan_store, scans
from qsmprep.training.anatomy import load_labels
from qsmprep.training.draw import Dice
from qsmprep.training.heads import load_head
from qsmprep.training.inversion_task import fixed_batches, losses, scan_batch, validate
from qsmprep.training.loop import begin
from qsmprep.training.scan_store import ensure_scans, read_scan, scan_file, write_scan
from qsmprep.training.scans import ScanParams, cut, draw_scan
from qsmprep.training.susceptibility import ChiParams

COARSE = ScanParams(count=2, chance=1.0, voxel_mm=(4.5, 4.6), slice_ratio=1.3)


@pytest.fixture(scope="module")
def head(tmp_path_factory):
    folder = tmp_path_factory.mktemp("heads")
    return load_head(write_head(folder / "one.nii.gz", codes(), voxel_mm=2.8))


@pytest.fixture(scope="module")
def drawn(head):
    return draw_scan(Dice.of(3), head, COARSE, ChiParams())


def test_a_scan_is_a_map_and_the_error_of_its_field(drawn):
    mask = drawn.mask > 0
    chi, error = drawn.chi.astype(np.float32), drawn.error.astype(np.float32)
    assert mask.any(axis=(1, 2)).all() and mask.any(axis=(0, 1)).all()  # cut to the mask
    assert not chi[~mask].any() and not error[~mask].any() and not drawn.weights[~mask].any()
    assert abs(chi[mask].mean()) < 1e-3
    assert drawn.weights.min() >= 0 and drawn.weights.max() == 1
    field = Geometry(Grid(chi.shape, drawn.voxel_mm, drawn.b0_dir), 2.0).field(torch.from_numpy(chi)).numpy()
    weight = drawn.weights[mask].astype(np.float64)
    size = [np.sqrt(np.average(v[mask] ** 2, weights=weight)) for v in (error, field)]
    assert 0.02 * size[1] < size[0] < 3 * size[1]  # the pipeline found the field, and not without error


def test_air_makes_the_field_that_is_removed(head, monkeypatch):
    """Without background removal the error is far larger: the scan has air around and in it."""
    one = draw_scan(Dice.of(5), head, dataclasses.replace(COARSE, tfi=1.0), ChiParams())
    real = scans.configured

    def nothing(step, name=""):
        if step != "background":
            return real(step, name)
        from qsmprep.core.results import LocalField

        return (lambda total, mask, grid, options, weights=None: LocalField(total, mask)), None

    monkeypatch.setattr(scans, "configured", nothing)
    other = draw_scan(Dice.of(5), head, dataclasses.replace(COARSE, tfi=1.0), ChiParams())
    assert np.median(np.abs(other.error[other.mask > 0])) > 3 * np.median(np.abs(one.error[one.mask > 0]))


def test_scans_are_kept_and_made_again_alike(head, tmp_path, drawn):
    told = []
    found = ensure_scans(tmp_path, [head], COARSE, ChiParams(), 1, report=lambda *n: told.append(n))
    assert told == [(1, 2), (2, 2)]
    before = scan_file(tmp_path, 0).stat().st_mtime_ns
    scan_file(tmp_path, 1).unlink()
    again = ensure_scans(tmp_path, [head], COARSE, ChiParams(), 1)
    assert scan_file(tmp_path, 0).stat().st_mtime_ns == before
    assert all(np.array_equal(a.error, b.error) for a, b in zip(found, again, strict=True))
    assert found[0].voxel_mm != found[1].voxel_mm
    assert not list(tmp_path.glob(".*"))
    scan_file(tmp_path, 1).unlink()
    assert len(ensure_scans(tmp_path, [head], COARSE, ChiParams(), 1, stop=lambda: True)) == 1


def test_a_scan_of_another_recipe_seed_or_head_is_refused(head, tmp_path):
    one = dataclasses.replace(COARSE, count=1)
    (found,) = ensure_scans(tmp_path, [head], one, ChiParams(), 1)
    assert (
        ensure_scans(tmp_path, [head], dataclasses.replace(one, chance=0.1), ChiParams(), 1)[0].origin == found.origin
    )
    for other in (
        ([head], one, ChiParams(), 2),
        ([head], dataclasses.replace(one, tfi=0.1), ChiParams(), 1),
        ([head], one, ChiParams(texture_ppm=0.01), 1),
        ([dataclasses.replace(head, name="another")], one, ChiParams(), 1),
    ):
        with pytest.raises(DataError, match="another label map, seed or recipe") as caught:
            ensure_scans(tmp_path, *other)
        assert caught.value.remedy


def test_any_seed_will_do(head, tmp_path, drawn, monkeypatch):
    monkeypatch.setattr(scan_store, "draw_scan", lambda dice, *given: (dice.number(0, 1), drawn)[1])
    assert ensure_scans(tmp_path, [head], dataclasses.replace(COARSE, count=1), ChiParams(), 2**62)


def test_a_damaged_scan_is_named(tmp_path, drawn):
    scan_file(tmp_path, 0).write_bytes(b"PK\x03\x04 nothing")
    with pytest.raises(DataError, match="cannot be read") as caught:
        read_scan(scan_file(tmp_path, 0))
    assert "scan_0000.npz" in str(caught.value)
    write_scan(scan_file(tmp_path, 1), drawn)
    whole = scan_file(tmp_path, 1).read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(60):  # the compressed volumes
        broken = bytearray(whole)
        for place in rng.integers(100, len(whole) // 2, 40):
            broken[place] ^= 0x55
        scan_file(tmp_path, 1).write_bytes(broken)
        with pytest.raises(DataError, match="cannot be read"):
            read_scan(scan_file(tmp_path, 1))


def test_a_patch_has_the_field_of_its_own_part_only(drawn):
    quiet = dataclasses.replace(drawn, error=np.zeros_like(drawn.error))
    field, chi, mask, weights, image = cut(Dice.of(1), quiet, (16, 16, 16), 0.5)
    grid = Grid((16, 16, 16), drawn.voxel_mm, drawn.b0_dir)
    torch.testing.assert_close(field, Geometry(grid, 2.0).field(chi) * mask)
    assert mask.mean() > 0.5 and chi.std() > 0 and weights.max() <= 1 and image.max() > 0


def test_a_patch_larger_than_the_scan(drawn):
    shape = tuple(n + 8 for n in drawn.chi.shape)
    _, chi, mask, *_ = cut(Dice.of(1), drawn, shape, 0.9)
    assert mask.sum() == np.count_nonzero(drawn.mask)
    assert not mask[:2].any() and not chi[~(mask > 0)].any()


def test_training_on_scans(head, drawn, tmp_path):
    params = tiny(scans={"count": 1, "chance": 1.0, "voxel_mm": [4.5, 4.6]})
    sample = scan_batch(Dice.of(2), drawn, (16, 16, 16), 2, magnitude=False)
    assert sample.field.shape == (2, 1, 16, 16, 16) and (sample.magnitude == 1).all()
    labels = load_labels(write_head(tmp_path / "two.nii.gz", codes(), voxel_mm=2.8))
    bare = material.Material(material.Sources(heads=(head,)), material.Sources(labels=(labels,), heads=(head,)))
    found = material.with_scans(bare, params, tmp_path)
    assert found.scans == 1 and "1 scans of them" in dataclasses.replace(found, labels=("one",)).sentence
    assert found.sources.scans[0].voxel_mm != found.held.scans[0].voxel_mm
    state = begin(params, "cpu")
    batches = fixed_batches(params, state.network, found.held, "cpu")
    assert len(batches) == 5 and batches[-1].sample.weights is None
    assert 0 < validate(state.network, batches) < 20
    loss, _ = losses(params, state, found.sources, False)
    loss.backward()
    assert torch.isfinite(loss) and any(p.grad.abs().sum() > 0 for p in state.network.parameters())


def test_scans_need_label_maps(tmp_path):
    with pytest.raises(DataError, match="no label map"):
        material.with_scans(
            material.Material(material.Sources(), material.Sources()), tiny(scans={"count": 1}), tmp_path
        )
