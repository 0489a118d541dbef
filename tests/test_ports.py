"""The helper that finds ports for the servers of the tests, in processes side by side."""

from __future__ import annotations

import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

ASKING = "from tests.ports import free_port; print(*(free_port() for _ in range(150)), flush=True); input()"


def test_processes_are_never_given_the_same_port() -> None:
    """A server that starts late must not find another at its port, nor a client of somebody else's."""
    with ExitStack() as stack:
        asking = [
            stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-c", ASKING],
                    cwd=Path(__file__).parents[1],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                )
            )
            for _ in range(4)
        ]
        given = [int(port) for process in asking if process.stdout for port in process.stdout.readline().split()]
        for process in asking:
            process.kill()

    assert len(given) == len(set(given)) == 600
    assert max(given) < 32768, "a kernel gives these to clients"
    assert min(given) > 10080, "Chromium calls that one unsafe"
