"""A Redis and a browser."""

import shutil
from collections.abc import Iterator

import pytest
from playwright.sync_api import BrowserContext

from tests.example.processes import chromium
from tests.redis_server import RedisServer, running_redis


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
