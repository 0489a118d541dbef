"""Stands in for a language model that streams lines, and prints when its client hangs up."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator

import anyio
from litestar import Litestar, post
from litestar.exceptions import HTTPException
from litestar.response import Stream


@post("/completions", status_code=200)
async def completions(data: dict[str, str]) -> Stream:
    if data["prompt"] == "refused":
        raise HTTPException("Too many requests.", status_code=429)

    async def tokens() -> AsyncIterator[str]:
        try:
            for n in range(3) if data["prompt"] == "short" else itertools.count():
                yield f"token {n}\n"
                await anyio.sleep(0.05)
        finally:
            print("hung up" if data["prompt"] == "endless" else "finished")

    return Stream(tokens())


app = Litestar([completions])
