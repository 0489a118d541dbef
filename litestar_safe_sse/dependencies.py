"""What is injected into handlers: the context of the request's stream, and dependencies that live as long as it."""

from __future__ import annotations

import inspect
import warnings
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import parse_qsl

from litestar.di import Provide
from litestar.enums import ScopeType
from litestar.exceptions import ClientException, ImproperlyConfiguredException, WebSocketException
from litestar.utils.signature import ParsedSignature

from litestar_safe_sse._core.encoding import decode_last_event_id
from litestar_safe_sse._core.websocket import INVALID_MESSAGE
from litestar_safe_sse._litestar import dependencies_of, request_class_of, websocket_class_of
from litestar_safe_sse._slot import SLOT, Slot, WebSocketSlot
from litestar_safe_sse.context import Injected, StreamContext
from litestar_safe_sse.exceptions import (
    InvalidFieldError,
    MissingPluginError,
    OutsideRequestError,
    ShortLivedDependencyWarning,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from contextlib import AbstractContextManager

    from litestar.handlers import BaseRouteHandler
    from litestar.types import Scope
    from litestar.typing import FieldDefinition

    from litestar_safe_sse.config import SafeSSEConfig

    Manager = AbstractAsyncContextManager[Any] | AbstractContextManager[Any]

__all__ = ("KEY", "StreamProvide", "check_parameters", "provide_stream", "warn_of_short_lives")

QUERY = "last_event_id"
"""The query parameter that the client of a WebSocket resumes by, unless the configuration names one: pages can't set
its headers."""

KEY = "stream"
"""The name of the parameter that a stream's context is injected as."""


def provide_stream(scope: Scope) -> StreamContext:
    """Makes the context of the request's stream; the stream lives until the response has ended.

    Raises:
        OutsideRequestError: In the handler of a WebSocket.
        ClientException: If the client sent a ``Last-Event-ID`` that no event can have had.
        HTTPException: If the stream is refused.
    """
    if scope["type"] != ScopeType.HTTP:
        return provide_stream_of_websocket(scope)
    slot = Slot.of(scope)
    last_event_id = last_event_id_of(scope, slot.registry.config)
    request_class = request_class_of(scope)
    return StreamContext(slot.admit(scope), request_class(scope, slot.receiver.receive, slot.send), last_event_id)


def provide_stream_of_websocket(scope: Scope) -> StreamContext:
    """Makes the context of a WebSocket's stream.

    Raises:
        OutsideRequestError: If the handler has none.
        WebSocketException: If the client named an ID that no event can have had, or the stream is refused.
    """
    slot: Slot | None = scope["state"].get(SLOT)
    if not isinstance(slot, WebSocketSlot):
        raise OutsideRequestError(
            "a StreamContext belongs to a stream, which a handler of @websocket has none of; use @sse_websocket"
        )
    config = slot.registry.config
    try:
        last_event_id = last_event_id_of(
            scope, replace(config, last_event_id_query=config.last_event_id_query or QUERY)
        )
    except ClientException as error:
        raise WebSocketException(detail=error.detail, code=INVALID_MESSAGE) from error
    socket = websocket_class_of(scope)(scope, slot.channel.receive, slot.channel.send)
    slot.context = StreamContext(slot.admit(scope), socket, last_event_id)
    return slot.context


class StreamProvide(Provide):
    """Provides a dependency that lives as long as the stream of its request, in the place of Litestar's ``Provide``.

    Litestar closes a generator dependency when the handler has returned, which is before its stream begins. This one is
    opened by the task that will run the body, and closed after the body has ended, as what is entered by
    ``stream.enter_async_context`` is. It may depend on others, and on the ``stream``.

    Args:
        dependency: A generator function, async or sync, that yields once; or one that has been made a function by
            ``contextlib.asynccontextmanager`` or ``contextlib.contextmanager``.

    Raises:
        InvalidFieldError: If it is something else.
    """

    __slots__ = ("_open", "_signature")

    _signature: ParsedSignature

    def __init__(self, dependency: Callable[..., Any]) -> None:
        self._open = opener_of(dependency)
        super().__init__(_not_called)  # of a generator function, Litestar would close what it has made
        self.dependency = dependency

    def __deepcopy__(self, memo: object) -> StreamProvide:
        """Copies with a controller's handlers, but not what a method that it calls belongs to, as an engine."""
        return type(self)(self.dependency)

    @property
    def parsed_fn_signature(self) -> ParsedSignature:
        """What the dependency depends on, as Litestar has found out: the stream is always among it."""
        return self._signature

    @parsed_fn_signature.setter
    def parsed_fn_signature(  # pyright: ignore[reportIncompatibleVariableOverride]
        self, signature: ParsedSignature
    ) -> None:
        self._signature = replace(signature, parameters={**_stream_parameter(), **signature.parameters})

    async def __call__(self, **kwargs: Any) -> Any:
        """Opens the dependency for a stream; called by Litestar."""
        stream: StreamContext = kwargs[KEY]
        if KEY not in self._signature.original_signature.parameters:
            del kwargs[KEY]
        return await stream.enter_async_context(Opened(self._open(**kwargs), f"dependency {name_of(self.dependency)}"))


def name_of(dependency: object) -> str:
    """Returns what a dependency is called in messages."""
    return str(getattr(dependency, "__name__", type(dependency).__name__))


def opener_of(dependency: Any) -> Callable[..., Manager]:
    """Returns the function that makes a dependency's context manager.

    Raises:
        InvalidFieldError: If it is not made of a generator function.
    """
    for called in (dependency, getattr(type(dependency), "__call__", None)):  # noqa: B004
        if inspect.isasyncgenfunction(called):
            return asynccontextmanager(dependency)
        if inspect.isgeneratorfunction(called):
            return contextmanager(dependency)
    decorated = dependency.func if isinstance(dependency, partial) else dependency
    if callable(decorated) and is_generator_function(inspect.unwrap(decorated)):
        return cast("Callable[..., Manager]", dependency)
    raise InvalidFieldError(
        "dependency",
        "must be a generator function, or one decorated by contextlib.asynccontextmanager or "
        f"contextlib.contextmanager, not {dependency!r}; for what need not be closed, use Provide",
    )


def is_generator_function(function: object) -> bool:
    """Returns whether a function is a generator function, async or sync."""
    return inspect.isasyncgenfunction(function) or inspect.isgeneratorfunction(function)


async def _not_called() -> None: ...


class Opened(AbstractAsyncContextManager[Any]):
    """A context manager of either kind as an async one: both are entered, and left, by the owner of the stream.

    Args:
        manager: The context manager.
        name: What it is called where it fails.
    """

    def __init__(self, manager: Manager, name: str) -> None:
        self._manager = manager
        self.__qualname__ = name

    async def __aenter__(self) -> Any:
        if isinstance(self._manager, AbstractAsyncContextManager):
            return await self._manager.__aenter__()
        return self._manager.__enter__()

    async def __aexit__(self, *error: Any) -> bool | None:
        if isinstance(self._manager, AbstractAsyncContextManager):
            return await self._manager.__aexit__(*error)
        return self._manager.__exit__(*error)


def _stream_parameter() -> Mapping[str, FieldDefinition]:
    def ask(stream: Any) -> None: ...

    ask.__annotations__ = {KEY: StreamContext}
    return ParsedSignature.from_fn(ask, {}).parameters


def last_event_id_of(scope: Scope, config: SafeSSEConfig) -> str | None:
    """Reads what a client resumes after: the header (WHATWG HTML, section 9.2.4), or else the query parameter for it.

    The header comes first: it grows with each reconnection, while the address stays what it was.

    Args:
        scope: The ASGI scope of the request.
        config: The settings of the application.

    Raises:
        ClientException: If no event can have had that ID.
    """
    try:
        for name, value in scope["headers"]:
            if name == b"last-event-id":
                return decode_last_event_id(value, config.max_last_event_id)
        if config.last_event_id_query is not None:
            return last_event_id_in_query(scope["query_string"], config.last_event_id_query, config.max_last_event_id)
    except InvalidFieldError as error:
        raise ClientException(str(error)) from error
    return None


def last_event_id_in_query(query: bytes, name: str, max_length: int) -> str | None:
    """Reads a query parameter that stands for the header; an empty one, as a template leaves it, stands for none.

    Args:
        query: The query string.
        name: The parameter's name.
        max_length: The most bytes that the ID may have.

    Raises:
        InvalidFieldError: If no event can have had that ID.
    """
    # As Latin-1, in which each byte is a character: what they mean together is for the decoder to say.
    wanted = name.encode().decode("latin-1")
    for key, value in parse_qsl(query.decode("latin-1"), encoding="latin-1"):
        if key == wanted:
            return decode_last_event_id(value.encode("latin-1"), max_length, f"query parameter {name}")
    return None


def check_parameters(handler: BaseRouteHandler) -> None:
    """Refuses parameters, of a handler or of its dependencies, that are not given what they are annotated with.

    Raises:
        ImproperlyConfiguredException: If one would be given a ``StreamContext``, and is something else.
        MissingPluginError: If one is to be a ``StreamContext``, and would not be given one.
    """
    providers = dependencies_of(handler)
    is_provided = KEY in providers and providers[KEY].dependency is provide_stream
    takers: tuple[BaseRouteHandler | Provide, ...] = (handler, *providers.values())
    for taker in takers:
        for name, field in taker.parsed_fn_signature.parameters.items():
            if name == KEY and is_provided and not admits_context(field):
                raise ImproperlyConfiguredException(
                    f"the parameter {KEY!r} of {handler}, or of a dependency of it, would be given a StreamContext; "
                    "rename the parameter (a query parameter can keep its name on the wire, as an alias)"
                )
            if name not in providers and is_context(field):
                raise MissingPluginError(
                    f"the parameter {name!r} of {handler}, or of a dependency of it, must be called {KEY!r}, the name "
                    "under which SafeSSEPlugin provides a StreamContext"
                )


def warn_of_short_lives(handler: BaseRouteHandler) -> None:
    """Warns of each dependency of a streaming handler that is closed before the stream begins."""
    providers = dependencies_of(handler)
    for name in reached_from(handler, providers):
        remedy = remedy_for(providers[name])
        if remedy is not None:
            warnings.warn(
                f"the dependency {name!r} of {handler} is closed before its stream begins; for one that lives as long "
                f"as the stream, give {name!r}: {remedy} to the `dependencies` of the handler, or of a layer, or open "
                "it in the body",
                ShortLivedDependencyWarning,
                stacklevel=2,
            )


def reached_from(handler: BaseRouteHandler, providers: Mapping[str, Provide]) -> Iterator[str]:
    """Yields the names of all dependencies of a handler, those of its dependencies among them."""
    found: dict[str, None] = {}
    waiting = [handler.parsed_fn_signature]
    while waiting:
        for name in waiting.pop().parameters:
            if name in providers and name not in found:
                found[name] = None
                waiting.append(providers[name].parsed_fn_signature)
    yield from found


def remedy_for(provider: Provide) -> str | None:
    """Returns what is to be written in the place of a provider, or ``None`` if what it provides may live on."""
    dependency = provider.dependency
    name = name_of(dependency)
    if provider.has_async_generator_dependency or provider.has_sync_generator_dependency:
        return f"StreamProvide({name})"
    # advanced-alchemy's is no generator, and its plugin closes it when the headers are sent.
    owner = type(getattr(dependency, "__self__", None))
    if name == "provide_session" and owner.__module__.partition(".")[0] == "advanced_alchemy":
        return "StreamProvide(config.get_session)"
    return None


def admits_context(field: FieldDefinition) -> bool:
    """Returns whether an annotation allows a ``StreamContext``."""
    if field.is_union:
        return any(admits_context(inner) for inner in field.inner_types)
    return field.is_any or (isinstance(field.annotation, type) and issubclass(StreamContext, field.annotation))


def is_context(field: FieldDefinition) -> bool:
    """Returns whether an annotation says that a parameter is a ``StreamContext``, or may be one."""
    return field.is_subclass_of(Injected) or (field.is_union and field.has_inner_subclass_of(Injected))
