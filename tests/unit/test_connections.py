"""Whose connections are dropped: of those that take nothing, and of nobody else."""

from __future__ import annotations

import select
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any, NamedTuple

import anyio
import anyio.lowlevel
import pytest

from litestar_safe_sse._runtime.current import current_runtime
from litestar_safe_sse._servers import connections
from litestar_safe_sse._servers.connections import ADDRESSES, Connection, Connections
from litestar_safe_sse._servers.sockets import Addresses
from litestar_safe_sse._servers.stalls import StallSearch
from tests.bounds import WAIT
from tests.loops import ASYNCIO, TRIO
from tests.unix_sockets import unix_socket_path

DURATION = 0.1

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.parametrize("anyio_backend", [ASYNCIO, TRIO]),
    pytest.mark.skipif(sys.platform != "linux", reason="other kernels do not tell what is queued"),
]


class Pair(NamedTuple):
    """Both ends of a connection."""

    accepted: socket.socket
    client: socket.socket

    def fill(self) -> None:
        """Sends for as long as the kernel takes it."""
        self.accepted.setblocking(False)
        try:
            while True:
                self.accepted.send(b"x" * 65536)
        except BlockingIOError:
            pass

    def room(self) -> int:
        """Returns how many bytes the server's end may hold."""
        return self.accepted.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)

    def is_shut(self) -> bool:
        """Returns whether nothing can be sent either way any more."""
        poll = select.poll()
        poll.register(self.accepted, 0)
        return any(events & select.POLLHUP for _, events in poll.poll(0))


class Listener:
    """A socket that listens, and the connections that it has accepted."""

    def __init__(self, stack: ExitStack, family: socket.AddressFamily, address: Any) -> None:
        self._stack = stack
        self._family = family
        self._socket = stack.enter_context(socket.socket(family))
        self._socket.bind(address)
        self._socket.listen()
        self.address = self._socket.getsockname()
        self.local: Any = self.address if family == socket.AF_UNIX else self.address[1]

    def connect(self) -> Pair:
        client = self._stack.enter_context(socket.socket(self._family))
        client.connect(self.address)
        return Pair(self._stack.enter_context(self._socket.accept()[0]), client)


@pytest.fixture(params=["unix", "tcp"])
def listener(request: pytest.FixtureRequest) -> Iterator[Listener]:
    with ExitStack() as stack:
        if request.param == "unix":
            yield Listener(stack, socket.AF_UNIX, stack.enter_context(unix_socket_path()))
        else:
            yield Listener(stack, socket.AF_INET, ("127.0.0.1", 0))


async def until(is_so: Callable[[], bool]) -> None:
    """Waits for what the kernel tells nobody."""
    deadline = time.monotonic() + WAIT
    while not is_so():
        assert time.monotonic() < deadline
        await anyio.sleep(0.01)


async def test_clients_that_take_nothing_are_found(listener: Listener) -> None:
    """A full queue that stays as it is costs a client its connection; one that moves, or is empty, does not."""
    stalled, reading, idle = listener.connect(), listener.connect(), listener.connect()
    stalled.fill()
    reading.fill()
    # At first TCP still finds room at the client, now and then.
    search = StallSearch(current_runtime(), {listener.local}, DURATION, rounds=100)

    def read_and_refill() -> bool:
        reading.client.recv(1 << 20)
        reading.fill()
        return stalled.is_shut()

    await until(read_and_refill)
    search.cancel()
    assert not reading.is_shut()
    assert not idle.is_shut()


@pytest.mark.parametrize("listener", ["unix"], indirect=True)
async def test_socket_has_the_room_back_that_it_had(listener: Listener) -> None:
    """What a Unix socket may hold is as it was as soon as its client has taken something."""
    reading = listener.connect()
    reading.fill()
    search = StallSearch(current_runtime(), {listener.local}, DURATION, rounds=2)
    assert reading.room() < listener.connect().room()
    reading.client.recv(1 << 20)
    await until(lambda: search.is_over)
    assert not reading.is_shut()
    assert reading.room() == listener.connect().room()


async def test_search_that_is_cancelled_leaves_everything_as_it_was(listener: Listener) -> None:
    """Whoever was looked at keeps the connection, and the room that its socket had."""
    stalled = listener.connect()
    stalled.fill()
    room = stalled.room()
    search = StallSearch(current_runtime(), {listener.local}, DURATION)
    search.cancel()
    search.cancel()
    assert stalled.room() == room
    await anyio.sleep(2 * DURATION)
    assert not stalled.is_shut()


def of_unknown_client(listener: Listener) -> Connection:
    server = (listener.local, 0) if isinstance(listener.local, str) else ("127.0.0.1", listener.local)
    return Connection.of(lambda message: anyio.lowlevel.checkpoint(), {"client": None, "server": server})


@pytest.mark.parametrize("listener", ["unix"], indirect=True)
async def test_only_as_many_are_dropped_as_were_given_up(listener: Listener) -> None:
    """While the server goes on, nobody is dropped if more take nothing than the streams that were given up."""
    given_up, other = listener.connect(), listener.connect()
    given_up.fill()
    other.fill()
    watched = Connections(current_runtime(), drop_delay=0.01, stall_time=DURATION)
    watched.give_up(of_unknown_client(listener), DURATION)
    await anyio.sleep(5 * DURATION)
    assert not given_up.is_shut()
    assert not other.is_shut()
    watched.give_up(of_unknown_client(listener), DURATION)
    await until(lambda: given_up.is_shut() and other.is_shut())


