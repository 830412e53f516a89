"""Many participants of one cohort written to one output folder by processes that know nothing of each other."""

from __future__ import annotations

import json
import os

import cohorts
import pytest

from qsmprep.bids.dataset import write_dataset_files


@pytest.mark.slow
def test_side_by_side_is_as_one_after_another(tmp_path):
    """Each process has its own participant and work folder; ``QSMPREP_SIDE_BY_SIDE`` says how many (6)."""
    count = int(os.environ.get("QSMPREP_SIDE_BY_SIDE", "6"))
    labels = tuple(f"{number:02d}" for number in range(1, count + 1))
    cohorts.cohort(tmp_path, labels)
    assert cohorts.start(cohorts.command(tmp_path, "serial", "work"), tmp_path / "log").wait() == 0
    running = [
        cohorts.start(
            cohorts.command(tmp_path, "parallel", f"work-{label}", "--participant-label", label),
            tmp_path / f"log-{label}",
        )
        for label in labels
    ]
    codes = [process.wait() for process in running]
    assert codes == [0] * count, [(tmp_path / f"log-{label}").read_text()[-500:] for label in labels]
    serial, parallel = (cohorts.results(tmp_path / name) for name in ("serial", "parallel"))
    apart = {name for name in cohorts.differences(serial, parallel) if not name.endswith((".html", "_metrics.json"))}
    assert not apart
    assert sum(name.endswith("_Chimap.nii.gz") for name in parallel) == count
    assert len(list((tmp_path / "parallel" / "logs").glob("*/settings.json"))) == count
    assert not list((tmp_path / "parallel").rglob(".*.tmp"))


def test_files_of_the_whole_data_set_written_by_many_at_once(tmp_path):
    """Every reader finds a whole file at any time, and what one process added is not lost by another."""
    import multiprocessing

    raw, out = tmp_path / "raw", tmp_path / "out"
    raw.mkdir()
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_write_often, args=(out, raw)) for _ in range(4)]
    for writer in writers:
        writer.start()
    read = 0
    while any(writer.is_alive() for writer in writers):
        path = out / "dataset_description.json"
        if path.exists():
            assert json.loads(path.read_text())["DatasetLinks"]["raw"] == "../raw"
            read += 1
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    assert read
    assert sorted(path.name for path in out.iterdir()) == [".bidsignore", "README", "dataset_description.json"]


def _write_often(out, raw) -> None:
    for _ in range(60):
        write_dataset_files(out, raw, version="1")
