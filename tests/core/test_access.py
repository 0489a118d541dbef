"""The right to a stream ends: it is revoked, and nothing more is sent."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from inspect import iscoroutinefunction
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from litestar_safe_sse import CloseReason, InvalidFieldError, SafeSSEConfig, StreamContext
from tests.bounds import NEVER, SHORT, WAIT
from tests.core.apps import PATIENT, App, Probe, Server, check
from tests.core.bodies import parked, waiting
from tests.core.clients import Connection
from tests.loops import ASYNCIO, TRIO, UVLOOP_AT_LENGTH

pytestmark = pytest.mark.anyio


@pytest.fixture(params=[ASYNCIO, UVLOOP_AT_LENGTH, TRIO])
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    return request.param


NO_TIME = 0.005


async def revoke(server: Server, connection: Connection) -> None:
    await connection.until(lambda got: b"data" in got.body)
    assert server.probe.stream is not None
    await server.probe.stream.aclose(CloseReason.REVOKED)


# A revoked stream sends nothing more


async def talkative(probe: Probe, stream: StreamContext) -> AsyncIterator[str]:
    try:
        probe.note("began")
        yield "one"
        await anyio.sleep_forever()
    finally:
        probe.note("finally")
        yield "farewell"


@pytest.mark.parametrize("body", [waiting, parked, talkative])
async def test_a_revoked_stream_ends_properly_and_says_no_more(body: Any) -> None:
    """What the body yields on its way out is not sent; the end is, so that the client asks again, and is refused."""
    server, connection = Server(body), Connection()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(server.run, connection)
        await revoke(server, connection)
    check(server, CloseReason.REVOKED)
    assert connection.complete
    assert b"farewell" not in connection.body


async def test_what_was_ready_is_not_sent() -> None:
    """Events that wait for the writer at the moment of the revocation are dropped."""

    async def body(probe: Probe, stream: StreamContext) -> AsyncIterator[str]:
        yield "one"
        await stream.flush()
        (own,) = server.streams
        for _ in range(3):
            own._buffer.put("secret")  # as if it were yielded in this very step
        assert own.statistics().bytes_pending > 0
        await stream.aclose(CloseReason.REVOKED)
        yield "another"

    server, connection = Server(body), Connection()
    await server.run(connection)
    assert server.probe.reason is CloseReason.REVOKED
    assert connection.body == b"data: one\r\n\r\n"
    assert connection.complete


async def test_what_is_blocked_is_taken_back() -> None:
    """A ``send()`` that the client holds up is cancelled, and followed by nothing, not even an end."""
    blocked = anyio.Event()

    class Stalled(Connection):
        async def send(self, message: dict[str, Any]) -> None:
            if b"two" in message.get("body", b""):
                blocked.set()
                await anyio.sleep_forever()
            await super().send(message)

    async def body(probe: Probe, stream: StreamContext) -> AsyncIterator[str]:
        probe.note("began")
        try:
            yield "one"
            await stream.flush()
            yield "two"
            await anyio.sleep_forever()
        finally:
            probe.note("finally")

    server, connection = Server(body), Stalled()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(server.run, connection)
        with anyio.fail_after(WAIT):
            await blocked.wait()
        assert server.probe.stream is not None
        await server.probe.stream.aclose(CloseReason.REVOKED)
    check(server, CloseReason.REVOKED)
    assert connection.body == b"data: one\r\n\r\n"
    assert not connection.complete


async def test_a_stream_that_is_closing_already_is_silenced_too() -> None:
    """In the grace of another reason, which stays, nothing more is sent once the right is withdrawn."""

    async def body(probe: Probe, stream: StreamContext) -> AsyncIterator[str]:
        assert not stream.closing  # which asks for a grace, ahead of the event that its end waits for
        yield "one"
        await stream.wait_closing()
        probe.note("closing")
        await probe.until("revoked")
        yield "farewell"

    server, connection = Server(body, replace(PATIENT, shutdown_grace=NEVER)), Connection()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(server.run, connection)
        await connection.until(lambda got: b"one" in got.body)
        (stream,) = server.streams
        stream.close(CloseReason.MAX_LIFETIME)
        await server.probe.until("closing")
        stream.close(CloseReason.REVOKED)
        server.probe.note("revoked")
    assert server.probe.reason is CloseReason.MAX_LIFETIME
    assert b"farewell" not in connection.body


@pytest.mark.parametrize("when", ["handler", "headers"])
async def test_a_stream_that_is_revoked_early_never_starts_its_body(when: str) -> None:
    """By its handler, or while its headers are sent: the response has no events."""

    async def refused(probe: Probe, stream: StreamContext) -> Any:
        if when == "handler":
            await stream.aclose(CloseReason.REVOKED)
        return waiting(probe, stream)

    class Watched(Connection):
        async def send(self, message: dict[str, Any]) -> None:
            await super().send(message)
            if message["type"] == "http.response.start" and when == "headers":
                (stream,) = server.streams
                stream.close(CloseReason.REVOKED)
                await anyio.lowlevel.checkpoint()

    server, connection = Server(refused), Watched()
    await server.run(connection)
    assert server.probe.events == ["cleanup"]
    assert server.probe.reason is CloseReason.REVOKED
    assert b"data" not in connection.body


# expires_at


def soon(seconds: float = NO_TIME) -> datetime:
    return datetime.now(timezone.utc) + timedelta(seconds=seconds)


@pytest.mark.parametrize("asked", [False, True], ids=["waits", "asked-for-a-grace"])
@pytest.mark.parametrize("made", [lambda: soon(SHORT), lambda: time.time() + SHORT, lambda: lambda _: soon(SHORT)])
async def test_a_stream_is_revoked_when_its_right_expires(made: Any, asked: bool) -> None:
    """At that moment, without a farewell: a ``datetime``, seconds of the epoch, or a function that tells one."""

    async def body(probe: Probe, stream: StreamContext) -> AsyncIterator[str]:
        probe.note("began")
        if asked:
            assert not stream.closing
        try:
            yield "one"
            await anyio.sleep_forever()
        finally:
            probe.note("finally")
            yield "farewell"

    server, connection = Server(body, PATIENT, expires_at=made()), Connection()
    began = time.monotonic()
    await server.run(connection)
    assert time.monotonic() - began >= SHORT / 2
    check(server, CloseReason.REVOKED)
    assert connection.complete
    assert connection.body == b"data: one\r\n\r\n"


def alarms_of(server: Server) -> list[object]:
    """Returns the alarms that are set for streams."""
    wheel = server.streams.loop_state().wheel
    return [alarm for alarms in wheel._slots.values() for alarm in alarms if alarm is not wheel]


@pytest.mark.parametrize(
    "expires_at", [None, lambda _: None, lambda _: time.time() + NEVER, datetime(9999, 1, 1, tzinfo=timezone.utc)]
)
async def test_a_right_that_has_not_expired_ends_nothing(expires_at: Any) -> None:
    """A stream ends before it for reasons of its own, and leaves no alarm behind."""
    server, connection = Server(waiting, PATIENT, expires_at=expires_at), Connection(leaves_after=b"one")
    await server.run(connection)
    check(server, CloseReason.CLIENT_DISCONNECTED)
    assert not alarms_of(server)


@pytest.mark.parametrize(
    "expires_at", [1_000_000_000, datetime(2001, 1, 1, tzinfo=timezone.utc), lambda _: time.time()]
)
async def test_a_right_that_has_expired_opens_no_stream(expires_at: Any) -> None:
    """The body is never started, and the cleanups run."""
    server, connection = Server(waiting, PATIENT, expires_at=expires_at), Connection()
    with pytest.raises(PermissionError):
        await server.app(connection.scope, connection.receive, connection.send)
    assert server.probe.events == ["cleanup"]
    assert connection.messages == []
    server.check_empty()


async def tell(moment: float) -> float:
    return moment


def unknown(_: Any) -> float:
    raise LookupError("no token")


@pytest.mark.parametrize(
    ("expires_at", "message"),
    [
        (unknown, r"expires_at: must have a function that answers .*, but unknown raised LookupError\('no token'\)"),
        (lambda _: "tomorrow", "expires_at: must be a datetime with a time zone, or seconds of the epoch, or None"),
        (lambda _: 3600, "expires_at: must be seconds of the epoch, .*, not 3600; .* give max_lifetime"),
        (lambda _: 10**400, "expires_at: must be a datetime with a time zone, or seconds of the epoch, or None"),
        (lambda _: tell(3600), "expires_at: must have a function that answers without await, .* returned a coroutine"),
    ],
)
async def test_an_expiry_that_cannot_be_told_is_a_typed_error(expires_at: Any, message: str) -> None:
    """Nothing is open after it."""
    server, connection = Server(waiting, PATIENT, expires_at=expires_at), Connection()
    with pytest.raises(InvalidFieldError, match=message):
        await server.app(connection.scope, connection.receive, connection.send)
    assert server.probe.events == ["cleanup"]
    server.check_empty()


# reauthorize


class Doorman:
    """Answers as often as it is told to, and then differently."""

    def __init__(self, last: Any, confirms: int = 3) -> None:
        self.asked: list[Any] = []
        self.running = 0
        self._last: Any = last
        self._confirms = confirms

    async def __call__(self, connection: Any) -> Any:
        self.asked.append(connection)
        self.running += 1
        try:
            await anyio.lowlevel.checkpoint()
            if len(self.asked) <= self._confirms:
                return None if len(self.asked) % 2 else True
            if isinstance(self._last, Exception):
                raise self._last
            return await self._last() if iscoroutinefunction(self._last) else self._last
        finally:
            self.running -= 1


class NotAllowedError(Exception):
    status_code = 403


@pytest.mark.parametrize(
    ("last", "logged"), [(False, ""), (NotAllowedError(), ""), (ConnectionError("no database"), "no database")]
)
async def test_a_client_is_asked_about_until_it_is_refused(
    last: Any, logged: str, caplog: pytest.LogCaptureFixture
) -> None:
    """``False`` revokes, as does an exception; ``None`` and anything else does not. What is no answer is logged."""
    doorman = Doorman(last)
    server = Server(waiting, PATIENT, reauthorize=doorman, reauthorize_interval=SHORT)
    connection = Connection()
    await server.run(connection)
    check(server, CloseReason.REVOKED)
    assert connection.complete
    assert doorman.asked == [connection.scope] * 4
    assert ("is revoked, since reauthorize failed" in caplog.text) is bool(logged)
    assert logged in caplog.text


async def test_who_does_not_answer_refuses(caplog: pytest.LogCaptureFixture) -> None:
    """A question has to be answered within the interval; it is cancelled before the stream's resources are closed."""
    doorman = Doorman(anyio.sleep_forever, confirms=1)
    server = Server(waiting, PATIENT, reauthorize=doorman, reauthorize_interval=0.02)
    await server.run(Connection())
    check(server, CloseReason.REVOKED)
    assert len(doorman.asked) == 2
    assert doorman.running == 0
    assert "no answer within 0.02 s" in caplog.text


