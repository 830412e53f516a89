"""What training minimises is zero where it should be, and knows neither reference nor unit."""

from __future__ import annotations

import math

import pytest
import torch

from qsmprep.core.grid import Grid
from qsmprep.networks.geometry import Geometry
from qsmprep.training.losses import centred, physics, relative_errors, supervised


@pytest.fixture
def case() -> tuple[torch.Tensor, torch.Tensor, Geometry]:
    """A map in ppm, its mask, their geometry."""
    generator = torch.Generator().manual_seed(0)
    mask = torch.zeros(2, 1, 16, 14, 12)
    mask[:, :, 3:-3, 3:-3, 2:-2] = 1
    chi = 0.05 * torch.randn(mask.shape, generator=generator) * mask
    return chi, mask, Geometry(Grid((16, 14, 12), (1.0, 1.0, 2.0), (0.0, 0.6, 0.8)), 1.5)


def test_the_truth_has_no_error(case):
    chi, mask, _ = case
    assert max(float(e) for e in relative_errors(chi / 0.01, chi / 0.01, mask)) < 1e-3


def test_no_map_has_an_error_of_one(case):
    chi, mask, _ = case
    assert [float(e) for e in relative_errors(torch.zeros_like(chi), chi, mask)] == pytest.approx([1, 1, 1], rel=0.01)


def test_errors_know_no_reference(case):
    chi, mask, _ = case
    guess = 0.5 * chi
    plain, shifted = (relative_errors(g, t, mask) for g, t in ((guess, chi), (guess + 3.0, chi - 2.0)))
    assert [float(e) for e in shifted] == pytest.approx([float(e) for e in plain], rel=1e-3)
    assert float(plain[0]) == pytest.approx(0.5, rel=1e-2)
    assert centred(chi + 1, mask)[mask > 0].mean().abs() < 1e-6


def test_errors_outside_the_mask_do_not_count(case):
    chi, mask, _ = case
    elsewhere = 0.5 * chi + (1 - mask)
    assert [float(e) for e in relative_errors(elsewhere, chi, mask)] == pytest.approx(
        [float(e) for e in relative_errors(0.5 * chi, chi, mask)]
    )


def test_later_iterations_count_more(case):
    chi, mask, _ = case
    good, bad = chi, torch.zeros_like(chi)
    weights = (1.0, 0.0, 0.0)
    once = supervised([bad], chi, mask, weights, 0.5)
    assert float(supervised([bad, bad, bad], chi, mask, weights, 0.5)) == pytest.approx(float(once))
    assert float(supervised([bad, good], chi, mask, weights, 0.5)) == pytest.approx(float(once) / 3, rel=0.05)
    assert float(supervised([good, bad], chi, mask, weights, 0.5)) == pytest.approx(2 * float(once) / 3, rel=0.05)


def test_the_physics_of_the_truth_is_perfect(case):
    chi, mask, geometry = case
    field = geometry.field(chi)
    assert float(physics(chi, field, mask, geometry, total_variation=0.0)) < 1e-5
    assert float(physics(0 * chi, field, mask, geometry, total_variation=0.0)) == pytest.approx(1.0)
    half = float(physics(0.5 * chi, field, mask, geometry, total_variation=0.0))
    assert 0.1 < half < 0.6
    assert float(physics(chi, field, mask, geometry)) > 1e-3  # what remains is the total variation


def test_physics_does_not_need_unwrapped_fields(case):
    chi, mask, geometry = case
    field = geometry.field(chi)
    wrapped = field + mask * 2 * math.pi / 100.0
    assert float(physics(chi, wrapped, mask, geometry, total_variation=0.0)) < 1e-5


def test_physics_can_be_descended(case):
    chi, mask, geometry = case
    field = geometry.field(chi)
    guess = (0.8 * chi).requires_grad_()
    gradient = torch.autograd.grad(physics(guess, field, mask, geometry, total_variation=0.0), guess)[0]
    better = guess.detach() - 0.1 * gradient * (guess.detach().norm() / gradient.norm())
    before, after = (float(physics(g.detach(), field, mask, geometry, total_variation=0.0)) for g in (guess, better))
    assert after < before
