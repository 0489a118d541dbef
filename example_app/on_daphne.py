"""``python -m example_app.on_daphne``: Daphne's own command line, and what Daphne doesn't tell the app: to begin."""

from __future__ import annotations

import asyncio
import runpy
import sys
from importlib import import_module
from typing import Any

from example_app.app import app


def begin() -> None:
    asyncio.ensure_future(app.state.feed.start())  # noqa: RUF006 - it is over at once


if __name__ == "__main__":
    import_module("daphne.server")  # chooses the reactor
    reactor: Any = import_module("twisted.internet.reactor")
    reactor.callLater(0, begin)
    sys.argv[0] = "daphne"
    runpy.run_module("daphne", run_name="__main__", alter_sys=True)