@pytest.mark.parametrize("question", [1, 2])
async def test_a_question_ends_with_its_stream(question: int) -> None:
    """It is under way when the client leaves: it is cancelled, and has ended ahead of what the handler has entered."""
    asked: list[None] = []
    began = anyio.Event()

    async def ask(_: Any) -> None:
        asked.append(None)
        if len(asked) < question:
            return
        began.set()
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):  # needed on trio only
                await anyio.sleep(0.001)
            server.probe.note("asked")

    server = Server(waiting, PATIENT, reauthorize=ask, reauthorize_interval=SHORT)
    connection = Connection()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(server.run, connection)
        with anyio.fail_after(WAIT):
            await began.wait()
        # Another setting would have it time out on a slow machine.
        connection.leave()
    assert server.probe.events[-3:] == ["finally", "asked", "cleanup"]
    assert not alarms_of(server)


async def test_a_blocked_client_is_asked_about_too() -> None:
    """A client that takes nothing, and so learns nothing, loses its right all the same."""

    class Stalled(Connection):
        async def send(self, message: dict[str, Any]) -> None:
            if message["type"] == "http.response.body":
                await anyio.sleep_forever()
            await super().send(message)

    doorman = Doorman(False)
    server = Server(waiting, PATIENT, reauthorize=doorman, reauthorize_interval=SHORT)
    connection = Stalled()
    await server.run(connection)
    check(server, CloseReason.REVOKED)
    assert connection.body == b""


async def test_who_asks_is_in_the_context_of_the_request() -> None:
    """A hundred streams have a question each, asked with what their handlers have set."""
    from contextvars import ContextVar

    user: ContextVar[str] = ContextVar("user")
    asked: list[str] = []

    async def ask(scope: Any) -> bool:
        await anyio.lowlevel.checkpoint()
        assert user.get() == scope["path"]
        asked.append(user.get())
        return False

    def handle(stream: StreamContext) -> AsyncIterator[str]:
        user.set(stream.request["path"])
        return forever()

    async def forever() -> AsyncIterator[str]:
        yield "one"
        await anyio.sleep_forever()

    config = SafeSSEConfig(ping_interval=None, reauthorize=ask, reauthorize_interval=1)
    app = App(handle, config)
    paths = [f"/{number}" for number in range(100)]
    with anyio.fail_after(WAIT):
        async with anyio.create_task_group() as tasks:
            for path in paths:
                connection = Connection(path)
                tasks.start_soon(app, connection.scope, connection.receive, connection.send)
    assert sorted(asked) == sorted(paths)
    assert app.streams.statistics().closed == {CloseReason.REVOKED: 100}
