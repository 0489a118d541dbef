"""Who is subscribed to which topics of a log.

Each event loop knows its own streams. Where others have the log too, it tells a server of them: a *seat* per stream
and topic, which lasts for a while, and is told of again by one task as long as the stream is there. So a process that
was killed is forgotten, and a server that has lost its seats is told of them again. What a loop answers is its own
streams, as they are now, and the seats of the others.
"""

from __future__ import annotations

import asyncio
import random
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from secrets import token_hex
from typing import TYPE_CHECKING, Any, NamedTuple

import anyio
from msgspec import Struct

from litestar_safe_sse.config import check_text
from litestar_safe_sse.exceptions import InvalidFieldError, SourceRefusedError, SourceUnavailableError
from litestar_safe_sse.sources._tasks import Backoff, Outage, spawn
from litestar_safe_sse.sources.statistics import Tally

if TYPE_CHECKING:
    from collections.abc import Collection

__all__ = ("Attendance", "Guest", "Presence", "Seat", "SharedAttendance", "Who", "check_member")

Who = Callable[[Any], "str | None"]
"""A function of a connection, which returns who it is; ``None`` for one without a name."""

_TOGETHER = 512
"""Seats that the server is told of at once."""

_MAX_MEMBER = 256
"""Bytes of a name."""


class Presence(Struct, frozen=True):
    """Who is subscribed to a topic.

    Args:
        streams: How many streams there are.
        members: Who has them, by name, and how many each. Those without a name are the rest.
    """

    streams: int
    members: dict[str, int]

    @classmethod
    def of(cls, names: Iterable[str]) -> Presence:
        """Returns the presence of streams of which each has a name, which may be empty."""
        everybody = Counter(names)
        return cls(everybody.total(), {name: many for name, many in sorted(everybody.items()) if name})


class Attendance:
    """The streams of one event loop: all there are, where no other process has the log."""

    def __init__(self) -> None:
        self._present: dict[str, dict[str, str]] = {}
        """Of each topic the streams, and whose they are."""
        self._token = token_hex(8)
        self._joined = 0

    def join(self, topics: Iterable[str], name: str) -> str:
        """Adds a stream; returns what it is known by.

        Args:
            topics: What it is subscribed to.
            name: Whose it is; empty for one without a name.
        """
        self._joined += 1
        stream = f"{self._token}.{self._joined}"
        for topic in topics:
            self._present.setdefault(topic, {})[stream] = name
        return stream

    def leave(self, topics: Iterable[str], stream: str) -> None:
        """Removes a stream, if it is there."""
        for topic in topics:
            streams = self._present.get(topic, {})
            streams.pop(stream, None)
            if not streams:
                self._present.pop(topic, None)

    async def look(self, topic: str) -> Presence:
        """Returns who is subscribed to a topic."""
        return Presence.of(self._present.get(topic, {}).values())


class Seat(NamedTuple):
    """One stream in one topic, as a server knows it."""

    topic: str
    stream: str
    name: str = ""


