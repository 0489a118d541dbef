"""How a topic is kept in Redis.

A topic is a stream. Its entries have IDs of ours, ``epoch-number``: the epoch is when the topic was made, in
milliseconds of Redis's clock, and the numbers have no gaps. Each entry has a random nonce, and the nonce of the entry
before it. So it shows when entries are missing, also if Redis has lost its last ones (a crash with ``appendfsync
everysec``, a fail-over) and others have taken their IDs. The first entry, number 0, is no event: it is what makes a
topic that has none last.
"""

from __future__ import annotations

import secrets

from msgspec import UNSET

from litestar_safe_sse._core.messages import SSEMessage
from litestar_safe_sse.exceptions import SourceRefusedError
from litestar_safe_sse.sources._cursor import Position
from litestar_safe_sse.sources._stored import Extent, StoredEvent

__all__ = ("APPEND", "LOOK", "as_fields", "new_nonce", "to_event", "to_extent", "to_position")

_NEWEST = """
local function newest(key)
  local entry = redis.call('XREVRANGE', key, '+', '-', 'COUNT', 1)[1]
  if entry and entry[2][1] ~= 'nonce' then error('the stream is none of an event log') end
  return entry
end
local function create(key, nonce)
  redis.call('DEL', key)
  local now = redis.call('TIME')
  local epoch = string.format('%.0f', now[1] * 1000 + math.floor(now[2] / 1000))
  redis.call('XADD', key, epoch .. '-0', 'nonce', nonce)
  return {epoch .. '-0', {'nonce', nonce}}
end
"""

APPEND = (
    _NEWEST
    + """
local max_events, expire, nonce, remember = tonumber(ARGV[1]), ARGV[2], ARGV[3], ARGV[4]
if KEYS[2] then
  local known = redis.call('GET', KEYS[2])
  if known then return known end
end
local last = newest(KEYS[1]) or create(KEYS[1], nonce)
local epoch, number = string.match(last[1], '(%d+)-(%d+)')
local id = epoch .. '-' .. string.format('%.0f', number + 1)
local fields = {}
for i = 5, #ARGV do fields[#fields + 1] = ARGV[i] end
redis.call('XADD', KEYS[1], 'MAXLEN', '~', max_events + 1, id, 'nonce', nonce, 'before', last[2][2], unpack(fields))
redis.call('PEXPIRE', KEYS[1], expire)
local answer = id .. '-' .. nonce
if KEYS[2] then redis.call('SET', KEYS[2], answer, 'PX', remember) end
return answer
"""
)
"""KEYS: the topic, and maybe the idempotency key. ARGV: events to keep, milliseconds the topic lasts, the nonce,
milliseconds an idempotency key is known, and the fields. Returns the ID and the nonce."""

LOOK = (
    _NEWEST
    + """
local expire, nonce = ARGV[1], ARGV[2]
local function look(key, id)
  local last = newest(key) or create(key, nonce)
  redis.call('PEXPIRE', key, expire)
  local first = redis.call('XRANGE', key, '-', '+', 'COUNT', 1)[1]
  local asked = id ~= '' and redis.call('XRANGE', key, id, id)[1]
  return {'', first[1], first[2][2], first[2][4] or '', last[1], last[2][2], asked and asked[2][2] or ''}
end
local found = {}
for i, key in ipairs(KEYS) do
  local done, extent = pcall(look, key, ARGV[i + 2])
  found[i] = done and extent or {type(extent) == 'table' and extent.err or tostring(extent)}
end
return found
"""
)
"""KEYS: topics. ARGV: milliseconds they last, a nonce for those that are made, and an ID to ask about for each. Returns
for each an error or ``''``; of the first entry the ID, the nonce and the one before; of the last the ID and the nonce;
and the nonce of the ID asked about, or ``''``."""


def new_nonce() -> str:
    return secrets.token_hex(4)


def to_position(identity: bytes, nonce: bytes) -> Position:
    epoch, _, seq = identity.partition(b"-")
    return Position(int(epoch), int(seq), int(nonce, 16))


def to_extent(topic: str, wanted: Position | None, reply: list[bytes]) -> Extent | SourceRefusedError:
    if reply[0]:
        return SourceRefusedError(f"topic {topic!r}: {reply[0].decode()}")
    _, first, first_nonce, before_first, last, last_nonce, found = reply
    oldest = to_position(first, first_nonce)
    if before_first:
        oldest = Position(oldest.epoch, oldest.seq - 1, int(before_first, 16))
    known = wanted is not None and (wanted == oldest or (found != b"" and int(found, 16) == wanted.nonce))
    return Extent(oldest, to_position(last, last_nonce), known)


def as_fields(message: SSEMessage) -> list[str]:
    named = {"event": message.event, "data": message.data, "retry": message.retry, "comment": message.comment}
    fields: list[str] = []
    for name, value in named.items():
        if value is not None and value is not UNSET:
            fields += name, str(value)
    return fields


def to_event(identity: bytes, fields: list[bytes]) -> StoredEvent:
    named = dict(zip(fields[::2], fields[1::2], strict=True))
    text = {name: named[name].decode() for name in (b"data", b"event", b"comment") if name in named}
    retry = int(named[b"retry"]) if b"retry" in named else None
    try:
        position = to_position(identity, named[b"nonce"])
        before = int(named.get(b"before", b"0"), 16)
        if position.seq == 0:  # the mark of a beginning, which follows nothing
            return StoredEvent(position, before, SSEMessage(""))
        message = SSEMessage(text.get(b"data", UNSET), text.get(b"event"), None, retry, text.get(b"comment"))
    except (KeyError, ValueError) as error:
        raise SourceRefusedError(f"the entry {identity.decode()} is none of an event log") from error
    return StoredEvent(position, before, message)
