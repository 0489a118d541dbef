"""The bounded events between a body, which runs ahead, and the writer, which hands them to the server."""

from __future__ import annotations

import math
from enum import Enum
from time import monotonic
from typing import TYPE_CHECKING, Any, Protocol

import anyio

from litestar_safe_sse._core.encoding import has_data
from litestar_safe_sse._core.pace import AT_ONCE, TURN, Pace
from litestar_safe_sse.exceptions import StreamClosedError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from litestar_safe_sse._core.encoding import Head, Preamble
    from litestar_safe_sse._runtime.base import Runtime

__all__ = ("BlockEncoder", "Buffer", "BufferState")

FEWEST_LOOKS = 8
"""Every how many events the clock is looked at while many come at once, since that costs as much as all else."""

LINGER_TURNS = 4
LINGER = 0.0005
"""Turns and seconds for which the writer lets a body that is at work add to the next chunk."""

AT_WORK = 0.002
"""Seconds between two chunks at most, for a body to be taken to be at work."""


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
    def frame(self) -> int:
        """Bytes that surround a text."""
        ...

    @property
    def text_type(self) -> type:
        """``str``, or nothing's type where a text is no ordinary one."""
        ...

    @property
    def json_types(self) -> Mapping[type, Head]:
        """Types whose items are data and nothing else, sent as JSON, with what stands ahead of it."""
        ...

    @property
    def to_json(self) -> Callable[[Any], bytes]:
        """Makes JSON of such an item."""
        ...

    def refusal(self, item: object, error: Exception) -> Exception:
        """What to raise where that fails."""
        ...

    def join_jsons(self, jsons: list[bytes], head: Head) -> bytes:
        """The blocks of what it has made of items with the same head."""
        ...

    def join_texts(self, texts: list[str]) -> bytes:
        """The blocks of texts that are ASCII."""
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
        "_encoder",
        "_filled",
        "_first_fields",
        "_frame",
        "_has_room",
        "_head",
        "_json_types",
        "_limit",
        "_linger_until",
        "_look_at",
        "_pace",
        "_parts",
        "_progress",
        "_ready",
        "_room",
        "_runtime",
        "_sent_at",
        "_size",
        "_state",
        "_taken",
        "_text_type",
        "_texts",
        "_to_json",
        "_turns",
        "_until",
        "_written",
    )

    _encoder: BlockEncoder
    _text_type: type
    _json_types: Mapping[type, Head]
    _to_json: Callable[[Any], bytes]

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._frame = 0
        self._first_fields = b""
        """Lines for the block of the first event, until there is one."""
        self._limit = 0
        """Bytes from which on the body has to pause; none unless the buffer is open."""
        self._parts: list[bytes] = []
        self._texts: list[Any] = []
        """What came after the parts: ASCII texts, or JSON."""
        self._head: Head | None = None
        """What stands ahead of each of them, if they are JSON."""
        self._size = 0
        self._pace = Pace()
        self._until = AT_ONCE
        """Until when the body may go on without a turn of the loop."""
        self._look_at = 0
        """At how many events the clock is looked at again."""
        self._filled = runtime.wake()
        self._has_room = runtime.wake()
        self._room: anyio.Event | None = None
        self._progress: anyio.Event | None = None
        self._turns = 0
        self._linger_until = 0.0
        self._sent_at = -math.inf
        self._ready = 0
        self._taken = 0
        self._written = 0
        self._state = BufferState.OPEN

    def configure(self, encoder: BlockEncoder, limit: int) -> None:
        """Sets how events are encoded.

        Args:
            encoder: What encodes them.
            limit: Bytes from which on the body has to wait for the writer.
        """
        self._encoder, self._frame = encoder, encoder.frame
        self._text_type = encoder.text_type
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
        self._first_fields = preamble.fields
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
        return self._taken + self._ready

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
        if kind is self._text_type and item.isascii():  # type: ignore[attr-defined]
            if self._head is not None:
                self._fold()
            self._texts.append(item)
            self._size += len(item) + self._frame  # type: ignore[arg-type]
        elif (head := self._json_types.get(kind)) is not None:
            try:
                text = self._to_json(item)
                if not text.isascii():
                    text.decode()  # a msgspec.Raw may hold anything
            except Exception as error:
                raise self._encoder.refusal(item, error) from error
            if head is not self._head:
                self._fold()
                self._head = head
            self._texts.append(text)
            self._size += len(text) + self._frame
        else:
            block = self._encoder.encode(item)
            if self._texts:
                self._fold()
            if self._first_fields and has_data(block):
                block = self._with_first_fields(block)
            self._parts.append(block)
            self._size += len(block)
        self._ready = ready = self._ready + 1
        if ready < self._look_at:
            return self._size >= self._limit
        return self._look() or self._size >= self._limit

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
        texts, head = self._texts, self._head
        self._texts, self._head = [], None
        if texts:
            encoder = self._encoder
            blocks = encoder.join_texts(texts) if head is None else encoder.join_jsons(texts, head)
            self._parts.append(self._with_first_fields(blocks) if self._first_fields else blocks)

    def _with_first_fields(self, blocks: bytes) -> bytes:
        fields, self._first_fields = self._first_fields, b""
        return fields + blocks

    def put_heartbeat(self) -> None:
        """Puts a heartbeat in."""
        if self._texts:
            self._fold()
        block = self._encoder.heartbeat
        self._parts.append(block)
        self._size += len(block)
        self._ready += 1
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
        self._start_over()
        self.note_step()

    @property
    def _is_full(self) -> bool:
        if self._state is BufferState.OPEN:
            return self._size >= self._limit
        return self._state is BufferState.HELD

    async def wait_for_room(self) -> None:
        """Waits until one more event may be put in by somebody else than the body, be it one of many."""
        while self._ready and self._size >= self._limit and self._state is not BufferState.DROPPED:
            if self._room is None:
                self._room = anyio.Event()
            await self._room.wait()

    async def let_write(self) -> None:
        """Gives the loop a turn, in which what has been put in is taken."""
        self._filled.set()
        await self._runtime.turn()

    def _make_room(self) -> None:
        self._has_room.set()
        if self._room is not None:
            self._room.set()
            self._room = None

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
        self._parts, self._texts = [], []
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
            self._runtime.call_soon(self._turn)
        elif self._size:
            self._filled.set()

    def take(self) -> bytes:
        """Takes everything that is ready as one chunk; empty if there is nothing."""
        if not self._size:
            return b""
        if self._texts:
            self._fold()
        parts, self._parts = self._parts, []
        self._forget()
        self._make_room()
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _forget(self) -> None:
        self._taken += self._ready
        self._ready = self._size = 0
        self._start_over()

    def _start_over(self) -> None:
        self._until = AT_ONCE
        self._look_at = 0

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
