"""Scripts in Lua, known to Redis by their digests: https://redis.io/docs/latest/develop/programmability/eval-intro/."""

from __future__ import annotations

from hashlib import sha1
from typing import NamedTuple

__all__ = ("Script",)


class Script(NamedTuple):
    """A script.

    Attributes:
        text: Its text.
        digest: Its SHA-1, by which Redis knows it once it has been sent.
    """

    text: str
    digest: str

    @classmethod
    def of(cls, text: str) -> Script:
        """Returns the script of a text."""
        return cls(text, sha1(text.encode(), usedforsecurity=False).hexdigest())
