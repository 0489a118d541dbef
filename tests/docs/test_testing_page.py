"""The example of the page on testing is a test, and passes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.bounds import WAIT

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"


def test_the_example_passes(tmp_path: Path) -> None:
    """As a user would run it: by pytest, with the application beside it."""
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", f"--rootdir={tmp_path}", "-c", os.devnull]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(EXAMPLES), *sys.path])}
    run = subprocess.run(
        [*command, str(EXAMPLES / "testing")],
        env=environment,
        capture_output=True,
        text=True,
        timeout=WAIT,
        check=False,
    )
    assert run.returncode == 0, run.stdout
    assert " passed" in run.stdout
