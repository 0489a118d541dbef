"""The mailbox between a source and one of its subscribers."""

from __future__ import annotations

from collections.abc import Callable

import anyio
import pytest

from litestar_safe_sse import SSEMessage
from litestar_safe_sse.exceptions import InvalidFieldError
from litestar_safe_sse.sources._subscription import make_mailbox
from tests.bounds import WAIT


def emptied(mailbox: object) -> list[object]:
    found = []
    while (message := mailbox.take()) is not None:  # type: ignore[attr-defined]
        found.append(message.data)
    return found


def test_close_keeps_what_is_in_it() -> None:
    """The message that found no room is the first that is missing, and nothing comes after it."""
    mailbox = make_mailbox(2, "close")
    for number in range(4):
        mailbox.put("t", SSEMessage(number))
    assert mailbox.ended
    assert emptied(mailbox) == [0, 1]
    mailbox.put("t", SSEMessage("late"))
    assert emptied(mailbox) == []


def test_drop_oldest_says_how_many() -> None:
    """Once for each time that some are missing."""
    mailbox = make_mailbox(2, "drop_oldest")
    for number in range(5):
        mailbox.put("t", SSEMessage(number))
    assert emptied(mailbox) == [{"dropped": 3}, 3, 4]
    mailbox.put("t", SSEMessage(5))
    assert emptied(mailbox) == [5]


def test_latest_keeps_one_of_each_key() -> None:
    """Where the newest came, not where the oldest was."""
    mailbox = make_mailbox(2, "latest")
    for topic, number in (("a", 1), ("b", 2), ("a", 3)):
        mailbox.put(topic, SSEMessage(number))
    assert len(mailbox) == 2
    assert emptied(mailbox) == [2, 3]


@pytest.mark.parametrize("overflow", ["close", "drop_oldest", "latest"])
def test_nothing_is_accepted_after_the_end(overflow: str) -> None:
    """And the first end stays."""
    mailbox = make_mailbox(2, overflow)  # type: ignore[arg-type]
    mailbox.put("t", SSEMessage(1))
    error = ValueError()
    mailbox.end(error)
    mailbox.end(None, lost=True)
    mailbox.put("t", SSEMessage(2))
    assert (mailbox.error, mailbox.lost) == (error, False)
    assert emptied(mailbox) == [1]


@pytest.mark.parametrize("wrong", [{"limit": 0}, {"overflow": "x"}, {"key": hash, "overflow": "close"}], ids=str)
def test_wrong_arguments(wrong: dict[str, object]) -> None:
    """Are refused."""
    with pytest.raises(InvalidFieldError):
        make_mailbox(**{"limit": 1, "overflow": "latest", **wrong})  # type: ignore[arg-type]


@pytest.mark.anyio
async def test_the_one_who_waits_is_woken() -> None:
    """By a message, and by the end."""
    mailbox = make_mailbox(2, "close")
    with anyio.fail_after(WAIT):
        wakes: list[Callable[[], object]] = [lambda: mailbox.put("t", SSEMessage(1)), mailbox.end]
        for wake in wakes:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(mailbox.wait)
                await anyio.lowlevel.checkpoint()
                wake()
            emptied(mailbox)
