"""How a topic is kept in Redis.

A topic is a stream. Its entries have IDs of ours, ``epoch-number``: the epoch is when the topic was made, in
milliseconds of Redis's clock, and the numbers have no gaps, from 1 on. Each entry has a random nonce, the nonce of the
entry before it, and the time at which it was appended. So it shows when entries are missing, also if Redis has lost its
last ones (a crash with ``appendfsync everysec``, a fail-over) and others have taken their IDs.

A topic without entries is no key. Who subscribes to it is given a beginning: the time at which there was nothing, under
a seal. What was appended later has a later epoch, and all of it is what has been missed, unless a whole history has
come and gone in between. That takes as long as a topic lasts without being appended to, which is as long as a
beginning is accepted; or Redis has lost it, and the secret of the log with it, by which beginnings are sealed. Who
stays subscribed is given a later beginning in time, again and again, as long as there is nothing.
"""

from __future__ import annotations

import secrets
from typing import Any, NamedTuple

from msgspec import UNSET
from msgspec.msgpack import Decoder

from litestar_safe_sse._core.messages import SSEMessage
from litestar_safe_sse.exceptions import SourceRefusedError
from litestar_safe_sse.sources._cursor import Position, fits, seal
from litestar_safe_sse.sources._stored import FINISHED, Extent, StoredEvent, why_lost

__all__ = (
    "Now",
    "as_fields",
    "new_secret",
    "to_event",
    "to_extent",
    "to_position",
    "to_published",
)

_FRESH = 1 / 8
"""What of the time for which a beginning is accepted may have gone by until it is not left as it is."""

_PUBLISHED = Decoder(list[str])
"""What an append publishes: MessagePack."""


class Now(NamedTuple):
    """What is needed to judge a beginning, or to make one.

    Attributes:
        time: Milliseconds of Redis's clock.
        secret: The log's; empty if there is none yet.
        lasts: Milliseconds for which a topic lasts that is not appended to.
    """

    time: int
    secret: bytes
    lasts: int

    def beginning(self, topic: str, epoch: int) -> Position:
        """Returns the place before the first event of a history that begins at a time, or later."""
        return Position(epoch, 0, seal(self.secret, topic, epoch))

    def accepts(self, topic: str, beginning: Position, epoch: int) -> bool:
        """Returns whether a history is the first one since a beginning.

        Args:
            topic: The topic.
            beginning: The place.
            epoch: When the history began, or this moment.
        """
        if beginning.nonce != seal(self.secret, topic, beginning.epoch):
            return False
        return beginning.epoch == epoch or self.time - self.lasts < beginning.epoch < epoch


def new_secret() -> str:
    """Returns what nobody can guess."""
    return secrets.token_hex(16)


def to_position(identity: bytes, nonce: bytes) -> Position:
    """Returns the place of an entry.

    Raises:
        SourceRefusedError: It is none, or not one of a log's.
    """
    epoch, _, seq = identity.partition(b"-")
    try:
        place = Position(int(epoch), int(seq), int(nonce, 16))
    except ValueError:
        place = None
    if place is None or not fits(place, 0):
        text = b"-".join((identity, nonce)).decode(errors="replace")
        raise SourceRefusedError(
            f"{text!r:.60} is no place in an event log; delete what holds it, with the topic or by its key"
        )
    return place


def to_extent(
    topic: str,
    wanted: Position | None,
    now: Now,
    first: list[Any],
    asked: list[Any],
    last: list[Any],
    end: bytes | None = None,
) -> Extent:
    """Returns what is stored of a topic.

    Args:
        topic: The topic.
        wanted: The place that was asked about.
        now: The log's clock and secret.
        first: The first entry, if there is one; read after the clock.
        asked: The one with the ID that was asked about; read next.
        last: The last; read at the end.
        end: If there is no entry, what is known of the topic's end.

    Raises:
        SourceRefusedError: The stream is not a log's.
    """
    if (not first or not last) and end is not None:
        place = to_position(*end.rpartition(b"-")[::2])
        return Extent(place, place, None if wanted == place else "unknown", finished=True)
    if not first or not last:
        beginning = now.beginning(topic, now.time)
        if wanted is None or wanted.seq or not now.accepts(topic, wanted, now.time):
            return Extent(beginning, beginning, "unknown")
        if now.time - wanted.epoch < now.lasts * _FRESH:
            beginning = wanted  # it lasts for long enough, and the client has it already
        return Extent(beginning, beginning, None)
    oldest, final = to_event(*first[0]), to_event(*last[0])
    newest, finished = final.position, final.message.event == FINISHED
    epoch, seq, _ = oldest.position
    if newest.epoch != epoch:  # Redis was emptied between the two
        return Extent(newest, newest, "unknown", finished)
    begin = now.beginning(topic, epoch) if seq == 1 else Position(epoch, seq - 1, oldest.before)
    stored = wanted == begin or any(to_event(*entry).position == wanted for entry in asked)
    accepted = wanted is not None and wanted.seq == 0 and now.accepts(topic, wanted, epoch)
    return Extent(begin, newest, why_lost(wanted, begin, stored=stored, accepted=accepted), finished)


def as_fields(message: SSEMessage) -> list[bytes]:
    """Returns the fields of a message's entry."""
    fields: list[bytes] = []
    if message.event is not None:
        fields += b"event", message.event.encode()
    if message.data is not UNSET:
        fields += b"data", str(message.data).encode()
    if message.retry is not None:
        fields += b"retry", b"%d" % message.retry
    if message.comment is not None:
        fields += b"comment", message.comment.encode()
    return fields


def to_event(identity: bytes, fields: list[bytes]) -> StoredEvent:
    """Returns the event of an entry.

    Raises:
        SourceRefusedError: The entry is not a log's.
    """
    try:
        texts = [field.decode() for field in fields]
        named = dict(zip(texts[::2], texts[1::2], strict=True))
        return _to_event(identity.decode(), named["nonce"], named["before"], named)
    except (KeyError, ValueError) as error:
        raise SourceRefusedError(f"the entry {identity.decode()} is not of an event log") from error


def to_published(payload: bytes) -> StoredEvent | None:
    """Returns the event of an entry as it was published; ``None`` if it was too large, or is none."""
    try:
        identity, nonce, before, *fields = _PUBLISHED.decode(payload)
        return _to_event(identity, nonce, before, dict(zip(fields[::2], fields[1::2], strict=True)))
    except ValueError:  # msgspec's errors too
        return None


def _to_event(identity: str, nonce: str, before: str, named: dict[str, str]) -> StoredEvent:
    epoch, _, seq = identity.partition("-")
    retry = int(named["retry"]) if "retry" in named else None
    message = SSEMessage(named.get("data", UNSET), named.get("event"), None, retry, named.get("comment"))
    place = Position(int(epoch), int(seq), int(nonce, 16))
    previous = int(before, 16)
    if place.seq == 0 or not fits(place, previous):
        raise ValueError("an ID has no room for its place")
    return StoredEvent(place, previous, message, int(named.get("at", 0)))
