"""Who is subscribed, as Redis is told: a sorted set per topic, of streams and when they are forgotten."""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING

from litestar_safe_sse.exceptions import SourceRefusedError
from litestar_safe_sse.sources._presence import Seat, SharedAttendance
from litestar_safe_sse.sources.redis._scripts import Script

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from litestar_safe_sse.sources.redis.plugin import RedisPlugin

__all__ = ("RedisAttendance",)

_TELL = Script.of("""
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local refused = {}
for i, topic in ipairs(KEYS) do
  local taken, told = i <= tonumber(ARGV[2])
  if taken then
    told = redis.pcall('ZADD', topic, now + ARGV[1], ARGV[i + 2])
  else
    told = redis.pcall('ZREM', topic, ARGV[i + 2])
  end
  if type(told) == 'table' and told.err then
    if not string.find(told.err, 'WRONGTYPE', 1, true) then return told end
    refused[#refused + 1] = i
  elseif taken then
    redis.call('ZREMRANGEBYSCORE', topic, '-inf', now)
    redis.call('PEXPIRE', topic, ARGV[1])
  end
end
return refused
""")
"""KEYS: for each seat that of its topic. ARGV: the milliseconds a seat lasts, how many of them are taken, and the
seats: first those that are taken, then those that were left. Returns the numbers of the keys that hold something else.
"""


class RedisAttendance(SharedAttendance):
    """The streams of one event loop, of which Redis is told.

    Args:
        redis: Where it is.
        prefix: What the names of the topics' keys begin with.
    """

    def __init__(self, redis: RedisPlugin, prefix: str) -> None:
        super().__init__("Redis")
        self._redis = redis
        self._prefix = prefix

    async def tell(self, taken: Collection[Seat], left: Collection[Seat]) -> None:
        """See :meth:`SharedAttendance.tell`."""
        keys = [self._prefix + seat.topic for seat in chain(taken, left)]
        members = [f"{seat.stream} {seat.name}" for seat in chain(taken, left)]
        refused = await self._redis.run(_TELL, len(keys), *keys, round(self.lasts * 1000), len(taken), *members)
        if refused:
            raise SourceRefusedError(f"the key {keys[refused[0] - 1]!r} must be a sorted set, or none")

    async def ask(self, topic: str) -> Iterator[Seat]:
        """See :meth:`SharedAttendance.ask`; what has expired is left out, whoever removes it."""
        key = self._prefix + topic
        time, found = await self._redis.execute_each(("TIME",), ("ZRANGE", key, 0, -1, "WITHSCORES"))
        for reply in (time, found):
            if isinstance(reply, SourceRefusedError):
                raise reply
        now = int(time[0]) * 1000 + int(time[1]) // 1000
        members = zip(found[::2], found[1::2], strict=True)
        return (_seat(topic, member) for member, until in members if float(until) > now)


def _seat(topic: str, member: bytes) -> Seat:
    stream, _, name = member.decode(errors="replace").partition(" ")
    return Seat(topic, stream, name)
