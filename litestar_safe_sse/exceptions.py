"""The errors this package raises, every one an ``SSEError``, and its warnings."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = (
    "CleanupError",
    "InvalidFieldError",
    "MissingExtraError",
    "MissingPluginError",
    "OutsideRequestError",
    "SSEError",
    "ShortLivedDependencyWarning",
    "SourceRefusedError",
    "SourceUnavailableError",
    "StreamClosedError",
    "TopicFinishedError",
    "UndeclaredEventError",
)


class SSEError(Exception):
    """Base of every error raised by this package."""


class InvalidFieldError(SSEError, ValueError):
    """A value that its field cannot carry; nothing of the event or setting it belongs to has been used.

    Attributes:
        field: The name of the field or setting.
        reason: What the value must be, and what it is instead.
    """

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(field, reason)
        self.field = field
        self.reason = reason

    def __str__(self) -> str:
        return f"invalid {self.field}: {self.reason}"


class StreamClosedError(SSEError, RuntimeError):
    """Something was asked of a stream that has ended."""


class UndeclaredEventError(SSEError, TypeError):
    """A handler has yielded something whose type its return annotation does not name.

    Attributes:
        kind: The type of what was yielded.
    """

    def __init__(self, kind: type, where: str, declared: Sequence[type]) -> None:
        super().__init__(kind, where, declared)
        self.kind = kind
        self._where = where
        self._declared = declared

    def __str__(self) -> str:
        named = ", ".join(kind.__qualname__ for kind in self._declared) or "other types"
        return (
            f"{self._where} yielded a {self.kind.__qualname__}, but its return annotation names {named}; yield one of "
            "them, add the type to the annotation, or switch this off by validate=False"
        )


class CleanupError(SSEError):
    """Cleanups of one stream that failed; those that succeeded had their turn all the same.

    Args:
        failures: The name of each failed cleanup with its exception, in the order they failed.

    Attributes:
        exceptions: Every failure, in the order they failed.
    """

    def __init__(self, failures: Sequence[tuple[str, BaseException]]) -> None:
        self.failures = tuple(failures)
        super().__init__(self.failures)

    @property
    def exceptions(self) -> tuple[BaseException, ...]:
        return tuple(exception for _, exception in self.failures)

    def __str__(self) -> str:
        count = "1 cleanup" if len(self.failures) == 1 else f"{len(self.failures)} cleanups"
        return f"{count} failed: " + "; ".join(f"{name}: {exception!r}" for name, exception in self.failures)


class MissingPluginError(SSEError, RuntimeError):
    """The application has no ``SafeSSEPlugin``, or asks for what it provides under another name."""


class OutsideRequestError(SSEError, RuntimeError):
    """Something that belongs to a request was asked for where there is none."""


class ShortLivedDependencyWarning(UserWarning):
    """A handler that streams has a dependency that is closed before its stream begins."""


class SourceRefusedError(SSEError):
    """A source was refused what it asked for, and would be again: a key of another type, a missing permission."""


class TopicFinishedError(SourceRefusedError):
    """Something was to be appended to a topic of an event log that is finished."""


class SourceUnavailableError(SSEError):
    """A source cannot be reached at the moment; what was asked of it may work later."""


class MissingExtraError(SSEError, ImportError):
    """Something needs a library that is not installed; the message says what to install."""
