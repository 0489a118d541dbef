"""Orders whose events are written with them, in one transaction, and which a relay appends to the log: each once."""

import os
from contextlib import suppress
from uuid import uuid4

import anyio
from advanced_alchemy.base import BigIntBase
from advanced_alchemy.extensions.litestar import EngineConfig, SQLAlchemyAsyncConfig, SQLAlchemyPlugin
from litestar import Litestar, get, post
from litestar.di import NamedDependency
from litestar.params import FromQuery
from msgspec.json import encode
from sqlalchemy import delete, select, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Mapped, mapped_column

from litestar_safe_sse import SafeServerSentEvent, SafeSSEPlugin, StreamContext
from litestar_safe_sse.exceptions import InvalidFieldError
from litestar_safe_sse.sources import RedisEventLog, RedisPlugin, SourceUnavailableError, TopicFinishedError

DAY = 86_400

alchemy = SQLAlchemyAsyncConfig(
    connection_string=os.environ.get("DATABASE", "sqlite+aiosqlite:///outbox.db"),
    engine_config=EngineConfig(pool_pre_ping=True),
    before_send_handler="autocommit",
    create_all=True,
)
redis = RedisPlugin(os.environ.get("REDIS_URL", "redis://localhost:6379/0"))
log = RedisEventLog(redis, forget_keys_after=7 * DAY)  # longer than the relay will ever be away


class Order(BigIntBase):
    item: Mapped[str]


class Outgoing(BigIntBase):
    """An event that is not in the log yet, as far as this database knows."""

    key: Mapped[str] = mapped_column(default=lambda: uuid4().hex, unique=True)
    topic: Mapped[str]
    data: Mapped[str]
    refused: Mapped[str | None]


@post("/orders")
async def place(db_session: NamedDependency[AsyncSession], item: FromQuery[str]) -> None:
    order = Order(item=item)
    db_session.add(order)
    await db_session.flush()  # gives it its number
    event = {"order": order.id, "item": item}
    db_session.add(Outgoing(topic="orders", data=encode(event).decode()))  # committed with the order, or not at all


@get("/orders")
async def orders(stream: StreamContext) -> SafeServerSentEvent:
    return SafeServerSentEvent(log.subscribe("orders", after=stream.last_event_id))


async def relay_some(session: AsyncSession) -> int:
    """Appends the oldest events that wait; returns how many there were."""
    waiting = select(Outgoing.key, Outgoing.topic, Outgoing.data).where(Outgoing.refused.is_(None))
    found = (await session.execute(waiting.order_by(Outgoing.id).limit(100))).all()
    await session.rollback()  # while Redis is asked, nothing is locked
    for key, topic, data in found:
        try:
            await log.append(topic, {"data": data}, idempotency_key=key)
        except (InvalidFieldError, TopicFinishedError) as error:  # it never will be: somebody has to look at it
            await session.execute(update(Outgoing).where(Outgoing.key == key).values(refused=str(error)))
    keys = [key for key, _, _ in found]
    await session.execute(delete(Outgoing).where(Outgoing.key.in_(keys), Outgoing.refused.is_(None)))
    await session.commit()
    return len(found)


async def relay() -> None:
    """Relays for ever. Any number of processes may do so, and each may be killed at any time."""
    try:
        while True:
            found = 0
            with suppress(SourceUnavailableError):  # what has been appended is appended again, which changes nothing
                async with alchemy.get_session() as session:
                    found = await relay_some(session)
            if not found:
                await anyio.sleep(0.2)
    finally:
        await redis.aclose()


app = Litestar([place, orders], plugins=[SafeSSEPlugin(), SQLAlchemyPlugin(alchemy), redis])

if __name__ == "__main__":
    anyio.run(relay)
