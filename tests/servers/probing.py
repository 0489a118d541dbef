"""An application that tells what the package finds of the server that runs it."""

from __future__ import annotations

import json
from typing import Any

from litestar_safe_sse._runtime.current import current_runtime
from litestar_safe_sse._servers.behind_send import behind, daphne_request
from litestar_safe_sse._servers.connections import ADDRESSES, Connection
from litestar_safe_sse._servers.endings import close_after_response
from litestar_safe_sse._servers.flow_control import find_flow_control
from tests.servers.app import app as application


async def app(scope: Any, receive: Any, send: Any) -> None:
    if scope.get("path") != "/probe":
        await application(scope, receive, send)
        return

    async def wrapped(message: Any) -> None:  # as middleware does
        await send(message)

    headers = [(b"content-type", b"application/json")]
    body = json.dumps(found(scope, wrapped)).encode()
    headers.append((b"content-length", str(len(body)).encode()))
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def found(scope: Any, send: Any) -> dict[str, Any]:
    connection = Connection.of(send, scope)
    flow_control = find_flow_control(send, current_runtime(), 65536)
    close_after_response(send)
    return {
        "transport": connection.transport is not None and connection.transport.is_open(),
        "addresses": scope.get(ADDRESSES),
        "flow_control": None if flow_control is None else type(flow_control).__name__,
        "keeps_alive": sorted(keeps_alive(send)),
    }


def keeps_alive(send: Any) -> set[str]:
    """What says whether the connection is kept, and that it is not."""
    owners = [getattr(candidate, "__self__", None) for candidate in behind(send)]
    owners += [getattr(daphne_request(candidate), "channel", None) for candidate in behind(send)]
    return {name for owner in owners for name in ("keep_alive", "persistent") if getattr(owner, name, None) is False}
