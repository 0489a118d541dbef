"""The documented application, and streams of handlers whose session advanced-alchemy commits with the headers."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator

from litestar import post
from litestar.di import NamedDependency
from litestar.params import FromQuery
from orders import Order, newer
from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from litestar_safe_sse import SafeServerSentEvent
from tests.plugins.counting import alchemy, app

STEPS: list[str] = []

# What SQLAlchemy says where a cancellation has reached a rollback; it throws the connection away, so that none is lost.
logging.getLogger("sqlalchemy.pool.impl.AsyncAdaptedQueuePool").addFilter(
    lambda record: not record.getMessage().startswith("Exception during reset")
)


@event.listens_for(Session, "after_commit")
def committed(session: Session) -> None:
    """Notes the commit of whichever session."""
    STEPS.append("committed")


@post("/own")
async def own(db_session: NamedDependency[AsyncSession], item: FromQuery[str]) -> SafeServerSentEvent:
    """Adds an order, of which the body learns by a session of its own."""
    STEPS[:] = ["handler"]
    db_session.add(Order(item=item))

    async def body() -> AsyncIterator[str]:
        STEPS.append("body")
        async with alchemy.get_session() as session:
            orders = await newer(session, 0)
        yield ",".join([order.item for order in orders])
        yield " ".join(STEPS)

    return SafeServerSentEvent(body())


@post("/injected")
async def injected(db_session: NamedDependency[AsyncSession], item: FromQuery[str]) -> SafeServerSentEvent:
    """Adds an order, and goes on with the handler's session in the body, which has to close it."""
    db_session.add(Order(item=item))

    async def body() -> AsyncIterator[str]:
        try:
            for order in await newer(db_session, 0):
                yield order.item
            yield "end"
        finally:
            await db_session.close()

    return SafeServerSentEvent(body())


app.register(own)
app.register(injected)
