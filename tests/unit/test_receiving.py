"""One loop of ``receive()`` for all who read a request."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import anyio
import pytest

from litestar_safe_sse._core import receiving
from litestar_safe_sse._core.receiving import Receiver
from litestar_safe_sse.exceptions import SSEError
from tests.bounds import WAIT

pytestmark = pytest.mark.anyio

DISCONNECT = {"type": "http.disconnect"}


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def part(body: bytes, more: bool = True) -> dict[str, Any]:
    return {"type": "http.request", "body": body, "more_body": more}


class Server:
    """Gives each message once; beyond the last, ``receive()`` waits for ever, as with the servers that tell once."""

    def __init__(self, messages: Iterable[Any] = ()) -> None:
        self._messages = list(messages)
        self._news = anyio.Event()
        self.waiting = 0
        self.most_waiting = 0
        self.given = 0
        self.all_given = anyio.Event()

    def say(self, *messages: Any) -> None:
        self._messages += messages
        self._news.set()
        self._news = anyio.Event()

    async def receive(self) -> Any:
        self.waiting += 1
        self.most_waiting = max(self.most_waiting, self.waiting)
        try:
            while not self._messages:
                await self._news.wait()
        finally:
            self.waiting -= 1
        self.given += 1
        message = self._messages.pop(0)
        if not self._messages:
            self.all_given.set()
        if isinstance(message, Exception):
            raise message
        return message


async def ends(wait: Callable[[], Awaitable[Any]]) -> Any:
    with anyio.fail_after(WAIT):
        return await wait()


async def test_each_part_of_the_body_is_the_applications() -> None:
    """What a listener reads ahead is given to the application, in order, each part once."""
    server = Server([part(b"a"), part(b""), part(b"b", more=False)])
    receiver = Receiver(server.receive, 100)
    async with anyio.create_task_group() as group:
        group.start_soon(receiver.wait_left)
        await anyio.wait_all_tasks_blocked()
        assert server.given == 3
        assert [await ends(receiver.receive) for _ in range(3)] == [part(b"a"), part(b""), part(b"b", more=False)]
        server.say(DISCONNECT)
        assert await ends(receiver.receive) == DISCONNECT


async def test_parts_that_hold_nothing_are_not_kept_without_bound() -> None:
    """A server that goes on telling of them is asked no more, until somebody reads on."""
    server = Server([part(b"")] * 50)
    receiver = Receiver(server.receive, 10)
    async with anyio.create_task_group() as group:
        group.start_soon(receiver.wait_left)
        await anyio.wait_all_tasks_blocked()
        assert server.given == 10
        assert await ends(receiver.receive) == part(b"")
        await anyio.wait_all_tasks_blocked()
        assert server.given == 11
        group.cancel_scope.cancel()


async def test_all_who_wait_learn_that_the_client_has_left() -> None:
    """A server that tells once is asked by one at a time, and all who wait learn of it, as often as they ask."""
    server = Server([part(b"", more=False)])
    receiver = Receiver(server.receive, 100)
    seen: list[Any] = []

    async def watch() -> None:
        while (message := await receiver.receive())["type"] != "http.disconnect":
            pass
        seen.append(message)

    with anyio.fail_after(WAIT):
        async with anyio.create_task_group() as group:
            for wait in (watch, receiver.wait_left, watch, receiver.wait_left):
                group.start_soon(wait)
            await anyio.wait_all_tasks_blocked()
            server.say(DISCONNECT)
        assert seen == [DISCONNECT] * 2
        for _ in range(3):
            assert await receiver.receive() == DISCONNECT
            await receiver.wait_left()
    assert server.most_waiting == 1


async def test_a_reader_who_gives_up_leaves_it_to_another() -> None:
    """Whoever waits in the server's ``receive()`` may be cancelled: another goes on."""
    server = Server([part(b"", more=False)])
    receiver = Receiver(server.receive, 100)
    seen: list[Any] = []
    with anyio.fail_after(WAIT):
        await receiver.receive()
        async with anyio.create_task_group() as group:
            with anyio.CancelScope() as scope:
                async with anyio.create_task_group() as first:
                    first.start_soon(receiver.receive)
                    await anyio.wait_all_tasks_blocked()

                    async def watch() -> None:
                        seen.append(await receiver.receive())

                    group.start_soon(watch)
                    group.start_soon(receiver.wait_left)
                    await anyio.wait_all_tasks_blocked()
                    scope.cancel()
            await anyio.wait_all_tasks_blocked()
            server.say(DISCONNECT)
    assert seen == [DISCONNECT]
    assert server.most_waiting == 1


