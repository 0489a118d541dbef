"""What was missed, read once and rendered once for all who missed it.

A page begins right after a place and ends at a boundary that all have in common, so those who come back together read
the same pages from the second one on, wherever each of them was. A page is known by the whole place it begins after,
its nonce too: so it belongs to one history.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import TYPE_CHECKING

import anyio
import anyio.lowlevel

from litestar_safe_sse._core.messages import SSEMessage
from litestar_safe_sse.sources._bell import Bell
from litestar_safe_sse.sources._cursor import Position, cursor, record

if TYPE_CHECKING:
    from litestar_safe_sse.sources._stored import StoredEvent

__all__ = ("PAGE", "PAGE_BYTES", "Page", "Pages", "Sizes", "with_id")

PAGE = 100
"""Events that are fetched at once, at most."""

PAGE_BYTES = 64 * 1024
"""Bytes that they should have, at most; one that is larger is fetched by itself."""

_KEPT = 8 * 1024 * 1024
"""Bytes of the pages that are kept for those who come next."""

_AT_ONCE = 4
"""Pages that are fetched at the same time: what else is asked of the log comes between."""

_VARIANTS = 4
"""Ways in which a page is kept rendered: for subscribers to other topics besides, who stand elsewhere in them."""

_OVERHEAD = 512
"""Bytes of an event besides its text, about."""

_KNOWN_SIZES = 4096
"""Topics of which it is known how large their events are."""


class Page:
    """Events of a topic that follow a place.

    Args:
        after: The place.
        events: The events, each following the one before; what does not follow is left out.
    """

    __slots__ = ("_rendered", "events", "size")

    def __init__(self, after: Position, events: Sequence[StoredEvent]) -> None:
        self.events: list[StoredEvent] = []
        for event in events:
            if not event.follows(after):
                break
            self.events.append(event)
            after = event.position
        self.size = sum(size_of(event.message) + _OVERHEAD for event in self.events)
        self._rendered: dict[tuple[bytes, bytes], list[SSEMessage]] = {}

    def messages(self, before: bytes, tag: bytes, after: bytes) -> list[SSEMessage]:
        """Returns the events as messages with IDs, made once for all who stand at the same places in other topics.

        Args:
            before: The part of the cursor ahead of this topic's.
            tag: This topic's tag.
            after: The part behind.
        """
        found = self._rendered.get((before, after))
        if found is None:
            found = [
                with_id(event.message, cursor((before, record(tag, event.position), after))) for event in self.events
            ]
            if len(self._rendered) < _VARIANTS:
                self._rendered[before, after] = found
        return found


class Pages:
    """The pages that were read lately, bounded by their bytes.

    Args:
        fetch: Fetches the events of a topic that follow a place, up to another one.
    """

    def __init__(self, fetch: Callable[[str, Position, Position], Awaitable[Sequence[StoredEvent]]]) -> None:
        self._fetch = fetch
        self._kept: OrderedDict[tuple[str, Position], Page] = OrderedDict()
        self._of_topic: dict[str, set[Position]] = {}
        self._fetching: dict[tuple[str, Position], Bell] = {}
        self._size = 0
        self._slots: anyio.Semaphore | None = None
        self._forgotten = 0

    @property
    def size(self) -> int:
        """Bytes that are kept."""
        return self._size

    async def get(self, topic: str, after: Position, upto: Position) -> Page:
        """Returns a page, which may go further than asked for; it is empty if nothing follows.

        Args:
            topic: The topic.
            after: The place that it begins after.
            upto: A place in the same history, at or beyond which it may end.
        """
        key = topic, after
        while True:
            page = self._kept.get(key)
            if page is not None:
                self._kept.move_to_end(key)
                await anyio.lowlevel.checkpoint()  # one who finds all that he missed here is not to keep others from it
                return page
            fetching = self._fetching.get(key)
            if fetching is None:
                return await self._get(key, upto)
            await fetching.wait()

    async def _get(self, key: tuple[str, Position], upto: Position) -> Page:
        topic, after = key
        fetching = self._fetching[key] = Bell()
        boundary = (after.seq // PAGE + 1) * PAGE
        if boundary < upto.seq:
            upto = Position(upto.epoch, boundary, 0)
        if self._slots is None:
            self._slots = anyio.Semaphore(_AT_ONCE)
        try:
            async with self._slots:
                forgotten = self._forgotten
                page = Page(after, await self._fetch(topic, after, upto))
            if page.events and forgotten == self._forgotten:
                self._keep(key, page)
            return page
        finally:
            del self._fetching[key]
            fetching.ring()

    def _keep(self, key: tuple[str, Position], page: Page) -> None:
        self._kept[key] = page
        self._of_topic.setdefault(key[0], set()).add(key[1])
        self._size += page.size
        while self._size > _KEPT:
            self._drop(next(iter(self._kept)))

    def _drop(self, key: tuple[str, Position]) -> None:
        topic, after = key
        self._size -= self._kept.pop(key).size
        of_topic = self._of_topic[topic]
        of_topic.discard(after)
        if not of_topic:
            del self._of_topic[topic]

    def forget(self, topic: str) -> None:
        """Drops the pages of a topic whose history may be another now."""
        self._forgotten += 1
        for after in tuple(self._of_topic.get(topic, ())):
            self._drop((topic, after))

    def forget_all(self) -> None:
        """Drops all pages, since nobody is left who could want them."""
        self._forgotten += 1
        self._kept.clear()
        self._of_topic.clear()
        self._size = 0


class Sizes:
    """How large the events of topics are, as far as some have been seen, so that a page has a bound in bytes."""

    def __init__(self) -> None:
        self._known: OrderedDict[str, int] = OrderedDict()

    def note(self, topic: str, sizes: Iterable[int]) -> None:
        """Notes the sizes of some events of a topic; that there were large ones is forgotten slowly."""
        largest = max(sizes, default=0)
        if largest:
            self._known[topic] = max(largest, self._known.pop(topic, 0) // 2)
            if len(self._known) > _KNOWN_SIZES:
                self._known.popitem(last=False)

    def of(self, topic: str) -> int:
        """Returns the bytes that an event may have."""
        return self._known.get(topic, _OVERHEAD)

    def page(self, topic: str) -> int:
        """Returns how many events to fetch at once."""
        return max(1, min(PAGE, PAGE_BYTES // self.of(topic)))


def size_of(message: SSEMessage) -> int:
    """Returns about how many bytes a rendered message has."""
    return sum(len(text) for text in (message.data, message.event, message.comment) if isinstance(text, str))


def with_id(message: SSEMessage, id: str) -> SSEMessage:
    """Returns a copy of a message that has an ID."""
    return SSEMessage(message.data, message.event, id, message.retry, message.comment)
