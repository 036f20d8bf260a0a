"""A store that is broken for real, many times: nothing is lost, nothing is wrong."""

import json
import subprocess
import sys

import pytest

from lib.settings import ROOT


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="it forks")
@pytest.mark.parametrize("what, times", [("kills", 40), ("flips", 2)])
def test_whatever_happens_nothing_is_lost_or_wrong(tmp_path, what, times):
    """SIGKILL with checkpoints under way; a bit changed in every kind of stored file."""
    command = [sys.executable, str(ROOT / "tests" / "experiments" / "soak.py"), what, str(tmp_path), str(times)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert lines and all(
        not line.get(name) for line in lines for name in ("lost", "wrong", "half taken for whole", "left behind")
    ), done.stdout
    assert what == "flips" or lines[0]["checkpoint under way"] >= times
