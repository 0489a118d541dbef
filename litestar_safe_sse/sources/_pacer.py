"""What was stored together is passed on at a pace at which a subscriber can take it who is not slow."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from litestar_safe_sse._runtime.current import current_runtime
from litestar_safe_sse.sources._subscription import TURN, Turns

if TYPE_CHECKING:
    from litestar_safe_sse.sources._cursor import Position
    from litestar_safe_sse.sources._fan_out import FanOut, LiveTopic
    from litestar_safe_sse.sources._stored import StoredEvent

__all__ = ("Pacer",)


class Pacer:
    """Passes on events of a topic, some at a time, until none is left.

    The loop calls it back: it is part of no task, so nobody who is cancelled keeps events from the subscribers.

    Args:
        fan_out: Passes them on.
        topic: The topic.
        going: Where it is found by the topic's name for as long as it goes on.
    """

    __slots__ = ("_call_soon", "_fan_out", "_going", "_topic", "_turns", "events")

    def __init__(self, fan_out: FanOut, topic: LiveTopic, going: dict[str, Pacer]) -> None:
        self.events: deque[StoredEvent] = deque()
        """What is left."""
        self._fan_out = fan_out
        self._topic = topic
        self._going = going
        self._turns = Turns(())
        self._call_soon = current_runtime().call_soon
        going[topic.name] = self

    def go_on(self) -> None:
        """Passes on what the subscribers have room for, and comes back after a turn of the loop if more is left."""
        while self._turns.are_over():
            if not self._goes_on:
                return  # it was stopped
            if not self.events:
                del self._going[self._topic.name]
                self._topic.notify()
                return
            for _ in range(min(TURN, len(self.events))):
                self._fan_out.publish(self._topic.name, self.events.popleft())
            self._turns = Turns(self._topic.mailboxes())
        self._call_soon(self.go_on)

    async def has_passed(self, place: Position) -> None:
        """Waits until the events up to a place have been passed on, or nobody is left whom they are passed on to."""
        while self._goes_on and self._topic.position.seq < place.seq:
            await self._topic.moved()

    @property
    def _goes_on(self) -> bool:
        return self._going.get(self._topic.name) is self
