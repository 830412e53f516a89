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
    seen = volumes((2,))[0][1]
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
def test_a_step_goes_beyond_the_field_of_the_map(relaxation):
    """By the relaxation, from where it was; outside the box the split follows that, inside the data pull it back."""
    space = Spectral(GRID, 1.5, "cpu")
    field, weights = volumes(())
    begun, met = space.pad(field), torch.ones(space.shape)
    split = DataSplit(FieldTerm(field, weights, 0.7), begun, PART, relaxation)
    split.meet(met)
    beyond = relaxation * met + (1 - relaxation) * begun
    torch.testing.assert_close(split.close, beyond)
    target = split.pulled()
    close = beyond.clone()
    close[PART] = FieldTerm(field, weights, 0.7).proximal(beyond[PART])
    torch.testing.assert_close(target, 2 * close - beyond)


@pytest.mark.parametrize("relaxation", [1.0, 1.7])
def test_volumes_of_a_batch_are_split_each_for_itself(relaxation):
    space = Spectral(GRID, 1.5, "cpu")
    field, weights = volumes((3,))
    seen = torch.rand((4, 3, *space.shape), generator=torch.Generator().manual_seed(1))

    def turns(part: slice) -> list[torch.Tensor]:
        split = DataSplit(FieldTerm(field[part], weights[part], 0.7), space.pad(field[part]), PART, relaxation)
        found = []
        for one in seen:
            split.meet(one[part])
            found.append(split.pulled())
        return found

    together, alone = turns(slice(0, 3)), turns(slice(1, 2))
    for both, one in zip(together, alone, strict=True):
        assert torch.equal(both[1:2], one)
