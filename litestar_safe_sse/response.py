"""The response: what a handler returns."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from litestar.background_tasks import BackgroundTask
from litestar.datastructures import MutableScopeHeaders
from litestar.exceptions import HTTPException, ImproperlyConfiguredException
from litestar.response import Response
from litestar.response.base import ASGIResponse
from msgspec import UNSET, UnsetType

from litestar_safe_sse._core.encoding import Encoder, encode_comment, make_preamble
from litestar_safe_sse._core.iteration import check_content
from litestar_safe_sse._core.messages import SSEMessage
from litestar_safe_sse._core.state import CloseReason
from litestar_safe_sse._core.transport import HTTPTransport
from litestar_safe_sse._frames import is_made_of_frames
from litestar_safe_sse._handler import draw_retry, make_encoder, make_headers
from litestar_safe_sse._litestar import as_called, chosen_status, to_asgi
from litestar_safe_sse._refusal import answer_refusal, check_access
from litestar_safe_sse._slot import Slot
from litestar_safe_sse.config import SafeSSEConfig, check_integer
from litestar_safe_sse.exceptions import InvalidFieldError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from litestar import Request
    from litestar.app import Litestar
    from litestar.background_tasks import BackgroundTasks
    from litestar.datastructures import Cookie
    from litestar.enums import MediaType
    from litestar.types import Receive, ResponseCookies, ResponseHeaders, Scope, Send, TypeEncodersMap

    from litestar_safe_sse._content import Content
    from litestar_safe_sse._core.encoding import Preamble
    from litestar_safe_sse._core.stream import Stream
    from litestar_safe_sse._handler import Handler, RawHeaders
    from litestar_safe_sse.config import Moment

__all__ = ("SafeServerSentEvent",)

OVERRIDES = (
    *("ping_interval", "send_timeout", "max_lifetime", "on_error"),  # of which ``None`` is a value
    *("expires_at", "reauthorize"),  # and of these
    *("cleanup_timeout", "shutdown_grace", "buffer_size", "separator", "jitter", "reauthorize_interval"),
)
"""The settings that a response may have of its own."""

UNGIVEN = (UNSET,) * 6 + (None,) * 6
"""What stands for each of them where a response leaves it to the plugin's configuration."""


