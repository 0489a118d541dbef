"""The application under test, in a server of its own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.servers.kinds import KINDS
from tests.servers.processes import running

UVICORN = KINDS["uvicorn-h1-h11-asyncio"]
"""Unlike httptools, h11 answers HTTP/1.0 without chunks, as most servers do."""


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of the application."""
    with running(UVICORN, tmp_path_factory.mktemp("doctor"), app="tests.doctor.app:app") as server:
        yield server.port
