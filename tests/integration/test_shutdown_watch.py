"""`ShutdownWatch` on real servers, in processes of their own and embedded, told to stop in every way they know."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeVar

import anyio
import granian.constants
import granian.server.embed
import hypercorn.asyncio
import hypercorn.asyncio.run
import hypercorn.config
import hypercorn.trio
import hypercorn.trio.run
import pytest
import uvicorn

from litestar_safe_sse._servers.shutdown import ShutdownWatch
from tests.integration.app import HeldOpen
from tests.ports import free_port

ROOT = Path(__file__).parents[2]

PATIENCE = 10.0
"""Seconds after which a test gives up waiting."""

SOON = 0.5
"""Seconds within which the callback has to come, on a busy machine. Hypercorn's workers look every 0.1 seconds."""

posix_only = pytest.mark.skipif(sys.platform == "win32", reason="signals are sent to processes")


Result = TypeVar("Result")


@dataclass(frozen=True)
class Kind:
    """A server, as it is started."""

    name: str
    arguments: str

    def command(self, port: int, options: str) -> list[str]:
        arguments = self.arguments.format(port=port)
        return [sys.executable, "-m", *arguments.split(), *options.split(), "tests.integration.app:app"]

    def __str__(self) -> str:
        return self.name


UVICORN = Kind("uvicorn", "uvicorn --port {port} --loop asyncio")
UVICORN_UVLOOP = Kind("uvicorn-uvloop", "uvicorn --port {port} --loop uvloop")
GRANIAN = Kind("granian", "granian --interface asgi --port {port} --loop asyncio")
GRANIAN_UVLOOP = Kind("granian-uvloop", "granian --interface asgi --port {port} --loop uvloop")
HYPERCORN = Kind("hypercorn", "hypercorn --bind 127.0.0.1:{port}")
HYPERCORN_UVLOOP = Kind("hypercorn-uvloop", "hypercorn --worker-class uvloop --bind 127.0.0.1:{port}")
HYPERCORN_TRIO = Kind("hypercorn-trio", "hypercorn --worker-class trio --bind 127.0.0.1:{port}")
DAPHNE = Kind("daphne", "daphne --port {port}")

WITH_LIFESPAN = [UVICORN, UVICORN_UVLOOP, GRANIAN, GRANIAN_UVLOOP, HYPERCORN, HYPERCORN_UVLOOP, HYPERCORN_TRIO]


@dataclass
class Report:
    event: str
    pid: int
    at: float
    name: int = 0
    restored: bool = True


