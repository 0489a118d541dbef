"""Examples in the process of their test, and real servers of Redis and PostgreSQL for the recipes that need one."""

from __future__ import annotations

import importlib.util
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from litestar.exceptions import base_exceptions

from tests.postgres_server import PostgresServer, running_postgres
from tests.redis_server import RedisServer, running_redis

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"

Load = Callable[[str], Any]

OLD_WAYS = getattr(base_exceptions, "LitestarDeprecationWarning", DeprecationWarning)
"""What newer releases of Litestar warn by of what the oldest has no other way to say."""


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Load:
    """Imports an example, or the file at another path, anew: for a test that needs its application and no server."""

    def load(file: str) -> Any:
        path = EXAMPLES / f"{file}.py"
        name = path.stem
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, name, module)  # where Litestar looks up annotations
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", OLD_WAYS)
            spec.loader.exec_module(module)
        return module

    return load


@pytest.fixture
def redis_server(tmp_path: Path) -> Iterator[RedisServer]:
    """A server of the test's own, which keeps its data when it is started again."""
    with running_redis(tmp_path, aof=True) as server:
        yield server


@pytest.fixture
def postgres_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresServer]:
    """A server of the test's own, which keeps its data when it is started again."""
    with running_postgres(tmp_path_factory.mktemp("postgres")) as server:
        yield server
