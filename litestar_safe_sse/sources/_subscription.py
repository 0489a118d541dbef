"""Between a source and one of its subscribers: a bounded mailbox, and the iterator that empties it."""

from __future__ import annotations

import contextlib
import math
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Hashable, Iterable
from threading import get_ident
from time import monotonic
from typing import TYPE_CHECKING, Literal

import anyio.lowlevel

from litestar_safe_sse._core.messages import SSEMessage
from litestar_safe_sse._runtime.current import current_runtime
from litestar_safe_sse.config import check_function, check_integer
from litestar_safe_sse.exceptions import InvalidFieldError
from litestar_safe_sse.sources.statistics import Tally

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self

    from litestar_safe_sse._runtime.base import Runtime, Wake

__all__ = ("DROPPED", "TURN", "Key", "Mailbox", "Overflow", "Subscription", "Turns", "give_turn", "make_mailbox")

Overflow = Literal["close", "drop_oldest", "latest"]
"""What happens when a subscriber has not taken what its buffer holds, and more comes.

``"close"``: the subscription ends after what is in the buffer, so the stream ends, and the client resumes from its
last event. ``"drop_oldest"``: the oldest message in the buffer goes, and the subscriber learns how many did by an
event of the type ``dropped``. ``"latest"``: of each key only the newest message is kept, at any time; a subscription
whose buffer is full of different keys ends as by ``"close"``.
"""

Key = Callable[[str, SSEMessage], Hashable]
"""What of a topic and a message makes it replace an older one; by default the topic and the event type."""

DROPPED = "dropped"
"""The type of the event that says in its data, ``{"dropped": 3}``, how many messages are missing before the next."""


TURN = 8
"""Messages after which the subscribers get a turn to take them; less than any sensible buffer."""

_TURNS = 32
"""Turns in which none of those whose mailboxes are filling takes any, before they are taken to be slow."""

_LONGEST = 1.0
"""Seconds for which a source waits for them at most, if the turns of its loop are long."""

_WAITS = 16
"""Every how many waits a subscriber looks whether it has been cancelled: no scope of AnyIO's cancels a task that is
about to go on, as one may always be for whom something comes at every turn of the loop."""

_OWN = object()
"""Stands for a source in the keys of its own messages."""


async def give_turn(mailboxes: Iterable[Mailbox]) -> None:
    """Lets subscribers take what they have been sent: one that has not run yet is not slow.

    Args:
        mailboxes: Theirs.
    """
    turns = Turns(mailboxes)
    while not turns.are_over():
        await anyio.lowlevel.cancel_shielded_checkpoint()


class Turns:
    """The turns that subscribers get: for as long as those whose mailboxes are filling take anything.

    Args:
        mailboxes: Theirs.
    """

    __slots__ = ("_filling", "_held", "_left", "_until")

    def __init__(self, mailboxes: Iterable[Mailbox]) -> None:
        self._filling = [mailbox for mailbox in mailboxes if mailbox.is_filling]
        self._left, self._held, self._until = _TURNS, math.inf, monotonic() + _LONGEST

    def are_over(self) -> bool:
        """Returns whether they have had theirs; called once in each turn of the loop."""
        self._filling = [mailbox for mailbox in self._filling if mailbox.is_filling]
        before, self._held = self._held, sum(map(len, self._filling))
        self._left = _TURNS if self._held < before else self._left - 1
        return not self._filling or not self._left or monotonic() >= self._until


class Mailbox:
    """What a source has for one subscriber: filled by the source, which never waits, and emptied by the subscriber.

    Args:
        limit: Messages that it holds at most.
        tally: Where it is counted what is lost here.
    """

    __slots__ = ("_limit", "_tally", "_waits", "_wake", "ended", "error", "lost", "messages")

    def __init__(self, limit: int, tally: Tally) -> None:
        self._limit = limit
        self._tally = tally
        self.messages: deque[SSEMessage] = deque()
        self._wake: Wake | None = None
        self.ended = False
        """Whether nothing more is accepted."""
        self.lost = False
        """Whether it ended because the source lost its thread, and not because the subscriber or the source did."""
        self.error: Exception | None = None
        """What the subscriber is given after the last message."""
        self._waits = 0
        """How often the subscriber has had to wait."""

    def __len__(self) -> int:
        return len(self.messages)

    @property
    def wake(self) -> Wake:
        """What the subscriber waits for; it is set when there is a message or the end."""
        if self._wake is None:
            self._wake = current_runtime().wake()
        return self._wake

    @property
    def is_filling(self) -> bool:
        """Whether half of it is full, and more is accepted."""
        return not self.ended and 2 * len(self) >= self._limit

    def put_own(self, message: SSEMessage, about: str = "") -> None:
        """Adds a message of the source's own, which is none of the application's.

        Args:
            message: The message.
            about: What it is about, if there may be several.
        """
        self.put("", message)

    def put(self, topic: str, message: SSEMessage) -> None:
        """Adds a message, if there is room and no end; otherwise does what the policy says."""
        if len(self.messages) >= self._limit:
            self.overflow()
        elif not self.ended:
            self.messages.append(message)
            if self._wake is not None:
                self._wake.set()

    def take(self) -> SSEMessage | None:
        """Returns the next message, and removes it; ``None`` if there is none."""
        return self.messages.popleft() if self.messages else None

    def overflow(self) -> None:
        """Accepts nothing more, since it is full."""
        if not self.ended:
            self._tally.overflows += 1
            self.end()

    def end(self, error: Exception | None = None, *, lost: bool = False) -> None:
        """Accepts nothing more; what is in it can still be taken."""
        if not self.ended:
            self.ended, self.error, self.lost = True, error, lost
            if self._wake is not None:
                self._wake.set()

    async def wait(self) -> None:
        """Waits until there is a message or the end."""
        while not len(self) and not self.ended:
            await self.wait_once()

    async def wait_once(self) -> None:
        """Waits until something may have changed here."""
        self._waits += 1
        if not self._waits % _WAITS:
            await anyio.lowlevel.checkpoint_if_cancelled()
        await self.wake.wait()


