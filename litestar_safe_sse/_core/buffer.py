"""The bounded events between a body, which runs ahead, and the writer, which hands them to the server."""

from __future__ import annotations

import math
from enum import Enum
from time import monotonic
from typing import TYPE_CHECKING, Any, Protocol

import anyio

from litestar_safe_sse._core.encoding import SHARED, Nothing, has_data
from litestar_safe_sse._core.heads import BlockHead
from litestar_safe_sse._core.messages import SSEMessage
from litestar_safe_sse._core.pace import AT_ONCE, TURN, Pace
from litestar_safe_sse.exceptions import StreamClosedError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from litestar_safe_sse._core.encoding import Preamble
    from litestar_safe_sse._core.heads import BytesHead, Head, MessageHead
    from litestar_safe_sse._runtime.base import Runtime, Wake

__all__ = ("BlockEncoder", "Buffer", "BufferState")

FEWEST_LOOKS = 8
"""Every how many events the clock is looked at while many come at once, since that costs as much as all else."""

LINGER_TURNS = 4
LINGER = 0.0005
"""Turns and seconds for which the writer lets a body that is at work add to the next chunk."""

AT_WORK = 0.002
"""Seconds between two chunks at most, for a body to be taken to be at work."""


_BLOCKS = BlockHead()


class BufferState(Enum):
    """What becomes of the events of a buffer."""

    HELD = "held"
    """Its body waits at its first event until the headers have been sent."""
    OPEN = "open"
    """Its body runs ahead of the writer, and has to wait where it is too far ahead."""
    ENDED = "ended"
    """Its body goes on to its end without waiting; what it puts in is still written."""
    DROPPED = "dropped"
    """Nothing is written any more."""


class BlockEncoder(Protocol):
    """What makes bytes of events."""

    @property
    def text_type(self) -> type:
        """``str``, or nothing's type where a text is no ordinary one."""
        ...

    @property
    def text_heads(self) -> Mapping[str | None, Head]:
        """The heads of texts that are ASCII, by the type of their events."""
        ...

    @property
    def bytes_heads(self) -> Mapping[str | None, BytesHead]:
        """The heads of other texts."""
        ...

    @property
    def message_type(self) -> type:
        """The type of messages that need no look at what they carry, or nothing's type."""
        ...

    def message_head(self, message: Any) -> MessageHead | None:
        """The head of a message that is more than a text with a type; ``None`` if nothing is like it."""
        ...

    def is_shared(self, message: Any) -> bool:
        """Whether a message of a rather long text is encoded by itself."""
        ...

    def resolve(self, item: object) -> SSEMessage | bytes:
        """The message that an item of any other kind stands for, or its block."""
        ...

    @property
    def json_types(self) -> Mapping[type, Head]:
        """Types whose items are data and nothing else, sent as JSON, with their heads."""
        ...

    @property
    def to_json(self) -> Callable[[Any], bytes]:
        """Makes JSON of such an item."""
        ...

    def refusal(self, item: object, error: Exception) -> Exception:
        """What to raise where that fails."""
        ...

    def encode_message(self, message: Any) -> bytes:
        """The block of a message as it is, which it may be known by already."""
        ...

    def encode(self, item: object) -> bytes:
        """The block of any item."""
        ...

    @property
    def heartbeat(self) -> bytes:
        """The comment line of a heartbeat."""
        ...

    @property
    def opening(self) -> bytes:
        """A comment line for a stream that has nothing to say yet."""
        ...


