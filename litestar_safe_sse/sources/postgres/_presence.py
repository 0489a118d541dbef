"""Who is subscribed, as PostgreSQL is told: a row per stream and topic, and when it is forgotten."""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING

from litestar_safe_sse.sources._presence import Seat, SharedAttendance

if TYPE_CHECKING:
    from collections.abc import Collection

    from litestar_safe_sse.sources.postgres.connections import PostgresConnections

__all__ = ("PostgresAttendance",)


class PostgresAttendance(SharedAttendance):
    """The streams of one event loop, of which PostgreSQL is told.

    Args:
        connections: Where by.
        name: The log's.
    """

    def __init__(self, connections: PostgresConnections, name: str) -> None:
        super().__init__("PostgreSQL")
        self._connections = connections
        self._clean_at = 0.0
        self._taken = f"""
            INSERT INTO {name}_present (topic, stream, member, expires_at)
            SELECT topic, stream, member, clock_timestamp() + $4 * interval '1 second'
            FROM unnest($1::text[], $2::text[], $3::text[]) AS s(topic, stream, member)
            ON CONFLICT (topic, stream) DO UPDATE SET expires_at = excluded.expires_at
        """
        self._left = f"""
            DELETE FROM {name}_present p USING unnest($1::text[], $2::text[]) AS s(topic, stream)
            WHERE p.topic = s.topic AND p.stream = s.stream
        """
        self._asked = f"SELECT stream, member FROM {name}_present WHERE topic = $1 AND expires_at > clock_timestamp()"
        # What is locked is being told of again, or removed by others; nobody is to wait for that.
        self._clean = f"""
            DELETE FROM {name}_present WHERE (topic, stream) IN (
                SELECT topic, stream FROM {name}_present WHERE expires_at <= clock_timestamp()
                LIMIT 1000 FOR UPDATE SKIP LOCKED
            )
        """

    async def tell(self, taken: Collection[Seat], left: Collection[Seat]) -> None:
        """See :meth:`SharedAttendance.tell`; what others have left behind is removed as well, now and then."""
        if taken:
            await self._connections.submit(self._taken, *zip(*taken, strict=True), self.lasts)
        if left:
            topics, streams, _ = zip(*left, strict=True)
            await self._connections.submit(self._left, topics, streams)
        if monotonic() >= self._clean_at:
            self._clean_at = monotonic() + self.lasts
            await self._connections.submit(self._clean)

    async def ask(self, topic: str) -> list[Seat]:
        """See :meth:`SharedAttendance.ask`."""
        rows = await self._connections.submit(self._asked, topic)
        return [Seat(topic, row["stream"], row["member"]) for row in rows]

    async def aclose(self) -> None:
        """See :meth:`SharedAttendance.aclose`."""
        await super().aclose()
        await self._connections.aclose()

    def abort(self) -> None:
        """Closes the connection without waiting for an answer."""
        self._connections.abort()
