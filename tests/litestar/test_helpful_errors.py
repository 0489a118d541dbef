"""Errors that say what to do."""

from __future__ import annotations

import subprocess
import sys
from typing import Annotated, Any

import pytest
from litestar import Litestar, WebSocket, get, websocket
from litestar.di import Provide
from litestar.exceptions import ImproperlyConfiguredException

from litestar_safe_sse import (
    InvalidFieldError,
    MissingPluginError,
    OutsideRequestError,
    SafeServerSentEvent,
    SafeSSEPlugin,
    StreamContext,
)
from tests.bounds import START
from tests.litestar.apps import PLAIN, NamedDependency, QueryParameter, collect, endless_and_brief, make_app, serving
from tests.litestar.bodies import Trace, endless
from tests.litestar.clients import get as request

pytestmark = pytest.mark.anyio


async def test_response_without_the_plugin(trace: Trace) -> None:
    """A response in an application without the plugin is a typed error that says how to register it."""
    seen: list[Exception] = []

    @get("/")
    async def handler() -> SafeServerSentEvent:
        return SafeServerSentEvent(endless(trace))

    app = Litestar([handler], after_exception=[collect(seen)], **PLAIN)
    response = await request(app)
    assert response.status == 500
    assert trace == []
    (error,) = seen
    assert isinstance(error, MissingPluginError)
    assert "plugins=[SafeSSEPlugin()]" in str(error)


RESPONSE = "async def handler() -> SafeServerSentEvent:\n    return SafeServerSentEvent(['x'])"
CONTEXT = "async def handler(stream: StreamContext) -> None: ..."


@pytest.mark.parametrize("handler", [RESPONSE, CONTEXT], ids=["response", "context"])
def test_missing_plugin_is_seen_without_any_configuration(handler: str) -> None:
    """Where Litestar's defaults log no exceptions, what is missing stands in the terminal."""
    script = f"""
from litestar import Litestar, get
from litestar.testing import TestClient
from litestar_safe_sse import SafeServerSentEvent, StreamContext

@get("/")
{handler}

with TestClient(Litestar([handler]), raise_server_exceptions=False) as client:
    assert client.get("/").status_code == 500
"""
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, check=True, timeout=START, capture_output=True, text=True)
    assert (done.stdout + done.stderr).count("needs its plugin") == 1


@pytest.mark.parametrize("query", ["", "?stream=1"])
async def test_context_without_the_plugin(query: str) -> None:
    """A context asked for in an application without the plugin is a typed error that says how to register it."""
    seen: list[Exception] = []
    app = Litestar(endless_and_brief([]), after_exception=[collect(seen)], **PLAIN)
    assert (await request(app, f"/brief{query}")).status == 500
    (error,) = seen
    assert isinstance(error, MissingPluginError)
    assert "plugins=[SafeSSEPlugin()]" in str(error)


def test_context_under_another_name_in_a_handler() -> None:
    """A handler's parameter that is a context, and is not called ``stream``, is refused at the start."""

    @get("/")
    async def handler(ctx: StreamContext) -> None: ...

    with pytest.raises(MissingPluginError, match=r"'ctx' of .*handler.* must be called 'stream'"):
        make_app(handler)


def test_context_under_another_name_in_a_websocket_handler() -> None:
    """The same of the handler of a WebSocket."""

    @websocket("/")
    async def handler(socket: WebSocket[Any, Any, Any], ctx: StreamContext) -> None: ...

    with pytest.raises(MissingPluginError, match=r"'ctx' of .*handler.* must be called 'stream'"):
        make_app(handler)


def test_context_under_another_name_in_a_dependency() -> None:
    """The same of a dependency of a handler."""

    async def provide(ctx: StreamContext) -> str:
        return ctx.id

    @get("/", dependencies={"value": Provide(provide)})
    async def handler(value: NamedDependency[str]) -> None: ...

    with pytest.raises(MissingPluginError, match=r"'ctx' of .* must be called 'stream'"):
        make_app(handler)


async def test_context_that_the_user_provides_under_another_name() -> None:
    """A dependency of the user's may hand a context on under any name."""

    async def provide(stream: StreamContext) -> StreamContext:
        return stream

    @get("/", dependencies={"ctx": Provide(provide)})
    async def handler(ctx: StreamContext, stream: StreamContext) -> SafeServerSentEvent:
        return SafeServerSentEvent([str(ctx is stream)])

    async with serving(handler) as (app, _):
        assert (await request(app)).body == b"data: True\r\n\r\n"


def test_context_outside_a_request() -> None:
    """A context cannot be made by hand; the error says how to ask for one."""
    with pytest.raises(OutsideRequestError, match="stream: StreamContext"):
        StreamContext()


def test_context_of_another_type_in_a_handler() -> None:
    """A handler's parameter ``stream`` of another type is refused when the application is made."""

    @get("/")
    async def handler(stream: NamedDependency[bool]) -> None: ...

    with pytest.raises(ImproperlyConfiguredException, match="rename the parameter"):
        make_app(handler)


def test_context_of_another_type_in_a_websocket_handler() -> None:
    """A WebSocket handler's parameter ``stream`` of another type is refused when the application is made."""

    @websocket("/")
    async def handler(socket: WebSocket[Any, Any, Any], stream: NamedDependency[bool]) -> None: ...

    with pytest.raises(ImproperlyConfiguredException, match="rename the parameter"):
        make_app(handler)


def test_context_of_another_type_in_a_dependency() -> None:
    """A dependency's parameter ``stream`` of another type is refused when the application is made."""

    async def provide(stream: NamedDependency[bool]) -> int:
        return int(stream)

    @get("/", dependencies={"value": Provide(provide)})
    async def handler(value: NamedDependency[int]) -> None: ...

    with pytest.raises(ImproperlyConfiguredException, match="rename the parameter"):
        make_app(handler)


async def test_query_parameter_keeps_its_name_as_an_alias() -> None:
    """A query parameter may be called ``stream`` on the wire, as the error advises."""

    @get("/")
    async def handler(wanted: Annotated[bool, QueryParameter(name="stream")]) -> str:
        return str(wanted)

    async with serving(handler) as (app, _):
        assert (await request(app, "/?stream=true")).body == b"True"


def test_config_of_another_type() -> None:
    """A plugin takes a ``SafeSSEConfig``, and says so."""
    with pytest.raises(InvalidFieldError, match="SafeSSEConfig"):
        SafeSSEPlugin({"ping_interval": 1})  # type: ignore[arg-type]


async def test_close_with_something_that_is_no_reason() -> None:
    """``aclose()`` takes a ``CloseReason``, and says so."""
    seen: list[Exception] = []

    @get("/")
    async def handler(stream: StreamContext) -> SafeServerSentEvent:
        await stream.aclose("closed")  # type: ignore[arg-type]
        return SafeServerSentEvent(["x"])

    async with serving(handler, after_exception=[collect(seen)]) as (app, _):
        assert (await request(app)).status == 500
        assert [type(exc) for exc in seen] == [InvalidFieldError]
