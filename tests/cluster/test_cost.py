"""What a participant is thought to cost."""

from __future__ import annotations

import pytest

from qsmprep.cluster import cost
from qsmprep.cluster.cost import Scan, needs, peak_gb, seconds
from qsmprep.core.methods import METHODS
from qsmprep.settings import usable_memory_gb

SMALL, LARGE = Scan(500_000, 4), Scan(6_000_000, 4)


def test_the_slower_inversions_are_in_the_register():
    assert set(cost.SLOWER) <= set(METHODS.names("inversion"))
    assert min(cost.SLOWER.values()) > 1


def test_linear_in_the_voxels():
    one, two, four = (peak_gb([Scan(n, 4)], 1) for n in (10**6, 2 * 10**6, 4 * 10**6))
    assert four - two == pytest.approx(2 * (two - one))
    one, two, four = (seconds([Scan(n, 4)], ["whqsm"]) for n in (10**6, 2 * 10**6, 4 * 10**6))
    assert four - two == pytest.approx(2 * (two - one))


def test_more_of_anything_never_costs_less():
    base = needs([[LARGE]], ["whqsm"], 1)
    for more in (
        needs([[LARGE], [SMALL]], ["whqsm"], 1),
        needs([[LARGE, LARGE]], ["whqsm"], 1),
        needs([[Scan(LARGE.n_voxels, 12)]], ["whqsm"], 1),
        needs([[LARGE]], ["whqsm", "nltgv"], 1),
        needs([[LARGE]], ["whqsm"], 8),
        needs([[LARGE]], ["whqsm"], 1, segment=True),
    ):
        assert more.memory_mb >= base.memory_mb
        assert more.minutes >= base.minutes


def test_the_largest_participant_decides():
    assert needs([[SMALL], [LARGE], [SMALL]], ["tv"], 2) == needs([[LARGE]], ["tv"], 2)


def test_several_scans_side_by_side_only_with_cpus():
    assert peak_gb([LARGE, LARGE], 1) == peak_gb([LARGE], 1)
    assert peak_gb([LARGE, LARGE], 2) > peak_gb([LARGE], 2)
    assert seconds([LARGE, LARGE], ["tv"]) > 1.5 * seconds([LARGE], ["tv"])


def test_nobody_gets_next_to_nothing():
    least = needs([[Scan(1000, 1)]], ["tkd"], 1)
    assert least.memory_mb == 1000 * cost.MIN_GB
    assert least.minutes == cost.MIN_MINUTES


@pytest.mark.parametrize(
    ("told", "expected_gb"),
    [
        ({"MEM_PER_NODE": "1500"}, 1.5),
        ({"MEM_PER_CPU": "400", "CPUS_ON_NODE": "3", "CPUS_PER_TASK": "2"}, 1.2),
        ({"MEM_PER_CPU": "400", "CPUS_PER_TASK": "2"}, 0.8),
        ({"MEM_PER_CPU": "700"}, 0.7),
    ],
)
def test_memory_is_what_slurm_gave(monkeypatch, told, expected_gb):
    """For the node or for each CPU; where it says nothing of CPUs, those that the process may use count."""
    for name in ("MEM_PER_NODE", "MEM_PER_CPU", "CPUS_ON_NODE", "CPUS_PER_TASK"):
        monkeypatch.delenv(f"SLURM_{name}", raising=False)
    for name, value in told.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0})
    assert usable_memory_gb() == pytest.approx(expected_gb)
