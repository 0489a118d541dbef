"""A feed that outlives the worker it comes from: each worker publishes to one log, and any worker delivers all of it.

Each event bears a number that its publisher counts itself, so the page can see that none is missing and none doubled
without believing the log.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import signal
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from itertools import count
from typing import Any, Literal, cast

import anyio
import msgspec
from litestar import Request, Router, get, post
from litestar.datastructures import State
from litestar.exceptions import HTTPException, NotFoundException, ServiceUnavailableException

from litestar_safe_sse import SafeServerSentEvent, SSEMessage, StreamContext
from litestar_safe_sse.exceptions import SourceUnavailableError
from litestar_safe_sse.sources import EventLog, MemoryEventLog, RedisEventLog, RedisPlugin

__all__ = ["Feed", "Hello", "Published", "Storage", "Worker", "create_feed", "feed_router"]

AnyRequest = Request[Any, Any, State]
Storage = Literal["memory", "redis"]
Kind = Literal["tick", "note", "kill"]

TOPIC = "feed"
KEEP = 600  # events: five minutes of two workers
TICK = 1.0
RETRY = 0.25
SILENT_AFTER = 3 * TICK
YOUNG = 6.0  # Granian stops altogether if a worker dies sooner than this after its start
ANSWER_FIRST = 0.2  # the answer to whoever asked for the kill may be this worker's own to send
BACK_IN_MS = 1500

_logger = logging.getLogger("example_app")


class Worker(msgspec.Struct, frozen=True):
    """One process that serves this application."""

    id: str
    pid: int
    since: float
    """When it began, in milliseconds of the Unix epoch."""

    @classmethod
    def this(cls) -> Worker:
        return cls(secrets.token_hex(6), os.getpid(), now())


class Published(msgspec.Struct, frozen=True, omit_defaults=True):
    """An event of the feed. Every publisher counts its own from 1; a ``kill`` names the worker that is to die of it."""

    kind: Kind
    worker: Worker
    number: int
    at: float
    victim: Worker | None = None


class Hello(msgspec.Struct, frozen=True):
    """What a stream begins with: who delivers all that follows."""

    worker: Worker
    at: float
    storage: Storage


def now() -> float:
    return time.time() * 1000


def die() -> None:
    """Ends this process as a crash would: nothing is closed, nobody is notified."""
    os.kill(os.getpid(), getattr(signal, "SIGKILL", signal.SIGTERM))


@dataclass
class Sighting:
    worker: Worker
    at: float


class Feed:
    """This worker's part in the feed: it publishes, it keeps an eye on the other workers, and it dies when told to.

    Orders to publish wait in one queue, and one task appends them: so the numbers are in order, and one that a log
    which can't be reached may or may not have stored is tried again, under the same key, before the next.
    """

    def __init__(self, log: EventLog, storage: Storage, *, end: Callable[[], None] = die) -> None:
        self.log = log
        self.storage: Storage = storage
        self._end = end
        self._worker: Worker | None = None
        self._orders: asyncio.Queue[tuple[Kind, Worker | None]] = asyncio.Queue(maxsize=16)
        self._tasks: list[asyncio.Task[None]] = []
        self._sightings: dict[str, Sighting] = {}
        self._killed: deque[str] = deque(maxlen=64)

    @property
    def worker(self) -> Worker:
        if self._worker is None:
            self._worker = Worker.this()  # not before it is asked for: servers may fork
        return self._worker

    async def start(self, _: object = None) -> None:
        """Begins to publish, unless that has been done."""
        if not self._tasks:
            for work in (self._watch(), self._publish()):
                task = asyncio.create_task(work)
                task.add_done_callback(_report_failure)
                self._tasks.append(task)

    async def aclose(self) -> None:
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def alive(self) -> dict[str, Worker]:
        """The workers that have published lately, and have not been killed."""
        since = time.monotonic() - SILENT_AFTER
        self._sightings = {id: sighting for id, sighting in self._sightings.items() if sighting.at > since}
        return {id: sighting.worker for id, sighting in self._sightings.items()}

    async def events(self, after: str | None) -> AsyncIterator[SSEMessage]:
        yield SSEMessage(Hello(self.worker, now(), self.storage), event="hello", retry=BACK_IN_MS)
        async with self.log.subscribe(TOPIC, after=after, on_reset="oldest") as subscription:
            async for message in subscription:
                yield message

    def order(self, kind: Kind, victim: Worker | None = None) -> None:
        """Has an event published.

        Raises:
            asyncio.QueueFull: Too many are waiting: the log can't be reached.
        """
        self._orders.put_nowait((kind, victim))

    async def _publish(self) -> None:
        due = time.monotonic()
        for number in count(1):
            kind: Kind = "tick"
            victim: Worker | None = None
            with anyio.move_on_after(max(0.0, due - time.monotonic())) as waiting:
                kind, victim = await self._orders.get()
            if waiting.cancelled_caught:
                due = max(due + TICK, time.monotonic())
            await self._append(Published(kind, self.worker, number, now(), victim))

    async def _append(self, event: Published) -> None:
        message = SSEMessage(event, event="published")
        while True:
            try:
                await self.log.append(TOPIC, message, idempotency_key=f"{event.worker.id}:{event.number}")
            except SourceUnavailableError:
                await anyio.sleep(RETRY)
            else:
                return

    async def _watch(self) -> None:
        async with self.log.subscribe(TOPIC, overflow="drop_oldest") as subscription:
            async for message in subscription:
                if message.event == "published":
                    await self._see(msgspec.json.decode(cast(str, message.data), type=Published))

    async def _see(self, event: Published) -> None:
        if event.worker.id not in self._killed:
            self._sightings[event.worker.id] = Sighting(event.worker, time.monotonic())
        if event.victim is not None:
            # Looked at again here, where all workers see kills in one order: two that name each other leave one alive.
            obeys = event.victim == self.worker and len(self.alive()) > 1
            self._killed.append(event.victim.id)
            self._sightings.pop(event.victim.id, None)
            if obeys:
                await anyio.sleep(ANSWER_FIRST)
                self._end()


def _report_failure(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        _logger.error("this worker's part in the feed has ended", exc_info=error)


def create_feed(redis: RedisPlugin | None) -> Feed:
    if redis is None:
        return Feed(MemoryEventLog(max_events=KEEP), "memory")
    return Feed(RedisEventLog(redis, max_events=KEEP, expire_after=3600), "redis")


def feed_router(feed: Feed) -> Router:
    @get("/events")
    async def events(request: AnyRequest, stream: StreamContext) -> SafeServerSentEvent:
        """The feed; ``?after`` is for a page that comes back by itself, with no ``Last-Event-ID`` to send."""
        return SafeServerSentEvent(feed.events(stream.last_event_id or request.query_params.get("after")))

    def order(kind: Kind, victim: Worker | None = None) -> None:
        try:
            feed.order(kind, victim)
        except asyncio.QueueFull:
            raise ServiceUnavailableException("The log can't be reached, and enough is waiting for it.") from None

    @post("/notes", status_code=202)
    async def note() -> None:
        order("note")

    @post("/workers/{id:str}/kill", status_code=202)
    async def kill(request: AnyRequest) -> None:
        """Tells a worker, by way of the log, to end itself with SIGKILL: this is a demonstration."""
        id = request.path_params["id"]
        if feed.storage == "memory":
            raise HTTPException("The log is in this process's memory, and would die with it.", status_code=409)
        alive = feed.alive()
        if id not in alive:
            raise NotFoundException("No such worker publishes here any more.")
        if len(alive) == 1:
            raise HTTPException("It is the only worker: nobody would be left to come back to.", status_code=409)
        if now() - alive[id].since < YOUNG * 1000:
            raise HTTPException(f"It has only just started. Give it {YOUNG:.0f} seconds.", status_code=409)
        order("kill", alive[id])

    return Router("/feed", route_handlers=[events, note, kill])
