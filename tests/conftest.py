"""How the tests are shared out among processes, and what they leave alone."""

from __future__ import annotations

import gc
import re
import sys
from collections.abc import Generator
from typing import Any

import pytest

for part in ("core", "docs", "doctor", "example", "integration", "litestar", "servers", "sources", "unit", "view"):
    pytest.register_assert_rewrite(f"tests.{part}")  # so that a helper's assertion tells what it has seen
pytest.register_assert_rewrite("litestar_safe_sse.sources.testing")

SERVER = re.compile(r"\[(?:\w+-)*?((?:uvicorn|granian|hypercorn|daphne)(?:-(?:h\d+|httptools|asyncio|uvloop|trio))*)")
PROXY = re.compile(r"\[(nginx|haproxy|caddy|apache|traefik)\b")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Gives a process whole files, or what a file tests of one server or proxy: what fixtures start is started once.

    The groups that xdist's own ``loadgroup`` goes by are put into names that pytest 9.2 no longer lets it change.
    """
    from xdist.scheduler import LoadScopeScheduling

    class LoadPartScheduling(LoadScopeScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            found = SERVER.search(nodeid) or PROXY.search(nodeid)
            return f"{nodeid.partition('::')[0]} {found[1] if found else ''}"

    return LoadPartScheduling(config, log) if config.getvalue("dist") == "loadgroup" else None


@pytest.hookimpl(wrapper=True)
def pytest_runtestloop() -> Generator[None, object, object]:
    """Spares the collections of garbage, which nearly all tests make, what has been imported: 2 ms in place of 60."""
    gc.collect()
    gc.freeze()
    try:
        return (yield)
    finally:
        gc.unfreeze()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol() -> Generator[None, object, object]:
    """Spares them what a test has imported, too."""
    imported = len(sys.modules)
    try:
        return (yield)
    finally:
        if len(sys.modules) > imported:
            gc.collect()
            gc.freeze()
