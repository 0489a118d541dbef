"""The same streams over a WebSocket: ``@sse_websocket``, and what ``@sse(..., websocket=...)`` makes."""

from __future__ import annotations

import functools
import inspect
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Generic, Literal, ParamSpec, TypeVar

from litestar import WebSocket
from litestar.exceptions import ImproperlyConfiguredException
from litestar.handlers import WebsocketRouteHandler
from litestar.types import Empty
from litestar.utils.path import join_paths
from litestar.utils.signature import ParsedSignature
from msgspec import DecodeError, Struct
from msgspec.json import decode

from litestar_safe_sse._core.encoding import decode_last_event_id
from litestar_safe_sse._core.json_lines import JSONLines, make_json_preamble
from litestar_safe_sse._core.state import CloseReason
from litestar_safe_sse._core.websocket import (
    INVALID_MESSAGE,
    POLICY_VIOLATION,
    TOO_LARGE,
    MessageTooLargeError,
    WebSocketTransport,
)
from litestar_safe_sse._events import Declared
from litestar_safe_sse._handler import draw_retry, make_encoder
from litestar_safe_sse._litestar import handler_from
from litestar_safe_sse._options import StreamOptions, check_functions, check_names, check_path
from litestar_safe_sse._refusal import check_access
from litestar_safe_sse._slot import NeedsPlugin, Slot, WebSocketSlot
from litestar_safe_sse._typed import TypedEncoder
from litestar_safe_sse.config import check_choice, check_duration
from litestar_safe_sse.exceptions import InvalidFieldError
from litestar_safe_sse.handlers import TypedStream, check_generator, dtos_for
from litestar_safe_sse.response import SafeServerSentEvent

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, Callable, Iterable, Mapping, Sequence

    from litestar.dto import AbstractDTO
    from litestar.types import (
        Dependencies,
        EmptyType,
        ExceptionHandlersMap,
        Guard,
        Middleware,
        TypeEncodersMap,
    )
    from litestar.types.composite_types import TypeDecodersSequence
    from typing_extensions import Unpack

    from litestar_safe_sse._core.encoding import Encoder
    from litestar_safe_sse._core.stream import Stream
    from litestar_safe_sse.config import SafeSSEConfig
    from litestar_safe_sse.handlers import SSERouteHandler

__all__ = ("SSEWebSocketHandler", "WebSocketOptions", "sse_websocket")

_ENVELOPE = 64
"""Bytes that the first message may have beside its ID, each byte of which may be escaped by six."""

P = ParamSpec("P")
EventsT = TypeVar("EventsT", bound="AsyncIterable[Any] | Iterable[Any]")


class WebSocketOptions(StreamOptions, total=False):
    """What ``@sse_websocket`` takes beside its own parameters: of a stream, and of Litestar's handlers."""

    dependencies: Dependencies | None
    exception_handlers: ExceptionHandlersMap | None
    guards: Sequence[Guard] | None
    middleware: Sequence[Middleware] | None
    name: str | None
    opt: Mapping[str, Any] | None
    return_dto: type[AbstractDTO[Any]] | EmptyType | None
    signature_namespace: Mapping[str, Any] | None
    signature_types: Sequence[Any] | None
    type_decoders: TypeDecodersSequence | None
    type_encoders: TypeEncodersMap | None
    websocket_class: type[WebSocket[Any, Any, Any]] | None


_OF_STREAMS = StreamOptions.__annotations__

_OF_HANDLERS = (
    "dependencies",
    "exception_handlers",
    "guards",
    "middleware",
    "opt",
    "signature_namespace",
    "type_decoders",
    "type_encoders",
)
"""What a handler has of its own, and hands on to the one beside it."""


class TypedJSONLines(JSONLines, TypedEncoder):
    """Turns the items that a handler's return annotation names into lines of JSON."""

    __slots__ = ()

    def _event_of(self, item: Any, name: str | None) -> bytes:
        transform = self._transforms.get(type(item))
        data = item if transform is None else transform(item)
        return self.block(self._as_json(data), name)


