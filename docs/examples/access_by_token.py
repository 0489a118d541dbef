"""A stream that lasts no longer than the token that opened it, or than the token is valid."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from datetime import datetime
from typing import Any

import anyio
from litestar import Litestar, Request
from litestar.connection import ASGIConnection
from litestar.security.jwt import JWTCookieAuth, Token

from litestar_safe_sse import SafeSSEConfig, SafeSSEPlugin, sse

Connection = ASGIConnection[Any, Any, Any, Any]

withdrawn: set[str] = set()
"""The IDs of tokens that are not valid any more: in an application, a table or a key in Redis."""


async def user_of(token: Token, connection: Connection) -> str:
    return token.sub


def expiry(connection: Connection) -> datetime:
    token: Token = connection.auth
    return token.exp


async def is_valid(connection: Connection) -> bool:
    return connection.auth.jti not in withdrawn


# By a cookie, since an EventSource can set no headers.
auth = JWTCookieAuth[str](retrieve_user_handler=user_of, token_secret=os.environ["TOKEN_SECRET"])


@sse("/notifications", expires_at=expiry, reauthorize=is_valid, reauthorize_interval=30)
async def notifications(request: Request[str, Token, Any]) -> AsyncIterator[str]:
    yield f"hello {request.user}"
    await anyio.sleep_forever()


app = Litestar([notifications], plugins=[SafeSSEPlugin(SafeSSEConfig())], on_app_init=[auth.on_app_init])
