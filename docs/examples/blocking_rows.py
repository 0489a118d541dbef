"""Streams rows from a blocking driver: a plain generator, which runs in a thread of its own."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing

from litestar import Litestar, get

from litestar_safe_sse import SafeServerSentEvent, SafeSSEPlugin, SSEMessage

QUERY = """
    WITH RECURSIVE numbers(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers)
    SELECT n, n * n FROM numbers
"""


def rows() -> Iterator[SSEMessage]:
    with closing(sqlite3.connect(":memory:")) as connection:  # to be closed by the thread that opened it
        try:
            for number, square in connection.execute(QUERY):
                yield SSEMessage({"number": number, "square": square}, event="row", id=number)
        finally:
            print("closing the connection")


@get("/rows")
async def stream_rows() -> SafeServerSentEvent:
    return SafeServerSentEvent(rows())


app = Litestar([stream_rows], plugins=[SafeSSEPlugin()])
