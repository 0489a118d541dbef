"""How the tests are shared out among processes: whole files, and of the matrix of aborts one server at a time."""

from __future__ import annotations

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        callspec = getattr(item, "callspec", None)
        server = callspec.params.get("server") if callspec is not None else None
        item.add_marker(pytest.mark.xdist_group(f"{item.path.name} {getattr(server, 'name', '')}"))
