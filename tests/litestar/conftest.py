"""Both backends of anyio, and a trace for each test to note what happens."""

from __future__ import annotations

from typing import Any

import pytest

pytest.register_assert_rewrite("tests.litestar.apps", "tests.litestar.clients")


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def trace() -> list[Any]:
    return []
