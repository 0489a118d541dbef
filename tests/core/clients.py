"""An in-memory client of one request, well-mannered unless told otherwise."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anyio

from tests.bounds import WAIT


class Connection:
    """One request: what the client does, and what it got."""

    def __init__(self, path: str = "/", method: str = "GET", leaves_after: bytes | None = None) -> None:
        self.scope: dict[str, Any] = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.4"},
            "http_version": "1.1",
            "method": method,
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "root_path": "",
            "scheme": "http",
            "headers": [(b"host", b"testserver")],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 2),
            "state": {},
            "extensions": {},
        }
        self.messages: list[dict[str, Any]] = []
        self._leaves_after = leaves_after
        self._left = anyio.Event()
        self._asked = False
        self._changed = anyio.Event()

    def leave(self) -> None:
        """The client disconnects."""
        self._left.set()

    async def receive(self) -> dict[str, Any]:
        if not self._asked:
            self._asked = True
            return {"type": "http.request", "body": b"", "more_body": False}
        if not self._left.is_set():
            await self._left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: dict[str, Any]) -> None:
        self.messages.append(dict(message))
        if self._leaves_after is not None and self._leaves_after in self.body:
            self.leave()
        self._changed.set()
        self._changed = anyio.Event()

    @property
    def status(self) -> int | None:
        return self.messages[0]["status"] if self.messages else None

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.messages[1:])

    @property
    def complete(self) -> bool:
        return bool(self.messages) and self.messages[-1].get("more_body", True) is False

    async def until(self, condition: Callable[[Connection], object]) -> None:
        """Waits until what has been sent meets a condition."""
        with anyio.fail_after(WAIT):
            while not condition(self):
                await self._changed.wait()
