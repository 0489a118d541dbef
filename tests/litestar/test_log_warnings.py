"""What failed, would not end or was left behind is a warning."""

from __future__ import annotations

import logging
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import anyio
import anyio.lowlevel
import pytest
import structlog

from litestar_safe_sse import sse_websocket
from litestar_safe_sse.testing import open_websocket
from tests.bounds import WAIT
from tests.litestar.clients import connect
from tests.litestar.clients import get as request
from tests.litestar.logs import Records, fail, serving, standard, streaming, structured

pytestmark = pytest.mark.anyio


async def until_left_behind(connection: Any) -> None:
    """The client leaves, and waits until the application has given up what does not end."""
    connection.leave()
    await connection.finished()


async def test_cleanup_that_failed_is_a_warning(records: Records) -> None:
    """A cleanup that failed is one warning, which names the handler, the cleanup and the exception."""
    async with serving(streaming(fail), standard(records)) as (app, _):
        response = await request(app)
        assert response.complete
        (line,) = records.lines(logging.WARNING)
        assert "a_handler" in line
        assert "fail" in line
        assert "LookupError('the pool is gone')" in line
        assert len(records.lines(logging.DEBUG)) == 1


async def test_cleanups_that_failed_are_reported_together(records: Records) -> None:
    """Several failures of one stream are one warning, and keep no other cleanup from running."""
    ran: list[str] = []

    def fail_too() -> None:
        raise ValueError("the other too")

    async with serving(streaming(fail, lambda: ran.append("between"), fail_too), standard(records)) as (app, _):
        await request(app)
        (line,) = records.lines(logging.WARNING)
        assert "2 cleanups failed" in line
        assert "the pool is gone" in line
        assert "the other too" in line
        assert ran == ["between"]


async def hang() -> None:
    await anyio.sleep_forever()


async def test_cleanup_that_timed_out_is_a_warning(records: Records) -> None:
    """A cleanup that does not end in time is cancelled, and is a warning that names it."""
    async with serving(streaming(hang), standard(records)) as (app, streams):
        await request(app)
        (line,) = records.lines(logging.WARNING)
        assert "a_handler" in line
        assert "hang" in line
        assert "TimeoutError" in line
        assert streams.statistics().open == 0


async def test_cleanup_that_refuses_to_end_is_a_warning(records: Records) -> None:
    """A cleanup that will not end though cancelled is left behind, and is a warning that names it."""
    release = anyio.Event()
    ran: list[str] = []

    async def refuse() -> None:
        while not release.is_set():
            try:
                with anyio.CancelScope(shield=True):
                    await release.wait()
            except BaseException:
                continue

    async with serving(streaming(lambda: ran.append("the rest"), refuse), standard(records)) as (app, streams):
        try:
            await request(app)
            (line,) = records.lines(logging.WARNING)
            assert "a_handler" in line
            assert "refuse" in line
            assert "left behind" in line
            assert ran == ["the rest"]
            assert streams.statistics().open == 0
        finally:
            release.set()
            await anyio.lowlevel.checkpoint()


async def test_body_that_would_not_end_is_a_warning(records: Records) -> None:
    """A body that will not end though cancelled is left behind, and is a warning that names the handler."""
    at_work, release = anyio.Event(), anyio.Event()

    async def stubborn() -> AsyncIterator[str]:
        yield "begun"
        at_work.set()
        while not release.is_set():
            try:
                with anyio.CancelScope(shield=True):
                    await release.wait()
            except BaseException:
                continue

    async with serving(streaming(content=stubborn), standard(records)) as (app, streams):
        try:
            async with connect(app) as connection:
                with anyio.fail_after(WAIT):
                    await at_work.wait()
                await until_left_behind(connection)
            (line,) = records.lines(logging.WARNING)
            assert "a_handler" in line
            assert "the body" in line
            assert "left behind" in line
            assert streams.statistics().open == 0
        finally:
            release.set()
            await anyio.lowlevel.checkpoint()


async def test_blocked_thread_is_a_warning(records: Records) -> None:
    """A sync body that blocks its thread for good is left behind, and is a warning that says so by name."""
    release = threading.Event()

    def blocked() -> Iterator[str]:
        yield "begun"
        release.wait(WAIT)

    async with serving(streaming(content=blocked), standard(records)) as (app, streams):
        try:
            async with connect(app) as connection:
                await connection.until_body(b"begun")
                await until_left_behind(connection)
            (line,) = records.lines(logging.WARNING)
            assert "a_handler" in line
            assert "thread" in line
            assert streams.statistics().open == 0
        finally:
            release.set()
            for thread in threading.enumerate():
                if thread.name.startswith("SSE body"):
                    await anyio.to_thread.run_sync(thread.join, WAIT)


async def test_body_that_fails_while_it_ends_is_a_warning(records: Records) -> None:
    """A body that raises in its ``finally`` after a stop is a warning: nobody else would hear of it."""

    async def failing() -> AsyncIterator[str]:
        try:
            yield "begun"
            await anyio.sleep_forever()
        finally:
            fail()

    async with serving(streaming(content=failing), standard(records)) as (app, _):
        async with connect(app) as connection:
            await connection.until_body(b"begun")
        (line,) = records.lines(logging.WARNING)
        assert "a_handler" in line
        assert "the pool is gone" in line


# Streams over WebSockets, whose failures no server hears of


@sse_websocket("/")
async def failing() -> AsyncIterator[str]:
    yield "one"
    raise LookupError("no such row")


async def test_websocket_that_failed_is_an_error(records: Records) -> None:
    """It names handler and stream, and has the traceback, which Litestar logs in debug mode only."""
    async with serving(failing, standard(records)) as (app, _), open_websocket(app, "/") as socket:
        assert (await socket.next()).data == "one"
        await socket.wait_closed()
    (line,) = records.lines(logging.ERROR)
    (record,) = (record for record in records.records if record.levelno == logging.ERROR)
    (closed,) = records.records[-1:]
    assert line.startswith(f"SSE stream {vars(closed)['stream']} of ")
    assert line.endswith("failing: ended by LookupError('no such row')")
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], LookupError)
    assert vars(record)["handler"] == vars(closed)["handler"]


async def test_websockets_that_failed_alike_are_counted(records: Records) -> None:
    """The first ten in a minute are logged, and then how many more there were."""
    async with serving(failing, standard(records)) as (app, _):
        for _ in range(13):
            async with open_websocket(app, "/") as socket:
                await socket.wait_closed()
    assert len(records.lines(logging.ERROR)) == 10
    (more,) = records.lines(logging.WARNING)
    assert "failing: 3 more have failed alike" in more


async def test_websocket_that_failed_is_an_error_with_structlog(records: Records) -> None:
    """With the exception for its processors."""
    config, capture = structured(structlog.stdlib.BoundLogger)
    async with serving(failing, config) as (app, _), open_websocket(app, "/") as socket:
        await socket.wait_closed()
    (entry,) = (entry for entry in capture.entries if entry["log_level"] == "error" and "stream" in entry)
    assert isinstance(entry["exc_info"], LookupError)
    assert entry["event"].endswith("ended by LookupError('no such row')")


async def test_websocket_that_ends_otherwise_is_no_error(records: Records) -> None:
    """Such as one that a client leaves."""

    @sse_websocket("/")
    async def waiting() -> AsyncIterator[str]:
        yield "one"
        await anyio.sleep_forever()

    async with serving(waiting, standard(records)) as (app, _), open_websocket(app, "/") as socket:
        await socket.next()
        await socket.disconnect()
    assert not records.lines(logging.ERROR)
    assert not records.lines(logging.WARNING)