class SafeServerSentEvent(Response[Any]):
    """A Server-Sent Events response that can be cancelled and always cleans up.

    A drop-in for ``litestar.response.ServerSentEvent``: the parameters it shares with it mean the same.

    Args:
        content: The body: an async or sync iterable or iterator, a callable that returns one, or a single item. Items
            are ``str``, ``bytes``, ``int``, a ``dict`` of fields, ``SSEMessage``, Litestar's
            ``ServerSentEventMessage``, or anything else that msgspec encodes, which is sent as JSON. An instance of a
            dataclass, ``Struct``, attrs class, pydantic model or named tuple is a single item, though it may be
            iterated over. Not ``None``.
        background: Background tasks, run once after the stream has ended and cleaned up, however it ended.
        cookies: Cookies to set.
        encoding: The encoding of the response's headers. Events are always UTF-8 (WHATWG HTML, section 9.2.5).
        headers: Headers to send.
        event_type: The type of events that carry none.
        event_id: The ID of events that carry none.
        retry_duration: The reconnection time of events that carry none, in milliseconds.
        comment_message: A comment, sent once, at once.
        status_code: The status code; the one that the handler's decorator asks for unless given, or else 200.
        ping_interval: Seconds without an event after which a heartbeat is sent; ``None`` for no heartbeats.
        send_timeout: Seconds after which a client that takes no bytes is given up; ``None`` for no limit.
        max_lifetime: Seconds after which the stream is ended, for the client to reconnect; ``None`` for no limit.
        jitter: The part of ``max_lifetime`` by which it may be shorter, at random.
        expires_at: When the right to the stream ends, upon which it is revoked: a ``datetime`` with a time zone,
            seconds of the epoch, a function of the request that returns one of these, or ``None`` for never.
        reauthorize: An async function of the request, called again and again; if it raises, returns ``False``, or
            does not answer, the stream is revoked. ``None`` for none.
        reauthorize_interval: Seconds between two such calls.
        cleanup_timeout: Seconds that the body, and each cleanup, may take to end.
        shutdown_grace: Seconds that a body which asked for it may go on when the server shuts down, or
            ``max_lifetime`` is over.
        buffer_size: Bytes that the body may run ahead of the socket.
        on_error: Makes a last event of what the body raised, which is sent before a proper end; ``None`` for a cut.
        separator: The line separator.
        type_encoders: Types mapped to functions that make something of them that msgspec encodes.

    The parameters from ``ping_interval`` to ``separator`` default to the plugin's configuration.

    Raises:
        InvalidFieldError: If a parameter has a value that cannot be sent or used.
    """

    prefetch: float = 0
    """Seconds that the headers wait for the first event."""

    def __init__(
        self,
        content: Content,
        *,
        background: BackgroundTask | BackgroundTasks | None = None,
        cookies: ResponseCookies | None = None,
        encoding: str = "utf-8",
        headers: ResponseHeaders | None = None,
        event_type: str | None = None,
        event_id: int | str | None = None,
        retry_duration: int | None = None,
        comment_message: str | None = None,
        status_code: int | None = None,
        ping_interval: float | UnsetType | None = UNSET,
        send_timeout: float | UnsetType | None = UNSET,
        max_lifetime: float | UnsetType | None = UNSET,
        jitter: float | None = None,
        expires_at: Moment | Callable[[Any], Moment | None] | UnsetType | None = UNSET,
        reauthorize: Callable[[Any], Awaitable[object]] | UnsetType | None = UNSET,
        reauthorize_interval: float | None = None,
        cleanup_timeout: float | None = None,
        shutdown_grace: float | None = None,
        buffer_size: int | None = None,
        on_error: Callable[[Exception], object] | UnsetType | None = UNSET,
        separator: str | None = None,
        type_encoders: TypeEncodersMap | None = None,
    ) -> None:
        check_content(content)
        if comment_message is not None:
            check_parameter("comment_message", encode_comment, comment_message, "\n")
        self.has_defaults = (event_type, event_id, retry_duration) != (None, None, None)
        if self.has_defaults:
            check_parameter("event_type", SSEMessage, "", event_type)
            check_parameter("event_id", SSEMessage, "", None, event_id)
            check_parameter("retry_duration", SSEMessage, "", None, None, retry_duration)
        if status_code is not None:
            check_status(status_code)
        self.overrides: dict[str, Any] = {}
        given = (
            *(ping_interval, send_timeout, max_lifetime, on_error, expires_at, reauthorize),
            *(cleanup_timeout, shutdown_grace, buffer_size, separator, jitter, reauthorize_interval),
        )
        if given != UNGIVEN:
            pairs = zip(OVERRIDES, given, UNGIVEN, strict=True)
            self.overrides = {name: value for name, value, ungiven in pairs if value is not ungiven}
            SafeSSEConfig(**self.overrides)
        self.event_type = event_type
        self.event_id = event_id
        self.retry_duration = retry_duration
        self.comment_message = comment_message
        super().__init__(
            content=content,
            background=background,
            cookies=cookies,
            encoding=encoding,
            headers=headers,
            media_type="text/event-stream",
            status_code=status_code,
            type_encoders=type_encoders,
        )

    @as_called
    def to_asgi_response(
        self,
        app: Litestar | None,
        request: Request[Any, Any, Any],
        *,
        background: BackgroundTask | BackgroundTasks | None = None,
        cookies: Iterable[Cookie] | None = None,
        encoded_headers: Iterable[tuple[bytes, bytes]] | None = None,
        headers: dict[str, str] | None = None,
        is_head_response: bool = False,
        media_type: MediaType | str | None = None,
        status_code: int | None = None,
        type_encoders: TypeEncodersMap | None = None,
    ) -> ASGIResponse:
        """Makes the ASGI response; called by Litestar.

        Raises:
            MissingPluginError: If the application has no plugin.
            HTTPException: If the stream is refused: a shutdown is under way, or too many are open.
        """
        slot = Slot.of(request.scope)
        route_handler = request.scope.get("route_handler")
        if getattr(route_handler, "cache", False):
            raise ImproperlyConfiguredException(f"{route_handler} returns a stream, which cannot be cached")
        config = slot.registry.config
        if self.overrides:
            config = replace(config, **self.overrides)
        handler = slot.handler(request.scope)
        encoder = self._encoder(handler, config, type_encoders or {})
        try:
            stream = slot.accept(request.scope, self.content, encoder, config)
            if config.expires_at is not None or config.reauthorize is not None:
                check_access(slot.registry, stream, request)
        except HTTPException as refusal:
            if not slot.has_failed:
                raise
            return refused(request, refusal, slot)
        return SafeSSEResponse(
            preamble=self._preamble(config),
            prefetch=self.prefetch,
            stream=stream,
            slot=slot,
            background=self.background or background,
            cookies=[*self.cookies, *(cookies or ())],
            headers=make_headers(headers or {}, self.headers) if self.headers else handler.headers(headers or {}),
            is_head_response=is_head_response or request.method == "HEAD",
            status_code=self.status_code or chosen_status(status_code, route_handler),
        )

    def _encoder(self, handler: Handler, config: SafeSSEConfig, type_encoders: TypeEncodersMap) -> Encoder:
        of_frames = is_made_of_frames(self.content)
        if not (of_frames or self.has_defaults or self.response_type_encoders or "separator" in self.overrides):
            return handler.encoder(config, type_encoders)
        type_encoders = {**type_encoders, **self.response_type_encoders}
        return make_encoder(config, type_encoders, Encoder, of_frames=of_frames, **self.defaults)

    @property
    def defaults(self) -> dict[str, Any]:
        """The fields of events that have none."""
        return {"event": self.event_type, "id": self.event_id, "retry": self.retry_duration}

    def _preamble(self, config: SafeSSEConfig) -> Preamble:
        retry = draw_retry(config) if self.retry_duration is None else None
        return make_preamble(config.separator, self.comment_message, retry)


