"""Sessions of advanced-alchemy that live as long as streams, on a real database and a real Uvicorn."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import pytest
from advanced_alchemy.extensions.litestar import SQLAlchemyAsyncConfig, SQLAlchemyPlugin
from httpx_sse import EventSource, ServerSentEvent
from litestar import Litestar
from litestar.di import NamedDependency
from sqlalchemy.ext.asyncio import AsyncSession

from litestar_safe_sse import SafeSSEPlugin, ShortLivedDependencyWarning, sse
from tests.bounds import WAIT
from tests.docs.processes import ServerProcess, leave, reset, running

HERE = Path(__file__).parent
EXAMPLES = HERE.parents[1] / "docs" / "examples" / "database"
STREAMS = 20

Abort = Callable[[httpx.Response], None]
aborts = pytest.mark.parametrize("abort", [leave, reset])


@pytest.fixture
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ServerProcess]:
    database = f"sqlite+aiosqlite:///{tmp_path / 'orders.db'}"
    app = getattr(request, "param", "counting:app")
    with running(app, HERE, DATABASE=database, PYTHONPATH=f"{EXAMPLES}:{HERE.parents[1]}") as server:
        yield server


commits = pytest.mark.parametrize("server", ["committing:app"], indirect=True)


@contextmanager
def streams(server: ServerProcess, path: str) -> Iterator[tuple[list[httpx.Response], list[Iterator[ServerSentEvent]]]]:
    """As many clients as the pool has connections, which are connected for the length of the block."""
    limits = httpx.Limits(max_connections=None)
    with ExitStack() as stack:
        client = stack.enter_context(httpx.Client(base_url=server.url, timeout=WAIT, limits=limits))
        responses = [stack.enter_context(client.stream("GET", path)) for _ in range(STREAMS)]
        yield responses, [EventSource(response).iter_sse() for response in responses]


def place(server: ServerProcess, item: str) -> None:
    assert httpx.post(f"{server.url}/orders", params={"item": item}).status_code == 201


def in_use(server: ServerProcess) -> int:
    return int(httpx.get(f"{server.url}/connections").json())


@aborts
def test_streams_that_keep_their_transaction_hold_a_connection_each(server: ServerProcess, abort: Abort) -> None:
    """And none is out once their clients have left, in either way."""
    place(server, "tea")
    with streams(server, "/orders/kept") as (responses, events):
        assert {next(each).data for each in events} == {'{"item":"tea"}'}
        assert in_use(server) == STREAMS
        for response in responses:
            abort(response)
        server.until(lambda: in_use(server) == 0)


@aborts
def test_streams_that_end_it_hold_none(server: ServerProcess, abort: Abort) -> None:
    """While they wait, others have the whole pool, and what these write is told by all."""
    place(server, "tea")
    with streams(server, "/orders") as (responses, events):
        assert {next(each).data for each in events} == {'{"item":"tea"}'}
        server.until(lambda: in_use(server) == 0)
        place(server, "milk")
        assert {next(each).data for each in events} == {'{"item":"milk"}'}
        for response in responses:
            abort(response)
        server.until(lambda: in_use(server) == 0)


def test_streams_that_hold_connections_are_ended_by_a_shutdown(server: ServerProcess) -> None:
    """Every connection is back before the engine is disposed of, and nobody complains."""
    place(server, "tea")
    with streams(server, "/orders/kept") as (_, events):
        for each in events:
            next(each)
        server.terminate()
    assert server.process.returncode in (0, -15)
    assert "garbage" not in server.output, server.output


def ordered(server: ServerProcess, path: str, item: str) -> list[str]:
    """Places an order; returns what the response streams."""
    with httpx.stream("POST", f"{server.url}{path}", params={"item": item}, timeout=WAIT) as response:
        assert response.status_code == 200
        return [event.data for event in EventSource(response).iter_sse()]


@commits
def test_what_the_plugin_commits_with_the_headers_is_there_for_the_body(server: ServerProcess) -> None:
    """The handler, the commit, the body, in that order: with a cold pool and with a warm one."""
    assert ordered(server, "/own", "tea") == ["tea", "handler committed body"]
    assert ordered(server, "/own", "milk") == ["tea,milk", "handler committed body"]
    assert in_use(server) == 0


@commits
def test_body_that_goes_on_with_the_session_of_its_handler_has_its_events(server: ServerProcess) -> None:
    """The plugin has closed it with the headers, and not beside the body, so it begins anew."""
    assert ordered(server, "/injected", "tea") == ["tea", "end"]
    assert ordered(server, "/injected", "milk") == ["tea", "milk", "end"]
    server.until(lambda: in_use(server) == 0)


@commits
@aborts
def test_clients_that_leave_at_the_commit_leave_no_connection_out(server: ServerProcess, abort: Abort) -> None:
    """Wherever the commit, or the body, stood."""
    limits = httpx.Limits(max_connections=None)
    with httpx.Client(base_url=server.url, timeout=WAIT, limits=limits) as client:
        for path in ("/own", "/injected") * 5:
            with ExitStack() as stack:
                response = stack.enter_context(client.stream("POST", path, params={"item": "tea"}))
                abort(response)
        server.until(lambda: in_use(server) == 0)
    assert "garbage" not in server.output, server.output


def test_session_of_the_plugin_is_warned_of(tmp_path: Path) -> None:
    """It is no generator, but the plugin closes it when the headers are sent."""
    alchemy = SQLAlchemyAsyncConfig(connection_string=f"sqlite+aiosqlite:///{tmp_path / 'orders.db'}")

    @sse("/")
    async def handler(db_session: NamedDependency[AsyncSession]) -> AsyncIterator[str]:
        yield "never asked for"

    with pytest.warns(ShortLivedDependencyWarning, match=r"'db_session': StreamProvide\(config\.get_session\)"):
        Litestar([handler], plugins=[SafeSSEPlugin(), SQLAlchemyPlugin(alchemy)], openapi_config=None)
