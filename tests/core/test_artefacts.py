"""Scanner artefacts: found where they were put in, undone, and left alone where there are none."""

from __future__ import annotations

import numpy as np
import pytest
from echo_cases import ORIENTATIONS, romeo_crop, simulate, turn, turn_grid

from qsmprep.core.artefacts import FILTERED, correct_phase
from qsmprep.core.echo_order import swapped_echoes
from qsmprep.core.grid import Grid
from qsmprep.core.parameters import ArtefactParams
from qsmprep.core.phase import scale_phase, wrap
from qsmprep.errors import DataError

EVEN = [0.005, 0.010, 0.015, 0.020]
SLOPE = (0.05, -0.02, 0.01)
CONSTANT = 0.4


def apart(a, b):
    """Largest distance on the circle."""
    return float(np.abs(np.angle(np.exp(1j * (np.asarray(a, float) - b)))).max())


def difference(grid):
    """A plane of phase between the readout directions, in rad."""
    axes = [(np.arange(n) - (n - 1) / 2) * v for n, v in zip(grid.shape, grid.voxel_mm, strict=True)]
    x, y, z = np.meshgrid(*axes, indexing="ij")
    return SLOPE[0] * x + SLOPE[1] * y + SLOPE[2] * z + CONSTANT


def faulty(case, *, bipolar=True, slices=None):
    """The phase of a case with a bipolar readout, and a sign that alternates along an axis."""
    odd = (np.arange(len(case.te_s)) % 2)[:, None, None, None]
    phase = case.phase_rad + bipolar * odd * difference(case.grid)
    if slices is not None:
        shape = [1, 1, 1, 1]
        shape[slices + 1] = -1
        phase = phase + np.pi * (np.arange(case.grid.shape[slices]) % 2).reshape(shape)
    return wrap(phase)


@pytest.mark.parametrize("slices", [None, 0, 1, 2])
def test_both_faults_are_undone_at_once(slices):
    case = simulate(EVEN, noise=0.02)
    found = correct_phase(faulty(case, slices=slices), case.magnitude, case.mask, case.te_s, case.grid)
    expected = wrap(case.phase_rad + difference(case.grid) / 2)  # the mean of the two directions stays
    assert apart(found.phase_rad[:, case.mask], expected[:, case.mask]) < 0.03
    assert found.info["bipolar"] == "corrected"
    largest = np.abs(difference(case.grid)[case.mask]).max()
    assert found.info["bipolar_difference_rad"] == pytest.approx(largest, rel=0.02)
    assert len(found.warnings) == (1 if slices is None else 2)
    assert any("odd echoes differ" in text for text in found.warnings)
    assert any("alternated" in text for text in found.warnings) == (slices is not None)


@pytest.mark.parametrize("constant", [-3.0, -1.2, 0.0, 1.2, 3.0])
def test_odd_and_even_echoes_lie_on_one_line_afterwards(constant):
    """Whatever the constant: what is left of it is a uniform field, which alternates by pi."""
    case = simulate(EVEN, noise=0.01)
    odd = (np.arange(4) % 2)[:, None, None, None]
    phase = wrap(faulty(case) + odd * (constant - CONSTANT))
    found = correct_phase(phase, case.magnitude, case.mask, case.te_s, case.grid).phase_rad
    second = found[:-2] - 2 * found[1:-1] + found[2:]
    assert np.sqrt(np.mean(np.angle(np.exp(1j * second))[:, case.mask] ** 2)) < 0.08


def test_clean_phase_comes_back_untouched():
    case = simulate(EVEN, noise=0.02)
    found = correct_phase(case.phase_rad, case.magnitude, case.mask, case.te_s, case.grid)
    np.testing.assert_array_equal(found.phase_rad, case.phase_rad)
    assert found.warnings == ()
    assert found.info["bipolar"].startswith("no difference")
    assert found.info["slice_sign"] == "does not alternate"


