"""How long the end of a stream, and of all streams at a shutdown, may take.

From the first signal to the end of the drain:

===================================  ==================================================================
``shutdown_grace``                   bodies that asked say farewell
``cleanup_timeout``                  bodies end, and cleanups run; all streams share it
``BACKGROUND_MARGIN``                beyond both: background tasks that have not ended are cancelled
``DRAIN_MARGIN``                     beyond both: what has been left behind by then stays, and is reported
===================================  ==================================================================

The last bytes (``FINAL_SEND_TIMEOUT``), the dropping of clients that do not take them (``DROP_DELAY``, ``STALL_TIME``)
and the second cancellation (``SECOND_CANCELLATION``) lie within these. So does ``drain_spread``, which lies within
``shutdown_grace``: what is told last has no grace left, but all of its ``cleanup_timeout``. After the drain the
application's own shutdown begins, which is bounded by ``APPLICATION_SHUTDOWN`` where nobody else bounds it.

Grace, cleanups and last bytes count by the loop's time, in which it answers (``timers.py``), so that one who blocks it
takes none of it from others. But the sum of them goes by the clock: when it is over, what is left has a tenth of a
second of the loop's for each thing that it still has to end. The margins alone begin when the loop answers, be that
later, so that these have a turn.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from litestar_safe_sse._runtime.shielding import LEAVING_TIME

if TYPE_CHECKING:
    from litestar_safe_sse.config import SafeSSEConfig

__all__ = (
    "BACKGROUND_MARGIN",
    "DRAIN_MARGIN",
    "DROP_DELAY",
    "FINAL_SEND_TIMEOUT",
    "REAUTHORIZE_JITTER",
    "SECOND_CANCELLATION",
    "STALL_TIME",
    "draw_shorter",
    "exit_timeout",
    "streams_timeout",
)

SECOND_CANCELLATION = LEAVING_TIME
"""Seconds that a body or cleanup has after its second cancellation, before it is left behind."""

FINAL_SEND_TIMEOUT = 0.5
"""Seconds in which a client has to take what is left when the server shuts down; the process waits for it."""

DROP_DELAY = 0.1
"""Seconds from when a cancelled ``send()`` has ended until its connection is dropped. A server with threads of its own
has to take note of the first before the second: Granian's worker deadlocks if a ``send()`` fails after the last
connection has ended (it logs that, which takes the GIL, while the GIL is held to wait for its threads). On a busy
machine a thread waits that long for its turn."""

STALL_TIME = 1.0
"""Seconds in which a client takes nothing before it is dropped at a shutdown, where its connection is not known to be a
stream's; they begin when the others are dropped."""

DRAIN_MARGIN = 0.5
"""Seconds beyond grace and cleanup after which a drain no longer waits."""

BACKGROUND_MARGIN = DRAIN_MARGIN - LEAVING_TIME
"""Seconds beyond them after which background tasks are ended: ahead of the drain, so that they have ended by then."""

REAUTHORIZE_JITTER = 0.2
"""The part by which the time between two questions of one stream may be shorter, so that the streams of clients that
came together do not ask together."""

APPLICATION_SHUTDOWN = 3.0
"""Seconds that the application's own shutdown may take after the drain, where that is ours to bound."""


def streams_timeout(config: SafeSSEConfig) -> float:
    """Returns the seconds that the streams have, all together, from the first sign of a shutdown."""
    return config.shutdown_grace + config.cleanup_timeout


def exit_timeout(config: SafeSSEConfig) -> float:
    """Returns the seconds that a process may live on which nothing else would end."""
    return streams_timeout(config) + APPLICATION_SHUTDOWN


def draw_shorter(seconds: float, jitter: float) -> float:
    """Returns a time, or, at random, one that is shorter by up to that part of it."""
    return seconds * (1 - jitter * random.random()) if jitter else seconds
