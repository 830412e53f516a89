"""Running the segmenters on whole volumes: geometry, left and right, what cannot be segmented."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from qsmprep.core.grid import Grid
from qsmprep.core.masking.resample import isotropic_grid, resample
from qsmprep.core.parameters import UnetrParams
from qsmprep.errors import DataError, MissingFileError
from qsmprep.networks.segmentation import (
    CODES,
    at_window,
    centre_of,
    cleaned,
    found_by,
    swapped,
    unetr_mask,
    unetr_nuclei,
)


class Bright(nn.Module):
    """A segmenter that can be foreseen: what is bright is the object; for nine classes the class is the intensity."""

    def __init__(self, classes: int, window: int = 32) -> None:
        super().__init__()
        self.classes, self.window, self.voxel_mm = classes, window, 1.0
        self.seen: list[tuple[int, ...]] = []

    def forward(self, volume: torch.Tensor) -> torch.Tensor:
        self.seen.append(tuple(volume.shape))
        if self.classes == 2:
            return 8 * (volume - 0.5)
        place = torch.arange(9).view(1, 9, 1, 1, 1)
        return -8 * (volume - place).abs()


@pytest.mark.parametrize("shape", [(50, 41, 37), (20, 60, 15), (8, 8, 8)])
def test_windows_cover_volumes_of_any_size(shape):
    """Larger and smaller than a window, and not a multiple of anything."""
    volume = torch.zeros(1, *shape)
    middle = tuple(slice(n // 3, n // 3 + max(2, n // 4)) for n in shape)
    volume[(0, *middle)] = 1.0
    network = Bright(2)
    logits = found_by(network, volume, torch.ones(shape, dtype=torch.bool))
    assert torch.equal(logits[0] > 0, volume[0] > 0.5)
    assert set(network.seen) == {(1, 1, 32, 32, 32)}


def test_the_window_moves_to_what_it_finds():
    shape = (70, 30, 30)
    volume = torch.zeros(1, *shape)
    volume[0, 44:52, 10:20, 10:20] = 3.0  # out of reach of half of the window that is looked at first
    inside = torch.ones(shape, dtype=torch.bool)
    logits = found_by(Bright(9), volume, inside, search=False)
    found = logits.argmax(dim=0)
    assert bool((found[44:52, 10:20, 10:20] > 0).all())
    assert centre_of(found > 0) == pytest.approx((47.5, 14.5, 14.5))


def test_left_and_right_change_in_the_mirror():
    logits = torch.randn(9, 4, 4, 4)
    assert torch.equal(swapped(swapped(logits)), logits)
    assert torch.equal(swapped(logits)[1], logits[2])
    assert torch.equal(swapped(logits)[0], logits[0])
    one = torch.randn(1, 4, 4, 4)
    assert torch.equal(swapped(one), one)


def test_nothing_but_background_beyond_the_window():
    logits = at_window(Bright(2), torch.ones(1, 40, 40, 40), (0.0, 0.0, 0.0))
    assert float(logits[0, 0, 0, 0]) > 0
    assert float(logits[0, 30, 30, 30]) == -20.0


def test_small_pieces_are_left_out():
    classes = np.zeros((20, 20, 20), dtype=int)
    classes[2:8, 2:8, 2:8], classes[15, 15, 15], classes[12:14, 2:4, 2] = 1, 1, 2
    labels, volumes = cleaned(classes, Grid((20, 20, 20), (1.0, 1.0, 2.0)))
    assert volumes == {CODES[1]: pytest.approx(6**3 * 2)}
    assert set(np.unique(labels)) == {0, CODES[1]}
    assert labels[15, 15, 15] == 0


@pytest.mark.parametrize("voxel_mm", [(0.78, 0.78, 2.0), (1.0, 1.0, 1.0), (3.0, 0.5, 1.9)])
def test_resampling_keeps_lines_and_means(voxel_mm):
    grid = Grid((30, 24, 18), voxel_mm)
    work = isotropic_grid(grid, 1.5)
    assert all(n * 1.5 >= m * mm - 1e-6 for n, m, mm in zip(work.shape, grid.shape, voxel_mm, strict=True))

    def place(one):
        axes = [(np.arange(n) - (n - 1) / 2) * mm for n, mm in zip(one.shape, one.voxel_mm, strict=True)]
        return np.stack(np.meshgrid(*axes, indexing="ij")).astype(np.float32)

    line = 0.3 * place(grid)[0] - 0.2 * place(grid)[1] + 0.1 * place(grid)[2] + 1
    there = resample(line, grid, work)
    expected = 0.3 * place(work)[0] - 0.2 * place(work)[1] + 0.1 * place(work)[2] + 1
    core = (slice(3, -3),) * 3
    np.testing.assert_allclose(there[core], expected[core], atol=6e-2)
    np.testing.assert_allclose(resample(np.ones(grid.shape, np.float32), grid, work), 1, atol=1e-5)


@pytest.mark.parametrize("image", [np.zeros((40, 40, 40)), np.full((40, 40, 40), 3.0)])
def test_an_image_of_nothing_is_refused(image):
    with pytest.raises(DataError, match="the same everywhere"):
        unetr_mask(image, Grid((40, 40, 40), (4.0, 4.0, 4.0)))


def test_other_shapes_and_absent_weights_are_refused(tmp_path):
    grid = Grid((10, 10, 10), (4.0, 4.0, 4.0))
    with pytest.raises(DataError, match="shape"):
        unetr_mask(np.ones((9, 10, 10)), grid)
    image = np.indices((10, 10, 10)).sum(axis=0) + np.random.default_rng(0).random((10, 10, 10))
    with pytest.raises(MissingFileError, match="qsmprep-train brainmask"):
        unetr_mask(image, grid, UnetrParams(weights=str(tmp_path)))
    chi, mask = image.astype(np.float32), np.ones((10, 10, 10), dtype=bool)
    with pytest.raises(MissingFileError, match="qsmprep-train subcortical"):
        unetr_nuclei(chi, mask, grid, UnetrParams(weights=str(tmp_path)))
    with pytest.raises(DataError, match="differ"):
        unetr_nuclei(chi, mask[1:], grid)
    with pytest.raises(DataError, match="same everywhere"):
        unetr_nuclei(0 * chi, mask, grid)