@pytest.mark.parametrize("listener", ["unix"], indirect=True)
async def test_whoever_takes_nothing_at_the_shutdown_is_dropped(listener: Listener) -> None:
    """At a shutdown, where a server would wait for ever, all are dropped that take nothing at the server's address."""
    pairs = [listener.connect() for _ in range(3)]
    for pair in pairs:
        pair.fill()
    watched = Connections(current_runtime(), drop_delay=0.01, stall_time=DURATION)
    watched.drop_all([of_unknown_client(listener)])
    await until(lambda: all(pair.is_shut() for pair in pairs))


def scope_of(pair: Pair, **more: Any) -> dict[str, Any]:
    return {"client": pair.accepted.getpeername(), "server": pair.accepted.getsockname(), **more}


async def send(message: Any) -> None: ...


@pytest.mark.parametrize("listener", ["tcp"], indirect=True)
async def test_connection_is_found_by_the_addresses_that_the_server_gave(listener: Listener) -> None:
    """What middleware has written into the scope since does not matter."""
    pair, other = listener.connect(), listener.connect()
    addresses = pair.accepted.getpeername(), pair.accepted.getsockname()
    scope = {"client": ("203.0.113.9", 0), "server": ("example.com", 443), ADDRESSES: addresses}
    watched = Connections(current_runtime(), drop_delay=0.01, stall_time=DURATION)
    watched.give_up(Connection.of(send, scope), DURATION)
    await until(pair.is_shut)
    assert not other.is_shut()


@pytest.mark.parametrize("listener", ["tcp"], indirect=True)
async def test_shared_connections_are_kept_for_the_shutdown(listener: Listener) -> None:
    """Over HTTP/2 a connection that others may use is dropped when the server is stopped, and not before."""
    pair = listener.connect()
    watched = Connections(current_runtime(), drop_delay=0.01, stall_time=DURATION)
    for _ in range(2):
        watched.give_up(Connection.of(send, scope_of(pair, http_version="2")), DURATION)
    assert len(watched) == 1
    assert not pair.is_shut()
    watched.drop_all([])
    await until(pair.is_shut)
    assert len(watched) == 0


async def test_connections_that_have_ended_are_forgotten() -> None:
    """However many clients are given up, no more are kept in mind than are there, and some."""
    watched = Connections(current_runtime(), drop_delay=0.01, stall_time=DURATION)
    for port in range(1, 2000):
        addresses = ("203.0.113.9", port), ("127.0.0.1", 1)
        watched.give_up(Connection.of(send, {"http_version": "2", ADDRESSES: addresses}), DURATION)
    assert len(watched) < 200


async def test_many_are_dropped_in_one_go(monkeypatch: pytest.MonkeyPatch) -> None:
    """The descriptors are looked through once for all who are given up together, and not before the delay is over."""
    passes: list[float] = []

    def shut(is_chosen: object) -> set[Addresses]:
        passes.append(time.monotonic())
        return set()

    monkeypatch.setattr(connections, "shut", shut)
    watched = Connections(current_runtime(), drop_delay=0.05, stall_time=DURATION)
    began = time.monotonic()
    for port in range(1, 1000):
        scope = {ADDRESSES: (("203.0.113.9", port), ("127.0.0.1", 1))}
        watched.give_up(Connection.of(send, scope), DURATION)
    await anyio.sleep(0.2)
    assert 1 <= len(passes) <= 3
    assert passes[0] - began >= 0.05


@pytest.mark.parametrize("at_shutdown", [False, True])
async def test_delay_begins_when_the_loop_goes_on(monkeypatch: pytest.MonkeyPatch, at_shutdown: bool) -> None:
    """A loop that is busy for longer than the delay leaves a server's threads no less time to take note."""
    passes: list[float] = []

    def shut(is_chosen: object) -> set[Addresses]:
        passes.append(time.monotonic())
        return set()

    monkeypatch.setattr(connections, "shut", shut)
    watched = Connections(current_runtime(), drop_delay=0.05, stall_time=DURATION)
    connection = Connection.of(send, {ADDRESSES: (("203.0.113.9", 1), ("127.0.0.1", 1))})
    if at_shutdown:
        watched.drop_all([connection])
    else:
        watched.give_up(connection, DURATION)
    time.sleep(0.2)  # noqa: ASYNC251 - what is busy does not await
    went_on = time.monotonic()
    await until(lambda: bool(passes))
    assert passes[0] - went_on >= 0.05


@pytest.mark.parametrize(
    ("client", "server", "expected"),
    [
        (("10.0.0.1", 50000), ("127.0.0.1", 8000), Addresses(("10.0.0.1", 50000), 8000)),
        (("10.0.0.1", "50000"), ("127.0.0.1", "8000"), Addresses(("10.0.0.1", 50000), 8000)),  # Granian's
        (("203.0.113.9", 0), ("127.0.0.1", 8000), Addresses(None, 8000)),
        (("", "0"), ("/run/app.sock", "0"), Addresses(None, "/run/app.sock")),
        (None, ("/run/app.sock", None), Addresses(None, "/run/app.sock")),
        (None, None, Addresses(None, None)),
        ("203.0.113.9", ("127.0.0.1", "http"), Addresses(None, None)),
    ],
)
async def test_addresses_of_a_scope(client: Any, server: Any, expected: Addresses) -> None:
    """A client without a port is none that can be found, and what is no address is none."""
    assert Connection.of(send, {"client": client, "server": server}).addresses == expected
