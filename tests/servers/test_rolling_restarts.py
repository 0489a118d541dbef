"""Workers behind a proxy are replaced one after the other, and no page misses an event or gives up."""

from __future__ import annotations

import contextlib
import signal
import socketserver
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from litestar_safe_sse.sources import SyncRedisEventLog
from tests.bounds import START, WAIT
from tests.example.processes import CHROMIUM
from tests.ports import free_port
from tests.proxies import KINDS, NGINX_TEMPLATE, balancer, configured
from tests.redis_server import running_redis
from tests.servers.event_sources import CLOSED, Client, in_chromium, in_node
from tests.servers.kinds import ServerKind, kinds, long_if
from tests.servers.processes import FLAVOUR, RunningServer

pytestmark = [
    pytest.mark.skipif(FLAVOUR != "safe", reason="Litestar's own response is only measured"),
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium: set CHROMIUM to the path of one"),
]

EACH = [kind for kind in kinds() if kind.protocol == "1.1" and not kind.trio]
"""Every server on which redis-py runs."""

ALWAYS = "uvicorn-h1-httptools-uvloop"
"""The server that is restarted in each run of the tests; with the others they take minutes."""

PAGES = 4
"""Those in Node, beside one in Chromium."""

PAUSE = 0.01
"""Seconds between two events."""

Balancer = Callable[[int, int, Path], AbstractContextManager[int]]


ASK_ANOTHER = "\n    ".join(
    (
        "option redispatch",
        "retry-on conn-failure empty-response",
        "http-request disable-l7-retry unless METH_GET",
    )
)


def haproxy(first: int, second: int, directory: Path) -> AbstractContextManager[int]:
    """HAProxy with the lines that the documentation gives."""
    return balancer(first, second, directory=directory, fault=ASK_ANOTHER)


BALANCED = NGINX_TEMPLATE.replace("{upstream}", "workers")
BALANCED = BALANCED.replace("server {{", "upstream workers {{ {servers} }}\n    server {{", 1)


def nginx(first: int, second: int, directory: Path) -> AbstractContextManager[int]:
    """nginx with the lines that the documentation gives."""
    kind = replace(KINDS["nginx"], configuration=BALANCED)
    servers = "".join(f"server 127.0.0.1:{port} max_fails=0;" for port in (first, second))
    return configured(kind, "proxy_http_version 1.1;", directory, servers=servers)


class HangsUp(socketserver.BaseRequestHandler):
    """A worker that has accepted a connection when it is told to stop."""

    def handle(self) -> None:
        self.request.recv(65536)


class Answers(socketserver.BaseRequestHandler):
    """A worker that runs."""

    def handle(self) -> None:
        self.request.recv(65536)
        self.request.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")


@contextlib.contextmanager
def listening(handler: type[socketserver.BaseRequestHandler]) -> Iterator[int]:
    """A worker's port."""
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


class Publisher:
    """Appends numbers to the feed, for the length of a block."""

    def __init__(self, url: str) -> None:
        self.next = 0
        self._url = url
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._publish)

    def _publish(self) -> None:
        with SyncRedisEventLog(self._url) as log:
            while not self._over.wait(PAUSE):
                log.append("feed", str(self.next))
                self.next += 1

    def __enter__(self) -> Publisher:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join(WAIT)


def numbers(client: Client) -> list[int]:
    """Returns the events that a page has had; it must not have given up."""
    seen = client.seen()
    assert all(event["state"] != CLOSED for event in seen), [event for event in seen if event["what"] != "message"]
    return [int(event["data"]) for event in seen if event["what"] == "message"]


def wait_for(clients: Sequence[Client], number: int) -> None:
    """Waits until each page has had an event."""
    deadline = time.monotonic() + START
    while not all(number in numbers(client) for client in clients):
        assert time.monotonic() < deadline, [numbers(client)[-1:] for client in clients]
        time.sleep(0.05)


@contextlib.contextmanager
def two(kind: ServerKind, directory: Path, redis_url: str) -> Iterator[list[RunningServer]]:
    """Two servers of a kind."""
    servers = []
    try:
        for name in ("first", "second"):
            (directory / name).mkdir()
            servers.append(RunningServer(kind, directory / name, ("127.0.0.1", free_port())))
            start(servers[-1], redis_url)
        yield servers
    finally:
        for server in servers:
            server.reap()


def start(server: RunningServer, redis_url: str) -> None:
    server.start(app="tests.servers.rolling:app", environment={"SAFE_SSE_REDIS_URL": redis_url})


@pytest.mark.parametrize("behind", [haproxy, nginx])
def test_another_worker_is_asked_where_one_hangs_up(behind: Balancer, tmp_path: Path) -> None:
    """As each server does with those whom it has accepted when it stops; what may have been done is not done twice."""
    with (
        listening(HangsUp) as stopping,
        listening(Answers) as running,
        behind(stopping, running, tmp_path / "proxy") as port,
    ):
        address = f"http://127.0.0.1:{port}/feed"
        assert [httpx.get(address, timeout=WAIT).status_code for _ in range(4)] == [200] * 4
        assert 502 in [httpx.post(address, timeout=WAIT).status_code for _ in range(4)]


@pytest.mark.parametrize("behind", [haproxy, pytest.param(nginx, marks=pytest.mark.long)])
@pytest.mark.parametrize(
    "kind", [pytest.param(each, id=each.name, marks=long_if(each.name != ALWAYS)) for each in EACH]
)
def test_each_page_lives_through_a_rolling_restart(kind: ServerKind, behind: Balancer, tmp_path: Path) -> None:
    """Each worker is told to stop and replaced, in turn; each page has every event once, in order."""
    with ExitStack() as stack:
        (tmp_path / "redis").mkdir()
        redis = stack.enter_context(running_redis(tmp_path / "redis"))
        servers = stack.enter_context(two(kind, tmp_path, redis.url))
        first, second = (server.port for server in servers)
        address = f"http://127.0.0.1:{stack.enter_context(behind(first, second, tmp_path / 'proxy'))}"
        pages = [stack.enter_context(in_node(address, "/feed", tmp_path / f"node {n}")) for n in range(PAGES)]
        pages.append(stack.enter_context(in_chromium(address, "/feed", tmp_path)))
        with Publisher(redis.url) as publisher:
            wait_for(pages, publisher.next)
            for server in servers:
                server.signal(signal.SIGTERM)
                server.process.wait(WAIT)
                start(server, redis.url)
                wait_for(pages, publisher.next)
        wait_for(pages, publisher.next - 1)
        for page in pages:
            assert numbers(page) == [*range(publisher.next)]
