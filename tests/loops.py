"""The event loops that a test runs on."""

from __future__ import annotations

import pytest

ASYNCIO = pytest.param(("asyncio", {"use_uvloop": False}), id="asyncio")
UVLOOP = pytest.param(("asyncio", {"use_uvloop": True}), id="uvloop")
TRIO = pytest.param(("trio", {}), id="trio")

on_asyncio = pytest.mark.parametrize("anyio_backend", [ASYNCIO, UVLOOP])