async def test_a_body_that_nobody_reads_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    """A body larger than what is kept of it is waited for, and then let go; who reads it later is told."""
    monkeypatch.setattr(receiving, "PATIENCE", 0.01)
    server = Server([part(b"x" * 60), part(b"x" * 60), part(b"x" * 60), part(b"x", more=False)])
    receiver = Receiver(server.receive, 100)
    with anyio.fail_after(WAIT):
        async with anyio.create_task_group() as group:
            group.start_soon(receiver.wait_left)
            await server.all_given.wait()
            with pytest.raises(SSEError, match="must be read before the stream"):
                await receiver.receive()
            server.say(DISCONNECT)
            await receiver.wait_left()
            assert await receiver.receive() == DISCONNECT


async def test_a_slow_reader_holds_up_the_listener() -> None:
    """No more is read ahead than the limit, and nothing is lost, however late the reading begins."""
    parts = [part(bytes([number]) * 60, more=number < 19) for number in range(20)]
    server = Server(parts)
    receiver = Receiver(server.receive, 100)
    got: list[Any] = []
    async with anyio.create_task_group() as group:
        group.start_soon(receiver.wait_left)
        while len(got) < 20:
            await anyio.wait_all_tasks_blocked()
            assert server.given <= len(got) + 2
            got.append(await ends(receiver.receive))
        assert got == parts
        server.say(DISCONNECT)


async def test_a_reader_who_does_not_go_on_holds_up_nobody_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """One who has begun to read the body and stops is waited for as long: then the rest is let go."""
    monkeypatch.setattr(receiving, "PATIENCE", 0.01)
    server = Server([part(b"x" * 60) for _ in range(9)] + [DISCONNECT])
    receiver = Receiver(server.receive, 100)
    await receiver.receive()
    await ends(receiver.wait_left)
    assert await receiver.receive() == DISCONNECT


async def test_a_body_that_has_ended_holds_up_nobody() -> None:
    """When all of the body has come, the listener waits for the client to leave, though the body is kept."""
    server = Server([part(b"x" * 500, more=False)])
    receiver = Receiver(server.receive, 100)
    with anyio.fail_after(WAIT):
        async with anyio.create_task_group() as group:
            group.start_soon(receiver.wait_left)
            await anyio.wait_all_tasks_blocked()
            server.say(DISCONNECT)
        assert await receiver.receive() == part(b"x" * 500, more=False)
        assert await receiver.receive() == DISCONNECT


async def test_a_server_that_repeats_the_end_of_the_body() -> None:
    """An end of the body that is repeated is given once; repeated without end, it is an error."""
    server = Server([part(b"a", more=False), part(b"", more=False), DISCONNECT])
    receiver = Receiver(server.receive, 100)
    assert [await ends(receiver.receive) for _ in range(2)] == [part(b"a", more=False), DISCONNECT]

    async def again() -> Any:
        return part(b"", more=False)

    with pytest.raises(SSEError, match="keeps repeating"):
        await ends(Receiver(again, 100).wait_left)


async def test_a_server_that_never_waits_holds_up_nobody() -> None:
    """A ``receive()`` that always has another part, without a wait, lets others run."""

    async def flood() -> Any:
        return part(b"x")

    with anyio.move_on_after(0.05) as scope:
        await Receiver(flood, 100).wait_left()
    assert scope.cancelled_caught


async def test_a_failure_of_the_server_reaches_who_reads() -> None:
    """What ``receive()`` raises is raised by the one who waits in it, and another may try again."""
    server = Server([OSError("gone"), DISCONNECT])
    receiver = Receiver(server.receive, 100)
    with pytest.raises(OSError, match="gone"):
        await ends(receiver.receive)
    await ends(receiver.wait_left)


def test_a_receivers_receive_belongs_to_it() -> None:
    """A ``receive`` that is a receiver's already needs no other."""
    receiver = Receiver(Server().receive, 100)
    assert Receiver.of(receiver.receive, 5) is receiver
    assert Receiver.of(Server().receive, 5) is not receiver
