"""Replies of Redis, out of what arrives: https://redis.io/docs/latest/develop/reference/protocol-spec/, RESP2.

redis-py's own parsers wait for a stream, in a task that has to be woken for each reply.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from litestar_safe_sse.sources.redis import _redis_py

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ("Replies",)

_SIMPLE, _ERROR, _NUMBER, _BULK, _ARRAY = b"+-:$*"


class Replies:
    """Takes bytes as they arrive, and gives whole replies."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._size = 0
        self._needed = 0
        """Bytes that there have to be before it is worth to look for the end of an item again."""
        self._arrays: list[_Array] = []
        """Those that are not whole yet, the inner ones last."""

    def feed(self, data: bytes) -> Iterator[Any]:
        """Yields the replies that are whole by now; an error of Redis is one of redis-py's exceptions.

        Raises:
            InvalidResponse: It is no reply of Redis.
        """
        if self._parts:
            self._parts.append(data)
            self._size += len(data)
            if self._size < self._needed:
                return
            data, self._parts = b"".join(self._parts), []
        at = 0
        try:
            while at < len(data):
                item, at = _parse(data, at)
                if type(item) is _Array:
                    self._arrays.append(item)
                elif not self._arrays:
                    yield item
                elif (whole := self._put(item)) is not None:
                    yield whole
        except _IncompleteError as error:
            self._parts, self._size, self._needed = [data[at:]], len(data) - at, error.needed - at

    def _put(self, item: Any) -> list[Any] | None:
        """Puts an item in its array; returns the outermost one if that is whole now."""
        while self._arrays:
            items, size = self._arrays[-1]
            items.append(item)
            if len(items) < size:
                return None
            item = self._arrays.pop().items
        return item  # type: ignore[no-any-return]


class _Array(NamedTuple):
    """An array whose items are still to come.

    Attributes:
        items: Those that are there.
        size: How many there will be.
    """

    items: list[Any]
    size: int


class _IncompleteError(Exception):
    """The end of an item is still to come.

    Args:
        needed: Bytes that there have to be, at least.
    """

    def __init__(self, needed: int) -> None:
        super().__init__(needed)
        self.needed = needed


def _parse(data: bytes, at: int) -> tuple[Any, int]:
    """Returns the item that begins at a place, and where the next one does; an array's items are next ones."""
    end = data.find(b"\r\n", at)
    if end < 0:
        raise _IncompleteError(len(data) + 1)
    kind, head, after = data[at], data[at + 1 : end], end + 2
    if kind == _BULK:
        return _parse_bulk(data, after, _integer(head))
    if kind == _ARRAY:
        return _begin_array(_integer(head)), after
    if kind == _NUMBER:
        return _integer(head), after
    if kind == _SIMPLE:
        return head, after
    if kind == _ERROR:
        return _to_error(head.decode(errors="replace")), after
    raise _redis_py.errors.InvalidResponse(f"no reply of Redis begins with {data[at : at + 20]!r}")


def _parse_bulk(data: bytes, at: int, size: int) -> tuple[bytes | None, int]:
    if size < 0:
        return None, at
    end = at + size
    if len(data) < end + 2:
        raise _IncompleteError(end + 2)
    return data[at:end], end + 2


def _begin_array(size: int) -> _Array | list[Any] | None:
    if size > 0:
        return _Array([], size)
    return [] if size == 0 else None


def _integer(head: bytes) -> int:
    try:
        return int(head)
    except ValueError as error:
        raise _redis_py.errors.InvalidResponse(f"no reply of Redis has {head[:20]!r} for a number") from error


def _to_error(text: str) -> Exception:
    try:
        return _redis_py.to_error(text)
    except ValueError:  # MOVED and ASK, of which it wants to know where to
        return _redis_py.errors.ResponseError(text)