class Resumption(Struct):
    """The first message of a client that says what to resume after."""

    last_event_id: str | None = None


class SSEWebSocketHandler(NeedsPlugin, WebsocketRouteHandler, Generic[P, EventsT]):
    """A handler that ``@sse_websocket`` has made."""

    endpoint: Endpoint
    beside: SSERouteHandler[Any, Any] | None = None
    """The handler of ``@sse`` whose layers it shares."""

    @property
    def ownership_layers(self) -> Any:
        """Returns the layers of the application that it belongs to."""
        if self.beside is None:
            return super().ownership_layers
        return [*self.beside.ownership_layers[:-1], self]


def sse_websocket(
    path: str | Sequence[str] | None = None,
    *,
    mode: Literal["text", "binary"] = "text",
    resume_timeout: float = 0,
    validate: bool | None = None,
    **options: Unpack[WebSocketOptions],
) -> Callable[[Callable[P, EventsT]], SSEWebSocketHandler[P, EventsT]]:
    """Makes a WebSocket handler of a generator function, as ``@sse`` makes an HTTP handler of it.

    Each event is a message: a JSON object with the fields that it has, of ``event``, ``id``, ``retry`` and ``data``.

    Args:
        path: The path, or paths.
        mode: Whether messages are text, or binary.
        resume_timeout: Seconds that the function waits for the client's first message, ``{"last_event_id": …}``, before
            it begins; without one in time the WebSocket is closed. 0 for not at all.
        validate: Whether to refuse what the annotation does not name; in debug mode unless given.
        **options: Those of streams, as of ``SafeServerSentEvent``, and those of Litestar's handlers.

    Returns:
        The decorator.

    Raises:
        InvalidFieldError: If an option is unknown or has a wrong value, or the function is no generator function.
    """
    check_path(path, "@sse_websocket")
    check_choice("mode", mode, ("text", "binary"))
    check_duration("resume_timeout", resume_timeout, zero=True)
    if validate not in (True, False, None):
        raise InvalidFieldError("validate", f"must be a bool, or None, not {validate!r}")
    names = tuple(options)
    stream_options = {name: value for name, value in options.items() if name in _OF_STREAMS}
    item_dto = options.pop("return_dto", Empty)
    handling = {name: value for name, value in options.items() if name not in _OF_STREAMS}
    check_functions(stream_options, "the connection")
    template = SafeServerSentEvent((), **stream_options)  # type: ignore[arg-type]

    def decorate(fn: Callable[P, EventsT]) -> SSEWebSocketHandler[P, EventsT]:
        check_names(names, _NAMES, "@sse_websocket", fn)
        check_generator(fn)
        endpoint = Endpoint(fn, template, binary=mode == "binary", resume_timeout=resume_timeout)
        endpoint.validate, endpoint.item_dto = validate, item_dto
        return endpoint.handler(path, handling)

    return decorate


_NAMES = (inspect.signature(sse_websocket).parameters.keys() - {"options"}) | WebSocketOptions.__annotations__.keys()


