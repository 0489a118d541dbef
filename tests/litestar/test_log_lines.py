"""A stream is logged once, when it has ended."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import pytest
import structlog
from litestar import get
from litestar.exceptions import LitestarException

from litestar_safe_sse import CloseReason, SafeServerSentEvent, sse
from litestar_safe_sse.testing import open_websocket
from tests.litestar.clients import connect
from tests.litestar.clients import get as request
from tests.litestar.logs import Records, endless, fail, serving, standard, streaming, structured

if TYPE_CHECKING:
    from litestar_safe_sse import StreamContext

pytestmark = pytest.mark.anyio


async def test_a_stream_is_one_line_at_debug(records: Records) -> None:
    """A stream is logged once, when it has ended: its handler, its reason, its events."""
    async with serving(streaming(), standard(records)) as (app, _):
        await request(app)
        (line,) = records.lines(logging.DEBUG)
        assert "a_handler" in line
        assert "completed" in line
        assert "2 events" in line
        await request(app)
        assert len(records.lines(logging.DEBUG)) == 2
        assert len(records.records) == 2


async def test_a_line_has_the_streams_id_and_reason(records: Records) -> None:
    """The line has the identifier that the handler sees, and the reason that the cleanups see."""
    ids: list[str] = []

    @get("/")
    async def a_handler(stream: StreamContext) -> SafeServerSentEvent:
        ids.append(stream.id)
        return SafeServerSentEvent(endless())

    async with serving(a_handler, standard(records)) as (app, _):
        async with connect(app) as connection:
            await connection.until_body(b"begun")
        (line,) = records.lines(logging.DEBUG)
        assert ids[0] in line
        assert str(CloseReason.CLIENT_DISCONNECTED) in line


async def test_nothing_is_logged_above_debug_for_ordinary_streams(records: Records) -> None:
    """Where debug is off, ordinary streams are silent, those of clients that left included."""
    async with serving(streaming(content=endless), standard(records, "INFO")) as (app, _):
        logging.getLogger("litestar").setLevel(logging.INFO)
        async with connect(app) as connection:
            await connection.until_body(b"begun")
        assert records.records == []


async def test_stream_that_no_response_took_is_logged_too(records: Records) -> None:
    """A stream whose handler failed is one line, too."""

    @get("/")
    async def a_handler(stream: StreamContext) -> SafeServerSentEvent:
        raise LookupError

    async with serving(a_handler, standard(records)) as (app, _):
        await request(app)
        (line,) = records.lines(logging.DEBUG)
        assert "a_handler" in line
        assert "error" in line


async def test_body_that_fails_is_raised_and_not_logged(records: Records) -> None:
    """A body that fails by itself is raised to the server, which logs it; there is no second report."""

    async def failing() -> AsyncIterator[str]:
        yield "begun"
        fail()

    async with serving(streaming(content=failing), standard(records)) as (app, _):
        async with connect(app) as connection:
            assert isinstance(await connection.finished(), LitestarException)
        assert records.lines(logging.WARNING) == []
        (line,) = records.lines(logging.DEBUG)
        assert "error" in line


async def test_the_line_has_fields(records: Records) -> None:
    """With the standard library they are the record's own: reason, duration, events and bytes."""
    async with serving(streaming(), standard(records)) as (app, _):
        response = await request(app)
    (record,) = records.records
    fields = vars(record)
    assert fields["reason"] == "completed"
    assert fields["events"] >= 1
    assert fields["bytes"] == len(response.body)
    assert fields["duration"] >= 0
    assert f"{len(response.body)} bytes" in record.getMessage()


async def test_the_line_has_fields_of_structlog() -> None:
    """They are keys of the event."""
    config, capture = structured(structlog.make_filtering_bound_logger(logging.DEBUG))
    async with serving(streaming(), config) as (app, _):
        response = await request(app)
    (entry,) = [entry for entry in capture.entries if entry["event"].startswith("SSE stream")]
    assert (entry["reason"], entry["bytes"]) == ("completed", len(response.body))
    assert {"stream", "handler", "duration", "events"} <= set(entry)


async def test_warnings_that_are_alike_are_counted(records: Records) -> None:
    """Ten are logged one by one, and the others by one line, at the shutdown at the latest."""
    async with serving(streaming(fail), standard(records, "INFO")) as (app, _):
        for _number in range(30):
            await request(app)
        assert len(records.lines(logging.WARNING)) == 10
    (*_, last) = records.lines(logging.WARNING)
    assert "20 more have failed alike" in last
    assert "a_handler" in last


async def test_warnings_of_websockets_are_counted_too(records: Records) -> None:
    """Beside those of the same function's streams over HTTP, which are of the same handler."""

    @sse("/", websocket="/ws", name="both")
    async def a_handler(stream: StreamContext) -> AsyncIterator[str]:
        stream.callback(fail)
        yield "one"

    async with serving(a_handler, standard(records, "INFO")) as (app, _):
        for _number in range(200):
            async with open_websocket(app, "/ws") as socket:
                await socket.wait_closed()
        assert len(records.lines(logging.WARNING)) == 10
        await request(app)
    *_, last = records.lines(logging.WARNING)
    assert "191 more have failed alike" in last
    assert "a_handler" in last
