"""The paths that the tests import from, a Redis and a browser."""

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# ``example_app`` is run from a checkout and is not installed; the Redis for tests is started as in tests/sources.
for directory in (ROOT, ROOT / "tests" / "sources"):
    if str(directory) not in sys.path:
        sys.path.append(str(directory))

from browsing import chromium  # noqa: E402
from playwright.sync_api import BrowserContext  # noqa: E402
from redis_server import RedisServer, running_redis  # noqa: E402


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BrowserContext]:
    with chromium(tmp_path_factory.mktemp("chromium")) as context:
        yield context


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    if shutil.which("redis-server") is None:
        pytest.skip("no redis-server on the path")
    with running_redis(tmp_path_factory.mktemp("redis")) as server:
        yield server
