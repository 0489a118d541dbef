"""Visits to an application in memory: a client of each stream, which reads, stops reading, and leaves when told to."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
from litestar import Litestar
from redis.asyncio import Redis

from tests.bounds import WAIT


class Visit:
    """One request. What arrives is parsed into the data of events."""

    def __init__(self, app: Litestar, path: str = "/", *, on_event: Callable[[Visit, str], None] | None = None) -> None:
        self.app = app
        self.scope: dict[str, Any] = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.4"},
            "http_version": "1.1",
            "method": "GET",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "root_path": "",
            "scheme": "http",
            "headers": [(b"host", b"testserver")],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 2),
            "state": {},
            "extensions": {},
        }
        self.data: list[str] = []
        self.events: list[dict[str, str]] = []
        self.status = 0
        self.reads = True
        self.failure: BaseException | None = None
        self.task: asyncio.Task[None] | None = None
        self._on_event = on_event
        self._text = ""
        self._asked = False
        self._left = asyncio.Event()
        self._changed = asyncio.Event()

    def start(self) -> Visit:
        self.task = asyncio.get_running_loop().create_task(self._run())
        return self

    async def _run(self) -> None:
        try:
            await self.app(self.scope, self._receive, self._send)  # type: ignore[arg-type]
        except Exception as exc:
            self.failure = exc
        finally:
            self._tell()

    async def _receive(self) -> dict[str, Any]:
        if not self._asked:
            self._asked = True
            return {"type": "http.request", "body": b"", "more_body": False}
        await self._left.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: dict[str, Any]) -> None:
        while not self.reads and message.get("body"):
            await self._changed.wait()
        await asyncio.sleep(0)
        if self._left.is_set():
            raise OSError("the client has left")
        self.status = message.get("status", self.status)
        self._text += message.get("body", b"").decode()
        *blocks, self._text = self._text.replace("\r\n", "\n").split("\n\n")
        for block in blocks:
            fields = dict(line.split(": ", 1) for line in block.splitlines() if ": " in line and line[0] != ":")
            if "data" in fields:
                self.events.append(fields)
                self.data.append(fields["data"])
                if self._on_event is not None:
                    self._on_event(self, fields["data"])
        self._tell()

    def _tell(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    def leave(self) -> None:
        self._left.set()

    def read_again(self) -> None:
        self.reads = True
        self._tell()

    async def until(self, condition: Callable[[], object]) -> None:
        """Waits until the condition holds; it is looked at when something has arrived."""
        with anyio.fail_after(WAIT):
            while not condition():
                assert self.task is not None
                assert not self.task.done(), f"the stream ended: {self.data} {self.failure!r}"
                await self._changed.wait()

    async def until_data(self, *data: str) -> None:
        await self.until(lambda: self.data[: len(data)] == list(data))

    async def ended(self) -> None:
        """Waits until the response has ended and cleaned up."""
        assert self.task is not None
        with anyio.fail_after(WAIT):
            await asyncio.wait([self.task])

    async def leave_and_end(self) -> None:
        self.leave()
        await self.ended()


@asynccontextmanager
async def living(app: Litestar) -> AsyncIterator[Litestar]:
    """An application between its start-up and its shutdown."""
    async with app.lifespan():
        yield app


async def eventually(condition: Callable[[], Any], within: float = WAIT) -> None:
    """Waits until a condition holds that nothing tells of, such as what Redis has; a coroutine function may ask it."""
    with anyio.fail_after(within):
        while True:
            value = condition()
            if asyncio.iscoroutine(value):
                value = await value
            if value:
                return
            await anyio.sleep(0.005)


async def connections(redis: Redis) -> int:
    """What others hold. Redis learns some time after a client has closed its connection that it has."""
    return len(await redis.client_list()) - 1


async def has_at_most(redis: Redis, many: int) -> bool:
    """Whether Redis has noticed of enough connections that they are closed."""
    return await connections(redis) <= many
