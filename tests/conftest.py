"""How the tests are shared out among processes: whole files, or what a file tests of one server or one log."""

from __future__ import annotations

import gc
from collections.abc import Generator

import pytest

for part in ("core", "docs", "example", "integration", "litestar", "servers", "sources", "unit"):
    pytest.register_assert_rewrite(f"tests.{part}")  # so that a helper's assertion tells what it has seen


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        parameters = getattr(getattr(item, "callspec", None), "params", {})
        part = next((parameters[name] for name in ("server", "kind", "case") if name in parameters), "")
        item.add_marker(pytest.mark.xdist_group(f"{item.path.name} {getattr(part, 'name', part)}"))


@pytest.hookimpl(wrapper=True)
def pytest_runtestloop() -> Generator[None, object, object]:
    """Spares the collections of garbage, which nearly all tests make, what has been imported: 2 ms in place of 60."""
    gc.collect()
    gc.freeze()
    try:
        return (yield)
    finally:
        gc.unfreeze()
