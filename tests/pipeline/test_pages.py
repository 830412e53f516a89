"""The pages of subjects over several runs: nothing that is known of a subject is lost from them."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from qsmprep.bids.acquisition import Acquisition, Echo
from qsmprep.bids.preflight import Preflight, Verdict
from qsmprep.core.grid import Grid
from qsmprep.errors import DataError, NoMatchError
from qsmprep.settings import Settings
from qsmprep.workflows.engine import Outcome
from qsmprep.workflows.pages import Result, rewrite_pages, write_pages

GRID = Grid((10, 10, 10), (1, 1, 1))
REFUSED = "the echoes are of two minds"


def settings(folder: Path, **words: object) -> Settings:
    return Settings(folder / "raw", folder / "out", "participant", folder / "work", **words)  # type: ignore[arg-type]


def good(session: str | None, subject: str = "01") -> Verdict:
    """An acquisition that can be processed."""
    echoes = (Echo(0.01, Path("mag.nii"), Path("phase.nii")),)
    acquisition = Acquisition(subject, session, (), "MEGRE", echoes, 3.0, "sidecar", {})
    return Verdict(acquisition.key, subject, 1, (0.01,), ("mag", "phase"), acquisition)


def bad(session: str | None, subject: str = "01") -> Verdict:
    """The same, refused."""
    verdict = good(session, subject)
    return dataclasses.replace(verdict, acquisition=None, problems=(DataError(REFUSED, file="echo.nii"),))


def run(folder: Path, *verdicts: Verdict, **words: object) -> list[Result]:
    """What the end of a run writes."""
    grids = {verdict.key: GRID for verdict in verdicts}
    chosen = settings(folder, **words)
    (chosen.out_dir / "logs").mkdir(parents=True, exist_ok=True)
    return write_pages(chosen, Preflight(chosen.bids_dir, verdicts), grids, Outcome({}), chosen.out_dir / "logs")


def page(folder: Path, subject: str = "01") -> str:
    return (folder / f"out/sub-{subject}.html").read_text()


def test_sessions_of_earlier_runs_stay_on_the_page(tmp_path):
    run(tmp_path, good("1"), sessions=("1",))
    results = run(tmp_path, good("2"), sessions=("2",))
    assert [result.key for result in results] == ["sub-01_ses-2"]
    text = page(tmp_path)
    assert text.index("sub-01_ses-1") < text.index("sub-01_ses-2")
    rewrite_pages(settings(tmp_path))
    assert page(tmp_path) == text


def test_what_was_refused_stays_on_the_page_until_it_is_processed(tmp_path):
    run(tmp_path, good("1"), bad("2"))
    run(tmp_path, bad(None, "010"))
    before = page(tmp_path)
    assert REFUSED in before and "sub-010" not in before
    rewrite_pages(settings(tmp_path))
    assert page(tmp_path) == before
    run(tmp_path, good("1"), sessions=("1",))
    assert REFUSED in page(tmp_path), "the other session was not looked at"
    run(tmp_path, good("2"), sessions=("2",))
    assert REFUSED not in page(tmp_path) and "sub-01_ses-1" in page(tmp_path)
    assert [path.name for path in (tmp_path / "out/logs/refused").iterdir()] == ["sub-010.json"]
    (tmp_path / "out/sub-010.html").unlink()
    rewrite_pages(settings(tmp_path))
    assert REFUSED in page(tmp_path, "010"), "there is no folder of that subject"


def test_what_is_gone_from_the_data_is_no_longer_refused(tmp_path):
    run(tmp_path, good("1"), bad("2"))
    run(tmp_path, good("1"))
    assert REFUSED not in page(tmp_path)


def test_results_of_an_acquisition_that_is_refused_now_stay(tmp_path):
    """They are in the output folder still; the page tells of both, and has the worse verdict."""
    run(tmp_path, good("1"))
    run(tmp_path, bad("1"))
    assert REFUSED in page(tmp_path) and "B0 direction in the voxel axes" in page(tmp_path)


@pytest.mark.parametrize("earlier", [True, False])
def test_a_selection_without_images_hides_nothing(tmp_path, earlier):
    """It is no fact about the subject; without anything else it is what the page says."""
    if earlier:
        run(tmp_path, good(None))
    nothing = Verdict("sub-01", "01", problems=(NoMatchError("the selection leaves no image"),))
    (result,) = run(tmp_path, nothing, sessions=("2",))
    assert result.page is not None and not result.errors
    assert ("the selection leaves no image" in page(tmp_path)) == (not earlier)
    assert ("B0 direction in the voxel axes" in page(tmp_path)) == earlier
    assert not list((tmp_path / "out/logs").rglob("*.json"))


def test_an_earlier_record_that_is_broken_is_told_beside_what_was_made(tmp_path):
    run(tmp_path, good("1"))
    (record,) = (tmp_path / "out/sub-01/ses-1/anat").glob("*_metrics.json")
    record.write_text("{")
    (result,) = run(tmp_path, good("2"), sessions=("2",))
    assert result.page is not None and [error.exit_code for error in result.errors] == [DataError.exit_code]
    assert "sub-01_ses-2" in page(tmp_path) and "is not a quality record" in page(tmp_path)