class Buffer:
    """Events wait here, whole, until the writer takes all that is ready as one chunk.

    There is one producer (the body's task, and whoever sends beside it) and one consumer (the writer). None needs a
    lock, since nothing here awaits between looking and acting. What can fail is encoded at once; all that is the same
    for several events in a row is done for them together, when they are taken.
    """

    __slots__ = (
        "_dropped",
        "_encoder",
        "_filled",
        "_first_fields",
        "_has_room",
        "_head",
        "_json_types",
        "_latest_heartbeat",
        "_limit",
        "_linger_until",
        "_look_at",
        "_message_type",
        "_pace",
        "_parts",
        "_pieces",
        "_progress",
        "_queue",
        "_ready",
        "_runtime",
        "_sent_at",
        "_size",
        "_state",
        "_taken",
        "_text_frame",
        "_text_head",
        "_text_heads",
        "_text_type",
        "_to_json",
        "_turns",
        "_until",
        "_written",
        "heartbeats",
    )

    _encoder: BlockEncoder
    _text_type: type
    _head: Head
    _text_head: Head
    _text_heads: Mapping[str | None, Head]
    _text_frame: int
    _message_type: type
    _json_types: Mapping[type, Head]
    _to_json: Callable[[Any], bytes]

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._first_fields = b""
        """Lines for the block of the first event, until there is one."""
        self._limit = 0
        """Bytes from which on the body has to pause; none unless the buffer is open."""
        self._parts: list[bytes] = []
        self._pieces: list[Any] = []
        """Those of the events that came after the parts; they have one head in common."""
        self._size = 0
        self._pace = Pace()
        self._until = AT_ONCE
        """Until when the body may go on without a turn of the loop."""
        self._look_at = 0
        """At how many events the clock is looked at again."""
        self._filled = runtime.wake()
        self._has_room = runtime.wake()
        self._queue: list[Wake] | None = None
        """Those who wait to put something in beside the body."""
        self._progress: anyio.Event | None = None
        """Tells those who flush that something has been written."""
        self._turns = 0
        """Those for which the writer still lets the body go on before it takes the next chunk."""
        self._linger_until = 0.0
        self._sent_at = -math.inf
        # Counts of events and comments: those that wait, those that the writer has taken, of them those that the server
        # has taken, and those that are never to be written.
        self._ready = 0
        self._taken = 0
        self._written = 0
        self._dropped = 0
        self.heartbeats = 0
        """Heartbeats that have been put in."""
        self._latest_heartbeat = 0
        """The place of the latest among all that has been put in."""
        self._state = BufferState.OPEN

    def configure(self, encoder: BlockEncoder, limit: int) -> None:
        """Sets how events are encoded.

        Args:
            encoder: What encodes them.
            limit: Bytes from which on the body has to wait for the writer.
        """
        self._encoder = encoder
        self._text_type = encoder.text_type
        self._text_heads = encoder.text_heads
        self._head = self._text_head = encoder.text_heads[None]
        self._text_frame = self._text_head.frame
        self._message_type = encoder.message_type
        self._json_types, self._to_json = encoder.json_types, encoder.to_json
        if self._state is BufferState.OPEN:
            self._limit = limit

    def hold(self) -> None:
        """Has the body wait at its first event, until :meth:`release`."""
        if self._state is BufferState.OPEN:
            self._state, self._limit = BufferState.HELD, 0

    def release(self, limit: int) -> None:
        """Lets a body go on that was held.

        Args:
            limit: Bytes from which on it has to wait for the writer.
        """
        if self._state is BufferState.HELD:
            self._state, self._limit = BufferState.OPEN, limit
            self._make_room()

    async def wait_for_event(self) -> None:
        """Waits until a body that is held has an event, or can have none any more."""
        while not self.events and self._state is BufferState.HELD:
            await self._filled.wait()

    def begin(self, preamble: Preamble) -> None:
        """Puts in what the stream begins with."""
        if preamble.fields:
            self._first_fields = preamble.fields
            self._message_type = Nothing  # each message is encoded at once, which shows whether it is an event
        if preamble.comment:
            self._parts.append(preamble.comment)
            self._size += len(preamble.comment)

    @property
    def opening(self) -> bytes:
        """What may be sent where nothing is ready: servers and proxies hold the headers back until something is."""
        return self._encoder.opening

    @property
    def state(self) -> BufferState:
        """What becomes of the events."""
        return self._state

    @property
    def pending(self) -> int:
        """Bytes that the writer has not taken yet."""
        return self._size

    @property
    def events(self) -> int:
        """Events and comments that have been put in."""
        return self._taken + self._ready + self._dropped

    @property
    def written(self) -> int:
        """Events and comments that have been written."""
        return self._written

    @property
    def heartbeats_written(self) -> int:
        """Heartbeats that have been written."""
        return self.heartbeats - (self._written < self._latest_heartbeat)  # one at a time

    def put(self, item: object) -> bool:
        """Appends one event, whole.

        Args:
            item: What a body has yielded.

        Returns:
            Whether the body has to :meth:`pause`: the buffer is full, or the loop has had no turn for a while, or
            nothing tells that what the body does next won't block the loop, or the body is to end.

        Raises:
            InvalidFieldError: If it cannot be sent.
        """
        kind = type(item)
        if kind is self._text_type:
            if self._head is self._text_head and item.isascii():  # type: ignore[attr-defined]
                self._pieces.append(item)
                self._size += len(item) + self._text_frame  # type: ignore[arg-type]
            else:
                self._put_text(item, None)  # type: ignore[arg-type]
        elif kind is self._message_type:
            self._put_message(item)  # type: ignore[arg-type]
        elif (head := self._json_types.get(kind)) is not None:
            try:
                piece = self._to_json(item)
                if not piece.isascii():
                    piece.decode()  # a msgspec.Raw may hold anything
            except Exception as error:
                raise self._encoder.refusal(item, error) from error
            if head is self._head:
                self._pieces.append(piece)
                self._size += len(piece) + head.frame
            else:
                self._put_piece(head, piece)
        else:
            self._put_other(item)
        self._ready = ready = self._ready + 1
        if ready < self._look_at:
            return self._size >= self._limit
        return self._look() or self._size >= self._limit

    def _put_message(self, message: SSEMessage) -> None:
        text, event = message.data, message.event
        if type(text) is not str or message.id is not None or message.retry is not None or message.comment is not None:
            self._put_by_head(message)
        elif len(text) > SHARED and self._encoder.is_shared(message):
            self._put_piece(_BLOCKS, self._encoder.encode_message(message))
        elif (head := self._text_heads[event]) is self._head and text.isascii():
            self._pieces.append(text)
            self._size += len(text) + head.frame
        else:
            self._put_text(text, event)

    def _put_text(self, text: str, event: str | None) -> None:
        head = self._encoder.bytes_heads[event]
        if text.isascii() and (head is not self._head or not self._pieces):  # else it goes on with what is there
            self._put_piece(self._text_heads[event], text)
        else:
            self._put_piece(head, head.encode(text))

    def _put_by_head(self, message: SSEMessage) -> None:
        head = self._encoder.message_head(message)
        if head is None:
            self._put_piece(_BLOCKS, self._encoder.encode_message(message))
        else:
            self._put_piece(head, head.piece(message))

    def _put_other(self, item: object) -> None:
        if self._first_fields:  # only what has data is an event
            self._put_first(self._encoder.encode(item))
        elif type(found := self._encoder.resolve(item)) is SSEMessage:
            self._put_message(found)
        else:
            self._put_piece(_BLOCKS, found)  # type: ignore[arg-type]

    def _put_first(self, block: bytes) -> None:
        if self._pieces:
            self._fold()
        if self._first_fields and has_data(block):
            self._put_first_fields()
        self._parts.append(block)
        self._size += len(block)

    def _put_piece(self, head: Head, piece: str | bytes) -> None:
        if head is not self._head:
            if self._pieces:
                self._fold()
            self._head = head
        self._pieces.append(piece)
        self._size += len(piece) + head.frame

    def _look(self) -> bool:
        """Looks at the clock, and tells whether the body has to pause."""
        ready = self._ready
        self._look_at = ready + (ready if ready < FEWEST_LOOKS else FEWEST_LOOKS)
        now = monotonic()
        if now < self._until:
            return False
        if not self._turns:
            self._filled.set()
        self._until = self._pace.decide(now, self._until)
        return now >= self._until

    def _fold(self) -> None:
        if self._first_fields:
            self._put_first_fields()
        pieces, self._pieces = self._pieces, []
        self._head.join(pieces, self._parts)

    def _put_first_fields(self) -> None:
        self._parts.append(self._first_fields)
        self._first_fields = b""
        self._message_type = self._encoder.message_type

    def put_heartbeat(self) -> None:
        """Puts a heartbeat in."""
        if self._pieces:
            self._fold()
        block = self._encoder.heartbeat
        self._parts.append(block)
        self._size += len(block)
        self._ready += 1
        self.heartbeats += 1
        self._latest_heartbeat = self.events
        if not self._turns:
            self._filled.set()

    async def pause(self) -> None:
        """Gives the loop a turn, and waits until there is room or the body is to end."""
        if self._taken:
            self._runtime.let_threads_run()
        self._turns = 0
        self._filled.set()
        turns, until = self._pace.turns, monotonic() + TURN
        await self._runtime.turn()
        while turns > 1 and (self._size or monotonic() < until):  # a loop of a busy machine may need as long for one
            turns -= 1
            await self._runtime.turn()
        while self._is_full:
            await self._has_room.wait()
        self._look_at = 0
        self._until = AT_ONCE
        self.note_step()

    @property
    def _is_full(self) -> bool:
        if self._state is BufferState.OPEN:
            return self._size >= self._limit
        return self._state is BufferState.HELD

    async def wait_for_room(self) -> None:
        """Waits until one more event may be put in by somebody else than the body: first come, first served."""
        if not self._queue and not self._is_crowded:
            return
        place = self._runtime.wake()
        self._queue = queue = self._queue or []
        queue.append(place)
        try:
            while queue[0] is not place or self._is_crowded:
                await place.wait()
        finally:
            queue.remove(place)
            self._call_next()  # who looks once this one has put in what it has

    @property
    def _is_crowded(self) -> bool:
        return self._ready > 0 and self._size >= self._limit and self._state is not BufferState.DROPPED

    def _call_next(self) -> None:
        if self._queue:
            self._queue[0].set()

    async def let_write(self) -> None:
        """Gives the loop a turn, in which what has been put in is taken."""
        self._filled.set()
        await self._runtime.turn()

    def _make_room(self) -> None:
        self._has_room.set()
        self._call_next()

    def note_step(self) -> None:
        """Takes note that the body goes on, which may block the loop."""
        self._pace.begin_step(self._runtime)

    def end(self) -> None:
        """Ends the waiting: the body goes on to its end, and the writer looks whether it is there.

        It is called when the body is to end, and again when it has.
        """
        self._leave_open(BufferState.ENDED)

    def drop(self) -> None:
        """Forgets what was not written; nothing more will be."""
        self._parts, self._pieces = [], []
        self._dropped += self._ready
        self._ready = 0
        self._forget()
        if self._state is not BufferState.DROPPED:
            self._leave_open(BufferState.DROPPED)
            self._notify()

    def _leave_open(self, state: BufferState) -> None:
        if self._state is not BufferState.DROPPED:
            self._state = state
            self._limit = 0
        self._make_room()
        self._filled.set()

    def wait_filled(self) -> Awaitable[None]:
        """Waits until there may be something to take, or the end."""
        return self._filled.wait()

    def linger(self) -> bool:
        """Lets a body that is at work add to the next chunk for a few turns of the loop; called after a ``send``.

        A ``send`` costs more than they do. A body that has nothing in the first of them is waited for without turns.

        Returns:
            Whether the writer is to wait for the buffer to be filled.
        """
        if self._state is not BufferState.OPEN or self._size >= self._limit:
            return False
        now, before = monotonic(), self._sent_at
        self._sent_at = now
        if now > before + AT_WORK:  # what is rare, as an event to thousands of streams, is not followed by others
            return not self._size
        self._turns = LINGER_TURNS
        self._linger_until = now + LINGER
        self._runtime.call_soon(self._turn)
        return True

    def _turn(self) -> None:
        # By callbacks, since to resume the writer is to resume the whole application below it.
        self._turns = self._turns - 1 if self._size and monotonic() < self._linger_until else 0
        if self._turns > 0:
            self._look_at = self._ready + 2  # what comes next has held up nothing, since the loop has just had a turn
            self._runtime.call_soon(self._turn)
        elif self._size:
            self._filled.set()

    def take(self) -> bytes:
        """Takes everything that is ready as one chunk; empty if there is nothing."""
        if not self._size:
            return b""
        if self._pieces:
            self._fold()
        parts, self._parts = self._parts, []
        self._forget()
        self._make_room()
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _forget(self) -> None:
        self._taken += self._ready
        self._ready = self._size = self._look_at = 0
        self._until = AT_ONCE

    def mark_written(self) -> None:
        """Tells those who wait in :meth:`flush` that all that was taken has been handed over."""
        self._written = self._taken
        self._notify()

    async def flush(self) -> None:
        """Waits until all that has been put so far has been handed to the server.

        Raises:
            StreamClosedError: If it no longer can be.
        """
        goal = self.events
        while self._written < goal:
            if self._state is BufferState.DROPPED:
                raise StreamClosedError("the client is gone, or the stream has ended; what was left was not sent")
            if self._progress is None:
                self._progress = anyio.Event()
            await self._progress.wait()

    def _notify(self) -> None:
        if self._progress is not None:
            self._progress.set()
            self._progress = None
