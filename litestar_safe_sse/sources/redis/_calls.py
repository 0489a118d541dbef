"""What is sent for somebody, and how its replies reach who waits for them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from litestar_safe_sse.sources._answers import copy_of, fail
from litestar_safe_sse.sources.redis._commands import pack
from litestar_safe_sse.sources.redis._errors import translate

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Sequence

    from litestar_safe_sse.sources.redis._commands import Argument
    from litestar_safe_sse.sources.redis._errors import Failure
    from litestar_safe_sse.sources.redis._scripts import Script

__all__ = ("Call", "first_error")


class Call(NamedTuple):
    """Commands that somebody waits for.

    Attributes:
        packed: The commands, as they are sent.
        reply: The last one's reply, or those of all.
        deadline: By when it has to be there, by the loop's clock.
        each: Whether it is those of all.
        script: The script that it runs by its digest; ``None`` if it runs none, or one that is sent whole.
        arguments: Those of the script.
        is_again: Whether it has been sent before, to a server that had forgotten the script.
    """

    packed: list[bytes]
    reply: asyncio.Future[Any]
    deadline: float
    each: bool = False
    script: Script | None = None
    arguments: Sequence[Argument] = ()
    is_again: bool = False

    def with_whole(self, script: Script) -> Call:
        """Returns the same call with its script sent whole, and kept by the server from then on."""
        return self._replace(packed=[pack(("EVAL", script.text, *self.arguments))], script=None)

    def answer(self, replies: Sequence[Any], error: Exception | None) -> None:
        """Gives the caller what is for it.

        Args:
            replies: The reply to each command.
            error: The first of them that is an error of Redis.
        """
        if self.each and not self.reply.done():
            self.reply.set_result([_read(reply) for reply in replies])
        elif error is not None:
            fail(self.reply, _read(error))
        elif not self.reply.done():
            self.reply.set_result(replies[-1])

    def fail(self, error: Failure) -> None:
        """Gives the caller an error of its own."""
        fail(self.reply, copy_of(error))


def first_error(replies: Sequence[Any]) -> Exception | None:
    """Returns the first reply that is an error of Redis."""
    for reply in replies:
        if isinstance(reply, Exception):
            return reply
    return None


def _read(reply: Any) -> Any:
    """Returns a reply as it is, or the error of ours that it is."""
    if not isinstance(reply, Exception):
        return reply
    error = translate(reply)
    error.__cause__ = reply
    return error
