"""Folders may be called anything."""

from __future__ import annotations

from nipype.pipeline import engine as pe

from qsmprep.settings import Settings
from qsmprep.workflows.engine import configure_nipype


def test_a_per_cent_sign_in_the_output_folder(tmp_path):
    """Nipype's configuration takes it for the start of a reference, and stopped the run."""
    folder = tmp_path / "100 %x %(home)s"
    configure_nipype(Settings(tmp_path, folder, "participant", tmp_path / "work"), folder)
    workflow = pe.Workflow("any")
    assert workflow.config["execution"]["crashdump_dir"] == str(folder)
