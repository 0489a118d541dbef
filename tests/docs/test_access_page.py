"""The recipes of the page about access, run: with Litestar's own authentication by a session and by a token."""

from __future__ import annotations

import importlib.util
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from litestar_safe_sse import CloseReason, SafeSSEPlugin
from tests.litestar.clients import connect, lifespan
from tests.litestar.clients import get as request

pytestmark = pytest.mark.anyio

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"


def load(name: str, directory: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs an example, which asks again sooner than half a minute later."""
    source = (EXAMPLES / f"{name}.py").read_text()
    assert source.count("reauthorize_interval=30") == 1
    path = directory / f"{name}.py"
    path.write_text(source.replace("reauthorize_interval=30", "reauthorize_interval=0.3"))
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, module)  # where Litestar looks up annotations
    spec.loader.exec_module(module)
    return module


@pytest.fixture(params=[("asyncio", {})], ids=["asyncio"])
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    return request.param


async def test_streams_end_when_the_session_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who logs out elsewhere, or is banned, has no stream any more; who isn't logged in has never had one."""
    example = load("access_by_session", tmp_path, monkeypatch)
    app, streams = example.app, example.plugin.streams
    async with lifespan(app):
        assert (await request(app, "/notifications")).status == 401
        cookies = []
        for _ in range(2):
            answer = await request(app, "/login?user=ann", method="POST")
            cookies.append([("cookie", answer.header_values("set-cookie")[0].partition(";")[0])])
        async with connect(app, "/notifications", headers=cookies[0]) as stream:
            await stream.until_body(b"hello ann")
            assert (await request(app, "/logout", method="POST", headers=cookies[0])).status == 201
            await stream.finished()
            assert stream.complete
        assert (await request(app, "/notifications", headers=cookies[0])).status == 401
        async with connect(app, "/notifications", headers=cookies[1]) as stream:
            await stream.until_body(b"hello ann")
            assert (await request(app, "/ban?user=ann", method="POST", headers=cookies[1])).body == b"1"
            await stream.finished()
            assert stream.complete
        assert streams.statistics().closed[CloseReason.REVOKED] == 2


@pytest.mark.parametrize("ends", ["expired", "withdrawn"])
async def test_streams_end_when_the_token_has(ends: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A token that expires, or is withdrawn, takes its stream with it."""
    monkeypatch.setenv("TOKEN_SECRET", "0123456789abcdef0123456789abcdef")
    example = load("access_by_token", tmp_path, monkeypatch)
    app, auth = example.app, example.auth
    streams = next(plugin for plugin in app.plugins if isinstance(plugin, SafeSSEPlugin)).streams
    lasts = timedelta(seconds=2 if ends == "expired" else 3600)
    token = auth.create_token("ann", token_expiration=lasts, token_unique_jwt_id="one")
    cookie = [("cookie", f"{auth.key}=Bearer {token}")]
    async with lifespan(app):
        assert (await request(app, "/notifications")).status == 401
        async with connect(app, "/notifications", headers=cookie) as stream:
            await stream.until_body(b"hello ann")
            if ends == "withdrawn":
                example.withdrawn.add("one")
            await stream.finished()
            assert stream.complete
        assert streams.statistics().closed == {CloseReason.REVOKED: 1}
