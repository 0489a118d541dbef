"""A stream that ends when its user logs out, or is logged out."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import anyio
from litestar import Litestar, Request, post
from litestar.connection import ASGIConnection
from litestar.middleware.session.server_side import ServerSideSessionBackend, ServerSideSessionConfig
from litestar.security.session_auth import SessionAuth
from litestar.stores.memory import MemoryStore

from litestar_safe_sse import PerKey, SafeSSEConfig, SafeSSEPlugin, sse

Connection = ASGIConnection[Any, Any, Any, Any]
User = str

sessions = ServerSideSessionConfig()


async def user_of(session: dict[str, User], connection: Connection) -> User | None:
    return session.get("user")


def key_of(connection: Connection) -> User | None:
    user: User | None = connection.scope.get("user")  # there is none where nobody has to be logged in
    return user


async def is_logged_in(connection: Connection) -> bool:
    return await connection.app.stores.get("sessions").exists(connection.cookies[sessions.key])


plugin = SafeSSEPlugin(
    SafeSSEConfig(admission=PerKey(key_of, 6), reauthorize=is_logged_in, reauthorize_interval=30),
)
auth = SessionAuth[User, ServerSideSessionBackend](
    retrieve_user_handler=user_of, session_backend_config=sessions, exclude=["/login"]
)


@post("/login")
async def login(request: Request[Any, Any, Any]) -> None:
    request.set_session({"user": request.query_params["user"]})  # ask for a password here


@post("/logout")
async def logout(request: Request[User, Any, Any]) -> None:
    request.clear_session()


@post("/ban")
async def ban(request: Request[User, Any, Any]) -> int:
    return await plugin.streams.aclose_where(key=request.query_params["user"])


@sse("/notifications")
async def notifications(request: Request[User, Any, Any]) -> AsyncIterator[str]:
    yield f"hello {request.user}"
    await anyio.sleep_forever()


app = Litestar(
    [login, logout, ban, notifications],
    plugins=[plugin],
    on_app_init=[auth.on_app_init],
    stores={"sessions": MemoryStore()},
)
