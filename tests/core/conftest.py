from __future__ import annotations

import gc
from collections.abc import Iterator
from typing import Any

import pytest

from tests.loops import ASYNCIO, TRIO, UVLOOP


@pytest.fixture(params=[ASYNCIO, UVLOOP, TRIO])
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture(autouse=True)
def _collect_leaks() -> Iterator[None]:
    """Makes what a test leaves behind warn in that test, where warnings are errors."""
    yield
    gc.collect()
