"""``Last-Event-ID`` from a query parameter: ``EventSource`` can set no header on its first request."""

from __future__ import annotations

import pytest
from litestar import get

from litestar_safe_sse import SafeServerSentEvent, SafeSSEConfig, StreamContext
from tests.litestar.apps import CONFIG, serving
from tests.litestar.clients import get as request

pytestmark = pytest.mark.anyio


def after(name: str | None) -> SafeSSEConfig:
    return SafeSSEConfig(last_event_id_query=name, max_last_event_id=8, ping_interval=None)


@pytest.mark.parametrize(
    ("query", "header", "value"),
    [
        ("?after=5", None, "5"),
        ("?topic=news&after=a%20b", None, "a b"),
        ("?after=a+b", None, "a b"),
        ("?after=%C3%A9", None, "é"),
        ("?after=1&after=2", None, "1"),
        ("?after=5", "6", "6"),
        ("?after=", None, None),
        ("?after=5", "", ""),
        ("?before=5", None, None),
        ("", None, None),
    ],
)
async def test_parameter_stands_for_the_header(query: str, header: str | None, value: str | None) -> None:
    """It is decoded as the header is, and the header, which a reconnecting browser adds, comes first."""
    seen: list[str | None] = []

    @get("/")
    async def handler(stream: StreamContext) -> SafeServerSentEvent:
        seen.append(stream.last_event_id)
        return SafeServerSentEvent(["x"])

    async with serving(handler, config=after("after")) as (app, _):
        headers = [] if header is None else [("Last-Event-ID", header)]
        assert (await request(app, f"/{query}", headers=headers)).status == 200
        assert seen == [value]


async def test_name_may_be_any_text() -> None:
    """The name is compared as UTF-8, which addresses are."""
    seen: list[str | None] = []

    @get("/")
    async def handler(stream: StreamContext) -> SafeServerSentEvent:
        seen.append(stream.last_event_id)
        return SafeServerSentEvent(["x"])

    async with serving(handler, config=after("après")) as (app, _):
        await request(app, "/?apr%C3%A8s=7")
        assert seen == ["7"]


@pytest.mark.parametrize("query", ["%00", "a%0Ab", "a%0D", "%FF", "123456789"])
async def test_parameter_that_no_event_can_have_had(query: str) -> None:
    """It is answered 400, as the header is, and named."""

    @get("/")
    async def handler(stream: StreamContext) -> SafeServerSentEvent:
        return SafeServerSentEvent(["x"])

    async with serving(handler, config=after("after")) as (app, streams):
        response = await request(app, f"/?after={query}")
        assert response.status == 400
        assert b"query parameter after" in response.body
        assert streams.statistics().opened == 0


async def test_no_parameter_is_read_unless_one_is_named() -> None:
    """An application may have a parameter of any name for something else."""
    seen: list[str | None] = []

    @get("/")
    async def handler(stream: StreamContext) -> SafeServerSentEvent:
        seen.append(stream.last_event_id)
        return SafeServerSentEvent(["x"])

    async with serving(handler, config=CONFIG) as (app, _):
        await request(app, "/?after=5&last_event_id=5&Last-Event-ID=5")
        assert seen == [None]
