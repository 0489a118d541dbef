"""What a response can be made of, for type checkers: nearly anything but ``None``, which they have no name for."""

from __future__ import annotations

from collections.abc import AsyncIterable, Awaitable, Callable, Iterable
from datetime import date, time, timedelta
from decimal import Decimal
from enum import Enum
from typing import Any, ClassVar, Protocol
from uuid import UUID

from msgspec import Struct

__all__ = ("Content",)


class AsyncSource(Protocol):
    """An async iterator that is no iterable."""

    def __anext__(self) -> Awaitable[Any]: ...


class Dataclass(Protocol):
    """An instance of a dataclass."""

    __dataclass_fields__: ClassVar[dict[str, Any]]


class Attrs(Protocol):
    """An instance of an attrs class."""

    __attrs_attrs__: ClassVar[Any]


Source = AsyncIterable[Any] | AsyncSource | Iterable[Any] | Callable[[], Any]
"""A body, or what makes one. Texts, mappings and pydantic's models are iterable too, and are single items."""

Item = Struct | Dataclass | Attrs | int | float | Decimal | UUID | date | time | timedelta | Enum

Content = Source | Item
"""An object of another class, for which there are type encoders, goes into a list."""
