"""The wait of OpenMP's threads: set before torch is there, unless the user said something."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

ASK = (
    "import sys, os; from qsmprep.cli.{module} import main; assert 'torch' not in sys.modules\n"
    "try: main(['--version'])\nexcept SystemExit: pass\n"
    "print(os.environ.get('GOMP_SPINCOUNT'))"
)


@pytest.mark.parametrize("module", ["main", "step", "train"])
@pytest.mark.parametrize(
    ("given", "found"), [({}, "10000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "None")]
)
def test_set_before_torch_unless_the_user_did(module, given, found):
    kept = {key: value for key, value in os.environ.items() if key not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    command = [sys.executable, "-c", ASK.format(module=module)]
    done = subprocess.run(command, env={**kept, **given}, capture_output=True, text=True, check=True)
    assert done.stdout.split()[-1] == found