@dataclass
class Server:
    """A server process, the leader of a session of its own, and what its application has reported."""

    port: int
    process: subprocess.Popen[bytes]
    mailbox: socket.socket
    log: Path
    reports: list[Report] = field(default_factory=list)
    connections: list[socket.socket] = field(default_factory=list)

    def request(self, target: str) -> socket.socket:
        connection = connect(self.port, self.process)
        self.connections.append(connection)
        connection.sendall(f"GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        return connection

    def get_ready(self) -> None:
        """Waits until a request is answered."""

        def attempt() -> bool:
            connection = self.request("/")
            connection.settimeout(1)
            with connection, contextlib.suppress(TimeoutError):
                return bool(connection.recv(65536))
            return False

        self._repeatedly(attempt)

    def hold(self, cleanup: float = 0.0) -> socket.socket:
        """Opens a response that is held open, and waits until it is."""
        if not self.connections:
            self.get_ready()

        def attempt() -> socket.socket | None:
            name = len(self.connections)
            connection = self.request(f"/?hold={cleanup}&name={name}")
            deadline = time.monotonic() + 1
            while (left := deadline - time.monotonic()) > 0:
                if self.take_in(left) and (self.reports[-1].event, self.reports[-1].name) == ("opened", name):
                    return connection
            connection.close()
            return None

        return self._repeatedly(attempt)

    def _repeatedly(self, attempt: Callable[[], Result | None]) -> Result:
        """Makes a request again if need be: one of the first that Granian gets may stay without an answer."""
        for _ in range(int(PATIENCE)):
            if result := attempt():
                return result
        pytest.fail(f"The requests were not answered.\n{self.log.read_text()}")

    def all(self, event: str) -> list[Report]:
        return [report for report in self.reports if report.event == event]

    def take_in(self, timeout: float) -> bool:
        """Takes in a report, if one comes in time."""
        self.mailbox.settimeout(timeout)
        try:
            self.reports.append(Report(**json.loads(self.mailbox.recv(65536))))
        except (TimeoutError, BlockingIOError):
            return False
        return True

    def wait_for(self, event: str, count: int = 1) -> Report:
        """Waits until an event has been reported so many times."""
        deadline = time.monotonic() + PATIENCE
        while len(self.all(event)) < count:
            if not self.take_in(max(0.0, deadline - time.monotonic())):
                pytest.fail(f"{event!r} was not reported {count} times, but {self.reports}.\n{self.log.read_text()}")
        return self.all(event)[count - 1]

    def signal(self, number: int, *, to_group: bool = False) -> float:
        """Sends a signal to the server's main process, or to all as a terminal or a service manager does."""
        at = time.monotonic()
        if to_group:
            os.killpg(self.process.pid, number)
        else:
            self.process.send_signal(number)
        return at

    def exit_code(self) -> int:
        """Waits until the server has exited by itself, and takes in what was reported until then."""
        deadline = time.monotonic() + PATIENCE
        while (code := self.process.poll()) is None:
            if time.monotonic() > deadline:
                pytest.fail(f"The server did not exit.\n{self.log.read_text()}")
            # Left alone meanwhile, the mailbox would overflow.
            self.take_in(timeout=0.01)
        while self.take_in(timeout=0):
            pass
        return code

    def end(self) -> None:
        # The session was made for this server, so there is nobody else in it.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        for each in (*self.connections, self.mailbox):
            each.close()


Launch = Callable[..., Server]


@pytest.fixture
def launch(tmp_path: Path) -> Iterator[Launch]:
    """Starts servers, and sees to it that none outlives the test."""
    servers: list[Server] = []

    def launch(kind: Kind, options: str = "", **environment: str) -> Server:
        mailbox = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        mailbox.bind(("127.0.0.1", 0))
        port = free_port()
        log = tmp_path / f"{len(servers)}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                kind.command(port, options),
                cwd=ROOT,
                env={
                    **os.environ,
                    **environment,
                    "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
                    "REPORT_TO": f"127.0.0.1:{mailbox.getsockname()[1]}",
                },
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        servers.append(Server(port, process, mailbox, log))
        return servers[-1]

    yield launch
    for server in servers:
        server.end()


def connect(port: int, process: subprocess.Popen[bytes] | None = None) -> socket.socket:
    """Connects as soon as a server listens; of that it tells nobody, so it has to be tried."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            return socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
        except ConnectionRefusedError:
            if time.monotonic() > deadline or (process is not None and process.poll() is not None):
                raise
            time.sleep(0.01)


def read(connection: socket.socket) -> bytes:
    """Reads until the other side closes."""
    received = b""
    with connection, contextlib.suppress(ConnectionResetError):
        while data := connection.recv(65536):
            received += data
    return received


def hold_on_two_workers(server: Server) -> int:
    """Holds responses open on both workers, a slow clean-up on one; returns that one's pid."""
    server.wait_for("started", 2)
    server.hold(cleanup=0.5)
    slow = server.all("opened")[0].pid
    deadline = time.monotonic() + PATIENCE
    # The kernel chooses the worker, so it has to be asked again; nobody reads the responses of the others.
    while {report.pid for report in server.all("opened")} == {slow}:
        assert time.monotonic() < deadline
        server.hold().close()
    return slow


# Servers in processes of their own


@posix_only
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("kind", WITH_LIFESPAN, ids=str)
def test_told_once_and_at_once(launch: Launch, kind: Kind, number: signal.Signals) -> None:
    """The callback comes once and at once, an awaiting clean-up completes, and the exit is that of a bare server."""
    watched, bare = launch(kind), launch(kind, WATCHES="0")
    bare.get_ready()
    connection = watched.hold(cleanup=0.05)
    bare.signal(number)
    at = watched.signal(number)

    assert b"bye" in read(connection)
    assert watched.exit_code() == bare.exit_code()
    (told,) = watched.all("told")
    assert told.at - at < SOON
    assert len(watched.all("cleaned")) == len(watched.all("opened"))
    assert [report.restored for report in watched.all("stopped")] == [True]


@posix_only
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_told_before_daphne_cancels(launch: Launch, number: signal.Signals) -> None:
    """On Daphne, which has no lifespan, a watch installed by the first request is told before it is cancelled."""
    server = launch(DAPHNE)
    server.hold(cleanup=1)
    at = server.signal(number)

    assert server.exit_code() == 0
    (told,) = server.all("told")
    (cancelled,) = server.all("cancelled")
    assert at < told.at < cancelled.at
    assert told.at - at < SOON


@posix_only
@pytest.mark.parametrize(
    ("kind", "number", "to_group"),
    [
        (UVICORN, signal.SIGTERM, False),
        (UVICORN, signal.SIGINT, True),
        (GRANIAN, signal.SIGTERM, False),
        (GRANIAN, signal.SIGINT, True),
        (HYPERCORN, signal.SIGTERM, False),
        (HYPERCORN, signal.SIGINT, True),
        (HYPERCORN, signal.SIGTERM, True),
        (HYPERCORN_TRIO, signal.SIGTERM, False),
        (HYPERCORN_TRIO, signal.SIGTERM, True),
    ],
    ids=str,
)
def test_every_worker_cleans_up(launch: Launch, kind: Kind, number: signal.Signals, to_group: bool) -> None:
    """Each of two workers is told once and cleans up in full, though the other has exited long before."""
    server = launch(kind, "--workers 2")
    slow = hold_on_two_workers(server)
    server.signal(number, to_group=to_group)

    assert server.exit_code() == 0
    opened = {report.pid for report in server.all("opened")}
    assert sorted(report.pid for report in server.all("told")) == sorted(opened)
    assert len(server.all("cleaned")) == len(server.all("opened"))
    assert [report.pid for report in server.all("stopped")][-1] == slow
    assert all(report.restored for report in server.all("stopped"))


@posix_only
@pytest.mark.xfail(
    sys.version_info >= (3, 12, 1),
    reason="Uvicorn then waits for the connections: https://github.com/python/cpython/issues/104344",
    raises=subprocess.TimeoutExpired,
)
def test_second_interrupt_forces_uvicorn_to_exit(launch: Launch) -> None:
    """On Uvicorn a second ^C still forces the exit, whatever is being cleaned up."""
    server = launch(UVICORN)
    server.hold(cleanup=60)
    server.signal(signal.SIGINT)
    server.wait_for("told")
    server.signal(signal.SIGINT)

    server.process.wait(3)
    server.exit_code()
    assert not server.all("stopped")


@posix_only
@pytest.mark.parametrize("kind", [GRANIAN, GRANIAN_UVLOOP], ids=str)
def test_repeated_signals_leave_granian_draining(launch: Launch, kind: Kind) -> None:
    """On Granian more signals during the drain change nothing: the clean-up completes and the server exits."""
    server = launch(kind)
    server.hold(cleanup=0.05)
    connection = server.hold(cleanup=0.5)
    worker = server.wait_for("started").pid
    server.signal(signal.SIGINT, to_group=True)
    server.wait_for("cleaned")
    # Not to the parent, which has troubles of its own: it may be caught setting an Event that its handler sets.
    for number in (signal.SIGINT, signal.SIGTERM) * 2:
        os.kill(worker, number)

    assert b"bye" in read(connection)
    assert server.exit_code() == 0
    assert len(server.all("told")) == 1


@posix_only
@pytest.mark.xfail(reason="Granian 2.8: WorkerSignal.set blocks at the third signal", raises=subprocess.TimeoutExpired)
def test_repeated_signals_leave_bare_granian_serving(launch: Launch) -> None:
    """Granian by itself goes on serving an open response after three signals."""
    server = launch(GRANIAN, WATCHES="0")
    server.get_ready()
    server.request("/?hold=0&last=0.5")
    server.wait_for("opened")
    worker = server.wait_for("started").pid
    for _ in range(3):
        os.kill(worker, signal.SIGINT)
        time.sleep(0.05)  # Two of a kind that come closer are one to the kernel.

    server.process.wait(2)


@posix_only
def test_told_when_uvicorn_reaches_its_request_limit(launch: Launch) -> None:
    """Uvicorn's limit_max_requests, which sends no signal, is a shutdown too."""
    server = launch(UVICORN, "--limit-max-requests 2")
    connection = server.hold(cleanup=0.05)
    server.request("/")

    assert b"bye" in read(connection)
    assert server.exit_code() == 0
    assert len(server.all("told")) == 1
    assert len(server.all("cleaned")) == len(server.all("opened"))


@posix_only
@pytest.mark.parametrize("kind", [HYPERCORN, HYPERCORN_TRIO], ids=str)
def test_told_when_hypercorn_replaces_a_worker(launch: Launch, kind: Kind) -> None:
    """Hypercorn's max_requests ends a worker, whose streams are told."""
    server = launch(kind, "--max-requests 2")
    connection = server.hold(cleanup=0.05)
    worker = server.all("opened")[0].pid
    server.request("/")

    assert b"bye" in read(connection)
    assert server.wait_for("told").pid == worker
    assert server.wait_for("stopped").pid == worker


@posix_only
@pytest.mark.parametrize("kind", [UVICORN, GRANIAN, HYPERCORN, HYPERCORN_TRIO], ids=str)
def test_installed_at_the_first_request(launch: Launch, kind: Kind) -> None:
    """A watch installed when the server has long started is told all the same."""
    server = launch(kind, LAZY="1")
    connection = server.hold(cleanup=0.05)
    at = server.signal(signal.SIGTERM)

    assert b"bye" in read(connection)
    server.exit_code()
    (told,) = server.all("told")
    assert told.at - at < SOON


@posix_only
@pytest.mark.parametrize("kind", [HYPERCORN, HYPERCORN_TRIO], ids=str)
def test_termination_of_a_hypercorn_worker_is_put_off_not_away(launch: Launch, kind: Kind) -> None:
    """A Hypercorn worker that alone is sent SIGTERM is told, and is killed as without us when its patience ends."""
    watched, bare = launch(kind, PATIENCE="0.2"), launch(kind, WATCHES="0")
    connection = watched.hold(cleanup=0.05)
    at = time.monotonic()
    os.kill(watched.all("started")[0].pid, signal.SIGTERM)
    os.kill(bare.wait_for("started").pid, signal.SIGTERM)

    assert b"bye" in read(connection)
    assert watched.exit_code() == bare.exit_code()
    (told,) = watched.all("told")
    assert told.at - at < SOON
    assert not watched.all("stopped")


# Servers embedded in this process


class Embedded:
    """An application in a server of this process, and what it has reported."""

    def __init__(self, watches: int = 1) -> None:
        self.app = HeldOpen(self._report, watches=watches)
        self.port = free_port()
        self._reports: queue.Queue[tuple[str, dict[str, Any]]] = queue.Queue()

    def _report(self, event: str, **details: Any) -> None:
        self._reports.put((event, details))

    def wait_for(self, event: str) -> dict[str, Any]:
        """Takes the next report, which must be this one."""
        name, details = self._reports.get(timeout=PATIENCE)
        assert name == event
        return details

    def is_quiet(self) -> bool:
        return self._reports.empty()

    def hold(self) -> socket.socket:
        connection = connect(self.port)
        connection.sendall(b"GET /?hold=0 HTTP/1.1\r\nHost: localhost\r\n\r\n")
        self.wait_for("opened")
        return connection

    def expect_drain(self, connection: socket.socket) -> None:
        for event in ("told", "cleaned"):
            self.wait_for(event)
        assert b"bye" in read(connection)
        assert self.wait_for("stopped")["restored"]
        assert self.is_quiet()

    def uvicorn(self) -> uvicorn.Server:
        return uvicorn.Server(uvicorn.Config(self.app, port=self.port, log_level="error", ws="none"))

    def hypercorn(self) -> hypercorn.config.Config:
        config = hypercorn.config.Config()
        config.bind = [f"127.0.0.1:{self.port}"]
        config.errorlog = None
        return config


class InThread:
    """Runs something in a thread, and waits for its end, within bounds."""

    def __init__(self, run: Callable[[], object]) -> None:
        self._thread = threading.Thread(target=run, daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *exception: object) -> None:
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive()


def test_uvicorn_in_a_thread() -> None:
    """A Uvicorn in a thread, where there are no signals, is watched through its shutdown method, until that is over."""
    embedded = Embedded()
    server = embedded.uvicorn()
    with InThread(server.run):
        embedded.wait_for("started")
        connection = embedded.hold()
        server.should_exit = True
        embedded.expect_drain(connection)
    assert "shutdown" not in vars(server)


@pytest.mark.parametrize("first_out", [0, 1])
def test_two_watches_on_one_uvicorn(first_out: int) -> None:
    """Two watches are hooked into the same server, are both told, and leave it as it was, whichever goes first."""
    told: list[str] = []
    server = uvicorn.Server(uvicorn.Config(HeldOpen(lambda *args, **kwargs: None, watches=0), port=free_port()))

    async def main() -> None:
        serving = asyncio.create_task(server._serve())
        await asyncio.sleep(0)
        watches = [ShutdownWatch(partial(told.append, name), Log()) for name in ("below", "above")]
        for watch in watches:
            watch.install()
        server.should_exit = True
        await asyncio.wait_for(serving, PATIENCE)
        for watch in (watches[first_out], watches[1 - first_out]):
            watch.uninstall()

    asyncio.run(main())
    assert told == ["above", "below"]
    assert "shutdown" not in vars(server)


def test_two_uvicorns_in_one_loop() -> None:
    """Of two Uvicorns in one event loop, only the streams of the one that stops are told."""
    first, second = Embedded(), Embedded()
    servers = first.uvicorn(), second.uvicorn()

    async def main() -> None:
        await asyncio.gather(*(server._serve() for server in servers))

    with InThread(lambda: asyncio.run(main())):
        first.wait_for("started")
        second.wait_for("started")
        connections = first.hold(), second.hold()
        servers[0].should_exit = True
        first.expect_drain(connections[0])
        assert second.is_quiet()
        servers[1].should_exit = True
        second.expect_drain(connections[1])


def test_granian_embedded() -> None:
    """An embedded Granian is watched through its shutdown method."""
    embedded = Embedded()
    loops: queue.Queue[tuple[asyncio.AbstractEventLoop, granian.server.embed.Server]] = queue.Queue()

    async def main() -> None:
        server = granian.server.embed.Server(
            embedded.app, port=embedded.port, interface=granian.constants.Interfaces.ASGI, log_enabled=False
        )
        loops.put((asyncio.get_running_loop(), server))
        await server.serve()

    with InThread(lambda: asyncio.run(main())):
        loop, server = loops.get(timeout=PATIENCE)
        embedded.wait_for("started")
        connection = embedded.hold()
        loop.call_soon_threadsafe(server.stop)
        embedded.expect_drain(connection)


def serve_with_hypercorn(embedded: Embedded, backend: str, stop: threading.Event) -> None:
    async def trigger() -> None:
        await anyio.to_thread.run_sync(partial(stop.wait, PATIENCE), abandon_on_cancel=True)

    serve: Any = hypercorn.trio.serve if backend == "trio" else hypercorn.asyncio.serve
    anyio.run(partial(serve, embedded.app, embedded.hypercorn(), shutdown_trigger=trigger), backend=backend)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_hypercorn_in_threads(backend: str) -> None:
    """Of two Hypercorns in one process, only the streams of the one that stops are told; then all is as it was."""
    modules = hypercorn.asyncio.run, hypercorn.trio.run
    before = [vars(module)["raise_shutdown"] for module in modules]
    first, second = Embedded(), Embedded(watches=2)
    stops = threading.Event(), threading.Event()
    with (
        InThread(partial(serve_with_hypercorn, first, backend, stops[0])),
        InThread(partial(serve_with_hypercorn, second, backend, stops[1])),
    ):
        first.wait_for("started")
        second.wait_for("started")
        connections = first.hold(), second.hold()
        stops[0].set()
        first.expect_drain(connections[0])
        assert second.is_quiet()
        stops[1].set()
        second.wait_for("told")
        second.expect_drain(connections[1])
    assert [vars(module)["raise_shutdown"] for module in modules] == before


# The chain of handlers


class Log:
    """A logger that keeps what it is told."""

    def __init__(self) -> None:
        self.warnings: list[str] = []

    def debug(self, msg: str, *args: Any, **kwargs: Any) -> None:
        pass

    def warning(self, msg: str, *args: Any, **kwargs: Any) -> None:
        self.warnings.append(msg)


class Told:
    """A callback that counts its calls, and can be waited for."""

    def __init__(self) -> None:
        self.times = 0
        self.threads: set[int] = set()
        self._event = anyio.Event()

    def __call__(self) -> None:
        self.times += 1
        self.threads.add(threading.get_ident())
        self._event.set()

    async def wait(self) -> None:
        with anyio.fail_after(PATIENCE):
            await self._event.wait()


async def raise_and_settle() -> None:
    """Raises the signal, and returns when everybody who is to be told of it has been."""
    told = Told()
    watch = ShutdownWatch(told, Log())
    watch.install()
    signal.raise_signal(signal.SIGTERM)
    # All are told in one turn of the loop, and this goes on in the next.
    await told.wait()
    watch.uninstall()


class Handler:
    """A signal handler that keeps the signals it gets."""

    def __init__(self) -> None:
        self.seen: list[int] = []

    def __call__(self, number: int, frame: types.FrameType | None) -> None:
        self.seen.append(number)

    def method(self, number: int, frame: types.FrameType | None) -> None:
        self(number, frame)


@pytest.fixture
def handler() -> Iterator[Handler]:
    """The handler of SIGTERM for the duration of a test, which must leave it in place."""
    handler = Handler()
    before = signal.signal(signal.SIGTERM, handler)
    try:
        yield handler
        assert signal.getsignal(signal.SIGTERM) is handler
    finally:
        signal.signal(signal.SIGTERM, before)


Run = Callable[[Callable[[], Any]], None]

LOOPS = [
    pytest.param(("asyncio", {"use_uvloop": False}), id="asyncio"),
    pytest.param(("asyncio", {"use_uvloop": True}), id="uvloop"),
    pytest.param(("trio", {}), id="trio"),
]


@pytest.fixture(params=LOOPS)
def run(request: pytest.FixtureRequest) -> Run:
    """Runs an async function in each kind of event loop."""
    backend, options = request.param
    return lambda main: anyio.run(main, backend=backend, backend_options=options)


def test_the_handler_in_place_is_called_as_before(run: Run, handler: Handler) -> None:
    """The callback comes once, in the loop's thread, and the handler that was there gets every signal."""

    async def main() -> None:
        told = Told()
        watch = ShutdownWatch(told, Log())
        watch.install()
        watch.install()
        signal.raise_signal(signal.SIGTERM)
        await told.wait()
        await raise_and_settle()
        assert (told.times, told.threads) == (1, {threading.get_ident()})
        watch.uninstall()
        watch.uninstall()

    run(main)
    assert handler.seen == [signal.SIGTERM, signal.SIGTERM]


@pytest.mark.parametrize("first_out", [0, 1])
def test_two_watches_go_in_any_order(run: Run, handler: Handler, first_out: int) -> None:
    """Two watches on one signal are both told, and when one has gone the other still is."""

    async def main() -> None:
        told = [Told(), Told()]
        watches = [ShutdownWatch(each, Log()) for each in told]
        for watch in watches:
            watch.install()
        watches[first_out].uninstall()
        signal.raise_signal(signal.SIGTERM)
        await told[1 - first_out].wait()
        assert told[first_out].times == 0
        watches[first_out].install()
        signal.raise_signal(signal.SIGTERM)
        await told[first_out].wait()
        for watch in watches:
            watch.uninstall()
        assert [each.times for each in told] == [1, 1]

    run(main)
    assert handler.seen == [signal.SIGTERM, signal.SIGTERM]


def test_not_told_after_uninstall(run: Run, handler: Handler) -> None:
    """A signal that came just before the watch was uninstalled is not told after it."""

    async def main() -> None:
        told = Told()
        watch = ShutdownWatch(told, Log())
        watch.install()
        signal.raise_signal(signal.SIGTERM)
        watch.uninstall()
        await raise_and_settle()
        assert told.times == 0

    run(main)
    assert handler.seen == [signal.SIGTERM, signal.SIGTERM]


def test_a_handler_set_since_is_left_alone(run: Run, handler: Handler) -> None:
    """A handler that somebody put in front of the watch's stays, and still reaches the one behind it."""

    async def main() -> None:
        watch = ShutdownWatch(Told(), Log())
        watch.install()
        behind: Any = signal.getsignal(signal.SIGTERM)
        signal.signal(signal.SIGTERM, in_front := lambda number, frame: behind(number, frame))
        watch.uninstall()
        assert signal.getsignal(signal.SIGTERM) is in_front
        signal.raise_signal(signal.SIGTERM)

    run(main)
    assert handler.seen == [signal.SIGTERM]
    signal.signal(signal.SIGTERM, handler)


def test_a_method_stays_the_method_of_its_instance(handler: Handler) -> None:
    """In front of a method there is a method of the same instance, for those who look the server up that way."""

    async def main() -> None:
        signal.signal(signal.SIGTERM, handler.method)
        watches = [ShutdownWatch(Told(), Log()) for _ in range(2)]
        for watch in watches:
            watch.install()
            assert getattr(signal.getsignal(signal.SIGTERM), "__self__", None) is handler
        signal.raise_signal(signal.SIGTERM)
        for watch in watches:
            watch.uninstall()
        assert signal.getsignal(signal.SIGTERM) == handler.method

    asyncio.run(main())
    assert handler.seen == [signal.SIGTERM]
    signal.signal(signal.SIGTERM, handler)


@pytest.mark.parametrize("action", [signal.SIG_DFL, signal.SIG_IGN])
def test_no_handler_is_put_where_there_is_none(handler: Handler, action: signal.Handlers) -> None:
    """The default action and the ignoring of a signal stay what they are."""

    async def main() -> None:
        signal.signal(signal.SIGTERM, action)
        watch = ShutdownWatch(Told(), Log())
        watch.install()
        assert signal.getsignal(signal.SIGTERM) is action
        watch.uninstall()
        assert signal.getsignal(signal.SIGTERM) is action

    asyncio.run(main())
    signal.signal(signal.SIGTERM, handler)


def test_signals_are_left_alone_off_the_main_thread(handler: Handler) -> None:
    """In another thread a watch touches no signal, neither when it comes nor when it goes."""

    async def come_and_go() -> None:
        watch = ShutdownWatch(Told(), Log())
        watch.install()
        assert signal.getsignal(signal.SIGTERM) is handler
        watch.uninstall()

    with InThread(lambda: asyncio.run(come_and_go())):
        pass

    async def main() -> None:
        told = Told()
        watch = ShutdownWatch(told, Log())
        watch.install()
        await asyncio.to_thread(watch.uninstall)
        await raise_and_settle()
        assert told.times == 0

    asyncio.run(main())
    assert handler.seen == [signal.SIGTERM]
    signal.signal(signal.SIGTERM, handler)


def test_a_signal_after_the_loop_is_passed_on(run: Run, handler: Handler) -> None:
    """A signal that comes when the loop has ended, and nobody has uninstalled the watch, is passed on in silence."""
    watch = ShutdownWatch(lambda: None, Log())

    async def main() -> None:
        watch.install()

    run(main)
    signal.raise_signal(signal.SIGTERM)
    assert handler.seen == [signal.SIGTERM]
    watch.uninstall()


def test_a_failing_callback_is_logged(run: Run, handler: Handler) -> None:
    """A callback that fails is logged; it stops neither the loop nor the server."""
    log = Log()

    async def main() -> None:
        def fail() -> None:
            raise RuntimeError

        watch = ShutdownWatch(fail, log)
        watch.install()
        await raise_and_settle()
        watch.uninstall()

    run(main)
    assert log.warnings == ["A call made at the server's shutdown has failed."]


# What is missing


def call_as(module: str, call: Callable[[], None]) -> None:
    """Makes a call from a function of a module of this name."""
    namespace: dict[str, Any] = {"__name__": module}
    exec("def make(call): call()", namespace)
    namespace["make"](call)


@pytest.mark.parametrize("module", ["uvicorn.lifespan.on", "hypercorn.asyncio.lifespan", "granian.asgi"])
def test_a_missing_hook_is_logged(monkeypatch: pytest.MonkeyPatch, module: str) -> None:
    """A server without what is hooked is named with its version, and what to do instead is said."""
    monkeypatch.setitem(sys.modules, "hypercorn.asyncio.run", types.ModuleType("hypercorn.asyncio.run"))
    log = Log()

    async def main() -> None:
        watch = ShutdownWatch(Told(), log)
        call_as(module, watch.install)
        watch.uninstall()

    with InThread(lambda: asyncio.run(main())):
        pass
    server = module.partition(".")[0]
    (warning,) = log.warnings
    assert warning.startswith(f"{server} {version(server)} ")
    assert "Its shutdown" in warning
    assert "Remedy: set " in warning


def test_an_unknown_version_is_said_to_be(monkeypatch: pytest.MonkeyPatch, handler: Handler) -> None:
    """A server that is not installed as a distribution is named all the same."""

    def no_version(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr("litestar_safe_sse._servers.shutdown.version", no_version)
    log = Log()

    async def main() -> None:
        watch = ShutdownWatch(Told(), log)
        call_as("uvicorn.lifespan.on", watch.install)
        watch.uninstall()

    asyncio.run(main())
    (warning,) = log.warnings
    assert warning.startswith("uvicorn (version unknown) ")
    assert "A shutdown without a signal" in warning


def test_importing_brings_no_server_in() -> None:
    """The module imports neither a server nor trio: it asks for those that are there."""
    code = "import sys; import litestar_safe_sse._servers.shutdown; print(*sys.modules)"
    output = subprocess.check_output([sys.executable, "-c", code], cwd=ROOT, text=True, timeout=PATIENCE)
    assert not {"uvicorn", "granian", "hypercorn", "daphne", "trio"} & set(output.split())
