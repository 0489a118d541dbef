"""One server process for each kind and module, and the report that the documentation's tables are made of."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pytest

from tests.servers.kinds import ServerKind
from tests.servers.processes import FLAVOUR, RunningServer, running
from tests.servers.report import Cell, as_markdown

_cells = pytest.StashKey[list[Cell]]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_cells] = []
    if os.environ.get("SAFE_SSE_REPORT_DIR") and hasattr(config, "workerinput"):
        raise pytest.UsageError("a report is made of what one process measured: add --numprocesses 0")


@pytest.fixture
def cells(request: pytest.FixtureRequest) -> list[Cell]:
    """What the matrices measured; a test appends to it."""
    return request.config.stash[_cells]


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Writes each matrix to a file of its own."""
    directory = os.environ.get("SAFE_SSE_REPORT_DIR")
    cells = session.config.stash[_cells]
    if not directory:
        return
    Path(directory).mkdir(parents=True, exist_ok=True)
    for matrix in dict.fromkeys(cell.matrix for cell in cells):
        chosen = [cell for cell in cells if cell.matrix == matrix]
        target = Path(directory) / f"{matrix}-{FLAVOUR}"
        target.with_suffix(".md").write_text(as_markdown(chosen))
        target.with_suffix(".json").write_text(json.dumps([asdict(cell) for cell in chosen], indent=1))


@pytest.fixture(scope="module")
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A running server of the kind that the test is parametrised by, as ``starting`` of its module says, if it does."""
    kind: ServerKind = request.param
    start = getattr(request.module, "starting", running)
    with start(kind, tmp_path_factory.mktemp(kind.name)) as server:
        yield server
