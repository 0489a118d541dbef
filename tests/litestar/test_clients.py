"""What much-used clients make of a stream that also says something by itself: they see what its body yields, alone.

Some dispatch an event for each empty line behind a field or a comment: fetch-event-source always; httpx-sse, and
openai-python that took its decoder over, once they have seen an id or a retry.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import anyio
import httpx
import httpx_sse
import pytest
from litestar import get

from litestar_safe_sse import SafeServerSentEvent, SafeSSEConfig, SSEMessage
from tests.bounds import START
from tests.litestar.apps import serving
from tests.litestar.clients import Connection, connect
from tests.node import install_node_packages

pytestmark = pytest.mark.anyio

HEARTBEATS = 3


def httpx_events(response: Connection) -> list[str]:
    received = httpx.Response(response.status, headers=response.header_list, content=response.body)
    return [event.data for event in httpx_sse.EventSource(received).iter_sse()]


def node_events(stream: bytes) -> dict[str, list[str]]:
    install_node_packages()
    script = Path(__file__).with_name("clients.mjs")
    output = subprocess.run(
        ["node", str(script)], input=stream, stdout=subprocess.PIPE, check=True, timeout=START
    ).stdout
    seen: dict[str, list[str]] = json.loads(output)
    return seen


async def heartbeats(connection: Connection, count: int, separator: str) -> None:
    await connection.until(lambda: connection.body.count(f": ping{separator}".encode()) >= count)


ITEMS: dict[str, Callable[[int], Any]] = {
    "text": lambda number: f"event {number}",
    "messages with ids": lambda number: SSEMessage(f"event {number}", id=number),
}


@pytest.mark.parametrize("separator", ["\r\n", "\n"])
@pytest.mark.parametrize("make", ITEMS.values(), ids=ITEMS)
async def test_clients_see_what_the_body_yields_and_nothing_else(make: Callable[[int], Any], separator: str) -> None:
    """Neither a heartbeat nor a comment is an event, nor is the reconnection time of the configuration."""
    go_on = [anyio.Event() for _ in range(HEARTBEATS)]

    async def body() -> AsyncIterator[Any]:
        for number, event in enumerate(go_on):
            await event.wait()
            yield make(number)

    @get("/")
    async def handler() -> SafeServerSentEvent:
        return SafeServerSentEvent(body(), comment_message="hello")

    config = SafeSSEConfig(ping_interval=0.01, retry=500, separator=separator)
    async with serving(handler, config=config) as (app, _), connect(app) as connection:
        for number, event in enumerate(go_on, 1):
            await heartbeats(connection, number, separator)
            event.set()
        await connection.finished()
    expected = [f"event {number}" for number in range(HEARTBEATS)]
    assert httpx_events(connection) == expected
    assert node_events(connection.body) == {"eventsource-parser": expected, "fetch-event-source": expected}
    assert connection.body.decode().startswith(f": hello{separator}: ping{separator}")
    assert connection.body.decode().count(f"retry: 500{separator}") == 1


@pytest.mark.parametrize("item", ["x", SSEMessage(["x"]), {"data": "x", "id": "7"}])
async def test_the_retry_of_the_configuration_is_in_the_first_events_block(item: Any) -> None:
    """Where every client looks for it; HTMX ignores it elsewhere."""

    @get("/")
    async def handler() -> SafeServerSentEvent:
        return SafeServerSentEvent([item, item])

    async with serving(handler, config=SafeSSEConfig(retry=500)) as (app, _), connect(app) as connection:
        await connection.finished()
    first, second, end = connection.body.split(b"\r\n\r\n")
    assert first == b"retry: 500\r\n" + second
    assert end == b""


async def test_a_stream_that_has_nothing_to_say_yet_begins_with_a_comment() -> None:
    """A proxy that compresses, or a server, holds the headers back until there is something of the body."""
    go_on = anyio.Event()

    async def body() -> AsyncIterator[str]:
        await go_on.wait()
        yield "x"

    @get("/")
    async def handler() -> SafeServerSentEvent:
        return SafeServerSentEvent(body())

    async with serving(handler) as (app, _), connect(app) as connection:
        await connection.until(lambda: connection.bodies)
        assert connection.bodies == [b":\r\n"]
        go_on.set()
        await connection.finished()
    assert connection.body == b":\r\ndata: x\r\n\r\n"


@pytest.mark.parametrize("content", [["x"], []])
async def test_a_stream_that_has_its_say_at_once_needs_none(content: list[str]) -> None:
    """Nor does one that is over."""

    @get("/")
    async def handler() -> SafeServerSentEvent:
        return SafeServerSentEvent(content)

    async with serving(handler) as (app, _), connect(app) as connection:
        await connection.finished()
    assert connection.body == b"".join(b"data: %b\r\n\r\n" % item.encode() for item in content)
