"""The documented application, which also tells how many connections are in use."""

from __future__ import annotations

from litestar import get
from orders import alchemy, app

__all__ = ("alchemy", "app")


@get("/connections", sync_to_thread=False)
def connections() -> int:
    """How many connections the streams have out of the pool."""
    return int(alchemy.get_engine().pool.checkedout())  # type: ignore[attr-defined]


app.register(connections)
