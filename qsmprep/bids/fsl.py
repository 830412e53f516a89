"""Where FSL is: its folder is named by the environment, and never guessed."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from qsmprep.errors import MissingFileError


def find_fsl(program: str) -> Path:
    """A program of FSL, in ``$FSLDIR/bin`` or on the PATH.

    Raises
    ------
    MissingFileError
        When it is in neither.
    """
    folder = os.environ.get("FSLDIR", "")
    inside = Path(folder) / "bin" / program if folder else None
    if inside is not None and os.access(inside, os.X_OK):
        return inside
    found = shutil.which(program)
    if found is None:
        raise MissingFileError(
            f"FSL's `{program}` was not found" + (f" in {inside.parent}" if inside else ": FSLDIR is not set"),
            expected="FSLDIR to name the folder of an FSL installation",
            remedy="install FSL and set FSLDIR, or use --segmentation atlas",
        )
    return Path(found)


def fsl_environment(program: Path) -> dict[str, str]:
    """What FSL's programs want in their environment: compressed NIfTI, and their own folder on the PATH."""
    environment = {"FSLOUTPUTTYPE": "NIFTI_GZ", "PATH": f"{program.parent}{os.pathsep}{os.environ.get('PATH', '')}"}
    if os.environ.get("FSLDIR"):
        environment["FSLDIR"] = os.environ["FSLDIR"]
    return environment
