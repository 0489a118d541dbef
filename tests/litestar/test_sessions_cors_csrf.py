"""Sessions, CORS and CSRF protection do with a stream what they do with any response."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from litestar import Request, get, post
from litestar.config.cors import CORSConfig
from litestar.config.csrf import CSRFConfig
from litestar.middleware.session.client_side import CookieBackendConfig
from litestar.middleware.session.server_side import ServerSideSessionConfig
from litestar.stores.memory import MemoryStore

from litestar_safe_sse import SafeServerSentEvent, StreamContext
from tests.litestar.apps import serving
from tests.litestar.bodies import Trace, endless
from tests.litestar.clients import get as request

pytestmark = pytest.mark.anyio

SESSIONS = [CookieBackendConfig(secret=b"0123456789abcdef"), ServerSideSessionConfig()]


@pytest.mark.parametrize("session", SESSIONS)
async def test_session_is_read_and_stored(session: Any) -> None:
    """What the handler puts in a session is stored with the stream's headers and read by the next request."""

    @get("/set")
    async def put(request: Request[Any, Any, Any]) -> SafeServerSentEvent:
        request.session["name"] = "Ada"
        return SafeServerSentEvent(["stored"])

    @get("/get")
    async def read(request: Request[Any, Any, Any], stream: StreamContext) -> SafeServerSentEvent:
        async def body() -> AsyncIterator[str]:
            yield stream.request.session["name"]

        return SafeServerSentEvent(body())

    async with serving(put, read, middleware=[session.middleware], stores={"sessions": MemoryStore()}) as (app, _):
        stored = await request(app, "/set")
        cookie = stored.header_values("set-cookie")[0].partition(";")[0]
        response = await request(app, "/get", headers=[("cookie", cookie)])
        assert response.body == b"data: Ada\r\n\r\n"


async def test_cors() -> None:
    """A stream carries the headers of CORS, and its preflight begins none."""

    @get("/")
    async def handler() -> SafeServerSentEvent:
        return SafeServerSentEvent(["x"])

    cors = CORSConfig(allow_origins=["https://other.example"], allow_credentials=True)
    async with serving(handler, cors_config=cors) as (app, streams):
        origin = ("origin", "https://other.example")
        preflight = await request(app, method="OPTIONS", headers=[origin, ("access-control-request-method", "GET")])
        assert preflight.status == 204
        assert streams.statistics().opened == 0
        response = await request(app, headers=[origin])
        assert response.headers["access-control-allow-origin"] == "https://other.example"
        assert response.body == b"data: x\r\n\r\n"


async def test_csrf_refuses_without_a_stream(trace: Trace) -> None:
    """A request that CSRF protection refuses has no stream."""

    @post("/")
    async def handler(stream: StreamContext) -> SafeServerSentEvent:
        return SafeServerSentEvent(endless(trace))

    async with serving(handler, csrf_config=CSRFConfig(secret="0123456789abcdef")) as (app, streams):
        assert (await request(app, method="POST")).status == 403
        assert trace == []
        assert streams.statistics().opened == 0
