"""The application of the matrices again, with the bodies over WebSockets: ours, and Litestar's for comparison."""

from collections.abc import AsyncGenerator
from typing import Any

import anyio
from litestar import Litestar
from litestar.di import Provide
from litestar.handlers import websocket_stream

from litestar_safe_sse import StreamContext, sse_websocket
from tests.bounds import NEVER
from tests.servers.app import (
    lifespan,
    on_shutdown,
    on_startup,
    plugin,
    progress,
    record,
    register,
    revoke,
    statistics,
    streams,
    visits,
)
from tests.servers.bodies import EVENTS, SPECIES, Visit, await_in_finally, flood
from tests.servers.websocket_bodies import BODIES, FAREWELL, GRACE, SEND_TIMEOUT


def arrive(stream: StreamContext, key: str, quiet: bool = False, limit: int = 1024) -> Visit:
    """Makes of a connection what a body is given."""
    record("entered", key)
    register(stream, key)
    streams[key] = stream
    visits[key] = Visit(key, lambda what: record(what, key), stream, quiet=quiet, limit=limit)
    return visits[key]


def arrive_at_litestar(key: str) -> Visit:
    visits[key] = Visit(key, lambda what: record(what, key), None)  # type: ignore[arg-type]
    return visits[key]


def handler(path: str, make: Any, **options: Any) -> Any:
    return sse_websocket(path, dependencies={"visit": Provide(arrive, sync_to_thread=False)}, **options)(make)


async def hello(stream: StreamContext, key: str) -> AsyncGenerator[str, None]:
    """Tells what the client resumes after."""
    register(stream, key)
    yield f"after {stream.last_event_id}"


def handlers() -> list[Any]:
    own = [handler(f"/ws/{name}", SPECIES[name].make) for name in BODIES]
    of_litestar = websocket_stream(
        "/litestar/await_in_finally", dependencies={"visit": Provide(arrive_at_litestar, sync_to_thread=False)}
    )
    return [
        *own,
        handler("/stalling/flood", flood, send_timeout=SEND_TIMEOUT),
        handler("/short/await_in_finally", await_in_finally, max_lifetime=1),
        handler("/patient/farewell", patient, shutdown_grace=GRACE),
        handler("/beating/await_in_finally", await_in_finally, ping_interval=0.05),
        sse_websocket("/hello")(hello),
        sse_websocket("/hello_first", resume_timeout=NEVER)(hello),
        of_litestar(await_in_finally),
    ]


async def patient(visit: Visit) -> AsyncGenerator[str, None]:
    """Says farewell when it is told to, which is long after the signal."""
    try:
        await visit.opening()
        assert not visit.stream.closing  # which asks for a grace, ahead of the event that the shutdown waits for
        for n in range(EVENTS):
            yield str(n)
        await visit.stream.wait_closing()
        visit.note("told")
        await anyio.sleep(FAREWELL)
        yield "farewell"
    finally:
        await visit.cleaning()


app = Litestar(
    [*handlers(), revoke, progress, statistics],
    plugins=[plugin],
    on_startup=[on_startup],
    openapi_config=None,
    on_shutdown=[on_shutdown],
    lifespan=[lifespan],
)
