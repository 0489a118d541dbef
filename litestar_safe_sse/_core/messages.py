"""The event a body yields when it wants more than data.

Field names and their limits are those of https://html.spec.whatwg.org/multipage/server-sent-events.html.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic

from msgspec import UNSET, Struct
from msgspec.structs import force_setattr

from litestar_safe_sse.config import check_integer, check_text
from litestar_safe_sse.exceptions import InvalidFieldError

__all__ = ("SOURCE_EVENTS", "SSEMessage", "check_event_type", "tag_of")

SOURCE_EVENTS = frozenset({"reset", "dropped", "subscribed", "finished", "caught-up", "gap"})
"""The types of the events that sources send of their own accord."""

_FEW_DIGITS = 1 << 64
"""No int below has too many digits to be printed."""


if TYPE_CHECKING:
    from msgspec import UnsetType
    from typing_extensions import TypeVar

    DataT = TypeVar("DataT", default=Any, covariant=True)
else:
    from typing import TypeVar

    DataT = TypeVar("DataT")


class SSEMessage(Struct, Generic[DataT], frozen=True, repr_omit_defaults=True):
    r"""One block of an event stream: an event, or a comment, an id or a retry on its own.

    The fields are checked when a message is made, except for ``data``, which is checked when it is encoded.
    Nothing is stripped: that would make one ID of two.

    It is generic over its data, for return annotations: ``AsyncIterator[SSEMessage[Progress]]``.

    Args:
        data: What the event carries. Text (``str``, or bytes that hold UTF-8) is sent as it is, on as many
            lines as it has; anything else as JSON, so that ``None`` is ``null``. Left out (``msgspec.UNSET``),
            there is no data, and clients dispatch nothing.
        event: The event type, on one line; ``""`` is the client's default, ``message``. Given without data, the
            event carries the empty string.
        id: The client's new last event ID, on one line and without NUL; ``""`` resets it.
        retry: The client's new reconnection time, in milliseconds. From 2**31 on, about 25 days, the timers of
            some clients overflow, and they reconnect at once.
        comment: Text that clients ignore.

    Raises:
        InvalidFieldError: A field cannot carry its value, or every field was left out.
    """

    data: DataT = UNSET  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
    event: str | None = None
    id: str | int | None = None
    retry: int | None = None
    comment: str | None = None

    if TYPE_CHECKING:  # for whom a message without data is one of any data

        def __init__(
            self,
            data: DataT | UnsetType = ...,
            event: str | None = ...,
            id: str | int | None = ...,
            retry: int | None = ...,
            comment: str | None = ...,
        ) -> None: ...

    def __post_init__(self) -> None:
        event, id = self.event, self.id
        # Most are plain, which is soon seen: what is printable has no line break, no NUL and no lone surrogate.
        if event is not None and not (type(event) is str and event.isprintable()):
            force_setattr(self, "event", _line("event", event))
        if id is not None and not (type(id) is int and -_FEW_DIGITS < id < _FEW_DIGITS):
            force_setattr(self, "id", _event_id(id))
        if self.retry is not None:
            check_integer("retry", self.retry, minimum=0)
            force_setattr(self, "retry", int(self.retry))
        if self.comment is not None:
            force_setattr(self, "comment", check_text("comment", self.comment))
        elif self.data is UNSET and self.event is None and self.id is None and self.retry is None:
            raise InvalidFieldError("data", "must be given where event, id, retry and comment are not")


def check_event_type(field: str, value: object) -> str:
    """Returns the type of an event as a plain ``str``.

    Raises:
        InvalidFieldError: It has more than one line, or cannot be encoded.
    """
    return _line(field, value)


def tag_of(kind: type) -> str | None:
    """Returns the tag of a ``Struct``, by which its events are named.

    Raises:
        InvalidFieldError: It has more than one line, or cannot be encoded.
    """
    if not issubclass(kind, Struct) or kind.__struct_config__.tag is None:
        return None
    tag = str(kind.__struct_config__.tag)
    return tag if tag.isprintable() else _line("event", tag)  # as most are, see above


def _line(field: str, value: object) -> str:
    text = check_text(field, value)
    if "\n" in text or "\r" in text:
        raise InvalidFieldError(field, "must be one line: what comes after a line break would be read as other fields")
    return text


def _event_id(value: object) -> str | int:
    if isinstance(value, int) and not isinstance(value, bool):
        try:
            str(int(value))
        except ValueError as error:  # past Python's limit of digits
            raise InvalidFieldError("id", f"must be a str if it has so many digits ({error})") from error
        return int(value)
    if not isinstance(value, str):
        raise InvalidFieldError("id", f"must be a str, an int or None, not {type(value).__name__} {value!r:.40}")
    text = _line("id", value)
    if "\0" in text:  # 9.2.6: the field is ignored, so the client would resume from an older event
        raise InvalidFieldError("id", "must be without NUL, for which clients ignore the id")
    return text
