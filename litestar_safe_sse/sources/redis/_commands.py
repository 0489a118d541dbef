"""Commands as they are sent: https://redis.io/docs/latest/develop/reference/protocol-spec/."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from litestar_safe_sse.config import check_text
from litestar_safe_sse.exceptions import InvalidFieldError

__all__ = ("Argument", "Command", "Framed", "check_can_share", "frame", "pack", "plain")


class Framed(NamedTuple):
    """Arguments that many commands have in common.

    Attributes:
        arguments: Each of them.
        data: What is sent for them.
    """

    arguments: tuple[bytes, ...]
    data: bytes


Argument = str | bytes | float | Framed
Command = tuple[Argument, ...]

_NOT_SHARED = frozenset(
    b"AUTH CLIENT|REPLY HELLO MONITOR MULTI PSUBSCRIBE PSYNC PUNSUBSCRIBE QUIT RESET SELECT SSUBSCRIBE SUBSCRIBE "
    b"SUNSUBSCRIBE SYNC UNSUBSCRIBE WATCH".split()
)
"""Commands that are answered more than once, or not at all, or change what others get on the same connection."""

_SIZES = [b"$%d\r\n" % size for size in range(256)]
"""What stands before an argument that is short."""


def pack(command: Command) -> bytes:
    """Returns a command as it is sent.

    Raises:
        InvalidFieldError: An argument is nothing that Redis can be sent, or there is none.
    """
    if not command:
        raise InvalidFieldError("command", "must have a name; Redis does not answer to nothing")
    count, parts = len(command), [b""]
    for argument in command:
        if type(argument) is Framed:
            count += len(argument.arguments) - 1
            parts.append(argument.data)
            continue
        data = argument if type(argument) is bytes else _to_bytes(argument)
        size = len(data)
        parts += _SIZES[size] if size < len(_SIZES) else b"$%d\r\n" % size, data, b"\r\n"
    parts[0] = b"*%d\r\n" % count
    return b"".join(parts)


def frame(*arguments: str | bytes | float) -> Framed:
    """Returns arguments that are to be sent often.

    Raises:
        InvalidFieldError: One of them is nothing that Redis can be sent.
    """
    return Framed(tuple(map(_to_bytes, arguments)), pack(arguments).partition(b"\r\n")[2])


def check_can_share(command: Command) -> None:
    """Checks that a command may be sent on a connection that others use too.

    Raises:
        InvalidFieldError: It may not.
    """
    words = [word.encode() if isinstance(word, str) else word for word in command[:2] if isinstance(word, (str, bytes))]
    name = b"|".join(words).upper()
    if not _NOT_SHARED.isdisjoint((name, name.partition(b"|")[0])):
        raise InvalidFieldError(
            "command", f"must be one that others notice nothing of, not {name.decode()}: use the plugin's client for it"
        )


def plain(arguments: Iterable[Argument]) -> Iterator[str | bytes | float]:
    """Yields each argument by itself, as redis-py takes them."""
    for argument in arguments:
        if isinstance(argument, Framed):
            yield from argument.arguments
        else:
            yield argument


def _to_bytes(argument: object) -> bytes:
    if isinstance(argument, str):
        return check_text("command", argument).encode()
    if isinstance(argument, (int, float)) and not isinstance(argument, bool):
        return repr(argument).encode()
    if isinstance(argument, (bytes, bytearray, memoryview)):
        return bytes(argument)
    raise InvalidFieldError("command", f"must be of str, bytes, int and float, not {type(argument).__name__}")