def check_parameter(name: str, check: Callable[..., object], *arguments: object) -> None:
    """Checks a parameter by what makes a field of it.

    Raises:
        InvalidFieldError: It can be none; the error has the name of the parameter.
    """
    try:
        check(*arguments)
    except InvalidFieldError as error:
        raise InvalidFieldError(name, error.reason) from error


def check_status(status: int) -> None:
    """Raises ``InvalidFieldError`` unless a response with a status code has a body."""
    check_integer("status_code", status, minimum=200, maximum=599)
    if status in (204, 304):
        raise InvalidFieldError("status_code", f"{status} allows no body (RFC 9110, section 6.4.1); give 200")


_SENT = MutableScopeHeaders({"headers": ()})


class SafeSSEResponse(ASGIResponse):
    """The ASGI side of a ``SafeServerSentEvent``."""

    __slots__ = ("preamble", "prefetch", "slot", "stream")

    _should_set_content_length = False

    def __init__(
        self,
        *,
        preamble: Preamble,
        prefetch: float,
        stream: Stream,
        slot: Slot,
        headers: RawHeaders,
        is_head_response: bool,
        **kwargs: Any,
    ) -> None:
        super().__init__(is_head_response=True, **kwargs)  # which has it make no headers
        # To HEAD too: the headers that GET would have had (RFC 9110, section 9.3.2).
        self.headers = MutableScopeHeaders({"headers": [*headers]})
        self.is_head_response = is_head_response
        self.preamble = preamble
        self.prefetch = prefetch
        self.slot = slot
        self.stream = stream

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends the response; returns when the stream has ended and cleaned up, and the background tasks are done."""
        try:
            if self.is_head_response:
                await self._answer_head(send)
            else:
                await self._serve(scope, receive, send)
        except Exception:
            await self._run_background()
            raise
        except GeneratorExit:  # the loop is gone
            raise
        except BaseException:  # cancelled: a background task has to await all the same
            await self._run_background(is_cancelled=True)
            raise
        await self._run_background()

    async def _run_background(self, *, is_cancelled: bool = False) -> None:
        """Runs the background tasks, which a server that cancels the request may cut short after a time only."""
        if self.prefetch and not (self.stream.has_begun or self.is_head_response):
            return  # the handler has failed ahead of its first event, and an error is answered
        if self.background is None and self.slot.is_guarded:
            return
        failure = await self.slot.run_background(self.after_response(), self.stream, is_cancelled=is_cancelled)
        if failure is not None and not is_cancelled:
            raise failure

    def _serve(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        stream = self.stream
        if self.slot.is_guarded:  # not what middleware makes of it, which is the application's to read
            receive = self.slot.receiver.receive
        start = {"type": "http.response.start", "status": self.status_code, "headers": self.encode_headers()}
        self.headers = _SENT  # what has been sent is not held for as long as the stream lasts
        transport = HTTPTransport(
            scope,
            receive,
            send,  # type: ignore[arg-type]
            start,
            runtime=stream.runtime,
            limit=stream.config.buffer_size,
        )
        return stream.serve(transport, self.preamble, prefetch=self.prefetch)

    async def after_response(self) -> None:
        """Runs the background tasks; called once, when the stream has ended and cleaned up."""
        if not self.slot.is_guarded:
            await self.slot.end(CloseReason.COMPLETED)
        await super().after_response()

    async def _answer_head(self, send: Send) -> None:
        try:
            await self.start_response(send)
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            await self.stream.discard(CloseReason.COMPLETED)


def refused(request: Request[Any, Any, Any], refusal: HTTPException, slot: Slot) -> ASGIResponse:
    """Makes the answer to a refused stream where no exception handler would be asked for it."""
    response = answer_refusal(request, refusal)
    response.background = BackgroundTask(slot.end, CloseReason.COMPLETED)
    return to_asgi(response, request)