class DroppingMailbox(Mailbox):
    """Drops the oldest."""

    __slots__ = ("_dropped",)

    def __init__(self, limit: int, tally: Tally) -> None:
        super().__init__(limit, tally)
        self._dropped = 0

    def put(self, topic: str, message: SSEMessage) -> None:
        if len(self.messages) >= self._limit and not self.ended:
            self.messages.popleft()
            self._dropped += 1
            self._tally.dropped += 1
        super().put(topic, message)

    def take(self) -> SSEMessage | None:
        dropped, self._dropped = self._dropped, 0
        if dropped:
            return SSEMessage({"dropped": dropped}, DROPPED)
        return super().take()


class LatestMailbox(Mailbox):
    """Keeps the newest of each key, in the order in which they came."""

    __slots__ = ("_by_key", "_key")

    def __init__(self, limit: int, tally: Tally, key: Key) -> None:
        super().__init__(limit, tally)
        self._key = key
        self._by_key: dict[Hashable, SSEMessage] = {}

    def __len__(self) -> int:
        return len(self._by_key)

    def put(self, topic: str, message: SSEMessage) -> None:
        try:
            key = self._key(topic, message)
            hash(key)
        except Exception as error:  # the application's key, which is to end no other subscription than its own
            self.end(error)
        else:
            self._put(key, message)

    def put_own(self, message: SSEMessage, about: str = "") -> None:
        self._put((_OWN, message.event, about), message)

    def _put(self, key: Hashable, message: SSEMessage) -> None:
        if self.ended:
            return
        self._by_key.pop(key, None)  # put at the end again: ids must not go backwards
        if len(self._by_key) >= self._limit:
            self.overflow()
            return
        self._by_key[key] = message
        if self._wake is not None:
            self._wake.set()

    def take(self) -> SSEMessage | None:
        return self._by_key.pop(next(iter(self._by_key))) if self._by_key else None


def make_mailbox(limit: int, overflow: Overflow, key: Key | None = None, tally: Tally | None = None) -> Mailbox:
    """Returns an empty mailbox.

    Args:
        limit: Messages that it holds at most.
        overflow: What happens when it is full.
        key: What makes a message replace an older one; with ``"latest"`` only.
        tally: Where it is counted what is lost in it.

    Raises:
        InvalidFieldError: An argument can't be used.
    """
    check_integer("buffer", limit, minimum=1)
    if key is not None and overflow != "latest":
        raise InvalidFieldError("key", "must be left out unless overflow is 'latest'")
    check_function("key", key)
    tally = tally or Tally()
    if overflow == "close":
        return Mailbox(limit, tally)
    if overflow == "drop_oldest":
        return DroppingMailbox(limit, tally)
    if overflow == "latest":
        return LatestMailbox(limit, tally, key or _topic_and_type)
    raise InvalidFieldError("overflow", f"must be 'close', 'drop_oldest' or 'latest', not {overflow!r:.40}")


def _topic_and_type(topic: str, message: SSEMessage) -> Hashable:
    return topic, message.event


class Subscription(ABC):
    """An async iterator of messages, for one stream.

    It holds nothing before it is first iterated over, and nothing once it has ended, been closed or been let go. A
    cancellation while it waits for a message loses none: it can be iterated over again.
    """

    _busy = False
    _closed = False
    _home: tuple[int, Runtime] | None = None
    """The thread and the event loop of what it holds."""

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> SSEMessage:
        """Waits for the next message.

        Raises:
            RuntimeError: Another task is waiting here.
        """
        if self._closed:
            raise StopAsyncIteration
        if self._busy:
            raise RuntimeError("a subscription is iterated over by one task at a time; subscribe once for each")
        self._busy = True
        try:
            return await self._next()
        except Exception:  # StopAsyncIteration too; not a cancellation
            self._close()
            raise
        finally:
            self._busy = False

    async def aclose(self) -> None:
        """Ends it, also for a task that waits for a message."""
        self._close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._close()

    def __del__(self) -> None:
        if not self._closed and self._home is not None and self._home[0] != get_ident():
            # The garbage collector runs in any thread, and what is held here is safe in one only.
            with contextlib.suppress(RuntimeError):  # the loop has gone
                self._home[1].call_threadsafe(self._close)
                return
        self._close()

    def live_here(self) -> None:
        """Notes where it is to be let go, since from now on it holds what belongs to the running event loop."""
        if self._home is None:
            self._home = get_ident(), current_runtime()

    def _close(self) -> None:
        if not self._closed:
            self._closed = True
            self._release()

    async def _take_from(self, mailbox: Mailbox) -> SSEMessage:
        """Waits for a mailbox's next message; ends with the mailbox."""
        while not self._closed:
            message = mailbox.take()
            if message is not None:
                return message
            if mailbox.ended:
                break
            await mailbox.wait()
        if mailbox.error is not None:
            raise mailbox.error
        raise StopAsyncIteration

    @abstractmethod
    async def _next(self) -> SSEMessage:
        """Returns the next message, or raises ``StopAsyncIteration``; cancelled, it loses none."""

    @abstractmethod
    def _release(self) -> None:
        """Lets go of whatever it holds, and wakes the task that waits; called once."""
