"""What the streams hold on the server, written down: opened, left, released.

The page claims nothing that is not read from here, and the rules are the same for both sides: a resource has *leaked*
when its client has been gone for `LEAK_AFTER` seconds and nobody has released it.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable
from itertools import count
from typing import Literal

import anyio
import msgspec

__all__ = ["LEAK_AFTER", "Ended", "Held", "Ledger", "Resource", "Snapshot", "Via"]

Via = Literal["safe", "litestar"]

LEAK_AFTER = 1.0
HANDSHAKE = 0.001
GOODBYE = 0.005  # real clients await here too: QUIT and its answer, a rollback, a closing handshake
HISTORY = 12


class Resource:
    """Something costly that one stream holds: a connection, a cursor, an upstream request.

    Used with ``async with`` by asynchronous bodies and with ``with`` by blocking ones. `tokens_per_second` is what an
    upstream goes on billing for as long as nobody has told it to stop, up to `token_limit` tokens.
    """

    token_limit = 4096

    def __init__(
        self, ledger: Ledger, number: int, kind: str, via: Via, *, crowd: bool, tokens_per_second: float
    ) -> None:
        self.number = number
        self.kind = kind
        self.via: Via = via
        self.crowd = crowd
        self.opened_at: float | None = None
        self.left_at: float | None = None
        self.released_at: float | None = None
        self.written_off = False
        self.reason: str | None = None
        self.revoke: Callable[[], Awaitable[object]] | None = None
        self._ledger = ledger
        self._tokens_per_second = tokens_per_second

    def leave(self) -> None:
        """Nobody listens any more. Word of it can come in several ways; the earliest counts."""
        self._ledger.left(self)

    async def __aenter__(self) -> Resource:
        await anyio.sleep(HANDSHAKE)
        self._ledger.opened(self)
        return self

    async def __aexit__(self, *_: object) -> None:
        await anyio.sleep(GOODBYE)
        self._ledger.released(self)

    def __enter__(self) -> Resource:
        time.sleep(HANDSHAKE)
        self._ledger.opened(self)
        return self

    def __exit__(self, *_: object) -> None:
        time.sleep(GOODBYE)
        self._ledger.released(self)

    @property
    def cleanup(self) -> float | None:
        """Seconds from leaving to the release, once there are both."""
        if self.left_at is None or self.released_at is None:
            return None
        return max(0.0, self.released_at - self.left_at)

    def leaked(self, now: float) -> bool:
        return self.left_at is not None and self.released_at is None and now - self.left_at > LEAK_AFTER

    def unheard_tokens(self, now: float) -> float:
        if self.left_at is None or self.opened_at is None:
            return 0.0
        until = now if self.released_at is None else self.released_at
        heard = max(0.0, self.left_at - self.opened_at) * self._tokens_per_second
        billed = (until - self.opened_at) * self._tokens_per_second
        return max(0.0, min(self.token_limit, billed) - min(self.token_limit, heard))


class Held(msgspec.Struct):
    """How many resources of one kind, sent one way, are open, and how many of those have leaked."""

    open: int = 0
    leaked: int = 0


class Ended(msgspec.Struct):
    """One stream that has ended, as the page shows it."""

    number: int
    kind: str
    via: Via
    state: Literal["leaving", "released", "leaked"]
    reason: str | None
    """The plugin's ``CloseReason``; Litestar's own response gives none."""
    cleanup_ms: float | None
    leaked_seconds: int | None


class Snapshot(msgspec.Struct):
    """All the page's numbers at one instant."""

    kinds: dict[str, dict[Via, Held]]
    unheard_tokens: int
    live_streams: int
    workers: int
    ended: list[Ended]


class Ledger:
    """The resources of one application. Blocking bodies write from worker threads, hence the lock."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._numbers = count(1)
        self._held: dict[int, Resource] = {}
        self._ended: deque[Resource] = deque(maxlen=HISTORY)
        self._unheard_tokens = 0.0

    def __len__(self) -> int:
        return len(self._held)

    def issue(self, kind: str, via: Via, *, crowd: bool = False, tokens_per_second: float = 0.0) -> Resource:
        """A resource for one stream. It counts from the moment the body opens it."""
        return Resource(self, next(self._numbers), kind, via, crowd=crowd, tokens_per_second=tokens_per_second)

    def find(self, number: int) -> Resource | None:
        """The open resource of that number."""
        return self._held.get(number)

    def opened(self, resource: Resource) -> None:
        with self._lock:
            resource.opened_at = time.monotonic()
            self._held[resource.number] = resource
            if resource.left_at is not None:
                self._remember(resource)

    def left(self, resource: Resource) -> None:
        with self._lock:
            if resource.left_at is None and resource.released_at is None:
                resource.left_at = time.monotonic()
                if resource.opened_at is not None:
                    self._remember(resource)

    def released(self, resource: Resource) -> None:
        with self._lock:
            if resource.written_off:
                return
            resource.released_at = time.monotonic()
            self._held.pop(resource.number, None)
            self._unheard_tokens += resource.unheard_tokens(resource.released_at)
            self._remember(resource)

    def closed(self, resource: Resource, reason: str | None) -> None:
        with self._lock:
            resource.reason = reason
            self._remember(resource)

    def reset(self) -> int:
        """Writes off what has leaked, and forget the streams that have ended."""
        now = time.monotonic()
        with self._lock:
            leaked = [resource for resource in self._held.values() if resource.leaked(now)]
            for resource in leaked:
                resource.written_off = True
                del self._held[resource.number]
            self._ended.clear()
            self._unheard_tokens = 0.0
        return len(leaked)

    def snapshot(self, *, live_streams: int = 0, workers: int = 1) -> Snapshot:
        now = time.monotonic()
        kinds: dict[str, dict[Via, Held]] = {}
        with self._lock:
            unheard = self._unheard_tokens
            for resource in self._held.values():
                sides = kinds.setdefault(resource.kind, {"safe": Held(), "litestar": Held()})
                sides[resource.via].open += 1
                sides[resource.via].leaked += resource.leaked(now)
                unheard += resource.unheard_tokens(now)
            ended = [self._row(resource, now) for resource in reversed(self._ended)]
        return Snapshot(
            kinds=kinds, unheard_tokens=int(unheard), live_streams=live_streams, workers=workers, ended=ended
        )

    def _remember(self, resource: Resource) -> None:
        if not resource.crowd and resource not in self._ended:
            self._ended.append(resource)

    @staticmethod
    def _row(resource: Resource, now: float) -> Ended:
        leaked = resource.leaked(now)
        cleanup = resource.cleanup
        holds_nothing = resource.opened_at is None or resource.released_at is not None
        return Ended(
            number=resource.number,
            kind=resource.kind,
            via=resource.via,
            state="released" if holds_nothing else "leaked" if leaked else "leaving",
            reason=resource.reason,
            cleanup_ms=None if cleanup is None else round(cleanup * 1000, 1),
            leaked_seconds=int(now - (resource.left_at or now)) if leaked else None,
        )
