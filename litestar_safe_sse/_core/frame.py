"""A ready block that some other encoder made, sent as it is once it has been checked.

Sections cited are those of https://html.spec.whatwg.org/multipage/server-sent-events.html.
"""

from __future__ import annotations

from msgspec import Struct
from msgspec.structs import force_setattr

from litestar_safe_sse.config import check_text
from litestar_safe_sse.exceptions import InvalidFieldError

__all__ = ("Frame",)

_BOM = b"\xef\xbb\xbf"


class Frame(Struct, frozen=True):
    """One block of an event stream, or several, as another library has encoded them; sent as it is.

    Args:
        block: Whole blocks, each ended by an empty line; text, or bytes that hold UTF-8. It is bytes afterwards.

    Raises:
        InvalidFieldError: If clients would take it for something else than whole blocks.
    """

    block: str | bytes

    def __post_init__(self) -> None:
        force_setattr(self, "block", check_block(self.block))


def check_block(value: object) -> bytes:
    """Returns what holds whole blocks, as bytes.

    Raises:
        InvalidFieldError: If it does not.
    """
    block = _as_bytes(value)
    lines = block.replace(b"\r\n", b"\n").replace(b"\r", b"\n")  # 9.2.5: each of them ends a line
    if not lines.endswith(b"\n\n"):
        raise InvalidFieldError("block", "must end with an empty line, or it would run into the next event (9.2.6)")
    if lines.startswith(b"\n"):
        raise InvalidFieldError("block", "must begin with a field or a comment, not with an empty line")
    if lines.startswith(_BOM):
        raise InvalidFieldError("block", "must begin without a byte order mark, which would be part of its first field")
    if b"\0" in lines and any(b"\0" in line for line in lines.split(b"\n") if line.partition(b":")[0] == b"id"):
        raise InvalidFieldError("block", "must be without NUL in an id, which clients would ignore (9.2.6)")
    return block


def _as_bytes(value: object) -> bytes:
    if isinstance(value, (bytes, bytearray, memoryview)):
        block = bytes(value)
        try:
            block.decode()
        except UnicodeDecodeError as error:
            raise InvalidFieldError("block", f"must be UTF-8 ({error})") from error
        return block
    return check_text("block", value).encode()
