"""The states of a stream and what moves it: no step back, and one reason."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import pytest

from litestar_safe_sse._core.state import ACTIONS, Action, Cause, CloseReason, Lifecycle, StreamState
from litestar_safe_sse.exceptions import SSEError

ORDER = list(StreamState)
PAGE = (Path(__file__).parents[2] / "docs" / "lifecycle.md").read_text()


def lifecycle_in(state: StreamState) -> Lifecycle:
    life = Lifecycle()
    life.state = state
    return life


def documented_moves() -> set[tuple[StreamState, StreamState]]:
    """What the last column of the table of states says."""
    rows = re.findall(r"^\| `([A-Z]+)` \| [^|]+ \|([^|]*)\|$", PAGE, re.MULTILINE)
    assert [name for name, _ in rows] == [state.name for state in ORDER]
    return {(StreamState[name], StreamState[to]) for name, goes_to in rows for to in re.findall(r"`([A-Z]+)`", goes_to)}


@pytest.mark.parametrize(("start", "end"), list(itertools.product(ORDER, ORDER)), ids=str)
def test_a_stream_moves_as_the_documentation_says(start: StreamState, end: StreamState) -> None:
    """It only ever moves down the list of states, and leaves out no step but those that the table lets it."""
    life = lifecycle_in(start)
    if (start, end) in documented_moves():
        assert ORDER.index(start) < ORDER.index(end)
        life.move(end)
        assert life.state is end
    else:
        with pytest.raises(SSEError, match=f"from {start} to {end}"):
            life.move(end)
        assert life.state is start


@pytest.mark.parametrize(("first", "second"), list(itertools.permutations(CloseReason, 2)), ids=str)
def test_the_first_reason_stays(first: CloseReason, second: CloseReason) -> None:
    """Whatever comes later changes nothing."""
    life = Lifecycle()
    assert life.decide(first)
    assert not life.decide(second)
    assert life.reason is first


@pytest.mark.parametrize("cause", Cause)
def test_what_has_begun_to_end_is_ended_once(cause: Cause) -> None:
    """Nothing ends a body for a second time."""
    for state in (StreamState.ENDING, StreamState.CLEANING, StreamState.CLOSED):
        assert ACTIONS.get((state, cause), Action.NOTHING) is Action.NOTHING


def test_every_reason_is_of_one_kind() -> None:
    """Clients that are gone get nothing, those that listen may get a farewell, and nobody is both."""
    kinds = {reason: Cause.of(reason) for reason in CloseReason}
    assert {reason for reason in kinds if kinds[reason] is Cause.CLIENT_GONE} == {
        CloseReason.CLIENT_DISCONNECTED,
        CloseReason.SEND_TIMEOUT,
    }
    assert {reason for reason in kinds if kinds[reason] is Cause.TIME_OVER} == {
        CloseReason.MAX_LIFETIME,
        CloseReason.SHUTDOWN,
    }