class Endpoint:
    """What the handlers of one function have in common.

    Args:
        fn: The generator function.
        template: A response with the options of the stream.
        binary: Whether messages are binary.
        resume_timeout: Seconds to wait for the first message; 0 for not at all.
    """

    validate: bool | None = None
    item_dto: Any = Empty

    def __init__(
        self, fn: Callable[..., Any], template: SafeServerSentEvent, *, binary: bool, resume_timeout: float
    ) -> None:
        self.fn = fn
        self.template = template
        self.binary = binary
        self.resume_timeout = resume_timeout
        self.streams: dict[str, TypedStream] = {}
        """What is known of each handler that was made of it, by its ID."""

    def __deepcopy__(self, memo: object) -> Endpoint:
        """Returns itself: Litestar copies the handlers of controllers and routers, but not their functions."""
        return self

    def handler(self, path: Any, options: Mapping[str, Any]) -> SSEWebSocketHandler[Any, Any]:
        """Makes a handler."""
        made: SSEWebSocketHandler[Any, Any] = handler_from(
            SSEWebSocketHandler, as_coroutine_function(self.fn, self.serve), path, **options
        )
        made.endpoint = self
        return made

    def describe(self, handler: SSEWebSocketHandler[Any, Any]) -> None:
        """Learns from the annotation what the events are, once a handler has been registered.

        Raises:
            InvalidFieldError: If the annotation does not fit to a stream.
        """
        returned = ParsedSignature.from_fn(self.fn, handler.resolve_signature_namespace()).return_type
        declared = Declared(returned.raw, str(handler))
        self.streams[handler.handler_id] = TypedStream(declared, dtos_for(handler, declared, self.item_dto))

    async def serve(self, socket: WebSocket[Any, Any, Any], begin: Callable[[], Any]) -> None:
        """Sends what the function yields; returns when the stream has ended and cleaned up.

        Args:
            socket: The WebSocket.
            begin: Makes the generator.
        """
        slot = Slot.of(socket.scope)
        assert isinstance(slot, WebSocketSlot)
        config = replace(slot.registry.config, **self.template.overrides)
        body = Opening(self, slot, begin)
        stream = slot.accept(socket.scope, body, self._encoder(socket, config), config)
        if config.expires_at is not None or config.reauthorize is not None:
            check_access(slot.registry, stream, socket)
        loop = slot.registry.loop_state()
        loop.expect_websocket()
        body.stream = stream
        body.transport = transport = WebSocketTransport(
            socket.scope, slot.channel, runtime=stream.runtime, limit=config.buffer_size, binary=self.binary
        )
        if self.resume_timeout:
            slot.channel.expect_first(6 * config.max_last_event_id + _ENVELOPE)
        retry = draw_retry(config) if self.template.retry_duration is None else None
        try:
            await stream.serve(transport, make_json_preamble(retry))
        except Exception as failure:  # which Litestar makes a close frame of, and servers never hear of
            loop.log.fail(stream, failure)
            raise

    def _encoder(self, socket: WebSocket[Any, Any, Any], config: SafeSSEConfig) -> Encoder:
        handler: SSEWebSocketHandler[Any, Any] = socket.scope["route_handler"]  # type: ignore[assignment]
        known = self.streams[handler.handler_id]
        transforms = known.transforms(socket)
        validate = socket.app.debug if self.validate is None else self.validate
        if transforms or known.encoder is None or known.encoder[0] != validate:
            made = make_encoder(
                config,
                handler.resolve_type_encoders(),
                TypedJSONLines,
                declared=known.declared,
                transforms=transforms,
                validate=validate,
                **self.template.defaults,
            )
            if transforms:  # they are made for the connection
                return made
            known.encoder = validate, made
        return known.encoder[1]


class Opening:
    """The body of a stream until it begins: called by the stream's own task, it waits for the first message."""

    stream: Stream
    transport: WebSocketTransport

    def __init__(self, endpoint: Endpoint, slot: WebSocketSlot, begin: Callable[[], Any]) -> None:
        self.endpoint = endpoint
        self.slot = slot
        self.begin = begin

    async def __call__(self) -> Any:
        """Returns the generator, or nothing where the client has not said what it had to."""
        if self.endpoint.resume_timeout:
            refusal = await self._resume()
            if refusal is not None:
                self.transport.refusal = refusal
                self.stream.close(CloseReason.CLOSED)
                return ()
        begun = self.begin()
        return await begun if inspect.isawaitable(begun) else begun  # by a decorator that awaits something first

    async def _resume(self) -> tuple[int, str] | None:
        """Reads the first message; returns why to close if it is none to resume by, or does not come in time."""
        with self.slot.registry.loop_state().wheel.move_on_after(self.endpoint.resume_timeout):
            try:
                first = decode(await self.slot.channel.first_message(), type=Resumption).last_event_id
                if first is not None:
                    limit = self.stream.config.max_last_event_id
                    first = decode_last_event_id(first.encode(), limit, "last_event_id")
            except MessageTooLargeError as error:
                return TOO_LARGE, str(error)
            except InvalidFieldError as error:
                return INVALID_MESSAGE, str(error)
            except (DecodeError, UnicodeError):
                return INVALID_MESSAGE, 'the first message must be {"last_event_id": …}, in JSON'
            if first is not None and self.slot.context is not None:
                self.slot.context._last_event_id = first
            return None
        return POLICY_VIOLATION, "the first message must tell what to resume after, and has not come in time"


