"""Which events a handler's return annotation names: their Python types, and their types on the wire."""

from __future__ import annotations

import collections.abc
import types
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, TypeVar, Union, get_args, get_origin

from litestar.response.sse import ServerSentEventMessage
from msgspec import Struct
from msgspec.structs import force_setattr

from litestar_safe_sse._core.frame import Frame
from litestar_safe_sse._core.messages import SSEMessage, check_event_type, tag_of
from litestar_safe_sse._frames import find_converter
from litestar_safe_sse.exceptions import InvalidFieldError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ("Declared", "Event", "EventType")

DEFAULT = "message"
"""The type that clients give to events without one (WHATWG HTML, section 9.2.6)."""

_ITERABLES = (
    collections.abc.AsyncIterator,
    collections.abc.AsyncGenerator,
    collections.abc.AsyncIterable,
    collections.abc.Iterator,
    collections.abc.Generator,
    collections.abc.Iterable,
)


class Event(Struct, frozen=True):
    """Names the type of the events that items of a Python type become: ``Annotated[Progress, Event("progress")]``.

    A ``msgspec.Struct`` with a tag needs none: its tag is the type.

    Args:
        name: What clients listen for, on one line.

    Raises:
        InvalidFieldError: If it cannot be sent, or is empty.
    """

    name: str

    def __post_init__(self) -> None:
        name = check_event_type("name", self.name)
        if not name:
            raise InvalidFieldError("name", "must be the type of an event, not the empty string")
        force_setattr(self, "name", name)  # a member of a str Enum prints as its name


class EventType(NamedTuple):
    """A type that an annotation names."""

    annotation: Any
    """As it was annotated, without the name."""
    kind: type
    """The class of its items."""
    name: str | None
    """The type of its events on the wire; clients take those without one for ``message``."""


