"""Errors that say what to do."""

from __future__ import annotations

from typing import Annotated, Any

import litestar.di
import pytest
from litestar import Litestar, WebSocket, get, websocket
from litestar.di import Provide
from litestar.exceptions import ImproperlyConfiguredException
from litestar.testing import TestClient

from litestar_safe_sse import (
    InvalidFieldError,
    MissingPluginError,
    OutsideRequestError,
    SafeServerSentEvent,
    SafeSSEPlugin,
    StreamContext,
)
from tests.litestar.apps import NamedDependency, QueryParameter, collect, endless_and_brief, make_app, serving
from tests.litestar.bodies import Trace, endless
from tests.litestar.clients import get as request

pytestmark = pytest.mark.anyio


async def test_response_without_the_plugin(trace: Trace) -> None:
    """A response in an application without the plugin is a typed error that says how to register it."""
    seen: list[Exception] = []

    @get("/")
    async def handler() -> SafeServerSentEvent:
        return SafeServerSentEvent(endless(trace))

    app = Litestar([handler], logging_config=None, openapi_config=None, after_exception=[collect(seen)])
    response = await request(app)
    assert response.status == 500
    assert trace == []
    (error,) = seen
    assert isinstance(error, MissingPluginError)
    assert "plugins=[SafeSSEPlugin()]" in str(error)


def test_context_without_the_plugin() -> None:
    """A context asked for in an application without the plugin is refused, by older Litestars at the request only."""

    def ask() -> int:
        with TestClient(Litestar(endless_and_brief([]), logging_config=None, openapi_config=None)) as client:
            return client.get("/brief").status_code

    if hasattr(litestar.di, "NamedDependency"):  # from Litestar 2.23
        with pytest.raises(ImproperlyConfiguredException, match="stream"):
            ask()
    else:
        assert ask() == 400


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
