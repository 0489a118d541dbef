"""The application of ``test_presence_of_processes.py``: one of several processes on the same log."""

from __future__ import annotations

import os
from typing import Any

from litestar import Litestar, get

from litestar_safe_sse import SafeServerSentEvent, SafeSSEPlugin, StreamContext
from litestar_safe_sse.sources import PostgresEventLog, RedisEventLog, RedisPlugin
from litestar_safe_sse.sources._presence import SharedAttendance

SharedAttendance.lasts = float(os.environ["SEATS_LAST"])


def name_of(connection: Any) -> str:
    """Takes clients at their word."""
    return str(connection.query_params["name"])


redis = RedisPlugin(os.environ.get("REDIS_URL", "redis://127.0.0.1"))
postgres = PostgresEventLog(os.environ.get("POSTGRES_URL", "postgresql://127.0.0.1"), presence=name_of)
log = RedisEventLog(redis, presence=name_of) if "REDIS_URL" in os.environ else postgres


@get("/room")
async def room(stream: StreamContext, name: str) -> SafeServerSentEvent:
    """Nothing, for as long as somebody stays."""
    return SafeServerSentEvent(log.subscribe("room", stream=stream))


app = Litestar([room], plugins=[SafeSSEPlugin(), redis], on_shutdown=[postgres.aclose])
