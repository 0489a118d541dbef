"""Orders, and a feed of them: who watches is sent an order if, and when, its transaction has been committed."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
from litestar import Litestar, get, post
from litestar.datastructures import State
from litestar.exceptions import HTTPException
from msgspec import Struct

from litestar_safe_sse import SafeServerSentEvent, SafeSSEPlugin, SSEMessage, StreamContext
from litestar_safe_sse.sources import PostgresEventLog

POSTGRES = os.environ.get("POSTGRES_URL", "postgresql://localhost/shop")

TABLES = """
CREATE TABLE IF NOT EXISTS stock (item text PRIMARY KEY, pieces int NOT NULL CHECK (pieces >= 0));
CREATE TABLE IF NOT EXISTS orders (id serial PRIMARY KEY, item text NOT NULL REFERENCES stock);
INSERT INTO stock VALUES ('chair', 2) ON CONFLICT DO NOTHING;
"""


class Order(Struct):
    item: str


log = PostgresEventLog(POSTGRES)


@asynccontextmanager
async def database(app: Litestar) -> AsyncIterator[None]:
    await log.create_tables()  # or by a migration: see log.create_tables_sql
    async with asyncpg.create_pool(POSTGRES, min_size=0) as app.state.pool:
        await app.state.pool.execute(TABLES)
        yield


@post("/orders")
async def order(data: Order, state: State) -> dict[str, int]:
    try:
        async with state.pool.acquire() as connection, connection.transaction():
            number: int = await connection.fetchval("INSERT INTO orders (item) VALUES ($1) RETURNING id", data.item)
            news = SSEMessage({"order": number, "item": data.item}, event="order")
            await log.append("orders", news, connection=connection)  # belongs to the transaction
            await connection.execute("UPDATE stock SET pieces = pieces - 1 WHERE item = $1", data.item)
    except asyncpg.CheckViolationError as error:  # neither the order nor the event is there
        raise HTTPException("sold out", status_code=409) from error
    return {"order": number}


@get("/orders")
async def orders(stream: StreamContext) -> SafeServerSentEvent:
    return SafeServerSentEvent(log.subscribe("orders", after=stream.last_event_id))


app = Litestar([order, orders], plugins=[SafeSSEPlugin()], lifespan=[database], on_shutdown=[log.aclose])
