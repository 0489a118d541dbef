"""The commands of the page on deploying start what they say, and a signal stops it."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from tests.docs.processes import running_by, stream

DOCS = Path(__file__).parents[2] / "docs"
BLOCK = re.findall(r"^```console\n(.*?)^```", (DOCS / "deploying.md").read_text(), re.MULTILINE | re.DOTALL)[0]
COMMANDS = [shlex.split(line.removeprefix("$ ")) for line in BLOCK.splitlines()]

PORT_OPTIONS = {"hypercorn": "--bind=127.0.0.1:{port}"}


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: str(command[0]))
def test_command_starts_the_quickstart_and_a_signal_cleans_up(command: list[str]) -> None:
    """As it stands, in the directory of the application, but for the port."""
    port_option = PORT_OPTIONS.get(command[0], "--port={port}")
    quiet = "ignore"  # Uvicorn's parent leaves its socket to the end of the process
    with running_by(["-m", *command], port_option, PYTHONPATH=str(DOCS / "examples"), PYTHONWARNINGS=quiet) as server:
        with stream(server, "/readings") as (response, events):
            assert response.status_code == 200
            assert next(events).event == "reading"
            assert "connection closed" not in server.output
            server.terminate()
        assert server.output.count("connection closed") == server.output.count("connected") == 1
