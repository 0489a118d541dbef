"""Scripts in Lua, known to Redis by their digests: https://redis.io/docs/latest/develop/programmability/eval-intro/."""

from __future__ import annotations

from hashlib import sha1
from typing import NamedTuple

from litestar_safe_sse.sources.redis._commands import Framed, frame

__all__ = ("Script",)


class Script(NamedTuple):
    """A script.

    Attributes:
        text: Its text.
        digest: Its SHA-1, by which Redis knows it once it has been sent.
        call: What runs it then, but for its arguments.
    """

    text: str
    digest: str
    call: Framed

    @classmethod
    def of(cls, text: str) -> Script:
        """Returns the script of a text."""
        digest = sha1(text.encode(), usedforsecurity=False).hexdigest()
        return cls(text, digest, frame("EVALSHA", digest))
