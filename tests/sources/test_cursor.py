"""Cursors: whatever a client sends is read, or known not to be ours."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as some

from litestar_safe_sse import SafeSSEConfig
from litestar_safe_sse._core.encoding import decode_last_event_id
from litestar_safe_sse.sources._cursor import MAX_TOPICS, Position, cursor, positions, record, tag

places = some.builds(Position, some.integers(0, 2**48 - 1), some.integers(0, 2**48 - 1), some.integers(0, 2**32 - 1))


@given(some.dictionaries(some.text(min_size=1), places, min_size=1, max_size=MAX_TOPICS))
def test_a_cursor_holds_the_position_of_each_topic(held: dict[str, Position]) -> None:
    """And comes back through a ``Last-Event-ID`` header as it was."""
    text = cursor(
        [record(tag(topic.encode("utf-8", "ignore").decode() or "x"), place) for topic, place in held.items()]
    )
    text = decode_last_event_id(text.encode(), SafeSSEConfig().max_last_event_id)
    found = positions(text)
    assert found is not None
    assert set(found.values()) <= set(held.values())


@given(places, places)
def test_two_beginnings_may_be_of_one_history(one: Position, other: Position) -> None:
    """Whichever was given out first, to whoever came first."""
    assert one._replace(seq=0).is_in_history_of(other._replace(seq=0))
    assert one._replace(seq=1).is_in_history_of(other._replace(seq=1)) == (one.epoch == other.epoch)


@given(some.one_of(some.text(), some.text(alphabet="1AZaz-_09", max_size=60), some.from_regex(r"\A1[\w-]{28}\Z")))
def test_anything_can_be_read(text: str) -> None:
    """What comes out can be written again as it was, or is ``None``."""
    found = positions(text)
    if found is not None:
        assert cursor([record(tag, place) for tag, place in found.items()]) == text or len(text) > 29


@pytest.mark.parametrize("text", ["", "1", "2AAA", "1" + "A" * 27, "1" + "A" * 29, "1" + "A" * 28 * (MAX_TOPICS + 1)])
def test_what_is_no_cursor_is_none(text: str) -> None:
    """Too short, too long, or of another version."""
    assert positions(text) is None
