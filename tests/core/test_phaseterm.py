"""Data terms that are split off, of one volume and of several."""

from __future__ import annotations

import pytest
import torch

from qsmprep.core.grid import Grid
from qsmprep.core.inversion.phaseterm import DataSplit, FieldTerm
from qsmprep.core.inversion.problem import Spectral

GRID = Grid((6, 5, 4), (0.5, 1.0, 2.0))
PART = (..., *(slice(0, n) for n in GRID.shape))


def volumes(batch: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    """Field and weights, some of them zero."""
    generator = torch.Generator().manual_seed(0)
    field, weights = (torch.rand((*batch, *GRID.shape), generator=generator) for _ in range(2))
    return field, torch.where(weights < 0.2, 0.0, weights)


@pytest.mark.parametrize("batch", [(), (3,)])
def test_volumes_are_padded_at_their_far_end_each_for_itself(batch):
    space = Spectral(GRID, 1.5, "cpu")
    field, _ = volumes(batch)
    padded = space.pad(field)
    assert padded.shape == (*batch, *space.shape) and min(space.shape) > min(GRID.shape)
    assert torch.equal(padded[PART], field)
    padded[PART] = 0
    assert not padded.any()
    torch.testing.assert_close(space.fft(field), space.fft(space.pad(field)))


def test_the_proximal_map_of_a_field_is_a_weighted_mean():
    field, weights = volumes(())
    seen = torch.rand(GRID.shape)
    found = FieldTerm(field, weights, 0.7).proximal(seen)
    torch.testing.assert_close(found, (weights**2 * field + 0.7 * seen) / (weights**2 + 0.7))


@pytest.mark.parametrize("batch", [(), (3,)])
@pytest.mark.parametrize("relaxation", [1.0, 1.7])
def test_the_split_comes_to_the_minimum(batch, relaxation):
    """Of W^2 (x - f)^2 + a x^2, which is W^2 f / (W^2 + a) in the box and zero around it."""
    space = Spectral(GRID, 1.5, "cpu")
    field, weights = volumes(batch)
    penalty, a = 0.7, 0.4
    split = DataSplit(FieldTerm(field, weights, penalty), space.pad(field), PART, relaxation)
    target = space.pad(field)
    for _ in range(200):
        found = penalty * target / (penalty + a)
        split.meet(found)
        target = split.pulled()
    torch.testing.assert_close(found, space.pad(weights**2 * field / (weights**2 + a)), atol=1e-5, rtol=0)


@pytest.mark.parametrize("relaxation", [1.0, 1.7])
def test_volumes_of_a_batch_are_split_each_for_itself(relaxation):
    space = Spectral(GRID, 1.5, "cpu")
    field, weights = volumes((3,))
    seen = torch.rand((4, 3, *space.shape))

    def turns(part: slice) -> list[torch.Tensor]:
        split = DataSplit(FieldTerm(field[part], weights[part], 0.7), space.pad(field[part]), PART, relaxation)
        return [split.meet(one[part]) or split.pulled() for one in seen]

    together, alone = turns(slice(0, 3)), turns(slice(1, 2))
    for both, one in zip(together, alone, strict=True):
        assert torch.equal(both[1:2], one)
