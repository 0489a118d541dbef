"""The encoder of events that a handler's return annotation names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from msgspec import UNSET

from litestar_safe_sse._core.encoding import Encoder, as_text, is_text
from litestar_safe_sse._core.messages import SOURCE_EVENTS, SSEMessage, tag_of
from litestar_safe_sse.exceptions import UndeclaredEventError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from litestar_safe_sse._core.heads import BytesHead
    from litestar_safe_sse._events import Declared, EventType

    Transforms = Mapping[type, Callable[[Any], Any]]

__all__ = ("TypedEncoder",)

_TYPES = 64
"""Types of items that are remembered beside those that were declared."""


class _Text:
    """The type of no item: each text is looked at."""


class TypedEncoder(Encoder):
    """Turns items into events whose type on the wire is that of their type in Python.

    What was declared is looked up once, when the encoder is made; after that an event costs what it costs elsewhere.

    Args:
        declared: What the annotation names.
        validate: Whether to refuse what it does not name.
        transforms: What makes of the items of a type what is to be sent.
        **options: Those of :class:`Encoder`.
    """

    __slots__ = ("_carried", "_declared", "_heads", "_names", "_transforms", "_validate")

    def __init__(self, declared: Declared, *, validate: bool, transforms: Transforms, **options: Any) -> None:
        super().__init__(**options)
        del self._converters[dict]  # which is data here, and not the fields of a message
        self._declared = declared
        self._validate = validate
        self._transforms = transforms
        self._heads: dict[str | None, BytesHead] = {}
        self._names: dict[type, str | None] = {}
        self._carried: dict[type, str | None] = {}
        """The same for what messages carry."""
        if str in transforms or (validate and not declared.anything):
            self.text_type = _Text
        for event in declared.items:
            self._learn(event.kind, event.name)

    def encode(self, item: object) -> bytes:
        """Returns the block for an item.

        Raises:
            InvalidFieldError: The item cannot be sent.
            UndeclaredEventError: The annotation does not name its type.
        """
        latest, block = self._latest
        if item is latest:
            return block
        kind = type(item)
        if kind in self._names:
            return self._event_of(item, self._names[kind])
        if self._converter_of(kind) is not None:
            return self._encode_message(item)
        return self._event_of(
            item, self._learn(kind, self._name_for(kind, self._declared.items, self._declared.anything))
        )

    def resolve(self, item: object) -> SSEMessage | bytes:
        """Returns a message with the type of its data, and of anything else the block.

        Raises:
            InvalidFieldError: The item cannot be sent.
            UndeclaredEventError: The annotation does not name its type.
        """
        if type(item) is not SSEMessage or SSEMessage in self._names:
            return self.encode(item)
        self._check_message(item)
        return self._named(item)

    def _event_of(self, item: Any, name: str | None) -> bytes:
        transform = self._transforms.get(type(item))
        text = as_text(item if transform is None else transform(item), self._json)
        return self.block(text, name)

    def _learn(self, kind: type, name: str | None) -> str | None:
        """Remembers the name of a type's events."""
        if len(self._names) < _TYPES:
            self._names[kind] = name
            head = self._heads.get(name)
            if head is None:
                head = self._heads[name] = self.head(name)
            if kind is str:
                self.text_type = str if name is None and kind not in self._transforms else _Text
            elif not is_text(kind) and kind not in self._transforms:
                self.json_types[kind] = head
        return name

    def _name_for(self, kind: type, declared: list[EventType], open_to_all: bool) -> str | None:
        """Returns the name of what was not declared by its very class.

        Raises:
            UndeclaredEventError: If it was not declared by a base of it either.
        """
        kinds = (kind, float) if issubclass(kind, int) else (kind,)  # as type checkers have it: every int is a float
        found = next((event for each in kinds for event in declared if issubclass(each, event.kind)), None)
        if found is None:
            if self._validate and not open_to_all:
                raise UndeclaredEventError(kind, self._declared.where, [event.kind for event in declared])
            return tag_of(kind)
        return tag_of(kind) if found.name == tag_of(found.kind) else found.name

    def _encode_message(self, item: object) -> bytes:
        self._check_message(item)
        if type(item) is not SSEMessage:
            return super().encode(item)
        named = self._named(item)
        block = super().encode(named)
        if named is not item and self._latest[0] is named:  # it was small enough to be kept
            self._latest = item, block
        return block

    def _check_message(self, item: object) -> None:
        if not self._validate or self._declared.anything or isinstance(item, tuple(self._declared.messages)):
            return
        if type(item) is SSEMessage:
            is_event = item.data is not UNSET or item.event is not None  # or clients see nothing of it
            if not is_event or self._is_from_source(item):
                return
        raise UndeclaredEventError(type(item), self._declared.where, [event.kind for event in self._declared.items])

    def _is_from_source(self, message: SSEMessage) -> bool:
        """Returns whether a message may be one of a source: its own, or JSON of what was declared by its name."""
        if not self._validate or message.event is None:
            return False
        declared = is_text(type(message.data)) and any(
            event.name == message.event for event in (*self._declared.items, *self._declared.data)
        )
        return declared or message.event in SOURCE_EVENTS

    def _named(self, message: SSEMessage) -> SSEMessage:
        """Returns a message with the type that is that of its data, unless it has one of its own."""
        data = message.data
        if data is UNSET:
            return message
        kind = type(data)
        if kind not in self._carried:
            if self._is_from_source(message):
                return message
            declared = self._declared
            known = [*declared.data, *declared.items] if declared.any_data else declared.data
            name = self._name_for(kind, known, declared.any_data)
            if len(self._carried) < _TYPES:
                self._carried[kind] = name
        else:
            name = self._carried[kind]
        transform = self._transforms.get(kind)
        if transform is not None:
            data = transform(data)
        elif name is None or message.event is not None:
            return message
        event = name if message.event is None else message.event
        return SSEMessage(data, event, message.id, message.retry, message.comment)
