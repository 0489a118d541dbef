"""The event loops that a test runs on."""

from __future__ import annotations

import pytest

ASYNCIO = pytest.param(("asyncio", {"use_uvloop": False}), id="asyncio")
UVLOOP = pytest.param(("asyncio", {"use_uvloop": True}), id="uvloop")
UVLOOP_AT_LENGTH = pytest.param(*UVLOOP.values, id=UVLOOP.id, marks=pytest.mark.long)
"""Where tests wait for real time to pass, and what is tested looks the same on each loop of asyncio's."""
TRIO = pytest.param(("trio", {}), id="trio")

on_asyncio = pytest.mark.parametrize("anyio_backend", [ASYNCIO, UVLOOP])