def test_real_monopolar_crop_is_left_alone():
    stored, header, magnitude, te_s, grid = romeo_crop()
    phase = scale_phase(stored, units=None, **header)[0]
    found = correct_phase(phase, magnitude, np.ones(grid.shape, bool), te_s, grid)
    np.testing.assert_array_equal(found.phase_rad, phase)
    assert found.warnings == ()


@pytest.mark.parametrize(
    ("params", "readout", "corrected", "told"),
    [
        (ArtefactParams(), "", True, "differ by up to"),
        (ArtefactParams(), "bipolar", True, "differ by up to"),
        (ArtefactParams(), "monopolar", False, "said to be monopolar"),
        (ArtefactParams(bipolar="on"), "monopolar", True, "differ by up to"),
        (ArtefactParams(bipolar="off"), "bipolar", False, None),
        (ArtefactParams(bipolar_min_rad=10.0), "", False, None),
        (ArtefactParams(bipolar_min_rad=10.0), "bipolar", True, "differ by up to"),
    ],
)
def test_what_is_known_of_the_readout_decides(params, readout, corrected, told):
    case = simulate(EVEN, noise=0.02)
    phase = faulty(case)
    found = correct_phase(phase, case.magnitude, case.mask, case.te_s, case.grid, params, readout=readout)
    assert np.array_equal(found.phase_rad, phase) != corrected
    assert [told in text for text in found.warnings] == ([True] if told else [])


@pytest.mark.parametrize(("te_s", "why"), [([0.005, 0.010], "fewer than three"), ([0.005, 0.010, 0.018], "evenly")])
def test_a_bipolar_readout_that_cannot_be_corrected_is_said(te_s, why):
    case = simulate(te_s)
    found = correct_phase(case.phase_rad, case.magnitude, case.mask, te_s, case.grid, readout="bipolar")
    np.testing.assert_array_equal(found.phase_rad, case.phase_rad)
    assert why in found.info["bipolar"]
    assert why in found.warnings[0]
    assert correct_phase(case.phase_rad, case.magnitude, case.mask, te_s, case.grid).warnings == ()


@pytest.mark.parametrize(("order", "flips"), ORIENTATIONS)
def test_the_48_orientations(order, flips):
    case = simulate(EVEN, shape=(12, 15, 11))
    plain = correct_phase(faulty(case, slices=2), case.magnitude, case.mask, case.te_s, case.grid)
    moved = [turn(volume, order, flips) for volume in (faulty(case, slices=2), case.magnitude, case.mask)]
    found = correct_phase(*moved, case.te_s, turn_grid(case.grid, order))
    # which of two neighbouring slices has the right sign is not known: the offset may differ by pi
    shift = found.phase_rad - turn(plain.phase_rad, order, flips)
    shift = np.angle(np.exp(2j * shift))[:, moved[2]] / 2
    assert np.abs(shift).max() < 2e-3


def test_filtered_phase_is_said():
    rng = np.random.default_rng(0)
    case = simulate([0.02])
    noise = wrap(0.2 * rng.normal(size=case.phase_rad.shape))
    found = correct_phase(noise, case.magnitude, case.mask, case.te_s, case.grid)
    assert found.warnings == (FILTERED,)
    assert found.info["high_pass_filtered"] is True


@pytest.mark.parametrize("pair", [(0, 1), (1, 2), (0, 3), (1, 3)])
def test_swapped_echoes_are_named(pair):
    case = simulate(EVEN, noise=0.05)
    for phase in (case.phase_rad, faulty(case)):
        assert swapped_echoes(phase, case.magnitude, case.mask, EVEN) == ()
    order = list(range(4))
    order[pair[0]], order[pair[1]] = pair[1], pair[0]
    pairs = ((0, 3), (1, 2)) if pair in ((0, 3), (1, 2)) else (pair,)
    assert swapped_echoes(case.phase_rad[order], case.magnitude, case.mask, EVEN) == pairs
    assert swapped_echoes(case.phase_rad[order], None, case.mask, EVEN) == pairs
    found = correct_phase(case.phase_rad[order], case.magnitude, case.mask, EVEN, case.grid)
    named = "2 and 3 (or 1 and 4)" if len(pairs) == 2 else f"{pair[0] + 1} and {pair[1] + 1}"
    assert f"the phase images of echoes {named} look swapped" in found.warnings[0]
    assert found.info["bipolar"].startswith("not looked for")
    np.testing.assert_array_equal(found.phase_rad, case.phase_rad[order])


