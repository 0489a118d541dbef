"""Orders out of a database: by a session that has a connection while it reads, and by one that keeps it."""

import os
from collections.abc import AsyncIterator, Sequence

import anyio
from advanced_alchemy.base import BigIntBase
from advanced_alchemy.extensions.litestar import EngineConfig, SQLAlchemyAsyncConfig, SQLAlchemyPlugin
from litestar import Litestar, post
from litestar.di import NamedDependency
from litestar.params import FromQuery
from sqlalchemy import Row, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Mapped

from litestar_safe_sse import SafeSSEPlugin, SSEMessage, StreamContext, StreamProvide, sse

alchemy = SQLAlchemyAsyncConfig(
    connection_string=os.environ.get("DATABASE", "sqlite+aiosqlite:///orders.db"),
    engine_config=EngineConfig(pool_size=20, max_overflow=0),
    before_send_handler="autocommit",
    create_all=True,
)


class Order(BigIntBase):
    item: Mapped[str]


async def newer(session: AsyncSession, seen: int) -> Sequence[Row[tuple[int, str]]]:
    return (await session.execute(select(Order.id, Order.item).where(Order.id > seen).order_by(Order.id))).all()


@post("/orders")
async def place(db_session: NamedDependency[AsyncSession], item: FromQuery[str]) -> None:
    db_session.add(Order(item=item))  # the plugin commits, and closes its session, when the headers are sent


@sse("/orders", dependencies={"db_session": StreamProvide(alchemy.get_session)})
async def orders(db_session: NamedDependency[AsyncSession], stream: StreamContext) -> AsyncIterator[SSEMessage]:
    seen = int(stream.last_event_id or 0)
    while True:
        rows = await newer(db_session, seen)
        await db_session.rollback()  # gives the connection back to the pool, until the next look
        for seen, item in rows:
            yield SSEMessage({"item": item}, id=seen)
        await anyio.sleep(0.2)


@sse("/orders/kept", dependencies={"db_session": StreamProvide(alchemy.get_session)})
async def kept_orders(db_session: NamedDependency[AsyncSession]) -> AsyncIterator[SSEMessage]:
    for seen, item in await newer(db_session, 0):  # which begins a transaction, for as long as the stream
        yield SSEMessage({"item": item}, id=seen)
    await anyio.sleep_forever()


app = Litestar([place, orders, kept_orders], plugins=[SafeSSEPlugin(), SQLAlchemyPlugin(alchemy)])
