"""Clients that abort at random instants, two workers, one of them killed: every item is with a client or in Redis."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import h11
import psutil
import pytest
from redis.asyncio import Redis

from tests.bounds import WAIT
from tests.ports import free_port
from tests.redis_server import RedisServer
from tests.signals import default_signals
from tests.sources.clients import eventually

pytestmark = pytest.mark.anyio

HERE = Path(__file__).parent
ITEMS = 5000
CLIENTS = 60
LONGEST_VISIT = 1.2
DEADLINE = 240.0


@pytest.fixture(params=[("asyncio", {"use_uvloop": False})], ids=["asyncio"])
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    return request.param


class Workers:
    """Uvicorn with two worker processes, in a session of its own."""

    def __init__(self, kind: str, redis: RedisServer, log: Path) -> None:
        self.port = free_port()
        self.log = log
        environment = {**os.environ, "QUEUE_REDIS": redis.url, "QUEUE_KIND": kind}
        command = [sys.executable, "-m", "uvicorn", "queue_app:app", "--app-dir", str(HERE), "--workers", "2"]
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                [*command, "--port", str(self.port), "--log-level", "warning"],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=default_signals,
            )

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(timeout=WAIT)

    def reap(self) -> None:
        children = psutil.Process(self.process.pid).children(recursive=True) if self.process.poll() is None else []
        for process in (self.process, *children):
            with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):
                process.kill()
        self.process.wait(timeout=WAIT)


@contextlib.contextmanager
def workers(kind: str, redis: RedisServer, log: Path) -> Iterator[Workers]:
    running = Workers(kind, redis, log)
    try:
        yield running
    finally:
        running.reap()


class Clients:
    """What all clients together have received, and which workers they met."""

    def __init__(self, port: int, chance: random.Random) -> None:
        self.port = port
        self.chance = chance
        self.received: set[str] = set()
        self.deliveries = 0
        self.visits = 0
        self.pids: dict[str, int] = {}
        self.stopping = asyncio.Event()

    async def go_on(self) -> None:
        """Visits again and again, until told to stop."""
        while not self.stopping.is_set():
            with contextlib.suppress(OSError, h11.RemoteProtocolError):
                await self.visit(self.chance.uniform(0, LONGEST_VISIT))
            await asyncio.sleep(0.001)

    async def visit(self, lasting: float) -> None:
        with socket.socket() as sock:
            sock.setblocking(False)
            await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", self.port))
            self.visits += 1
            connection = h11.Connection(h11.CLIENT)
            request = h11.Request(method="GET", target="/", headers=[("host", "localhost")])
            sock.send((connection.send(request) or b"") + (connection.send(h11.EndOfMessage()) or b""))
            page = Page(self, connection)
            with anyio.move_on_after(lasting):
                while page.take(sock):
                    await anyio.wait_readable(sock)
            page.take(sock)  # what has reached it, however late this process is
            if self.chance.random() < 0.5:  # a reset, or an orderly end
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


class Page:
    """What one client takes from its connection."""

    def __init__(self, clients: Clients, connection: h11.Connection) -> None:
        self._clients = clients
        self._connection = connection
        self._text = b""

    def take(self, sock: socket.socket) -> bool:
        """Takes what is there; returns whether there is more to come."""
        while True:
            event = self._connection.next_event()
            if event is h11.NEED_DATA:
                try:
                    self._connection.receive_data(sock.recv(65536))
                except BlockingIOError:
                    return True
            elif isinstance(event, h11.Response):
                pid = dict(event.headers)[b"x-pid"].decode()
                self._clients.pids[pid] = self._clients.pids.get(pid, 0) + 1
            elif isinstance(event, h11.Data):
                *blocks, self._text = (self._text + event.data).split(b"\r\n\r\n")
                for line in b"\r\n".join(blocks).split(b"\r\n"):  # comments stand between the blocks
                    if line.startswith(b"data: "):
                        self._clients.received.add(line[6:].decode())
                        self._clients.deliveries += 1
            else:
                return False


async def stored(redis: Any, kind: str) -> set[str]:
    if kind == "list":
        return {item.decode() for item in await redis.lrange("{sse}:queue:jobs", 0, -1)}
    return {fields[b"data"].decode() for _, fields in await redis.xrange("{sse}:group:jobs")}


async def push(redis: Redis, kind: str, items: list[str]) -> None:
    async with redis.pipeline(transaction=False) as pipeline:
        for item in items:
            if kind == "list":
                pipeline.rpush("{sse}:queue:jobs", item)
            else:
                pipeline.xadd("{sse}:group:jobs", {"data": item})
        await pipeline.execute()


@pytest.mark.long
@pytest.mark.parametrize(("kind", "kills"), [("list", False), ("list", True), ("group", True)])
async def test_every_item_is_delivered_whole_or_still_in_redis(
    kind: str, kills: bool, redis_server: RedisServer, redis: Redis, tmp_path: Path, record_property: Any
) -> None:
    """None is lost; save that a list loses what a killed process held, which is no more than what it streamed."""
    everything = {f"item-{number}" for number in range(ITEMS)}
    ordered = sorted(everything, key=lambda item: int(item[5:]))
    with workers(kind, redis_server, tmp_path / "log") as server, anyio.fail_after(DEADLINE * 1.5):
        clients = Clients(server.port, random.Random(f"{kind}{kills}"))
        visitors = [asyncio.ensure_future(clients.go_on()) for _ in range(CLIENTS)]
        await eventually(lambda: len(clients.pids) == 2, within=WAIT)
        for start in range(0, ITEMS, 100):
            await push(redis, kind, ordered[start : start + 100])
            await asyncio.sleep(0.02)  # the pace of a producer: clients come and go meanwhile
            if kills and start == ITEMS // 2:
                os.kill(int(next(iter(clients.pids))), signal.SIGKILL)
        deadline = time.monotonic() + (2.0 if kills and kind == "list" else DEADLINE)
        while time.monotonic() < deadline and clients.received < everything:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        clients.stopping.set()
        await asyncio.gather(*visitors)
        server.stop()
        missing = everything - clients.received - await stored(redis, kind)
        log = (tmp_path / "log").read_text()
    record_property("visits", clients.visits)
    record_property("deliveries", clients.deliveries)
    record_property("missing", len(missing))
    print(f"{kind}, kill {kills}: {clients.visits} visits, {clients.deliveries} deliveries, {len(missing)} missing")
    assert clients.visits > 2 * CLIENTS
    if kind == "list" and kills:
        assert len(missing) <= CLIENTS
    else:
        assert not missing, log
        assert clients.received == everything, log
