"""``qsmprep``: parse, look before leaping, run, and answer with the right exit code."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from qsmprep.cli.openmp import wait_briefly
from qsmprep.cli.parser import parse_settings
from qsmprep.errors import QSMPrepError


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code (see ``qsmprep --help``)."""
    _leave_home_alone()
    wait_briefly()
    try:
        settings = parse_settings(sys.argv[1:] if argv is None else argv)
        if settings.analysis_level == "group":
            from qsmprep.workflows.group import run_group

            return run_group(settings)
        from qsmprep.workflows.run import run

        return run(settings)
    except QSMPrepError as error:
        print(f"qsmprep: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt as stop:
        print("qsmprep: interrupted; the same command with the same work folder resumes", file=sys.stderr)
        return int(getattr(stop, "exit_code", 130))


def _leave_home_alone() -> None:
    """Point libraries that keep settings in the home folder elsewhere when it cannot be entered or written to."""
    home = os.environ.get("HOME") or Path.home()
    if not os.access(home, os.R_OK | os.X_OK):
        os.environ["HOME"] = tempfile.gettempdir()
    elif not os.access(home, os.W_OK):
        os.environ.setdefault("MPLCONFIGDIR", str(Path(tempfile.gettempdir()) / f"matplotlib-{os.getuid()}"))


if __name__ == "__main__":
    sys.exit(main())
