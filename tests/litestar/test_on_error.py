"""A body that fails, of which the client is told by a last event and a proper end."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from typing import Any

import pytest
from litestar import get
from msgspec import Struct

from litestar_safe_sse import (
    CloseReason,
    InvalidFieldError,
    SafeServerSentEvent,
    SafeSSEConfig,
    SSEMessage,
    StreamContext,
    sse,
)
from tests.litestar.apps import FromQuery, cause, cleaned, closed, serving
from tests.litestar.bodies import Trace
from tests.litestar.clients import Connection, connect

pytestmark = pytest.mark.anyio


class Problem(Struct):
    title: str


async def failing(count: int = 1, error: BaseException | None = None) -> AsyncIterator[object]:
    for number in range(count):
        yield number
    raise error or LookupError("the upstream is gone")


def problem(error: Exception) -> SSEMessage:
    return SSEMessage(str(error), event="problem")


async def answer(
    content: Any = None, *, trace: Trace | None = None, on_error: Any = None, **response: Any
) -> tuple[Connection, BaseException | None]:
    """Streams a body with the plugin's ``on_error``; returns what was sent, and what the application raised."""

    @get("/")
    async def handler(stream: StreamContext) -> SafeServerSentEvent:
        cleaned([] if trace is None else trace, stream)
        return SafeServerSentEvent(content or failing(), **response)

    config = SafeSSEConfig(cleanup_timeout=1, on_error=on_error)
    async with serving(handler, config=config) as (app, streams):
        async with connect(app) as connection:
            failure = await connection.finished()
        assert closed(streams) == {CloseReason.ERROR: 1}
    return connection, cause(failure)


async def test_client_is_told_and_the_error_is_raised(trace: Trace) -> None:
    """The last event follows those that were yielded, the end is a proper one, and the error is reported as before."""
    response, failure = await answer(on_error=problem, trace=trace)
    assert response.body == b"data: 0\r\n\r\nevent: problem\r\ndata: the upstream is gone\r\n\r\n"
    assert response.complete
    assert isinstance(failure, LookupError)
    assert trace == ["cleaned: error"]


async def test_without_it_the_response_is_cut() -> None:
    """By default nothing is sent after the last event that was yielded, not even an end."""
    response, failure = await answer()
    assert response.body == b"data: 0\r\n\r\n"
    assert not response.complete
    assert isinstance(failure, LookupError)


async def test_body_that_fails_at_once() -> None:
    """A body that has yielded nothing is told of alike: the headers have been sent."""
    response, _ = await answer(failing(0), on_error=problem)
    assert response.body == b"event: problem\r\ndata: the upstream is gone\r\n\r\n"
    assert response.complete


@pytest.mark.parametrize(
    ("made", "body"),
    [
        ("text", b"data: text\r\n\r\n"),
        ({"event": "e", "data": {"a": 1}}, b'event: e\r\ndata: {"a":1}\r\n\r\n'),
        (Problem("t"), b'data: {"title":"t"}\r\n\r\n'),
        (0, b"data: 0\r\n\r\n"),
        ("", b"data: \r\n\r\n"),
    ],
)
async def test_whatever_a_body_may_yield(made: object, body: bytes) -> None:
    """What ``on_error`` returns is sent as if the body had yielded it."""
    response, _ = await answer(failing(0), on_error=lambda _: made)
    assert response.body == body
    assert response.complete


async def test_event_that_cannot_be_sent() -> None:
    """An item that cannot be sent is told of as well."""
    response, failure = await answer(["one", {"id": "a\nb"}], on_error=lambda error: type(error).__name__)
    assert response.body == b"data: one\r\n\r\ndata: InvalidFieldError\r\n\r\n"
    assert response.complete
    assert isinstance(failure, InvalidFieldError)


async def test_body_that_ends_itself() -> None:
    """A body that ends by what is no ``Exception`` has failed too, and the error that is told says how."""

    class Ended(BaseException):
        pass

    response, _ = await answer(failing(0, Ended()), on_error=str)
    assert response.body == b"data: the body ended itself by Ended()\r\n\r\n"
    assert response.complete


