"""Litestar's channels, which end in every test."""

from __future__ import annotations

import asyncio

from litestar.channels import ChannelsPlugin

from tests.bounds import SHORT

__all__ = ("Channels",)


class Channels(ChannelsPlugin):
    """Cancels again what receives, if that has not ended.

    Up to Python 3.11 ``asyncio.wait_for`` may lose a cancellation, by which redis-py connects and writes; Litestar
    cancels once, and then waits for ever.
    """

    async def _on_shutdown(self) -> None:
        ending = asyncio.ensure_future(super()._on_shutdown())
        while not ending.done():
            await asyncio.wait([ending], timeout=SHORT)
            if self._sub_task is not None and not ending.done():
                self._sub_task.cancel()
        await ending