class SharedAttendance(Attendance, ABC):
    """The streams of one event loop, of which a server is told, which tells of the others'.

    Args:
        server: What it is.
    """

    lasts = 30.0
    """Seconds for which the server keeps a seat that it is told of no more."""

    def __init__(self, server: str) -> None:
        super().__init__()
        self._changed: dict[Seat, bool] = {}
        """The seats that the server has not been told of yet, and whether they are taken."""
        self._task: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()
        self._closing = asyncio.Event()
        self._outage = Outage("presence", Tally(), server)
        self._refused = False
        """Whether the server has refused some seats since it was last told of all."""

    @abstractmethod
    async def tell(self, taken: Collection[Seat], left: Collection[Seat]) -> None:
        """Tells the server of seats: that they are taken, for as long as one lasts, or have been left.

        Raises:
            SourceUnavailableError: The server can't be told now.
            SourceRefusedError: It refuses some of them, or all; it has been told of the others.
        """

    @abstractmethod
    async def ask(self, topic: str) -> Iterable[Seat]:
        """Asks the server for the seats that are taken in a topic."""

    def join(self, topics: Iterable[str], name: str) -> str:
        """See :meth:`Attendance.join`; the server is told of it soon."""
        stream = super().join(topics, name)
        self._change([Seat(topic, stream, name) for topic in topics], taken=True)
        if self._task is None:
            self._task = spawn(self._keep_telling(), "SSE presence")
        return stream

    def leave(self, topics: Iterable[str], stream: str) -> None:
        """See :meth:`Attendance.leave`; the server is told of it soon."""
        there = [topic for topic in topics if stream in self._present.get(topic, ())]
        self._change([Seat(topic, stream, self._present[topic][stream]) for topic in there], taken=False)
        super().leave(there, stream)

    async def look(self, topic: str) -> Presence:
        """See :meth:`Attendance.look`.

        Raises:
            SourceUnavailableError: The server can't be reached.
            SourceRefusedError: It refuses.
        """
        seats = await self.ask(topic)
        others = [seat.name for seat in seats if not seat.stream.startswith(f"{self._token}.")]
        return Presence.of([*others, *self._present.get(topic, {}).values()])

    async def aclose(self) -> None:
        """Tells the server that all have left."""
        self._closing.set()
        self._wake.set()
        if self._task is not None:
            await asyncio.wait([self._task])

    def _change(self, seats: Iterable[Seat], *, taken: bool) -> None:
        self._changed.update(dict.fromkeys(seats, taken))
        self._wake.set()

    def _change_all(self, *, taken: bool) -> None:
        for topic, streams in self._present.items():
            self._change([Seat(topic, *stream) for stream in streams.items()], taken=taken)

    async def _keep_telling(self) -> None:
        """Tells the server of what changes, and of all who are there before it forgets them."""
        loop = asyncio.get_running_loop()
        backoff = Backoff()
        again_at = loop.time() + self._pause()
        try:
            while (self._present or self._changed) and not self._closing.is_set():
                if loop.time() >= again_at:
                    self._change_all(taken=True)
                    self._refused = False
                    again_at = loop.time() + self._pause()
                self._wake.clear()
                if await self._tell_changes():
                    backoff.reset()
                    with anyio.CancelScope(deadline=again_at):
                        await self._wake.wait()
                else:
                    again_at = loop.time()
                    await backoff.wait(self._closing)
            self._change_all(taken=False)
            self._present.clear()
            await self._tell_changes()
        finally:
            self._task = None

    def _pause(self) -> float:
        """Returns the seconds until the server is told of all again: random, so that processes take turns."""
        return self.lasts / 3 * random.uniform(0.8, 1.0)

    async def _tell_changes(self) -> bool:
        """Returns whether the server has been told; if not, it is to be told of all who are there."""
        if not self._changed:
            return True
        changed, self._changed = [*self._changed.items()], {}
        for start in range(0, len(changed), _TOGETHER):
            some = changed[start : start + _TOGETHER]
            try:
                await self.tell([seat for seat, taken in some if taken], [seat for seat, taken in some if not taken])
            except SourceRefusedError as error:
                self._outage.begin(error)
                self._refused = True  # which is no reason for other seats to wait
            except SourceUnavailableError as error:
                self._outage.begin(error)
                return False
        if not self._refused:
            self._outage.end()
        return True


class Guest:
    """A stream that is to be present where it subscribes.

    Args:
        find: Returns the attendance of the running event loop.
        name: Whose it is; empty for one without a name.
    """

    __slots__ = ("_attendance", "_find", "_name", "_stream", "_topics")

    def __init__(self, find: Callable[[], Attendance], name: str) -> None:
        self._find = find
        self._name = name
        self._topics: Sequence[str] = ()
        self._attendance: Attendance | None = None
        self._stream = ""

    def join(self, topics: Sequence[str]) -> None:
        """Is present from now on."""
        self._topics, self._attendance = topics, self._find()
        self._stream = self._attendance.join(topics, self._name)

    def leave(self) -> None:
        """Is present no longer, if it was."""
        if self._attendance is not None:
            self._attendance.leave(self._topics, self._stream)
            self._attendance = None


def check_member(field: str, name: object) -> str:
    """Returns a name; raises ``InvalidFieldError`` for what can be none."""
    text = check_text(field, name)
    if not 0 < len(text.encode()) <= _MAX_MEMBER or "\0" in text:
        raise InvalidFieldError(
            field, f"must be from 1 to {_MAX_MEMBER} bytes, none of them null, not {len(text.encode())}"
        )
    return text
