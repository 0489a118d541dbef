"""What a ``Last-Event-ID`` holds: how far a client has got in each of several topics."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable
from functools import lru_cache
from hashlib import blake2b
from typing import NamedTuple

__all__ = ("MAX_TOPICS", "Position", "cursor", "fits", "positions", "record", "seal", "tag")

MAX_TOPICS = 32
"""Topics of one subscription: their cursor has at most 897 bytes, and ``max_last_event_id`` is 1024."""

_VERSION = "1"
_TAG = 5
_EPOCH = 6
_SEQ = 6
_NONCE = 4
_RECORD = _TAG + _EPOCH + _SEQ + _NONCE  # 21 bytes are 28 characters, without padding

_EPOCHS, _SEQS, _NONCES = (1 << 8 * size for size in (_EPOCH, _SEQ, _NONCE))


class Position(NamedTuple):
    """A place in the history of a topic: right after one of its events, or before the first one.

    Attributes:
        epoch: Which history: other if the topic was lost, or expired, and began anew. Of a place before the first event
            the time from which on the history is to begin.
        seq: How many events the history had with this one; 0 is before the first one.
        nonce: Random; tells this event from another one that got its place after a loss. Of a place before the first
            event the :func:`seal`.
    """

    epoch: int
    seq: int
    nonce: int

    def is_in_history_of(self, other: Position) -> bool:
        """Returns whether two places are of one history, as far as that can be told by themselves."""
        if self.seq and other.seq:
            return self.epoch == other.epoch
        if not self.seq and not other.seq:
            return True
        return self.epoch <= other.epoch if not self.seq else other.epoch <= self.epoch

    def is_at(self, other: Position) -> bool:
        """Returns whether there is no event between two places of one history."""
        return self == other or self.seq == other.seq == 0


@lru_cache(4096)
def tag(topic: str) -> bytes:
    """What stands for a topic in a cursor."""
    return blake2b(topic.encode(), digest_size=_TAG).digest()


def seal(secret: bytes, topic: str, epoch: int) -> int:
    """Returns what shows that a place before the first event was given out by a log that had this secret.

    Without it, whoever guesses when a topic began would be given all that was ever appended to it.
    """
    digest = blake2b(f"{epoch} {topic}".encode(), key=secret, digest_size=_NONCE).digest()
    return int.from_bytes(digest, "big")


def fits(position: Position, before: int) -> bool:
    """Returns whether a cursor has room for a place, and for the one before it with its nonce."""
    epoch, seq, nonce = position
    return 0 <= epoch < _EPOCHS and 0 <= seq < _SEQS and 0 <= nonce < _NONCES and 0 <= before < _NONCES


def record(tag: bytes, position: Position) -> bytes:
    """One topic's part of a cursor."""
    epoch, seq, nonce = position
    return tag + epoch.to_bytes(_EPOCH, "big") + seq.to_bytes(_SEQ, "big") + nonce.to_bytes(_NONCE, "big")


def cursor(records: Iterable[bytes]) -> str:
    """Returns the ID that resumes from here. It is not secret, and not signed: whoever forges one gains nothing."""
    return _VERSION + base64.urlsafe_b64encode(b"".join(records)).decode()


def positions(cursor: str) -> dict[bytes, Position] | None:
    """Returns the position for each tag in a cursor; ``None`` if it is none of ours, as clients can send anything."""
    if not cursor.startswith(_VERSION) or not cursor.isascii():
        return None
    try:
        packed = base64.b64decode(cursor[len(_VERSION) :], altchars=b"-_", validate=True)
    except binascii.Error:
        return None
    if not packed or len(packed) % _RECORD or len(packed) > MAX_TOPICS * _RECORD:
        return None
    found: dict[bytes, Position] = {}
    for start in range(0, len(packed), _RECORD):
        numbers = packed[start + _TAG : start + _RECORD]
        found[packed[start : start + _TAG]] = Position(
            int.from_bytes(numbers[:_EPOCH], "big"),
            int.from_bytes(numbers[_EPOCH : _EPOCH + _SEQ], "big"),
            int.from_bytes(numbers[_EPOCH + _SEQ :], "big"),
        )
    return found