async def test_function_that_declines() -> None:
    """``None`` leaves an error without an event, and the response is cut."""
    response, _ = await answer(on_error=lambda _: None)
    assert response.body == b"data: 0\r\n\r\n"
    assert not response.complete


def fail(_: Exception) -> None:
    raise ZeroDivisionError("in on_error")


@pytest.mark.parametrize(
    ("on_error", "says"),
    [
        (fail, "in on_error"),
        (lambda _: {"id": "a\nb"}, "id"),
        (lambda _: object(), "object"),
        (lambda _: sys.exit("in on_error"), "in on_error"),
    ],
)
async def test_function_that_fails(on_error: Any, says: str, caplog: pytest.LogCaptureFixture) -> None:
    """One that fails, or returns what cannot be sent, is reported; the response is cut, and the error is the body's."""
    response, failure = await answer(on_error=on_error)
    assert response.body == b"data: 0\r\n\r\n"
    assert not response.complete
    assert isinstance(failure, LookupError)
    (record,) = [record for record in caplog.records if "on_error" in record.getMessage()]
    assert record.levelname == "WARNING"
    assert says in record.getMessage()


async def test_function_of_a_response() -> None:
    """A response's own goes before the plugin's, and ``None`` switches it off."""
    options: dict[str, Any] = {"own": {"on_error": lambda _: "own"}, "none": {"on_error": None}, "plugins": {}}

    @get("/")
    async def handler(kind: FromQuery[str]) -> SafeServerSentEvent:
        return SafeServerSentEvent(failing(0), **options[kind])

    async with serving(handler, config=SafeSSEConfig(on_error=lambda _: "plugin")) as (app, _):
        for kind, body in (("own", b"data: own\r\n\r\n"), ("none", b""), ("plugins", b"data: plugin\r\n\r\n")):
            async with connect(app, f"/?kind={kind}") as connection:
                await connection.finished()
            assert connection.body == body
            assert connection.complete is bool(body)


async def test_event_that_an_annotation_has_to_name(caplog: pytest.LogCaptureFixture) -> None:
    """Where the items of a generator are validated, the last one is; a handler that names it has it sent."""

    @sse("/declared", validate=True, on_error=lambda error: Problem(str(error)))
    async def declared() -> AsyncIterator[str | Problem]:
        yield "one"
        raise LookupError("gone")

    @sse("/other", validate=True, on_error=lambda error: Problem(str(error)))
    async def other() -> AsyncIterator[str]:
        yield "one"
        raise LookupError("gone")

    async with serving(declared, other) as (app, _):
        for path, told in (("/declared", b'data: {"title":"gone"}\r\n\r\n'), ("/other", b"")):
            async with connect(app, path) as connection:
                await connection.finished()
            assert connection.body == b"data: one\r\n\r\n" + told
            assert connection.complete is bool(told)
    assert "on_error" in caplog.text
    assert "Problem" in caplog.text


async def test_client_that_has_left_is_told_nothing(trace: Trace) -> None:
    """A body that fails because its client left is no error of which anybody could be told."""
    told: list[Exception] = []

    async def body(stream: StreamContext) -> AsyncIterator[str]:
        yield "begun"
        try:
            await stream.wait_closing()
        finally:
            raise LookupError

    @get("/")
    async def handler(stream: StreamContext) -> SafeServerSentEvent:
        return SafeServerSentEvent(body(stream), on_error=told.append)

    async with serving(handler) as (app, streams):
        async with connect(app) as connection:
            await connection.until_body(b"begun")
        assert closed(streams) == {CloseReason.CLIENT_DISCONNECTED: 1}
        assert told == []


def test_coroutine_function_is_refused() -> None:
    """It is called where nothing can be awaited."""

    async def on_error(_: Exception) -> str:
        raise AssertionError

    with pytest.raises(InvalidFieldError, match=r"invalid on_error: must be a function, .*, or None, not function"):
        SafeSSEConfig(on_error=on_error)
    with pytest.raises(InvalidFieldError, match="invalid on_error"):
        SafeServerSentEvent(["x"], on_error="problem")  # type: ignore[arg-type]
