"""What a server process wrote of what happened in it."""

from __future__ import annotations

import asyncio
import json
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tests.bounds import WAIT


class Records:
    """What the server process wrote, read as it grows."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lines: list[dict[str, Any]] = []
        self._by_key: dict[str, list[dict[str, Any]]] = defaultdict(list)
        self._offset = 0

    def read(self) -> None:
        if not self.path.exists():
            return
        with self.path.open("rb") as file:
            file.seek(self._offset)
            new, mark, _ = file.read().rpartition(b"\n")
        self._offset += len(new) + len(mark)
        for line in new.splitlines():
            record = json.loads(line)
            self.lines.append(record)
            self._by_key[record["key"]].append(record)

    def of(self, key: str, what: str) -> list[dict[str, Any]]:
        """Return what was recorded under that name for that visit, in order."""
        return [record for record in self._by_key.get(key, ()) if record["what"] == what]

    def story(self, key: str) -> list[str]:
        """Return the names of all that was recorded for a visit, for a failure's message."""
        return [record["what"] for record in self._by_key.get(key, ())]

    def named(self, what: str) -> list[dict[str, Any]]:
        return [record for record in self.lines if record["what"] == what]

    async def until(self, condition: Callable[[], bool], within: float = WAIT) -> bool:
        """Read until the condition holds; whether it did in time."""
        deadline = time.monotonic() + within
        while True:
            self.read()
            if condition():
                return True
            if time.monotonic() > deadline:
                return False
            await asyncio.sleep(0.004)

    async def until_each(self, keys: Sequence[str], what: str, within: float = WAIT) -> bool:
        return await self.until(lambda: all(self.of(key, what) for key in keys), within)
