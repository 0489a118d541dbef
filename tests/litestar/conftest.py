"""Both backends of anyio, a trace for each test to note what happens, and what is logged."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from tests.litestar.apps import CONFIGURES_LOGGING
from tests.litestar.logs import Records

collect_ignore = [] if CONFIGURES_LOGGING else ["test_log_lines.py", "test_log_warnings.py", "test_loggers.py"]


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def trace() -> list[Any]:
    return []


@pytest.fixture
def records() -> Iterator[Records]:
    """What is logged; the logging set up by the test is taken down again."""
    root, ours = logging.getLogger(), logging.getLogger("litestar")
    before = root.level, root.handlers[:], ours.level, ours.handlers[:], ours.propagate
    yield Records()
    root.level, root.handlers[:], ours.level, ours.handlers[:], ours.propagate = before
    structlog.reset_defaults()
