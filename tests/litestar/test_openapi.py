"""The OpenAPI schema knows nothing of contexts."""

from __future__ import annotations

import pytest
from asgi_client import get as request
from asgi_client import lifespan
from litestar import Litestar, get
from manners import FromQuery

from litestar_safe_sse import SafeServerSentEvent, SafeSSEPlugin, StreamContext

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("injected", [False, True])
async def test_openapi_schema(injected: bool) -> None:
    """The OpenAPI schema can be made, has the handler's own parameters, and no trace of the context."""

    @get("/with")
    async def with_context(stream: StreamContext, number: FromQuery[int]) -> SafeServerSentEvent:
        return SafeServerSentEvent([number])

    @get("/without")
    async def without(number: FromQuery[int]) -> SafeServerSentEvent:
        return SafeServerSentEvent([number])

    app = Litestar([with_context if injected else without], plugins=[SafeSSEPlugin()], logging_config=None)
    async with lifespan(app):
        response = await request(app, "/schema/openapi.json")
        assert response.status == 200
        assert b"StreamContext" not in response.body
        (path,) = app.openapi_schema.to_schema()["paths"].values()
        assert [parameter["name"] for parameter in path["get"]["parameters"]] == ["number"]
