"""Orders whose events are in the log when, and if, the transaction is committed that has written them."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from advanced_alchemy.base import BigIntBase
from advanced_alchemy.extensions.litestar import SQLAlchemyAsyncConfig, SQLAlchemyPlugin
from litestar import Litestar, get, post
from litestar.di import NamedDependency
from litestar.exceptions import ClientException
from litestar.params import FromQuery
from msgspec.json import encode
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Mapped

from litestar_safe_sse import SafeServerSentEvent, SafeSSEPlugin, StreamContext
from litestar_safe_sse.sources import PostgresEventLog

DATABASE = os.environ.get("POSTGRES_URL", "postgresql://localhost/shop")

alchemy = SQLAlchemyAsyncConfig(
    connection_string=DATABASE.replace("postgresql:", "postgresql+asyncpg:"),
    before_send_handler="autocommit",
    create_all=True,
)
log = PostgresEventLog(DATABASE)


class Order(BigIntBase):
    item: Mapped[str]


@post("/orders")
async def place(db_session: NamedDependency[AsyncSession], item: FromQuery[str]) -> None:
    order = Order(item=item)
    db_session.add(order)
    await db_session.flush()
    event = encode({"order": order.id, "item": item}).decode()
    await db_session.execute(select(func.sse_log_append("orders", event)))
    if not item:
        raise ClientException("an order is of something")  # which rolls back all of it, the event too


@get("/orders")
async def orders(stream: StreamContext) -> SafeServerSentEvent:
    return SafeServerSentEvent(log.subscribe("orders", after=stream.last_event_id))


@asynccontextmanager
async def with_tables(app: Litestar) -> AsyncIterator[None]:
    await log.create_tables()
    yield


app = Litestar(
    [place, orders],
    plugins=[SafeSSEPlugin(), SQLAlchemyPlugin(alchemy)],
    lifespan=[with_tables],
    on_shutdown=[log.aclose],
)
