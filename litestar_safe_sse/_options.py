"""The options of ``@sse``: those of the response, and those of Litestar's handlers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypedDict

from litestar_safe_sse.config import SafeSSEConfig, check_arguments, unknown_name
from litestar_safe_sse.exceptions import InvalidFieldError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence

    from litestar import Request
    from litestar.background_tasks import BackgroundTask, BackgroundTasks
    from litestar.datastructures import CacheControlHeader, ETag
    from litestar.dto import AbstractDTO
    from litestar.exceptions import HTTPException
    from litestar.openapi.datastructures import ResponseSpec
    from litestar.openapi.spec import Operation, SecurityRequirement
    from litestar.types import (
        AfterRequestHookHandler,
        AfterResponseHookHandler,
        BeforeRequestHookHandler,
        Dependencies,
        EmptyType,
        ExceptionHandlersMap,
        Guard,
        Middleware,
        ResponseCookies,
        ResponseHeaders,
        TypeEncodersMap,
    )
    from litestar.types.callable_types import OperationIDCreator
    from litestar.types.composite_types import TypeDecodersSequence
    from msgspec import UnsetType

    from litestar_safe_sse.config import Moment

__all__ = (
    "HandlerOptions",
    "Options",
    "ResponseOptions",
    "StreamOptions",
    "check_functions",
    "check_names",
    "check_path",
)


_MEANT = {"heartbeat": "ping_interval", "heartbeat_interval": "ping_interval", "retry": "retry_duration"}
"""What is called otherwise, and resembles something else more."""

_MEANINGLESS = (
    *("cache", "cache_key_builder", "content_encoding", "content_media_type", "media_type"),
    *("response_class", "sync_to_thread"),
)

_OF_WEBSOCKETS = ("mode", "resume_timeout")


class StreamOptions(TypedDict, total=False):
    """What any stream may have of its own."""

    event_type: str | None
    event_id: int | str | None
    retry_duration: int | None
    ping_interval: float | UnsetType | None
    send_timeout: float | UnsetType | None
    max_lifetime: float | UnsetType | None
    jitter: float | None
    expires_at: Moment | Callable[[Any], Moment | None] | UnsetType | None
    reauthorize: Callable[[Any], Awaitable[object]] | UnsetType | None
    reauthorize_interval: float | None
    cleanup_timeout: float | None
    shutdown_grace: float | None
    buffer_size: int | None
    on_error: Callable[[Exception], object] | UnsetType | None


class ResponseOptions(StreamOptions, total=False):
    """What ``SafeServerSentEvent`` takes and no handler of Litestar's does."""

    comment_message: str | None
    cookies: ResponseCookies | None
    encoding: str
    headers: ResponseHeaders | None
    separator: str | None


class HandlerOptions(TypedDict, total=False):
    """What a handler of Litestar's takes and means something to a stream."""

    after_request: AfterRequestHookHandler | None
    after_response: AfterResponseHookHandler | None
    background: BackgroundTask | BackgroundTasks | None
    before_request: BeforeRequestHookHandler | None
    cache_control: CacheControlHeader | None
    dependencies: Dependencies | None
    deprecated: bool
    description: str | None
    dto: type[AbstractDTO[Any]] | EmptyType | None
    etag: ETag | None
    exception_handlers: ExceptionHandlersMap | None
    guards: Sequence[Guard] | None
    include_in_schema: bool | EmptyType
    middleware: Sequence[Middleware] | None
    name: str | None
    operation_class: type[Operation]
    operation_id: str | OperationIDCreator | None
    opt: Mapping[str, Any] | None
    raises: Sequence[type[HTTPException]] | None
    request_class: type[Request[Any, Any, Any]] | None
    request_max_body_size: int | EmptyType | None
    response_cookies: ResponseCookies | None
    response_description: str | None
    response_headers: ResponseHeaders | None
    responses: Mapping[int, ResponseSpec] | None
    return_dto: type[AbstractDTO[Any]] | EmptyType | None
    security: Sequence[SecurityRequirement] | None
    signature_namespace: Mapping[str, Any] | None
    signature_types: Sequence[Any] | None
    status_code: int | None
    summary: str | None
    tags: Sequence[str] | None
    type_decoders: TypeDecodersSequence | None
    type_encoders: TypeEncodersMap | None


class Options(ResponseOptions, HandlerOptions, total=False):
    """What ``@sse`` takes beside its own parameters."""


def check_path(path: object, decorator: str) -> None:
    """Refuses what a decorator is given for a path if it is the function itself.

    Args:
        path: What it is given.
        decorator: Its name.

    Raises:
        InvalidFieldError: If it was called without parentheses.
    """
    if callable(path):
        name = getattr(path, "__qualname__", path)
        raise InvalidFieldError(
            "path", f'must be a str, or several, not the function {name}; write {decorator}("/...") above it'
        )


def check_names(options: Iterable[str], known: Collection[str], decorator: str, fn: object) -> None:
    """Refuses options that there are none of.

    Args:
        options: The names of those that are given.
        known: The names of those that there are.
        decorator: The name of what they are given to.
        fn: The function that it decorates.

    Raises:
        InvalidFieldError: If there is no such option.
    """
    for name in options:
        if name not in known:
            what = f"an option of {decorator} above {getattr(fn, '__qualname__', fn)}"
            hint = _hint(name, decorator)
            if hint is not None:
                raise InvalidFieldError(name, f"must be {what}; {hint}")
            raise unknown_name(name, sorted(known), f"{what} (for guards and middleware, use opt={{...}})")


def _hint(name: str, decorator: str) -> str | None:
    """Returns what to do about an option that there is elsewhere, or by another name."""
    if name in _MEANT:
        return f"did you mean {_MEANT[name]}?"
    if name in _MEANINGLESS:
        return "that of Litestar's handlers means nothing to a stream, so leave it out"
    if name in SafeSSEConfig.__dataclass_fields__ and name not in ResponseOptions.__annotations__:
        return f"it is the same for all streams, so give it to SafeSSEConfig({name}=...)"
    if name in _OF_WEBSOCKETS and decorator != "@sse_websocket":
        return "it is one of @sse_websocket"
    return None


def check_functions(settings: Mapping[str, Any], given: str) -> None:
    """Checks the functions among settings, once: streams that have some of their own are made again and again.

    Args:
        settings: The settings by their names.
        given: What the functions are called with.

    Raises:
        InvalidFieldError: If one can't be called with that.
    """
    for name, argument in (("expires_at", given), ("reauthorize", given), ("on_error", "an exception")):
        if callable(settings.get(name)):
            check_arguments(name, settings[name], argument)
