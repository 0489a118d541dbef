"""The core stands alone: it is ASGI, and nothing of it needs Litestar."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.bounds import START

ROOT = Path(__file__).parents[2]
NEED_LITESTAR = {"test_alone.py", "test_house.py"}
"""The tests of this directory that are not of the core."""

BARE = sorted(path.name for path in Path(__file__).parent.glob("test_*.py") if path.name not in NEED_LITESTAR)


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "tests.without_litestar"]
    return subprocess.run([*command, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=2 * START)


@pytest.mark.parametrize(
    "names",
    [
        pytest.param(["test_endings.py", "test_shutdown.py"], id="some"),
        pytest.param(BARE, id="all", marks=pytest.mark.long),
    ],
)
def test_streams_are_served_aborted_shut_down_and_cleaned_without_litestar(names: list[str]) -> None:
    """The tests of the core pass where Litestar cannot be imported."""
    done = run(*(f"tests/core/{name}" for name in names), "-k", "not uvloop and not any_await")
    assert done.returncode == 0, done.stdout[-3000:]


@pytest.mark.parametrize("module", ["plugin", "response"])
def test_the_faces_need_litestar(module: str) -> None:
    """Which tells that it is blocked indeed."""
    script = f"import tests.without_litestar; import litestar_safe_sse.{module}"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=START)
    assert "No module named 'litestar." in done.stderr
    assert done.returncode == 1
