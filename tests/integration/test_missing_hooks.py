"""Servers without what is hooked, and servers that are not there."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import types
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import pytest

from litestar_safe_sse._servers.shutdown import ShutdownWatch
from tests.bounds import WAIT
from tests.integration.embedded import InThread
from tests.integration.processes import ROOT
from tests.integration.watches import Callback, Handler, Log


def call_as(module: str, call: Callable[[], None]) -> None:
    """Makes a call from a function of a module of this name."""
    namespace: dict[str, Any] = {"__name__": module}
    exec("def make(call): call()", namespace)
    namespace["make"](call)


@pytest.mark.parametrize("module", ["uvicorn.lifespan.on", "hypercorn.asyncio.lifespan", "granian.asgi"])
def test_a_missing_hook_is_logged(monkeypatch: pytest.MonkeyPatch, module: str) -> None:
    """A server without what is hooked is named with its version, and what to do instead is said."""
    monkeypatch.setitem(sys.modules, "hypercorn.asyncio.run", types.ModuleType("hypercorn.asyncio.run"))
    log = Log()

    async def main() -> None:
        watch = ShutdownWatch(Callback(), log)
        call_as(module, watch.install)
        watch.uninstall()

    with InThread(lambda: asyncio.run(main())):
        pass
    server = module.partition(".")[0]
    (warning,) = log.warnings
    assert warning.startswith(f"{server} {version(server)} ")
    assert "Its shutdown" in warning
    assert "Remedy: set " in warning


def test_an_unknown_version_is_said_to_be(monkeypatch: pytest.MonkeyPatch, handler: Handler) -> None:
    """A server that is not installed as a distribution is named all the same."""

    def no_version(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr("litestar_safe_sse._servers.shutdown.version", no_version)
    log = Log()

    async def main() -> None:
        watch = ShutdownWatch(Callback(), log)
        call_as("uvicorn.lifespan.on", watch.install)
        watch.uninstall()

    asyncio.run(main())
    (warning,) = log.warnings
    assert warning.startswith("uvicorn (version unknown) ")
    assert "A shutdown without a signal" in warning


def test_importing_brings_no_server_in() -> None:
    """The module imports neither a server nor trio: it asks for those that are there."""
    code = "import sys; import litestar_safe_sse._servers.shutdown; print(*sys.modules)"
    output = subprocess.check_output([sys.executable, "-c", code], cwd=ROOT, text=True, timeout=WAIT)
    assert not {"uvicorn", "granian", "hypercorn", "daphne", "trio"} & set(output.split())
