"""``qsmprep``: parse, look before leaping, run, and answer with the right exit code."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from qsmprep.cli.parser import parse_settings
from qsmprep.errors import QSMPrepError


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code (see ``qsmprep --help``)."""
    try:
        settings = parse_settings(sys.argv[1:] if argv is None else argv)
        from qsmprep.workflows.run import run

        return run(settings)
    except QSMPrepError as error:
        print(f"qsmprep: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("qsmprep: interrupted; the same command with the same work folder resumes", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