class Declared:
    """What the return annotation of a handler names.

    Args:
        annotation: The annotation, with its forward references resolved.
        where: What to call it in an error.

    Attributes:
        where: What to call it in an error.
        items: The types that may be yielded as they are.
        data: The types that an ``SSEMessage`` may carry.
        messages: The classes that speak for themselves, such as ``SSEMessage`` and ``Frame``.
        anything: Whether every item may be yielded.
        any_data: Whether an ``SSEMessage`` may carry everything.

    Raises:
        InvalidFieldError: If it is no annotation of a generator, or its events could not be told apart.
    """

    def __init__(self, annotation: Any, where: str) -> None:
        self.where = where
        self.items: list[EventType] = []
        self.data: list[EventType] = []
        self.messages: list[type] = []
        self.anything = self.any_data = False
        for member, name in self._members(self._item(annotation), None):
            self._declare(member, name)
        self._check()

    def _refusal(self, reason: str) -> InvalidFieldError:
        return InvalidFieldError(f"return annotation of {self.where}", reason)

    def _item(self, annotation: Any) -> Any:
        if get_origin(annotation) is None:  # of an alias with arguments Litestar can make no response
            annotation = opened(annotation)
        origin = get_origin(annotation) or annotation
        if origin not in _ITERABLES:
            raise self._refusal(f"must be AsyncIterator[...] or Iterator[...], not {annotation!r}")
        return (get_args(annotation) or (Any,))[0]

    def _members(self, annotation: Any, name: str | None) -> Iterator[tuple[Any, str | None]]:
        """Takes an annotation apart: unions, aliases, and the names that members have been given."""
        annotation = opened(annotation)
        origin = get_origin(annotation)
        if origin is Annotated:
            inner, *metadata = get_args(annotation)
            yield from self._members(inner, self._named(metadata, name))
        elif origin in (Union, types.UnionType):
            for member in get_args(annotation):
                yield from self._members(member, name)
        elif hasattr(annotation, "__supertype__"):  # a NewType
            yield from self._members(annotation.__supertype__, name)
        elif isinstance(annotation, TypeVar):
            yield from self._members(annotation.__bound__ or Any, name)
        else:
            yield annotation, name

    def _named(self, metadata: list[Any], outer: str | None) -> str | None:
        names = {given.name for given in metadata if isinstance(given, Event)} | ({outer} - {None})
        if len(names) > 1:
            raise self._refusal(f"must give a type one name, not {' and '.join(map(repr, sorted(map(str, names))))}")
        return next(iter(names), None)

    def _declare(self, annotation: Any, name: str | None) -> None:
        origin = get_origin(annotation) or annotation
        if annotation in (Any, object):
            self.anything = self.any_data = True
        elif annotation in (None, type(None)):
            raise self._refusal("must be without None: it is no event; yield nothing, or a message with a comment")
        elif isinstance(origin, type) and _is_message(origin):
            self._declare_message(origin, get_args(annotation), name)
        else:
            self.items += self._event_types(annotation, name)

    def _declare_message(self, kind: type, carried: tuple[Any, ...], name: str | None) -> None:
        self.messages.append(kind)
        if not issubclass(kind, SSEMessage):
            return
        if not carried:
            self.any_data = True
        for data in carried:
            for member, inner in self._members(data, name):
                if member in (Any, object):
                    self.any_data = True
                else:
                    self.data += self._event_types(member, inner)

    def _event_types(self, annotation: Any, name: str | None) -> Iterator[EventType]:
        origin = get_origin(annotation) or annotation
        if origin is Literal:
            kinds = list(dict.fromkeys(type(value) for value in get_args(annotation)))
        elif hasattr(origin, "__required_keys__"):  # a TypedDict, of typing or of typing_extensions
            kinds = [dict]
        elif isinstance(origin, type):
            kinds = [origin]
        else:
            raise self._refusal(f"must name types, not {annotation!r}")
        for kind in kinds:
            self._check_kind(kind)
            yield EventType(annotation, kind, name or self._tag_of(kind))

    def _check_kind(self, kind: type) -> None:
        """Refuses what no item can be looked at for; such are most protocols."""
        try:
            issubclass(object, kind)
        except TypeError as error:
            raise self._refusal(
                f"must name types that issubclass() takes, not {kind.__qualname__} ({error}); name the classes of the "
                "items, or Any"
            ) from error

    def _tag_of(self, kind: type) -> str | None:
        try:
            return tag_of(kind)
        except InvalidFieldError as error:
            raise self._refusal(
                f"must name types whose tag can be that of an event; the tag of {kind.__qualname__} {error.reason}"
            ) from error

    def _check(self) -> None:
        """Refuses events that a client, or this side, could not tell apart."""
        kinds: dict[type, str | None] = {}
        names: dict[str, type] = {}
        for event in (*self.items, *self.data):
            if kinds.setdefault(event.kind, event.name) != event.name:
                told = " and ".join(f"{name!r}" if name else "no name" for name in (kinds[event.kind], event.name))
                raise self._refusal(
                    f"must give all items of the class {event.kind.__qualname__} one name, not {told}, since they "
                    "could not be told apart; make classes of them, such as a Struct each"
                )
            if event.name and names.setdefault(event.name, event.kind) is not event.kind:
                raise self._refusal(
                    f"must give the name {event.name!r} to one type, not to {names[event.name].__qualname__} and "
                    f"{event.kind.__qualname__}"
                )
        if DEFAULT in names and None in kinds.values():
            raise self._refusal(f"must not use the name {DEFAULT!r} beside events without a name, whose type it is")


def opened(annotation: Any) -> Any:
    """Returns what an annotation stands for that a ``type`` statement has made, its parameters filled in."""
    while hasattr(annotation, "__value__"):
        alias = get_origin(annotation) or annotation
        given = dict(zip(getattr(alias, "__type_params__", ()), get_args(annotation), strict=False))
        annotation = filled(alias.__value__, given)
    return annotation


def filled(annotation: Any, given: Mapping[Any, Any]) -> Any:
    """Returns an annotation with its type variables replaced."""
    if isinstance(annotation, TypeVar):
        return given.get(annotation, annotation)
    parameters = getattr(annotation, "__parameters__", ()) if given and get_origin(annotation) is not None else ()
    return annotation[tuple(given.get(each, each) for each in parameters)] if parameters else annotation


def _is_message(kind: type) -> bool:
    return issubclass(kind, (SSEMessage, ServerSentEventMessage, Frame)) or find_converter(kind) is not None