@pytest.mark.parametrize(("count", "largest_rad"), [(3, 1.0), (4, 2.0), (5, 2.0), (6, 3.0)])
def test_bipolar_echoes_of_a_weak_field_are_not_called_swapped(count, largest_rad):
    """With small steps from echo to echo a swap takes away most of what the readout makes disagree."""
    te_s = [0.002 * (1 + number) for number in range(count)]
    rng = np.random.default_rng(count)
    x, y, z = np.meshgrid(*[np.linspace(-1, 1, n) for n in (40, 40, 30)], indexing="ij")
    grid, mask = Grid((40, 40, 30), (1, 1, 1)), x**2 + y**2 + z**2 < 0.8
    odd = (np.arange(count) % 2)[:, None, None, None]
    field_hz = 12 * x + 3 * np.sin(3 * y)
    true = 2 * np.pi * field_hz * np.asarray(te_s)[:, None, None, None]
    signal = np.exp(1j * (true + odd * largest_rad * x)) * mask
    signal += 0.02 * (rng.normal(size=signal.shape) + 1j * rng.normal(size=signal.shape))
    for readout in ("", "bipolar"):
        found = correct_phase(np.angle(signal), np.abs(signal), mask, te_s, grid, readout=readout)
        assert found.info["echo_order"] == "no swap found"
        assert found.info["bipolar"] == "corrected"
        even = wrap(true + largest_rad * x / 2)
        assert apart(found.phase_rad[:, mask], even[:, mask]) < 0.2
    kept = correct_phase(np.angle(signal), np.abs(signal), mask, te_s, grid, ArtefactParams(bipolar="off"))
    assert kept.info["echo_order"] == "no swap found"


@pytest.mark.parametrize("readout", ["", "bipolar"])
@pytest.mark.parametrize("bipolar", [False, True])
@pytest.mark.parametrize(("count", "pair"), [(3, (0, 1)), (4, (1, 2)), (5, (1, 3)), (6, (2, 3))])
def test_swapped_echoes_are_found_beside_a_bipolar_readout(count, pair, bipolar, readout):
    te_s = [0.004 * (1 + number) for number in range(count)]
    case = simulate(te_s, noise=0.02)
    order = list(range(count))
    order[pair[0]], order[pair[1]] = pair[1], pair[0]
    phase = faulty(case, bipolar=bipolar)[order]
    found = correct_phase(phase, case.magnitude, case.mask, te_s, case.grid, readout=readout)
    assert f"{pair[0] + 1} and {pair[1] + 1}" in found.info["echo_order"]
    np.testing.assert_array_equal(found.phase_rad, phase)


def test_the_order_of_echoes_that_cannot_be_told():
    case = simulate(EVEN, noise=0.05)
    for te_s in (EVEN[:2], [0.005, 0.010, 0.018]):
        assert swapped_echoes(case.phase_rad[: len(te_s)], None, case.mask, te_s) == ()
    mirrored = case.phase_rad[[2, 1, 0]]  # as good as the sign of the field
    assert swapped_echoes(mirrored, None, case.mask, EVEN[:3]) == ()
    assert swapped_echoes(0 * case.phase_rad, case.magnitude, case.mask, EVEN) == ()
    assert swapped_echoes(case.phase_rad, 0 * case.magnitude, case.mask, EVEN) == ()


def test_bad_shapes_are_refused():
    case = simulate(EVEN)
    with pytest.raises(DataError):
        correct_phase(case.phase_rad, case.magnitude, case.mask, case.te_s[:3], case.grid)
    with pytest.raises(DataError):
        correct_phase(case.phase_rad, case.magnitude, case.mask[:-1], case.te_s, case.grid)
    with pytest.raises(DataError):
        correct_phase(case.phase_rad, case.magnitude, 0 * case.mask, case.te_s, case.grid)
