"""What the endpoints of all four have in common: a job, a model and a database. Each tells when it is let go."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count
from tempfile import TemporaryDirectory

import aiosqlite
import anyio

DIRECTORY = TemporaryDirectory()
JOBS = {1: 3, 2: None}
"""How many steps each job takes; the second is never done."""

NEW_ORDERS = "SELECT id, item FROM orders WHERE id > ? ORDER BY id"


class RefusedError(Exception):
    """The model does not answer."""


async def _let_go(what: str) -> None:
    await anyio.sleep(0.01)  # as whatever has to say goodbye over a network
    print(f"{what} let go", flush=True)


@asynccontextmanager
async def watching(job: int) -> AsyncIterator[AsyncIterator[int]]:
    """Watches a job: yields how many steps are done, whenever there is one more."""

    async def steps() -> AsyncIterator[int]:
        for step in range(1, (JOBS[job] or 1) + 1):
            yield step
            await anyio.sleep(0.01)
        if JOBS[job] is None:
            await anyio.sleep_forever()

    print("job held", flush=True)
    try:
        yield steps()
    finally:
        await _let_go("job")


@asynccontextmanager
async def asking(question: str) -> AsyncIterator[AsyncIterator[str]]:
    """Asks the model: yields its tokens.

    Raises:
        RefusedError: If it was not asked anything.
    """
    if not question:
        raise RefusedError

    async def tokens() -> AsyncIterator[str]:
        for number in range(3) if question != "endless" else count():
            yield f"token {number}"
            await anyio.sleep(0.01 if number < 3 else 60)

    print("model held", flush=True)
    try:
        yield tokens()
    finally:
        await _let_go("model")


@asynccontextmanager
async def connecting() -> AsyncIterator[aiosqlite.Connection]:
    """Connects to a database that has three orders."""
    async with aiosqlite.connect(f"{DIRECTORY.name}/orders.db") as database:
        await database.execute("CREATE TABLE IF NOT EXISTS orders (id INTEGER PRIMARY KEY, item TEXT)")
        await database.executemany("INSERT OR IGNORE INTO orders VALUES (?, ?)", [(1, "tea"), (2, "milk"), (3, "jam")])
        await database.commit()
        print("database held", flush=True)
        try:
            yield database
        finally:
            await _let_go("database")
