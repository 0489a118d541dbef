"""The OpenAPI schema knows nothing of contexts, and statistics can be answered with."""

from __future__ import annotations

import json

import pytest
from litestar import Litestar, get

from litestar_safe_sse import RegistryStatistics, SafeServerSentEvent, SafeSSEPlugin, StreamContext, StreamStatistics
from tests.litestar.apps import UNLOGGED, FromQuery
from tests.litestar.clients import get as request
from tests.litestar.clients import lifespan

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

    app = Litestar([with_context if injected else without], plugins=[SafeSSEPlugin()], **UNLOGGED)
    async with lifespan(app):
        response = await request(app, "/schema/openapi.json")
        assert response.status == 200
        assert b"StreamContext" not in response.body
        (path,) = app.openapi_schema.to_schema()["paths"].values()
        assert [parameter["name"] for parameter in path["get"]["parameters"]] == ["number"]


async def test_statistics_as_a_response() -> None:
    """An endpoint for monitoring returns them as they are: as JSON, and with their fields in the schema."""
    plugin = SafeSSEPlugin()

    @get("/all")
    async def of_all() -> RegistryStatistics:
        return plugin.streams.statistics()

    @get("/each")
    async def of_each(stream: StreamContext) -> list[StreamStatistics]:
        return [stream.statistics() for stream in plugin.streams]

    app = Litestar([of_all, of_each], plugins=[plugin], **UNLOGGED)
    async with lifespan(app):
        (each,) = json.loads((await request(app, "/each")).body)
        assert (each["state"], each["close_reason"], each["events"]) == ("new", None, 0)
        assert json.loads((await request(app, "/all")).body) == {
            "open": 0,
            "opened": 1,
            "refused": 0,
            "closed": {"completed": 1},
            "draining": False,
        }
        schema = json.loads((await request(app, "/schema/openapi.json")).body)
    schemas = {name.rpartition("_")[2]: value for name, value in schema["components"]["schemas"].items()}
    for statistics in (RegistryStatistics, StreamStatistics):
        assert set(schemas[statistics.__name__]["properties"]) == set(statistics.__struct_fields__)
