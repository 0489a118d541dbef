"""What the bodies of the doctor's streams send."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

import anyio

from litestar_safe_sse._core.messages import SSEMessage
from litestar_safe_sse._doctor.contract import FLOOD, SIZES, SIZES_INTERVAL

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from litestar_safe_sse._doctor.visits import Visit
    from litestar_safe_sse.context import StreamContext

    Plan = Callable[[StreamContext, Visit], AsyncIterator[SSEMessage]]

__all__ = ("PLANS", "TICKS", "TICK_INTERVAL")

TICKS = 12
TICK_INTERVAL = 0.25
"""Seconds between two ticks."""

_KIB = 1024
_BLOCK = 16 * _KIB


async def silent(stream: StreamContext, visit: Visit) -> AsyncIterator[SSEMessage]:
    """One event, and heartbeats at most from then on."""
    yield hello(stream, visit)
    await stream.wait_closing()


async def ticks(stream: StreamContext, visit: Visit) -> AsyncIterator[SSEMessage]:
    """Small events, and no end behind which a proxy would let them go."""
    for number in range(TICKS):
        yield SSEMessage({"number": number, "at": visit.elapsed()})
        await anyio.sleep(TICK_INTERVAL)
    await stream.wait_closing()


async def sizes(stream: StreamContext, visit: Visit) -> AsyncIterator[SSEMessage]:
    """Events that fill one size of buffer after the other."""
    sent = 0
    for size in SIZES:
        missing = size - sent
        yield SSEMessage({"kib": size, "at": visit.elapsed(), "pad": padding(missing * _KIB)})
        sent = size
        await anyio.sleep(SIZES_INTERVAL)
    await stream.wait_closing()


async def flood(stream: StreamContext, visit: Visit) -> AsyncIterator[SSEMessage]:
    """As much as the client takes, up to a bound."""
    yield hello(stream, visit)
    while visit.size < FLOOD:
        visit.size += _BLOCK
        yield SSEMessage({"pad": padding(_BLOCK)})
        await anyio.sleep(0.0005)  # other requests of the application come first


PLANS: dict[str, Plan] = {"silent": silent, "ticks": ticks, "sizes": sizes, "flood": flood}


def hello(stream: StreamContext, visit: Visit) -> SSEMessage:
    """Returns the first event of a stream."""
    return SSEMessage({"at": visit.elapsed(), "last_event_id": stream.last_event_id})


def padding(size: int) -> str:
    """Returns so many characters that compression can make little of."""
    return secrets.token_urlsafe(size)[:size]
