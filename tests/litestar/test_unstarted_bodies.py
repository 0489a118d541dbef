"""Bodies that are never started: an iterator is closed by its own ``aclose()`` or ``close()`` all the same."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING, Any

import anyio.lowlevel
import pytest
from litestar import Request, get, route

from litestar_safe_sse import SafeServerSentEvent, SafeSSEConfig
from tests.litestar.apps import serving, to_asgi
from tests.litestar.bodies import Trace, endless
from tests.litestar.clients import connect
from tests.litestar.clients import get as request

if TYPE_CHECKING:
    from litestar_safe_sse._core.registry import StreamRegistry

pytestmark = pytest.mark.anyio


class Upstream:
    """An async iterator whose ``__aiter__`` is a generator function, as those of clients of language models are."""

    def __init__(self, trace: Trace) -> None:
        self.trace = trace

    async def __aiter__(self) -> AsyncIterator[str]:
        yield await self.__anext__()

    async def __anext__(self) -> str:
        raise StopAsyncIteration

    async def aclose(self) -> None:
        await anyio.lowlevel.checkpoint()
        self.trace.append("closed")


class SyncUpstream:
    """The same, to be iterated over in a thread."""

    def __init__(self, trace: Trace) -> None:
        self.trace = trace

    def __iter__(self) -> Iterator[str]:
        yield self.__next__()

    def __next__(self) -> str:
        raise StopIteration

    def close(self) -> None:
        self.trace.append("closed")


class Broken(Upstream):
    """One that cannot be closed."""

    async def aclose(self) -> None:
        await super().aclose()
        raise LookupError("the upstream is gone")


async def answer(way: str, app: Any, streams: StreamRegistry) -> Any:
    """Has a stream answered in a way that starts no body."""
    if way == "shutdown":
        streams.begin_drain()
    return await request(app, f"/?way={way}", method="HEAD" if way == "head" else "GET")


def unstarting(content: Any) -> Any:
    """A handler whose first response's body is not started."""

    @route("/", http_method=["GET", "HEAD"])
    async def handler(request: Request[Any, Any, Any]) -> SafeServerSentEvent:
        response = SafeServerSentEvent(content())
        if request.query_params.get("way") == "replaced":
            to_asgi(response, request)
            return SafeServerSentEvent(["x"])
        if request.query_params.get("way") == "failed":
            to_asgi(response, request)
            raise LookupError
        return response

    return handler


@pytest.mark.parametrize("kind", [Upstream, SyncUpstream])
@pytest.mark.parametrize(("way", "status"), [("shutdown", 503), ("head", 200), ("replaced", 200), ("failed", 500)])
async def test_iterator_is_closed(trace: Trace, kind: Any, way: str, status: int) -> None:
    """An iterator is closed once if its stream is refused, asked for by HEAD, replaced, or if the handler fails."""
    async with serving(unstarting(lambda: kind(trace))) as (app, streams):
        assert (await answer(way, app, streams)).status == status
        assert trace == ["closed"]


@pytest.mark.parametrize("kind", [Upstream, SyncUpstream])
async def test_iterator_beyond_the_limit_is_closed(trace: Trace, kind: Any) -> None:
    """An iterator is closed once if too many streams are open."""

    @get("/endless")
    async def other() -> SafeServerSentEvent:
        return SafeServerSentEvent(endless([]))

    config = SafeSSEConfig(max_streams=1, cleanup_timeout=1)
    async with (
        serving(unstarting(lambda: kind(trace)), other, config=config) as (app, streams),
        connect(app, "/endless") as connection,
    ):
        await connection.until_body(b"begun")
        assert (await answer("limit", app, streams)).status == 503
        assert trace == ["closed"]


@pytest.mark.parametrize(("way", "status"), [("shutdown", 503), ("replaced", 200), ("failed", 500)])
async def test_iterator_that_cannot_be_closed(
    trace: Trace, way: str, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    """A failure to close it changes nothing of the answer, and is a warning in the log."""
    async with serving(unstarting(lambda: Broken(trace))) as (app, streams):
        assert (await answer(way, app, streams)).status == status
        assert trace == ["closed"]
        (record,) = [record for record in caplog.records if record.name == "litestar_safe_sse"]
        assert record.levelname == "WARNING"
        assert "the upstream is gone" in record.getMessage()
