"""What is asked of the tables, and what the rows say."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from msgspec import UNSET

from litestar_safe_sse._core.messages import SSEMessage
from litestar_safe_sse.sources._cursor import Position, seal
from litestar_safe_sse.sources._stored import REMEMBERED, Extent, StoredEvent, why_lost
from litestar_safe_sse.sources.postgres._tables import remembered

if TYPE_CHECKING:
    from collections.abc import Sequence

    from asyncpg import Record

__all__ = ("RENEWED", "Queries", "columns_of", "to_event", "to_extent")

RENEWED = 8
"""The part of a topic's life, as a divisor, after which who waits for its first event is given another beginning."""

_EVENT = "e.topic, e.epoch, e.seq, e.nonce, e.before, e.at, e.event, e.data, e.retry, e.comment"


class Queries(NamedTuple):
    """The queries of a log."""

    look: str
    fetch: str
    catch_up: str
    refresh: str
    clean_up: tuple[str, ...]

    @classmethod
    def of(cls, name: str) -> Queries:
        """Returns those of a log whose tables have names that begin so."""
        expired = (
            f"SELECT topic, finished AND NOT emptied AS stays FROM {name}_topics WHERE expires_at <= clock_timestamp() "
            "LIMIT 100 FOR UPDATE SKIP LOCKED"
        )
        week = f"interval '{round(REMEMBERED)} seconds'"
        return cls(
            # One query has one snapshot: what it says of a topic fits together.
            look=f"""
                SELECT w.number, t.epoch, t.seq, t.nonce, t.finished,
                    t.emptied OR t.expires_at <= clock_timestamp() AS emptied, coalesce(r.since, 0) AS since,
                    o.seq AS oldest, o.before, s.nonce AS stored,
                    floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint AS now,
                    (SELECT secret FROM {name}_secret) AS secret
                FROM unnest($1::text[], $2::bigint[]) WITH ORDINALITY AS w(topic, seq, number)
                LEFT JOIN {name}_topics r ON r.topic = w.topic
                LEFT JOIN {name}_topics t ON t.topic = w.topic AND t.seq > 0 AND (
                    t.expires_at > clock_timestamp() OR (t.finished AND {remembered("t", "clock_timestamp()")})
                )
                LEFT JOIN LATERAL (
                    SELECT e.seq, e.before FROM {name}_events e WHERE e.topic = t.topic ORDER BY e.seq LIMIT 1
                ) o ON true
                LEFT JOIN {name}_events s ON s.topic = t.topic AND s.seq = w.seq
                ORDER BY w.number
            """,
            fetch=f"""
                SELECT {_EVENT} FROM {name}_events e
                WHERE e.topic = $1 AND e.epoch = $2 AND e.seq > $3 AND e.seq <= $4 ORDER BY e.seq LIMIT $5
            """,
            catch_up=f"""
                SELECT {_EVENT} FROM unnest($1::text[], $2::bigint[], $3::int[]) AS w(topic, seq, many)
                CROSS JOIN LATERAL (
                    SELECT * FROM {name}_events e WHERE e.topic = w.topic AND e.seq > w.seq ORDER BY e.seq LIMIT w.many
                ) e
            """,
            # A row that is locked is being appended to, which refreshes it; nobody is to wait for that.
            refresh=f"""
                UPDATE {name}_topics t SET expires_at = clock_timestamp() + w.expire * interval '1 millisecond'
                FROM unnest($1::text[], $2::bigint[]) AS w(topic, expire)
                WHERE t.topic = w.topic AND t.topic IN (
                    SELECT topic FROM {name}_topics WHERE topic = ANY($1::text[])
                    AND expires_at > clock_timestamp() AND seq > 0 AND NOT emptied FOR UPDATE SKIP LOCKED
                )
            """,
            clean_up=(
                f"""
                WITH gone AS ({expired}), events AS (
                    DELETE FROM {name}_events WHERE topic IN (SELECT topic FROM gone)
                ), ended AS (
                    UPDATE {name}_topics SET emptied = true, expires_at = expires_at + {week}
                    WHERE topic IN (SELECT topic FROM gone WHERE stays)
                ) DELETE FROM {name}_topics WHERE topic IN (SELECT topic FROM gone WHERE NOT stays)
                """,
                f"DELETE FROM {name}_keys WHERE expires_at <= clock_timestamp()",
            ),
        )


def columns_of(messages: Sequence[SSEMessage]) -> tuple[list[object], ...]:
    """Returns data, types, reconnection times and comments of messages."""
    return (
        [None if message.data is UNSET else message.data for message in messages],
        [message.event for message in messages],
        [message.retry for message in messages],
        [message.comment for message in messages],
    )


def to_event(row: Record) -> StoredEvent:
    """Returns the event of a row."""
    data = UNSET if row["data"] is None else row["data"]
    message = SSEMessage(data, row["event"], None, row["retry"], row["comment"])
    place = Position(row["epoch"], row["seq"], row["nonce"])
    return StoredEvent(place, row["before"], message, row["at"].timestamp() * 1000)


def to_extent(topic: str, wanted: Position | None, row: Record, lasts: int) -> Extent:
    """Returns what is stored of a topic.

    A beginning is given out where a topic has no event that is visible. Whatever is found afterwards is what has been
    missed, unless a whole history has come and gone in between, which takes as long as a topic lasts. Who stays
    subscribed is given a later beginning in time, again and again, as long as there is nothing.

    Args:
        topic: The topic.
        wanted: The place that was asked about.
        row: What :attr:`Queries.look` has found.
        lasts: Milliseconds for which a topic lasts that is not appended to.
    """
    secret, now = str(row["secret"]).encode(), int(row["now"])
    sealed = wanted is not None and not wanted.seq and wanted.nonce == seal(secret, topic, wanted.epoch)
    since = max(now - lasts, row["since"] - 1)  # what began before that may have missed a history
    accepted = wanted is not None and sealed and since < wanted.epoch <= now
    if row["epoch"] is None:
        beginning = Position(now, 0, seal(secret, topic, now))
        if wanted is None or not accepted:
            return Extent(beginning, beginning, "unknown")
        if now - wanted.epoch < lasts // RENEWED:
            beginning = wanted  # it lasts for long enough, and the client has it already
        return Extent(beginning, beginning, None)
    newest = Position(row["epoch"], row["seq"], row["nonce"])
    if row["emptied"]:
        return Extent(newest, newest, None if wanted == newest else "unknown", finished=True)
    oldest = _oldest(row, newest, Position(newest.epoch, 0, seal(secret, topic, newest.epoch)))
    stored = wanted is not None and wanted.epoch == newest.epoch and wanted.seq > 0 and row["stored"] == wanted.nonce
    accepted = accepted or (wanted is not None and sealed and wanted.epoch == newest.epoch)
    lost = why_lost(wanted, oldest, stored=stored or wanted == oldest, accepted=accepted)
    return Extent(oldest, newest, lost, row["finished"])


def _oldest(row: Record, newest: Position, beginning: Position) -> Position:
    """Returns the place before the first event that is stored."""
    if row["oldest"] is None:
        return newest
    return beginning if row["oldest"] == 1 else Position(newest.epoch, row["oldest"] - 1, row["before"])
