"""Sends each user's notifications to all of that user's pages, says farewell at a shutdown, and can log a user out."""

from collections import defaultdict
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from litestar import Litestar, get, post

from litestar_safe_sse import (
    CloseReason,
    SafeServerSentEvent,
    SafeSSEPlugin,
    SSEMessage,
    StreamContext,
)


class Board:
    """Who listens, and by which stream."""

    def __init__(self) -> None:
        self.pages: defaultdict[str, dict[StreamContext, MemoryObjectSendStream[str]]] = defaultdict(dict)

    @contextmanager
    def subscribe(self, user: str, stream: StreamContext) -> Iterator[MemoryObjectReceiveStream[str]]:
        outbox, inbox = anyio.create_memory_object_stream[str](max_buffer_size=100)
        with outbox, inbox:
            self.pages[user][stream] = outbox
            try:
                yield inbox
            finally:
                del self.pages[user][stream]

    def publish(self, user: str, text: str) -> None:
        for outbox in self.pages[user].values():
            try:
                outbox.send_nowait(text)
            except anyio.WouldBlock:  # 100 behind: its stream ends once they are read, and the page comes back
                outbox.close()


board = Board()


@get("/notifications/{user:str}")
async def notifications(stream: StreamContext, user: str) -> SafeServerSentEvent:
    inbox = stream.enter_context(board.subscribe(user, stream))

    async def body() -> AsyncIterator[SSEMessage]:
        async for text in stream.iterate(inbox):  # ends with the inbox, or when the stream is to close
            yield SSEMessage(text, event="notification")
        if stream.close_reason is CloseReason.SHUTDOWN:
            yield SSEMessage(event="restarting", retry=500)

    return SafeServerSentEvent(body())


@post("/notifications/{user:str}")
async def notify(user: str, data: dict[str, str]) -> dict[str, int]:
    board.publish(user, data["text"])
    return {"pages": len(board.pages[user])}


@post("/logout/{user:str}")
async def log_out(user: str) -> dict[str, int]:
    pages = list(board.pages[user])
    for page in pages:
        await page.aclose(CloseReason.REVOKED)
    return {"pages": len(pages)}


app = Litestar([notifications, notify, log_out], plugins=[SafeSSEPlugin()])