def as_coroutine_function(fn: Callable[..., Any], serve: Callable[..., Any]) -> Callable[..., Any]:
    """Makes of a generator function what Litestar takes for the handler of a WebSocket, with the same parameters.

    Args:
        fn: The generator function.
        serve: Is called with the WebSocket, and with what makes the generator.
    """
    signature = _signature_of(fn)
    takes_socket = "socket" in signature.parameters

    @functools.wraps(fn)
    async def handle(*args: Any, socket: WebSocket[Any, Any, Any], **kwargs: Any) -> None:
        if takes_socket:
            kwargs["socket"] = socket
        await serve(socket, functools.partial(fn, *args, **kwargs))

    parameters = [*signature.parameters.values()]
    annotations = {**_annotations_of(fn), "return": None}
    if not takes_socket:
        parameters.append(inspect.Parameter("socket", inspect.Parameter.KEYWORD_ONLY, annotation=WebSocket))
        annotations["socket"] = WebSocket
    del handle.__wrapped__
    handle.__annotations__ = annotations
    handle.__signature__ = signature.replace(parameters=parameters, return_annotation=None)  # type: ignore[attr-defined]
    return handle


def _signature_of(fn: Callable[..., Any]) -> inspect.Signature:
    if sys.version_info >= (3, 14):
        import annotationlib

        return inspect.signature(fn, annotation_format=annotationlib.Format.FORWARDREF)
    return inspect.signature(fn)


def _annotations_of(fn: Any) -> dict[str, Any]:
    fn = inspect.unwrap(fn.func if isinstance(fn, functools.partial) else fn)
    if sys.version_info >= (3, 14):
        import annotationlib

        return dict(annotationlib.get_annotations(fn, format=annotationlib.Format.FORWARDREF))
    return dict(fn.__annotations__)


def register_websocket(handler: SSERouteHandler[Any, Any], registered: list[Any]) -> None:
    """Has the WebSocket registered that a handler of ``@sse`` has asked for: once, though it may have several paths.

    Args:
        handler: A registered handler.
        registered: What the application has been made with; Litestar is going through it.

    Raises:
        ImproperlyConfiguredException: If the application is there already.
    """
    path: str | None = handler.return_dto.websocket  # type: ignore[union-attr]
    if path is None or any(getattr(known, "beside", None) is handler for known in registered):
        return
    if hasattr(handler.app, "asgi_handler"):
        raise ImproperlyConfiguredException(
            f"{handler} has a WebSocket, so it must be among the route_handlers that Litestar(...) is made with; or "
            "register the function twice, by @sse and by @sse_websocket"
        )
    registered.append(handler_beside(handler, path))


def handler_beside(handler: SSERouteHandler[Any, Any], path: str) -> SSEWebSocketHandler[Any, Any]:
    """Makes the WebSocket handler of a handler of ``@sse``, with the same layers, guards and dependencies.

    Args:
        handler: A registered handler.
        path: The path of the WebSocket, below that of its router or controller.
    """
    answer: Any = handler.return_dto
    template = SafeServerSentEvent((), **{k: v for k, v in answer.options.items() if k in _OF_STREAMS})
    endpoint = Endpoint(handler.fn, template, binary=False, resume_timeout=0)
    endpoint.validate, endpoint.item_dto = answer.validate, answer.item_dto
    layers: Any = handler.ownership_layers[1:-1]
    whole = join_paths([*(layer.path for layer in layers), path])
    made = endpoint.handler(whole, {name: getattr(handler, name) for name in _OF_HANDLERS})
    made.beside = handler
    return made
