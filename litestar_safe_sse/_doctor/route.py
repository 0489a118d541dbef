"""The route that the doctor asks: streams of known events, and what their bodies have seen."""

from __future__ import annotations

import hmac
from typing import TYPE_CHECKING, Annotated, Any

import anyio
from litestar import Request, Router, get
from litestar.datastructures import CacheControlHeader
from litestar.exceptions import PermissionDeniedException, ValidationException
from msgspec import Meta, Struct, ValidationError, convert

from litestar_safe_sse._doctor.contract import MAX_LIFETIME, PATH, SECRET_HEADER, Seen, VisitReport
from litestar_safe_sse._doctor.plans import PLANS
from litestar_safe_sse._doctor.visits import Visits
from litestar_safe_sse.context import StreamContext
from litestar_safe_sse.response import SafeServerSentEvent

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from litestar.connection import ASGIConnection
    from litestar.handlers import BaseRouteHandler

    from litestar_safe_sse._core.messages import SSEMessage
    from litestar_safe_sse.config import SafeSSEConfig

__all__ = ("make_doctor_router",)

UNCACHED = CacheControlHeader(no_store=True)
Seconds = Annotated[float, Meta(ge=0.1, le=MAX_LIFETIME)]


class Asked(Struct, frozen=True, kw_only=True):
    """The query of a stream: how releases of Litestar want parameters declared differs."""

    key: Annotated[str, Meta(min_length=8, max_length=64)]
    plan: Annotated[str, Meta(pattern=f"^({'|'.join(PLANS)})$")]
    delay: Annotated[float, Meta(ge=0, le=60)] = 0
    heartbeats: bool = True
    ping_interval: Seconds | None = None
    send_timeout: Seconds = 30
    lifetime: Seconds = 120


def read_query(request: Request[Any, Any, Any]) -> Asked:
    """Returns what is asked for.

    Raises:
        ValidationException: It is no plan, or more than anybody may ask for.
    """
    try:
        return convert(dict(request.query_params), Asked, strict=False)
    except ValidationError as error:
        raise ValidationException(str(error)) from error


def make_doctor_router(config: SafeSSEConfig, secret: str) -> Router:
    """Makes the route.

    Args:
        config: The application's settings.
        secret: What a request has to know.
    """
    visits = Visits()

    def check_secret(connection: ASGIConnection[Any, Any, Any, Any], _: BaseRouteHandler) -> None:
        given = connection.headers.get(SECRET_HEADER, "")
        if not hmac.compare_digest(given.encode(), secret.encode()):
            raise PermissionDeniedException("the secret is not that of SafeSSEConfig(doctor=...)")

    @get("/", cache_control=UNCACHED)
    async def seen(request: Request[Any, Any, Any]) -> Seen:
        forwarded = request.headers.get("X-Forwarded-For")
        return Seen(
            ping_interval=config.ping_interval,
            http_version=request.scope["http_version"],
            forwarded=len(forwarded.split(",")) if forwarded else 0,
            via=request.headers.get("Via"),
        )

    @get("/stream")
    async def visit(request: Request[Any, Any, Any], stream: StreamContext) -> SafeServerSentEvent:
        asked = read_query(request)
        visit = visits.begin(asked.key)
        stream.callback(visit.end, stream)

        async def body() -> AsyncIterator[SSEMessage]:
            await anyio.sleep(asked.delay)
            async for event in PLANS[asked.plan](stream, visit):
                yield event

        ping = (asked.ping_interval or config.ping_interval) if asked.heartbeats else None
        return SafeServerSentEvent(
            body(), ping_interval=ping, send_timeout=asked.send_timeout, max_lifetime=asked.lifetime
        )

    @get("/visits/{key:str}", cache_control=UNCACHED)
    async def report(request: Request[Any, Any, Any]) -> VisitReport:
        return visits.report(request.path_params["key"])

    return Router(
        PATH,
        route_handlers=[seen, visit, report],
        guards=[check_secret],
        include_in_schema=False,
        opt={"exclude_from_auth": True},
    )
